"""A timeline as an image: film strip, saliency and moments of every query over one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2rt.files import StrPath, check_destinations
from r2rt.grounding.prediction import Moment, Prediction
from r2rt.media.drawing import (
    BLUE,
    FAINT,
    INK,
    LINE,
    ORANGE,
    PAPER,
    QUIET,
    axis_clock,
    font,
    mix,
    nice_ticks,
    require_pillow,
    save_image,
    shortened,
    wrapped,
)
from r2rt.media.indexed_video import IndexedVideo, Video, indexed, path_of
from r2rt.media.lanes import lanes
from r2rt.media.stills import fitted_size, stills
from r2rt.printable import one_line
from r2rt.progress import Update
from r2rt.video.remote import file_name

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["write_plot"]


# Lengths are in pixels of the finished image; all is drawn twice as large and then halved, which
# smooths lines and bars, whose ends need not lie on pixels.
_SCALE = 2
_WIDTH, _MARGIN, _GUTTER = 1600, 36, 52
_STRIP, _CURVE, _HEADING, _ROW_GAP = 96, 110, 28, 30
_TOP, _AXIS = 66, 40
_MOST_ROWS = 24
# Of bars for each query: all rows of so many are 14,000 pixels high, and WebP ends at 16,383.
_MOST_LANES = 40
_MOST_STILLS = 24


def write_plot(
    video: Video | None,
    predictions: Sequence[Prediction],
    path: StrPath,
    *,
    update: Update | None = None,
) -> None:
    """Draw saliency and moments of queries over time, below a film strip of the video.

    Args:
        video: the file that was grounded, or its path; None leaves the film strip out.
        predictions: at least one; the first 24 are drawn, on one scale of saliency, and of each
            the moments that fit into 40 lanes of bars.
        path: a .png, .jpg or .webp.
        update: called with frames decoded and their total.

    Raises:
        MissingExtraError: Pillow is not installed.
        OutputError: disk full, no permission.
        R2rtError: the video cannot be read.
    """
    require_pillow()
    path = Path(path)
    check_destinations([path], [] if video is None else [path_of(video)])
    plot = _Plot(predictions)
    strip = []
    if video is not None:
        with indexed(video) as source:
            strip = plot.strip(source, update)
    save_image(plot.draw(strip), path)


@dataclass(frozen=True)
class _Row:
    """One query: its heading's lines, and rank, moment and lane of each bar."""

    prediction: Prediction
    heading: list[str]
    bars: list[tuple[int, Moment, int]]

    @classmethod
    def of(cls, prediction: Prediction, room: int, least_s: float) -> _Row:
        heading = one_line(prediction.query) or "(no query)"
        moments = prediction.moments
        placed = lanes([(moment.start_s, moment.end_s) for moment in moments], least_s)
        bars = [
            (rank, moment, lane)
            for rank, (moment, lane) in enumerate(zip(moments, placed, strict=True), start=1)
            if lane < _MOST_LANES
        ]
        return cls(prediction, wrapped(heading, font(21, prediction.query), room, 2), bars)

    @property
    def left_out(self) -> int:
        return len(self.prediction.moments) - len(self.bars)

    @property
    def lanes(self) -> int:
        return max((lane for _, _, lane in self.bars), default=0) + 1

    @property
    def lane_height(self) -> int:
        return 26 if self.lanes <= 4 else 18 if self.lanes <= 8 else 9

    @property
    def height(self) -> int:
        return len(self.heading) * _HEADING + 6 + _CURVE + 8 + self.lanes * self.lane_height


class _Plot:
    def __init__(self, predictions: Sequence[Prediction]) -> None:
        shown = list(predictions[:_MOST_ROWS])
        self._name = one_line(file_name(shown[0].video))
        self._start_s = min(float(item.clip_starts_s[0]) for item in shown)
        self._end_s = max(float(item.clip_starts_s[0]) + item.duration_s for item in shown)
        self._x0, self._x1 = _MARGIN + _GUTTER, _WIDTH - _MARGIN
        room = self._x1 - self._x0
        # The least length of a bar, and the least gap between two, so that each can be seen.
        least_s = 4 * (self._end_s - self._start_s) / room
        self._rows = [_Row.of(item, room, least_s) for item in shown]
        left_out = {
            "queries": len(predictions) - len(shown),
            "moments": sum(row.left_out for row in self._rows),
        }
        self._left_out = " and ".join(f"{n} further {what}" for what, n in left_out.items() if n)
        values = np.concatenate([item.saliency for item in shown])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        self._low, self._high = (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)
        most = 12 if self._end_s >= 3600 else 16
        self._ticks = nice_ticks(self._start_s, self._end_s, most)

    def strip(self, video: IndexedVideo, update: Update | None) -> list[tuple[float, Image.Image]]:
        """Return frames of the video as images, and the middle of each on the x axis."""
        room = self._x1 - self._x0
        width, height = fitted_size(video.geometry.display_size, (room, _STRIP))
        count = min(max(1, round(room / (width + 4))), _MOST_STILLS)
        cell = room / count
        length_s = self._end_s - self._start_s
        times_s = [self._start_s + (place + 0.5) * length_s / count for place in range(count)]
        near_s = min(0.3 * length_s / count, 10.0)
        size = (width * _SCALE, height * _SCALE)
        return [
            (self._x0 + (place + 0.5) * cell, image)
            for place, image in stills(video, times_s, size, near_s=near_s, update=update)
        ]

    def draw(self, strip: Sequence[tuple[float, Image.Image]]) -> Image.Image:
        from PIL import Image

        strip_height = _STRIP + 10 if strip else 0
        rows = sum(row.height + _ROW_GAP for row in self._rows)
        height = _TOP + strip_height + _AXIS + rows + (_AXIS if len(self._rows) > 2 else 0) + 6
        height += 28 if self._left_out else 0
        sheet = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), PAPER)
        self._pen = _Pen(sheet)
        self._header()
        y = float(_TOP)
        for middle, image in strip:
            left = round(middle * _SCALE - image.width / 2)
            sheet.paste(image, (left, _TOP * _SCALE + (_STRIP * _SCALE - image.height) // 2))
        y += strip_height
        self._axis(y)
        y += _AXIS
        for row in self._rows:
            y += self._row(row, y + 4) + _ROW_GAP
        if len(self._rows) > 2:
            self._axis(y - 12)
            y += _AXIS
        if self._left_out:
            self._pen.text((self._x0, y - 8), f"{self._left_out} are not shown.", QUIET, 18)
        return sheet.reduce(_SCALE)

    def _x(self, time_s: float) -> float:
        share = (time_s - self._start_s) / (self._end_s - self._start_s)
        return self._x0 + min(max(share, 0.0), 1.0) * (self._x1 - self._x0)

    def _header(self) -> None:
        """Draw the video's name, and what lines and bars mean."""
        pen, y = self._pen, 34
        x = float(self._x1)
        for label in ("moments, 1 is the best", "saliency"):
            x -= pen.length(label, 18)
            pen.text((x, y), label, QUIET, 18, "lm")
            x -= 36
            if label == "saliency":
                pen.polygon([(x, y + 7), (x, y), (x + 28, y - 6), (x + 28, y + 7)], BLUE, 0.22)
                pen.line([(x, y), (x + 28, y - 6)], BLUE, 2.5)
            else:
                pen.bar((x, y - 6, x + 28, y + 6), ORANGE)
            x -= 26
        letters = font(22 * _SCALE, self._name)
        name = shortened(self._name, letters, (x - self._x0) * _SCALE)
        pen.draw.text((self._x0 * _SCALE, y * _SCALE), name, INK, letters, anchor="lm")

    def _axis(self, y: float) -> None:
        step = self._ticks[1] - self._ticks[0] if len(self._ticks) > 1 else 1.0
        for tick in self._ticks:
            x, label = self._x(tick), axis_clock(tick, step)
            half = self._pen.length(label, 17) / 2
            at = min(max(x, self._x0 + half), self._x1 - half)
            self._pen.line([(x, y), (x, y + 5)], QUIET, 1)
            self._pen.text((at, y + 8), label, QUIET, 17, "ma")

    def _row(self, row: _Row, y: float) -> float:
        pen = self._pen
        for line in row.heading:
            pen.text((self._x0, y), line, INK, 21)
            y += _HEADING
        y += 6
        self._curve(row.prediction, y)
        y += _CURVE + 8
        for rank, moment, lane in row.bars:
            self._moment(row, moment, lane, rank, y)
        if not row.bars:
            pen.text((self._x0, y), "no moment was found", QUIET, 18)
        return row.height

    def _curve(self, prediction: Prediction, y: float) -> None:
        pen, bottom = self._pen, y + _CURVE
        pen.bar((self._x0, y, self._x1, bottom), FAINT)
        for tick in self._ticks:
            pen.line([(self._x(tick), y), (self._x(tick), bottom)], LINE, 1)
        for moment in prediction.moments[:1]:
            left, right = self._x(moment.start_s), self._x(moment.end_s)
            pen.bar((left, y, max(right, left + 2), bottom), mix(ORANGE, FAINT, 0.3))
        points = [
            (x, bottom - 3 - (value - self._low) / (self._high - self._low) * (_CURVE - 8))
            for x, value in self._points(prediction)
        ]
        pen.polygon([(points[0][0], bottom), *points, (points[-1][0], bottom)], BLUE, 0.22)
        pen.line(points, BLUE, 2.2)
        for value, at in ((self._high, y + 9), (self._low, bottom - 9)):
            pen.text((self._x0 - 8, at), f"{value:.2f}", QUIET, 15, "rm")

    def _points(self, prediction: Prediction) -> list[tuple[float, float]]:
        """Return the curve as x and value, a clip's value at its middle; the best of each pixel."""
        values = np.nan_to_num(prediction.saliency.astype(np.float64), nan=self._low)
        middles = prediction.clip_starts_s + 0.5 / float(prediction.fps)
        points = [(self._x(float(m)), float(v)) for m, v in zip(middles, values, strict=True)]
        best: dict[int, tuple[float, float]] = {}
        for x, value in points:
            place = int(x)
            if place not in best or best[place][1] < value:
                best[place] = (x, value)
        kept = list(best.values())
        # The curve fills its part of the axis, as the first and the last clip do.
        end_s = float(prediction.clip_starts_s[0]) + prediction.duration_s
        first = (self._x(float(prediction.clip_starts_s[0])), kept[0][1])
        return [first, *kept, (self._x(end_s), kept[-1][1])]

    def _moment(self, row: _Row, moment: Moment, lane: int, rank: int, y: float) -> None:
        pen, height = self._pen, row.lane_height
        top = y + lane * height
        left = self._x(moment.start_s)
        right = max(self._x(moment.end_s), left + 4)
        best = max(item.score for item in row.prediction.moments)
        share = moment.score / best if best > 0 else 1.0
        pen.bar((left, top, right, top + height - 3), mix(ORANGE, PAPER, 0.35 + 0.65 * share))
        pen.bar((left, top, left + 2, top + height - 3), mix(ORANGE, INK, 0.6))
        if height < 18:
            return
        size = 17 if height > 20 else 13
        for label in (f"{rank} · {moment.score:.2f}", str(rank)):
            if pen.length(label, size) + 12 <= right - left:
                pen.text((left + 7, top + (height - 3) / 2), label, INK, size, "lm")
                return
        room = pen.length(str(rank), size) + 10
        others = [
            (self._x(other.start_s), max(self._x(other.end_s), self._x(other.start_s) + 4))
            for _, other, place in row.bars
            if place == lane and other is not moment
        ]
        middle = top + (height - 3) / 2
        if right + room < min((x for x, _ in others if x >= right), default=self._x1):
            pen.text((right + 5, middle), str(rank), INK, size, "lm")
        elif left - room > max((x for _, x in others if x <= left), default=self._x0):
            pen.text((left - 5, middle), str(rank), INK, size, "rm")


class _Pen:
    """Draws in pixels of the finished image on one that is larger."""

    def __init__(self, sheet: Image.Image) -> None:
        from PIL import ImageDraw

        self._sheet = sheet
        self.draw = ImageDraw.Draw(sheet)

    def text(
        self, at: tuple[float, float], text: str, color: str, size: int, anchor: str = "la"
    ) -> None:
        place = at[0] * _SCALE, at[1] * _SCALE
        self.draw.text(place, text, color, font(size * _SCALE, text), anchor=anchor)

    def length(self, text: str, size: int) -> float:
        return font(size * _SCALE, text).getlength(text) / _SCALE

    def bar(self, box: tuple[float, float, float, float], color: str) -> None:
        left, top, right, bottom = (round(value * _SCALE) for value in box)
        self.draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), color)

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self.draw.line(scaled, color, max(1, round(width * _SCALE)), joint="curve")

    def polygon(
        self, points: Sequence[tuple[float, float]], color: str, opacity: float = 1.0
    ) -> None:
        from PIL import Image, ImageDraw

        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        if opacity >= 1:
            self.draw.polygon(scaled, color)
            return
        left, right = min(x for x, _ in scaled), max(x for x, _ in scaled)
        top, bottom = min(y for _, y in scaled), max(y for _, y in scaled)
        box = int(left), int(top), int(right) + 1, int(bottom) + 1
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
        ImageDraw.Draw(mask).polygon(
            [(x - box[0], y - box[1]) for x, y in scaled], round(255 * opacity)
        )
        self._sheet.paste(color, box, mask)
