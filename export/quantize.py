"""Quantise a bundle to int8: `python export/quantize.py BUNDLE --calibration VIDEO`.

Exit codes: 0 done, 2 wrong usage, 10 to 13 a video cannot be used, 20 to 23 the bundle cannot be
used, 40 the new bundle could not be written, 55 it differs too much from fp32 and was not written,
130 interrupted; others are those of the command r2rt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:
    # Run as a script: Python put the folder `export` first, where the checkout belongs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from export._checkout import require_checkout

require_checkout("r2rt", "training")

from training._command import end_cleanly_on_sigterm, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from export.quantizer import Quantized
    from r2rt.model.manifest import Figure

__all__ = ["main", "quantize"]


@click.command(epilog=(__doc__ or "").split("\n\n", 1)[1])
@click.argument("bundle")
@click.option(
    "--calibration",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="VIDEO|FOLDER",
    help="A video, a folder of images, or a folder of videos, to take ranges from and to compare "
    "on; best such as will be searched.  [may be repeated]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The new bundle's folder.  [default: NAME in the models folder]",
)
@click.option("--name", help="What it calls itself.  [default: the bundle's name and -int8]")
@click.option(
    "--precision",
    type=click.Choice(["int8"]),
    default="int8",
    show_default=True,
    expose_value=False,
    help="Arithmetic of the new bundle's encoders.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--quiet", is_flag=True, help="Print errors alone.")
def quantize(
    bundle: str,
    calibration: tuple[Path, ...],
    output: Path | None,
    name: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Quantise both encoders of BUNDLE, a model's name or a bundle's folder in fp32.

    The new bundle is compared with BUNDLE on the videos before it is put in place; if it departs
    too far, nothing is written.
    """
    from rich.console import Console

    from export.quantizer import RefusedError, quantize_bundle

    console = Console(stderr=True, highlight=False, quiet=quiet)
    with console.status("reading") as status:

        def say(line: str) -> None:
            status.update(line)
            console.print(line, markup=False, soft_wrap=True)

        try:
            quantized = quantize_bundle(
                bundle, output, calibration=calibration, name=name, force=force, say=say
            )
        except RefusedError as error:
            status.stop()
            _print_figures(console, error.figures)
            raise
    _print_summary(console, quantized)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(quantize, Path(__file__).name, arguments, cut="no bundle was written.")


def _print_summary(console: Console, quantized: Quantized) -> None:
    from rich.table import Table

    manifest = quantized.manifest
    report = manifest.quantization
    assert report is not None
    files = Table("file", "size", "sha256")
    for name, entry in manifest.files.items():
        files.add_row(name, f"{entry.size / 1e6:.1f} MB", entry.sha256[:16])
    console.print(files)
    _print_figures(console, report.figures)
    for graph, kept in report.kept.items():
        if kept:
            console.print(f"{graph}: {', '.join(kept)} stay in fp32", markup=False, soft_wrap=True)
    console.print(f"{manifest.name}: {report.method}; {quantized.path}", soft_wrap=True)


def _print_figures(console: Console, figures: Sequence[Figure]) -> None:
    from rich.table import Table

    table = Table("compared with fp32", "", "limit", "")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.value:.4g}",
            f"{'≥' if figure.at_least else '≤'} {figure.limit:g}",
            "ok" if figure.passed else "FAILED",
        )
    console.print(table)


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main())
