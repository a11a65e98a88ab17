"""Runs that are killed or asked to end, and runs of several processes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import CHECKOUT
from tests.training.trainer.material import OPTIONS, RandomSamples, small_model, small_recipe
from tests.training.trainer.runner import CASES, train_golden
from training.data.errors import FeatureError
from training.data.sample import Sample
from training.errors import TrainingError, TrainingInterruptedError
from training.trainer import fit, read_progress, state
from training.trainer.state import RunFolder

RUNNER = Path(__file__).with_name("runner.py")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(CHECKOUT),
    "OMP_NUM_THREADS": "1",
    # The processes find one another on this machine alone.
    "GLOO_SOCKET_IFNAME": "lo",
}
# Much, for machines with other work to do.
PATIENCE_S = 280


def train(out: Path, samples: RandomSamples, *, resume: bool = False, workers: int = 0) -> None:
    fit(
        small_model(),
        small_recipe(),
        samples,
        out=out,
        options=msgspec.structs.replace(OPTIONS, workers=workers),
        resume=resume,
        quiet=True,
    )


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: weights, optimizer, and every loss of every step."""
    first, second = (load_file(out / "state.safetensors") for out in (a, b))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert lines(a) == lines(b)


@pytest.mark.slow
def test_a_killed_run_resumed_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Epochs are of 5 steps, the state is saved every 4: it is killed in the middle of both."""
    out = tmp_path / "killed"
    command = [sys.executable, str(RUNNER), "slow", str(out)]
    with subprocess.Popen(command, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + PATIENCE_S
        while (progress := read_progress(out)) is None or progress.step < 8:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    progress = read_progress(out)
    assert progress is not None
    assert progress.step in (8, 12, 16)
    samples = RandomSamples(drawing=True)
    train(out, samples, resume=True, workers=1)
    train(tmp_path / "whole", samples)
    assert_same_run(out, tmp_path / "whole")


class _Signalling(RandomSamples):
    """The process gets a signal while it loads its n-th sample."""

    def __init__(self, number: signal.Signals, count: int) -> None:
        super().__init__(drawing=True)
        self._number = number
        self._left = count

    def __getitem__(self, index: int) -> Sample:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(self._number)
        return super().__getitem__(index)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    out, handler = tmp_path / "reported", signal.getsignal(number)
    # Of samples loaded before training, for their lengths, there are 10; then 4 a step.
    with pytest.raises(TrainingInterruptedError) as caught:
        train(out, _Signalling(number, 10 + 4 + 4 + 1))
    assert str(caught.value).startswith(
        f"{number.name}: saved at step 3 of 20; go on with the same command and --resume"
    )
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is handler
    train(out, RandomSamples(drawing=True), resume=True)
    train(tmp_path / "whole", RandomSamples(drawing=True))
    assert_same_run(out, tmp_path / "whole")


class _AllSignalled(RandomSamples):
    """A worker and the training process get SIGTERM at once, as from a scheduler."""

    def __getitem__(self, index: int) -> Sample:
        if torch.utils.data.get_worker_info() is not None and index == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getppid(), signal.SIGTERM)
        return super().__getitem__(index)


def test_a_signal_to_all_processes_saves(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterruptedError, match=r"SIGTERM: saved at step \d+ of 20"):
        train(tmp_path, _AllSignalled(), workers=1)


class _Damaged(RandomSamples):
    def __getitem__(self, index: int) -> Sample:
        if index == 5 and torch.utils.data.get_worker_info() is not None:
            raise FeatureError("a.npy: damaged; remove it")
        return super().__getitem__(index)


def test_what_a_worker_cannot_load_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FeatureError) as caught:
        train(tmp_path, _Damaged(), workers=1)
    assert str(caught.value) == "a.npy: damaged; remove it"


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(TrainingError, match="another process trains in it"),
    ):
        train(tmp_path, RandomSamples())
    with RunFolder(tmp_path).locked():
        pass


def test_runs_are_kept_where_there_is_no_fcntl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "fcntl", None)  # cannot be imported
    spec = importlib.util.spec_from_file_location("state_without_fcntl", state.__file__)
    assert spec is not None
    assert spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    with anew.RunFolder(tmp_path).locked():
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(TrainingError, match=r"file/run: no run can be kept there \(Not a dir"),
        RunFolder(tmp_path / "file" / "run").locked(),
    ):
        pass


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the golden runs by two processes."""
    out = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--local-addr"]
    done = subprocess.run(
        [*torchrun, *place, "localhost", str(RUNNER), "golden", str(out)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes on cpu" in done.stderr
    assert "Warning" not in done.stderr
    assert "resumed at step 2 of 5" in done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "batch_size", "steps"), CASES)
def test_two_processes_have_the_losses_and_gradients_of_one(
    tmp_path: Path, two_processes: Path, kind: str, batch_size: int, steps: int
) -> None:
    train_golden(kind, batch_size, tmp_path)
    one, two = lines(tmp_path), lines(two_processes / f"{kind}{batch_size}")
    assert len(one) == len(two) == steps
    # The gradient's norm shows that what goes backwards is the whole batch's loss.
    assert one[0].keys() == two[0].keys() >= {"loss", "loss_sal", "loss_video_cal", "grad_norm"}
    for name, value in one[0].items():
        assert two[0][name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    for before, after in zip(one, two, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(two_processes: Path) -> None:
    kind, batch_size, _ = CASES[0]
    assert_same_run(two_processes / f"{kind}{batch_size}", two_processes / "parts")
