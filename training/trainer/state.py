"""What a run keeps on disk, so that it can be resumed, and its weights used.

    config.json        all settings
    state.safetensors  weights, optimizer and place of the run: what resuming reads
    last.pth           the weights of that state in the published layout, {"meta", "state_dict"}
    best.pth           the weights of the best validation, where there is one
    metrics.jsonl      losses of every step, figures of every validation
    tensorboard/       the same for TensorBoard
    losses.png         the same as a plot, when training ends

Every file is replaced whole. `state.safetensors` is written after the others, so a run that is
killed at any moment resumes from the state before, and writes the same once more. Up to the first
state there is a file `.unsaved`: weights beside it are no loss, weights without either are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from r2rt.files import replacing
from training.config import RunConfig
from training.errors import TrainingError
from training.model import R2Tuning

__all__ = ["Progress", "RunFolder", "read_progress"]

_STATE = "state.safetensors"
_KEY = "r2rt.training"
# AdamW's tensors of each parameter.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Progress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How far a run is.

    Attributes:
        step: steps that are done.
        total_steps: steps of the whole run.
        samples: samples that are trained on, those left out not counted.
        finished: whether all steps are done.
        minutes: time spent in training, all resumptions together.
        best: the best figure of a validation so far.
        best_step: steps that were done at it.
        scaler: state of fp16's loss scaler.
    """

    step: int = 0
    total_steps: int
    samples: int
    finished: bool = False
    minutes: float = 0.0
    best: float | None = None
    best_step: int | None = None
    scaler: dict[str, float | int] = {}


class _Header(msgspec.Struct, kw_only=True):
    progress: Progress
    config: dict[str, Any]


def read_progress(out: Path | str) -> Progress | None:
    """Return how far the run in a folder is, or None where no state is saved.

    Raises:
        TrainingError: the state is damaged.
    """
    folder = RunFolder(Path(out))
    return folder.read_header().progress if folder.has_state else None


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / _STATE
        self.unsaved = path / ".unsaved"
        self.config = path / "config.json"
        self.last = path / "last.pth"
        self.best = path / "best.pth"
        self.metrics = path / "metrics.jsonl"
        self.plot = path / "losses.png"
        self.tensorboard = path / "tensorboard"

    @property
    def checkpoints(self) -> tuple[Path, Path]:
        """The files of weights."""
        return self.best, self.last

    @property
    def has_state(self) -> bool:
        """Whether there is something to resume."""
        return self.state.is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes from training in it.

        Raises:
            TrainingError: it cannot be made, or another process trains in it.
        """
        lock = filelock.FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except filelock.Timeout:  # an OSError too
            raise TrainingError(
                f"{self.path}: another process trains in it; wait for it or choose another"
            ) from None
        except OSError as error:
            raise TrainingError(
                f"{self.path}: no run can be kept there ({error.strerror})"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def read_header(self) -> _Header:
        """Read how far the run is, and its settings.

        Raises:
            TrainingError: the state is damaged.
        """
        try:
            with safe_open(self.state, framework="pt") as file:
                text = (file.metadata() or {})[_KEY]
            return msgspec.json.decode(text, type=_Header)
        except (OSError, SafetensorError, KeyError, msgspec.MsgspecError) as error:
            raise self._damaged(error) from error

    def save(
        self,
        model: R2Tuning,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        config: RunConfig,
    ) -> None:
        """Write weights and state.

        Raises:
            OutputError: disk full, no permission.
        """
        self.write_weights(self.last, model, progress, config)
        tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
        for name, parameter in model.named_parameters():
            kept = optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": kept[key] for key in _MOMENTS if key in kept}
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        header = _Header(progress=progress, config=msgspec.to_builtins(config, enc_hook=str))
        text = msgspec.json.encode(header, enc_hook=str).decode()
        with replacing(self.state) as temporary:
            save_file(tensors, temporary, metadata={_KEY: text})
        self.unsaved.unlink(missing_ok=True)

    def load(self, model: R2Tuning, optimizer: torch.optim.Optimizer) -> Progress:
        """Put a saved state's tensors into model and optimizer, whose shapes they must have.

        Raises:
            TrainingError: the state is damaged, or of another model.
        """
        progress = self.read_header().progress
        with safe_open(self.state, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights = _under("model.", tensors)
        expected = model.state_dict()
        if {k: t.shape for k, t in weights.items()} != {k: t.shape for k, t in expected.items()}:
            raise TrainingError(
                f"{self.state}: is the state of another model; resume with the settings of "
                f"{self.config}, or choose another folder"
            )
        model.load_state_dict(weights)
        moments = _under("optimizer.", tensors)
        for name, parameter in model.named_parameters():
            kept = _under(f"{name}.", moments)
            if not kept:
                continue
            if kept.keys() != set(_MOMENTS) or kept["exp_avg"].shape != parameter.shape:
                raise self._damaged(f"the optimizer's tensors of {name}")
            # AdamW counts its steps on the CPU.
            optimizer.state[parameter] = {
                key: t if key == "step" else t.to(parameter.device) for key, t in kept.items()
            }
        return progress

    def write_weights(
        self, path: Path, model: R2Tuning, progress: Progress, config: RunConfig
    ) -> None:
        """Write the weights in the published layout; nothing in it needs more than tensors.

        Raises:
            OutputError: disk full, no permission.
        """
        meta = {
            "recipe": config.recipe.name,
            "step": progress.step,
            "config": msgspec.to_builtins(config, enc_hook=str),
        }
        state = {name: t.detach().cpu() for name, t in model.state_dict().items()}
        with replacing(path) as temporary:
            torch.save({"meta": meta, "state_dict": state}, temporary)

    def _damaged(self, what: object) -> TrainingError:
        return TrainingError(
            f"{self.state}: cannot be resumed, it is damaged ({what}); start anew in another folder"
        )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
