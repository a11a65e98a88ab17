"""The whole model in plain NumPy: frames and token ids to answers, one formula a line, in fp64.

It is written from the model's definition, not from the graphs: nothing is folded, padded or
batched. The graphs are held to it after a conversion, and readers may start here.

A checkpoint's tensors have the published names, CLIP's have OpenAI's. T clips, P tokens a frame,
K CLIP layers, L query tokens, D width of the R² block, Cv and Ct widths of CLIP's towers, E of its
embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Answer",
    "Prefixed",
    "embed_image",
    "embed_text",
    "ground",
    "image_states",
    "map_query",
    "map_video",
    "query_keys",
    "text_states",
]

Floats = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Logits (M,) and offsets (M, 2) in strides (None without a head), and saliency (T,)."""

    class_logits: Floats
    offsets: Floats | None
    saliency: Floats


class Prefixed:
    """The tensors below a prefix, in fp64: `w["ln_1.weight"]`."""

    def __init__(self, weights: Weights, prefix: str = "") -> None:
        self._weights, self._prefix = weights, prefix

    def __getitem__(self, name: str) -> Floats:
        return np.asarray(self._weights[self._prefix + name], np.float64)

    def inside(self, part: str) -> Prefixed:
        """Return the tensors of a part."""
        return Prefixed(self._weights, f"{self._prefix}{part}.")


def image_states(
    clip: Weights, frame: NDArray[np.uint8], *, blocks: int, heads: int, mean: Triple, std: Triple
) -> list[Floats]:
    """Return what each block of the vision tower puts out for a frame (S, S, 3): (P, Cv) each."""
    w = Prefixed(clip, "visual.")
    kernel = w["conv1.weight"]  # (Cv, 3, p, p)
    side = kernel.shape[-1]
    grid = len(frame) // side
    x = (frame[: grid * side, : grid * side] / 255 - mean) / std
    x = x.reshape(grid, side, grid, side, 3).transpose(0, 2, 4, 1, 3)  # (grid, grid, 3, p, p)
    x = x.reshape(grid * grid, -1) @ kernel.reshape(len(kernel), -1).T
    x = np.vstack([w["class_embedding"], x]) + w["positional_embedding"]
    return _tower(w, _norm(x, w.inside("ln_pre")), blocks, heads, causal=False)


def text_states(clip: Weights, ids: NDArray[np.int64], *, blocks: int, heads: int) -> list[Floats]:
    """Return what each block of the text tower puts out for token ids (L,): (L, Ct) each."""
    x = np.asarray(clip["token_embedding.weight"][ids], np.float64)
    x = x + Prefixed(clip)["positional_embedding"][: len(ids)]
    return _tower(Prefixed(clip), x, blocks, heads, causal=True)


def embed_image(clip: Weights, states: Floats) -> Floats:
    """Return CLIP's embedding (E,) of the last vision block's states (P, Cv), not normalised."""
    w = Prefixed(clip, "visual.")
    return np.asarray(_norm(states[0], w.inside("ln_post")) @ w["proj"])


def embed_text(clip: Weights, states: Floats) -> Floats:
    """Return CLIP's embedding (E,) of the last text block's states (L, Ct) of a text's L tokens."""
    w = Prefixed(clip)
    return np.asarray(_norm(states[-1], w.inside("ln_final")) @ w["text_projection"])


def map_video(checkpoint: Weights, states: Floats, *, use_tef: bool) -> Floats:
    """Map one layer's states (T, P, Cv) to v (T, P, D)."""
    clips, patches, _ = states.shape
    if use_tef:
        s = np.broadcast_to(np.arange(clips)[:, None, None] / clips, (clips, patches, 1))
        states = np.concatenate([states, s, s + 1 / clips], axis=-1)
    return _map(states, Prefixed(checkpoint, "adapter.video_map."))


def map_query(checkpoint: Weights, states: Floats) -> Floats:
    """Map one layer's states (L, Ct) to q (L, D)."""
    return _map(states, Prefixed(checkpoint, "adapter.query_map."))


def query_keys(checkpoint: Weights, q: Floats) -> Floats:
    """Return k = (W_q·q + b_q)·W_v / √D of one layer's q (L, D), so that softmax(k·vᵀ) pools v.

    W_q and b_q are `q_map`, W_v is the weight of `v_map`, whose bias adds the same to all patches.
    """
    w = Prefixed(checkpoint, "adapter.")
    return np.asarray(_linear(q, w.inside("q_map")) @ w["v_map.weight"] / math.sqrt(q.shape[-1]))


def ground(
    checkpoint: Weights, v: list[Floats], q: list[Floats], *, heads: int, merge_cls_sal: bool
) -> Answer:
    """Answer one query.

    Args:
        checkpoint: the R² block's tensors.
        v: mapped tokens (T, P, D) of each of the K layers, in CLIP's order.
        q: mapped query tokens (L, D) of each layer.
        heads: attention heads of the temporal layer.
        merge_cls_sal: whether saliency is multiplied by the cosine of clip and query.
    """
    w = Prefixed(checkpoint)
    last: Floats | None = None
    for layer in reversed(range(len(v))):
        f = _pool_frames(w.inside("adapter"), v[layer], q[layer], layer)
        if last is not None:
            gate = _sigmoid(w["adapter.gate"][layer])
            f = gate * f + (1 - gate) * last
        last = _mix_time(w.inside("adapter.tem"), f, q[layer], heads)
    assert last is not None
    video = np.maximum(last, 0)
    query = _softmax(q[0] @ w["pooling.att.weight"][0]) @ q[0]
    levels = _levels(w, video)
    logits = [_head(w.inside("class_head"), level)[:, 0] for level in levels]
    offsets = None
    if "coord_head.module.1.weight" in checkpoint:
        parts = [np.exp(_head(w.inside("coord_head"), level)) for level in levels]
        offsets = np.vstack([x * c for x, c in zip(parts, w["coef"], strict=False)])
    saliency = np.max([_stretched(_sigmoid(x), len(video)) for x in logits], axis=0)
    if merge_cls_sal:
        norms = np.linalg.norm(video, axis=1) * np.linalg.norm(query)
        saliency = saliency * (video @ query / np.maximum(norms, 1e-8))
    return Answer(class_logits=np.concatenate(logits), offsets=offsets, saliency=saliency)


def _tower(w: Prefixed, x: Floats, blocks: int, heads: int, *, causal: bool) -> list[Floats]:
    outputs = []
    bias = np.triu(np.full((len(x), len(x)), -np.inf), 1) if causal else 0.0
    for index in range(blocks):
        b = w.inside(f"transformer.resblocks.{index}")
        h = _norm(x, b.inside("ln_1")) @ b["attn.in_proj_weight"].T + b["attn.in_proj_bias"]
        q, k, v = np.split(h, 3, axis=-1)
        x = x + _linear(_attend(q, k, v, heads, bias), b.inside("attn.out_proj"))
        h = _linear(_norm(x, b.inside("ln_2")), b.inside("mlp.c_fc"))
        x = x + _linear(h * _sigmoid(1.702 * h), b.inside("mlp.c_proj"))
        outputs.append(x)
    return outputs


def _pool_frames(w: Prefixed, v: Floats, q: Floats, layer: int) -> Floats:
    """F = v[CLS] + tanh(scale)·max over L of (a·v + q), a = softmax over P of q·kᵀ: (T, D)."""
    keys, queries = _linear(v, w.inside("v_map")), _linear(q, w.inside("q_map"))
    a = _softmax(queries @ keys.swapaxes(1, 2) / math.sqrt(v.shape[-1]))  # (T, L, P)
    return np.asarray(v[:, 0] + np.tanh(w["scale"][layer]) * (a @ v + q).max(axis=1))


def _mix_time(w: Prefixed, f: Floats, q: Floats, heads: int) -> Floats:
    """Cross-attention to the query, attention over time, feed-forward, each added and normed."""
    pe = _positions(*f.shape)
    f = _norm(
        f + _attention(w.inside("cross_att"), f + pe, q, q, heads), w.inside("cross_att_norm")
    )
    f = _norm(
        f + _attention(w.inside("self_att"), f + pe, f + pe, f, heads), w.inside("self_att_norm")
    )
    inner = np.maximum(_linear(f, w.inside("ffn.mapping.0")), 0)
    return _norm(f + _linear(inner, w.inside("ffn.mapping.2")), w.inside("ffn_norm"))


def _positions(clips: int, width: int) -> Floats:
    """Sine encoding of 2π·n / (T + 1e-6), n = 1..T, sin and cos interleaved: (T, D)."""
    angle = 2 * math.pi * np.arange(1, clips + 1) / (clips + 1e-6)
    angle = angle[:, None] / 10000 ** (2 * np.arange(width // 2) / width)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(clips, width)


def _levels(w: Prefixed, video: Floats) -> list[Floats]:
    """Levels of the pyramid, (T // stride, D) each; one whose stride exceeds T is left out."""
    levels = [video]
    for level in range(1, len(w["coef"])):
        if len(video) < 2**level:
            break
        x, at = video, w.inside(f"pyramid.blocks.{level}")
        for step in range(level):
            kernel = at[f"{5 * step + 1}.weight"]  # (D, D, 2)
            pairs = x[: len(x) // 2 * 2].reshape(-1, 2, x.shape[1])
            x = np.einsum("tjd,odj->to", pairs, kernel) + at[f"{5 * step + 1}.bias"]
            x = np.maximum(_norm(x, at.inside(f"{5 * step + 3}")), 0)
        levels.append(x)
    return levels


def _head(w: Prefixed, x: Floats) -> Floats:
    return _convolved(np.maximum(_convolved(x, w, "module.1"), 0), w, "module.3")


def _convolved(x: Floats, w: Prefixed, name: str) -> Floats:
    """Conv1d of three clips, with a zero before the first and behind the last."""
    padded = np.pad(x, ((1, 1), (0, 0)))
    windows = np.stack([padded[:-2], padded[1:-1], padded[2:]], axis=1)  # (T, 3, D)
    out: Floats = np.einsum("tjd,odj->to", windows, w[f"{name}.weight"]) + w[f"{name}.bias"]
    return out


def _stretched(scores: Floats, clips: int) -> Floats:
    """Repeat each score int(T / points) times; the tail repeats the last."""
    index = np.arange(clips) // (clips // len(scores))
    return scores[np.minimum(index, len(scores) - 1)]


def _attention(w: Prefixed, q: Floats, k: Floats, v: Floats, heads: int) -> Floats:
    q, k, v = (_linear(x, w.inside(name)) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    return _linear(_attend(q, k, v, heads), w.inside("m"))


def _attend(q: Floats, k: Floats, v: Floats, heads: int, bias: Floats | float = 0.0) -> Floats:
    """softmax(q·kᵀ / √d + bias)·v over heads of width d, (N, C) and (S, C) to (N, C)."""
    q, k, v = (x.reshape(len(x), heads, -1).swapaxes(0, 1) for x in (q, k, v))
    a = _softmax(q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]) + bias)
    mixed = (a @ v).swapaxes(0, 1)
    return mixed.reshape(len(mixed), -1)


def _map(x: Floats, w: Prefixed) -> Floats:
    h = np.maximum(_linear(_norm(x, w.inside("0")), w.inside("2")), 0)
    return _linear(_norm(h, w.inside("4")), w.inside("6"))


def _linear(x: Floats, w: Prefixed) -> Floats:
    return np.asarray(x @ w["weight"].T + w["bias"])


def _norm(x: Floats, w: Prefixed) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + 1e-5) * w["weight"] + w["bias"])


def _softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
