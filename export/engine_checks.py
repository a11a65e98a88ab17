"""Compare the graphs that engines are built of with the fp32 ones, on the CPU.

They are run by ONNX Runtime, each on what the fp32 graphs give it, and all together from pixels and
token ids to the answers. A second pass makes a few channels 40 times as large as they were, as
they are in trained transformers, and divides the weights that read them: fp32 answers stay what
they were, low precision shows what it cannot hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.half import fold_transposed_weights
from r2rt.engines.tensorrt.plans import GROUNDER_HEADS, RMS_TOLERANCES
from r2rt.model.contract import (
    GROUNDER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    ModelDims,
    graph_specs,
)
from r2rt.model.manifest import Check

__all__ = [
    "OUTLIER_FACTOR",
    "TOLERANCES",
    "EngineTolerance",
    "Sample",
    "check_graphs",
    "inject_outliers",
]

Arrays = Mapping[str, NDArray[Any]]

OUTLIER_FACTOR = 40.0
_OUTLIER_CHANNELS = 6


@dataclass(frozen=True, kw_only=True)
class EngineTolerance:
    """What low precision may do to an output.

    Attributes:
        rms: root of the mean squared error, as a share of that of the output.
        worst: the largest error, as a share of the root mean square of the output.
    """

    rms: float
    worst: float


# Random towers and the golden R² block err by 4e-3 at worst in fp16, with outliers or without.
TOLERANCES: dict[str, EngineTolerance] = {
    precision: EngineTolerance(rms=rms, worst=10 * rms) for precision, rms in RMS_TOLERANCES.items()
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """What the graphs are compared on.

    Attributes:
        frames: (T, S, S, 3) uint8, of a real video where there is one.
        token_ids: (N, L) int64.
        query_mask: (N, L) float32, 1 for real tokens.
    """

    frames: NDArray[np.uint8]
    token_ids: NDArray[np.int64]
    query_mask: NDArray[np.float32]


def check_graphs(
    single: Mapping[str, onnx.ModelProto],
    low: Mapping[str, onnx.ModelProto],
    dims: ModelDims,
    sample: Sample,
    tolerance: EngineTolerance,
    *,
    label: str = "",
) -> dict[str, tuple[Check, ...]]:
    """Compare every graph, and their chain under the name of the last one.

    The grounder's heads alone are compared, too, where they are given.

    Args:
        single: the fp32 graphs by name.
        low: the same in another precision.
        dims: sizes of the graphs.
        sample: what to compare on.
        tolerance: what they may differ by.
        label: put behind the name of every check.

    Returns:
        Checks by graph: one an output, errors in units of the tolerance.
    """
    found: dict[str, tuple[Check, ...]] = {}
    want = _given(sample)
    chained = dict(want)
    for graph in _order(dims):
        exact = open_graph(single[graph])(want)
        run = open_graph(low[graph])
        found[graph] = tuple(_compared(run(want), exact, dims, f"{graph}{label}", tolerance))
        chained.update(run(chained))
        want.update(exact)
        if graph == VIDEO_ENCODER and not dims.use_tef:
            want["v"], chained["v"] = want["tokens"], chained["tokens"]
    if GROUNDER_HEADS in single:
        # What comes out of the R² block went through a LayerNorm.
        shape = (len(sample.token_ids), len(sample.frames), dims.width)
        clips = np.random.default_rng(8).standard_normal(shape).astype(np.float32)
        given = {"clips": clips, "pooled": want["pooled"]}
        exact, got = (open_graph(graphs[GROUNDER_HEADS])(given) for graphs in (single, low))
        found[GROUNDER_HEADS] = tuple(
            _compared(got, exact, dims, f"{GROUNDER_HEADS}{label}", tolerance)
        )
    last = _order(dims)[-1]
    answers = {tensor.name: want[tensor.name] for tensor in graph_specs(dims)[last].outputs}
    found[last] += tuple(_compared(chained, answers, dims, f"bundle{label}", tolerance))
    return found


def inject_outliers(
    model: onnx.ModelProto, *, factor: float = OUTLIER_FACTOR, channels: int = _OUTLIER_CHANNELS
) -> int:
    """Make some channels behind every LayerNormalization larger, in place; return behind how many.

    γ and β of these channels are multiplied by `factor` and the rows of the products that read them
    divided by it. Normalisations that something else reads, too, stay as they are.
    """
    fold_transposed_weights(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    random = np.random.default_rng(8)
    touched = 0
    for norm in [x for x in model.graph.node if x.op_type == "LayerNormalization"]:
        products = readers.get(norm.output[0], [])
        if (
            norm.output[0] in outputs
            or not products
            or not all(x.op_type == "MatMul" and x.input[1] in weights for x in products)
        ):
            continue
        width = weights[norm.input[1]].dims[0]
        chosen = random.choice(width, min(channels, width), replace=False)
        for node, index, times in (
            (norm, 1, factor),
            (norm, 2, factor),
            *((product, 1, 1 / factor) for product in products),
        ):
            # Equal weights are stored once, so what is scaled is a copy.
            name = f"{node.output[0]}.outliers.{index}"
            array = numpy_helper.to_array(weights[node.input[index]]).copy()
            array[chosen] *= np.float32(times)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            node.input[index] = name
        touched += 1
    return touched


def open_graph(model: onnx.ModelProto) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """Open a graph with ONNX Runtime on the CPU; the function takes more inputs than it needs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        # It crashes on fp16 transformers (ONNX Runtime 1.31 and 1.32).
        disabled_optimizers=["NchwcTransformer"],
    )
    inputs = [x.name for x in session.get_inputs()]
    outputs = [x.name for x in session.get_outputs()]

    def run(arrays: Arrays) -> dict[str, NDArray[Any]]:
        values = session.run(outputs, {name: arrays[name] for name in inputs})
        return dict(zip(outputs, values, strict=True))

    return run


def _order(dims: ModelDims) -> Sequence[str]:
    present = graph_specs(dims)
    order = (VIDEO_ENCODER, VIDEO_FINALIZER, TEXT_ENCODER, GROUNDER)
    return [graph for graph in order if graph in present]


def _given(sample: Sample) -> dict[str, NDArray[Any]]:
    index = np.arange(len(sample.frames) + 1, dtype=np.float32) / len(sample.frames)
    return {
        "frames": sample.frames,
        "endpoints": np.stack([index[:-1], index[1:]], axis=-1),
        "token_ids": sample.token_ids,
        "query_mask": sample.query_mask,
    }


def _compared(
    got: Arrays, want: Arrays, dims: ModelDims, name: str, tolerance: EngineTolerance
) -> list[Check]:
    checks = []
    for output, expected in want.items():
        parts = {output: slice(None)}
        if output == "tokens" and dims.use_tef:
            # Their scales differ by orders of magnitude.
            d = dims.width
            parts = {"p": slice(d), "mean": slice(d, d + 1), "M2": slice(d + 1, None)}
        for part, columns in parts.items():
            x, y = got[output][..., columns], expected[..., columns]
            checks.append(
                _check(f"{name} {part}", x.astype(np.float64), y.astype(np.float64), tolerance)
            )
    return checks


def _check(
    name: str, got: NDArray[np.float64], want: NDArray[np.float64], tolerance: EngineTolerance
) -> Check:
    scale = max(_rms(want), 1e-12)
    worst = float(np.abs(got - want).max())
    error = max(_rms(got - want) / (scale * tolerance.rms), worst / (scale * tolerance.worst))
    error = min(error, _LARGEST) if math.isfinite(error) else _LARGEST
    return Check(
        name=name,
        cases=got.shape[0],
        max_abs_error=worst if math.isfinite(worst) else _LARGEST,
        error=error,
        rtol=tolerance.rms,
        atol=scale * tolerance.worst,
        passed=error <= 1.0,
    )


# JSON has no infinity.
_LARGEST = 1e300


def _rms(x: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.square(x).mean()))
