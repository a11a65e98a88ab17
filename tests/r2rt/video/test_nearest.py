"""Nearest sampling: any picture of the same clip, as few packets as possible."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from r2rt.errors import QueryError
from r2rt.video import FramePreparer, FrameSource, open_source
from tests.r2rt.video.clips import decode_everything
from tests.r2rt.video.conftest import VideoMaker

KEYINT = {"x264-params": "keyint=25:min-keyint=25:scenecut=0:bframes=3"}
LONG = {"x264-params": "keyint=250:scenecut=0:bframes=3"}


def opened(path: object, fps: Fraction, **how: object) -> FrameSource:
    return open_source(path, fps=fps, image_size=32, sampling="nearest", **how)  # type: ignore[arg-type]


def test_with_a_keyframe_in_every_clip_only_keyframes_are_decoded(make_video: VideoMaker) -> None:
    path = make_video("keys.mp4", frames=200, options=KEYINT)
    with opened(path, Fraction(1, 2)) as source:
        frames = list(source)
        report = source.report
    assert [frame.clip_index for frame in frames] == [0, 1, 2, 3]
    assert report.packets_decoded == report.frames_decoded == 4
    assert report.cost is not None
    assert (report.cost.planned_frames, report.cost.total_frames) == (4, 200)
    assert report.cost.skipped_gops == 4
    # The one of the clip's two keyframes that is closer to the exact picture.
    assert [frame.time_s for frame in frames] == [1, 3, 5, 7]


@pytest.mark.parametrize("fps", [Fraction(1, 2), Fraction(1), Fraction(3)])
@pytest.mark.parametrize("options", [KEYINT, LONG], ids=["short", "long"])
def test_frames_belong_to_their_clip_and_are_decoded_exactly(
    fps: Fraction, options: dict[str, str], make_video: VideoMaker
) -> None:
    path = make_video(f"near{options is LONG}.mp4", frames=200, options=options)
    prepare = FramePreparer(32)
    shown = {round(frame.time * 25): prepare(frame) for frame in decode_everything(path)}
    with opened(path, fps) as source:
        frames = list(source)
        nearest = source.report.packets_decoded
    for frame in frames:
        assert frame.count == 1
        assert frame.clip_index <= frame.time_s * fps < frame.clip_index + 1
        assert np.array_equal(frame.pixels, shown[round(frame.time_s * 25)])
    assert sum(frame.count for frame in frames) == round(8 * fps)
    with open_source(path, fps=fps, image_size=32) as source:
        list(source)
        assert nearest <= source.report.packets_decoded


def test_tolerance_narrows_the_choice(make_video: VideoMaker) -> None:
    path = make_video("keys.mp4", frames=200, options=KEYINT)
    decoded = []
    for tolerance_s in (1.0, 0.4, 0.1, 0.0):
        with opened(path, Fraction(1, 2), tolerance_s=tolerance_s) as source:
            for frame in source:
                middle_s = 2 * frame.clip_index + 1
                assert abs(frame.time_s - middle_s) <= max(tolerance_s, 1 / 25) + 1e-9
            decoded.append(source.report.packets_decoded)
    assert decoded[0] == 4
    assert decoded == sorted(decoded)


def test_no_tolerance_is_the_exact_frame_or_the_one_at_the_middle(make_video: VideoMaker) -> None:
    path = make_video("odd.mp4", frames=100, rate=Fraction(24_000, 1001), options=KEYINT)
    with opened(path, Fraction(1), tolerance_s=0.0) as source:
        nearest = [frame.time_s for frame in source]
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        assert nearest == [frame.time_s for frame in source]


@pytest.mark.parametrize("tolerance_s", [-0.1, 1.01, float("nan"), float("inf")])
def test_tolerances_that_make_no_sense(tolerance_s: float, make_video: VideoMaker) -> None:
    path = make_video("keys.mp4", frames=200, options=KEYINT)
    with pytest.raises(QueryError, match="half a clip"):
        opened(path, Fraction(1, 2), tolerance_s=tolerance_s)


def test_exact_takes_no_tolerance(make_video: VideoMaker) -> None:
    path = make_video("keys.mp4", frames=200, options=KEYINT)
    with pytest.raises(QueryError, match="nearest"):
        open_source(path, fps=Fraction(1), image_size=32, tolerance_s=0.1)


@pytest.mark.shared("videos/bikes.mp4")
@pytest.mark.parametrize("fps", [Fraction(1, 2), Fraction(1), Fraction(3)])
def test_nearest_never_costs_more_than_exact(shared: Path, fps: Fraction) -> None:
    with opened(shared, fps) as near, open_source(shared, fps=fps, image_size=32) as exact:
        assert near.cost is not None
        assert exact.cost is not None
        assert near.cost.planned_frames <= exact.cost.planned_frames
