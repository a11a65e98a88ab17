"""What the graphs hold, computed from a checkpoint's tensors and CLIP's: every fold, once.

The exporter's PyTorch modules take their weights from here, and so does what fills a graph that
was exported before. Each function returns the weights of one graph, or of one part of it, by the
names that they have there. Sums are computed in fp64 and rounded to fp32 at the end. Matrices are
(inputs, outputs), so that a layer is x·W + b; many are transposed views of a tensor that was given.

A checkpoint is in the published names (`adapter.video_map.0.weight`), CLIP in OpenAI's
(`visual.conv1.weight`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Weights",
    "frame_tokens",
    "grounder",
    "grounder_heads",
    "query_tokens",
    "text_encoder",
    "video_encoder",
    "video_finalizer",
]

Array = NDArray[Any]
Weights = Mapping[str, Array]
Triple = tuple[float, float, float]


def video_encoder(
    checkpoint: Weights,
    clip: Weights,
    *,
    heads: int,
    use_tef: bool,
    mean: Triple,
    std: Triple,
    rotary: bool = False,
    pool_heads: int = 0,
) -> dict[str, Array]:
    """Weights of `video_encoder`.

    Args:
        checkpoint: the R² block's tensors.
        clip: CLIP's tensors.
        heads: attention heads of a vision block.
        use_tef: whether the model has temporal endpoint features.
        mean: of RGB in 0..1, with which frames are normalised.
        std: of RGB in 0..1.
        rotary: whether the blocks' queries and keys are rotated by their positions.
        pool_heads: heads of the attention that pools the tokens to the embedding; 0 without it.
    """
    # Σ w·(x - mean)/std over a patch = Σ (w/std)·x - Σ (w/std)·mean, x in 0..255.
    centre, scale = (255 * np.reshape(x, (1, 3, 1, 1)) for x in (mean, std))
    scaled = _double(clip["visual.conv1.weight"]) / scale  # (Cv, 3, p, p)
    positions = _double(clip["visual.positional_embedding"])  # (P, Cv)
    weights = {"patch_weight": _single(scaled.transpose(2, 3, 1, 0).reshape(-1, len(scaled)))}
    if "visual.class_embedding" in clip:
        token, positions = _double(clip["visual.class_embedding"]) + positions[0], positions[1:]
        weights["cls"] = _single(token)[None, None]
    if "visual.ln_pre.weight" in clip:
        weights |= _norm("ln_pre", clip, "visual.ln_pre")
    return {
        **weights,
        "positions": _single(positions - (scaled * centre).sum(axis=(1, 2, 3))),
        **_tower(clip, "visual.transformer", heads, rotary=rotary),
        **_inside("tokens", frame_tokens(checkpoint, use_tef=use_tef)),
        **_projection(clip, "visual.ln_post", "visual.proj"),
        **(_inside("projection.pool", _attention_pool(clip, pool_heads)) if pool_heads else {}),
    }


def frame_tokens(checkpoint: Weights, *, use_tef: bool) -> dict[str, Array]:
    """Weights of the part of `video_encoder` behind CLIP: W'ₓ with endpoint features, else all."""
    if not use_tef:
        return _map("video_map", checkpoint, "adapter.video_map")
    return {"weight": _single(_scaled_map(checkpoint)[:, :-2].T)}


def video_finalizer(checkpoint: Weights) -> dict[str, Array]:
    """Weights of `video_finalizer`; `export.graphs.video` has the formula."""
    weight = _scaled_map(checkpoint)  # W', (D, Cv + 2)
    offset = _double(checkpoint["adapter.video_map.2.weight"]) @ _double(
        checkpoint["adapter.video_map.0.bias"]
    ) + _double(checkpoint["adapter.video_map.2.bias"])
    # Rows that (m - μ, s - μ, e - μ) / √(σ² + ε) and 1 are multiplied with, (4, D).
    rows = [weight[:, :-2].sum(axis=1), weight[:, -2], weight[:, -1], offset]
    return {
        "rows": _single(np.stack(rows)),
        **_norm("norm", checkpoint, "adapter.video_map.4"),
        **_linear("linear", checkpoint, "adapter.video_map.6"),
    }


def text_encoder(checkpoint: Weights, clip: Weights, *, heads: int) -> dict[str, Array]:
    """Weights of `text_encoder`; heads are those of a text block."""
    return {
        "embedding.weight": _single(clip["token_embedding.weight"]),
        "positions": _single(clip["positional_embedding"]),
        **_tower(clip, "transformer", heads),
        **_inside("tokens", query_tokens(checkpoint)),
        **_projection(clip, "ln_final", "text_projection"),
    }


def query_tokens(checkpoint: Weights) -> dict[str, Array]:
    """Weights of the part of `text_encoder` behind CLIP: v_map goes into the query's key map."""
    v_map = _double(checkpoint["adapter.v_map.weight"])
    fold = v_map / math.sqrt(len(v_map))  # W_v / √D
    return {
        **_map("query_map", checkpoint, "adapter.query_map"),
        "key_map.weight": _single(_double(checkpoint["adapter.q_map.weight"]).T @ fold),
        "key_map.bias": _single(_double(checkpoint["adapter.q_map.bias"]) @ fold),
        "pooling": _single(checkpoint["pooling.att.weight"]).T,  # (D, 1)
    }


def grounder(checkpoint: Weights, *, heads: int) -> dict[str, Array]:
    """Weights of `grounder`; heads are those of the temporal layer."""
    scale = np.tanh(_double(checkpoint["adapter.scale"]))
    gates = 1 / (1 + np.exp(-_double(checkpoint["adapter.gate"])))
    return {
        "pooling.scale": _single(scale).reshape(-1, 1, 1, 1),
        **_each("temporal.gates", _single(gates)[:, None]),
        **_each("temporal.keeps", _single(1 - gates)[:, None]),
        **_inside("temporal", _temporal_layer(checkpoint, heads)),
        **grounder_heads(checkpoint),
    }


def grounder_heads(checkpoint: Weights) -> dict[str, Array]:
    """Weights of the part of `grounder` behind the recurrence: pyramid and heads."""
    return {**_inside("pyramid", _pyramid(checkpoint)), **_inside("heads", _heads(checkpoint))}


def _temporal_layer(checkpoint: Weights, heads: int) -> dict[str, Array]:
    cross, mixed = "adapter.tem.cross_att", "adapter.tem.self_att"
    width = len(checkpoint[f"{cross}.q.weight"])
    scale = (width // heads) ** -0.5
    return {
        **_stacked("cross_q", checkpoint, {f"{cross}.q": scale}),
        **_stacked("cross_kv", checkpoint, {f"{cross}.k": 1.0, f"{cross}.v": 1.0}),
        **_linear("cross_out", checkpoint, f"{cross}.m"),
        **_norm("cross_norm", checkpoint, f"{cross}_norm"),
        **_stacked("self_qk", checkpoint, {f"{mixed}.q": scale, f"{mixed}.k": 1.0}),
        **_linear("self_v", checkpoint, f"{mixed}.v"),
        **_linear("self_out", checkpoint, f"{mixed}.m"),
        **_norm("self_norm", checkpoint, f"{mixed}_norm"),
        **_linear("ffn.0", checkpoint, "adapter.tem.ffn.mapping.0"),
        **_linear("ffn.2", checkpoint, "adapter.tem.ffn.mapping.2"),
        **_norm("ffn_norm", checkpoint, "adapter.tem.ffn_norm"),
    }


def _pyramid(checkpoint: Weights) -> dict[str, Array]:
    """Level n is n steps of a convolution of two clips, at 5·step + 1, and its norm, at + 3."""
    levels = range(1, len(checkpoint["coef"]))
    weights: dict[str, Array] = {}
    if levels:
        # The first step of every level reads the clips: one product serves all of them.
        first = [f"pyramid.blocks.{level}.1" for level in levels]
        weights["first"] = np.concatenate([_pair_matrix(checkpoint, x) for x in first], axis=1)
        weights["first_bias"] = np.concatenate([_single(checkpoint[f"{x}.bias"]) for x in first])
    for level in levels:
        for step in range(level):
            conv = f"pyramid.blocks.{level}.{5 * step + 1}"
            norm = f"pyramid.blocks.{level}.{5 * step + 3}"
            weights |= _norm(f"norms.{level - 1}.{step}", checkpoint, norm)
            if step:
                weights[f"weights.{level - 1}.{step - 1}"] = _pair_matrix(checkpoint, conv)
                weights[f"biases.{level - 1}.{step - 1}"] = _single(checkpoint[f"{conv}.bias"])
    return weights


def _heads(checkpoint: Weights) -> dict[str, Array]:
    """Class and coordinate head side by side: the second convolution is one of blocks."""
    heads = ["class_head"] + ["coord_head"] * ("coord_head.module.3.weight" in checkpoint)
    inner = [_single(checkpoint[f"{head}.module.1.weight"]) for head in heads]
    outer = [_single(checkpoint[f"{head}.module.3.weight"]) for head in heads]
    width = inner[0].shape[1]
    blocks = np.zeros((sum(map(len, outer)), width * len(heads), 3), np.float32)
    row = 0
    for index, block in enumerate(outer):
        blocks[row : row + len(block), index * width : (index + 1) * width] = block
        row += len(block)
    weights = {
        "inner.weight": np.concatenate(inner),
        "inner.bias": np.concatenate([_single(checkpoint[f"{x}.module.1.bias"]) for x in heads]),
        "outer.weight": blocks,
        "outer.bias": np.concatenate([_single(checkpoint[f"{x}.module.3.bias"]) for x in heads]),
    }
    if len(heads) > 1:
        weights |= _each("coef", _single(checkpoint["coef"])[:, None])
    return weights


def _projection(clip: Weights, norm: str, matrix: str) -> dict[str, Array]:
    """From a tower to CLIP's embedding: what of it the weights have."""
    parts = {"projection.weight": matrix, "projection.bias": f"{matrix}_bias"}
    weights = {name: _single(clip[theirs]) for name, theirs in parts.items() if theirs in clip}
    if f"{norm}.weight" in clip:
        weights |= _norm("projection.norm", clip, norm)
    return weights


def _attention_pool(clip: Weights, heads: int) -> dict[str, Array]:
    """A learned query attends to tokens x: softmax((x·W_k)·q)·x·W_v + b_v, a head at a time.

    q does not depend on x, so W_k·q is one column a head; b_k adds the same to all tokens. Tokens
    are pooled before W_v, which is then applied to one row a head.
    """
    prefix = "visual.attn_pool"
    width = len(clip[f"{prefix}.q.bias"])
    query = _double(clip[f"{prefix}.q.weight"]) @ _double(clip[f"{prefix}.latent"]).ravel()
    query = (query + _double(clip[f"{prefix}.q.bias"])).reshape(heads, 1, -1)
    keys, values = (
        half.reshape(heads, -1, width) for half in np.split(_double(clip[f"{prefix}.kv.weight"]), 2)
    )
    scores = (query @ keys)[:, 0] * (width // heads) ** -0.5  # (heads, C)
    return {
        "keys": _single(scores.T),
        "values": _single(values.transpose(0, 2, 1)),  # (heads, C, d)
        "values_bias": _single(clip[f"{prefix}.kv.bias"])[width:],
        **_linear("out", clip, f"{prefix}.out"),
        **_norm("norm", clip, f"{prefix}.norm"),
        **_linear("fc", clip, f"{prefix}.fc"),
        **_linear("proj", clip, f"{prefix}.proj"),
    }


def _tower(clip: Weights, prefix: str, heads: int, *, rotary: bool = False) -> dict[str, Array]:
    """Blocks of a CLIP tower, 1/√d of the attention in the queries' part of qkv.

    Where queries and keys are rotated, their channels (0, 1), (2, 3), ... turn together: those of
    a head are reordered to 0, 2, ..., 1, 3, ..., which leaves q·k as it is.
    """
    found = (re.match(rf"{re.escape(prefix)}\.resblocks\.(\d+)\.", key) for key in clip)
    weights: dict[str, Array] = {}
    for index in sorted({int(match[1]) for match in found if match}):
        theirs, ours = f"{prefix}.resblocks.{index}", f"blocks.{index}"
        qkv = _double(clip[f"{theirs}.attn.in_proj_weight"])  # (3C, C)
        width = qkv.shape[1]
        bias = _double(clip[f"{theirs}.attn.in_proj_bias"])
        factors = np.ones(3 * width)
        factors[:width] = (width // heads) ** -0.5
        rows = np.arange(3 * width)
        if rotary:
            turned = rows[: 2 * width].reshape(2 * heads, -1, 2)
            rows[: 2 * width] = turned.transpose(0, 2, 1).ravel()
        weights |= {
            **_norm(f"{ours}.ln_1", clip, f"{theirs}.ln_1"),
            f"{ours}.qkv.weight": _single(qkv * factors[:, None])[rows].T,
            f"{ours}.qkv.bias": _single(bias * factors)[rows],
            **_linear(f"{ours}.out", clip, f"{theirs}.attn.out_proj"),
            **_norm(f"{ours}.ln_2", clip, f"{theirs}.ln_2"),
            **_linear(f"{ours}.fc", clip, f"{theirs}.mlp.c_fc"),
            **_linear(f"{ours}.proj", clip, f"{theirs}.mlp.c_proj"),
        }
    return weights


def _scaled_map(checkpoint: Weights) -> Array:
    """W' = W·diag(γ) of the video map's first stage, (D, Cv + 2), fp64."""
    weight = _double(checkpoint["adapter.video_map.2.weight"])
    return weight * _double(checkpoint["adapter.video_map.0.weight"])


def _map(name: str, source: Weights, prefix: str) -> dict[str, Array]:
    """LN, Linear, ReLU, LN, Linear."""
    return {
        **_norm(f"{name}.0", source, f"{prefix}.0"),
        **_linear(f"{name}.2", source, f"{prefix}.2"),
        **_norm(f"{name}.4", source, f"{prefix}.4"),
        **_linear(f"{name}.6", source, f"{prefix}.6"),
    }


def _linear(name: str, source: Weights, prefix: str) -> dict[str, Array]:
    return {
        f"{name}.weight": _single(source[f"{prefix}.weight"]).T,
        f"{name}.bias": _single(source[f"{prefix}.bias"]),
    }


def _stacked(name: str, source: Weights, parts: Mapping[str, float]) -> dict[str, Array]:
    """One layer: the outputs of `parts` side by side, each times a scale."""
    weights = [_double(source[f"{part}.weight"]) * scale for part, scale in parts.items()]
    biases = [_double(source[f"{part}.bias"]) * scale for part, scale in parts.items()]
    return {
        f"{name}.weight": _single(np.concatenate(weights)).T,
        f"{name}.bias": _single(np.concatenate(biases)),
    }


def _norm(name: str, source: Weights, prefix: str) -> dict[str, Array]:
    return {f"{name}.{x}": _single(source[f"{prefix}.{x}"]) for x in ("weight", "bias")}


def _pair_matrix(source: Weights, prefix: str) -> Array:
    """Weight (D', D, 2) of a convolution of two clips as the matrix (2D, D') of a product."""
    weight = _single(source[f"{prefix}.weight"])
    return weight.transpose(2, 1, 0).reshape(-1, len(weight))


def _each(name: str, values: Iterable[Array]) -> dict[str, Array]:
    return {f"{name}.{index}": value for index, value in enumerate(values)}


def _inside(part: str, weights: Weights) -> dict[str, Array]:
    return {f"{part}.{name}": value for name, value in weights.items()}


def _double(x: Array) -> Array:
    return np.asarray(x, np.float64)


def _single(x: Array) -> Array:
    return np.asarray(x, np.float32)
