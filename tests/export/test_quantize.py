"""int8 bundles: outlier channels break the plain form and not ours, and the gate notices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.exporter import Exported
from r2rt.cli.main import run as r2rt_main
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine, sums_bytes_exactly
from r2rt.errors import ModelMismatchError, QueryError
from r2rt.grounding.grounder import Grounder
from r2rt.model.bundle import Bundle
from r2rt.model.contract import TEXT_ENCODER, VIDEO_ENCODER
from r2rt.model.manifest import manifest_bytes, parse_manifest
from r2rt.model.onnx_graph import OnnxGraph
from r2rt.quality.agreement import LIMITS, QUERIES, Limits, compare, relative_error
from r2rt.quality.int8 import collect, find_linears, fit_linear, quantize_graph
from r2rt.quality.int8.samples import open_session
from r2rt.quality.quantizer import BUDGETS, Quantized, RefusedError, quantize_bundle
from tests.conftest import CHECKOUT
from tests.export.outliers import inject_outliers
from tests.export.tiny import run, session

pytestmark = pytest.mark.slow

SHAPES = CHECKOUT / "demo" / "shapes.mp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8")


@pytest.fixture(scope="module")
def moment(moment_bundle: Exported) -> Exported:
    return moment_bundle


@pytest.fixture(scope="module")
def outliers(moment: Exported, folder: Path) -> Path:
    return inject_outliers(moment.path, folder / "outliers")


@pytest.fixture(scope="module")
def quantized(outliers: Path, folder: Path) -> Quantized:
    return quantize_bundle(outliers, folder / "outliers-int8", calibration=[SHAPES])


def frames(count: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def graph(bundle: Path, name: str) -> OnnxGraph:
    return OnnxGraph.read(bundle / f"{name}.onnx")


def outputs(graph: OnnxGraph, inputs: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    return open_session(graph, [name])(inputs)[0]


def test_the_injected_outliers_change_nothing_in_fp32(moment: Exported, outliers: Path) -> None:
    inputs = {"frames": frames(2, moment.manifest.dims.image_size)}
    got, want = (
        run(session(path / "video_encoder.onnx"), inputs)["tokens"]
        for path in (outliers, moment.path)
    )
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


class TestTheGate:
    def test_plain_int8_of_outliers_is_refused_and_nothing_is_written(
        self, outliers: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "plain"
        with pytest.raises(RefusedError, match=r"tokens, layer -1 .*at most 0\.05") as refused:
            quantize_bundle(outliers, output, calibration=[SHAPES], smooth=False, leave_out=False)
        assert list(tmp_path.iterdir()) == []
        failed = {figure.name for figure in refused.value.figures if not figure.passed}
        assert {f"tokens, layer {layer}" for layer in (-4, -3, -2, -1)} <= failed

    def test_plain_int8_without_outliers_passes(self, moment: Exported, tmp_path: Path) -> None:
        """The outliers are what is refused, not int8."""
        quantize_bundle(
            moment.path,
            tmp_path / "plain",
            calibration=[SHAPES],
            smooth=False,
            leave_out=False,
        )

    def test_the_remedy_passes_with_outliers(self, quantized: Quantized) -> None:
        report = quantized.manifest.quantization
        assert report is not None
        assert report.figures
        assert all(figure.passed for figure in report.figures)
        errors = [x.value for x in report.figures if x.name.startswith("tokens")]
        assert len(errors) == quantized.manifest.dims.layers
        assert 0 < max(errors) < 0.6 * LIMITS.token_error

    def test_scaling_channels_alone_undoes_the_outliers(
        self, outliers: Path, tmp_path: Path
    ) -> None:
        done = quantize_bundle(
            outliers, tmp_path / "int8", calibration=[SHAPES], smooth=True, leave_out=False
        )
        assert done.manifest.quantization is not None
        assert not any(done.manifest.quantization.kept.values())

    def test_a_smaller_budget_leaves_more_layers_in_fp32(
        self, outliers: Path, quantized: Quantized, tmp_path: Path
    ) -> None:
        budgets = {**BUDGETS, TEXT_ENCODER: BUDGETS[TEXT_ENCODER] / 10}
        done = quantize_bundle(outliers, tmp_path / "int8", calibration=[SHAPES], budgets=budgets)
        (more, fewer) = (x.manifest.quantization for x in (done, quantized))
        assert more is not None
        assert fewer is not None
        assert len(more.kept[TEXT_ENCODER]) > len(fewer.kept[TEXT_ENCODER])
        assert more.kept[VIDEO_ENCODER] == fewer.kept[VIDEO_ENCODER]

    def test_limits_that_cannot_be_kept_refuse_what_stood_there_last(
        self, outliers: Path, quantized: Quantized, tmp_path: Path
    ) -> None:
        output = tmp_path / "kept"
        output.mkdir()
        (output / "bundle.json").write_text("old")
        with pytest.raises(RefusedError, match="saliency error"):
            quantize_bundle(
                outliers,
                output,
                calibration=[SHAPES],
                limits=Limits(saliency_error=0.0),
                force=True,
            )
        assert (output / "bundle.json").read_text() == "old"


class TestTheBundle:
    def test_it_opens_and_says_what_it_is(self, quantized: Quantized, outliers: Path) -> None:
        bundle = Bundle.open(quantized.path, verify="always")
        origin = Bundle.open(outliers)
        assert bundle.manifest == quantized.manifest
        assert bundle.manifest.precision == "int8"
        assert bundle.fingerprint != origin.fingerprint
        report = bundle.manifest.quantization
        assert report is not None
        assert report.origin == origin.fingerprint
        assert report.calibration == ("shapes.mp4",)
        assert set(report.kept) == {VIDEO_ENCODER, TEXT_ENCODER}
        engine = OnnxRuntimeEngine(bundle)
        for name in bundle.graphs:
            engine.open(name)

    def test_embeddings_are_projected_in_fp32(self, quantized: Quantized, outliers: Path) -> None:
        got, want = (Grounder.load(path) for path in (quantized.path, outliers))
        for exact, found in (
            (want.encode(SHAPES).embeddings, got.encode(SHAPES).embeddings),
            (want.embed_text(QUERIES), got.embed_text(QUERIES)),
        ):
            assert exact is not None
            assert found is not None
            assert 0 < relative_error(found, exact) < 3 * LIMITS.token_error
        for graph in (VIDEO_ENCODER, TEXT_ENCODER):
            weights = {
                x.name: x.data_type
                for x in onnx.load(quantized.path / f"{graph}.onnx").graph.initializer
            }
            assert weights["projection.weight"] == onnx.TensorProto.FLOAT

    def test_its_encoders_are_a_third_as_large(self, quantized: Quantized, outliers: Path) -> None:
        origin = Bundle.open(outliers).manifest.files
        for name in ("video_encoder.onnx", "text_encoder.onnx"):
            assert quantized.manifest.files[name].size < 0.4 * origin[name].size, name

    def test_it_grounds(self, quantized: Quantized, outliers: Path) -> None:
        got, want = (
            Grounder.load(path).ground(str(SHAPES), "a circle")
            for path in (quantized.path, outliers)
        )
        assert got.moments
        np.testing.assert_allclose(got.saliency, want.saliency, atol=LIMITS.saliency_error)

    def test_a_frame_does_not_depend_on_its_batch(self, quantized: Quantized) -> None:
        batch = frames(3, quantized.manifest.dims.image_size)
        encoder = session(quantized.path / "video_encoder.onnx")
        together = run(encoder, {"frames": batch})["tokens"]
        alone = [run(encoder, {"frames": frame[None]})["tokens"] for frame in batch]
        np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-5, atol=1e-4)

    def test_the_same_again_is_the_same(
        self, outliers: Path, quantized: Quantized, tmp_path: Path
    ) -> None:
        again = quantize_bundle(
            outliers, tmp_path / "again", calibration=[SHAPES], name=quantized.manifest.name
        )
        assert again.manifest == quantized.manifest

    def test_only_fp32_is_quantised(self, quantized: Quantized, tmp_path: Path) -> None:
        with pytest.raises(QueryError, match="is int8; expected an fp32 bundle"):
            quantize_bundle(quantized.path, tmp_path / "twice", calibration=[SHAPES])

    def test_a_manifest_without_a_report_does_not_mention_one(
        self, moment: Exported, quantized: Quantized
    ) -> None:
        assert b"quantization" not in manifest_bytes(moment.manifest)
        text = manifest_bytes(quantized.manifest)
        assert parse_manifest(text, where="here") == quantized.manifest

    def test_the_report_changes_no_answer_so_no_fingerprint(self, quantized: Quantized) -> None:
        bundle = Bundle.open(quantized.path)
        bare = msgspec.structs.replace(bundle.manifest, quantization=None)
        assert Bundle(bundle.path, bare).fingerprint == bundle.fingerprint


class TestCalibration:
    def test_a_folder_of_videos_stands_for_them(self, outliers: Path, tmp_path: Path) -> None:
        videos = tmp_path / "videos"
        videos.mkdir()
        for name in ("a.mp4", "b.mp4"):
            (videos / name).write_bytes(SHAPES.read_bytes())
        done = quantize_bundle(outliers, tmp_path / "int8", calibration=[videos])
        assert done.manifest.quantization is not None
        assert done.manifest.quantization.calibration == ("a.mp4", "b.mp4")

    def test_made_frames_stand_for_videos(self, outliers: Path, tmp_path: Path) -> None:
        """The gate's figures on a video that nothing was calibrated on hold, too."""
        done = quantize_bundle(outliers, tmp_path / "int8")
        assert done.manifest.quantization is not None
        assert done.manifest.quantization.calibration == ("frames made by r2rt",)
        reference, candidate = (Grounder.load(path) for path in (outliers, done.path))
        assert compare(reference, candidate, [str(SHAPES)]).passed


class TestTheGraph:
    def test_every_layer_of_the_towers_is_found(self, moment: Exported) -> None:
        linears = {x.name: x for x in find_linears(graph(moment.path, VIDEO_ENCODER))}
        for block, layer in itertools.product(range(4), ("qkv", "out", "fc", "proj")):
            found = linears[f"blocks.{block}.{layer}"]
            assert (found.norm is not None) == (layer in {"qkv", "fc"})
            assert found.values == (f"blocks.{block}.qkv" if layer == "out" else None)
        assert [x.name for x in linears.values() if x.pixels] == ["patch_weight"]

    @pytest.mark.parametrize("kept", ["blocks.1.qkv", "blocks.1.out", None])
    def test_scaled_channels_meet_their_inverse(self, kept: str | None, moment: Exported) -> None:
        """Whichever of the two layers that share a scale stays in fp32."""
        model = graph(moment.path, VIDEO_ENCODER)
        inputs = {"frames": frames(2, moment.manifest.dims.image_size)}
        linears = [x for x in find_linears(model) if x.name.startswith("blocks.1.")]
        weights = {x.name: model.constants[x.weight] for x in linears}
        samples = collect(model, linears, [inputs])
        divisors = np.exp(np.random.default_rng(0).normal(size=64)).astype(np.float32)
        fits = {}
        for linear in linears:
            foldable = linear.norm is not None or linear.values is not None
            if linear.name == kept or not foldable:
                continue
            fit = fit_linear(
                weights[linear.name], samples[linear.name], foldable=True, pixels=False
            )
            low = float((samples[linear.name].low / divisors).min())
            high = float((samples[linear.name].high / divisors).max())
            scale = (high - low) / 255
            fits[linear.name] = dataclasses.replace(
                fit, divisors=divisors, scale=scale, zero=round(-low / scale)
            )
        got = outputs(quantize_graph(model, fits), inputs, "tokens")
        want = outputs(model, inputs, "tokens")
        assert 0 < relative_error(got[..., :64], want[..., :64]) < 0.05

    def test_pixels_are_taken_as_they_are(self, moment: Exported) -> None:
        """A dark calibration does not narrow the range of a byte."""
        model = graph(moment.path, VIDEO_ENCODER)
        (patches,) = (x for x in find_linears(model) if x.pixels)
        dark = frames(2, moment.manifest.dims.image_size) // 4
        samples = collect(model, [patches], [{"frames": dark}])[patches.name]
        fit = fit_linear(model.constants[patches.weight], samples, foldable=False, pixels=True)
        assert (fit.scale, fit.zero, fit.divisors) == (1.0, 0, None)


class TestComparing:
    def test_a_bundle_agrees_with_itself(self, moment: Exported) -> None:
        grounder = Grounder.load(moment.path)
        agreement = compare(grounder, grounder, [str(SHAPES)], queries=["a circle", "a square"])
        assert agreement.passed
        assert {x.value for x in agreement.figures if not x.at_least} == {0.0}
        assert [x.value for x in agreement.figures if x.at_least] == pytest.approx([1, 1, 1])

    def test_another_model_is_refused(self, moment: Exported, highlight_bundle: Exported) -> None:
        one, other = (Grounder.load(x.path) for x in (moment, highlight_bundle))
        with pytest.raises(ModelMismatchError, match="sizes differ"):
            compare(one, other, [str(SHAPES)])
        with pytest.raises(QueryError, match="0 videos"):
            compare(one, one, [])

    def test_what_all_tokens_share_is_no_agreement(self) -> None:
        want = np.random.default_rng(0).normal(size=(50, 8)) + 1000
        got = want + np.random.default_rng(1).normal(size=want.shape)
        assert relative_error(got, want) > 0.9
        assert relative_error(want, want) == 0.0
        assert relative_error(np.full_like(want, np.nan), want) > 1e9


class TestTheCommand:
    def test_it_writes_a_bundle(
        self, outliers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "int8"
        arguments = ["models", "quantize", str(outliers), "--output", str(output)]
        assert r2rt_main([*arguments, "--frames", str(SHAPES)]) == 0
        assert Bundle.open(output).manifest.precision == "int8"
        text = capsys.readouterr().out
        assert "tokens, layer -1" in text
        assert "FAILED" not in text

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ([], 2),
            (["nowhere-at-all", "--frames", str(SHAPES)], 20),
            (["BUNDLE", "--frames", "nowhere.mp4"], 10),
        ],
    )
    def test_errors_have_their_codes(
        self, arguments: list[str], code: int, outliers: Path, tmp_path: Path
    ) -> None:
        arguments = [str(outliers) if x == "BUNDLE" else x for x in arguments]
        output = str(tmp_path / "int8")
        assert r2rt_main(["models", "quantize", *arguments, "--output", output]) == code
        assert list(tmp_path.iterdir()) == []


class TestRepeatingTheComparison:
    """`r2rt models verify MODEL --against ORIGIN --video FILE`."""

    def test_it_prints_the_figures(
        self, outliers: Path, quantized: Quantized, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["models", "verify", str(quantized.path), "--against", str(outliers)]
        assert r2rt_main([*arguments, "--video", str(SHAPES), "--query", "a circle"]) == 0
        out = capsys.readouterr().out
        assert "tokens, layer -1" in out
        assert "FAILED" not in out

    def test_a_model_that_departs_too_far_ends_in_its_code(
        self,
        outliers: Path,
        quantized: Quantized,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        strict = functools.partial(compare, limits=Limits(token_error=1e-6))
        monkeypatch.setattr("r2rt.quality.agreement.compare", strict)
        arguments = ["models", "verify", str(quantized.path), "--against", str(outliers)]
        assert r2rt_main([*arguments, "--video", str(SHAPES)]) == 27
        streams = capsys.readouterr()
        assert "FAILED" in streams.out
        assert "differs too much" in streams.err

    def test_half_of_it_is_wrong_usage(self, quantized: Quantized) -> None:
        assert r2rt_main(["models", "verify", str(quantized.path), "--video", str(SHAPES)]) == 2

    def test_info_shows_the_report(
        self, quantized: Quantized, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert r2rt_main(["models", "info", str(quantized.path)]) == 0
        out = capsys.readouterr().out
        assert "int8" in out
        assert "tokens, layer -1" in out
        assert "shapes.mp4" in out


@pytest.mark.parametrize(
    ("flags", "exact"),
    [
        ("flags : sse4_2 avx2 avx512f avx512bw", False),
        ("", False),
        ("flags : avx2 avx_vnni", True),
        ("flags : avx512f avx512_vnni", True),
        ("flags : avx512f amx_tile amx_int8", True),
    ],
)
def test_old_processors_take_the_kernels_that_do_not_saturate(
    flags: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert sums_bytes_exactly(flags) is exact
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert sums_bytes_exactly(flags)


def test_products_of_bytes_are_exact_on_every_processor() -> None:
    """x86 without VNNI saturates by default, where neighbours add up to more than 16 bits hold."""
    full = np.full((3, 64), 255, np.uint8)
    weight = np.full((64, 5), 127, np.int8)
    product = onnx.helper.make_node("MatMulInteger", ["full", "weight"], ["sums"])
    graph = onnx.helper.make_graph(
        [product],
        "sums",
        [onnx.helper.make_tensor_value_info("full", onnx.TensorProto.UINT8, full.shape)],
        [onnx.helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, (3, 5))],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    (sums,) = open_session(OnnxGraph.parse(model.SerializeToString()), ["sums"])({"full": full})
    np.testing.assert_array_equal(sums, full.astype(np.int64) @ weight.astype(np.int64))
