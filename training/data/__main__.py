"""`python -m training.data validate FILE`: what is wrong with annotations, line by line."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import click

from training._command import run

_INVALID = 60


class _Rate(click.ParamType[Fraction]):
    name = "rate"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        try:
            rate = Fraction(value)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 0 < rate < 1000:
            self.fail(f"{value!r} is no rate; expected a number such as 0.5 or 1/2", param, ctx)
        return rate


@click.group()
def data() -> None:
    """Look after training data."""


@data.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    help="Folder that must hold every video, found by its id or its path.",
)
@click.option(
    "--fps",
    type=_Rate(),
    help="Clips a second that `saliency` has and that features will have, such as 1/2.",
)
@click.option("--min-video", default=5.0, show_default=True, help="Warn of videos under SECONDS.")
@click.option(
    "--unlabelled", is_flag=True, help="Accept queries without moments, as test splits have."
)
@click.option(
    "--most", default=100, show_default=True, help="How many problems to print a file; 0 for all."
)
@click.option("--no-warnings", is_flag=True, help="Print errors alone.")
def validate(
    files: tuple[Path, ...],
    videos: Path | None,
    fps: Fraction | None,
    min_video: float,
    unlabelled: bool,
    most: int,
    no_warnings: bool,
) -> int:
    """Check annotation FILES of any known form, and say what to correct.

    Problems go to stdout, one a line: file, line, field, what is wrong, what to do. Exit code 60
    if there are errors, 0 if there are none or warnings alone.
    """
    from training.data.checks import check_file
    from training.data.videos import VideoFolder

    folder = None if videos is None else VideoFolder(videos)
    failed = False
    for path in files:
        checked = check_file(
            path,
            fps=fps,
            videos=folder,
            min_video_s=min_video,
            need_labels=not unlabelled,
        )
        shown = checked.errors if no_warnings else checked.problems
        for problem in shown[: most or None]:
            click.echo(str(problem))
        if most and len(shown) > most:
            click.echo(f"{path}: {len(shown) - most} more; --most 0 prints all")
        kinds = Counter((problem.severity, problem.kind) for problem in checked.problems)
        for (severity, kind), count in sorted(kinds.items()):
            click.echo(f"{path}: {count} × {severity} {kind}")
        errors = len(checked.errors)
        click.echo(
            f"{path}: {checked.records} annotations, {errors} errors, "
            f"{len(checked.problems) - errors} warnings"
        )
        failed = failed or bool(errors)
    return _INVALID if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(data, "python -m training.data", arguments, cut="not all was checked.")


if __name__ == "__main__":
    sys.exit(main())
