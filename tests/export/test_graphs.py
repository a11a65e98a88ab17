"""The graphs' modules and their ONNX files against golden data and against the model itself."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export.exporter import Exported, export_bundle
from export.graphs import FrameTokens, Grounder, GrounderHeads, QueryTokens, VideoFinalizer
from export.graphs.text import RowEmbedding, embedding_of
from export.onnx_writer import module_weights
from export.template_cache import graph_to_onnx
from export.templates import build_graphs, model_dims, template_of
from r2rt.grounding.moments import boundaries_from_points
from r2rt.model.contract import (
    GROUNDER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    GraphSpec,
    ModelDims,
    TensorSpec,
    graph_specs,
    level_lengths,
    query_inputs,
)
from r2rt.model.convert.template import write_graph
from tests.export.tiny import (
    CONFIG,
    HIGHLIGHT,
    MOMENT,
    endpoints,
    feature_graphs,
    run,
    session,
    tiny_towers,
    to_numpy,
)
from tests.golden_data import GOLDEN, Tolerance, assert_golden, load_arrays
from tests.stretching import highest, split_levels
from tests.unmerged import unmerged
from training.checkpoint import build_model
from training.model import R2Config, R2Tuning

pytestmark = pytest.mark.slow

# ONNX Runtime's fp32 against the authors' fp32.
EXPORTED = Tolerance(rtol=1e-3, atol=1e-4)
# The rearranged modules in PyTorch: nothing but the order of sums differs.
EAGER = Tolerance(rtol=1e-4, atol=1e-5)


def check_answers(
    arrays: dict[str, NDArray[Any]],
    answers: dict[str, NDArray[Any]],
    strides: tuple[int, ...],
    tolerance: Tolerance,
) -> None:
    """Compare one query's answers with a golden's saliency and boundaries."""
    assert_golden(answers["saliency"][0], arrays["saliency"], tolerance, "saliency")
    if "boundary" not in arrays:
        assert "offsets" not in answers
        return
    moments = boundaries_from_points(
        answers["class_logits"][0],
        answers["offsets"][0],
        num_clips=len(arrays["saliency"]),
        strides=strides,
        fps=Fraction(float(arrays["fps"])),
        max_moments=50,
    )
    assert_golden(moments, arrays["boundary"], tolerance, "boundary")


def hidden_states(arrays: dict[str, NDArray[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Video (T, K, P, Cv) and query (1, K, L, Ct) of a golden that starts from features."""
    query = torch.from_numpy(arrays["query"]).float().transpose(0, 1)[None]
    return torch.from_numpy(arrays["video"]).float(), query.contiguous()


@pytest.mark.parametrize(
    ("checkpoint", "case"),
    [
        ("moment", "moment_t5"),
        ("moment", "moment_t12"),
        ("moment", "stretch_t23"),
        ("highlight", "highlight_t11"),
        ("patch16", "patch16_t6"),
    ],
)
def test_modules_give_the_golden_answers(checkpoint: str, case: str) -> None:
    model = build_model(GOLDEN / f"{checkpoint}.pth")
    arrays = load_arrays(GOLDEN / f"{case}.npz")
    video, query = hidden_states(arrays)
    with torch.no_grad():
        v = FrameTokens(model)(video)
        if model.config.use_tef:
            v = VideoFinalizer(model)(v, torch.from_numpy(endpoints(len(video))))
        mask = torch.ones(1, query.shape[2])
        bias = torch.zeros(v.shape[:-1])
        outputs = Grounder(model)(v, *QueryTokens(model)(query, mask), mask, bias)
    names = ["class_logits", "offsets", "saliency"]
    if not model.config.has_offsets:
        names.remove("offsets")
    answers = dict(zip(names, map(to_numpy, outputs), strict=True))
    check_answers(arrays, answers, model.config.strides, EAGER)


@cache
def feature_sessions(
    checkpoint: Path, patches: int
) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """The graphs of `feature_graphs`, traced once for all goldens of a checkpoint."""
    frame_graph, query_graph = feature_graphs(build_model(checkpoint), patches)
    return session(frame_graph), session(query_graph)


def check_features(
    checkpoint: Path,
    arrays: dict[str, NDArray[Any]],
    grounder: onnxruntime.InferenceSession,
    finalizer: onnxruntime.InferenceSession | None,
) -> None:
    """Run a golden's features through the exported graphs and compare the answers."""
    video, query = hidden_states(arrays)
    frame_session, query_session = feature_sessions(checkpoint, video.shape[2])
    v = run(frame_session, {"hidden": to_numpy(video)})["tokens"]
    if finalizer is not None:
        v = run(finalizer, {"tokens": v, "endpoints": endpoints(len(v))})["v"]
    mask = np.ones((1, query.shape[2]), np.float32)
    texts = run(query_session, {"hidden": to_numpy(query), "query_mask": mask})
    answers = run(grounder, {**unmerged(v), "query_mask": mask, **query_inputs(texts)})
    check_answers(arrays, answers, build_model(checkpoint).config.strides, EXPORTED)


def check_moment(exported: Exported, case: Path) -> None:
    check_features(
        MOMENT,
        load_arrays(case),
        session(exported.path / "grounder.onnx"),
        session(exported.path / "video_finalizer.onnx"),
    )


@pytest.mark.parametrize(
    "case",
    ["moment_t5", "moment_t12", "stretch_t10", "stretch_t15", "stretch_t23", "stretch_t31"],
)
def test_moment_bundle_gives_the_golden_answers(moment_bundle: Exported, case: str) -> None:
    check_moment(moment_bundle, GOLDEN / f"{case}.npz")


@pytest.mark.shared("golden/mini/moment_t200.npz")
def test_moment_bundle_gives_the_golden_answers_of_a_long_video(
    moment_bundle: Exported, shared: Path
) -> None:
    check_moment(moment_bundle, shared)


def test_highlight_bundle_gives_the_golden_answers(highlight_bundle: Exported) -> None:
    check_features(
        HIGHLIGHT,
        load_arrays(GOLDEN / "highlight_t11.npz"),
        session(highlight_bundle.path / "grounder.onnx"),
        None,
    )


@pytest.mark.slow
def test_many_patches_give_the_golden_answers(tmp_path: Path) -> None:
    checkpoint = GOLDEN / "patch16.pth"
    model = build_model(checkpoint)
    dims = ModelDims(
        image_size=224,
        patches=197,
        layers=4,
        width=64,
        context_length=77,
        strides=(1, 2, 4, 8),
        use_tef=True,
        has_offsets=True,
        patch_bias=True,
    )
    sessions = []
    for name, module in ((GROUNDER, Grounder(model)), (VIDEO_FINALIZER, VideoFinalizer(model))):
        path = tmp_path / f"{name}.onnx"
        write_graph(template_of(name, module.eval(), dims), module_weights(module), path)
        sessions.append(session(path))
    check_features(checkpoint, load_arrays(GOLDEN / "patch16_t6.npz"), *sessions)


@pytest.mark.slow
@pytest.mark.shared("golden/mini")
def test_pixels_give_the_golden_answers(shared: Path, tmp_path: Path) -> None:
    exported = export_bundle(
        shared / "pixels.pth", tmp_path / "pixels", clip=shared / "clip_tiny.pt"
    )
    arrays = load_arrays(shared / "pixels_trimmed.npz")
    graphs = {
        name: session(exported.path / f"{name}.onnx")
        for name in graph_specs(exported.manifest.dims)
    }
    tokens = run(graphs[VIDEO_ENCODER], {"frames": arrays["frames"]})["tokens"]
    finalizer_inputs = {"tokens": tokens, "endpoints": endpoints(len(tokens))}
    v = run(graphs[VIDEO_FINALIZER], finalizer_inputs)["v"]
    # Cut behind the end token, the highest id, as in the authors' evaluation.
    ids = arrays["tokens"][None, : int(arrays["tokens"].argmax()) + 1]
    mask = np.ones(ids.shape, np.float32)
    texts = run(graphs[TEXT_ENCODER], {"token_ids": ids, "query_mask": mask})
    answers = run(graphs[GROUNDER], {**unmerged(v), "query_mask": mask, **query_inputs(texts)})
    check_answers(arrays, answers, exported.manifest.dims.strides, EXPORTED)


@pytest.mark.parametrize("clips", [1, 2, 3, 5, 8, 9, 200, 2000])
def test_grounder_takes_any_number_of_clips(moment_bundle: Exported, clips: int) -> None:
    """A level appears with its stride; the answers are the model's own."""
    model = build_model(MOMENT)
    random = torch.Generator().manual_seed(clips)
    video = torch.randn(clips, 4, 50, 64, generator=random)
    query = torch.randn(1, 4, 6, 64, generator=random)
    mask = torch.ones(1, 6)
    with torch.no_grad():
        want = model(video[None], query.transpose(1, 2))
        v = VideoFinalizer(model)(FrameTokens(model)(video), torch.from_numpy(endpoints(clips)))
        texts = QueryTokens(model)(query, mask)
    names = ("v", "q", "q_key", "pooled", "query_mask", "patch_bias")
    bias = torch.zeros(v.shape[:-1])
    inputs = dict(zip(names, (v, *texts, mask, bias), strict=True))
    got = run(
        session(moment_bundle.path / "grounder.onnx"),
        {name: to_numpy(x) for name, x in inputs.items()},
    )
    assert got["class_logits"].shape == (1, sum(level_lengths(clips, (1, 2, 4, 8))))
    for name in ("class_logits", "offsets", "saliency"):
        assert_golden(got[name], to_numpy(getattr(want, name)), EXPORTED, name)


@pytest.mark.slow
def test_the_graph_stretches_levels_as_the_authors_do() -> None:
    """Every number of clips, in the part of the grounder that engines with kernels share."""
    strides = (1, 2, 4, 8)
    torch.manual_seed(0)
    model = R2Tuning(
        R2Config(
            width=8,
            layers=1,
            vision_width=8,
            text_width=8,
            heads=2,
            strides=strides,
            merge_cls_sal=False,
        )
    )
    spec = GraphSpec(
        name="heads",
        inputs=(
            TensorSpec(name="clips", dtype="float32", shape=("N", "T", 8)),
            TensorSpec(name="pooled", dtype="float32", shape=("N", 8)),
        ),
        outputs=(
            TensorSpec(name="class_logits", dtype="float32", shape=("N", "M")),
            TensorSpec(name="offsets", dtype="float32", shape=("N", "M", 2)),
            TensorSpec(name="saliency", dtype="float32", shape=("N", "T")),
        ),
    )
    heads = session(graph_to_onnx(GrounderHeads(model), spec, context_length=77))
    random = np.random.default_rng(0)
    for clips in range(1, 161):
        inputs = {
            "clips": 30 * random.standard_normal((1, clips, 8), np.float32),
            "pooled": np.ones((1, 8), np.float32),
        }
        answers = run(heads, inputs)
        scores = 1 / (1 + np.exp(-answers["class_logits"][0]))
        expected = highest(list(split_levels(scores, clips, strides)), clips)
        assert_golden(answers["saliency"][0], expected, EAGER, f"{clips} clips")


def test_answers_do_not_depend_on_what_they_are_batched_with(moment_bundle: Exported) -> None:
    """Padded queries side by side give what each gives alone."""
    lengths = [3, 9, 5]
    text_encoder = session(moment_bundle.path / "text_encoder.onnx")
    grounder = session(moment_bundle.path / "grounder.onnx")
    random = np.random.default_rng(3)
    v = random.standard_normal((11, 4, 50, 64), np.float32)
    ids = random.integers(1, 300, (3, 9))
    mask = (np.arange(9) < np.array(lengths)[:, None]).astype(np.float32)
    texts = run(text_encoder, {"token_ids": ids, "query_mask": mask})
    together = run(grounder, {**unmerged(v), "query_mask": mask, **query_inputs(texts)})
    for row, length in enumerate(lengths):
        alone_ids, alone_mask = ids[row : row + 1, :length], mask[row : row + 1, :length]
        alone_texts = run(text_encoder, {"token_ids": alone_ids, "query_mask": alone_mask})
        alone = run(
            grounder, {**unmerged(v), "query_mask": alone_mask, **query_inputs(alone_texts)}
        )
        for name, values in alone.items():
            assert_golden(together[name][row : row + 1], values, EAGER, name)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_encoder_takes_any_number_of_frames(moment_bundle: Exported, batch: int) -> None:
    """Frames are encoded each on its own."""
    encoder = session(moment_bundle.path / "video_encoder.onnx")
    frames = np.random.default_rng(batch).integers(0, 256, (batch, 56, 56, 3), np.uint8)
    together = run(encoder, {"frames": frames})["tokens"]
    alone = [run(encoder, {"frames": frame[None]})["tokens"] for frame in frames]
    assert_golden(together, np.concatenate(alone), EXPORTED, "tokens")


def test_the_frame_half_of_the_video_map_splits_exactly() -> None:
    """Tokens stored before the number of clips is known give what the whole map gives."""
    model = build_model(MOMENT).double()
    random = torch.Generator().manual_seed(1)
    hidden = 30 * torch.randn(7, 4, 50, 64, generator=random, dtype=torch.float64) + 5
    ends = torch.from_numpy(endpoints(7)).double()
    with torch.no_grad():
        v = VideoFinalizer(model).double()(FrameTokens(model).double()(hidden), ends)
        for layer in range(4):
            want = model.adapter.map_video(hidden[None, :, layer], ends[None])[0]
            torch.testing.assert_close(v[:, layer], want, rtol=1e-5, atol=1e-5)


def test_graphs_leave_out_what_the_model_has_not() -> None:
    model = build_model(HIGHLIGHT)
    assert VIDEO_FINALIZER not in build_graphs(model, tiny_towers())


def test_frames_beyond_whole_patches_are_cut_behind_the_cast() -> None:
    """Of uint8, TensorRT's parser takes no slice."""
    model = build_model(MOMENT)
    size = CONFIG.image_size
    wider = tiny_towers(replace(CONFIG, image_size=size + 3))
    dims = model_dims(model, wider)
    encoder = build_graphs(model, wider)[VIDEO_ENCODER].eval()
    frames = torch.randint(0, 256, (2, size + 3, size + 3, 3), dtype=torch.uint8)
    with torch.no_grad():
        got = encoder(frames)
        cut = frames[:, :size, :size].contiguous()
        want = build_graphs(model, tiny_towers())[VIDEO_ENCODER].eval()(cut)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)
    template = onnx.load_model_from_string(template_of(VIDEO_ENCODER, encoder, dims))
    readers = {node.op_type for node in template.graph.node if "frames" in node.input}
    assert readers == {"Cast", "Shape"}
    assert "Slice" in {node.op_type for node in template.graph.node}


class TestRowEmbedding:
    def test_equal_rows_are_kept_once_and_every_id_has_its_own(self) -> None:
        torch.manual_seed(0)
        table = torch.randn(300, 8)
        table[torch.randperm(300)[:250]] = table[7].clone()
        shared = embedding_of(table)
        assert isinstance(shared, RowEmbedding)
        assert len(shared.rows.weight) <= 51
        ids = torch.arange(300).reshape(3, 100)
        assert torch.equal(shared(ids), table[ids])

    def test_a_table_of_different_rows_stays_as_it_is(self) -> None:
        table = torch.randn(300, 8)
        embedding = embedding_of(table)
        assert isinstance(embedding, torch.nn.Embedding)
        assert torch.equal(embedding.weight, table)
