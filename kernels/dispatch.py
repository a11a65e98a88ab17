"""Which implementation of a kernel runs, Triton's or plain PyTorch's, and why.

`R2RT_KERNELS` in the environment decides: `triton` and `torch` force one, `auto` (the default)
takes Triton for fp16 and bf16 on GPUs of compute capability 8.0 or later, where it can compile its
driver. A forced choice that cannot be had raises; an automatic one is logged, once.
"""

from __future__ import annotations

import enum
import functools
import importlib.util
import logging
import os
import subprocess
from dataclasses import dataclass

import torch

__all__ = ["LEAST_CAPABILITY", "Backend", "Choice", "KernelsUnavailableError", "choose"]

_VARIABLE = "R2RT_KERNELS"
_MAX_WIDTH = 512
# The blocks of earlier GPUs, such as a T4's, have no room for the kernels' tiles (64 KB), and their
# tensor cores take no bf16.
LEAST_CAPABILITY = (8, 0)
_DRIVER_ERRORS = (
    AssertionError, ImportError, OSError, RuntimeError, subprocess.CalledProcessError
)  # fmt: skip
_logger = logging.getLogger(__name__)


class Backend(enum.Enum):
    """An implementation."""

    TRITON = "triton"
    TORCH = "torch"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An implementation and one line on why it was chosen."""

    backend: Backend
    reason: str


class KernelsUnavailableError(RuntimeError):
    """The Triton kernels were asked for by name and cannot run."""


def choose(device: torch.device, dtype: torch.dtype, width: int) -> Choice:
    """Choose the implementation for inputs on `device`, of `dtype` and `width` channels.

    Raises:
        KernelsUnavailableError: R2RT_KERNELS=triton, and they cannot run.
        ValueError: R2RT_KERNELS is none of auto, triton, torch.
    """
    wish = os.environ.get(_VARIABLE, "auto")
    if wish not in ("auto", "triton", "torch"):
        raise ValueError(f"{_VARIABLE}={wish!r}, expected auto, triton or torch")
    return _choose(device, dtype, width, wish)


@functools.cache
def _choose(device: torch.device, dtype: torch.dtype, width: int, wish: str) -> Choice:
    if wish == "torch":
        return _logged(Choice(backend=Backend.TORCH, reason=f"{_VARIABLE}=torch"))
    obstacle = _obstacle(device, dtype, width, forced=wish == "triton")
    if obstacle is None:
        reason = f"inputs are on {device.type} and triton imports"
        return _logged(Choice(backend=Backend.TRITON, reason=reason))
    if wish == "triton":
        raise KernelsUnavailableError(
            f"{_VARIABLE}=triton, but {obstacle}; set {_VARIABLE}=auto for plain PyTorch"
        )
    return _logged(Choice(backend=Backend.TORCH, reason=obstacle))


def _obstacle(device: torch.device, dtype: torch.dtype, width: int, *, forced: bool) -> str | None:
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"inputs are {dtype}, expected fp32, fp16 or bf16"
    if dtype == torch.float32 and not forced:
        # Exact fp32 products run on the CUDA cores, where the compiled kernels spill registers.
        return "inputs are torch.float32, which no tensor core multiplies exactly; use autocast"
    if not 16 <= width <= _MAX_WIDTH:
        return f"the width is {width}, expected 16 to {_MAX_WIDTH}"
    if importlib.util.find_spec("triton") is None:
        return "triton cannot be imported (pip install triton)"
    # Triton's interpreter runs on any device, so slowly that only tests ask for it.
    if forced and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda" or torch.version.cuda is None:
        return f"inputs are on {device.type}, expected a CUDA device"
    found = torch.cuda.get_device_capability(device)
    if found < LEAST_CAPABILITY:
        return "the GPU has compute capability {}.{}, expected {}.{} or later".format(
            *found, *LEAST_CAPABILITY
        )
    return _driver_obstacle()


def _driver_obstacle() -> str | None:
    """Return why Triton's driver cannot be had, or None; it is compiled when it is first used."""
    from triton.runtime import driver

    try:
        driver.active.utils  # noqa: B018
    except _DRIVER_ERRORS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"triton cannot compile its driver ({lines[0]}); install a C compiler and Python.h"
    return None


def _logged(choice: Choice) -> Choice:
    _logger.info("kernels: %s, since %s", choice.backend.value, choice.reason)
    return choice
