"""Which backend runs: the fastest that is there, or the one asked for, or an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from r2rt.errors import BackendUnavailableError, QueryError

if TYPE_CHECKING:
    from r2rt.bundle import Bundle
    from r2rt.engines.base import Engine

__all__ = ["DEVICES", "Choice", "Device", "choose", "open_engine"]

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A chosen backend and why it was chosen.

    Attributes:
        device: `cpu` or `cuda`.
        backend: what runs there, such as `onnxruntime`.
        reason: one clause for a person.
    """

    device: Literal["cpu", "cuda"]
    backend: str
    reason: str


def choose(device: Device = "auto") -> Choice:
    """Choose the backend for `device`.

    Raises:
        BackendUnavailableError: the device was asked for by name and cannot be used.
        QueryError: there is no such device.
    """
    if device not in DEVICES:
        raise QueryError(f"no device {device!r}; expected one of {', '.join(DEVICES)}")
    if device == "cpu":
        return Choice(device="cpu", backend="onnxruntime", reason="asked for")
    missing = _why_no_cuda()
    if missing is None:
        reason = "asked for" if device == "cuda" else "an NVIDIA GPU is there"
        return Choice(device="cuda", backend="onnxruntime", reason=reason)
    if device == "cuda":
        raise BackendUnavailableError(f"device cuda cannot be used: {missing}")
    return Choice(device="cpu", backend="onnxruntime", reason=f"no GPU: {missing}")


def open_engine(
    bundle: Bundle, device: Device = "auto", *, threads: int | None = None
) -> tuple[Engine, Choice]:
    """Open the engine that `choose` names for this bundle; graphs are opened on first use.

    Args:
        bundle: the bundle whose graphs are run.
        device: what to run on.
        threads: processor threads an operator may use; None takes every core this process may use.
    """
    from r2rt.engines.onnx_runtime import OnnxRuntimeEngine

    choice = choose(device)
    return OnnxRuntimeEngine(bundle, device=choice.device, threads=threads), choice


def _why_no_cuda(loader: Callable[[str], object] | None = None) -> str | None:
    """Return why CUDA cannot be used, or None.

    The driver is looked for first: on a machine without one, which is common, ONNX Runtime need not
    even be imported, and its own list of providers names CUDA whether it is usable or not.
    """
    import ctypes

    try:
        (loader or ctypes.CDLL)("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) on this machine"
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA provider; pip install 'r2rt[gpu]' in place of it"
    return None
