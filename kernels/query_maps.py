"""`query_maps`: a query's keys and values for the attention of `frame_step`, in one launch.

The attention of a clip x (D) to the query's tokens q (L, D) has heads h of width d = D / H. Its
keys and values are q itself, so that everything but x can be multiplied out beforehand:

    score  = (W_q,h·x + b_q,h)·(W_k,h·q) = x·key + bias
    key    = W_q,hᵀ·W_k,h·q,  bias = b_q,h·W_k,h·q
    value  = W_o,h·W_v,h·q

The key's own bias is the same for all tokens and has no effect; the bias of the value is added by
`frame_step`, since the shares of a row sum to 1 (`kernels.weights` folds it into the bias of the
output).

Source: R²-Tuning (arXiv 2404.00801). A step reads 2·H·L·D numbers of a query instead of 4·D² of
the weights: a quarter of them for L = 16. Nothing here depends on the step before, so all layers
are one launch.

Layout: q (N, K, L, D); keys and values (N, K, H, L, D) in the weights' type; biases (N, K, H, L)
fp32, -inf for tokens that are padding. Products take the weights' type and accumulate in fp32.

A program owns one head of one layer of one query.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import load_rows, matmul, real_tokens

__all__ = ["BLOCK_L", "NUM_WARPS", "QueryMapWeights", "QueryMaps", "query_maps"]

BLOCK_L = 16
NUM_WARPS = 8


@dataclass(frozen=True, kw_only=True)
class QueryMapWeights:
    """Weights of the attention to the query; matrices in fp32, fp16 or bf16.

    Attributes:
        cross_q: (D, D) as nn.Linear holds it, times 1/√d; its rows come head by head.
        cross_q_bias: (D,) fp32, times 1/√d.
        cross_k: (D, D); its bias has no effect.
        cross_v: (D, D); its bias is part of `FrameStepWeights.cross_out_bias`.
        cross_out: (D, D), transposed: input times output.
    """

    cross_q: Tensor
    cross_q_bias: Tensor
    cross_k: Tensor
    cross_v: Tensor
    cross_out: Tensor


@dataclass(frozen=True, kw_only=True)
class QueryMaps:
    """Keys and values (N, K, H, L, D) in the weights' type; biases of scores (N, K, H, L) fp32."""

    keys: Tensor
    values: Tensor
    biases: Tensor


def query_maps(
    q: Tensor, query_mask: Tensor | None, weights: QueryMapWeights, *, heads: int
) -> QueryMaps:
    """Map the tokens of N queries; see the module's formula.

    Args:
        q: query tokens of all layers (N, K, L, D), contiguous, in the weights' type.
        query_mask: nonzero for real tokens, (N, L) fp32, contiguous; None if nothing is padded.
        weights: of the attention to the query.
        heads: attention heads H.
    """
    queries, layers, length, width = q.shape
    keys = q.new_empty((queries, layers, heads, length, width))
    maps = QueryMaps(
        keys=keys,
        values=torch.empty_like(keys),
        biases=q.new_empty((queries, layers, heads, length), dtype=torch.float32),
    )
    _query_maps[(queries, layers, heads)](
        q,
        query_mask,
        weights.cross_q,
        weights.cross_q_bias,
        weights.cross_k,
        weights.cross_v,
        weights.cross_out,
        maps.keys,
        maps.values,
        maps.biases,
        length,
        D=width,
        HEADS=heads,
        BLOCK_L=BLOCK_L,
        num_warps=NUM_WARPS,
        num_stages=1,
    )
    return maps


@triton.jit(do_not_specialize=["length"])
def _query_maps(
    q_ptr: tl.tensor,
    query_mask_ptr: tl.tensor,
    cross_q_ptr: tl.tensor,
    cross_q_bias_ptr: tl.tensor,
    cross_k_ptr: tl.tensor,
    cross_v_ptr: tl.tensor,
    cross_out_ptr: tl.tensor,
    keys_ptr: tl.tensor,
    values_ptr: tl.tensor,
    biases_ptr: tl.tensor,
    length: tl.tensor,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_L: tl.constexpr,
) -> None:
    """Grid (N, K, H)."""
    BLOCK_D: tl.constexpr = triton.next_power_of_2(D)
    HEAD: tl.constexpr = D // HEADS
    BLOCK_H: tl.constexpr = max(16, triton.next_power_of_2(HEAD))
    query = tl.program_id(0).to(tl.int64)
    layer = query * tl.num_programs(1) + tl.program_id(1)
    first_row = tl.program_id(2) * HEAD
    end = first_row + HEAD
    at = (layer * HEADS + tl.program_id(2)) * length
    mask_ptr = query_mask_ptr
    if query_mask_ptr is not None:
        mask_ptr = query_mask_ptr + query * length
    lane = tl.arange(0, BLOCK_H)
    column = tl.arange(0, BLOCK_D)
    q_bias = tl.load(cross_q_bias_ptr + first_row + lane, mask=lane < HEAD, other=0.0)

    for first in range(0, length, BLOCK_L):
        token = first + tl.arange(0, BLOCK_L)
        q = load_rows(q_ptr + layer * length * D, first, length, D, D, BLOCK_L)
        weight = load_rows(cross_k_ptr, first_row, end, D, D, BLOCK_H)
        projected = matmul(q, tl.trans(weight))  # (BLOCK_L, d)
        bias = tl.sum(projected * q_bias[None, :], axis=1)
        real = real_tokens(mask_ptr, first, length, BLOCK_L)
        tl.store(biases_ptr + at + token, tl.where(real, bias, -float("inf")), mask=token < length)

        inside = (token < length)[:, None] & (column < D)[None, :]
        rows = (at + token)[:, None] * D + column[None, :]
        weight = load_rows(cross_q_ptr, first_row, end, D, D, BLOCK_H)
        key = matmul(projected, weight)
        tl.store(keys_ptr + rows, key.to(keys_ptr.dtype.element_ty), mask=inside)
        weight = load_rows(cross_v_ptr, first_row, end, D, D, BLOCK_H)
        projected = matmul(q, tl.trans(weight))
        weight = load_rows(cross_out_ptr, first_row, end, D, D, BLOCK_H)
        value = matmul(projected, weight)
        tl.store(values_ptr + rows, value.to(values_ptr.dtype.element_ty), mask=inside)
