"""A bundle's graphs to engines: other precision, compared on the CPU, built, checked, listed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from export.engine_checks import TOLERANCES, Sample, check_graphs, inject_outliers
from export.engine_graph import engine_models, stack_projections
from export.errors import ExportError, VerificationError
from export.half import to_half
from export.placing import placed
from export.trt_builder import EngineBuildError, Flavour, build_plan, plan_kernels
from r2rt.engines.tensorrt.plans import (
    ENGINE_MANIFEST_NAME,
    ENGINE_SCHEMA_VERSION,
    GROUNDER_HEADS,
    EngineManifest,
    Plan,
    PrecisionName,
    Range,
    engine_tensors,
    heads_spec,
    source_graph,
)
from r2rt.grounding.finalizer import CLIPS_AT_ONCE
from r2rt.grounding.tokenizer import Tokenizer
from r2rt.model.bundle import Bundle, file_entry
from r2rt.model.contract import (
    GROUNDER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    GraphSpec,
    ModelDims,
)
from r2rt.model.manifest import Check

__all__ = ["UNFUSED", "BuiltEngine", "build_engines", "check_sample", "default_ranges", "lower"]

# Softmaxes that are kernels of their own in a good engine; every other one is part of a fused
# attention kernel. The text encoder's is that of the pooled query: one row a query.
UNFUSED = {VIDEO_ENCODER: 0, VIDEO_FINALIZER: 0, TEXT_ENCODER: 1, GROUNDER: 0, GROUNDER_HEADS: 0}

# M2, a sum of squares, overflows fp16, and what is left of it minus others must keep its digits.
_SINGLE_INPUTS = {VIDEO_FINALIZER: ("tokens", "endpoints")}

_SENTENCES = (
    "A man in a blue jacket walks his dog along the beach.",
    "someone is cooking",
    "Two women talk to each other in front of a red car, then one of them leaves.",
    "a close up of hands playing the piano",
    "Goal!",
    "What did I put into the drawer after closing the fridge?",
    "person opens the door and looks outside",
    "A news presenter reports from a flooded street while it is still raining heavily.",
)


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine that was put into a bundle.

    Attributes:
        path: its folder.
        manifest: its manifest.
    """

    path: Path
    manifest: EngineManifest


def build_engines(
    bundle: Bundle,
    flavour: Flavour,
    *,
    precision: PrecisionName = "fp16",
    ranges: Mapping[str, Range] | None = None,
    frames: NDArray[np.uint8] | None = None,
    heads: onnx.ModelProto | None = None,
    allow_unfused: bool = False,
    timing_cache: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> tuple[BuiltEngine, ...]:
    """Build the engines of every graph for each of the flavour's targets.

    A target's engines are put in place, and listed in `bundle.json`, when all of them are built and
    checked; those of the same name are replaced. If anything fails, its folder stays as it was.

    Args:
        bundle: an fp32 bundle.
        flavour: what builds, and for which targets.
        precision: see `EngineManifest`.
        ranges: sizes of the dynamic dimensions B, T, N and L; `default_ranges` for what is missing.
            T is the grounder's; the finalizer's engine takes the runs that a window is cut into.
        frames: (T, S, S, 3) uint8 of a real video, to compare and calibrate on.
        heads: the grounder behind its kernels, fp32, to be built as `grounder_heads`.
        allow_unfused: keep engines whose attention is not fused.
        timing_cache: where TensorRT proper keeps what it measured.
        say: called with one line for each step and every message of the builder.
        step: called with what the builder is at.

    Raises:
        ExportError: the bundle's graphs are not fp32 or over 2 GB, or a weight does not fit into
            fp16.
        VerificationError: a graph differs from the fp32 one by more than its tolerance.
        EngineBuildError: the builder refused a graph, or attention is not fused.
        OutputError: the bundle cannot be written.
    """
    if bundle.manifest.precision != "fp32":
        raise ExportError(
            f"{bundle.path} computes in {bundle.manifest.precision}; engines are made of fp32 "
            "graphs, name the bundle that it was made of"
        )
    outside = [name for name in bundle.manifest.files if name.endswith(".onnx.data")]
    if outside:
        raise ExportError(
            f"{bundle.path / outside[0]}: engines are made of graphs of at most 2 GB, which hold "
            "their weights themselves; run this model with --device cuda"
        )
    chosen = {**default_ranges(bundle), **(ranges or {})}
    chosen["L"] = _cut(chosen["L"], bundle.dims.context_length)
    sources = _sources(bundle, chosen, heads, precision, check_sample(bundle, frames), say)

    # How TensorRT proper describes its plans was never seen.
    refuse = flavour.name == "rtx" and not allow_unfused
    built = []
    for target in flavour.targets:
        with placed(bundle.path, "engines", f"{flavour.name}-{target}-{precision}") as staged:
            plans = {}
            for graph, source in sources.items():
                say(f"building {graph} for {target}")
                plan = build_plan(
                    flavour,
                    source.text,
                    source.spec,
                    target,
                    source.ranges,
                    timing_cache=timing_cache,
                    say=say,
                    step=step,
                )
                kernels = plan_kernels(plan)
                _check_kernels(graph, kernels, source.expected, refuse=refuse, say=say)
                path = staged / f"{graph}.plan"
                path.write_bytes(plan)
                plans[graph] = source.plan(path, kernels)
            manifest = EngineManifest(
                schema=ENGINE_SCHEMA_VERSION,
                flavour=flavour.name,
                version=flavour.version,
                target=target,
                capabilities=flavour.capabilities(target),
                precision=precision,
                plans=plans,
            )
            text = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"))
            (staged / ENGINE_MANIFEST_NAME).write_bytes(text + b"\n")
        built.append(BuiltEngine(path=bundle.path / manifest.folder, manifest=manifest))
    return tuple(built)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A graph in the engine's precision, which was compared with fp32.

    Attributes:
        spec: its definition.
        origin_sha256: of the fp32 graph in the bundle.
        text: the graph.
        ranges: of the dimensions of its inputs.
        checks: the comparison's.
        expected: the counts of kernels that an engine should have.
    """

    spec: GraphSpec
    origin_sha256: str
    text: bytes
    ranges: dict[str, Range]
    checks: tuple[Check, ...]
    expected: dict[str, int]

    def plan(self, path: Path, kernels: Mapping[str, int]) -> Plan:
        """Return the manifest's entry of the plan file that was built."""
        inputs, outputs = engine_tensors(self.spec)
        return Plan(
            file=file_entry(path),
            source_sha256=self.origin_sha256,
            onnx_sha256=hashlib.sha256(self.text).hexdigest(),
            ranges=self.ranges,
            inputs=inputs,
            outputs=outputs,
            kernels=dict(kernels),
            checks=self.checks,
        )


def _sources(
    bundle: Bundle,
    ranges: Mapping[str, Range],
    heads: onnx.ModelProto | None,
    precision: PrecisionName,
    sample: Sample,
    say: Callable[[str], None],
) -> dict[str, _Source]:
    """Convert every graph, and compare it with fp32."""
    specs = dict(bundle.engine_graphs)
    single = engine_models(bundle)
    if heads is not None:
        single[GROUNDER_HEADS], specs[GROUNDER_HEADS] = heads, heads_spec(bundle.dims)
    softmaxes = {
        graph: sum(node.op_type == "Softmax" for node in model.graph.node)
        for graph, model in single.items()
    }
    unfused = {graph: UNFUSED[graph] + _pools(model) for graph, model in single.items()}
    say(f"converting to {precision}")
    low = lower(single, precision, sample)
    checks = _checked(single, low, bundle.dims, sample, precision, say)
    return {
        graph: _Source(
            spec=spec,
            origin_sha256=bundle.manifest.files[f"{source_graph(graph)}.onnx"].sha256,
            text=low[graph].SerializeToString(deterministic=True),
            ranges=_ranges_of(spec, ranges),
            checks=checks[graph],
            expected={
                "attention": softmaxes[graph] - unfused[graph],
                "softmax": unfused[graph],
                "int8_products": quantized_products(low[graph]),
            },
        )
        for graph, spec in specs.items()
    }


def _pools(model: onnx.ModelProto) -> bool:
    """Whether a tower pools its tokens by attention: that is one row a frame, and never fused."""
    return any(each.name.startswith("projection.pool.") for each in model.graph.initializer)


def lower(
    single: Mapping[str, onnx.ModelProto], precision: PrecisionName, sample: Sample
) -> dict[str, onnx.ModelProto]:
    """Return fp32 graphs, by name, in another precision; int8 is calibrated on the sample."""
    calibration: dict[str, dict[str, NDArray[Any]]] = {
        VIDEO_ENCODER: {"frames": sample.frames},
        TEXT_ENCODER: {"token_ids": sample.token_ids, "query_mask": sample.query_mask},
    }
    low = {}
    for graph, model in single.items():
        arranged = onnx.ModelProto()
        if precision == "int8" and graph in calibration:
            from export.qdq import quantize_symmetric

            arranged = quantize_symmetric(model, [calibration[graph]])
        else:
            arranged.CopyFrom(model)
        stack_projections(arranged)
        low[graph] = to_half(arranged, single_inputs=_SINGLE_INPUTS.get(graph, ()))
    return low


def quantized_products(model: onnx.ModelProto) -> int:
    """Count the products of which both sides are int8."""
    codes = {x.output[0] for x in model.graph.node if x.op_type == "DequantizeLinear"}
    products = [x for x in model.graph.node if x.op_type == "MatMul"]
    return sum(all(name in codes for name in product.input) for product in products)


def check_sample(bundle: Bundle, frames: NDArray[np.uint8] | None = None) -> Sample:
    """Return what graphs are compared on: frames, generated if there are none, and sentences."""
    from r2rt.model.convert.check import sample_frames

    if frames is None:
        frames = sample_frames(_FRAMES, bundle.dims.image_size)
    tokenizer = Tokenizer.of(bundle)
    token_ids, query_mask = tokenizer.encode_batch(_SENTENCES)
    return Sample(frames=frames, token_ids=token_ids, query_mask=query_mask)


_FRAMES = 8


def default_ranges(bundle: Bundle) -> dict[str, Range]:
    """Return the default ranges of an engine's sizes.

    Engines are tuned for the clips of the model's training window. Longer videos run in several
    windows, more queries and frames in several batches. To a model without a window a whole video
    is one, so that its engines take more clips.
    """
    window = bundle.manifest.window_s
    clips, most = (75, 1024) if window is None else (max(1, round(window * bundle.fps)), 256)
    context = bundle.dims.context_length
    return {
        "B": Range(least=1, usual=8, most=64),
        "T": Range(least=1, usual=clips, most=max(most, clips)),
        "N": Range(least=1, usual=1, most=8),
        "L": Range(least=1, usual=min(16, context), most=context),
    }


def _checked(
    single: Mapping[str, onnx.ModelProto],
    low: Mapping[str, onnx.ModelProto],
    dims: ModelDims,
    sample: Sample,
    precision: PrecisionName,
    say: Callable[[str], None],
) -> dict[str, tuple[Check, ...]]:
    """Compare; `single` is changed on the way."""
    say("comparing with fp32")
    tolerance = TOLERANCES[precision]
    plain = check_graphs(single, low, dims, sample, tolerance)
    say("comparing with fp32, outlier channels injected")
    for model in single.values():
        inject_outliers(model)
    injected = check_graphs(
        single, lower(single, precision, sample), dims, sample, tolerance, label=", outliers"
    )
    checks = {graph: plain[graph] + injected[graph] for graph in plain}
    failed = [check for found in checks.values() for check in found if not check.passed]
    if failed:
        worst = ", ".join(f"{check.name} {check.error:.3g}" for check in failed)
        raise VerificationError(
            f"the {precision} graphs differ from fp32, errors in units of their tolerance: "
            f"{worst}; no engine was built, these weights need a higher --precision",
            tuple(check for found in checks.values() for check in found),
        )
    return checks


def _check_kernels(
    graph: str,
    kernels: Mapping[str, int],
    expected: Mapping[str, int],
    *,
    refuse: bool,
    say: Callable[[str], None],
) -> None:
    """Refuse or report a plan in which attention did not fuse or int8 is computed in fp16."""
    if all(kernels[kind] == count for kind, count in expected.items()):
        return
    problem = (
        f"{graph} has {kernels['attention']} fused attention kernels, {kernels['softmax']} "
        f"softmaxes of their own and {kernels['int8_products']} int8 products, expected "
        f"{expected['attention']}, {expected['softmax']} and {expected['int8_products']}"
    )
    if refuse:
        raise EngineBuildError(
            f"{problem}; --allow-unfused keeps such an engine, which is slower than it should be"
        )
    say(problem)


def _ranges_of(spec: GraphSpec, ranges: Mapping[str, Range]) -> dict[str, Range]:
    names = {size for tensor in spec.inputs for size in tensor.shape if isinstance(size, str)}
    found = {name: ranges[name] for name in sorted(names)}
    if spec.name == VIDEO_FINALIZER:
        # Whatever the grounder takes at once comes in runs of so many clips, the last of the rest.
        most = max(CLIPS_AT_ONCE, ranges["T"].most)
        found["T"] = Range(least=1, usual=CLIPS_AT_ONCE, most=most)
    return found


def _cut(sizes: Range, most: int) -> Range:
    """Return the range within what a graph can take at most."""
    return Range(
        least=min(sizes.least, most), usual=min(sizes.usual, most), most=min(sizes.most, most)
    )
