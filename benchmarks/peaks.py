"""What the machine can do at most: large matrix products in several libraries, and copying."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2rt.portable import usable_cores

__all__ = ["Gemm", "fp32_gemms", "int8_gemms", "measure_bandwidth"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """One library's product of two matrices.

    Attributes:
        name: library and shape.
        flops: operations of one call.
        run: does it once and returns the product.
        expected: the right product of the first rows, in float64.
    """

    name: str
    flops: float
    run: Callable[[], Array]
    expected: NDArray[np.float64]

    def check(self) -> str:
        """Assert that the product is right to rounding; return by how much it is off."""
        got = np.asarray(self.run(), np.float64)[: len(self.expected)]
        scale = float(np.abs(self.expected).max())
        error = float(np.abs(got - self.expected).max()) / scale
        assert error < 1e-4, f"{self.name} is off by {error:.2g}"
        return f"{self.name} right to {error:.1g}"


def fp32_gemms(size: int) -> list[Gemm]:
    """Return the fp32 products (size, size) x (size, size) of NumPy, PyTorch and ONNX Runtime."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), np.float32) for _ in range(2))
    expected = a[:4].astype(np.float64) @ b.astype(np.float64)
    session = _session("MatMul", {"b": b}, a.dtype, np.dtype(np.float32))
    gemms = {
        "NumPy": lambda: a @ b,
        "ONNX Runtime": lambda: session.run(None, {"a": a})[0],
        **_torch_fp32(a, b),
    }
    return _gemms(gemms, size, expected)


def int8_gemms(size: int) -> list[Gemm]:
    """Return the int8 products of PyTorch and ONNX Runtime, accumulated in int32."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 128, (size, size), np.uint8)
    b = rng.integers(-127, 128, (size, size), np.int8)
    expected = a[:4].astype(np.float64) @ b.astype(np.float64)
    session = _session("MatMulInteger", {"b": b}, a.dtype, np.dtype(np.int32))
    gemms: dict[str, Callable[[], Array]] = {
        "ONNX Runtime": lambda: session.run(None, {"a": a})[0],
        **_torch_int8(a, b),
    }
    return _gemms(gemms, size, expected)


def measure_bandwidth(megabytes: int, repeats: int) -> float:
    """Return bytes a second, read and written, of copying on all cores; the best of `repeats`."""
    cores = usable_cores()
    source = np.ones(megabytes * 1_000_000 // 8, np.float64)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, cores), np.array_split(source, cores), strict=True))
    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            list(pool.map(lambda part: np.copyto(*part), parts))
            best = max(best, 2 * source.nbytes / (time.perf_counter() - began))
    return best


def _gemms(
    runs: dict[str, Callable[[], Array]], size: int, expected: NDArray[np.float64]
) -> list[Gemm]:
    return [
        Gemm(name=f"{name} {size}³", flops=2.0 * size**3, run=run, expected=expected)
        for name, run in runs.items()
    ]


def _torch_fp32(a: Array, b: Array) -> dict[str, Callable[[], Array]]:
    try:
        import torch
    except ImportError:
        return {}
    left, right = torch.from_numpy(a), torch.from_numpy(b)

    def multiply() -> Array:
        product: Array = (left @ right).numpy()
        return product

    return {"PyTorch": multiply}


def _torch_int8(a: Array, b: Array) -> dict[str, Callable[[], Array]]:
    try:
        import torch
    except ImportError:
        return {}
    left, right = torch.from_numpy(a.astype(np.int8)), torch.from_numpy(b)
    return {"PyTorch": lambda: torch._int_mm(left, right).numpy()}


def _session(
    operator: str, weights: dict[str, Array], dtype: np.dtype[Any], out: np.dtype[Any]
) -> Any:
    """Return an ONNX Runtime session of one product whose right side is a constant."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    (weight,) = weights.values()
    inner, columns = weight.shape
    types = (helper.np_dtype_to_tensor_dtype(kind) for kind in (dtype, out))
    values = [
        helper.make_tensor_value_info(name, kind, ["rows", width])
        for name, kind, width in zip(("a", "c"), types, (inner, columns), strict=True)
    ]
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        values[:1],
        values[1:],
        [numpy_helper.from_array(weight, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
