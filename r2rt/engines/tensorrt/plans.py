"""Prebuilt engines of a bundle: what each was built for, and whether it can run here.

Each is in a folder `engines/<flavour>-<target>-<precision>/`, one plan a graph beside
`engine.json`. A plan runs under the very version that built it, on the GPUs that it was built for:
anything else is refused here, before the plan is given to anyone.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Literal

import msgspec

from r2rt.errors import BackendUnavailableError, BundleDamagedError
from r2rt.model.bundle import Bundle
from r2rt.model.contract import GROUNDER, GraphSpec, ModelDims, TensorSpec, graph_specs
from r2rt.model.manifest import Check, FileEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ENGINES_FOLDER",
    "ENGINE_MANIFEST_NAME",
    "GROUNDER_HEADS",
    "RMS_TOLERANCES",
    "EngineManifest",
    "EngineTensor",
    "Plan",
    "Range",
    "engine_folders",
    "engine_tensors",
    "find_engine",
    "header_problem",
    "heads_spec",
    "read_engine",
    "read_plan",
    "refusal",
    "source_graph",
]

ENGINES_FOLDER = "engines"
ENGINE_MANIFEST_NAME = "engine.json"
ENGINE_SCHEMA_VERSION = 1
# The one plan that is no graph of the contract, and may be missing; see `heads_spec`.
GROUNDER_HEADS = "grounder_heads"

FlavourName = Literal["tensorrt", "rtx"]
PrecisionName = Literal["fp16", "int8"]

# What an engine's precision may do to an output: root of the mean squared error, as a share of that
# of the fp32 output.
# fp16 has a precision of 4.9e-4. Random towers and the golden R² block err by 7e-4 with outliers or
# without; twelve blocks of trained weights may add to it. int8 rounds the towers' activations to
# 1/127 of their range.
RMS_TOLERANCES: Mapping[PrecisionName, float] = {"fp16": 4e-3, "int8": 6e-2}


class Range(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a dynamic dimension that an engine takes, and the one that it is tuned for."""

    least: int
    usual: int
    most: int

    def bounds(self) -> tuple[int, int, int]:
        """Return least, usual and most."""
        return self.least, self.usual, self.most


class EngineTensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input or output of a plan: name, numpy dtype, shape (a name is a dynamic dimension)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One graph's plan, or that of the grounder's heads.

    Attributes:
        file: size and sha256 of `<graph>.plan`.
        source_sha256: the bundle's fp32 ONNX graph that it was made of, whole or in part.
        onnx_sha256: the ONNX graph in the engine's precision that was built.
        ranges: sizes of the dynamic dimensions of its inputs.
        inputs: in order.
        outputs: in order.
        kernels: what it consists of, counted by kind; see `export.trt_builder.plan_kernels`.
        checks: comparisons of the ONNX graph that was built with the fp32 one, on the CPU.
    """

    file: FileEntry
    source_sha256: str
    onnx_sha256: str
    ranges: dict[str, Range]
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    kernels: dict[str, int]
    checks: tuple[Check, ...]


class EngineManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`engine.json`, schema 1.

    Attributes:
        schema: version of this layout.
        flavour: `tensorrt` or `rtx`.
        version: version of the builder, which is the only one that may run the plans.
        target: what the folder is called after: a compute capability, or `portable`.
        capabilities: every compute capability that the plans serve.
        precision: `fp16`, or `int8` for the towers' linear layers and fp16 for the rest.
        plans: by the graph's name.
    """

    schema: int
    flavour: FlavourName
    version: str
    target: str
    capabilities: tuple[str, ...]
    precision: PrecisionName
    plans: dict[str, Plan]

    @property
    def folder(self) -> str:
        """Where it stands inside a bundle."""
        return f"{ENGINES_FOLDER}/{self.flavour}-{self.target}-{self.precision}"


def engine_folders(bundle: Bundle) -> tuple[str, ...]:
    """Return the folders of all engines that a bundle's manifest lists, in order."""
    suffix = f"/{ENGINE_MANIFEST_NAME}"
    return tuple(
        sorted(
            name.removesuffix(suffix)
            for name in bundle.manifest.files
            if name.startswith(f"{ENGINES_FOLDER}/") and name.endswith(suffix)
        )
    )


def read_engine(bundle: Bundle, folder: str) -> EngineManifest:
    """Read and validate the manifest of the engine in `folder` of a bundle.

    Raises:
        BundleDamagedError: it is not listed, malformed, or made of other graphs than the bundle's.
    """
    path = bundle.file(f"{folder}/{ENGINE_MANIFEST_NAME}")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=EngineManifest)
    except (OSError, msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BundleDamagedError(f"{path}: {error}; build the engine again") from error
    problem = _inconsistency(bundle, manifest, folder)
    if problem:
        raise BundleDamagedError(f"{path}: {problem}; build the engine again")
    return manifest


def refusal(
    manifest: EngineManifest, *, flavour: FlavourName, version: str, capability: str
) -> str | None:
    """Return why an engine may not run, or None if it may.

    Args:
        manifest: the engine's.
        flavour: the runtime that would run it.
        version: that runtime's version.
        capability: compute capability of the GPU, such as "8.9".
    """
    name = manifest.folder
    if manifest.flavour != flavour:
        return f"{name} is for {manifest.flavour}, not {flavour}"
    if manifest.version != version:
        return f"{name} was built by {flavour} {manifest.version}, here is {version}"
    if capability not in manifest.capabilities:
        served = ", ".join(manifest.capabilities)
        return f"{name} serves compute capability {served}, this GPU has {capability}"
    return None


def find_engine(
    bundle: Bundle,
    *,
    flavour: FlavourName,
    version: str,
    capability: str,
    precision: PrecisionName | None = None,
) -> EngineManifest:
    """Return the engine of a bundle that may run here: the one for this GPU alone before others.

    Args:
        bundle: the bundle.
        flavour: the runtime that would run it.
        version: that runtime's version.
        capability: compute capability of the GPU, such as "8.9".
        precision: None takes fp16 where it is there.

    Raises:
        BackendUnavailableError: there is none; says why each that is there may not run.
        BundleDamagedError: an engine's manifest is malformed.
    """
    refusals, fitting = [], []
    for folder in engine_folders(bundle):
        manifest = read_engine(bundle, folder)
        why = refusal(manifest, flavour=flavour, version=version, capability=capability)
        if why is None and precision not in (None, manifest.precision):
            why = f"{manifest.folder} computes in {manifest.precision}, not {precision}"
        if why is None:
            fitting.append(manifest)
        else:
            refusals.append(why)
    if not fitting:
        there = "; ".join(refusals) or "the bundle has none"
        raise BackendUnavailableError(
            f"no engine for {flavour} {version} on compute capability {capability}: {there}; "
            f"build one: python export/to_trt.py {bundle.path}"
        )
    return min(fitting, key=lambda x: (x.precision != "fp16", len(x.capabilities)))


def read_plan(bundle: Bundle, manifest: EngineManifest, graph: str) -> bytes:
    """Return the plan of one graph, its content being what was promised.

    Raises:
        BundleDamagedError: it is missing, damaged, or its own header contradicts the manifest.
    """
    path = bundle.file(f"{manifest.folder}/{graph}.plan")
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise BundleDamagedError(
            f"{path}: cannot be read ({error.strerror}); build the engine again"
        ) from error
    problem = None
    if hashlib.sha256(plan).hexdigest() != manifest.plans[graph].file.sha256:
        problem = "not what its manifest promises"
    elif manifest.flavour == "rtx":
        problem = header_problem(plan, version=manifest.version, capabilities=manifest.capabilities)
    if problem:
        raise BundleDamagedError(f"{path}: {problem}; build the engine again")
    return plan


# As seen in TensorRT-RTX 1.7.1, undocumented; a bit for each compute capability.
_HEADER = struct.Struct("<4s12xQ4B4xI")
_MAGIC = b"vtrt"
_CAPABILITY_BITS = {"7.5": 1, "8.0": 2, "8.6": 4, "8.9": 8, "12.0": 16, "12.1": 32}


def header_problem(plan: bytes, *, version: str, capabilities: tuple[str, ...]) -> str | None:
    """Return how the header of a TensorRT-RTX plan contradicts what is said of it, or None.

    The runtime itself notices this late, on the GPU, or not at all.
    """
    if len(plan) < _HEADER.size:
        return f"only {len(plan)} bytes"
    magic, size, *found, mask = _HEADER.unpack_from(plan)
    if magic != _MAGIC:
        return f"begins with {magic!r}, expected {_MAGIC!r}"
    if size != len(plan):
        return f"{len(plan)} bytes, its header says {size}"
    if ".".join(map(str, found)) != version:
        return f"built by {'.'.join(map(str, found))}, expected {version}"
    wanted = sum(_CAPABILITY_BITS.get(capability, 0) for capability in capabilities)
    return None if mask == wanted else f"built for GPUs {mask:#x}, expected {wanted:#x}"


def engine_tensors(spec: GraphSpec) -> tuple[tuple[EngineTensor, ...], tuple[EngineTensor, ...]]:
    """Return inputs and outputs of a graph as an engine's manifest lists them.

    They are the contract's, fp32 where it says so, whatever the precision inside: an encoded video
    may pass from any backend to any other, and M2 of a token, a sum of squares, overflows fp16.
    """
    inputs, outputs = (
        tuple(EngineTensor(name=x.name, dtype=x.dtype, shape=x.shape) for x in tensors)
        for tensors in (spec.inputs, spec.outputs)
    )
    return inputs, outputs


def source_graph(plan: str) -> str:
    """Return the graph of the bundle that a plan computes, or a part of which."""
    return GROUNDER if plan == GROUNDER_HEADS else plan


def heads_spec(dims: ModelDims) -> GraphSpec:
    """Return the definition of the part of `grounder` behind the R² block.

    Compiled kernels compute the block where a bundle has them: `clips` is what comes out of it,
    before the ReLU. The rest is the grounder's.
    """
    whole = graph_specs(dims)[GROUNDER]
    clips = TensorSpec(name="clips", dtype="float32", shape=("N", "T", dims.width))
    pooled = tuple(tensor for tensor in whole.inputs if tensor.name == "pooled")
    return GraphSpec(name=GROUNDER_HEADS, inputs=(clips, *pooled), outputs=whole.outputs)


def _inconsistency(bundle: Bundle, manifest: EngineManifest, folder: str) -> str | None:
    if manifest.schema != ENGINE_SCHEMA_VERSION:
        return f"schema {manifest.schema}, this r2rt reads schema {ENGINE_SCHEMA_VERSION}"
    if manifest.folder != folder:
        return f"its manifest is of {manifest.folder}"
    graphs = bundle.engine_graphs
    specs = {**graphs, GROUNDER_HEADS: heads_spec(bundle.dims)}
    if manifest.plans.keys() - {GROUNDER_HEADS} != graphs.keys():
        return f"plans of {', '.join(manifest.plans)}; expected {', '.join(graphs)}"
    files = bundle.manifest.files
    for graph, plan in manifest.plans.items():
        if files.get(f"{folder}/{graph}.plan") != plan.file:
            return f"{graph}.plan is not the one that the bundle lists"
        source = source_graph(graph)
        if files[f"{source}.onnx"].sha256 != plan.source_sha256:
            return f"{graph}.plan was built of another {source}.onnx"
        if (plan.inputs, plan.outputs) != engine_tensors(specs[graph]):
            return f"{graph}.plan has other inputs or outputs than the bundle's graph"
        problem = _range_problem(specs[graph], plan.ranges)
        if problem:
            return f"{graph}.plan: {problem}"
    return None


def _range_problem(spec: GraphSpec, ranges: Mapping[str, Range]) -> str | None:
    dynamic = {size for tensor in spec.inputs for size in tensor.shape if isinstance(size, str)}
    if ranges.keys() != dynamic:
        return f"ranges of {', '.join(sorted(ranges))}; expected {', '.join(sorted(dynamic))}"
    for name, sizes in ranges.items():
        if not 1 <= sizes.least <= sizes.usual <= sizes.most:
            return f"the range of {name} does not ascend from 1: {sizes.bounds()}"
    return None
