"""Compiled kernels for a stub of the driver: records without code, run by the interpreter."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import torch

from kernels import aot
from tests.r2rt.engines.tensorrt.stub_driver import Kernel


def uncompiled(variant: Any, capability: int) -> aot.CompiledKernel:
    """Return a kernel with the record of its launch and without code."""
    metadata = SimpleNamespace(
        name=variant.stem,
        target=SimpleNamespace(arch=capability),
        shared=0,
        num_warps=variant.num_warps,
        num_ctas=1,
        launch_pdl=False,
        launch_cooperative_grid=False,
        global_scratch_size=0,
        global_scratch_align=1,
        profile_scratch_size=0,
        profile_scratch_align=1,
    )
    record = aot._record(variant, SimpleNamespace(metadata=metadata), "none", b"code")
    contents: Any = None
    return aot.CompiledKernel(stem=variant.stem, record=record, cubin=b"code", contents=contents)


def interpreted(record: Any) -> Kernel:
    """Run a kernel by the interpreter, given what the record says that its arguments are.

    Compiled code knows no names: the first value is the first argument.
    """
    from kernels import (
        cast,
        finalize,
        frame_step,
        layer_pool,
        query_maps,
        time_attention,
        time_step,
    )

    functions: dict[str, Any] = {
        "cast": cast._cast,
        "finalize": finalize._finalize,
        "frame_step": frame_step._frame_step,
        "layer_pool": layer_pool._layer_pool,
        "query_maps": query_maps._query_maps,
        "settle": time_step._settle,
        "time_attention": time_attention._time_attention,
        "time_step": time_step._time_step,
    }

    def run(grid: tuple[int, ...], values: tuple[Any, ...]) -> None:
        *passed, _global, _profile = values
        function = functions[record.kernel]
        names = [name for name in function.arg_names if name not in record.constexprs]
        arguments = {
            name: _pointer(value, argument.type) if "*" in argument.type else value
            for name, argument, value in zip(names, record.arguments, passed, strict=True)
        }
        function[grid](**arguments, **record.constexprs)

    return run


def _pointer(address: int, kind: str) -> torch.Tensor:
    """The first number at an address, from where the interpreter goes on."""
    dtype = {"*fp32": torch.float32, "*fp16": torch.float16}[kind]
    memory = (ctypes.c_uint8 * dtype.itemsize).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)
