"""`frame_pool`: each frame's patches pooled under a query, forward and backward.

For one frame with tokens v (P, D), CLS first, and a query of L tokens q, q_key (L, D):

    a = softmax over P of q_key·vᵀ
    f = v[CLS] + scale · max over real l of (a·v + q)[l]
    out = gate·f + (1 - gate)·last, or f itself without `last`

Source: R²-Tuning (arXiv 2404.00801), the recurrent cross-layer attention. There the scores are
q_map(q)·v_map(v)ᵀ/√D; the softmax ignores what all patches share, so with q_key = q_map(q)·W_v/√D
keys and values are one tensor, read once.

Layout: v (B, T, P, D); q, q_key (B, N, L, D), N queries a video; out (B, N, T, D), each
contiguous. Products take the type of v (fp32, fp16 or bf16) and accumulate in fp32; softmax,
maximum and gate are fp32.

A program owns one frame and a group of queries. Where P fits one block of patches (P = 50 does)
the frame is loaded once for the whole group, else block by block for each query, from the cache.
The forward keeps the index of the maximum; everything else is computed again by the backward
(kernels.frame_pool_backward). Where several tokens tie, the first has the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import attend_patches, load_rows
from kernels.frame_pool_backward import backward_q, backward_stats, backward_v

__all__ = ["PoolTiling", "frame_pool", "pool_tiling"]

# Programs that keep a large GPU busy.
_PROGRAMS = 256
_MAX_PATCH_TILE_BYTES = 32 * 1024


@dataclass(frozen=True, kw_only=True)
class PoolTiling:
    """How the attention over patches is cut: query tokens and patches a block, warps, stages."""

    block_l: int
    block_p: int
    num_warps: int
    num_stages: int


def pool_tiling(
    *, patches: int, length: int, width: int, itemsize: int, backward: bool = False
) -> PoolTiling:
    """Choose a tiling whose blocks fit the 99 KB of shared memory that the smallest target has.

    Args:
        patches: tokens a frame P.
        length: query tokens L.
        width: width D.
        itemsize: bytes a number of v.
        backward: for the three kernels of the backward instead of the forward.
    """
    block_d = triton.next_power_of_2(width)
    # 16 rows are the least that tensor cores take; most queries have no more tokens. The backward
    # accumulates three tiles of width D side by side, so its blocks are low, and loading ahead
    # would cost the registers that it needs.
    most = _MAX_PATCH_TILE_BYTES // (block_d * itemsize)
    if backward:
        return PoolTiling(
            block_l=16,
            block_p=_power_between(16, min(32, most // 2 if block_d >= 512 else most), patches),
            num_warps=8,
            num_stages=1,
        )
    # Short queries have one round of tokens and nothing to load ahead of.
    block_p = _power_between(16, min(64, most), patches)
    short = length <= 16
    return PoolTiling(
        block_l=16 if short or not 64 <= block_d < 512 else 32,
        block_p=block_p,
        num_warps=8 if block_d >= 64 else 4,
        num_stages=1 if short and patches <= block_p else 2,
    )


def _power_between(least: int, most: int, size: int) -> int:
    return max(least, min(most, int(triton.next_power_of_2(size))))


def frame_pool(
    v: Tensor,
    q: Tensor,
    q_key: Tensor,
    scale: Tensor,
    *,
    query_mask: Tensor | None = None,
    clip_mask: Tensor | None = None,
    gate: Tensor | None = None,
    last: Tensor | None = None,
) -> Tensor:
    """Pool each frame under each query; see the module's formula. Differentiable, once.

    Args:
        v: mapped tokens (B, T, P, D), CLS first; fp32, fp16 or bf16.
        q: mapped query tokens (B, N, L, D).
        q_key: keys of the query tokens (B, N, L, D), 1/√D included.
        scale: weight of the pooled patches, behind its tanh, a tensor of one number.
        query_mask: nonzero for real tokens, (B, N, L). A query without any leaves f = v[CLS].
        clip_mask: nonzero for real clips, (B, T); the others come out as zeros.
        gate: share of this step, behind its sigmoid, a tensor of one number; with `last` alone.
        last: the step before, (B, N, T, D).

    Returns:
        (B, N, T, D) in v's type, or in the wider of v's and last's.

    Raises:
        ValueError: shapes or types do not fit together.
    """
    _check(v, q, q_key, query_mask, clip_mask, gate, last)
    q, q_key = q.to(v.dtype), q_key.to(v.dtype)
    out: Tensor
    out, _ = _forward_op(v, q, q_key, scale, query_mask, clip_mask, gate, last)
    return out


def _check(
    v: Tensor,
    q: Tensor,
    q_key: Tensor,
    query_mask: Tensor | None,
    clip_mask: Tensor | None,
    gate: Tensor | None,
    last: Tensor | None,
) -> None:
    if v.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"frame_pool takes fp32, fp16 or bf16, got {v.dtype}")
    if v.ndim != 4 or q.ndim != 4 or 0 in v.shape or 0 in q.shape:
        raise ValueError(
            "frame_pool takes v (B, T, P, D) and q (B, N, L, D), none of them empty; "
            f"got {tuple(v.shape)} and {tuple(q.shape)}"
        )
    batch, clips, _, width = v.shape
    queries, length = q.shape[1:3]
    if (gate is None) != (last is None):
        raise ValueError("frame_pool takes `gate` and `last` together or neither")
    expected = {
        "q": (q, (batch, queries, length, width)),
        "q_key": (q_key, (batch, queries, length, width)),
        "query_mask": (query_mask, (batch, queries, length)),
        "clip_mask": (clip_mask, (batch, clips)),
        "last": (last, (batch, queries, clips, width)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"frame_pool expects {name} {shape}, got {tuple(tensor.shape)}")


@torch.library.custom_op("r2rt::frame_pool", mutates_args=())
def _forward_op(
    v: Tensor,
    q: Tensor,
    q_key: Tensor,
    scale: Tensor,
    query_mask: Tensor | None,
    clip_mask: Tensor | None,
    gate: Tensor | None,
    last: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return out (B, N, T, D) and the index of the maximum, int16, -1 where there is none."""
    v = v.contiguous()
    batch, clips, patches, width = v.shape
    queries, length = q.shape[1:3]
    out, index = _empty_outputs(v, q, last)
    tiling = pool_tiling(patches=patches, length=length, width=width, itemsize=v.element_size())
    frames = batch * clips
    group = min(queries, max(1, frames * queries // _PROGRAMS))
    _forward[(frames, triton.cdiv(queries, group))](
        v,
        q.contiguous(),
        q_key.contiguous(),
        scale,
        _bytes(query_mask),
        _bytes(clip_mask),
        gate,
        None if last is None else last.contiguous(),
        out,
        index,
        clips,
        queries,
        length,
        group,
        P=patches,
        D=width,
        BLOCK_L=tiling.block_l,
        BLOCK_P=tiling.block_p,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return out, index


@_forward_op.register_fake
def _(v: Tensor, q: Tensor, *rest: Tensor | None) -> tuple[Tensor, Tensor]:
    return _empty_outputs(v, q, rest[-1])


def _empty_outputs(v: Tensor, q: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
    dtype = v.dtype if last is None else torch.promote_types(v.dtype, last.dtype)
    shape = (q.shape[0], q.shape[1], v.shape[1], v.shape[3])
    return v.new_empty(shape, dtype=dtype), v.new_empty(shape, dtype=torch.int16)


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else (mask != 0).contiguous().view(torch.uint8)


@torch.library.custom_op("r2rt::frame_pool_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    v: Tensor,
    q: Tensor,
    q_key: Tensor,
    scale: Tensor,
    index: Tensor,
    clip_mask: Tensor | None,
    gate: Tensor | None,
    last: Tensor | None,
) -> list[Tensor]:
    """Return the gradients of v, q, q_key, scale, gate and last; empty ones for what is None."""
    grad, v, q, q_key = (x.contiguous() for x in (grad, v, q, q_key))
    last = None if last is None else last.contiguous()
    clip_bytes = _bytes(clip_mask)
    batch, clips, patches, width = v.shape
    queries, length = q.shape[1:3]
    frames = batch * clips
    tiling = pool_tiling(
        patches=patches, length=length, width=width, itemsize=v.element_size(), backward=True
    )
    options = {
        "P": patches,
        "D": width,
        "BLOCK_L": tiling.block_l,
        "BLOCK_P": tiling.block_p,
        "num_warps": tiling.num_warps,
        "num_stages": tiling.num_stages,
    }

    stats = v.new_empty((2, batch, queries, clips, length), dtype=torch.float32)
    partial = v.new_empty((2, batch, queries, clips), dtype=torch.float32)
    d_last = torch.empty_like(last) if last is not None else None
    backward_stats[(frames, queries)](
        grad, v, q, q_key, scale, index, clip_bytes, gate, last,
        stats[0], stats[1], partial[0], partial[1], d_last,
        clips, queries, length,
        **options,
    )  # fmt: skip

    d_v = torch.empty_like(v)
    backward_v[(frames, triton.cdiv(patches, tiling.block_p))](
        grad, v, q_key, scale, index, clip_bytes, gate, stats[0], stats[1], d_v,
        clips, queries, length,
        **options,
    )  # fmt: skip

    tiles = batch * queries * triton.cdiv(length, tiling.block_l)
    chunk = triton.cdiv(clips, max(1, min(clips, _PROGRAMS // tiles)))
    chunks = triton.cdiv(clips, chunk)
    d_q = v.new_empty((2, chunks, *q.shape), dtype=torch.float32)
    backward_q[(tiles, chunks)](
        grad, v, q_key, scale, index, clip_bytes, gate, stats[0], stats[1], d_q[0], d_q[1],
        clips, queries, length, chunk, q.numel(),
        **options,
    )  # fmt: skip

    sums = partial.sum(dim=(1, 2, 3))
    return [
        d_v,
        d_q[0].sum(dim=0).to(q.dtype),
        d_q[1].sum(dim=0).to(q_key.dtype),
        sums[0].to(scale.dtype).reshape(scale.shape).clone(),
        sums[1].to(gate.dtype).reshape(gate.shape).clone() if gate is not None else v.new_empty(0),
        d_last if d_last is not None else v.new_empty(0),
    ]


@_backward_op.register_fake
def _(grad: Tensor, *inputs: Tensor | None) -> list[Tensor]:
    v, q, q_key, scale, _, _, gate, last = inputs
    return [
        grad.new_empty(0) if x is None else x.new_empty(x.shape)
        for x in (v, q, q_key, scale, gate, last)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    v, q, q_key, scale, _, clip_mask, gate, last = inputs
    index = output[1]
    ctx.mark_non_differentiable(index)
    ctx.save_for_backward(v, q, q_key, scale, index, clip_mask, gate, last)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, gate, last = ctx.saved_tensors
    d_v, d_q, d_key, d_scale, d_gate, d_last = _backward_op(grad, *inputs, gate, last)
    gated = gate is not None
    return (
        d_v, d_q, d_key, d_scale, None, None, d_gate if gated else None, d_last if gated else None
    )  # fmt: skip


_forward_op.register_autograd(_backward, setup_context=_save)


@triton.jit(do_not_specialize=["clips", "queries", "length", "group"])
def _forward(
    v_ptr: tl.tensor,
    q_ptr: tl.tensor,
    key_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    query_mask_ptr: tl.tensor,
    clip_mask_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    last_ptr: tl.tensor,
    out_ptr: tl.tensor,
    index_ptr: tl.tensor,
    clips: tl.tensor,
    queries: tl.tensor,
    length: tl.tensor,
    group: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """Grid (B·T, groups of queries)."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    frame = tl.program_id(0)
    first_query = tl.program_id(1) * group
    batch = frame // clips
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    frame_ptr = v_ptr + frame.to(tl.int64) * (P * D)
    cls = tl.load(frame_ptr + column, mask=real_column, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr).to(tl.float32)
    real_frame = frame >= 0
    if clip_mask_ptr is not None:
        real_frame = tl.load(clip_mask_ptr + frame) != 0
    # A padded frame has no token to visit.
    visited = tl.where(real_frame, length, 0)
    held = load_rows(frame_ptr, 0, P, D, D, BLOCK_P)
    for n in range(first_query, tl.minimum(first_query + group, queries)):
        query = (batch * queries + n).to(tl.int64)
        best = tl.full([BLOCK_D], -float("inf"), tl.float32)
        best_index = tl.full([BLOCK_D], -1, tl.int32)
        for first in range(0, visited, BLOCK_L):
            key = load_rows(key_ptr + query * length * D, first, length, D, D, BLOCK_L)
            q = load_rows(q_ptr + query * length * D, first, length, D, D, BLOCK_L)
            attended, _lse = attend_patches(key, held, frame_ptr, P, D, BLOCK_L, BLOCK_P)
            token = first + tl.arange(0, BLOCK_L)
            real = token < length
            if query_mask_ptr is not None:
                real = tl.load(query_mask_ptr + query * length + token, mask=real, other=0) != 0
            values = tl.where(real[:, None], attended + q.to(tl.float32), -float("inf"))
            top, row = tl.max(values, axis=0, return_indices=True)
            best_index = tl.where(top > best, first + row, best_index)
            best = tl.maximum(top, best)
        f = cls + scale * tl.where(best_index < 0, 0.0, best)
        at = (query * clips + frame % clips) * D + column
        if last_ptr is not None:
            gate = tl.load(gate_ptr).to(tl.float32)
            last = tl.load(last_ptr + at, mask=real_column, other=0.0).to(tl.float32)
            f = gate * f + (1.0 - gate) * last
        f = tl.where(real_frame, f, 0.0)
        tl.store(out_ptr + at, f.to(out_ptr.dtype.element_ty), mask=real_column)
        tl.store(index_ptr + at, best_index.to(tl.int16), mask=real_column)
