"""What the machine has, and its ceilings: arithmetic and copying as measured."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
from importlib import metadata

import torch

from benchmarks.gpu_checks.rows import attempt, put

__all__ = ["check_environment"]

_PACKAGES = (
    *("torch", "triton", "numpy", "msgspec", "safetensors", "cuda-bindings"),
    *("onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "av"),
)


def check_environment() -> None:
    """Print versions and, with a GPU, its ceilings."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    put("versions", "ok", **versions)
    if not torch.cuda.is_available():
        put("GPU", "skipped", reason="PyTorch finds none: kernels are interpreted on small shapes")
        return
    attempt("GPU", _gpu)
    attempt("ceilings", ceilings)


def _gpu() -> dict[str, object]:
    found = torch.cuda.get_device_properties(0)
    values: dict[str, object] = {
        "gpu": found.name,
        "multiprocessors": found.multi_processor_count,
        "capability": f"{found.major}.{found.minor}",
        "memory_bytes": found.total_memory,
        "nvdec": bool(ctypes.util.find_library("nvcuvid")),
    }
    if shutil.which("nvidia-smi"):
        query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        values["driver_and_clocks"] = done.stdout.strip()
    return values


def ceilings() -> dict[str, float]:
    """Return TFLOP/s of a large fp16 product and TB/s of a copy, read and written."""
    from triton.testing import do_bench

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    source = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    product_ms = do_bench(lambda: a @ a, return_mode="median")
    copy_ms = do_bench(lambda: target.copy_(source), return_mode="median")
    return {
        "product_tflops": 2 * 8192**3 / product_ms / 1e9,
        "copy_tb_s": 2 * source.nbytes / copy_ms / 1e9,
    }
