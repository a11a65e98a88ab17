"""Holds graphs to what they should compute: tolerances, comparisons, a check without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2rt.model.contract import (
    GROUNDER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    query_inputs,
)
from r2rt.model.convert import reference
from r2rt.model.manifest import Check, Verification

if TYPE_CHECKING:
    from r2rt.model.convert.architecture import Architecture
    from r2rt.model.convert.folds import Weights

__all__ = ["TOLERANCES", "Comparison", "Tolerance", "check_graphs", "sample_frames"]

Array = NDArray[Any]

# Two frames, in this order, make a video in which every level of the pyramid has a point.
_CLIPS = (0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0)
# Tokens of the two queries, start and end included.
_LENGTHS = (12, 5)
_SEED = 20
# JSON has no infinity.
_LARGEST = 1e300


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What |got - want| may be: atol · max(rms(want), 0.1) + rtol · |want|.

    The scale of a tower's hidden states, and of what is linear in them, is the weights' own affair,
    so the absolute part is relative to it.
    """

    rtol: float
    atol: float


# fp32 arithmetic in another order. The encoders run through a dozen transformer blocks, the others
# are short; random weights reach a tenth of each limit at most, trained ones have larger outliers.
TOLERANCES = {
    VIDEO_ENCODER: Tolerance(rtol=2e-4, atol=1e-4),
    VIDEO_FINALIZER: Tolerance(rtol=1e-4, atol=5e-5),
    TEXT_ENCODER: Tolerance(rtol=2e-4, atol=1e-4),
    GROUNDER: Tolerance(rtol=1e-4, atol=1e-4),
    "bundle": Tolerance(rtol=5e-4, atol=5e-4),
}


class Comparison:
    """Collects the cases of one check."""

    def __init__(self, name: str, tolerance: Tolerance) -> None:
        self.name = name
        self.tolerance = tolerance
        self.cases = 0
        self.max_abs_error = 0.0
        self.error = 0.0
        self.atol = tolerance.atol

    def add(self, got: ArrayLike, want: ArrayLike) -> None:
        """Compare one array with what it should be; a wrong shape or NaN counts as infinite."""
        self.cases += 1
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        if got.shape != want.shape:
            self.error = math.inf
            return
        if not want.size:
            return
        difference = np.abs(got - want)
        atol = self.tolerance.atol * max(0.1, float(np.sqrt(np.square(want).mean())))
        error = float((difference / (atol + self.tolerance.rtol * np.abs(want))).max())
        if not error <= self.error:  # NaN counts as the largest error
            self.error = error if not math.isnan(error) else math.inf
            self.atol = atol
        absolute = float(difference.max())
        self.max_abs_error = max(self.max_abs_error, math.inf if math.isnan(absolute) else absolute)

    def check(self) -> Check:
        """Return the result as a manifest has it."""
        return Check(
            name=self.name,
            cases=self.cases,
            max_abs_error=min(self.max_abs_error, _LARGEST),
            error=min(self.error, _LARGEST),
            rtol=self.tolerance.rtol,
            atol=min(self.atol, _LARGEST),
            passed=self.error <= 1.0,
        )


def sample_frames(count: int, size: int) -> NDArray[np.uint8]:
    """Return (count, size, size, 3) uint8: a disc and a bar move over a slow colour gradient."""
    y, x = np.mgrid[0:size, 0:size] / size
    frames = np.empty((count, size, size, 3), dtype=np.uint8)
    for index in range(count):
        phase = index / count
        colours = [np.sin(2 * math.pi * (phase + x * c + y * (1 - c))) for c in (0.2, 0.5, 0.8)]
        image = 127 + 90 * np.stack(colours, axis=-1)
        disc = (x - 0.15 - 0.7 * phase) ** 2 + (y - 0.5) ** 2 < 0.02
        bar = np.abs(y - phase) < 0.05
        image[disc] = (250, 240, 20)
        image[bar] = (10, 20, 60)
        frames[index] = image.round().clip(0, 255).astype(np.uint8)
    return frames


def check_graphs(
    files: Mapping[str, Path], checkpoint: Weights, clip: Weights, architecture: Architecture
) -> Verification:
    """Compare the graphs with `reference` on two frames and two queries.

    Args:
        files: the ONNX file of each graph, by the graph's name.
        checkpoint: the R² block's tensors.
        clip: CLIP's tensors.
        architecture: what both are.
    """
    states = _frame_states(clip, architecture)  # (2, K, P, Cv)
    v = _mapped(checkpoint, states[list(_CLIPS)], use_tef=architecture.use_tef)
    comparisons = []

    frames = sample_frames(2, architecture.image_size)
    encoded = _run(files[VIDEO_ENCODER], frames=frames)
    tokens = encoded["tokens"]
    if architecture.use_tef:
        comparisons += _compare_tokens(tokens, states, len(v[0, 0, 0]))
        ends = np.arange(len(_CLIPS) + 1, dtype=np.float32) / len(_CLIPS)
        endpoints = np.stack([ends[:-1], ends[1:]], axis=1)
        tokens = _run(files[VIDEO_FINALIZER], tokens=tokens[list(_CLIPS)], endpoints=endpoints)["v"]
    else:
        tokens = tokens[list(_CLIPS)]
    # Behind the whole vision tower, whatever the finalizer's own tolerance is.
    comparisons.append(_compared("video v", TOLERANCES[VIDEO_ENCODER], tokens, v))

    queries = _queries(clip)
    text = [_text_states(clip, ids, architecture) for ids in queries]
    q = [np.stack([reference.map_query(checkpoint, x) for x in layers]) for layers in text]
    ids = np.zeros((len(queries), max(_LENGTHS)), np.int64)
    mask = np.zeros(ids.shape, np.float32)
    for row, query in enumerate(queries):
        ids[row, : len(query)], mask[row, : len(query)] = query, 1
    texts = _run(files[TEXT_ENCODER], token_ids=ids, query_mask=mask)
    found = Comparison("text_encoder q", TOLERANCES[TEXT_ENCODER])
    for row, want in enumerate(q):
        found.add(texts["q"][row, :, : want.shape[1]], want)
    comparisons.append(found)
    # An answer may hardly depend on these keys, as long as attention is spread evenly.
    found = Comparison("text_encoder q_key", TOLERANCES[TEXT_ENCODER])
    for row, layers in enumerate(q):
        want = np.array([reference.query_keys(checkpoint, layer) for layer in layers])
        found.add(texts["q_key"][row, :, : want.shape[1]], want)
    comparisons.append(found)

    if architecture.embedding_width is not None:
        for graph, got, embeddings in (
            (
                VIDEO_ENCODER,
                encoded["embedding"],
                [reference.embed_image(clip, x[-1]) for x in states],
            ),
            (TEXT_ENCODER, texts["embedding"], [reference.embed_text(clip, x[-1]) for x in text]),
        ):
            comparisons.append(
                _compared(f"{graph} embedding", TOLERANCES[graph], got, np.array(embeddings))
            )
    answers = _run(
        files[GROUNDER],
        v=tokens,
        query_mask=mask,
        patch_bias=np.zeros(v.shape[:-1], np.float32),
        **query_inputs(texts),
    )
    wanted = [
        reference.ground(
            checkpoint,
            list(v.swapaxes(0, 1)),
            list(layers),
            heads=architecture.heads,
            merge_cls_sal=architecture.merge_cls_sal,
        )
        for layers in q
    ]
    for name, values in answers.items():
        found = Comparison(f"bundle {name}", TOLERANCES["bundle"])
        for row, answer in enumerate(wanted):
            found.add(values[row], getattr(answer, name))
        comparisons.append(found)
    checks = tuple(comparison.check() for comparison in comparisons)
    return Verification(passed=all(x.passed for x in checks), checks=checks, reference="numpy")


def _frame_states(clip: Weights, architecture: Architecture) -> Array:
    """Return the last K blocks' states of the two frames, (2, K, P, Cv)."""
    states = [
        reference.image_states(
            clip,
            frame,
            blocks=architecture.vision_blocks,
            heads=architecture.vision_heads,
            mean=architecture.mean,
            std=architecture.std,
        )[-architecture.layers :]
        for frame in sample_frames(2, architecture.image_size)
    ]
    return np.array(states)


def _mapped(checkpoint: Weights, states: Array, *, use_tef: bool) -> Array:
    """Map states (T, K, P, Cv) to v (T, K, P, D)."""
    layers = states.swapaxes(0, 1)
    mapped = [reference.map_video(checkpoint, layer, use_tef=use_tef) for layer in layers]
    return np.stack(mapped, axis=1)


def _queries(clip: Weights) -> list[NDArray[np.int64]]:
    """Return token ids of two queries, drawn from all that the tower knows."""
    random = np.random.default_rng(_SEED)
    words = len(clip["token_embedding.weight"])
    return [random.integers(0, words, length) for length in _LENGTHS]


def _text_states(
    clip: Weights, ids: NDArray[np.int64], architecture: Architecture
) -> list[NDArray[np.float64]]:
    """Return the last K blocks' states of token ids (L,), (L, Ct) each."""
    states = reference.text_states(
        clip, ids, blocks=architecture.text_blocks, heads=architecture.text_heads
    )
    return states[-architecture.layers :]


def _compare_tokens(tokens: Array, states: Array, width: int) -> list[Comparison]:
    """Compare mean and M2, which v depends on little."""
    mean = states.mean(axis=-1)
    square = ((states - mean[..., None]) ** 2).sum(axis=-1)
    tolerance = TOLERANCES[VIDEO_ENCODER]
    return [
        _compared("video_encoder mean", tolerance, tokens[..., width], mean),
        _compared("video_encoder M2", tolerance, tokens[..., width + 1], square),
    ]


def _compared(name: str, tolerance: Tolerance, got: Array, want: Array) -> Comparison:
    comparison = Comparison(name, tolerance)
    comparison.add(got, want)
    return comparison


def _run(path: Path, **inputs: Array) -> dict[str, Array]:
    """Run a graph once; the session is closed again, and takes as little memory as it can."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
