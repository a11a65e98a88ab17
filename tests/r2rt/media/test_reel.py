"""Reels, measured from the files that were written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from r2rt.errors import OutputError
from r2rt.media import write_reel
from tests.r2rt.media.footage import RATES, prediction, watch, write_footage


def test_a_reel_is_as_long_as_its_moments_together_and_in_step(tmp_path: Path) -> None:
    rate = RATES["29.97"]
    video = write_footage(tmp_path / "a.mp4", frames=180, rate=rate)
    asked = [
        prediction((4.2, 5.3, 0.9), (0.5, 1.8, 0.4)),
        prediction((2.6, 3.2, 0.7), query="another"),
    ]
    reel = write_reel([(video, asked)], tmp_path / "reel.mp4")
    # In the order of the video, whichever query they answer.
    spans = [(round(a * rate), round(b * rate)) for a, b in ((0.5, 1.8), (2.6, 3.2), (4.2, 5.3))]
    film = watch(reel.path)
    assert film.numbers == [number for a, b in spans for number in range(a, b)]
    expected_s = float(sum(b - a for a, b in spans) / rate)
    assert reel.parts == 3
    assert reel.duration_s == pytest.approx(expected_s, abs=1e-6)
    assert film.ends_s == pytest.approx(expected_s, abs=0.002)
    assert film.times_s == pytest.approx(
        [float(number / rate) for number in range(film.count)], abs=1e-3
    )
    assert film.sound_s == pytest.approx(expected_s, abs=0.025)
    # Clicks were at 1, 3 and 5 s of the video.
    played, clicks = 0.0, []
    for a, b in spans:
        clicks += [
            played + second - float(a / rate)
            for second in range(1, 6)
            if float(a / rate) < second < float(b / rate)
        ]
        played += float((b - a) / rate)
    assert film.clicks_s == pytest.approx(clicks, abs=0.005)


def test_a_moment_of_which_no_frame_decodes_puts_no_sound_out_of_step(tmp_path: Path) -> None:
    options = {"g": "25", "keyint_min": "25", "sc_threshold": "0", "bf": "0"}
    video = write_footage(tmp_path / "a.mp4", frames=125, options=options)
    with av.open(str(video)) as container:
        places = [
            (packet.pts * packet.time_base, packet.pos, packet.size)
            for packet in container.demux(video=0)
            if packet.pts is not None and packet.pos is not None
        ]
    content = bytearray(video.read_bytes())
    for time_s, at, size in places:
        if 1 <= time_s < 2:
            content[at : at + size] = b"\xa5" * size
    video.write_bytes(content)
    reel = write_reel([(video, [prediction((1.0, 2.0, 0.9), (2.6, 3.6, 0.8))])], tmp_path / "b.mp4")
    film = watch(reel.path)
    assert film.numbers == list(range(65, 90))
    # The click at 3 s is that of picture 75.
    assert film.clicks_s == pytest.approx([film.times_s[75 - 65]], abs=0.005)
    assert film.times_s[0] == 0
    assert reel.parts == 1
    assert reel.duration_s == pytest.approx(film.ends_s, abs=0.002)


def test_moments_that_overlap_are_shown_once(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=100, sound=None)
    asked = [prediction((0.0, 1.0, 0.9), (0.6, 2.0, 0.8), (2.0, 2.4, 0.7), (3.0, 3.2, 0.1))]
    reel = write_reel([(video, asked)], tmp_path / "reel.mp4")
    assert watch(reel.path).numbers == [*range(60), *range(75, 80)]
    assert reel.parts == 2
    assert reel.duration_s == pytest.approx(2.6)


def test_padding_widens_the_parts(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=100, sound=None)
    reel = write_reel(
        [(video, [prediction((1.0, 2.0, 0.9))])], tmp_path / "reel.mp4", padding_s=0.2
    )
    assert watch(reel.path).numbers == list(range(20, 55))


def test_videos_of_different_shapes_are_fitted_into_the_largest(tmp_path: Path) -> None:
    wide = write_footage(tmp_path / "wide.mp4", frames=50, size=(192, 96))
    high = write_footage(
        tmp_path / "high.mkv", frames=60, size=(64, 96), rate=RATES["29.97"], sound=None
    )
    reel = write_reel(
        [(high, [prediction((0.0, 1.0, 0.9))]), (wide, [prediction((0.5, 1.5, 0.9))])],
        tmp_path / "reel.mp4",
    )
    with av.open(str(reel.path)) as container:
        assert container.streams.video[0].sample_aspect_ratio in {None, Fraction(1)}
        pictures = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert {picture.shape for picture in pictures} == {(96, 192)}
    first, last = pictures[2], pictures[-1]
    assert int(first[:, :60].max()) < 24  # black on both sides of the upright one
    assert int(first[:, -60:].max()) < 24
    assert int(first[:, 64:128].max()) - int(first[:, 64:128].min()) > 150
    assert int(last[:, :60].max()) - int(last[:, :60].min()) > 150
    film = watch(reel.path, read=lambda _: 0)
    assert film.ends_s == pytest.approx(reel.duration_s, abs=0.002)
    assert film.sound_s == pytest.approx(reel.duration_s, abs=0.025)
    # The first video is silent: the only click is the second one's at 1 s.
    first_part_s = float(30 / RATES["29.97"])
    assert film.clicks_s == pytest.approx([first_part_s + 0.5], abs=0.025)


def test_turned_and_upright_videos_are_joined_upright(tmp_path: Path) -> None:
    turned = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    one = write_footage(tmp_path / "one.mp4", frames=30, size=(96, 64), matrix=turned, sound=None)
    two = write_footage(tmp_path / "two.mp4", frames=30, size=(64, 96), sound=None)
    asked = [prediction((0.0, 0.6, 0.9))]
    reel = write_reel([(one, asked), (two, asked)], tmp_path / "reel.mp4")
    with av.open(str(reel.path)) as container:
        pictures = list(container.decode(video=0))
    assert pictures[0].rotation == 0
    with av.open(str(one)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="gray").astype(float)
    upright = pictures[0].to_ndarray(format="gray").astype(float)
    assert upright.shape == (96, 64)
    # A turn by this matrix takes the top left corner to the top right one.
    assert np.abs(np.rot90(stored, -1) - upright).mean() < 12


def test_no_moment_makes_no_reel(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mp4", frames=25, sound=None)
    with pytest.raises(OutputError, match="nothing to make a reel of"):
        write_reel([(video, [prediction()])], tmp_path / "reel.mp4")
    assert not (tmp_path / "reel.mp4").exists()
