"""A contact sheet: the moments of every query as a grid of frames with times and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.files import StrPath, check_destinations
from r2rt.grounding.prediction import Moment, Prediction
from r2rt.media.drawing import (
    BLUE,
    FAINT,
    INK,
    LINE,
    PAPER,
    QUIET,
    font,
    require_pillow,
    save_image,
    shortened,
    wrapped,
)
from r2rt.media.indexed_video import IndexedVideo, Video, indexed, path_of
from r2rt.media.peaks import peak_s
from r2rt.media.stills import fitted_size, stills
from r2rt.printable import one_line
from r2rt.progress import Update
from r2rt.timecode import format_clock

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

__all__ = ["write_contact_sheet"]


_MOST_IMAGES = 200
_TALLEST = 16_000  # pixels; WebP ends at 16,383, and few programs open more
_FEWER = 0.9  # of the moments are tried next where a sheet would be taller
_MARGIN, _GAP = 40, 24
_CAPTION, _HEADING = 58, 34
# Width of a sheet by its columns; one or two images are shown larger, not in a corner.
_WIDTHS = {1: 720, 2: 1120}
_WIDTH = 1600


def write_contact_sheet(
    video: Video,
    predictions: Sequence[Prediction],
    path: StrPath,
    *,
    update: Update | None = None,
) -> None:
    """Draw the moments of a video as a grid under a heading for each query, best first.

    Args:
        video: the file that was grounded, or its path.
        predictions: the answers; at most 200 moments, and a sheet of 16,000 pixels, are shown.
        path: a .png, .jpg or .webp.
        update: called with frames decoded and their total.

    Raises:
        MissingExtraError: Pillow is not installed.
        OutputError: disk full, no permission.
        R2rtError: the video cannot be read.
    """
    require_pillow()
    path = Path(path)
    check_destinations([path], [path_of(video)])
    with indexed(video) as source:
        most = _MOST_IMAGES
        while True:
            shown, left_out = _shown(predictions, most)
            layout = _Layout.of(source, shown)
            if layout.height <= _TALLEST or most == 1:
                break
            most = int(_FEWER * most)
        times_s = [peak_s(answer, moment) for answer, moments in shown for moment in moments]
        found = sorted(stills(source, times_s, layout.image, update=update))
    save_image(_draw(source, shown, left_out, layout, [image for _, image in found]), path)


_Shown = Sequence[tuple[Prediction, tuple[Moment, ...]]]


def _shown(predictions: Sequence[Prediction], room: int) -> tuple[_Shown, int]:
    """Return at most `room` moments to show, as many of each query as fit, and how many do not."""
    share = max(1, room // max(len(predictions), 1))
    total = sum(len(prediction.moments) for prediction in predictions)
    each = total if total <= room else share
    shown = [(prediction, prediction.moments[:each]) for prediction in predictions[:room]]
    return shown, total - sum(len(moments) for _, moments in shown)


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels: the sheet's width and height, its columns, an image's box; the headings."""

    width: int
    columns: int
    image: tuple[int, int]
    headings: list[list[str]]
    height: int = 0

    @classmethod
    def of(cls, video: IndexedVideo, shown: _Shown) -> _Layout:
        counts = [len(moments) for _, moments in shown]
        display = video.geometry.display_size
        shape = display[0] / display[1]
        most = 3 if shape > 2.2 else 4 if shape > 1.2 else 5 if shape > 0.8 else 6
        longest = max([*counts, 1])
        columns = min(longest, most)
        # The fewest columns that need no further row: 5 images are 3 and 2, not 4 and 1.
        columns = -(-longest // -(-longest // columns))
        if shape < 0.8:  # upright: as wide as its images, which are high enough
            cell = {1: 480, 2: 400, 3: 340}.get(columns, 0)
            width = 2 * _MARGIN + columns * cell + (columns - 1) * _GAP if cell else _WIDTH
        else:
            width = _WIDTHS.get(columns, _WIDTH)
        cell = (width - 2 * _MARGIN - (columns - 1) * _GAP) // columns
        headings = [_heading(prediction, width - 2 * _MARGIN) for prediction, _ in shown]
        layout = cls(width, columns, fitted_size(display, (cell, 2 * cell)), headings)
        height = sum(map(layout.section_height, headings, counts))
        return replace(layout, height=_MARGIN + 62 + height)

    def cell(self, place: int) -> tuple[int, int]:
        row, column = divmod(place, self.columns)
        width, height = self.image
        return _MARGIN + column * (width + _GAP), row * (height + _CAPTION + _GAP)

    def rows_height(self, count: int) -> int:
        return -(-count // self.columns) * (self.image[1] + _CAPTION + _GAP) or 44

    def section_height(self, heading: list[str], count: int) -> int:
        return len(heading) * _HEADING + 14 + self.rows_height(count) + 12


def _draw(
    video: IndexedVideo,
    shown: _Shown,
    left_out: int,
    layout: _Layout,
    images: Sequence[Image.Image],
) -> Image.Image:
    from PIL import Image, ImageDraw

    room = layout.width - 2 * _MARGIN
    sheet = Image.new("RGB", (layout.width, layout.height + (40 if left_out else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _title(draw, video, room)
    y = _MARGIN + 62
    remaining = iter(images)
    for (prediction, moments), lines in zip(shown, layout.headings, strict=True):
        for line in lines:
            draw.text((_MARGIN, y), line, INK, font(25, prediction.query))
            y += _HEADING
        y += 14
        for place, moment in enumerate(moments):
            x, below = layout.cell(place)
            _cell(sheet, draw, (x, y + below), next(remaining), place + 1, moment)
        if not moments:
            draw.text((_MARGIN, y - 6), "No moment was found.", QUIET, font(20))
        y += layout.rows_height(len(moments)) + 12
    if left_out:
        draw.text((_MARGIN, y), f"{left_out} further moments are not shown.", QUIET, font(20))
    return sheet


def _heading(prediction: Prediction, room: int) -> list[str]:
    text = one_line(prediction.query) or "(no query)"
    return wrapped(text, font(25, text), room, 3)


def _title(draw: ImageDraw.ImageDraw, video: IndexedVideo, room: int) -> None:
    name, lasts = one_line(video.path.name), format_clock(video.duration_s)
    letters = font(19, name)
    width = letters.getlength(lasts)
    draw.text((_MARGIN, _MARGIN - 10), shortened(name, letters, room - width - 24), QUIET, letters)
    draw.text((_MARGIN + room - width, _MARGIN - 10), lasts, QUIET, font(19))
    draw.line((_MARGIN, _MARGIN + 26, _MARGIN + room, _MARGIN + 26), LINE, 2)


def _cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    image: Image.Image,
    rank: int,
    moment: Moment,
) -> None:
    x, y = corner
    width, height = image.size
    sheet.paste(image, (x, y))
    # A border, so that a light image does not run into the paper.
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=LINE)
    badge = font(20)
    across = max(34, round(badge.getlength(str(rank))) + 20)
    draw.rectangle((x, y, x + across, y + 32), INK)
    draw.text((x + across / 2, y + 16), str(rank), PAPER, badge, anchor="mm")
    times = f"{format_clock(moment.start_s)} to {format_clock(moment.end_s)}"
    letters = font(21)
    score = f"{moment.score:.2f}"
    if letters.getlength(times + "  " + score) > width:
        letters = font(15)
    below = y + height + 10
    draw.text((x, below), times, INK, letters)
    draw.text((x + width, below), score, INK, letters, anchor="ra")
    bar = below + 34
    draw.rectangle((x, bar, x + width - 1, bar + 5), FAINT)
    filled = round((width - 1) * min(max(moment.score, 0.0), 1.0))
    draw.rectangle((x, bar, x + filled, bar + 5), BLUE)
