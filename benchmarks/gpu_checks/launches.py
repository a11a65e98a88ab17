"""Compiled kernels by r2rt's own launcher: against fp64, as a CUDA graph, and timed.

A model with random weights is compiled for this GPU, and its launches are run as
`r2rt.engines.tensorrt` runs them, but for the heads, which are an engine: they are replaced by a
copy of what they would be given. Tests run the same over a stub of the driver, with the sizes of
the interpreter.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu_checks.rows import attempt, put
from benchmarks.gpu_checks.samples import (
    SIZES,
    block_in_double,
    device,
    in_double,
    relative_error,
)
from r2rt.model.contract import GROUNDER, VIDEO_FINALIZER, GraphSpec, ModelDims, TensorSpec
from r2rt.model.contract import graph_specs as specs_of

if TYPE_CHECKING:
    from kernels.aot import CompiledKernel
    from kernels.variants import Variant
    from r2rt.engines.tensorrt.cubins import Cubin, LaunchSequence
    from r2rt.engines.tensorrt.cuda import Gpu, Stream
    from r2rt.engines.tensorrt.program import Program, Step

__all__ = [
    "check_finalizer",
    "check_grounder",
    "check_launches",
    "open_session",
    "random_variants",
    "run_for_the_sanitizer",
    "time_query",
]

_SIZES = SIZES[device()]
_DIMS = ModelDims(
    image_size=224,
    patches=_SIZES.patches,
    layers=_SIZES.layers,
    width=_SIZES.width,
    context_length=77,
    strides=(1, 2, 4, 8),
    use_tef=True,
    has_offsets=True,
)
# Clips, queries, query tokens.
_SHAPES = (
    *((75, 1, 16), (75, 1, 12), (1, 1, 1), (13, 3, 77)),
    *((150, 1, 16), (256, 8, 16), (1000, 1, 16)),
)
_BLOCK_LIMIT, _FINALIZE_LIMIT = 4e-3, 2e-3


def check_launches() -> None:
    """Check and time both graphs."""
    with _compiled_session() as session:
        for clips, queries, length in _SHAPES:
            for resident in (False, True):
                name = f"grounder, {clips} clips, {queries} x {length} tokens"
                attempt(
                    name + (", v on the GPU" if resident else ""),
                    partial(check_grounder, session, clips, queries, length, resident=resident),
                )
        for clips in (1, 11, 64, 75):
            attempt(f"finalizer, {clips} clips", partial(check_finalizer, session, clips))
        for clips in (75, 256, 1000):
            attempt(f"one query, {clips} clips", partial(time_query, session, clips))


def run_for_the_sanitizer() -> None:
    """Run small launches, direct and as a graph, for compute-sanitizer to watch."""
    with _compiled_session() as session:
        for clips, queries, length in ((3, 2, 5), (17, 1, 17)):
            for resident in (False, True):
                inputs = _block_inputs(clips, queries, length)
                shape = (queries, clips, _DIMS.width)
                with session.program(GROUNDER, inputs, resident=resident) as program:
                    given = _on_the_gpu(inputs) if resident else inputs
                    session.run(program, given, "clips", shape, times=2)
        inputs = _token_inputs(3)
        with session.program(VIDEO_FINALIZER, inputs, resident=False) as program:
            session.run(program, inputs, "v", _v_shape(3), times=2)
    put("small launches", "ok")


@dataclass
class Session:
    """A GPU with the compiled model on it."""

    gpu: Gpu
    stream: Stream
    cubins: Mapping[str, Cubin]
    sequences: Mapping[tuple[str, bool], LaunchSequence]
    weights: Mapping[str, int]
    state: Mapping[str, Tensor]

    @contextmanager
    def program(
        self, graph: str, inputs: Mapping[str, NDArray[Any]], *, resident: bool
    ) -> Iterator[Program]:
        """Open a graph at the inputs' shapes; the grounder ends at its heads' input, `clips`."""
        from r2rt.engines.tensorrt.buckets import symbols_of
        from r2rt.engines.tensorrt.launcher import Kernels, SequenceStep
        from r2rt.engines.tensorrt.program import Program

        whole = specs_of(_DIMS)[graph]
        symbols = symbols_of(whole, inputs, _DIMS.strides)
        spec, size = whole, 4 * _DIMS.width
        if graph == GROUNDER:
            clips = TensorSpec(name="clips", dtype="float32", shape=("N", "T", _DIMS.width))
            spec = GraphSpec(name=graph, inputs=whole.inputs, outputs=(clips,))
            size *= symbols["N"] * symbols["T"]
        sequence, kernels = self.sequences[graph, resident], Kernels(self.gpu, self.cubins)

        def make(symbols: Mapping[str, int], addresses: Mapping[str, int]) -> list[Step]:
            places = {**self.weights, **addresses}
            if graph == GROUNDER:  # the heads' outputs: named by their step, and never written
                places |= {tensor.name: addresses["clips"] for tensor in whole.outputs}

            def call(_: str, __: Mapping[str, int], tensors: Mapping[str, int]) -> Step:
                return _Copy(tensors["clips"], addresses["clips"], size)

            return [
                SequenceStep(self.gpu, sequence, symbols, places, kernels=kernels, make_call=call)
            ]

        program = Program(self.gpu, spec, symbols, make_steps=make, dtypes=sequence.dtypes)
        try:
            yield program
        finally:
            program.close()

    def run(
        self,
        program: Program,
        inputs: Mapping[str, NDArray[Any]],
        output: str,
        shape: tuple[int, ...],
        *,
        times: int,
    ) -> list[NDArray[Any]]:
        """Return an output of several runs: directly, captured, then as a graph."""
        found = []
        for _ in range(times):
            program.upload(self.stream, inputs)
            program.compute(self.stream)
            program.download(self.stream, output)
            self.stream.synchronize()
            found.append(program.result(output, shape).copy())
        assert times == 1 or program.is_captured, "the launches could not be captured"
        return found


class _Copy:
    """Replaces the engine of the heads."""

    def __init__(self, source: int, target: int, nbytes: int) -> None:
        self._arguments = (target, source, nbytes)

    def enqueue(self, stream: Stream) -> None:
        stream.copy(*self._arguments)

    def can_be_captured(self, stream: Stream) -> bool:
        return True

    def close(self) -> None:
        pass


@contextmanager
def _compiled_session() -> Iterator[Session]:
    from kernels.aot import compile_variant
    from r2rt.engines.tensorrt.cuda import Gpu

    gpu = Gpu()
    try:
        yield open_session(gpu, compile_variant)
    finally:
        gpu.close()


def random_variants() -> Mapping[str, Variant]:
    """Return the kernels of the model by their stem."""
    from export.launch_writer import launched_variants
    from kernels.variants import KernelDims

    sizes = KernelDims(
        patches=_SIZES.patches,
        width=_SIZES.width,
        length=_DIMS.context_length,
        heads=_SIZES.heads,
        channels=_SIZES.vision_width,
    )
    return launched_variants(sizes)[0]


def open_session(gpu: Gpu, compiler: Callable[[Variant, int], CompiledKernel]) -> Session:
    """Compile a model of random weights, which stays on the GPU until that is closed.

    Args:
        gpu: where.
        compiler: called with a kernel and the compute capability, such as 90.
    """
    import msgspec

    from export.launch_writer import launch_files
    from r2rt.engines.tensorrt.cubins import Cubin, LaunchSequence, sequence_file
    from r2rt.engines.tensorrt.launcher import Weights

    state, variants = _random_state(), random_variants()
    files = launch_files(_DIMS, _SIZES.heads, state, variants)
    sequences = {
        (graph, resident): msgspec.json.decode(
            files[sequence_file(graph, resident=resident)], type=LaunchSequence
        )
        for graph in (GROUNDER, VIDEO_FINALIZER)
        for resident in (False, True)
    }
    major, minor = gpu.compute_capability
    cubins = {}
    for stem, variant in variants.items():
        kernel = compiler(variant, 10 * major + minor)
        cubins[stem] = Cubin(record=kernel.record, image=kernel.cubin)
    stream = gpu.stream()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(files["weights.safetensors"])
        weights = Weights(gpu, stream, path).addresses
    return Session(gpu, stream, cubins, sequences, weights, state)


def _random_state() -> dict[str, Tensor]:
    from training.model import R2Config, R2Tuning

    torch.manual_seed(0)
    config = R2Config(
        width=_SIZES.width,
        heads=_SIZES.heads,
        layers=_SIZES.layers,
        vision_width=_SIZES.vision_width,
        text_width=512,
    )
    model = R2Tuning(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:  # scales, gates, norms and biases start at constants
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.state_dict()


def _block_inputs(clips: int, queries: int, length: int) -> dict[str, NDArray[Any]]:
    random, (k, p, d) = np.random.default_rng(clips), (_DIMS.layers, _DIMS.patches, _DIMS.width)
    mask = np.ones((queries, length), np.float32)
    mask[1:, (length + 1) // 2 :] = 0
    key = random.standard_normal((queries, k, length, d), np.float32)
    inputs: dict[str, NDArray[Any]] = {
        "v": random.standard_normal((clips, k, p, d), np.float32),
        "q": random.standard_normal((queries, k, length, d), np.float32),
        "q_key": key * np.float32(2 / math.sqrt(d)),
        "pooled": random.standard_normal((queries, d), np.float32),
        "query_mask": mask,
    }
    for tensor in specs_of(_DIMS)[GROUNDER].inputs:  # such as a bias of the patches: 0 is none
        shape = [{"T": clips, "N": queries, "L": length}.get(str(x), x) for x in tensor.shape]
        inputs.setdefault(tensor.name, np.zeros([int(x) for x in shape], tensor.dtype))
    return inputs


def _on_the_gpu(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the inputs of launches for which v stays on the GPU, in fp16."""
    return {**inputs, "v": inputs["v"].astype(np.float16)}


def _v_shape(clips: int) -> tuple[int, ...]:
    return clips, _DIMS.layers, _DIMS.patches, _DIMS.width


def _token_inputs(clips: int) -> dict[str, NDArray[Any]]:
    from benchmarks.gpu_checks.kernels import stored_tokens

    tokens, endpoints = stored_tokens(clips)
    return {"tokens": tokens.cpu().numpy(), "endpoints": endpoints.cpu().numpy()}


def check_grounder(
    session: Session, clips: int, queries: int, length: int, *, resident: bool
) -> dict[str, float]:
    """Check the R² block's launches, direct and as a graph, against the formula in fp64.

    Args:
        session: the compiled model.
        clips: T.
        queries: N; all but the first are padded.
        length: query tokens L.
        resident: whether v stays on the GPU in fp16.
    """
    from kernels.reference.r2_block import r2_block as reference
    from kernels.weights import pack_r2_block

    inputs = _block_inputs(clips, queries, length)
    given = _on_the_gpu(inputs) if resident else inputs
    with session.program(GROUNDER, inputs, resident=resident) as program:
        shape = (queries, clips, _DIMS.width)
        first, *others = session.run(program, given, "clips", shape, times=3)
    assert all(np.array_equal(first, other) for other in others), "direct run and graph differ"
    packed = pack_r2_block(session.state, heads=_SIZES.heads, dtype=torch.float16, device=device())
    exact = block_in_double(packed)
    v, q, key = (
        torch.from_numpy(inputs[name]).to(device()).half().double() for name in ("v", "q", "q_key")
    )
    mask = torch.from_numpy(inputs["query_mask"]).to(device())
    expected = torch.cat(
        [reference(v, q[n : n + 1], key[n : n + 1], mask[n : n + 1], exact) for n in range(queries)]
    )
    got = torch.from_numpy(first).to(device())
    return {"error": relative_error(got, expected, "last", limit=_BLOCK_LIMIT)}


def check_finalizer(session: Session, clips: int) -> dict[str, float]:
    """Check the video finalizer's launch likewise."""
    from kernels.reference.finalize import finalize as reference
    from kernels.weights import pack_finalize

    inputs = _token_inputs(clips)
    with session.program(VIDEO_FINALIZER, inputs, resident=False) as program:
        first, *others = session.run(program, inputs, "v", _v_shape(clips), times=3)
    assert all(np.array_equal(first, other) for other in others), "direct run and graph differ"
    weights = pack_finalize(session.state, dtype=torch.float16, device=device())
    tokens, ends = (
        torch.from_numpy(inputs[name]).to(device()).double() for name in ("tokens", "endpoints")
    )
    expected = reference(tokens, ends, in_double(weights))
    got = torch.from_numpy(first).to(device())
    return {"error": relative_error(got, expected, "v", limit=_FINALIZE_LIMIT)}


def time_query(session: Session, clips: int, *, rounds: int = 100) -> dict[str, float]:
    """Return median microseconds of a query's launches, v being on the GPU, by driver events."""
    call = session.gpu.call
    inputs = _block_inputs(clips, 1, 16)
    with session.program(GROUNDER, inputs, resident=True) as program:
        session.run(program, _on_the_gpu(inputs), "clips", (1, clips, _DIMS.width), times=2)
        begin, end = (call("cuEventCreate", 0) for _ in range(2))
        found = {}
        for name, work in (("graph_us", program.compute), ("direct_us", program._enqueue_steps)):
            times = []
            for _ in range(rounds):
                call("cuEventRecord", begin, session.stream.value)
                work(session.stream)
                call("cuEventRecord", end, session.stream.value)
                call("cuEventSynchronize", end)
                times.append(float(call("cuEventElapsedTime", begin, end)))
            found[name] = 1e3 * sorted(times)[rounds // 2]
        for event in (begin, end):
            call("cuEventDestroy", event)
    return found
