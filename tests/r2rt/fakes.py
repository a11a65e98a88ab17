"""A model without weights: small graphs in NumPy whose numbers are known in advance.

A token holds the mean of its frame's red channel, so that what reaches the grounder shows which
frame stood for which clip, in which order, whatever the batches were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from r2rt.engines import Choice
from r2rt.engines.base import Array, Placed
from r2rt.grounding.grounder import Grounder
from r2rt.model.bundle import Bundle
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, ModelDims, level_lengths
from r2rt.model.manifest import FileEntry, Manifest, Nms, Preprocessing, Provenance, Verification

__all__ = ["FakeEngine", "fake_grounder", "frames_with_red"]

SIZE = 8
DIMS = ModelDims(
    image_size=SIZE,
    patches=2,
    layers=3,
    width=4,
    context_length=77,
    strides=(1, 2, 4, 8),
    use_tef=True,
    has_offsets=True,
)


class FakeEngine:
    """Runs the four graphs in numpy and counts how often each was run."""

    name = "fake"
    concurrent = True
    merges = False

    def __init__(self, frame_batch: int = 4) -> None:
        self.frame_batch = frame_batch
        self.runs: Counter[str] = Counter()
        self.frames_encoded = 0

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Placed],
        outputs: Mapping[str, Placed] | None = None,
    ) -> dict[str, Array]:
        self.runs[graph] += 1
        values = getattr(self, f"_{graph}")(inputs)
        for name, place in (outputs or {}).items():
            assert isinstance(place, np.ndarray)
            np.copyto(place, values[name])
            values[name] = place
        return cast("dict[str, Array]", values)

    @property
    def kept_bytes(self) -> int:
        return 64 << 20

    def empty(self, shape: Sequence[int]) -> Array:
        return np.empty(shape, np.float32)

    def release(self, graph: str) -> None:
        pass

    def close(self) -> None:
        pass

    def _video_encoder(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        frames = inputs["frames"]
        assert frames.dtype == np.uint8
        self.frames_encoded += len(frames)
        red = frames[..., 0].astype(np.float32).mean(axis=(1, 2))
        shape = (len(frames), DIMS.layers, DIMS.patches, DIMS.token_width)
        return {
            "tokens": np.broadcast_to(red[:, None, None, None], shape).copy(),
            "embedding": np.stack([red, -red], axis=1),
        }

    def _video_finalizer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tokens, endpoints = inputs["tokens"], inputs["endpoints"]
        return {"v": tokens[..., : DIMS.width] + 1000 * endpoints[:, None, None, :1]}

    def _text_encoder(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        ids, mask = inputs["token_ids"].astype(np.float32), inputs["query_mask"]
        total = (ids * mask).sum(axis=1)
        shape = (*mask.shape, DIMS.layers, DIMS.width)
        q = np.broadcast_to((ids * mask)[..., None, None], shape).swapaxes(1, 2).copy()
        pooled = np.broadcast_to(total[:, None], (len(ids), DIMS.width)).copy()
        return {"q": q, "q_key": q, "pooled": pooled}

    def _grounder(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        v, pooled = inputs["v"], inputs["pooled"]
        clips, queries = len(v), len(pooled)
        # The sum over real tokens, so that padding that leaked would show.
        real = (inputs["q"][:, 0, :, 0] * inputs["query_mask"]).sum(axis=1)
        np.testing.assert_allclose(real, pooled[:, 0])
        signal = v[:, 0, 0, 0]
        points = sum(level_lengths(clips, DIMS.strides))
        logits = np.resize(signal, points).astype(np.float32) / 100 - 5
        return {
            "class_logits": np.tile(logits, (queries, 1)) + (pooled[:, :1] % 7) / 10,
            "offsets": np.ones((queries, points, 2), np.float32),
            "saliency": np.tile(signal, (queries, 1)),
        }


def fake_grounder(tmp_path: Path, tokenizer: Path, engine: FakeEngine | None = None) -> Grounder:
    """Return a grounder over the fake engine; the tokenizer alone is real."""
    bundle = fake_bundle(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    choice = Choice(device="cpu", backend="fake", reason="test")
    return Grounder(bundle, engine or FakeEngine(), choice=choice)


def fake_bundle(path: Path) -> Bundle:
    """Return a bundle with a manifest and no files behind it."""
    entry = FileEntry(size=0, sha256="0" * 64)
    names = (VIDEO_ENCODER, "video_finalizer", TEXT_ENCODER, GROUNDER)
    manifest = Manifest(
        schema=1,
        name="fake",
        dims=DIMS,
        clip="none",
        vision_width=4,
        text_width=4,
        heads=1,
        merge_cls_sal=True,
        fps="1/2",
        unit_s=None,
        window_s=None,
        max_moments=50,
        nms=Nms(kind="normal", iou_threshold=0.7),
        preprocessing=Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)),
        precision="fp32",
        files={f"{name}.onnx": entry for name in names} | {"tokenizer.json": entry},
        provenance=Provenance(
            recipe=None,
            checkpoint="none",
            checkpoint_sha256="0" * 64,
            clip="none",
            clip_sha256="0" * 64,
            exporter="test",
            random_weights=True,
        ),
        verification=Verification(passed=True, checks=()),
    )
    return Bundle(path, manifest)


def frames_with_red(values: list[int], size: tuple[int, int] = (12, 16)) -> NDArray[np.uint8]:
    """Return (T, H, W, 3) uint8 frames, each of one shade of red."""
    frames = np.zeros((len(values), *size, 3), np.uint8)
    frames[..., 0] = np.array(values, np.uint8)[:, None, None]
    return frames
