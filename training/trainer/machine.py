"""The processes and devices of a run, and the signals that it receives."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy

from training.config import TrainOptions
from training.errors import TrainingError

__all__ = [
    "Signals",
    "chosen_precision",
    "ignore_signals",
    "make_fabric",
    "reproducible",
    "shortages",
]


def make_fabric(options: TrainOptions) -> Fabric:
    """Fabric for this process, one of those that torchrun started or the only one."""
    accelerator = options.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "accelerator is cuda, but PyTorch sees no GPU here; take cpu, or install PyTorch for "
            "CUDA and its driver"
        )
    wanted = chosen_precision(options, accelerator)
    if wanted == "fp16" and accelerator == "cpu":
        raise TrainingError("fp16 needs a GPU; take precision bf16 or fp32")
    precision: Precision = Precision()
    if wanted != "fp32":
        precision = _Mixed("bf16-mixed" if wanted == "bf16" else "16-mixed", accelerator)
    if not torch.distributed.is_torchelastic_launched():
        return Fabric(accelerator=accelerator, devices=1, plugins=[precision])
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=int(os.environ["WORLD_SIZE"]) // local,
        # `ShareModule` makes every parameter part of its outputs.
        strategy=DDPStrategy(find_unused_parameters=False),
        plugins=[precision],
    )


def chosen_precision(options: TrainOptions, device: str) -> str:
    """Return the precision on a kind of device, `cpu` or `cuda`: `fp32`, `bf16` or `fp16`."""
    if options.precision != "auto":
        return options.precision
    return "fp16" if device == "cuda" else "fp32"


@contextlib.contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Take reproducible implementations of PyTorch's operations while the block runs."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        # What cuBLAS asks for; read when a device is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


class Signals:
    """Notes SIGINT and SIGTERM while the block runs; a second one takes its usual course."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        # Only the main thread may handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def ignore_signals(_worker: int) -> None:
    """Leave to the main process what all processes get: Ctrl-C, and a scheduler's SIGTERM.

    A worker ends when the main process asks it to, or has ended.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def shortages() -> Iterator[None]:
    """Report in one line if the machine has too little memory for the block.

    Raises:
        TrainingError: a GPU's memory was too small, or a process that loads samples was killed.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(" GPU ")[0]
        raise TrainingError(
            f"a step does not fit into the GPU's memory ({reason}); set a smaller batch_size"
        ) from error
    except RuntimeError as error:
        # PyTorch has no class for it, and raises it wherever the block is.
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            "a process that loads samples was killed, perhaps for lack of memory or of space in "
            "/dev/shm, through which batches come; go on with --resume and --set workers=0, or "
            "give it more"
        ) from error


class _Mixed(MixedPrecision):
    """Autocast without Fabric's cast of the inputs.

    In half precision, the endpoints of neighbouring clips, which the model derives in its inputs'
    type, would be equal.
    """

    def convert_input(self, data: Any) -> Any:
        return data
