"""From a model's state dict to the weights as the inference kernels take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.finalize import FinalizeWeights
from kernels.frame_step import FrameStepWeights
from kernels.query_maps import QueryMapWeights
from kernels.time_step import TimeStepWeights

__all__ = ["R2BlockWeights", "pack_finalize", "pack_r2_block"]


@dataclass(frozen=True, kw_only=True)
class R2BlockWeights:
    """Weights of the whole R² block behind the two input maps.

    Attributes:
        scales: weight of the pooled patches of each layer, tanh applied, (K,) fp32.
        gates: share of each layer's step, sigmoid applied; that of the last layer is 1.
        heads: attention heads.
        query: of the attention to the query.
        frame: of the frame-local half.
        time: of the temporal half.
    """

    scales: Tensor
    gates: tuple[float, ...]
    heads: int
    query: QueryMapWeights
    frame: FrameStepWeights
    time: TimeStepWeights


def pack_r2_block(
    state: Mapping[str, Tensor], *, heads: int, dtype: torch.dtype, device: torch.device | str
) -> R2BlockWeights:
    """Pack the R² block of a state dict with the published checkpoints' keys.

    Args:
        state: of an `R2Tuning`.
        heads: attention heads H.
        dtype: of the matrices; the rest is fp32.
        device: where the weights go.
    """

    def read(name: str) -> Tensor:
        return state[f"adapter.{name}"].detach().double()

    def matrix(x: Tensor) -> Tensor:
        return x.to(device=device, dtype=dtype).contiguous()

    def vector(x: Tensor) -> Tensor:
        return x.to(device=device, dtype=torch.float32).contiguous()

    width = read("tem.cross_att.q.weight").shape[0]
    share = (width // heads) ** -0.5
    cross, mixed, ffn = "tem.cross_att", "tem.self_att", "tem.ffn.mapping"
    qkv = [read(f"{mixed}.{part}.weight") for part in "qkv"]
    qkv_bias = [read(f"{mixed}.{part}.bias") for part in "qkv"]
    return R2BlockWeights(
        scales=vector(read("scale").tanh()),
        gates=(*read("gate").sigmoid().tolist(), 1.0),
        heads=heads,
        query=QueryMapWeights(
            cross_q=matrix(read(f"{cross}.q.weight") * share),
            cross_q_bias=vector(read(f"{cross}.q.bias") * share),
            cross_k=matrix(read(f"{cross}.k.weight")),
            cross_v=matrix(read(f"{cross}.v.weight")),
            cross_out=matrix(read(f"{cross}.m.weight").T),
        ),
        frame=FrameStepWeights(
            cross_out_bias=vector(
                read(f"{cross}.m.bias") + read(f"{cross}.m.weight") @ read(f"{cross}.v.bias")
            ),
            norm_weight=vector(read("tem.cross_att_norm.weight")),
            norm_bias=vector(read("tem.cross_att_norm.bias")),
            qkv=matrix(torch.cat((qkv[0] * share, qkv[1], qkv[2]))),
            qkv_bias=vector(torch.cat((qkv_bias[0] * share, qkv_bias[1], qkv_bias[2]))),
        ),
        time=TimeStepWeights(
            out=matrix(read(f"{mixed}.m.weight").T),
            out_bias=vector(read(f"{mixed}.m.bias")),
            norm_weight=vector(read("tem.self_att_norm.weight")),
            norm_bias=vector(read("tem.self_att_norm.bias")),
            hidden=matrix(read(f"{ffn}.0.weight")),
            hidden_bias=vector(read(f"{ffn}.0.bias")),
            back=matrix(read(f"{ffn}.2.weight").T),
            back_bias=vector(read(f"{ffn}.2.bias")),
            last_norm_weight=vector(read("tem.ffn_norm.weight")),
            last_norm_bias=vector(read("tem.ffn_norm.bias")),
        ),
    )


def pack_finalize(
    state: Mapping[str, Tensor], *, dtype: torch.dtype, device: torch.device | str
) -> FinalizeWeights:
    """Pack the video map's second half; the model has temporal endpoint features."""

    def read(name: str) -> Tensor:
        return state[f"adapter.video_map.{name}"].detach().double()

    def vector(x: Tensor) -> Tensor:
        return x.to(device=device, dtype=torch.float32).contiguous()

    first = read("2.weight")
    weight = first * read("0.weight")  # W', (D, Cv + 2)
    offset = first @ read("0.bias") + read("2.bias")
    rows = (weight[:, :-2].sum(dim=1), weight[:, -2], weight[:, -1], offset)
    return FinalizeWeights(
        rows=vector(torch.stack(rows)),
        norm_weight=vector(read("4.weight")),
        norm_bias=vector(read("4.bias")),
        linear=read("6.weight").to(device=device, dtype=dtype).contiguous(),
        linear_bias=vector(read("6.bias")),
        channels=weight.shape[1] - 2,
    )
