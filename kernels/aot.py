"""Compile a bundle's kernels ahead of time: `python kernels/aot.py BUNDLE`.

Needs Triton and no GPU. The same bundle, Triton and target give the same bytes.

Exit codes: 0 done, 2 wrong usage, 20 to 23 the bundle is absent or damaged, 40 it cannot be
written, 54 a kernel does not fit a target, 130 interrupted; others are those of the command r2rt.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

if not __package__:
    # Run as a script: Python put the folder `kernels` first, where the checkout belongs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import msgspec

from export._checkout import require_checkout
from export._command import end_cleanly_on_sigterm, run
from r2rt.engines.cubins import SCHEMA_VERSION, ArgumentType, CubinArgument, CubinRecord
from r2rt.errors import R2rtError

if TYPE_CHECKING:
    from kernels.sass import Contents
    from kernels.variants import KernelDims, Variant
    from r2rt.bundle import Bundle

__all__ = ["TARGETS", "CompiledKernel", "KernelBuildError", "compile_variant", "main", "store"]

TARGETS = (80, 89, 90, 100, 120)
MatrixType = Literal["fp16", "bf16"]


class KernelBuildError(R2rtError, RuntimeError):
    """A kernel cannot be compiled for a target, or what came out does not fit it."""

    exit_code = 54


@dataclass(frozen=True, kw_only=True)
class CompiledKernel:
    """A cubin and what is known of it.

    Attributes:
        stem: of its files.
        record: how it is launched.
        cubin: its bytes.
        contents: its registers and instructions.
    """

    stem: str
    record: CubinRecord
    cubin: bytes
    contents: Contents


def compile_variant(variant: Variant, capability: int) -> CompiledKernel:
    """Compile for a compute capability such as 90; from the cache if it was compiled before.

    Raises:
        KernelBuildError: Triton refuses, or interprets kernels in this process.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernels.sass import read_contents

    if triton.knobs.runtime.interpret:
        raise KernelBuildError(
            "TRITON_INTERPRET is set, so that this process interprets kernels; unset it to compile"
        )
    function = variant.function
    names: list[str] = function.arg_names
    source = ASTSource(
        fn=function,
        signature={name: variant.types.get(name, "constexpr") for name in names},
        constexprs=dict(variant.constexprs),
        attrs={
            (names.index(name),): [["tt.divisibility", size]]
            for name, size in variant.divisible_by.items()
        },
    )
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    try:
        with _own_cache(triton.knobs):
            compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    except (RuntimeError, triton.CompilationError) as error:
        line = str(error).strip().splitlines()[-1]
        raise KernelBuildError(f"{variant.stem} for sm_{capability}: {line}") from error
    cubin: bytes = compiled.asm["cubin"]
    return CompiledKernel(
        stem=variant.stem,
        record=_record(variant, compiled, triton.__version__, cubin),
        cubin=cubin,
        contents=read_contents(cubin),
    )


def store(
    bundle: Bundle,
    *,
    targets: Iterable[int] = TARGETS,
    dtypes: Iterable[MatrixType] = ("fp16",),
    more: Iterable[Variant] = (),
    files: Mapping[str, bytes] | None = None,
    say: Callable[[str], None] = lambda _: None,
    show: Callable[[int, CompiledKernel], None] = lambda *_: None,
) -> None:
    """Put a bundle's kernels into its `kernels/sm_NN` folders and list them in `bundle.json`.

    A target's kernels are put in place when all of them fit it; those that were there are replaced.

    Args:
        bundle: an opened bundle.
        targets: compute capabilities, ten times the number.
        dtypes: types that products are taken in.
        more: kernels beside those that every bundle has.
        files: what else stands beside the kernels of every target, by name.
        say: called with one line for each kernel before it is compiled.
        show: called with every target and kernel.

    Raises:
        KernelBuildError: a kernel spills registers, or exceeds the shared memory of a target.
        OutputError: the bundle cannot be written.
    """
    from export.placing import placed
    from kernels.budgets import broken_limits
    from kernels.variants import kernel_variants
    from r2rt.engines.cubins import kernels_folder

    try:
        variants = [v for dtype in dtypes for v in kernel_variants(kernel_dims(bundle), dtype)]
    except ValueError as error:
        raise KernelBuildError(f"{bundle.path}: {error}") from error
    variants += more
    for target in targets:
        kind, name = kernels_folder(f"sm_{target}").split("/")
        with placed(bundle.path, kind, name) as staged:
            for variant in variants:
                say(f"compiling {variant.stem} for {name}")
                kernel = compile_variant(variant, target)
                problems = broken_limits(
                    kernel.contents,
                    shared_bytes=kernel.record.shared_bytes,
                    num_warps=kernel.record.num_warps,
                    capability=target,
                )
                if problem := "; ".join(problems):
                    raise KernelBuildError(
                        f"{variant.stem} for {name}, P = {bundle.dims.patches} and D = "
                        f"{bundle.dims.width}: {problem}; run this model's R² block by an engine"
                    )
                (staged / f"{kernel.stem}.cubin").write_bytes(kernel.cubin)
                text = msgspec.json.format(
                    msgspec.json.encode(kernel.record, order="deterministic")
                )
                (staged / f"{kernel.stem}.json").write_bytes(text + b"\n")
                show(target, kernel)
            for file, content in (files or {}).items():
                (staged / file).write_bytes(content)


def kernel_dims(bundle: Bundle) -> KernelDims:
    """Return the sizes that a bundle's kernels are compiled for."""
    from kernels.variants import KernelDims

    dims = bundle.dims
    return KernelDims(
        patches=dims.patches,
        width=dims.width,
        length=dims.context_length,
        heads=bundle.manifest.heads,
        channels=bundle.manifest.vision_width if dims.use_tef else None,
    )


def _record(variant: Variant, compiled: Any, version: str, cubin: bytes) -> CubinRecord:
    from triton.backends.nvidia.compiler import sm_arch_from_capability

    metadata = compiled.metadata
    return CubinRecord(
        schema=SCHEMA_VERSION,
        kernel=variant.kernel,
        entry=metadata.name,
        target=sm_arch_from_capability(metadata.target.arch),
        shared_bytes=metadata.shared,
        num_warps=metadata.num_warps,
        num_ctas=metadata.num_ctas,
        launch_pdl=metadata.launch_pdl,
        launch_cooperative_grid=metadata.launch_cooperative_grid,
        global_scratch_bytes=metadata.global_scratch_size,
        global_scratch_align=metadata.global_scratch_align,
        profile_scratch_bytes=metadata.profile_scratch_size,
        profile_scratch_align=metadata.profile_scratch_align,
        arguments=tuple(
            CubinArgument(
                name=name,
                type=cast("ArgumentType", variant.types[name]),
                divisible_by=variant.divisible_by.get(name, 1),
            )
            for name in variant.function.arg_names
            if name in variant.types
        ),
        constexprs=dict(variant.constexprs),
        triton=version,
        sha256=hashlib.sha256(cubin).hexdigest(),
    )


@contextmanager
def _own_cache(knobs: Any) -> Iterator[None]:
    """Let Triton cache in r2rt's folder, and leave paths of this machine out of the cubins."""
    from r2rt.cache import cache_dir

    with knobs.cache.scope(), knobs.compilation.scope():
        knobs.cache.dir = str(cache_dir() / "kernels")
        knobs.compilation.disable_line_info = True
        yield


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
def aot(
    bundle: Path, targets: tuple[int, ...], dtypes: tuple[MatrixType, ...], quiet: bool
) -> None:
    """Compile the kernels of BUNDLE and store them in it, with hashes, for each target."""
    require_checkout("r2rt", "export", "kernels")
    from rich.console import Console
    from rich.table import Table

    from kernels.budgets import blocks_per_sm
    from r2rt.bundle import Bundle

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
        store(opened, targets=targets, dtypes=dtypes, say=status.update, show=show)
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(aot, __file__, arguments, cut="targets that were complete are in the bundle.")


if __name__ == "__main__":
    end_cleanly_on_sigterm()
    sys.exit(main())
