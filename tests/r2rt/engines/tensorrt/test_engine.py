"""The TensorRT backend over the stub driver: same answers as the CPU, nothing leaked, ever."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt.engines import Choice
from r2rt.engines.base import Engine, PipelinedEngine
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.engines.resident import DeviceArray
from r2rt.engines.tensorrt.buckets import shape_of, symbols_of
from r2rt.engines.tensorrt.cubins import SCHEMA_VERSION, Call, LaunchSequence, ScratchBuffer
from r2rt.engines.tensorrt.cuda import Gpu
from r2rt.engines.tensorrt.engine import TensorRTEngine
from r2rt.engines.tensorrt.execution import message_log
from r2rt.engines.tensorrt.pipeline import SLOTS
from r2rt.engines.tensorrt.plans import GROUNDER_HEADS, Range, heads_spec
from r2rt.errors import BackendUnavailableError, BundleDamagedError, GpuError, R2rtError
from r2rt.grounding.finalizer import Finalizer
from r2rt.grounding.grounder import Grounder
from r2rt.model.bundle import Bundle
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, VIDEO_FINALIZER, query_inputs
from tests.r2rt.engines.tensorrt.fake_tensorrt import (
    DEMO,
    RANGES,
    FakeRuntime,
    _Context,
    bundle_with_engines,
)
from tests.r2rt.engines.tensorrt.stub_driver import StubDriver
from tests.unmerged import unmerged

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_with_engines(tmp_path_factory.mktemp("bundle"))


class Opened:
    """An engine over a stub driver, and what it stands on."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        refuse: str | None = None,
        beyond: Engine | None = None,
        **driver: Any,
    ) -> None:
        self.driver = StubDriver(**driver)
        self.runtime = FakeRuntime(self.driver, bundle, refuse=refuse)
        self.engine = TensorRTEngine(
            bundle, "rtx", gpu=Gpu(self.driver), runtime=self.runtime, beyond=beyond
        )


def frames(bundle: Bundle, count: int, seed: int = 0) -> NDArray[np.uint8]:
    size = bundle.dims.image_size
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def token_shape(bundle: Bundle, count: int) -> tuple[int, ...]:
    dims = bundle.dims
    return (count, dims.layers, dims.patches, dims.token_width)


def texts(bundle: Bundle, queries: int, length: int) -> dict[str, NDArray[Any]]:
    ids = np.arange(queries * length, dtype=np.int64).reshape(queries, length) % 100
    return {"token_ids": ids, "query_mask": np.ones((queries, length), np.float32)}


def close(opened: Opened) -> None:
    opened.engine.close()
    assert opened.driver.leaks() == []
    assert opened.driver.faults == []
    gc.collect()
    assert opened.runtime.contexts == 0


@pytest.mark.parametrize("seed", range(3))
def test_every_graph_gives_what_the_cpu_gives(bundle: Bundle, seed: int) -> None:
    opened = Opened(bundle, seed=seed)
    cpu: Engine = OnnxRuntimeEngine(bundle, threads=1)
    clips, dims = 11, bundle.dims
    tokens = cpu.run(VIDEO_ENCODER, {"frames": frames(bundle, clips)[:8]})["tokens"]
    ends = np.linspace(0, 1, 9, dtype=np.float32)
    ends = np.stack([ends[:-1], ends[1:]], axis=1)
    inputs: dict[str, dict[str, Any]] = {
        VIDEO_ENCODER: {"frames": frames(bundle, 3)},
        VIDEO_FINALIZER: {"tokens": tokens, "endpoints": ends},
        TEXT_ENCODER: texts(bundle, 3, 11),
    }
    inputs[GROUNDER] = {
        "v": cpu.run(VIDEO_FINALIZER, inputs[VIDEO_FINALIZER])["v"],
        **query_inputs(cpu.run(TEXT_ENCODER, inputs[TEXT_ENCODER])),
        "query_mask": inputs[TEXT_ENCODER]["query_mask"],
    }
    for _ in range(3):  # run, captured, replayed
        for graph, values in inputs.items():
            bias = unmerged(values["v"]) if graph == GROUNDER else {}
            got, want = opened.engine.run(graph, values), cpu.run(graph, values | bias)
            assert got.keys() == want.keys()
            for name in want:
                assert got[name].shape == want[name].shape
                np.testing.assert_allclose(got[name], want[name], atol=2e-5, err_msg=name)
    assert opened.driver.calls.count("cuGraphInstantiate") == 4
    assert opened.driver.calls.count("cuGraphLaunch") == 8
    assert dims.layers == tokens.shape[1]
    close(opened)


@pytest.mark.parametrize("refuse", ["is_stream_capturable", "capture"])
def test_an_engine_that_cannot_be_captured_goes_on_without_a_graph(
    bundle: Bundle, refuse: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "r2rt")
    if refuse == "capture":
        monkeypatch.delattr(_Context, "is_stream_capturable")  # as of older runtimes
    opened = Opened(bundle, refuse=refuse)
    values = texts(bundle, 1, 9)
    want = opened.runtime.cpu.run(TEXT_ENCODER, values)
    for _ in range(4):
        got = opened.engine.run(TEXT_ENCODER, values)
        np.testing.assert_allclose(got["q"], want["q"], atol=2e-5)
    begun = opened.driver.calls.count("cuStreamBeginCapture")
    assert begun == opened.driver.calls.count("cuStreamEndCapture") == (refuse == "capture")
    assert opened.driver.calls.count("cuGraphLaunch") == 0
    (said,) = (line for line in caplog.messages if "CUDA graph" in line)
    assert said.startswith("text_encoder runs without a CUDA graph: ")
    close(opened)


def test_one_captured_graph_serves_all_shapes_of_a_bucket(bundle: Bundle) -> None:
    opened = Opened(bundle)
    for length in (9, 16, 12, 10):
        opened.engine.run(TEXT_ENCODER, texts(bundle, 1, length))
    assert {shapes["token_ids"] for _, shapes in opened.runtime.executions} == {(1, 16)}
    assert opened.driver.calls.count("cuGraphInstantiate") == 1
    opened.engine.run(TEXT_ENCODER, texts(bundle, 1, 17))
    assert opened.runtime.executions[-1][1]["token_ids"] == (1, 24)
    assert opened.driver.calls.count("cuGraphInstantiate") == 1
    close(opened)


def test_old_shapes_make_room_for_new_ones(bundle: Bundle) -> None:
    opened = Opened(bundle)
    for length in range(1, 78, 4):
        opened.engine.run(TEXT_ENCODER, texts(bundle, 1, length))
    gc.collect()
    assert opened.runtime.contexts == 8
    close(opened)


def test_shapes_that_are_kept_give_way_where_memory_is_short(bundle: Bundle) -> None:
    opened = Opened(bundle)
    opened.engine.run(TEXT_ENCODER, texts(bundle, 1, 5))
    opened.driver._fail_at = len(opened.driver.calls) + 1  # behind the choice of the GPU
    values = texts(bundle, 1, 9)
    got = opened.engine.run(TEXT_ENCODER, values)
    assert opened.driver.failed == "cuMemAlloc"
    want = opened.runtime.cpu.run(TEXT_ENCODER, values)
    np.testing.assert_allclose(got["q"], want["q"], atol=2e-5)
    gc.collect()
    assert opened.runtime.contexts == 1
    close(opened)


def test_more_queries_than_the_engine_takes_are_run_in_parts(bundle: Bundle) -> None:
    opened = Opened(bundle)
    values = texts(bundle, 11, 16)
    got = opened.engine.run(TEXT_ENCODER, values)
    want = OnnxRuntimeEngine(bundle, threads=1).run(TEXT_ENCODER, values)
    assert [shapes["token_ids"][0] for _, shapes in opened.runtime.executions] == [4, 4, 4]
    np.testing.assert_allclose(got["q"], want["q"], atol=2e-5)
    close(opened)


def test_sizes_beyond_the_engine_are_refused_with_advice(bundle: Bundle) -> None:
    opened = Opened(bundle)
    with pytest.raises(BackendUnavailableError, match=r"B is 9, the engine takes 1 to 8"):
        opened.engine.run(VIDEO_ENCODER, {"frames": frames(bundle, 9)})
    wrong = texts(bundle, 1, 5) | {"token_ids": np.zeros((1, 5), np.float32)}
    with pytest.raises(ValueError, match="token_ids is float32"):
        opened.engine.run(TEXT_ENCODER, wrong)
    with pytest.raises(ValueError, match="no input query_mask"):
        opened.engine.run(TEXT_ENCODER, {"token_ids": np.zeros((1, 5), np.int64)})
    close(opened)


@pytest.mark.parametrize("seed", range(20))
def test_pipelined_batches_come_out_right_in_any_order_of_streams(
    bundle: Bundle, seed: int
) -> None:
    opened = Opened(bundle, seed=seed)
    assert isinstance(opened.engine, PipelinedEngine)
    pictures = frames(bundle, 19)
    tokens = np.full(token_shape(bundle, 19), np.nan, np.float32)
    embeddings = np.full((19, bundle.dims.embedding_width or 0), np.nan, np.float32)
    staging = np.empty_like(pictures[:4])
    for start in range(0, 19, 4):
        part = pictures[start : start + 4]
        staging[: len(part)] = part
        rows = slice(start, start + 4)
        places = {"tokens": tokens[rows], "embedding": embeddings[rows]}
        opened.engine.submit(staging[: len(part)], places)
        staging[:] = 0  # the caller's to reuse as soon as `submit` returns
    opened.engine.finish()
    want = OnnxRuntimeEngine(bundle, threads=1).run(VIDEO_ENCODER, {"frames": pictures})
    np.testing.assert_allclose(tokens, want["tokens"], atol=2e-5)
    np.testing.assert_allclose(embeddings, want["embedding"], atol=2e-5)
    opened.engine.finish()
    close(opened)


def test_batches_smaller_than_the_engine_takes_share_one_program_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RANGES, "B", Range(least=4, usual=4, most=8))
    bundle = bundle_with_engines(tmp_path)
    opened = Opened(bundle)
    pictures = frames(bundle, 6)
    tokens = np.full(token_shape(bundle, 6), np.nan, np.float32)
    for start in range(6):
        one = slice(start, start + 1)
        opened.engine.submit(pictures[one], {"tokens": tokens[one]})
        if start == SLOTS - 1:  # each slot was used once
            allocations = opened.driver.calls.count("cuMemAlloc")
    opened.engine.finish()
    assert opened.driver.calls.count("cuMemAlloc") == allocations
    assert opened.runtime.contexts == SLOTS
    want = opened.runtime.cpu.run(VIDEO_ENCODER, {"frames": pictures})
    np.testing.assert_allclose(tokens, want["tokens"], atol=2e-5)
    close(opened)


def test_uploads_run_ahead_of_computation(bundle: Bundle) -> None:
    """The next batch may be on the device before the last is computed, in some order."""
    furthest = 0
    for seed in range(12):
        opened = Opened(bundle, seed=seed)
        tokens = np.empty(token_shape(bundle, 16), np.float32)
        for start in range(0, 16, 4):
            opened.engine.submit(frames(bundle, 4), {"tokens": tokens[start : start + 4]})
        opened.engine.finish()
        work = [name for name in opened.driver.ran if name in {"upload", VIDEO_ENCODER}]
        assert sorted(work) == ["upload"] * 4 + [VIDEO_ENCODER] * 4
        ahead = np.cumsum([1 if name == "upload" else -1 for name in work])
        furthest = max(furthest, int(ahead.max()))
        close(opened)
    assert furthest == SLOTS


def test_values_stay_on_the_device_between_graphs(bundle: Bundle) -> None:
    opened = Opened(bundle)
    engine, dims = opened.engine, bundle.dims
    cpu = OnnxRuntimeEngine(bundle, threads=1)
    tokens = cpu.run(VIDEO_ENCODER, {"frames": frames(bundle, 8)})["tokens"]
    ends = np.stack([np.arange(8), np.arange(1, 9)], axis=1).astype(np.float32) / 8
    v = engine.empty((8, dims.layers, dims.patches, dims.width))
    for start in (0, 4):
        part = slice(start, start + 4)
        values = {"tokens": tokens[part], "endpoints": ends[part]}
        assert engine.run(VIDEO_FINALIZER, values, {"v": v[part]}) == {}
    downloads = opened.driver.calls.count("cuMemcpyDtoHAsync")
    assert downloads == 0
    queries = texts(bundle, 1, 7)
    encoded = query_inputs(cpu.run(TEXT_ENCODER, queries)) | {"query_mask": queries["query_mask"]}
    got = engine.run(GROUNDER, {"v": v, **encoded})
    want_v = cpu.run(VIDEO_FINALIZER, {"tokens": tokens, "endpoints": ends})["v"]
    want = cpu.run(GROUNDER, {**unmerged(want_v), **encoded})
    np.testing.assert_allclose(got["saliency"], want["saliency"], atol=2e-5)
    with pytest.raises(ValueError, match="its place"):
        engine.run(VIDEO_FINALIZER, {"tokens": tokens, "endpoints": ends}, {"v": v[:4]})
    frees = opened.driver.calls.count("cuMemFree")
    del v
    gc.collect()
    assert opened.driver.calls.count("cuMemFree") == frees  # deferred, since a capture may be open
    engine.empty((1,))
    assert opened.driver.calls.count("cuMemFree") == frees + 1
    close(opened)


@pytest.mark.parametrize("falls_back", [False, True])
def test_more_clips_than_the_engine_takes_are_the_cpu_s_or_refused(
    bundle: Bundle, falls_back: bool
) -> None:
    cpu = OnnxRuntimeEngine(bundle, threads=1)
    opened = Opened(bundle, beyond=cpu if falls_back else None)
    engine, dims = opened.engine, bundle.dims
    clips = RANGES["T"].most + 2
    tokens = np.random.default_rng(0).random(token_shape(bundle, clips), dtype=np.float32)
    want_v = Finalizer(dims, cpu).whole(tokens)
    v = engine.empty(want_v.shape)
    Finalizer(dims, engine)._run(tokens, v)
    queries = texts(bundle, 1, 7)
    encoded = query_inputs(cpu.run(TEXT_ENCODER, queries)) | {"query_mask": queries["query_mask"]}
    if falls_back:
        got = engine.run(GROUNDER, {"v": v, **encoded})
        want = cpu.run(GROUNDER, {**unmerged(want_v), **encoded})
        np.testing.assert_allclose(got["saliency"], want["saliency"], atol=2e-5)
    else:
        with pytest.raises(BackendUnavailableError, match="T is 130, the engine takes 1 to 128"):
            engine.run(GROUNDER, {"v": v, **encoded})
    assert {graph for graph, _ in opened.runtime.executions} == {VIDEO_FINALIZER}
    del v
    close(opened)


def test_a_device_array_is_cut_along_its_first_dimension(bundle: Bundle) -> None:
    opened = Opened(bundle)
    array = opened.engine.empty((6, 5))
    assert isinstance(array, DeviceArray)
    assert len(array[2:4]) == 2
    assert array[2:4].address == array.address + 2 * 5 * 4
    assert array[4:2].shape == (0, 5)
    with pytest.raises(ValueError, match="one after another"):
        array[::2]
    close(opened)


def test_a_grounder_answers_as_on_the_cpu(bundle: Bundle) -> None:
    opened = Opened(bundle)
    choice = Choice(device="rtx", backend="tensorrt", reason="test")
    grounder = Grounder(bundle, opened.engine, choice=choice)
    pictures = frames(bundle, 21)
    queries = ["a dog catches a frisbee", "someone laughs", "a train leaves", "x", "y", "z"]
    got = grounder.ground(grounder.encode_frames(pictures, Fraction(1, 2)), queries)
    reference = Grounder(
        bundle,
        OnnxRuntimeEngine(bundle, threads=1),
        choice=Choice(device="cpu", backend="onnxruntime", reason="test"),
    )
    want = reference.ground(reference.encode_frames(pictures, Fraction(1, 2)), queries)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one.saliency, other.saliency, atol=2e-5)
        np.testing.assert_allclose(one.boundaries, other.boundaries, atol=2e-4)
    del grounder
    close(opened)


def test_what_the_runtime_compiled_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2RT_CACHE", str(tmp_path))
        for expected in ([], [b"compiled"]):
            opened = Opened(bundle)
            opened.engine.run(TEXT_ENCODER, texts(bundle, 1, 5))
            assert opened.runtime.caches_read == expected
            close(opened)


def test_release_frees_a_graph_and_it_is_opened_again(bundle: Bundle) -> None:
    opened = Opened(bundle)
    before = opened.driver.leaks()
    values = {"frames": frames(bundle, 2)}
    first = opened.engine.run(VIDEO_ENCODER, values)
    places = {"tokens": np.empty(token_shape(bundle, 2), np.float32)}
    opened.engine.submit(values["frames"], places)
    opened.engine.release(VIDEO_ENCODER)
    gc.collect()
    assert opened.driver.leaks() == before
    assert opened.runtime.contexts == 0
    again = opened.engine.run(VIDEO_ENCODER, values)
    np.testing.assert_array_equal(first["tokens"], again["tokens"])
    close(opened)


class Zeros:
    """Computes nothing, in the shapes of the grounder's heads."""

    def __init__(self, bundle: Bundle) -> None:
        self._dims = bundle.dims

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]], /) -> dict[str, NDArray[Any]]:
        symbols = symbols_of(heads_spec(self._dims), inputs, self._dims.strides)
        return {x.name: np.zeros(shape_of(x, symbols)) for x in heads_spec(self._dims).outputs}


def test_release_of_the_grounder_frees_the_engine_of_its_heads(tmp_path: Path) -> None:
    dims = Bundle.open(DEMO).dims
    spec = heads_spec(dims)
    names = {x.name: x.name for x in (*spec.inputs, *spec.outputs)}
    sequence = LaunchSequence(
        schema=SCHEMA_VERSION,
        graph=GROUNDER,
        buffers={"last": ScratchBuffer(dtype="float32", shape=("N", "T", dims.width))},
        weights=None,
        steps=(Call(engine=GROUNDER_HEADS, tensors={**names, "clips": "last"}),),
    )
    launches = {"kernels/sm_90/grounder.launches.json": msgspec.json.encode(sequence)}
    bundle = bundle_with_engines(tmp_path, launches, heads=True)
    driver = StubDriver()
    runtime = FakeRuntime(driver, bundle, cpu=Zeros(bundle))
    engine = TensorRTEngine(bundle, "rtx", gpu=Gpu(driver), runtime=runtime)
    q = np.ones((1, dims.layers, 5, dims.width), np.float32)
    inputs = {
        "v": np.ones((3, dims.layers, dims.patches, dims.width), np.float32),
        "q": q,
        "q_key": q,
        "pooled": np.ones((1, dims.width), np.float32),
        "query_mask": np.ones((1, 5), np.float32),
    }
    engine.run(GROUNDER, inputs)
    assert [graph for graph, _ in runtime.executions] == [GROUNDER_HEADS]
    engine.release(GROUNDER)
    gc.collect()
    assert (runtime.contexts, runtime.engines) == (0, 0)
    engine.close()


@pytest.mark.parametrize(
    ("refuse", "error", "complaint"),
    [
        ("deserialize_cuda_engine", BackendUnavailableError, r"Wrong magic tag\.\); build it"),
        ("create_execution_context", GpuError, "no execution context"),
        ("set_input_shape", GpuError, "token_ids cannot be"),
        ("infer_shapes", GpuError, "x have no shape"),
        ("set_tensor_address", GpuError, "token_ids cannot be at 0x"),
        ("execute_async_v3", GpuError, "cannot be enqueued"),
    ],
)
def test_what_the_runtime_refuses_is_reported_and_frees_all(
    bundle: Bundle, refuse: str, error: type[R2rtError], complaint: str
) -> None:
    opened = Opened(bundle, refuse=refuse)
    with pytest.raises(error, match=complaint) as caught:
        opened.engine.run(TEXT_ENCODER, texts(bundle, 1, 5))
    assert "\n" not in str(caught.value)
    close(opened)


def test_an_engine_for_another_gpu_is_refused(bundle: Bundle) -> None:
    driver = StubDriver(capability=(8, 9))
    gpu = Gpu(driver)
    with pytest.raises(BackendUnavailableError, match=r"serves compute capability 9\.0.*has 8\.9"):
        TensorRTEngine(bundle, "rtx", gpu=gpu, runtime=FakeRuntime(driver, bundle))
    assert driver.leaks() == []


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    damaged = bundle_with_engines(tmp_path)
    opened = Opened(damaged)
    plan = tmp_path / opened.engine.manifest.folder / f"{TEXT_ENCODER}.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleDamagedError, match="not what its manifest promises"):
        opened.engine.run(TEXT_ENCODER, texts(damaged, 1, 5))
    close(opened)


def session(engine: TensorRTEngine, bundle: Bundle) -> None:
    """Everything a session does, on little data."""
    tokens = np.empty(token_shape(bundle, 6), np.float32)
    for start in range(0, 6, 2):
        engine.submit(frames(bundle, 2), {"tokens": tokens[start : start + 2]})
    engine.finish()
    v = engine.empty((6, bundle.dims.layers, bundle.dims.patches, bundle.dims.width))
    ends = np.ones((6, 2), np.float32)
    engine.run(VIDEO_FINALIZER, {"tokens": tokens, "endpoints": ends}, {"v": v})
    queries = texts(bundle, 1, 5)
    encoded = query_inputs(engine.run(TEXT_ENCODER, queries))
    for _ in range(2):
        values: dict[str, Any] = {"v": v, **encoded, "query_mask": queries["query_mask"]}
        engine.run(GROUNDER, values)


def test_nothing_leaks_whichever_call_of_the_driver_fails(bundle: Bundle) -> None:
    whole = Opened(bundle)
    session(whole.engine, bundle)
    close(whole)
    total = len(whole.driver.calls)
    assert total > 100
    for number in range(total):
        driver = StubDriver(fail_at=number)
        runtime = FakeRuntime(driver, bundle, cpu=whole.runtime.cpu)
        try:
            open_use_close(driver, runtime, bundle)
        except (GpuError, BackendUnavailableError):
            pass
        else:  # without a graph it goes on
            assert driver.failed in CAPTURING, (number, driver.failed)
        # What the driver itself refused to destroy stays; nothing else does.
        refused = driver.failed is not None and driver.failed.startswith(DESTROYERS)
        assert len(driver.leaks()) == refused, (number, driver.failed, driver.leaks())


CAPTURING = ("cuStreamBeginCapture", "cuGraphInstantiate", "cuGraphDestroy")
DESTROYERS = (
    "cuMemFree", "cuStreamDestroy", "cuEventDestroy", "cuGraphDestroy", "cuGraphExecDestroy",
    "cuDevicePrimaryCtxRelease",
)  # fmt: skip


def open_use_close(driver: StubDriver, runtime: FakeRuntime, bundle: Bundle) -> None:
    engine = TensorRTEngine(bundle, "rtx", gpu=Gpu(driver), runtime=runtime)
    try:
        session(engine, bundle)
    finally:
        engine.close()


def test_the_real_runtime_has_what_is_called() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    called = {
        trt.Runtime: ("deserialize_cuda_engine",),
        trt.ICudaEngine: (
            "create_execution_context",
            "create_runtime_config",
            "get_tensor_mode",
            "get_tensor_name",
            "num_io_tensors",
        ),
        trt.IRuntimeConfig: (
            "create_runtime_cache",
            "dynamic_shapes_kernel_specialization_strategy",
            "set_execution_context_allocation_strategy",
            "set_runtime_cache",
        ),
        trt.IRuntimeCache: ("deserialize", "serialize"),
        trt.IExecutionContext: [
            name
            for name in vars(_Context)
            if not name.startswith("_")  # what the fake has is what is called
        ],
        trt.ExecutionContextAllocationStrategy: ("USER_MANAGED",),
        trt.DynamicShapesKernelSpecializationStrategy: ("EAGER",),
        trt.TensorIOMode: ("INPUT",),
        trt.ILogger: ("ERROR", "INTERNAL_ERROR"),
    }
    for kind, names in called.items():
        for name in names:
            assert hasattr(kind, name), f"{kind.__name__} has no {name}"
    messages = message_log(trt)
    assert trt.Runtime(messages).deserialize_cuda_engine(b"no engine" * 100) is None
    assert messages.last() != "no reason given"
