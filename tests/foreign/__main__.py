"""Judge every media file below a folder and print the verdicts by kind.

    python -m tests.foreign FOLDER [FPS ...]

The exit code is 1 if a file crashed or differs from ffmpeg without a word.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

from tests.foreign.judge import KINDS, Verdict, judge, media_files

RATES = (Fraction(1, 2), Fraction(3))


def main(arguments: list[str]) -> int:
    """Run over a folder; see the module."""
    if not arguments or shutil.which("ffmpeg") is None:
        print(__doc__ if not arguments else "the ffmpeg program is not installed", file=sys.stderr)
        return 2
    rates = tuple(map(Fraction, arguments[1:])) or RATES
    verdicts: list[Verdict] = []
    for path in media_files(Path(arguments[0])):
        for fps in rates:
            verdict = judge(path, fps)
            verdicts.append(verdict)
            if verdict.kind != "same":
                print(line(verdict), flush=True)
    counts = Counter(verdict.kind for verdict in verdicts)
    print(f"\n{len(verdicts)} readings of {len({verdict.path for verdict in verdicts})} files")
    for kind, meaning in KINDS.items():
        print(f"{counts[kind]:6d}  {kind:9s} {meaning}")
    silent = sum(verdict.is_silent for verdict in verdicts)
    print(f"{silent:6d}  silent    differ, or crashed, and nothing was reported")
    return 1 if silent else 0


def line(verdict: Verdict) -> str:
    """Return a verdict as one line."""
    reported = f" (reported: {'; '.join(verdict.reported)})" if verdict.reported else ""
    return f"{verdict.kind:9s} {verdict.path} at {verdict.fps}: {verdict.detail}{reported}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
