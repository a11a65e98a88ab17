"""Which GPU there is, asked of the driver itself: no toolkit, no package, no context on the GPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from r2rt.errors import BackendUnavailableError

__all__ = ["GpuInfo", "driver_name", "find_gpu"]

_MAJOR, _MINOR = 75, 76  # attributes of the compute capability


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """A GPU as its driver describes it.

    Attributes:
        name: for people.
        capability: compute capability.
        cuda: version of CUDA that the driver is for.
    """

    name: str
    capability: tuple[int, int]
    cuda: tuple[int, int]

    def __str__(self) -> str:
        return "{}, compute capability {}.{}, driver for CUDA {}.{}".format(
            self.name, *self.capability, *self.cuda
        )


def driver_name() -> str:
    """Return the name of the driver's library."""
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def find_gpu(loader: Callable[[str], Any] | None = None) -> GpuInfo:
    """Return the first GPU.

    Args:
        loader: opens a shared library by name; `ctypes.CDLL` if None.

    Raises:
        BackendUnavailableError: there is no driver, or it finds no GPU.
    """
    name = driver_name()
    try:
        driver = (loader or ctypes.CDLL)(name)
    except OSError:
        raise BackendUnavailableError(f"no NVIDIA driver ({name}) on this machine") from None
    device, number = ctypes.c_int(), ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    if status:
        raise BackendUnavailableError(
            f"the NVIDIA driver finds no GPU (error {status}); check that `nvidia-smi` lists one"
        )
    title = ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    driver.cuDeviceGetName(title, len(title), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return GpuInfo(
        name=title.value.decode(errors="replace"),
        capability=(major.value, minor.value),
        cuda=(number.value // 1000, number.value % 1000 // 10),
    )
