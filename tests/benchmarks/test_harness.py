from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import Case, DisagreementError, Options, Report, paired_ratio, time_cases
from benchmarks.process import ChildError, Worker, run_child
from benchmarks.results import summarize

_SERVER = """
import sys
sys.path.insert(0, {checkout!r})
from benchmarks.process import serve
def double(x):
    print("noise of a library")
    return {{"x": 2 * x}}
serve({{"hello": 1}}, {{"double": double}})
"""
_CHECKOUT = str(Path(__file__).resolve().parents[2])


def _report(tmp_path: Path, *, plot: bool = False) -> Report:
    options = Options(quick=True, repeats=2, out=tmp_path, media=tmp_path, plot=plot)
    return Report("tried", options, video=Path("a.mp4"))


def _scripted(name: str, seconds: list[float]) -> Case:
    left = iter(seconds)
    return Case(name=name, measure=lambda: next(left))


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30))
def test_percentiles_are_those_of_numpy(samples: list[float]) -> None:
    summary = summarize(samples)
    np.testing.assert_allclose(summary.p50_s, np.percentile(samples, 50), rtol=1e-9)
    np.testing.assert_allclose(summary.p95_s, np.percentile(samples, 95), rtol=1e-9)
    assert summary.min_s == min(samples)
    assert summary.samples_s == tuple(samples)


def test_cases_take_turns_and_warm_up_uncounted() -> None:
    order: list[str] = []

    def case(name: str) -> Case:
        def measure() -> float:
            order.append(name)
            return float(len(order))

        return Case(name=name, measure=measure)

    samples = time_cases([case("a"), case("b")], repeats=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert samples == {"a": (3.0, 5.0), "b": (4.0, 6.0)}


def test_ratio_survives_a_machine_that_slows_down_for_a_round() -> None:
    baseline, ours = [8.0, 80.0, 8.0], [2.0, 20.0, 2.0]
    assert paired_ratio(baseline, ours) == 4.0
    # Medians of each alone would do here too, but not when slowness comes in more rounds than one.
    assert paired_ratio([8.0, 80.0, 80.0, 8.0], [2.0, 20.0, 20.0, 2.0]) == 4.0


def test_nothing_is_timed_where_outputs_disagree(tmp_path: Path) -> None:
    timed: list[str] = []

    def measure() -> float:
        timed.append("a")
        return 1.0

    def disagree() -> str:
        raise AssertionError("saliency differs by 0.3")

    report = _report(tmp_path)
    with pytest.raises(DisagreementError, match=r"group: .*saliency differs by 0\.3"):
        report.time("group", [Case(name="a", measure=measure)], agree=disagree, repeats=1)
    assert not timed
    assert not report.rows


def test_report_writes_json_with_all_that_its_numbers_depend_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _report(tmp_path)
    rows = report.time(
        "group",
        [_scripted("base", [9, 4, 6]), _scripted("ours", [9, 2, 2])],
        agree=lambda: "agree to 0",
        repeats=2,
        baseline="base",
        values={"ours": {"decoded": 7}},
    )
    assert rows["ours"].speedup == 2.5
    report.skip("group", "decord", "cannot be imported: no module")
    report.target("over the baseline", 2.5, ">=", 3)
    report.target("peak, MB", 400, "<=", 450)
    report.finish()

    printed = capsys.readouterr()
    record = json.loads(printed.out.splitlines()[-1])
    assert record == json.loads((tmp_path / "tried.quick.json").read_text())
    assert record["schema"] == 1
    assert record["benchmark"] == "tried"
    assert {"cpu", "cores", "isa", "memory_bytes", "load_1min"} <= record["machine"].keys()
    assert {"python", "numpy", "av", "onnxruntime"} <= record["versions"].keys()
    assert record["commit"]
    assert record["settings"] == {"video": "a.mp4"}
    assert record["agreements"] == [{"group": "group", "detail": "agree to 0"}]
    assert record["rows"][1]["seconds"] == {
        "p50_s": 2.0,
        "p95_s": 2.0,
        "min_s": 2.0,
        "samples_s": [2, 2],
    }
    assert record["rows"][1]["values"] == {"decoded": 7}
    assert [target["met"] for target in record["targets"]] == [False, True]
    assert "decord skipped: cannot be imported" in printed.err
    assert "NOT MET" in printed.out


def test_report_draws_its_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need pip install 'r2rt[bench]'")
    report = _report(tmp_path, plot=True)
    report.time("group", [_scripted("a", [1, 2, 3])], agree=lambda: "alone", repeats=2)
    report.finish()
    assert (tmp_path / "tried.quick.png").read_bytes().startswith(b"\x89PNG")


def test_child_reports_its_time_and_its_own_peak_memory() -> None:
    # What this process holds must not count as the child's.
    ballast = np.ones(40_000_000)
    child = run_child([sys.executable, "-c", "x = bytearray(50_000_000); print(len(x))"])
    assert child.stdout == "50000000\n"
    assert 50e6 < child.peak_rss_bytes < ballast.nbytes / 2
    assert 0 < child.wall_s < 60


def test_child_that_fails_is_an_error() -> None:
    with pytest.raises(ChildError, match="exit code 3"):
        run_child([sys.executable, "-c", "raise SystemExit(3)"])


def test_worker_answers_in_spite_of_what_libraries_print() -> None:
    with Worker([sys.executable, "-c", _SERVER.format(checkout=_CHECKOUT)]) as worker:
        first = worker.hello
        assert first == {"hello": 1}
        assert worker.ask("double", x=21) == {"x": 42}


def test_worker_that_does_not_start_is_an_error() -> None:
    with pytest.raises(ChildError, match="exit code 7"):
        Worker([sys.executable, "-c", "raise SystemExit(7)"])


def test_worker_that_dies_is_an_error() -> None:
    server = _SERVER.format(checkout=_CHECKOUT)
    with (
        Worker([sys.executable, "-c", server]) as worker,
        pytest.raises(ChildError, match="exit code 1"),
    ):
        worker.ask("no such operation")
