"""Train on your own videos: `python -m training.own mine.jsonl --videos DIR --out RUN`.

Exit codes are those of the steps: 60 annotations, 62 training, 63 features, 50 and 51 export, 65
CLIP's weights; 2 wrong usage, 130 interrupted (the same command goes on).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from training._command import end_cleanly_on_sigterm, run

if TYPE_CHECKING:
    from training.own.steps import Own

__all__ = ["main", "own"]

_FILE = click.Path(path_type=Path)
_NAMES = ("validate", "extract", "train", "export", "quantise", "evaluate", "calibrate")


class _Done(msgspec.Struct, frozen=True):
    """A step that is done: of what, the seconds it took, and what it said."""

    key: str
    seconds: float
    cpu_seconds: float
    said: str


@click.command(epilog=(__doc__ or "").split("\n\n", 1)[1])
@click.argument("annotations", type=_FILE)
@click.option("--videos", type=_FILE, required=True, help="Folder of the annotations' videos.")
@click.option("--out", type=_FILE, required=True, help="Folder of the run.")
@click.option(
    "--clip",
    default="ViT-B-32-quickgelu",
    show_default=True,
    help="CLIP to train on, as for training.extract; r2rt-tiny needs no download.",
)
@click.option("--val", type=_FILE, help="Annotations to evaluate on.  [default: a video in five]")
@click.option("--init", type=_FILE, help="Checkpoint of a model on this CLIP to start from.")
@click.option("--fps", help="Clips a second.  [default: 1/2, 1 for short moments]")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Training setting.")
@click.option("--workers", type=int, help="Processes that extract.  [default: one a core]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of split and training.")
@click.option("--step", type=click.Choice(_NAMES), help="Run this step alone, again if it is done.")
@click.option("--quiet", is_flag=True, help="Print errors and the last line alone.")
def own(
    annotations: Path,
    videos: Path,
    out: Path,
    clip: str,
    val: Path | None,
    init: Path | None,
    fps: str | None,
    settings: tuple[str, ...],
    workers: int | None,
    seed: int,
    step: str | None,
    quiet: bool,
) -> None:
    """Make a model of ANNOTATIONS: validate, extract, train, export, quantise, evaluate, calibrate.

    Steps that are done are repeated only where what they are made of has changed. The last line is
    a command that asks the model.
    """
    from training.config import parse_overrides
    from training.own.steps import STEPS, Own, last_line

    def say(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    changes = parse_overrides(settings)
    if "fps" in changes:
        raise click.UsageError("--set fps: features have the rate too; use --fps")
    asked = Own(
        annotations=annotations,
        videos=videos,
        out=out,
        clip=clip,
        val=val,
        init=init,
        fps=None if fps is None else _rate(fps),
        settings=changes,
        workers=workers,
        seed=seed,
        say=say,
    )
    for name in _NAMES if step is None else (step,):
        # `validate` takes a moment, and decides whether the others have to run again.
        if step is None and name != "validate":
            done = _read_done(out).get(name)
            if done is not None and done.key == asked.key:
                say(f"{name}: done before, in {done.seconds:.1f} s; {done.said}")
                continue
        elif name != "validate":
            _check_validated(asked, name)
        began, cpu = time.perf_counter(), _cpu_s()
        said = STEPS[name](asked)
        seconds, cpu = time.perf_counter() - began, _cpu_s() - cpu
        _write_done(out, name, _Done(asked.key, round(seconds, 1), round(cpu, 1), said))
        say(f"{name}: {seconds:.1f} s ({cpu:.1f} s of processor); {said}")
    if step is None:
        click.echo(last_line(asked))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(own, "python -m training.own", arguments, cut="the same command goes on.")


def _check_validated(asked: Own, step: str) -> None:
    from training.errors import TrainingError

    if not (asked.train_file.is_file() and asked.val_file.is_file()):
        raise TrainingError(f"{asked.out}: there is nothing to {step} yet; leave out --step")


def _read_done(out: Path) -> dict[str, _Done]:
    path = out / "steps.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, _Done]) if path.is_file() else {}


def _write_done(out: Path, name: str, done: _Done) -> None:
    """Note that a step is done; what was made of its earlier result is not any more.

    What `validate` leaves is part of the other steps' keys, so it outdates none by itself.
    """
    from r2rt.files import replacing

    stay = _NAMES if name == "validate" else _NAMES[: _NAMES.index(name)]
    kept = {step: entry for step, entry in _read_done(out).items() if step in stay}
    with replacing(out / "steps.json") as temporary:
        content = msgspec.json.format(msgspec.json.encode(kept | {name: done}), indent=1)
        temporary.write_bytes(content + b"\n")


def _rate(text: str) -> Fraction:
    from r2rt.errors import QueryError

    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise QueryError(f"--fps {text!r}; expected clips a second, such as 0.5 or 1/2")
    return rate


def _cpu_s() -> float:
    """Seconds of processor time of this process and of those that it started and that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main())
