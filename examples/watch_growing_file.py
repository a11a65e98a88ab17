"""Ask standing queries of a recording that is still being written.

python examples/watch_growing_file.py recording.ts "a panda"
"""

import argparse

from r2rt import Grounder
from r2rt.live import Closed, LiveSource, Opened, SourceOptions, Watcher


def main() -> None:
    """Print a line when a moment opens and when it closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recording")
    parser.add_argument("queries", nargs="+")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds without growth that end")
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()

    # `no_drop` waits for the encoder: a file is no camera, nothing is lost by being late.
    options = SourceOptions(follow=True, timeout_s=arguments.idle, no_drop=True)
    source = LiveSource(arguments.recording, options)
    with (
        Grounder.load(arguments.model) as grounder,
        Watcher(grounder, source, arguments.queries) as watcher,
    ):
        for event in watcher:
            if isinstance(event, Opened):
                print(f"opened at {event.start_s:.1f} s: {event.query}", flush=True)
            elif isinstance(event, Closed):
                print(f"closed at {event.end_s:.1f} s: {event.query} ({event.reason})", flush=True)


if __name__ == "__main__":
    main()
