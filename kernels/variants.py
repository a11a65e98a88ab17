"""The compiled kernels that a model of given sizes needs for inference, each with its launch.

A kernel is compiled several times if its code depends on more than the model's sizes: whether there
is a previous step. `Variant.stem` distinguishes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from kernels import (
    finalize,
    frame_step,
    layer_pool,
    query_maps,
    splitting,
    time_attention,
    time_step,
)
from kernels.frame_pool import pool_tiling

__all__ = ["KernelDims", "MatrixType", "Variant", "kernel_variants"]

MatrixType: TypeAlias = Literal["fp16", "bf16"]
# Most queries have no more tokens.
_SHORT = 16
_ITEMSIZE = 2
_EPS = 1e-5
# Loads of 16 bytes: what the kernels are compiled to assume of pointers, in bytes.
_ALIGNED = 16


@dataclass(frozen=True, kw_only=True)
class KernelDims:
    """Sizes that are compiled in.

    Attributes:
        patches: tokens a frame P.
        width: width D of the R² block.
        length: the most query tokens L.
        heads: attention heads H.
        channels: width Cv of the vision tower; None for a model without temporal endpoint
            features, which needs no `finalize`.
    """

    patches: int
    width: int
    length: int
    heads: int
    channels: int | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One compilation of a kernel.

    Attributes:
        stem: of its files.
        kernel: name of the kernel in r2rt.
        function: Triton's function.
        types: type of every argument that is passed, by name, in Triton's spelling.
        divisible_by: what is assumed of an argument's value: bytes for a pointer.
        constexprs: what is compiled in, by name; None is an argument left out.
        num_warps: warps a program.
        num_stages: stages of pipelined loops.
    """

    stem: str
    kernel: str
    function: Any
    types: Mapping[str, str]
    divisible_by: Mapping[str, int]
    constexprs: Mapping[str, int | float | None]
    num_warps: int
    num_stages: int


def kernel_variants(dims: KernelDims, dtype: MatrixType) -> tuple[Variant, ...]:
    """Return what is compiled for a model whose products are taken in `dtype`.

    Raises:
        ValueError: the sizes are none that the kernels take.
    """
    if not 16 <= dims.width <= 512 or dims.width % 16:
        raise ValueError(
            f"the width is {dims.width}; compiled kernels take multiples of 16 from 16 to 512"
        )
    if dims.width % dims.heads:
        raise ValueError(f"{dims.heads} heads do not divide the width {dims.width}")
    found = [
        _query_maps(dims, dtype),
        _layer_pool(dims, dtype),
        *_frame_steps(dims, dtype),
        _time_attention(dims, dtype),
        _time_step(dims, dtype),
        _settle(dims, dtype),
    ]
    if dims.channels is not None:
        found.append(_finalize(dims, dims.channels, dtype))
    return tuple(found)


def _layer_pool(dims: KernelDims, dtype: MatrixType) -> Variant:
    # For longer queries as well: they take more rounds.
    tiling = pool_tiling(
        patches=dims.patches, length=min(_SHORT, dims.length), width=dims.width, itemsize=_ITEMSIZE
    )
    matrix = f"*{dtype}"
    return _variant(
        f"layer_pool-{dtype}",
        "layer_pool",
        layer_pool._layer_pool,
        {"v_ptr": matrix, "q_ptr": matrix, "key_ptr": matrix, "length": "i32"},
        {
            "P": dims.patches,
            "D": dims.width,
            "BLOCK_L": tiling.block_l,
            "BLOCK_P": tiling.block_p,
        },
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )


def _query_maps(dims: KernelDims, dtype: MatrixType) -> Variant:
    matrix = f"*{dtype}"
    names = ("q", "cross_q", "cross_k", "cross_v", "cross_out", "keys", "values")
    return _variant(
        f"query_maps-{dtype}",
        "query_maps",
        query_maps._query_maps,
        {**{f"{name}_ptr": matrix for name in names}, "length": "i32"},
        {"D": dims.width, "HEADS": dims.heads, "BLOCK_L": query_maps.BLOCK_L},
        num_warps=query_maps.NUM_WARPS,
        num_stages=1,
    )


def _frame_steps(dims: KernelDims, dtype: MatrixType) -> Iterator[Variant]:
    tiling = frame_step.frame_step_tiling(width=dims.width, heads=dims.heads, itemsize=_ITEMSIZE)
    matrix = f"*{dtype}"
    for step in ("first", "next"):
        before = None if step == "first" else "*fp32"
        yield _variant(
            f"frame_step-{step}-{dtype}",
            "frame_step",
            frame_step._frame_step,
            {
                "keys_ptr": matrix,
                "values_ptr": matrix,
                "sums_ptr": before,
                "last_norm_weight_ptr": before,
                "last_norm_bias_ptr": before,
                "gate": "fp32",
                "qkv_weight_ptr": matrix,
                "qkv_ptr": matrix,
                "clips": "i32",
                "length": "i32",
                "query_tokens": "i32",
            },
            {
                "D": dims.width,
                "HEADS": dims.heads,
                "EPS": _EPS,
                "ROWS": splitting.ROWS,
                "PARTS": splitting.MOST_PARTS,
                "BLOCK_L": tiling.block_l,
                "BLOCK_N": tiling.block_n,
            },
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
            unaligned="biases_ptr",  # a layer begins at a multiple of H·L numbers
        )


def _time_attention(dims: KernelDims, dtype: MatrixType) -> Variant:
    matrix = f"*{dtype}"
    return _variant(
        f"time_attention-{dtype}",
        "time_attention",
        time_attention._time_attention,
        {"qkv_ptr": matrix, "attended_ptr": matrix, "clips": "i32"},
        {
            "D": dims.width,
            "HEADS": dims.heads,
            "ROWS": time_attention.ROWS,
            "BLOCK_T": time_attention.BLOCK_T,
        },
        num_warps=time_attention.NUM_WARPS,
        num_stages=time_attention.NUM_STAGES,
    )


def _time_step(dims: KernelDims, dtype: MatrixType) -> Variant:
    tiling = time_step.time_step_tiling(width=dims.width, itemsize=_ITEMSIZE)
    matrix = f"*{dtype}"
    return _variant(
        f"time_step-{dtype}",
        "time_step",
        time_step._time_step,
        {
            "attended_ptr": matrix,
            "out_weight_ptr": matrix,
            "hidden_ptr": matrix,
            "back_ptr": matrix,
            "clips": "i32",
        },
        {
            "D": dims.width,
            "HIDDEN": 4 * dims.width,
            "EPS": _EPS,
            "ROWS": splitting.ROWS,
            "BLOCK_K": tiling.block_k,
            "BLOCK_F": tiling.block_f,
        },
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )


def _settle(dims: KernelDims, dtype: MatrixType) -> Variant:
    return _variant(
        f"settle-{dtype}",
        "settle",
        time_step._settle,
        {"clips": "i32", "parts": "i32"},
        {
            "D": dims.width,
            "EPS": _EPS,
            "ROWS": time_step.SETTLE_ROWS,
            "PARTS": splitting.MOST_PARTS,
        },
        num_warps=8,
        num_stages=1,
    )


def _finalize(dims: KernelDims, channels: int, dtype: MatrixType) -> Variant:
    tiling = finalize.finalize_tiling(width=dims.width, itemsize=_ITEMSIZE)
    return _variant(
        f"finalize-{dtype}",
        "finalize",
        finalize._finalize,
        {
            "linear_ptr": f"*{dtype}",
            "v_ptr": f"*{dtype}",
            "total": "i32",
            "per_clip": "i32",
        },
        {
            "D": dims.width,
            "CHANNELS": channels,
            "EPS": _EPS,
            "ROWS": tiling.rows,
            "BLOCK_N": tiling.block_n,
        },
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )


def _variant(
    stem: str,
    kernel: str,
    function: Any,
    types: Mapping[str, str | None],
    constexprs: Mapping[str, int | float],
    *,
    num_warps: int,
    num_stages: int,
    unaligned: str = "",
) -> Variant:
    """Complete `types`, where None leaves an argument out, with fp32 pointers.

    Pointers are taken for aligned, but for the one that is named.
    """
    passed = [name for name in function.arg_names if name not in constexprs]
    all_types = {name: types.get(name, "*fp32") for name in passed}
    return Variant(
        stem=stem,
        kernel=kernel,
        function=function,
        types={name: kind for name, kind in all_types.items() if kind is not None},
        divisible_by={
            name: _ALIGNED
            for name, kind in all_types.items()
            if kind is not None and name != unaligned and kind.startswith("*")
        },
        constexprs={
            **{name: None for name, kind in all_types.items() if kind is None},
            **constexprs,
        },
        num_warps=num_warps,
        num_stages=num_stages,
    )
