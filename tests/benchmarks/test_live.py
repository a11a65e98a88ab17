"""Watching measured: what is read of what the command says, and a server that comes back."""

from __future__ import annotations

import dataclasses
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from benchmarks.live import main
from benchmarks.live_watch import count_unreported, latencies_of, read_summary
from benchmarks.material import looped
from benchmarks.process import ChildError
from r2rt.cli.watch import _summarize
from r2rt.live import WatchSummary
from r2rt.model.manifest import MANIFEST_NAME, manifest_bytes, read_manifest
from r2rt.video import open_source
from tests.r2rt.conftest import DEMO_BUNDLE
from tests.r2rt.live.rtsp import skip_unless_served

SUMMARY = WatchSummary(
    stream_s=3725.5,
    frames=44000,
    packets_lost=3,
    frames_skipped=5,
    clips=1862,
    clips_dropped=7,
    answers=1850,
    answers_skipped=2,
    opened=12,
    closed=11,
    reconnects=4,
    gaps_s=21.5,
    latency_p50_s=0.105,
    latency_p95_s=0.18349,
    clip_s=0.25,
)


def said(capsys: pytest.CaptureFixture[str], summary: WatchSummary) -> str:
    _summarize(summary, None)
    return capsys.readouterr().err


def test_every_figure_of_the_commands_summary_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    summary = read_summary("r2rt: watching\n" + said(capsys, SUMMARY))
    assert (summary.stream_s, summary.missing_s, summary.clip_s) == (3725.5, 21.5, 0.25)
    assert (summary.p50_ms, summary.p95_ms) == (105, 183)
    assert list(summary.watched().values()) == [62.09, 44000, 1862, 1850, 12, 11, 105, 183]
    assert list(summary.dropped().values()) == [7, 5, 2, 3, 4, 21.5]


def test_a_watch_without_an_answer_is_no_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, dataclasses.replace(SUMMARY, latency_p50_s=None, latency_p95_s=None))
    with pytest.raises(ChildError, match="no summary"):
        read_summary(text)


def test_drops_that_no_event_reports_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    summary = read_summary(said(capsys, SUMMARY))
    events = [
        {"event": "dropped", "what": "clips", "total": 4},
        {"event": "dropped", "what": "clips", "total": 7},
        {"event": "dropped", "what": "frames", "total": 5},
        {"event": "dropped", "what": "answers", "total": 2},
    ]
    assert count_unreported(summary, events) == 0
    assert count_unreported(summary, events[:1]) == 3 + 5 + 2


def test_answers_while_the_source_is_lost_have_no_latency() -> None:
    events = [
        {"event": "opened", "at": 1.0, "latency_s": 0.1},
        {"event": "changed", "at": 1.0, "latency_s": 0.1},
        {"event": "closed", "at": 3.0, "latency_s": 0.2, "reason": "ended"},
        {"event": "retrying", "at": 5.0},
        {"event": "changed", "at": 9.0, "latency_s": 6.0},
        {"event": "closed", "at": 9.0, "latency_s": 6.0, "reason": "gap"},
        {"event": "reconnected", "at": 12.0},
        {"event": "opened", "at": 14.0, "latency_s": 0.3},
        {"event": "closed", "at": 15.0, "latency_s": 1.3, "reason": "stopped"},
    ]
    assert latencies_of(events) == [(1.0, 0.1), (3.0, 0.2), (14.0, 0.3)]


def test_a_looped_video_shows_every_frame_again(tmp_path: Path) -> None:
    shapes = Path(__file__).resolve().parents[2] / "demo" / "shapes.mp4"
    path = looped(shapes, 100.0, tmp_path / "looped.mp4")
    with open_source(str(shapes), fps=Fraction(1), image_size=32) as one:
        pixels = [frame.pixels for frame in one]
    with open_source(str(path), fps=Fraction(1), image_size=32) as many:
        again = [frame.pixels for frame in many]
    turns = -(-100 // len(pixels))
    assert len(again) == turns * len(pixels)
    assert all((again[n] == pixels[n % len(pixels)]).all() for n in range(len(again)))


def quick_bundle(folder: Path) -> Path:
    """The random model, with clips that last a quarter of a second."""
    shutil.copytree(DEMO_BUNDLE, folder)
    manifest = msgspec.structs.replace(read_manifest(folder), fps="4", window_s=5.0, unit_s=None)
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("server", ["ts", "rtsp"])
def test_the_command_survives_its_server_and_reports(server: str, tmp_path: Path) -> None:
    if server == "rtsp":
        skip_unless_served()
    arguments = ["--quick", "--minutes", "0.3", "--interruptions", "1", "--away", "0.5"]
    arguments += ["--bundle", str(quick_bundle(tmp_path / "bundle")), "--server", server]
    arguments += ["--out", str(tmp_path), "--media", str(tmp_path)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    record = json.loads(result.stdout.splitlines()[-1])
    rows: dict[str, list[dict[str, Any]]] = {
        group: [] for group in ("watched", "dropped", "over time")
    }
    for row in record["rows"]:
        rows[row["group"]].append(row["values"])
    (watched,), (dropped,) = rows["watched"], rows["dropped"]
    assert watched["answers"] > 10
    assert watched["p50 ms"] <= watched["p95 ms"]
    assert dropped["reconnects"] == 1
    assert dropped["missing s"] > 0.5
    assert len(rows["over time"]) == 24
    assert all(row["resident MB"] > 10 for row in rows["over time"])
    # An answer that changes nothing is not reported.
    assert sum(row["answers reported"] for row in rows["over time"]) > 3
    # The window is not full after a quarter of the time, so that memory is no promise yet.
    assert len(record["targets"]) == 4
    (skip,) = record["skipped"]
    assert "memory grows until 5 s are kept" in skip["reason"]
    met = {target["what"]: target["met"] for target in record["targets"]}
    assert met[f"{server}: dropped and not reported"]
    assert met[f"{server}: reconnects"]
    assert (tmp_path / record["plot"]).is_file()
