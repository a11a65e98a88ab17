"""Ask one sentence of many videos; a video that cannot be read does not stop the others.

python examples/many_videos.py "a panda" recordings/ extra.mp4
"""

import argparse

from r2rt import Grounder, R2rtError, find_videos, ground_many


def main() -> None:
    """Print the best moment of each video, or why it could not be read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("query")
    parser.add_argument("videos", nargs="+", help="files, folders or globs")
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()

    with Grounder.load(arguments.model) as grounder:
        videos = find_videos(arguments.videos)
        for video, answer in ground_many(grounder, videos, [arguments.query], top_k=1):
            if isinstance(answer, R2rtError):
                print(f"{video}: failed: {answer}")
                continue
            for moment in answer[0].moments:
                print(f"{video}: {moment.start_s:.1f} to {moment.end_s:.1f} s")


if __name__ == "__main__":
    main()
