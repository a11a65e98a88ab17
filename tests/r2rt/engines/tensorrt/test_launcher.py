"""Compiled kernels in the TensorRT backend: launched in order, aligned, with right arguments."""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.engines.tensorrt.cubins import (
    SCHEMA_VERSION,
    Call,
    Cubin,
    CubinArgument,
    CubinRecord,
    Launch,
    LaunchSequence,
    Pointer,
    ScratchBuffer,
)
from r2rt.engines.tensorrt.cuda import Gpu
from r2rt.engines.tensorrt.engine import TensorRTEngine
from r2rt.engines.tensorrt.launcher import Kernels, SequenceStep
from r2rt.errors import BackendUnavailableError, BundleDamagedError, GpuError
from r2rt.model.bundle import Bundle
from r2rt.model.contract import VIDEO_FINALIZER
from tests.r2rt.engines.tensorrt.fake_tensorrt import FakeRuntime, bundle_with_engines
from tests.r2rt.engines.tensorrt.stub_driver import Kernel, StubDriver, floats_at

IMAGE = b"cubin"


def record(**changes: Any) -> CubinRecord:
    made = CubinRecord(
        schema=SCHEMA_VERSION,
        kernel="scale",
        entry="_scale",
        target="sm_90a",
        shared_bytes=0,
        num_warps=4,
        arguments=(
            CubinArgument(name="to_ptr", type="*fp32", divisible_by=16),
            CubinArgument(name="from_ptr", type="*fp32", divisible_by=16),
            CubinArgument(name="factor_ptr", type="*fp32", divisible_by=16),
            CubinArgument(name="count", type="i32"),
        ),
        constexprs={"BLOCK": 128},
        triton="3.8.0",
        sha256=hashlib.sha256(IMAGE).hexdigest(),
    )
    return msgspec.structs.replace(made, **changes)


def scale(grid: tuple[int, ...], values: tuple[Any, ...]) -> None:
    """to = factor · from, and the two scratch pointers that Triton appends."""
    to, source, factor, count, _global, _profile = values
    assert grid[0] == -(-count // 128)
    floats_at(to, (count,))[:] = floats_at(factor, (1,))[0] * floats_at(source, (count,))


def arguments(to: str, source: str, factor: str = "twice") -> dict[str, Any]:
    return {
        "to_ptr": Pointer(buffer=to),
        "from_ptr": Pointer(buffer=source),
        "factor_ptr": Pointer(buffer=factor),
        "count": COUNT,
    }


COUNT = "* T 4352"  # numbers of v in the demo model: K · P · D
GRID = (f"cdiv {COUNT} 128", 1, 1)


def sequence(bundle: Bundle) -> LaunchSequence:
    """The engine of the finaliser, then v times 2, then times 3, in two launches."""
    dims = bundle.dims
    assert dims.layers * dims.patches * dims.width == 4352
    return LaunchSequence(
        schema=SCHEMA_VERSION,
        graph=VIDEO_FINALIZER,
        buffers={
            name: ScratchBuffer(dtype="float32", shape=("T", dims.layers, dims.patches, dims.width))
            for name in ("first", "second")
        },
        weights="weights.safetensors",
        steps=(
            Call(
                engine=VIDEO_FINALIZER,
                tensors={"tokens": "tokens", "endpoints": "endpoints", "v": "first"},
            ),
            Launch(cubin="scale", grid=GRID, arguments=arguments("second", "first")),
            Launch(cubin="scale", grid=GRID, arguments=arguments("v", "second", "thrice")),
        ),
    )


WEIGHTS = {"twice": np.array([2], np.float32), "thrice": np.array([3, 0], np.float32)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    plain = bundle_with_engines(tmp_path_factory.mktemp("plain"))
    files = {
        "kernels/sm_90/scale.json": msgspec.json.encode(record()),
        "kernels/sm_90/scale.cubin": IMAGE,
        "kernels/sm_90/weights.safetensors": save(WEIGHTS),
        "kernels/sm_90/video_finalizer.launches.json": msgspec.json.encode(sequence(plain)),
    }
    return bundle_with_engines(tmp_path_factory.mktemp("bundle"), files)


def finalizer_inputs(bundle: Bundle, clips: int) -> dict[str, Any]:
    dims = bundle.dims
    shape = (clips, dims.layers, dims.patches, dims.token_width)
    tokens = np.random.default_rng(0).random(shape, dtype=np.float32)
    return {"tokens": tokens, "endpoints": np.ones((clips, 2), np.float32)}


def finalize_thrice(driver: StubDriver, runtime: FakeRuntime, bundle: Bundle) -> Any:
    engine = TensorRTEngine(bundle, "rtx", gpu=Gpu(driver), runtime=runtime)
    try:
        for _ in range(3):  # run, captured, replayed
            got = engine.run(VIDEO_FINALIZER, finalizer_inputs(bundle, 5))
        return got["v"]
    finally:
        engine.close()


@pytest.mark.parametrize("seed", range(3))
def test_engine_and_kernels_are_one_captured_graph(bundle: Bundle, seed: int) -> None:
    driver = StubDriver(kernels={"_scale": scale}, seed=seed)
    runtime = FakeRuntime(driver, bundle)
    got = finalize_thrice(driver, runtime, bundle)
    want = OnnxRuntimeEngine(bundle, threads=1).run(VIDEO_FINALIZER, finalizer_inputs(bundle, 5))
    np.testing.assert_allclose(got, 6 * want["v"], rtol=1e-5, atol=1e-5)
    work = [name for name in driver.ran if name in {VIDEO_FINALIZER, "_scale"}]
    assert work == [VIDEO_FINALIZER, "_scale", "_scale"] * 3
    assert driver.calls.count("cuGraphInstantiate") == 1
    assert driver.calls.count("cuModuleLoadData") == 1
    assert driver.calls.count("cuLaunchKernel") == 4  # twice at first, twice into the capture
    assert (driver.leaks(), driver.faults) == ([], [])


CAPTURING = ("cuStreamBeginCapture", "cuLaunchKernel", "cuGraphInstantiate", "cuGraphDestroy")


def test_nothing_leaks_whichever_call_fails(bundle: Bundle) -> None:
    kernels: dict[str, Kernel] = {"_scale": scale}
    whole = StubDriver(kernels=kernels)
    runtime = FakeRuntime(whole, bundle)
    want = finalize_thrice(whole, runtime, bundle)
    for number in range(len(whole.calls)):
        driver = StubDriver(kernels=kernels, fail_at=number)
        try:
            got = finalize_thrice(driver, FakeRuntime(driver, bundle, cpu=runtime.cpu), bundle)
        except (GpuError, BackendUnavailableError):
            pass
        else:  # without a graph it goes on
            assert driver.failed in CAPTURING, (number, driver.failed)
            np.testing.assert_array_equal(got, want)
        destroying = (
            "cuMemFree",
            "cuStreamD",
            "cuGraphD",
            "cuGraphExecD",
            "cuModuleU",
            "cuDeviceP",
        )
        refused = driver.failed is not None and driver.failed.startswith(destroying)
        refused = refused and driver.failed != "cuDevicePrimaryCtxRetain"
        assert len(driver.leaks()) == refused, (number, driver.failed, driver.leaks())


class Stand:
    """A GPU with one kernel, to launch by hand."""

    def __init__(self, **changes: Any) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.driver = StubDriver(kernels={"_scale": lambda _, values: self.seen.append(values)})
        self.gpu = Gpu(self.driver)
        self.kernels = Kernels(self.gpu, {"scale": Cubin(record=record(**changes), image=IMAGE)})
        self.places = {name: 4096 + 256 * i for i, name in enumerate(("to", "from", "twice"))}

    def step(self, **changes: Any) -> Any:
        launch = Launch(cubin="scale", grid=(2, 3, 1), arguments=arguments("to", "from") | changes)
        return self.kernels.step(launch, {"T": 1}, self.places)


def test_misaligned_pointers_are_refused_before_they_are_launched() -> None:
    stand = Stand()
    for offset in (4, 8, 12, 17):
        with pytest.raises(GpuError, match=r"from_ptr is 0x.*assume a multiple of 16"):
            stand.step(from_ptr=Pointer(buffer="from", offset_bytes=offset))
    stand.step(from_ptr=Pointer(buffer="from", offset_bytes="* T 32"))
    stand.places["to"] += 8
    with pytest.raises(GpuError, match="to_ptr is 0x1008"):
        stand.step()
    assert "cuLaunchKernel" not in stand.driver.calls
    stand.gpu.close()


def test_pointers_are_offset_forward_and_the_cubin_is_what_is_loaded() -> None:
    stand = Stand()
    step = stand.step(from_ptr=Pointer(buffer="from", offset_bytes="* T 32"))
    stream = stand.gpu.stream()
    step.enqueue(stream)
    stream.synchronize()
    to, source, *_ = stand.seen[0]
    assert (to, source) == (stand.places["to"], stand.places["from"] + 32)
    assert stand.driver.images == [IMAGE]
    step.close()
    stand.gpu.close()


def test_numbers_that_the_kernel_was_specialised_for_are_checked() -> None:
    count = CubinArgument(name="count", type="i32", divisible_by=16)
    stand = Stand(arguments=(*record().arguments[:3], count))
    stand.step(count=32)
    with pytest.raises(GpuError, match="count is 33"):
        stand.step(count=33)
    stand.gpu.close()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"count": Pointer(buffer="to")}, "count is i32"),
        ({"to_ptr": 5}, r"to_ptr is \*fp32"),
        ({"count": 5.0}, r"count is i32, its launch gives 5\.0"),
        ({"to_ptr": Pointer(buffer="nowhere")}, "no buffer nowhere"),
        ({"surplus": 5}, "its launch gives .*surplus"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], complaint: str) -> None:
    stand = Stand()
    with pytest.raises(BundleDamagedError, match=complaint):
        stand.step(**changes)
    stand.gpu.close()
    assert stand.driver.leaks() == []


@pytest.mark.parametrize(
    "changes", [{"num_ctas": 2}, {"launch_pdl": True}, {"launch_cooperative_grid": True}]
)
def test_launches_of_other_kinds_are_refused(changes: dict[str, Any]) -> None:
    stand = Stand(**changes)
    with pytest.raises(BundleDamagedError, match="cluster, a dependent or a cooperative launch"):
        stand.step()
    stand.gpu.close()


def test_scratch_is_allocated_by_block_and_passed_last() -> None:
    stand = Stand(global_scratch_bytes=100, shared_bytes=64 << 10)
    step, stream = stand.step(), stand.gpu.stream()
    step.enqueue(stream)
    stream.synchronize()
    *_, scratch, profile = stand.seen[0]
    stand.driver._within(scratch, 2 * 3 * 100, "device memory")
    assert profile == 0
    assert "cuFuncSetAttribute" in stand.driver.calls
    assert stand.driver.blocks == [(4 * 32, 64 << 10)]  # 4 warps
    step.close()
    assert "device memory" not in stand.driver.leaks()
    # The driver aligns its memory to 256 bytes.
    Stand(global_scratch_bytes=1, global_scratch_align=256).step()
    with pytest.raises(BundleDamagedError, match="aligned to 512"):
        Stand(global_scratch_bytes=1, global_scratch_align=512).step()
    stand.gpu.close()


def test_no_scratch_is_left_where_the_second_area_cannot_be_made() -> None:
    stand = Stand(global_scratch_bytes=100, profile_scratch_bytes=100)
    stand.step().close()  # the first step loads the kernel too
    loaded = len(stand.driver.calls)
    stand.step().close()
    calls = stand.driver.calls[loaded:]
    assert calls.count("cuMemAlloc") == calls.count("cuMemFree") == 2
    second = [n for n, name in enumerate(calls) if name == "cuMemAlloc"][1]
    stand.driver._fail_at = len(stand.driver.calls) + second
    with pytest.raises(GpuError):
        stand.step()
    assert stand.driver.sizes("device memory") == []
    stand.gpu.close()


def test_an_unknown_kernel_or_expression_is_the_bundles_fault() -> None:
    stand = Stand()

    def build(launch: Launch) -> SequenceStep:
        made = LaunchSequence(
            schema=SCHEMA_VERSION,
            graph="grounder",
            buffers={"s": ScratchBuffer(dtype="bfloat16", shape=("T", 3))},
            weights=None,
            steps=(launch,),
        )
        return SequenceStep(
            stand.gpu,
            made,
            {"T": 1},
            stand.places,
            kernels=stand.kernels,
            make_call=None,  # type: ignore[arg-type]
        )

    fitting = arguments("s", "from")
    build(Launch(cubin="scale", grid=(1, 1, 1), arguments=fitting)).close()
    for launch, complaint in (
        (Launch(cubin="other", grid=(1, 1, 1), arguments=fitting), "no kernel other"),
        (Launch(cubin="scale", grid=("cdiv Q 2", 1, 1), arguments=fitting), "no 'Q'"),
    ):
        with pytest.raises(BundleDamagedError, match=complaint):
            build(launch)
    stand.places["s"] = stand.places["from"]
    with pytest.raises(BundleDamagedError, match="scratch s is also a tensor of the graph"):
        build(Launch(cubin="scale", grid=(1, 1, 1), arguments=fitting))
    assert "device memory" not in stand.driver.leaks()
    stand.gpu.close()


def test_numbers_with_a_fraction_are_passed_as_they_are() -> None:
    factor = CubinArgument(name="factor_ptr", type="fp32")
    stand = Stand(arguments=(*record().arguments[:2], factor, record().arguments[3]))
    step, stream = stand.step(factor_ptr=0.25), stand.gpu.stream()
    step.enqueue(stream)
    stream.synchronize()
    assert stand.seen[0][2] == 0.25
    assert step._types[2] is ctypes.c_float
    with pytest.raises(BundleDamagedError, match="factor_ptr is fp32"):
        stand.step()
    stand.gpu.close()


def test_argument_types_are_those_of_c() -> None:
    stand = Stand()
    step = stand.step()
    pointer = ctypes.c_void_p
    assert step._types == [pointer, pointer, pointer, ctypes.c_int32, pointer, pointer]
    stand.gpu.close()


@pytest.mark.parametrize(
    ("dtype", "nbytes"),
    [("float32", 4), ("float16", 2), ("bfloat16", 2), ("int32", 4), ("int16", 2), ("uint8", 1)],
)
def test_scratch_of_a_sequence_is_as_large_as_its_shape(dtype: Any, nbytes: int) -> None:
    stand = Stand()
    step = SequenceStep(
        stand.gpu,
        LaunchSequence(
            schema=SCHEMA_VERSION,
            graph="grounder",
            buffers={"s": ScratchBuffer(dtype=dtype, shape=("* T 2", 3))},
            weights=None,
            steps=(),
        ),
        {"T": 5},
        {},
        kernels=stand.kernels,
        make_call=None,  # type: ignore[arg-type]
    )
    assert stand.driver.sizes("device memory") == [5 * 2 * 3 * nbytes]
    step.close()
    assert stand.driver.sizes("device memory") == []
    stand.gpu.close()


@pytest.mark.parametrize(
    ("type_", "bits", "signed"),
    [("i32", 32, True), ("i64", 64, True), ("u32", 32, False), ("u64", 64, False)],
)
def test_integers_have_the_width_and_the_sign_of_their_type(
    type_: Any, bits: int, signed: bool
) -> None:
    stand = Stand(arguments=(CubinArgument(name="count", type=type_),))
    step = stand.kernels.step(
        Launch(cubin="scale", grid=(1, 1, 1), arguments={"count": 7}), {}, stand.places
    )
    made = step._types[0]
    assert 8 * ctypes.sizeof(made) == bits
    assert made(-1).value == (-1 if signed else 2**bits - 1)
    stand.gpu.close()
