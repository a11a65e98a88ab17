"""Find a video's highlights and join them into one mp4.

python examples/highlights_reel.py demo/emoji.mp4 reel.mp4 --query "a panda"
"""

import argparse

from r2rt import Grounder, find_highlights
from r2rt.media import write_reel


def main() -> None:
    """Write the reel and print its length."""
    parser = argparse.ArgumentParser()
    parser.add_argument("video")
    parser.add_argument("reel")
    parser.add_argument("--query", help="what the highlights are of; may be left out")
    parser.add_argument("--top", type=int, default=3)
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()

    with Grounder.load(arguments.model) as grounder:
        highlights = find_highlights(grounder, arguments.video, arguments.query, top=arguments.top)
    reel = write_reel([(arguments.video, [highlights])], arguments.reel)
    print(f"{reel.path}: {reel.parts} parts, {reel.duration_s:.1f} s")


if __name__ == "__main__":
    main()
