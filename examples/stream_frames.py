"""Push frames one by one, as a camera or another program delivers them, and ask at any time.

python examples/stream_frames.py demo/emoji.mp4 "a panda"
"""

import argparse

import av

from r2rt import Grounder


def main() -> None:
    """Ask every 30 s of video; the answer is about what has been pushed so far."""
    parser = argparse.ArgumentParser()
    parser.add_argument("video")
    parser.add_argument("query")
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()

    with Grounder.load(arguments.model) as grounder, av.open(arguments.video) as container:
        stream = grounder.stream()
        due_s = 30.0
        for frame in container.decode(video=0):
            stream.push(frame)  # or RGB pixels (H, W, 3) uint8 with their time
            if stream.duration_s >= due_s:
                report(stream.duration_s, stream.ground(arguments.query, top_k=1).moments)
                due_s += 30.0
        encoded = stream.finish()
        report(encoded.duration_s, grounder.ground(encoded, arguments.query, top_k=1).moments)


def report(duration_s: float, moments: object) -> None:
    """Print the moments found in the seconds so far."""
    print(f"after {duration_s:.1f} s: {moments}", flush=True)


if __name__ == "__main__":
    main()
