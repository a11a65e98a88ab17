"""The graphs that engines are built of: fp16 and int8, held to the fp32 ones on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export import qdq
from export._checkout import CHECKOUT
from export.engine_checks import TOLERANCES, check_graphs, inject_outliers, open_graph
from export.engine_graph import engine_models, stack_projections
from export.engines import check_sample, lower, quantized_products
from export.errors import ExportError
from export.half import to_half
from export.qdq import quantize_symmetric
from r2rt.engines.tensorrt.plans import PrecisionName
from r2rt.model.bundle import Bundle
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, VIDEO_FINALIZER

_WIDTH = 64
# Four linear layers in each block of the towers.
_INT8_PRODUCTS = {VIDEO_ENCODER: 20, VIDEO_FINALIZER: 0, TEXT_ENCODER: 16, GROUNDER: 0}

Graphs = Mapping[str, onnx.ModelProto]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(CHECKOUT / "demo" / "random-tiny")


@pytest.fixture(scope="module")
def single(bundle: Bundle) -> Graphs:
    return engine_models(bundle)


def outliers(single: Graphs) -> dict[str, onnx.ModelProto]:
    changed = {}
    for graph, model in single.items():
        changed[graph] = onnx.ModelProto()
        changed[graph].CopyFrom(model)
        inject_outliers(changed[graph])
    return changed


class TestNumbers:
    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    @pytest.mark.parametrize("with_outliers", [False, True])
    def test_low_precision_is_within_tolerance_of_fp32(
        self, bundle: Bundle, single: Graphs, precision: PrecisionName, with_outliers: bool
    ) -> None:
        sample = check_sample(bundle)
        graphs = outliers(single) if with_outliers else single
        low = lower(graphs, precision, sample)
        checks = check_graphs(graphs, low, bundle.dims, sample, TOLERANCES[precision])
        assert set(checks) == set(bundle.graphs)
        names = {check.name for found in checks.values() for check in found}
        assert {"video_encoder M2", "grounder offsets", "bundle saliency"} <= names
        assert all(check.passed for found in checks.values() for check in found)

    def test_injected_outliers_leave_fp32_as_it_was(self, bundle: Bundle, single: Graphs) -> None:
        frames = check_sample(bundle).frames[:2]
        changed = outliers(single)[VIDEO_ENCODER]
        want = open_graph(single[VIDEO_ENCODER])({"frames": frames})["tokens"]
        got = open_graph(changed)({"frames": frames})["tokens"]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        norms = {
            name: numpy_helper.to_array(x)
            for x in changed.graph.initializer
            for name in [x.name]
            if "outliers.1" in name
        }
        assert max(np.abs(x).max() for x in norms.values() if x.ndim == 1) >= 20

    def test_int8_needs_its_channels_evened_out(
        self, bundle: Bundle, single: Graphs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sample = check_sample(bundle)
        graphs = {VIDEO_ENCODER: outliers(single)[VIDEO_ENCODER]}
        frames = {"frames": sample.frames}
        want = open_graph(graphs[VIDEO_ENCODER])(frames)["tokens"][..., :_WIDTH]

        def error() -> float:
            low = lower(graphs, "int8", sample)[VIDEO_ENCODER]
            got = open_graph(low)(frames)["tokens"][..., :_WIDTH]
            return float(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))

        smooth = error()
        monkeypatch.setattr(qdq, "_ALPHAS", ())
        assert error() > 3 * smooth

    def test_the_finalizer_must_not_round_its_statistics(
        self, bundle: Bundle, single: Graphs
    ) -> None:
        """M2 of a trained tower's tokens passes what fp16 holds."""
        dims = bundle.dims
        tokens = np.random.default_rng(0).normal(
            size=(3, dims.layers, dims.patches, dims.width + 2)
        )
        tokens[..., -1] = 90_000
        inputs: dict[str, NDArray[Any]] = {
            "tokens": tokens.astype(np.float32),
            "endpoints": np.array([[0, 1], [1, 2], [2, 3]], np.float32) / 3,
        }
        model = single[VIDEO_FINALIZER]
        want = open_graph(model)(inputs)["v"]
        good = open_graph(to_half(model, single_inputs=("tokens", "endpoints")))(inputs)["v"]
        bad = open_graph(to_half(model))(inputs)["v"]
        scale = np.sqrt(np.square(want).mean())
        assert np.abs(good - want).max() < 0.01 * scale
        assert not np.abs(bad - want).max() < 0.01 * scale


class TestHalf:
    def test_types_at_the_boundary_are_the_contract_s(self, bundle: Bundle, single: Graphs) -> None:
        codes = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
        codes["int64"] = TensorProto.INT64
        for graph, spec in bundle.engine_graphs.items():
            low = to_half(single[graph])
            for value, tensor in zip(
                (*low.graph.input, *low.graph.output), (*spec.inputs, *spec.outputs), strict=True
            ):
                assert value.name == tensor.name
                assert value.type.tensor_type.elem_type == codes[tensor.dtype]

    def test_products_are_fp16_and_norms_fp32(self, single: Graphs) -> None:
        for graph in (VIDEO_ENCODER, TEXT_ENCODER, GROUNDER):
            low = onnx.shape_inference.infer_shapes(to_half(single[graph]))
            types = {x.name: x.type.tensor_type.elem_type for x in low.graph.value_info}
            types |= {x.name: x.data_type for x in low.graph.initializer}
            counted = 0
            for node in low.graph.node:
                want = {"LayerNormalization": TensorProto.FLOAT, "MatMul": TensorProto.FLOAT16}
                if node.op_type in want:
                    counted += 1
                    assert {types[x] for x in node.input} == {want[node.op_type]}
            assert counted > 5

    def test_weights_take_half_the_room_and_the_model_is_left_as_it_is(
        self, single: Graphs
    ) -> None:
        model = single[TEXT_ENCODER]
        before = model.SerializeToString(deterministic=True)
        low = to_half(model)
        assert low.ByteSize() < 0.52 * model.ByteSize()
        assert model.SerializeToString(deterministic=True) == before
        assert to_half(model).SerializeToString(deterministic=True) == low.SerializeToString(
            deterministic=True
        )

    def test_a_weight_beyond_fp16_is_refused_by_name(self) -> None:
        with pytest.raises(ExportError, match=r"weight w of g reaches 7e\+04, fp16 ends at 65504"):
            to_half(_product(np.full((2, 2), 7e4, np.float32)))

    def test_infinite_weights_are_masks_and_stay_infinite(self) -> None:
        low = to_half(_product(np.array([[0, -np.inf], [1, 2]], np.float32)))
        (weight,) = low.graph.initializer
        assert np.isneginf(numpy_helper.to_array(weight)[0, 1])

    def test_positions_beyond_2048_stay_whole(self, bundle: Bundle, single: Graphs) -> None:
        """A long video's clips stay distinct: indices are not rounded to fp16."""
        dims, clips = bundle.dims, 2060
        random = np.random.default_rng(1)

        def normal(*shape: int) -> NDArray[np.float32]:
            return random.normal(size=shape).astype(np.float32)

        inputs = {
            "v": normal(clips, dims.layers, dims.patches, dims.width) * 0.3,
            "q": normal(1, dims.layers, 3, dims.width) * 0.3,
            "q_key": normal(1, dims.layers, 3, dims.width) * 0.03,
            "pooled": normal(1, dims.width),
            "query_mask": np.ones((1, 3), np.float32),
        }
        want = open_graph(single[GROUNDER])(inputs)
        got = open_graph(to_half(single[GROUNDER]))(inputs)
        for name, expected in want.items():
            scale = np.sqrt(np.square(expected).mean())
            assert np.abs(got[name] - expected).max() < 0.05 * scale, name


class TestArrangement:
    def test_stacking_changes_no_number(self, bundle: Bundle, single: Graphs) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(single[VIDEO_ENCODER])
        stack_projections(model)
        assert not [node for node in model.graph.node if node.op_type == "Split"]
        frames = {"frames": check_sample(bundle).frames[:2]}
        want = open_graph(single[VIDEO_ENCODER])(frames)["tokens"]
        np.testing.assert_allclose(open_graph(model)(frames)["tokens"], want, rtol=1e-5, atol=1e-5)

    def test_int8_is_symmetric_and_leaves_attention_alone(
        self, bundle: Bundle, single: Graphs
    ) -> None:
        sample = check_sample(bundle)
        low = lower(single, "int8", sample)
        assert {graph: quantized_products(x) for graph, x in low.items()} == _INT8_PRODUCTS
        constants = {x.name: x for x in low[VIDEO_ENCODER].graph.initializer}
        for node in low[VIDEO_ENCODER].graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                zero = numpy_helper.to_array(constants[node.input[2]])
                assert zero.dtype == np.int8
                assert not zero.any()

    def test_a_graph_without_blocks_is_not_quantised(self, single: Graphs) -> None:
        quantized = quantize_symmetric(single[VIDEO_FINALIZER], [])
        assert quantized_products(quantized) == 0


class TestSharedRows:
    """Of a CLIP of few words, whose embedding keeps equal rows once and numbers them in int16."""

    @pytest.fixture
    def few_words(self, bundle: Bundle, tmp_path: Path) -> Bundle:
        shutil.copytree(bundle.path, tmp_path / "bundle")
        path = tmp_path / "bundle" / f"{TEXT_ENCODER}.onnx"
        model = onnx.load(path)
        (weight,) = (x for x in model.graph.initializer if x.name == "embedding.weight")
        table = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(table[:500], weight.name))
        row_of = (np.arange(len(table)) % 500).astype(np.int16)[:, None]
        model.graph.initializer.append(numpy_helper.from_array(row_of, "row_of"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
        (at,) = (i for i, x in enumerate(model.graph.node) if weight.name in x.input)
        model.graph.node[at].input[1] = "row"
        found = [
            helper.make_node("Gather", ["row_of", "token_ids"], ["column"]),
            helper.make_node("Squeeze", ["column", "last"], ["narrow"]),
            helper.make_node("Cast", ["narrow"], ["row"], to=TensorProto.INT64),
        ]
        for node in reversed(found):
            model.graph.node.insert(at, node)
        onnx.save(model, path)
        return Bundle(tmp_path / "bundle", bundle.manifest)

    def test_numbers_stay_as_they_were(self, few_words: Bundle) -> None:
        inputs = {
            "token_ids": np.array([[3, 502, 49407]]),
            "query_mask": np.ones((1, 3), np.float32),
        }
        exported = onnx.load(few_words.file(f"{TEXT_ENCODER}.onnx"))
        model = engine_models(few_words)[TEXT_ENCODER]
        assert TensorProto.INT16 not in {x.data_type for x in model.graph.initializer}
        want, got = open_graph(exported)(inputs), open_graph(model)(inputs)
        for name, expected in want.items():
            np.testing.assert_array_equal(got[name], expected)

    def test_tensorrt_parses_the_graph(self, few_words: Bundle) -> None:
        trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
        logger = trt.Logger(trt.Logger.ERROR)
        network = trt.Builder(logger).create_network(
            1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )
        parser = trt.OnnxParser(network, logger)
        low = to_half(engine_models(few_words)[TEXT_ENCODER])
        parsed = parser.parse(low.SerializeToString())
        assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]


def _product(weight: NDArray[np.float32]) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [x],
        [y],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
