"""Runs that end before their time: in one line each, with what was saved sound."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

import training.trainer.history
from r2rt.errors import OutputError
from tests.training.trainer.material import OPTIONS, RandomSamples, small_model, small_recipe
from training.checkpoint import load_checkpoint
from training.data.sample import Sample
from training.errors import TrainingError
from training.trainer import fit

pytestmark = pytest.mark.slow


def train(out: Path, *, options: dict[str, Any] | None = None, **changes: Any) -> None:
    """Train the small model by 20 steps, or with `changes`."""
    settings: dict[str, Any] = {
        "model": small_model(),
        "recipe": small_recipe(),
        "train_set": RandomSamples(),
        "options": msgspec.structs.replace(OPTIONS, **(options or {})),
    }
    fit(out=out, quiet=True, **settings | changes)


class _Poisoned(RandomSamples):
    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return replace(sample, video=sample.video * math.nan) if index == 3 else sample


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"the loss at step \d is nan.*check the data"
    ) as caught:
        train(tmp_path, train_set=_Poisoned(), options={"save_steps": 1})
    assert caught.value.exit_code == 62
    # What was saved before it is sound.
    if (tmp_path / "last.pth").exists():
        weights = load_checkpoint(tmp_path / "last.pth").state_dict
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_gradients_that_fit_fp16_at_no_scale_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss scaler leaves out each of those steps, so nothing else would ever end it."""
    half = MixedPrecision("16-mixed", "cpu")
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[half])
    # `training.trainer.fit` by attribute is the function of that name.
    module = sys.modules["training.trainer.fit"]
    monkeypatch.setattr(module, "make_fabric", lambda _: fabric)
    monkeypatch.setattr(module, "chosen_precision", lambda *_: "fp16")
    model = small_model()
    model.coef.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    with pytest.raises(TrainingError, match=r"the gradient.s norm (inf|nan): training"):
        train(tmp_path, model=model, recipe=small_recipe(epochs=20))
    # As many halvings as from 65,536 to the lowest scale.
    assert 20 < len((tmp_path / "metrics.jsonl").read_text().splitlines()) < 40


class _Killer(RandomSamples):
    def __getitem__(self, index: int) -> Sample:
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_loader_that_is_killed_is_reported_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loads samples was killed.*--set workers=0"):
        train(tmp_path, train_set=_Killer(), options={"workers": 1})
    train(tmp_path, train_set=_Killer(), options={"max_steps": 1}, resume=True)


def test_a_full_disk_ends_the_run_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # What an append finds first; files that are replaced have errors of their own.
    monkeypatch.setattr(training.trainer.history, "os", SimpleNamespace(fsync=sync))
    with pytest.raises(OutputError) as caught:
        train(tmp_path, options={"max_steps": 1})
    reason = "cannot be written (No space left on device); free some space"
    assert str(caught.value) == f"{tmp_path / 'metrics.jsonl'}: {reason}"


def test_a_step_that_does_not_fit_is_reported_in_a_line(tmp_path: Path) -> None:
    model = small_model()

    def allocate(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6 GiB. GPU 0 has ...")

    model.pyramid.register_forward_pre_hook(allocate)
    with pytest.raises(TrainingError, match=r"allocate 6 GiB\.\); set a smaller batch"):
        train(tmp_path, model=model)
