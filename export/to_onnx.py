"""Convert a checkpoint to a bundle: `python export/to_onnx.py CHECKPOINT`.

Exit codes: 0 done, 2 wrong usage, 10 a file cannot be read, 23 a file is not the published one, 24
CLIP could not be fetched, 40 the bundle could not be written, 50 checkpoint and CLIP do not fit, 51
the exported graphs differ from PyTorch, 65 the checkpoint or the CLIP weights cannot be used, 130
interrupted; others are those of the command r2rt.
"""

from __future__ import annotations

import sys
from fractions import Fraction
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
    from rich.console import Console

    from export.exporter import Exported
    from r2rt.model.manifest import Check

__all__ = ["main", "to_onnx"]


class _Rate(click.ParamType[Fraction]):
    name = "fraction"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        try:
            return Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            self.fail(
                f"{value!r} is no rate; expected a number or a fraction such as 1/2", param, ctx
            )


@click.command(epilog=(__doc__ or "").split("\n\n", 1)[1])
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--clip",
    metavar="NAME|FILE|random:SEED",
    help="CLIP that the checkpoint was trained on: open_clip's name, a file of weights, or random "
    "weights.  [default: by the checkpoint's widths, usually ViT-B-32-quickgelu]",
)
@click.option("--clip-arch", metavar="NAME", help="Architecture of a file of CLIP weights.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="The tokenizer.json of a CLIP that has another than OpenAI's.  [default: on disk, else "
    "fetched]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The bundle's folder.  [default: NAME in the models folder]",
)
@click.option("--name", help="Name in the manifest.  [default: from the checkpoint]")
@click.option(
    "--recipe", help="Whose clip rate and suppression to use.  [default: from the checkpoint]"
)
@click.option("--fps", type=_Rate(), help="Clips a second, such as 1/2.  [default: the recipe's]")
@click.option(
    "--unit", type=float, help="Round boundaries to these seconds.  [default: the recipe's]"
)
@click.option(
    "--verify-video",
    type=click.Path(path_type=Path),
    help="Also compare with PyTorch on this video's first frames.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--quiet", is_flag=True, help="Print errors alone.")
def to_onnx(
    checkpoint: Path,
    clip: str | None,
    clip_arch: str | None,
    tokenizer: Path | None,
    output: Path | None,
    name: str | None,
    recipe: str | None,
    fps: Fraction | None,
    unit: float | None,
    verify_video: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    """Convert CHECKPOINT and the CLIP it was trained on to a bundle that runs without PyTorch.

    Every graph is compared with PyTorch before the bundle is put in place; if one differs, nothing
    is written.
    """
    from rich.console import Console

    from export.errors import VerificationError
    from export.exporter import export_bundle

    console = Console(stderr=True, highlight=False, quiet=quiet)
    with console.status("reading") as status:

        def say(line: str) -> None:
            status.update(line)
            console.print(line)

        try:
            exported = export_bundle(
                checkpoint,
                output,
                clip=clip,
                clip_arch=clip_arch,
                tokenizer=tokenizer,
                name=name,
                recipe=recipe,
                fps=fps,
                unit_s=unit,
                verify_video=verify_video,
                force=force,
                say=say,
            )
        except VerificationError as error:
            status.stop()
            _print_checks(console, error.checks)
            raise
    _print_summary(console, exported)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(to_onnx, Path(__file__).name, arguments, cut="no bundle was written.")


def _print_summary(console: Console, exported: Exported) -> None:
    from rich.table import Table

    manifest = exported.manifest
    files = Table("file", "size", "sha256")
    for name, entry in manifest.files.items():
        files.add_row(name, f"{entry.size / 1e6:.1f} MB", entry.sha256[:16])
    console.print(files)
    _print_checks(console, manifest.verification.checks)
    unit = "not rounded" if manifest.unit_s is None else f"rounded to {manifest.unit_s:g} s"
    window = "" if manifest.window_s is None else f", windows of {manifest.window_s:g} s"
    console.print(
        f"{manifest.name}: {manifest.fps} clips a second, {unit}{window}, "
        f"{manifest.nms.kind} suppression; {exported.path}",
        soft_wrap=True,
    )


def _print_checks(console: Console, checks: tuple[Check, ...]) -> None:
    from rich.table import Table

    table = Table("compared with PyTorch", "cases", "largest difference", "of tolerance", "")
    for check in checks:
        table.add_row(
            check.name,
            str(check.cases),
            f"{check.max_abs_error:.2g}",
            f"{check.error:.2g}",
            "ok" if check.passed else "FAILED",
        )
    console.print(table)


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main())
