from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.harness import DisagreementError, Options, Report
from r2rt.errors import GpuError
from tests.conftest import CHECKOUT


@pytest.mark.slow
def test_it_runs_to_the_end_and_says_what_it_could_not_check(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "benchmarks/gpu_selfcheck.py", "--quick", "--no-plot"),
        *("--out", str(tmp_path), "--media", str(tmp_path / "media")),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=CHECKOUT, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["targets"][0]["value"] == 0
    checked = [item["detail"] for item in record["agreements"]]
    for kernel in ("frame_pool", "r2_block", "finalize"):
        assert sum(line.startswith(kernel) for line in checked) == 3  # fp32, fp16, bf16
    if not torch.cuda.is_available():
        reasons = {item["group"]: item["reason"] for item in record["skipped"]}
        assert "device tensorrt cannot be used" in reasons["fp32 bundle on tensorrt"]
        assert reasons["frames to tokens, 32 frames"] == "no GPU that PyTorch can use"


@pytest.mark.parametrize(
    "error",
    [DisagreementError("off by 2"), GpuError("cuMemAlloc: OUT OF MEMORY"), RuntimeError("x")],
)
def test_what_fails_is_counted_and_the_rest_goes_on(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # the script sets it for good, without a GPU
    from benchmarks.gpu_selfcheck import _Check

    options = Options(quick=True, repeats=None, out=tmp_path, media=tmp_path, plot=False)
    check = _Check(Report("gpu_selfcheck", options))

    def fail() -> None:
        raise error

    check.run("kernels", "one", fail)
    check.run("kernels", "two", lambda: None)
    assert check.failures == 1
    assert [skip.reason for skip in check.report.skips] == [f"FAILED: {error}"]
