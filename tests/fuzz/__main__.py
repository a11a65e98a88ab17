"""`python -m tests.fuzz`: damage inputs of every kind and print what became of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import Fuzzer, table


def main() -> int:
    """Run the command and return its exit code: 1 where there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="how many, over all kinds")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="only these kinds")
    arguments = parser.parse_args()
    kinds = arguments.kind or list(KINDS)
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder))
        try:
            for number in range(arguments.inputs):
                seed = arguments.seed + number // len(kinds)
                fuzzer.try_input(kinds[number % len(kinds)], seed)
                if sys.stderr.isatty():
                    print(f"\r{number + 1} of {arguments.inputs}", end="", file=sys.stderr)
        finally:
            fuzzer.close()
            print(table(fuzzer.counts))
            print("\n".join(fuzzer.faults))
    return int(bool(fuzzer.faults))


if __name__ == "__main__":
    sys.exit(main())
