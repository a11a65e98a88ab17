from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import gpu_selfcheck
from benchmarks.gpu_checks import graphs, launches
from benchmarks.gpu_checks.__main__ import STEPS
from benchmarks.gpu_checks.__main__ import main as run_one
from benchmarks.gpu_checks.rows import attempt
from benchmarks.gpu_checks.samples import SIZES, Sizes
from benchmarks.gpu_selfcheck import Step, main, run_step, summary
from r2rt.engines.base import Engine
from r2rt.engines.tensorrt.buckets import bucketed
from r2rt.engines.tensorrt.cuda import Gpu
from r2rt.engines.tensorrt.plans import Range
from r2rt.model.bundle import Bundle
from r2rt.model.contract import VIDEO_ENCODER
from tests.conftest import CHECKOUT
from tests.kernels.interpreted import interpreted, uncompiled
from tests.r2rt.engines.tensorrt.stub_driver import StubDriver

pytestmark = pytest.mark.slow

DEMO = CHECKOUT / "demo" / "random-tiny"

# Runs a step in a process that has neither PyAV nor ONNX Runtime.
_WITHOUT = """
import sys
from importlib.machinery import PathFinder

class WithoutThem(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in ("av", "onnxruntime"):
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutThem
from benchmarks.gpu_checks.__main__ import main
main(sys.argv[1:])
"""


def later(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_no_more_frames_are_timed_than_an_engine_was_built_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Built:
        """Refuses as `TensorRTEngine` does."""

        manifest = SimpleNamespace(
            plans={VIDEO_ENCODER: SimpleNamespace(ranges={"B": Range(least=1, usual=8, most=64)})}
        )

        def run(self, graph: str, inputs: dict[str, NDArray[np.uint8]]) -> dict[str, Any]:
            spec = Bundle.open(DEMO).engine_graphs[graph]
            bucketed(spec, {"B": len(inputs["frames"])}, self.manifest.plans[graph].ranges)
            return {}

    graphs._time_batches(cast("Engine", Built()), "tensorrt", 2)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["state"] for row in rows] == ["ok", "ok", "ok", "skipped"]
    assert rows[-1]["reason"] == "the engine was built for at most 64"


def test_graphs_are_compared_when_engines_replay_them() -> None:
    class Settling:
        """Is right until it replays what it captured."""

        merges = True
        runs = 0

        def run(self, graph: str, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
            self.runs += 1
            return {"v": np.full(3, self.runs < 3, np.float32)}

    engine = cast("Engine", Settling())
    with pytest.raises(AssertionError, match="v is off by 1"):
        graphs._check(engine, "video_finalizer", {}, {"v": np.ones(3, np.float32)}, 1e-3)


@pytest.mark.parametrize("step", [("block", "fp32"), ("pool", "bf16"), ("small", "fp16")])
def test_kernels_are_checked_without_pyav_and_onnx_runtime(step: tuple[str, ...]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: shapes would be large")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, *step],
        capture_output=True, text=True, cwd=CHECKOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) >= 2
    assert all(row["state"] == "ok" for row in rows), rows


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_other_step_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), "environment", "launches", "encoder", "times"]) == 0
    table = capsys.readouterr().out
    assert "SKIPPED environment, GPU: PyTorch finds none" in table
    for step in ("launches", "encoder", *(f"times fp16 {n}" for n in (75, 1000, 10000))):
        assert f"SKIPPED {step}, all of it: no GPU" in table
    (row,) = run_step(Step(arguments=("launches",), limit_s=60), deadline=later())
    assert (row["state"], "no GPU" in row["reason"]) == ("skipped", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_launches_are_checked_over_a_stub_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step as on a GPU, but that the interpreter runs the kernels of a smaller model."""
    sizes = Sizes(patches=3, width=32, heads=2, vision_width=24, layers=2)
    monkeypatch.setattr(launches, "_SIZES", sizes)
    small = replace(launches._DIMS, patches=sizes.patches, width=sizes.width, layers=sizes.layers)
    monkeypatch.setattr(launches, "_DIMS", small)
    monkeypatch.setitem(SIZES, "cpu", sizes)
    records = [uncompiled(variant, 90).record for variant in launches.random_variants().values()]
    driver = StubDriver(kernels={record.entry: interpreted(record) for record in records})
    gpu = Gpu(driver)
    session = launches.open_session(gpu, uncompiled)
    (error,) = launches.check_grounder(session, 2, 1, 3, resident=True).values()
    assert 0 < error < 4e-3
    assert launches.check_finalizer(session, 2)["error"] < 2e-3
    assert launches.time_query(session, 1, rounds=1) == {"graph_us": 500, "direct_us": 500}
    gpu.close()
    assert (driver.leaks(), driver.faults) == ([], [])


def test_kernels_are_not_checked_on_gpus_that_they_are_not_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    for step in ("pool", "launches", "times"):
        run_one([step, "fp16"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["state"] for row in rows] == ["skipped"] * 3
    assert rows[0]["reason"].endswith("8.0 or later, this GPU has 7.5")


def test_every_step_has_a_function(tmp_path: Path) -> None:
    steps = list(gpu_selfcheck._steps(tmp_path))
    assert {step.arguments[0] for step in steps} <= STEPS.keys()
    for module, name in STEPS.values():
        assert f"def {name}(" in (CHECKOUT / f"benchmarks/gpu_checks/{module}.py").read_text()


def test_a_session_runs_every_step_within_ten_minutes() -> None:
    script = (CHECKOUT / "benchmarks" / "gpu_session.sh").read_text()
    parts = [line.split()[1:] for line in script.splitlines() if line.startswith("part ")]
    steps = [name for _, _, *names in parts for name in names]
    assert {x.partition("-")[0] for x in STEPS} == set(steps)
    assert len(steps) == len(set(steps))
    assert sum(int(seconds) + 30 for _, seconds, *_ in parts) <= 600
    assert steps[0] == "environment"  # the ceilings


def test_a_step_that_hangs_is_ended_and_reported() -> None:
    began = time.monotonic()
    rows = run_step(Step(arguments=("pool", "fp32"), limit_s=0.3), deadline=later())
    assert time.monotonic() - began < 20
    assert rows[-1]["state"] == "failed"
    assert "its limit" in rows[-1]["reason"]
    rows = run_step(Step(arguments=("pool", "fp32"), limit_s=60), deadline=later(0.3))
    assert (rows[-1]["state"], rows[-1]["reason"]) == (
        "skipped",
        "ended after 0 s, no time was left",
    )


def test_a_step_that_crashes_is_reported() -> None:
    rows = run_step(Step(arguments=("nothing",), limit_s=60), deadline=later())
    assert rows[-1]["reason"] == "exit code 1: KeyError: 'nothing'"


def test_without_time_left_nothing_is_begun() -> None:
    (row,) = run_step(Step(arguments=("environment",), limit_s=60), deadline=later(-1))
    assert (row["state"], row["reason"]) == ("skipped", "no time was left")


class CompilationError(Exception):
    """Like Triton's and ONNX Runtime's: of no class that is known here."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AssertionError("off by 2"), "off by 2"),
        (CompilationError("at 1:\n2"), "CompilationError: at 1:"),
        (MemoryError(), "MemoryError: "),
    ],
)
def test_whatever_a_check_raises_is_a_row(
    error: Exception, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    attempt("one", fail)
    attempt("two", lambda: {"us": 3.0})
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["state"], first["reason"]) == ("failed", reason)
    assert (second["state"], second["us"]) == ("ok", 3.0)


def test_what_a_small_gpu_has_no_memory_for_is_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The references hold all scores of 8,200 clips in fp64: 13 GB."""

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.01 GiB.\nmore")

    attempt("r2_block, fp16, 8200 clips", fail)
    row = json.loads(capsys.readouterr().out)
    reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 4.01 GiB."
    assert (row["state"], row["reason"]) == ("skipped", reason)


def test_the_table_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [Step(arguments=(name,), limit_s=60) for name in ("good", "bad")]
    rows = {
        "good": [
            {"step": "good", "name": "time_step", "state": "ok", "us": 9.87654, "error": 1e-4}
        ],
        "bad": [{"step": "bad", "name": "pool", "state": "failed", "reason": "off by 2"}],
    }
    monkeypatch.setattr(gpu_selfcheck, "_steps", lambda _: iter(steps))
    monkeypatch.setattr(gpu_selfcheck, "run_step", lambda step, **_: rows[step.name])
    arguments = ["--out", str(tmp_path), "--media", str(tmp_path)]
    assert main(arguments) == 1
    assert main([*arguments, "good"]) == 0
    text = capsys.readouterr().out
    assert "time_step: us 9.877" in text
    assert "good: 1 of 1 hold, greatest relative error 1.0e-04" in text
    assert "FAILED bad, pool: off by 2" in text
    written = (tmp_path / "gpu_selfcheck.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == rows["good"]
    assert summary([]) == ""
