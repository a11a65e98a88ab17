"""The backward of `frame_pool`: three kernels, launched one after another by `kernels.frame_pool`.

Softmax statistics and what is local to a frame, then the gradient of v, then those of q and q_key;
with a the softmax's weights and d the gradient of what follows,

    d_scores = a∘(d(a·v)·vᵀ - delta),  delta = Σ_D d(a·v)∘(a·v)
    d_v = aᵀ·d(a·v) + d_scoresᵀ·q_key,  d_q_key = d_scores·v

where d(a·v) of a channel is nonzero at the token that the forward found largest. None of them needs
atomics, so that gradients are the same bits every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.blocks import attend_patches, load_rows, matmul

__all__ = ["backward_q", "backward_stats", "backward_v"]


@triton.jit
def backward_stats(
    grad_ptr: tl.tensor,
    v_ptr: tl.tensor,
    q_ptr: tl.tensor,
    key_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    index_ptr: tl.tensor,
    clip_mask_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    last_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    delta_ptr: tl.tensor,
    d_scale_ptr: tl.tensor,
    d_gate_ptr: tl.tensor,
    d_last_ptr: tl.tensor,
    clips: tl.tensor,
    queries: tl.tensor,
    length: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """Grid (B·T, N): the softmax's log-denominators, delta = Σ_D d(a·v)∘(a·v), and what is local.

    The gradients of scale and gate come out a frame each, to be summed.
    """
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    frame = tl.program_id(0)
    query = (frame // clips * queries + tl.program_id(1)).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    row = query * clips + frame % clips
    at = row * D + column
    frame_ptr = v_ptr + frame.to(tl.int64) * (P * D)
    d_f, d_pooled = _pooled_gradient(
        grad_ptr, scale_ptr, gate_ptr, clip_mask_ptr, at, frame, real_column
    )
    index = tl.load(index_ptr + at, mask=real_column, other=-1).to(tl.int32)
    held = load_rows(frame_ptr, 0, P, D, D, BLOCK_P)
    pooled = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, length, BLOCK_L):
        key = load_rows(key_ptr + query * length * D, first, length, D, D, BLOCK_L)
        q = load_rows(q_ptr + query * length * D, first, length, D, D, BLOCK_L)
        attended, lse = attend_patches(key, held, frame_ptr, P, D, BLOCK_L, BLOCK_P)
        token = first + tl.arange(0, BLOCK_L)
        chosen = index[None, :] == token[:, None]
        pooled += tl.sum(tl.where(chosen, attended + q.to(tl.float32), 0.0), axis=0)
        delta = tl.sum(tl.where(chosen, d_pooled[None, :] * attended, 0.0), axis=1)
        tl.store(lse_ptr + row * length + token, lse, mask=token < length)
        tl.store(delta_ptr + row * length + token, delta, mask=token < length)
    tl.store(d_scale_ptr + row, tl.sum(d_f * pooled, axis=0))
    d_gate = 0.0
    if last_ptr is not None:
        gate = tl.load(gate_ptr).to(tl.float32)
        grad = tl.load(grad_ptr + at, mask=real_column, other=0.0).to(tl.float32)
        if clip_mask_ptr is not None:
            grad = tl.where(tl.load(clip_mask_ptr + frame) != 0, grad, 0.0)
        last = tl.load(last_ptr + at, mask=real_column, other=0.0).to(tl.float32)
        cls = tl.load(frame_ptr + column, mask=real_column, other=0.0).to(tl.float32)
        f = cls + tl.load(scale_ptr).to(tl.float32) * pooled
        d_gate = tl.sum(grad * (f - last), axis=0)
        d_last = (1.0 - gate) * grad
        tl.store(d_last_ptr + at, d_last.to(d_last_ptr.dtype.element_ty), mask=real_column)
    tl.store(d_gate_ptr + row, d_gate)


@triton.jit
def backward_v(
    grad_ptr: tl.tensor,
    v_ptr: tl.tensor,
    key_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    index_ptr: tl.tensor,
    clip_mask_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    delta_ptr: tl.tensor,
    d_v_ptr: tl.tensor,
    clips: tl.tensor,
    queries: tl.tensor,
    length: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """Grid (B·T, blocks of patches): Σ_N aᵀ·d_values + d_scoresᵀ·q_key, and the CLS token's own."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    frame = tl.program_id(0)
    first_patch = tl.program_id(1) * BLOCK_P
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    frame_offset = frame.to(tl.int64) * (P * D)
    v = load_rows(v_ptr + frame_offset, first_patch, P, D, D, BLOCK_P)
    patch = first_patch + tl.arange(0, BLOCK_P)
    d_v = tl.zeros([BLOCK_P, BLOCK_D], tl.float32)
    for n in range(queries):
        query = (frame // clips * queries + n).to(tl.int64)
        row = query * clips + frame % clips
        at = row * D + column
        d_f, d_pooled = _pooled_gradient(
            grad_ptr, scale_ptr, gate_ptr, clip_mask_ptr, at, frame, real_column
        )
        index = tl.load(index_ptr + at, mask=real_column, other=-1).to(tl.int32)
        d_v += tl.where((patch == 0)[:, None], d_f[None, :], 0.0)
        for first in range(0, length, BLOCK_L):
            token = first + tl.arange(0, BLOCK_L)
            # exp(· - inf) = 0 for tokens beyond the last.
            stats = row * length + token
            lse = tl.load(lse_ptr + stats, mask=token < length, other=float("inf"))
            delta = tl.load(delta_ptr + stats, mask=token < length, other=0.0)
            key = load_rows(key_ptr + query * length * D, first, length, D, D, BLOCK_L)
            d_values = tl.where(index[None, :] == token[:, None], d_pooled[None, :], 0.0)
            d_values = d_values.to(v.dtype)
            weights, d_scores = _score_gradient(key, v, d_values, lse, delta, patch < P)
            d_v += matmul(tl.trans(weights), d_values) + matmul(tl.trans(d_scores), key)
    real = (patch < P)[:, None] & real_column[None, :]
    pointers = d_v_ptr + frame_offset + patch[:, None] * D + column[None, :]
    tl.store(pointers, d_v.to(d_v_ptr.dtype.element_ty), mask=real)


@triton.jit
def backward_q(
    grad_ptr: tl.tensor,
    v_ptr: tl.tensor,
    key_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    index_ptr: tl.tensor,
    clip_mask_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    delta_ptr: tl.tensor,
    d_q_ptr: tl.tensor,
    d_key_ptr: tl.tensor,
    clips: tl.tensor,
    queries: tl.tensor,
    length: tl.tensor,
    chunk: tl.tensor,
    stride_chunk: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
) -> None:
    """Grid (B·N·blocks of tokens, chunks of clips): Σ_T d_values and Σ_T d_scores·v of a chunk."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    blocks = tl.cdiv(length, BLOCK_L)
    query = (tl.program_id(0) // blocks).to(tl.int64)
    token = tl.program_id(0) % blocks * BLOCK_L + tl.arange(0, BLOCK_L)
    first_clip = tl.program_id(1) * chunk
    column = tl.arange(0, BLOCK_D)
    real_column = column < D
    real_token = token < length
    inside = real_token[:, None] & real_column[None, :]
    offsets = query * length * D + token[:, None] * D + column[None, :]
    key = tl.load(key_ptr + offsets, mask=inside, other=0.0)
    d_q = tl.zeros([BLOCK_L, BLOCK_D], tl.float32)
    d_key = tl.zeros([BLOCK_L, BLOCK_D], tl.float32)
    for clip in range(first_clip, tl.minimum(first_clip + chunk, clips)):
        frame = query // queries * clips + clip
        row = query * clips + clip
        at = row * D + column
        _d_f, d_pooled = _pooled_gradient(
            grad_ptr, scale_ptr, gate_ptr, clip_mask_ptr, at, frame, real_column
        )
        index = tl.load(index_ptr + at, mask=real_column, other=-1).to(tl.int32)
        d_values = tl.where(index[None, :] == token[:, None], d_pooled[None, :], 0.0)
        d_q += d_values
        stats = row * length + token
        lse = tl.load(lse_ptr + stats, mask=real_token, other=float("inf"))
        delta = tl.load(delta_ptr + stats, mask=real_token, other=0.0)
        for first in range(0, P, BLOCK_P):
            v = load_rows(v_ptr + frame * (P * D), first, P, D, D, BLOCK_P)
            real_patch = first + tl.arange(0, BLOCK_P) < P
            _weights, d_scores = _score_gradient(key, v, d_values, lse, delta, real_patch)
            d_key += matmul(d_scores, v)
    offsets += tl.program_id(1).to(tl.int64) * stride_chunk
    tl.store(d_q_ptr + offsets, d_q, mask=inside)
    tl.store(d_key_ptr + offsets, d_key, mask=inside)


@triton.jit
def _pooled_gradient(
    grad_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    gate_ptr: tl.tensor,
    clip_mask_ptr: tl.tensor,
    at: tl.tensor,
    frame: tl.tensor,
    real_column: tl.tensor,
) -> tl.tensor:
    """Gradient of f and of the maximum, (D), 0 for padded clips."""
    grad = tl.load(grad_ptr + at, mask=real_column, other=0.0).to(tl.float32)
    if gate_ptr is not None:
        grad = grad * tl.load(gate_ptr).to(tl.float32)
    if clip_mask_ptr is not None:
        grad = tl.where(tl.load(clip_mask_ptr + frame) != 0, grad, 0.0)
    return grad, grad * tl.load(scale_ptr).to(tl.float32)


@triton.jit
def _score_gradient(
    key: tl.tensor,
    v: tl.tensor,
    d_values: tl.tensor,
    lse: tl.tensor,
    delta: tl.tensor,
    real_patch: tl.tensor,
) -> tl.tensor:
    """Softmax weights a and the gradient of the scores, a∘(d_values·vᵀ - delta), (L, P)."""
    scores = matmul(key, tl.trans(v))
    weights = tl.where(real_patch[None, :], tl.exp(scores - lse[:, None]), 0.0)
    d_weights = matmul(d_values, tl.trans(v))
    return weights, weights * (d_weights - delta[:, None])
