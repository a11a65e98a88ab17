"""The examples run on the demo model and find what the demo video is known to show."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.conftest import CHECKOUT

VIDEO = CHECKOUT / "demo" / "emoji.mp4"
TRUTH = {
    query["query"]: [tuple(span) for span in query["true_s"]]
    for query in json.loads((CHECKOUT / "demo" / "emoji.json").read_text())["queries"]
}


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> object:
    """Return a function that runs an example and returns what it printed."""
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))

    def run(name: str, *arguments: str | Path) -> str:
        script = str(CHECKOUT / "examples" / name)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return run


def iou(start_s: float, end_s: float, spans: list[tuple[float, float]]) -> float:
    """Return the largest overlap of a span with any of `spans`, as intersection over union."""
    shares = (
        (min(end_s, end) - max(start_s, start)) / (max(end_s, end) - min(start_s, start))
        for start, end in spans
    )
    return max(0.0, *shares)


def test_ground_video(run) -> None:  # type: ignore[no-untyped-def]
    out = run("ground_video.py", VIDEO, "a panda", "a penguin")
    answers = dict(re.findall(r"^(a \w+)\n +([\d.]+ to +[\d.]+) s", out, re.MULTILINE))
    for query in ("a panda", "a penguin"):
        start_s, end_s = map(float, answers[query].split(" to "))
        assert iou(start_s, end_s, TRUTH[query]) > 0.5


def test_many_videos(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "bad.mp4").write_text("no video")
    shutil.copy(VIDEO, folder / "good.mp4")
    bad, good = run("many_videos.py", "a panda", folder).splitlines()
    assert bad.startswith(f"{folder / 'bad.mp4'}: failed: ")
    found = re.fullmatch(r".*good\.mp4: ([\d.]+) to ([\d.]+) s", good)
    assert found
    assert iou(float(found[1]), float(found[2]), TRUTH["a panda"]) > 0.5


def test_highlights_reel(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    reel = tmp_path / "reel.mp4"
    out = run("highlights_reel.py", VIDEO, reel, "--query", "a panda")
    found = re.search(r"(\d) parts, ([\d.]+) s", out)
    assert found
    assert 1 <= int(found[1]) <= 3
    with av.open(reel) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        assert stream.average_rate
        assert frames / Fraction(stream.average_rate) == pytest.approx(float(found[2]), abs=0.1)


@pytest.mark.slow
def test_watch_growing_file(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recording = tmp_path / "recording.ts"
    with av.open(VIDEO) as source, av.open(recording, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    out = run("watch_growing_file.py", recording, "a panda", "--idle", "0.5")
    opened = [float(time) for time in re.findall(r"^opened at ([\d.]+) s: a panda", out, re.M)]
    closed = [float(time) for time in re.findall(r"^closed at ([\d.]+) s: a panda", out, re.M)]
    ((start_s, end_s),) = TRUTH["a panda"]
    assert any(abs(time - start_s) < 2 for time in opened)
    assert any(abs(time - end_s) < 2 for time in closed)


def test_stream_frames(run) -> None:  # type: ignore[no-untyped-def]
    out = run("stream_frames.py", VIDEO, "a panda")
    *_, last = out.splitlines()
    found = re.match(r"after 80\.0 s: .*start_s=([\d.]+), end_s=([\d.]+)", last)
    assert found
    assert iou(float(found[1]), float(found[2]), TRUTH["a panda"]) > 0.5
