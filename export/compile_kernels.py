"""Compile a bundle's kernels ahead of time: `python export/compile_kernels.py BUNDLE`.

Needs Triton and no GPU. The same bundle, Triton and target give the same bytes.

Exit codes: 0 done, 2 wrong usage, 20 to 23 the bundle is absent or damaged, 30 Triton is not
installed, 40 the bundle cannot be written, 54 a kernel does not fit a target, 130 interrupted;
others are those of the command r2rt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

if not __package__:
    # Run as a script: Python put the folder `export` first, where the checkout belongs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from export._checkout import require_checkout

require_checkout("r2rt", "kernels", "training")

from export.kernel_writer import TARGETS, MatrixType, require_triton, store_kernels
from training._command import end_cleanly_on_sigterm, run

if TYPE_CHECKING:
    from kernels.aot import CompiledKernel

__all__ = ["compile_kernels", "main"]


class _Target(click.ParamType[int]):
    name = "capability"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        known = {f"{target // 10}.{target % 10}": target for target in TARGETS}
        if str(value) not in known:
            self.fail(f"{value!r} is none of {', '.join(known)}", param, ctx)
        return known[str(value)]


@click.command(epilog=(__doc__ or "").split("\n\n", 1)[1])
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target",
    "targets",
    type=_Target(),
    multiple=True,
    default=TARGETS,
    help="Compute capability, such as 9.0; may be given several times.  [default: 8.0, 8.9, 9.0, "
    "10.0, 12.0]",
)
@click.option(
    "--dtype",
    "dtypes",
    type=click.Choice(get_args(MatrixType)),
    multiple=True,
    default=("fp16",),
    show_default=True,
    help="Type that products are taken in; may be given several times.",
)
@click.option("--quiet", is_flag=True, help="Print errors alone.")
def compile_kernels(
    bundle: Path, targets: tuple[int, ...], dtypes: tuple[MatrixType, ...], quiet: bool
) -> None:
    """Compile the kernels of BUNDLE and store them in it, with hashes, for each target."""
    from rich.console import Console
    from rich.table import Table

    from kernels.budgets import blocks_per_sm
    from r2rt.model.bundle import Bundle

    require_triton()
    console = Console(stderr=True, highlight=False, quiet=quiet)
    table = Table("target", "registers", "shared", "warps", "blocks/SM", "tensor cores")
    table.add_column("kernel", no_wrap=True)

    def show(target: int, kernel: CompiledKernel) -> None:
        record, contents = kernel.record, kernel.contents
        blocks = blocks_per_sm(
            contents,
            shared_bytes=record.shared_bytes,
            num_warps=record.num_warps,
            capability=target,
        )
        table.add_row(
            record.target,
            str(contents.registers),
            f"{record.shared_bytes / 1024:.0f} KiB",
            str(record.num_warps),
            str(blocks),
            ", ".join(contents.tensor_cores),
            kernel.stem,
        )

    opened = Bundle.open(bundle)
    with console.status("reading") as status:
        store_kernels(opened, targets=targets, dtypes=dtypes, say=status.update, show=show)
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(
        compile_kernels,
        Path(__file__).name,
        arguments,
        cut="targets that were complete are in the bundle.",
    )


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main())
