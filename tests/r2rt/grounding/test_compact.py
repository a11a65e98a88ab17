"""Compact tokens: merging and rounding, and the model's answers from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from r2rt import EncodedVideo, Grounder
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.errors import EncodedVideoError
from r2rt.grounding.compact import CLUSTERS, CompactTokens
from r2rt.selection.shots import clip_features
from tests.r2rt.conftest import DEMO_VIDEO

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def demo() -> Grounder:
    return Grounder.load("demo", device="cpu", threads=2)


@pytest.fixture(scope="module")
def exact(demo: Grounder) -> EncodedVideo:
    return demo.encode(DEMO_VIDEO)


def tokens_of(clips: int, patches: int, width: int, seed: int = 0) -> Floats:
    """Random tokens (T, 2, P, width + 2) with a mean and an M2 beyond fp16."""
    random = np.random.default_rng(seed)
    tokens = random.normal(size=(clips, 2, patches, width + 2)).astype(np.float32)
    tokens[..., -1] = random.uniform(1, 3e5, tokens.shape[:-1])
    return tokens


def merged_one_by_one(patches: NDArray[np.float64], width: int) -> list[NDArray[np.float64]]:
    """k-means of one frame's patches (N, C) as the module describes it; members of each cluster."""
    x = patches[:, :width] / np.sqrt(patches[:, -1:])
    far = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    chosen = [int(far.argmax())]
    while len(chosen) < min(CLUSTERS, len(x)):
        near = np.min([((x - x[c]) ** 2).sum(axis=1) for c in chosen], axis=0)
        chosen.append(int(near.argmax()))
    centres = x[chosen]
    for _ in range(7):
        labels = ((x[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)
        centres = np.stack([x[labels == c].mean(axis=0) for c in range(len(centres))])
    return [patches[labels == c] for c in range(len(centres))]


def assert_rounded(got: Floats, want: NDArray[np.float64]) -> None:
    """Rows (R, 32) of one scale each: no farther in all than by a step of a 7th of the largest."""
    for row, true in zip(got, want, strict=True):
        step = np.abs(true).max() / 7
        plain = np.rint(true / step).clip(-7, 7) * step
        assert np.square(row - true).sum() <= 1.01 * np.square(plain - true).sum() + 1e-9
        if np.abs(row).any():
            levels = row / np.abs(row).max() * 7
            np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)


@pytest.mark.parametrize("patches", [50, 17, 8])
def test_rows_are_the_means_of_clusters(patches: int) -> None:
    width = 40
    tokens = tokens_of(3, patches, width)
    compact = CompactTokens.of(tokens, width=width)
    rows = compact.rows()
    for clip, layer in np.ndindex(3, 2):
        frame = tokens[clip, layer].astype(np.float64)
        clusters = [frame[:1], *merged_one_by_one(frame[1:], width)]
        assert compact.counts[clip, layer].tolist() == [len(x) for x in clusters]
        want = np.stack([x.mean(axis=0) for x in clusters])
        got = rows[clip, layer]
        for start in range(0, width, 32):
            part = slice(start, min(start + 32, width))
            assert_rounded(got[:, part], want[:, part])
        np.testing.assert_allclose(got[:, width], want[:, width], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(got[:, width + 1], want[:, width + 1], rtol=2e-3)


def test_patches_that_are_equal_lose_nothing_but_their_rounding() -> None:
    random = np.random.default_rng(1)
    levels = random.integers(-7, 8, (1, 1, 10, 64)).astype(np.float32)
    levels[..., ::32] = 7  # so that the step is 1
    tokens = np.concatenate([levels, np.ones((1, 1, 10, 2), np.float32)], axis=-1)
    tokens = tokens[:, :, [0, *random.integers(0, 10, 40)]]
    compact = CompactTokens.of(tokens, width=64)
    assert sorted(map(tuple, compact.repeated()[0, 0].tolist())) == sorted(
        map(tuple, tokens[0, 0].tolist())
    )
    bias = compact.bias()
    np.testing.assert_allclose(np.exp(bias), compact.counts, rtol=1e-6)
    assert np.isneginf(bias[compact.counts == 0]).all()


def test_a_clip_of_vit_b_32_takes_12_kb_at_most() -> None:
    compact = CompactTokens.of(np.ones((2, 4, 50, 258), np.float32), width=256)
    assert compact.nbytes / 2 <= 12_000
    assert len(compact.part(1, 2)) == 1
    assert np.shares_memory(compact.part(1, 2).codes, compact.codes)


def test_a_clip_does_not_depend_on_the_others() -> None:
    tokens = tokens_of(70, 20, 32)
    whole = CompactTokens.of(tokens, width=32)
    for start, end in ((0, 1), (60, 68)):
        alone = CompactTokens.of(tokens[start:end], width=32)
        np.testing.assert_array_equal(alone.rows(), whole.part(start, end).rows())


def test_bytes_are_read_again(demo: Grounder, exact: EncodedVideo) -> None:
    dims = demo.bundle.dims
    compact = CompactTokens.of(exact.tokens, width=dims.width)
    data = compact.to_bytes()
    assert len(data) == compact.nbytes
    again = CompactTokens.from_bytes(data, clips=len(compact), dims=dims)
    halves = CompactTokens.joined([again.part(0, 2), again.part(2, len(again))])
    for name, array in compact.arrays.items():
        np.testing.assert_array_equal(halves.arrays[name], array)
    for wrong in (data[:-1], data + b"x", bytes(len(data))):
        with pytest.raises(ValueError, match=r"expected|count|CLS|buffer|cannot"):
            CompactTokens.from_bytes(wrong, clips=len(compact), dims=dims)


def test_tokens_without_endpoint_features_have_no_moments() -> None:
    tokens = tokens_of(2, 30, 30)[..., :30]
    compact = CompactTokens.of(tokens, width=30)
    assert compact.rows().shape == (2, 2, 17, 30)
    assert compact.moments.shape == (2, 2, 17, 0)


def test_merged_rows_with_a_bias_give_the_answer_of_repeated_rows(
    demo: Grounder, exact: EncodedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact = exact.compacted(demo.bundle.dims)
    assert compact.compact is not None
    assert (compact.compact.counts > 1).any()
    queries = ["a red circle", "a square moves to the left"]
    got = demo.ground(compact, queries)
    repeated = dataclasses.replace(exact, tokens=compact.compact.repeated())
    want = demo.ground(repeated, queries)
    near = demo.ground(exact, queries)[0]
    np.testing.assert_allclose(got[0].saliency, near.saliency, atol=0.15)
    monkeypatch.setattr(OnnxRuntimeEngine, "merges", False)
    older = dataclasses.replace(compact)  # another video, so that nothing kept is used
    fallback = Grounder.load("demo", device="cpu", threads=2)
    monkeypatch.setattr(OnnxRuntimeEngine, "run", _with_zero_bias(OnnxRuntimeEngine.run))
    for answers in (got, fallback.ground(older, queries)):
        for found, expected in zip(answers, want, strict=True):
            np.testing.assert_allclose(found.saliency, expected.saliency, atol=1e-4)
            np.testing.assert_allclose(found.boundaries, expected.boundaries, atol=1e-2)


def _with_zero_bias(run: Callable[..., Any]) -> Callable[..., Any]:
    """An engine whose grounder takes no bias, over one that does."""

    def without_bias(self: Any, graph: str, inputs: dict[str, Any], outputs: Any = None) -> Any:
        if graph == "grounder":
            assert "patch_bias" not in inputs
            inputs = {**inputs, "patch_bias": np.zeros(inputs["v"].shape[:-1], np.float32)}
        return run(self, graph, inputs, outputs)

    return without_bias


def test_a_compact_video_is_saved_and_cut(demo: Grounder, tmp_path: Path) -> None:
    video = demo.encode(DEMO_VIDEO, compact=True)
    assert video.compact is not None
    assert video.num_clips == len(video.compact) > 2
    assert video.nbytes < 0.12 * demo.encode(DEMO_VIDEO).nbytes
    path = tmp_path / "video.r2rt"
    video.save(path)
    loaded = EncodedVideo.load(path)
    assert loaded.compact is not None
    for name, array in video.compact.arrays.items():
        np.testing.assert_array_equal(loaded.compact.arrays[name], array)
        assert loaded.compact.arrays[name].flags.aligned
        np.testing.assert_array_equal(load_file(path)[name], array)
    np.testing.assert_array_equal(loaded.embeddings, video.embeddings)
    want, got = (demo.ground(x, "a red circle") for x in (video, loaded))
    np.testing.assert_array_equal(got.boundaries, want.boundaries)
    part = loaded.part(1, 3)
    assert part.num_clips == 2
    np.testing.assert_array_equal(part.full_tokens(0, 1), loaded.full_tokens(1, 2))
    assert clip_features(loaded, demo.bundle.dims).shape == (
        loaded.num_clips,
        demo.bundle.dims.width,
    )
    assert loaded.compacted(demo.bundle.dims) is loaded


def test_tensors_that_do_not_fit_each_other_are_refused(demo: Grounder, tmp_path: Path) -> None:
    import json

    import xxhash

    path = tmp_path / "video.r2rt"
    demo.encode(DEMO_VIDEO, compact=True).save(path)
    tensors = load_file(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    record = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["r2rt_encoded_video"])

    def write(changed: dict[str, NDArray[np.generic]]) -> None:
        text = json.dumps(record | {"xxh3_128": "0" * 32})
        save_file(changed, path, {"r2rt_encoded_video": text})
        whole = path.read_bytes()
        digest = xxhash.xxh3_128_hexdigest(whole[8:])
        path.write_bytes(whole.replace(b"0" * 32, digest.encode(), 1))

    write(dict(tensors))
    EncodedVideo.load(path)
    counts = tensors["counts"]
    for name, wrong in (
        ("counts", counts + 1),
        ("counts", np.flip(counts, axis=2).copy()),
        ("counts", counts[:, :, 1:].copy()),
        ("codes", tensors["codes"][..., 1:].copy()),
        ("scales", tensors["scales"][..., :1].copy()),
        ("moments", tensors["moments"][..., :1].copy()),
        ("scales", tensors["scales"].astype(np.float32)),
    ):
        write(tensors | {name: wrong})
        with pytest.raises(EncodedVideoError):
            EncodedVideo.load(path)
    write({name: tensor for name, tensor in tensors.items() if name != "moments"})
    with pytest.raises(EncodedVideoError):
        EncodedVideo.load(path)
