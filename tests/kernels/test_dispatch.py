from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton

from kernels import dispatch
from kernels.dispatch import Backend, KernelsUnavailableError, choose
from tests.golden_data import Tolerance, assert_golden, assert_inference, load_arrays
from training.checkpoint import build_model

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# Two ways through one network in fp32, relative to the largest gradient of a parameter.
GRADIENTS_OF_SIZE = Tolerance(rtol=1e-3, atol=1e-4)


@pytest.fixture(autouse=True)
def _fresh_choices() -> Iterator[None]:
    dispatch._choose.cache_clear()
    yield
    dispatch._choose.cache_clear()


@pytest.fixture
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    driver = SimpleNamespace(active=SimpleNamespace(utils=None))
    monkeypatch.setattr(triton.runtime, "driver", driver)


@pytest.mark.usefixtures("_compiled")
def test_cuda_inputs_take_triton_and_others_say_why_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("R2RT_KERNELS", raising=False)
    with caplog.at_level(logging.INFO):
        assert choose(GPU, torch.float16, 256).backend is Backend.TRITON
        assert choose(GPU, torch.float16, 256).backend is Backend.TRITON
    assert len(caplog.records) == 1
    assert "triton, since inputs are on cuda" in caplog.text
    for device, dtype, width, reason in [
        (CPU, torch.float16, 256, "inputs are on cpu"),
        (GPU, torch.float32, 256, "use autocast"),
        (GPU, torch.float64, 256, "torch.float64"),
        (GPU, torch.float16, 1024, "width is 1024"),
    ]:
        choice = choose(device, dtype, width)
        assert choice.backend is Backend.TORCH
        assert reason in choice.reason


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gpu_before_ampere_takes_pytorch(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.delenv("R2RT_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    choice = choose(GPU, dtype, 256)
    assert choice.backend is Backend.TORCH
    assert choice.reason == "the GPU has compute capability 7.5, expected 8.0 or later"


class Uncompiled:
    """Triton's driver where it cannot be compiled."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def active(self) -> object:
        raise self._error


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Failed to find C compiler.\nSet CC."), "Failed to find C compiler."),
        (subprocess.CalledProcessError(1, ["gcc"]), "Command '['gcc']' returned non-zero exit"),
        (FileNotFoundError(2, "No such file or directory", "cc"), "No such file or directory"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_driver_that_cannot_be_compiled_is_an_obstacle(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a C compiler or Python.h, which the first launch would need."""
    monkeypatch.delenv("R2RT_KERNELS", raising=False)
    monkeypatch.setattr(triton.runtime, "driver", Uncompiled(error))
    choice = choose(GPU, torch.float16, 256)
    assert choice.backend is Backend.TORCH
    assert reason in choice.reason
    assert "\n" not in choice.reason
    monkeypatch.setenv("R2RT_KERNELS", "triton")
    with pytest.raises(KernelsUnavailableError, match="triton cannot compile its driver"):
        choose(GPU, torch.float16, 256)


@pytest.mark.usefixtures("_compiled")
def test_a_forced_choice_is_kept_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2RT_KERNELS", "torch")
    assert choose(GPU, torch.float32, 64).backend is Backend.TORCH
    monkeypatch.setenv("R2RT_KERNELS", "triton")
    with pytest.raises(KernelsUnavailableError, match="inputs are on cpu, expected a CUDA device"):
        choose(CPU, torch.float32, 64)
    monkeypatch.setenv("R2RT_KERNELS", "cuda")
    with pytest.raises(ValueError, match="'cuda', expected auto, triton or torch"):
        choose(GPU, torch.float32, 64)


@pytest.mark.slow
def test_the_model_in_training_gives_the_same_gradients_either_way(
    golden_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = load_arrays(golden_dir / "moment_t5.npz")
    video = torch.from_numpy(arrays["video"]).float()[None]
    query = torch.from_numpy(arrays["query"]).float()[None]
    mask = torch.arange(query.shape[1])[None] < 5
    gradients = {}
    for backend in ("torch", "triton"):
        monkeypatch.setenv("R2RT_KERNELS", backend)
        block = build_model(golden_dir / "moment.pth").adapter
        read = block(video, query, torch.tensor([5]), query_mask=mask)
        read.video_emb.square().sum().backward()
        gradients[backend] = {n: p.grad for n, p in block.named_parameters()}
    # The softmax ignores the biases of keys; what PyTorch finds there is rounding.
    assert gradients["triton"].pop("v_map.bias") is None
    largest = max(x.abs().max() for x in gradients["torch"].values() if x is not None)
    for name, actual in gradients["triton"].items():
        expected = gradients["torch"][name]
        assert actual is not None
        assert expected is not None
        if name.endswith(".k.bias"):
            assert max(actual.abs().max(), expected.abs().max()) <= largest * 1e-6, name
            continue
        size = torch.maximum(expected.abs().max(), largest * 1e-4)
        assert_golden(actual / size, (expected / size).numpy(), GRADIENTS_OF_SIZE, name)


def test_the_model_equals_the_golden_outputs_with_kernels(
    golden_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2RT_KERNELS", "triton")
    model = build_model(golden_dir / "moment.pth")
    assert_inference(model, load_arrays(golden_dir / "moment_t5.npz"))


@pytest.mark.slow
def test_another_package_called_kernels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("")
    checkout = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(checkout)!r}]; import training.model"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode != 0
    assert f"found {tmp_path / 'kernels.py'}, which is another package" in run.stderr
