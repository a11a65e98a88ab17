"""`python -m tests.kills`: kill every command at random moments and print what became of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.kills.jobs import JOBS
from tests.kills.runner import Result, kill_job, table


def main() -> int:
    """Run the command and return its exit code: 1 where anything was half-written or left."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many, over all commands")
    parser.add_argument("--seed", type=int, default=0, help="decides when and how")
    parser.add_argument("--job", choices=list(JOBS), action="append", help="only these")
    arguments = parser.parse_args()
    jobs = arguments.job or list(JOBS)
    results: dict[str, Result] = {}
    for number, name in enumerate(jobs):
        kills = arguments.kills // len(jobs) + (number < arguments.kills % len(jobs))
        with tempfile.TemporaryDirectory() as folder:
            results[name] = kill_job(name, Path(folder), kills=kills, seed=arguments.seed)
        lines = [table({name: results[name]}).splitlines()[-1], *results[name].faults]
        print("\n".join(lines), file=sys.stderr, flush=True)
    print(table(results))
    faults = sum(len(result.faults) for result in results.values())
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
