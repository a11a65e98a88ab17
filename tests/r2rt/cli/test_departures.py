"""Where reading was not exact: reported on stderr and in the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from tests.r2rt.cli.test_ground import QUERY, ground
from tests.r2rt.conftest import DEMO_VIDEO
from tests.r2rt.video.clips import write_video
from tests.r2rt.video.test_foreign_kinds import two_tracks


def test_a_leaping_clock_is_reported(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("track", "width"), [(1, 96), (2, 192)])
def test_clips_are_cut_from_the_track_that_was_asked(
    track: int, width: int, tmp_path: Path
) -> None:
    path = two_tracks(tmp_path / "two.mkv", default=0)
    outputs = ("--clips", tmp_path / "clips", "--reel", tmp_path / "reel.mp4")
    result = ground(path, QUERY, "--video-track", track, "--anyway", *outputs)
    assert result.returncode == 0, result.stderr
    made = [tmp_path / "reel.mp4", *(tmp_path / "clips").iterdir()]
    assert len(made) > 1
    for clip in made:
        with av.open(str(clip)) as container:
            assert container.streams.video[0].width == width
