"""Thumbnails, contact sheets and timelines: the right picture in the right place."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from r2rt.errors import MissingExtraError, OutputError
from r2rt.media import stills as stills_module
from r2rt.media import write_contact_sheet, write_plot, write_report, write_thumbnails
from r2rt.media.drawing import BLUE, ORANGE, axis_clock, font, nice_ticks, shortened, wrapped
from r2rt.media.indexed_video import FrameReader, IndexedVideo, Span
from r2rt.media.stills import stills
from r2rt.video.demux import Demuxer
from tests.r2rt.media.footage import prediction, write_footage
from tests.r2rt.video.clips import picture_number


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds at 25 frames a second; the picture's number is drawn in it."""
    path = tmp_path_factory.mktemp("pictures") / "film.mp4"
    return write_footage(path, frames=150, size=(192, 128), sound=None)


def number_in(picture: Image.Image) -> int:
    pixels = np.array(picture.convert("RGB").resize((192, 128)))
    return picture_number(av.VideoFrame.from_ndarray(pixels, format="rgb24"))


def test_stills_are_the_very_frames_on_display(video: Path) -> None:
    times_s = [5.99, 0.0, 2.001, 0.5, 0.5399, 3.98]
    pictures = dict(stills(IndexedVideo(video), times_s, (192, 192)))
    assert [number_in(pictures[number]) for number in range(6)] == [149, 0, 50, 12, 13, 99]
    assert list(pictures) == [1, 3, 4, 2, 5, 0]  # as they are decoded


def test_frames_that_no_other_refers_to_are_decoded_only_where_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_footage(
        tmp_path / "b.mp4", frames=60, options={"g": "60", "bf": "3", "b-pyramid": "none"}
    )
    decoded: list[int | None] = []
    decode = Demuxer.decode

    def counting(demuxer: Demuxer, packet: Any) -> Any:
        decoded.extend([] if packet is None else [packet.pts])
        return decode(demuxer, packet)

    with IndexedVideo(path) as footage:
        monkeypatch.setattr(Demuxer, "decode", counting)
        spare = footage.index.pts[footage.index.disposable]
        assert len(spare) > 30
        wanted = {int(spare[10]), int(footage.pts[50])}
        with FrameReader(footage) as reader:
            span = Span(min(wanted), max(wanted) + 1)
            found = {pts: frame for frame, pts in reader.frames(span, wanted)}
    numbers = {footage.seconds(pts): picture_number(found[pts]) for pts in wanted}
    assert numbers == {time_s: round(25 * time_s) for time_s in numbers}
    assert set(decoded) & set(spare) <= wanted


def test_stills_near_a_keyframe_are_that_keyframe(video: Path) -> None:
    ((_, exact),) = stills(IndexedVideo(video), [1.7], (192, 192))
    ((_, near),) = stills(IndexedVideo(video), [1.7], (192, 192), near_s=0.2)
    assert (number_in(exact), number_in(near)) == (42, 40)


@pytest.mark.parametrize("size", [(192, 128), (96, 64)])
def test_stills_are_upright_and_have_square_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    turned = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path = write_footage(
        tmp_path / "a.mp4",
        frames=30,
        size=size,
        matrix=turned,
        sample_aspect_ratio=Fraction(4, 3),
        sound=None,
    )
    ((_, picture),) = stills(IndexedVideo(path), [0.84], (400, 400))
    assert picture.size == (200, 400)  # 2:1 by its samples, on its side
    assert number_in(picture.rotate(90, expand=True)) == 21


def test_thumbnails_show_the_most_salient_clip(video: Path, tmp_path: Path) -> None:
    answer = prediction((1.0, 5.0, 0.9), (0.0, 1.0, 0.2), duration_s=6, fps=Fraction(1))
    answer.saliency[:] = [0, 0.1, 0.2, 0.7, 0.3, 1]
    paths = write_thumbnails(video, [answer], tmp_path / "thumbs", size=192)
    assert [path.suffix for path in paths] == [".jpg", ".jpg"]
    pictures = [Image.open(path) for path in paths]
    assert [number_in(picture) for picture in pictures] == [87, 12]
    assert pictures[0].size == (192, 128)


def test_thumbnails_are_not_all_in_memory_at_once(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Image.Image]] = []
    most = 0
    scaled = stills_module._image

    def counted(*arguments: Any) -> Image.Image:
        nonlocal most
        image = scaled(*arguments)
        made.append(weakref.ref(image))
        most = max(most, sum(one() is not None for one in made))
        return image

    monkeypatch.setattr(stills_module, "_image", counted)
    moments = [(at / 10, at / 10 + 0.1, 0.5) for at in range(50)]
    asked = prediction(*moments, duration_s=6, fps=Fraction(10))
    assert len(write_thumbnails(video, [asked], tmp_path / "made", size=32)) == 50
    assert len(list((tmp_path / "made").iterdir())) == 50
    assert most <= 3


def colored(picture: Image.Image, color: str, tolerance: int = 12) -> NDArray[np.bool_]:
    wanted = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)])
    pixels = np.asarray(picture.convert("RGB"), np.int64)
    return np.asarray(np.abs(pixels - wanted).max(axis=2) <= tolerance)


def test_a_timeline_draws_the_best_moment_where_it_is(tmp_path: Path) -> None:
    answer = prediction((15.0, 60.0, 0.9), (70.0, 71.0, 0.3), duration_s=100)
    path = tmp_path / "timeline.png"
    write_plot(None, [answer], path)
    picture = Image.open(path)
    assert picture.size[0] == 1600
    orange = colored(picture, ORANGE)
    rows = orange[:, 88:1564].sum(axis=1)
    bar = np.flatnonzero(orange[int(rows.argmax())])
    axis = (88, 1564)  # left and right end of the axis
    scale = (axis[1] - axis[0]) / 100
    assert bar.min() == pytest.approx(axis[0] + 15 * scale, abs=4)
    assert bar.max() == pytest.approx(axis[0] + 60 * scale, abs=4)
    # The curve is highest in the middle of that moment.
    blue = colored(picture, BLUE, 40)[66:]
    top = np.argwhere(blue)[0]
    assert axis[0] + 30 * scale < top[1] < axis[0] + 45 * scale


def test_a_timelines_film_strip_runs_along_the_axis(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    write_plot(video, [prediction((1.0, 2.0, 0.5), duration_s=6, fps=Fraction(1))], path)
    picture = Image.open(path)
    # 10 pictures of 144 by 96, each in the middle of its tenth of the axis.
    cell = (1564 - 88) / 10
    for place in range(10):
        left = round(88 + (place + 0.5) * cell - 72)
        still = picture.crop((left, 66, left + 144, 66 + 96))
        assert abs(number_in(still) - (place + 0.5) * 15) <= 5  # a keyframe near it will do


CASES: dict[str, Callable[[], list[object]]] = {
    "no moment": lambda: [prediction(duration_s=6, fps=Fraction(1))],
    "fifty": lambda: [
        prediction(
            *((at / 10, at / 10 + 0.7, 1 - at / 50) for at in range(50)),
            duration_s=6,
            fps=Fraction(1),
        )
    ],
    "long queries": lambda: [
        prediction((1, 2, 0.5), query="word " * 200, duration_s=6, fps=Fraction(1)),
        prediction((1, 2, 0.5), query="x" * 900, duration_s=6, fps=Fraction(1)),
        prediction((1, 2, 0.5), query=" \n\t", duration_s=6, fps=Fraction(1)),
    ],
    "many queries": lambda: [
        prediction((1, 2, 0.5), query=str(at), duration_s=6, fps=Fraction(1)) for at in range(40)
    ],
    "flat": lambda: [
        prediction((0, 6, 0.0), duration_s=6, fps=Fraction(1), query="nothing stands out")
    ],
    "one clip": lambda: [prediction((0, 0.4, 1.0), duration_s=0.4, fps=Fraction(1, 2))],
    "other scripts": lambda: [prediction((1, 2, 0.5), query="собака 狗 كلب 🐕", duration_s=6)],
}


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_asked_can_be_drawn(name: str, video: Path, tmp_path: Path) -> None:
    asked: list[object] = CASES[name]()
    write_plot(video, asked, tmp_path / "plot.png")  # type: ignore[arg-type]
    write_contact_sheet(video, asked, tmp_path / "sheet.jpg")  # type: ignore[arg-type]
    for path in (tmp_path / "plot.png", tmp_path / "sheet.jpg"):
        with Image.open(path) as picture:
            picture.load()
            assert picture.size[0] <= 1600
            margin = np.asarray(picture.convert("L"))[:, -8:]
            assert margin.min() > 240  # nothing runs out of the picture


def test_a_contact_sheet_shows_moments_in_order(video: Path, tmp_path: Path) -> None:
    answer = prediction((4.0, 5.0, 0.9), (1.0, 2.0, 0.5), duration_s=6, fps=Fraction(1))
    write_contact_sheet(video, [answer], tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size[0] == 1120
    pixels = np.asarray(sheet.convert("L"), np.int64)
    top = int(np.flatnonzero((pixels < 200).mean(axis=1) > 0.5)[1])  # the first is the title's line
    for left, number in ((40, 112), (572, 37)):
        cell = sheet.crop((left, top, left + 508, top + 339))
        # The badge hides the corner, where no digit of the number is.
        assert number_in(cell) & 0b1111111110 == number & 0b1111111110


def test_a_sheet_of_many_queries_is_no_taller_than_programs_open(
    video: Path, tmp_path: Path
) -> None:
    asked = [prediction((1, 2, 0.5), query=f"number {at}", duration_s=6) for at in range(40)]
    write_contact_sheet(video, asked, tmp_path / "sheet.webp")  # WebP ends at 16,383 pixels
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert 14_000 < sheet.size[1] <= 16_040
        bottom = np.asarray(sheet.convert("L"))[-50:, :500]
    assert (bottom < 200).any()  # it says how many are not shown


def test_a_timeline_of_many_moments_is_no_taller_than_programs_open(tmp_path: Path) -> None:
    many = prediction(*[(1.0, 2.0, 0.5)] * 200, duration_s=6, fps=Fraction(1), query="word " * 99)
    heights = []
    for rows in (1, 2):
        write_plot(None, [many] * rows, tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as plot:
            heights.append(plot.size[1])
            bottom = np.asarray(plot.convert("L"))[-40:, :500]
        assert (bottom < 200).any()  # it says how many are not shown
    a_row = heights[1] - heights[0]
    assert heights[0] + 23 * a_row + 100 < 16_383  # where WebP ends; 24 queries are drawn


def test_a_frame_that_cannot_be_written_leaves_nothing(video: Path, tmp_path: Path) -> None:
    answer = prediction((1, 2, 0.5), duration_s=6)
    with pytest.raises(OutputError):
        write_plot(None, [answer], tmp_path / "no" / "plot.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError):
        write_contact_sheet(video, [answer], tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize("write", [write_plot, write_contact_sheet, write_report])
def test_without_pillow_one_line_says_what_to_install(
    write: Callable[..., None], video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'r2rt\[media\]'"):
        write(video, [prediction((1, 2, 0.5))], tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


def test_ticks_are_round_and_not_too_many() -> None:
    assert nice_ticks(0, 24, 12) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
    assert nice_ticks(0, 10800, 12)[:3] == [0, 900, 1800]
    assert nice_ticks(95, 155, 5) == [105, 120, 135, 150]
    for length_s in (0.3, 5, 61, 3599, 40_000, 400_000):
        assert 1 <= len(nice_ticks(0, length_s, 12)) <= 13
    assert axis_clock(75, 5) == "1:15"
    assert axis_clock(75.5, 0.5) == "1:15.5"
    assert axis_clock(3675, 900) == "1:01:15"


def test_text_that_does_not_fit_ends_in_an_ellipsis() -> None:
    letters = font(20)
    assert shortened("short", letters, 200) == "short"
    cut = shortened("a sentence that is much too long", letters, 100)
    assert cut.endswith("…")
    assert letters.getlength(cut) <= 100
    lines = wrapped("a sentence that is much too long " * 4, letters, 200, 2)
    assert len(lines) == 2
    assert all(letters.getlength(line) <= 200 for line in lines)
