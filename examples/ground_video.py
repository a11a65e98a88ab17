"""Find the moments of one video that fit one or more sentences.

python examples/ground_video.py demo/emoji.mp4 "a panda" "a penguin"
"""

import argparse

from r2rt import Grounder


def main() -> None:
    """Encode the video once and ask all sentences in one batch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("video")
    parser.add_argument("queries", nargs="+")
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()

    with Grounder.load(arguments.model) as grounder:
        video = grounder.encode(arguments.video)
        for prediction in grounder.ground(video, arguments.queries, top_k=3):
            print(prediction.query)
            for moment in prediction.moments:
                print(f"  {moment.start_s:6.1f} to {moment.end_s:6.1f} s  {moment.score:.2f}")


if __name__ == "__main__":
    main()
