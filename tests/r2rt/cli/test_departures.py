"""What reading departed from exact: told on stderr, and in the JSON."""

from __future__ import annotations

import json
from pathlib import Path

from tests.r2rt.cli.test_ground import QUERY, ground
from tests.r2rt.conftest import DEMO_VIDEO
from tests.r2rt.video.clips import write_video


def test_a_leaping_clock_is_told(tmp_path: Path) -> None:
    one = write_video(tmp_path / "one.ts", frames=100).read_bytes()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one + one)
    result = ground(joined, QUERY, "--format", "json")
    assert "joined.ts: the clock leaps once, by 4.0 s in all" in " ".join(result.stderr.split())
    assert "every frame was decoded: the clock leaps" in " ".join(result.stderr.split())
    found = json.loads(result.stdout)
    assert found["duration_s"] == 8.0
    assert found["departures"]["leaps_closed"] == 1
    assert round(found["departures"]["leaps_s"], 2) == 4.0


def test_an_exact_reading_departs_in_nothing() -> None:
    result = ground(DEMO_VIDEO, QUERY, "--format", "json")
    assert json.loads(result.stdout)["departures"] == {}
    assert f"{DEMO_VIDEO.name}:" not in result.stderr
