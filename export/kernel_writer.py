"""A model's kernels, compiled ahead of time and put into its bundle."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from export.placing import placed
from r2rt.errors import BackendUnavailableError

if TYPE_CHECKING:
    from kernels.aot import CompiledKernel
    from kernels.variants import KernelDims, Variant
    from r2rt.model.bundle import Bundle

__all__ = ["TARGETS", "MatrixType", "kernel_dims", "require_triton", "store_kernels"]

TARGETS = (80, 89, 90, 100, 120)
MatrixType = Literal["fp16", "bf16"]


def require_triton() -> None:
    """Check that kernels can be compiled, before anything takes time.

    Raises:
        BackendUnavailableError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise BackendUnavailableError(
            "kernels are compiled by Triton, which is not installed; pip install triton"
        )


def store_kernels(
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
    from kernels.aot import KernelBuildError, compile_variant
    from kernels.budgets import broken_limits
    from kernels.variants import kernel_variants
    from r2rt.engines.tensorrt.cubins import kernels_folder

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
