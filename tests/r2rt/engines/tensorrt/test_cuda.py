"""The driver's wrapper: everything is freed, whatever fails, and the real bindings fit it."""

from __future__ import annotations

import ctypes
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from r2rt.engines.tensorrt.cuda import Gpu
from r2rt.errors import BackendUnavailableError, GpuError
from tests.r2rt.engines.tensorrt.stub_driver import StubDriver, floats_at


def double(grid: tuple[int, ...], values: tuple[Any, ...]) -> None:
    to, source, count = values
    floats_at(to, (count,))[:] = 2 * floats_at(source, (count,))


def round_trip(driver: StubDriver) -> list[float]:
    """Upload, double by a captured kernel, download."""
    gpu = Gpu(driver)
    try:
        stream, event = gpu.stream(), gpu.event()
        host, source, result = gpu.alloc_pinned(16), gpu.alloc(16), gpu.alloc(16)
        host.view((4,), np.float32)[:] = (1, 2, 3, 4)
        module = gpu.module(b"cubin")
        kernel = module.function("double", threads=128, shared_bytes=64 << 10)
        values = (result.address, source.address, 4)
        types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
        graph = gpu.capture(stream, lambda: kernel.launch(stream, (1, 1, 1), values, types))
        stream.upload(source.address, host, 16)
        event.record(stream)
        graph.launch(stream)
        stream.wait(event)
        stream.download(host, result.address, 16)
        stream.synchronize()
        return [float(value) for value in host.view((4,), np.float32)]
    finally:
        gpu.close()


def test_work_is_done_and_all_is_freed() -> None:
    driver = StubDriver(kernels={"double": double})
    assert round_trip(driver) == [2, 4, 6, 8]
    assert driver.leaks() == []
    assert driver.faults == []
    assert "cuFuncSetAttribute" in driver.calls


def test_nothing_leaks_whichever_call_fails() -> None:
    driver = StubDriver(kernels={"double": double})
    round_trip(driver)
    for number in range(len(driver.calls)):
        faulty = StubDriver(kernels={"double": double}, fail_at=number)
        with pytest.raises((GpuError, BackendUnavailableError), match="OUT_OF_MEMORY"):
            round_trip(faulty)
        # What the driver itself refused to destroy stays; nothing else does.
        assert len(faulty.leaks()) == refused(faulty), (number, faulty.failed, faulty.leaks())


def refused(driver: StubDriver) -> int:
    return driver.failed is not None and bool(re.search("Destroy|Free|Unload|Rel", driver.failed))


def test_close_can_be_called_twice_and_handles_close_once() -> None:
    driver = StubDriver()
    gpu = Gpu(driver)
    memory = gpu.alloc(10)
    memory.close()
    memory.close()
    gpu.close()
    gpu.close()
    assert driver.calls.count("cuMemFree") == 1
    assert driver.leaks() == []


def test_dropped_memory_is_freed_by_the_next_allocation() -> None:
    driver = StubDriver()
    gpu = Gpu(driver)
    gpu.drop(gpu.alloc(10))
    assert driver.calls.count("cuMemFree") == 0
    gpu.alloc(10)
    assert driver.calls.count("cuMemFree") == 1
    gpu.drop(gpu.alloc(10))
    gpu.close()
    gpu.close()
    assert driver.leaks() == []


def test_a_capture_that_fails_inside_is_ended() -> None:
    driver = StubDriver()
    gpu = Gpu(driver)
    stream = gpu.stream()

    def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        gpu.capture(stream, work)
    stream.synchronize()  # refused while a capture is open
    assert driver.leaks() == ["context", "stream"]
    gpu.close()


def test_a_view_no_longer_than_the_memory() -> None:
    gpu = Gpu(StubDriver())
    pinned = gpu.alloc_pinned(8)
    assert pinned.view((2,), np.float32).nbytes == 8
    with pytest.raises(ValueError, match="take 12 bytes, got 8"):
        pinned.view((3,), np.float32)
    gpu.close()


def test_want_of_memory_says_what_to_do() -> None:
    driver = StubDriver()
    gpu = Gpu(driver)
    driver._fail_at = len(driver.calls)
    with pytest.raises(GpuError, match=r"cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY; free GPU memory"):
        gpu.alloc(1 << 40)
    gpu.close()


def test_missing_bindings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendUnavailableError, match="pip install cuda-bindings"):
        Gpu()


def test_no_driver_is_reported_in_one_line() -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(BackendUnavailableError, match="GPU 0 cannot be opened") as caught:
            Gpu()
        assert "\n" not in str(caught.value)
    else:
        Gpu().close()


def test_the_stub_takes_what_the_real_bindings_take() -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    from cuda.bindings import driver

    stub: dict[str, Callable[..., Any]] = {
        name: value for name, value in vars(StubDriver).items() if name.startswith("cu")
    }
    assert len(stub) > 30
    for name, function in stub.items():
        signature = (getattr(driver, name).__doc__ or "").strip().splitlines()[0]
        real = [part for part in signature.split("(", 1)[1].rstrip(")").split(",") if part.strip()]
        assert len(real) == len(inspect.signature(function).parameters) - 1, signature
    for name, values in vars(StubDriver).items():
        if name.startswith("CU"):
            for member, number in vars(values).items():
                assert int(getattr(getattr(driver, name), member)) == number
