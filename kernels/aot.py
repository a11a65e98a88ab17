"""A kernel compiled ahead of time: needs Triton and no GPU.

The same sizes, Triton and target give the same bytes. `export/compile_kernels.py` puts the kernels
of a model into its bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from r2rt.engines.tensorrt.cubins import SCHEMA_VERSION, ArgumentType, CubinArgument, CubinRecord
from r2rt.errors import R2rtError

if TYPE_CHECKING:
    from kernels.sass import Contents
    from kernels.variants import Variant

__all__ = ["CompiledKernel", "KernelBuildError", "compile_variant"]


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
    except (RuntimeError, triton.TritonError) as error:  # ptxas has an error of its own
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise KernelBuildError(f"{variant.stem} for sm_{capability}: {line}") from error
    cubin: bytes = compiled.asm["cubin"]
    return CompiledKernel(
        stem=variant.stem,
        record=_record(variant, compiled, triton.__version__, cubin),
        cubin=cubin,
        contents=read_contents(cubin),
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
