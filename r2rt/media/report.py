"""A report: one page that needs nothing but itself, and plays the video where it lies beside it."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from r2rt.files import StrPath, check_destinations, replacing
from r2rt.grounding.prediction import Moment, Prediction
from r2rt.media.drawing import axis_clock, jpeg_bytes, nice_ticks, require_jinja, require_pillow
from r2rt.media.indexed_video import IndexedVideo, Video, indexed, path_of
from r2rt.media.lanes import lanes
from r2rt.media.page import render_page
from r2rt.media.peaks import peak_s
from r2rt.media.stills import stills
from r2rt.printable import one_line
from r2rt.progress import Update
from r2rt.timecode import format_clock
from r2rt.video.remote import file_name, is_remote, shown_address

__all__ = ["address_of", "write_report"]


_MOST_IMAGES = 300  # each is some 10 KB of the page
_IMAGE = (360, 360)
_MOST_POINTS = 1500


def write_report(
    video: Video | None,
    predictions: Sequence[Prediction],
    path: StrPath,
    *,
    update: Update | None = None,
) -> None:
    """Write an HTML page of the moments of a video, with style, script and images inside.

    It refers to the video as `address_of` says and loads nothing else. Clicking a moment plays it;
    without the video the page shows the rest.

    Args:
        video: the file that was grounded, or its path; None leaves player and images out.
        predictions: at least one.
        path: the page to write.
        update: called with frames decoded and their total.

    Raises:
        MissingExtraError: Pillow or Jinja2 is not installed.
        OutputError: disk full, no permission, no such folder.
        R2rtError: the video cannot be read.
    """
    require_pillow()
    require_jinja()
    path = Path(path)
    check_destinations([path], [] if video is None else [path_of(video)])
    images: dict[tuple[int, int], tuple[str, tuple[int, int]]] = {}
    address = None
    if video is not None:
        with indexed(video) as source:
            images = _images(source, predictions, update)
            address = address_of(source.path, path)
    page = _Page(predictions, images, address).text()
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _images(
    video: IndexedVideo, predictions: Sequence[Prediction], update: Update | None
) -> dict[tuple[int, int], tuple[str, tuple[int, int]]]:
    """Return an image as a data URL and its size, by number of query and moment."""
    places = [
        (number, rank)
        for number, prediction in enumerate(predictions)
        for rank in range(len(prediction.moments))
    ]
    # The best of every query come first where there are too many.
    places = sorted(sorted(places, key=lambda place: place[1])[:_MOST_IMAGES])
    times_s = [
        peak_s(predictions[number], predictions[number].moments[rank]) for number, rank in places
    ]
    images = {
        places[number]: (
            "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(image, 75)).decode(),
            image.size,
        )
        for number, image in stills(video, times_s, _IMAGE, update=update)
    }
    return {place: images[place] for place in places}


def address_of(video: StrPath, page: Path) -> str | None:
    """Return where a page finds a video: a file by its path relative to the page, quoted.

    One at an http(s) address is found there, unless the address holds a password or a query, which
    may be a key; that, and other kinds of addresses, are not written down: None.
    """
    address = os.fspath(video)
    if is_remote(address):
        is_plain = address.startswith(("http://", "https://")) and address == shown_address(address)
        return address.partition("#")[0] if is_plain else None
    file = Path(video).resolve()
    try:
        relative = os.path.relpath(file, page.resolve().parent)
    except ValueError:  # on another drive of Windows
        return file.as_uri()
    # A leading `./` keeps a name with a colon from being taken for another scheme.
    return "./" + "/".join(quote(os.fsencode(part), safe="") for part in Path(relative).parts)


class _Page:
    """What the template `report.html` is filled with: plain numbers and texts."""

    def __init__(
        self,
        predictions: Sequence[Prediction],
        images: dict[tuple[int, int], tuple[str, tuple[int, int]]],
        address: str | None,
    ) -> None:
        self._predictions = predictions
        self._images = images
        self._address = address
        self._start_s = min(float(item.clip_starts_s[0]) for item in predictions)
        self._end_s = max(float(item.clip_starts_s[0]) + item.duration_s for item in predictions)
        values = np.concatenate([item.saliency for item in predictions])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        self._low, self._high = (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)

    def text(self) -> str:
        return render_page(
            "r2rt.media",
            "report",
            title=one_line(file_name(self._predictions[0].video)),
            script=resources.files("r2rt.media").joinpath("report.js").read_text(encoding="utf-8"),
            facts=self._facts(),
            address=self._address,
            from_elsewhere=(self._address or "").startswith("http"),
            # Until it plays it shows the best moment; the first frame of many videos is black.
            poster=next((image for image, _ in self._images.values()), None),
            start_s=self._start_s,
            end_s=self._end_s,
            ticks=self._ticks(),
            sections=[self._section(*item) for item in enumerate(self._predictions)],
        )

    def _facts(self) -> str:
        moments = sum(len(prediction.moments) for prediction in self._predictions)
        part = f"{format_clock(self._start_s)} to {format_clock(self._end_s)}"
        facts = [
            format_clock(self._end_s) if self._start_s < 0.05 else part,
            _count(len(self._predictions), "query", "queries"),
            _count(moments, "moment", "moments"),
            f"model {one_line(self._predictions[0].model)}",
        ]
        return " · ".join(facts)

    def _section(self, number: int, prediction: Prediction) -> dict[str, Any]:
        shapes = (
            size[0] / size[1] for place, (_, size) in self._images.items() if place[0] == number
        )
        points = self._points(prediction)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        bars, bars_rem = self._bars(prediction)
        count = _count(len(prediction.moments), "moment", "moments")
        part = f"{format_clock(self._start_s)} to {format_clock(self._end_s)}"
        return {
            "query": one_line(prediction.query) or "(no query)",
            "summary": f"Saliency from {part}, {count}.",
            "line": line,
            "area": f"{points[0][0]:.1f},100 {line} {points[-1][0]:.1f},100",
            "bands": [self._band(moment) for moment in prediction.moments[:1]],
            "bars": bars,
            "bars_rem": bars_rem,
            "cards": [self._card(number, *item) for item in enumerate(prediction.moments)],
            # Upright images are shown narrower, so that they are not as high as the window.
            "card_width": "9rem" if next(shapes, 1.5) < 0.8 else "13rem",
        }

    def _band(self, moment: Moment) -> dict[str, float]:
        left, right = self._share(moment.start_s), self._share(moment.end_s)
        return {"x": 1000 * left, "width": max(1000 * (right - left), 1)}

    def _bars(self, prediction: Prediction) -> tuple[list[dict[str, Any]], float]:
        """Return the moments as bars in lanes, and the height of the lanes together, in rem."""
        if not prediction.moments:
            return [], 0.0
        spans = [(moment.start_s, moment.end_s) for moment in prediction.moments]
        placed = lanes(spans, 0.006 * (self._end_s - self._start_s))
        count = max(placed) + 1
        height = 1.35 if count <= 6 else 0.6
        best = max(moment.score for moment in prediction.moments)
        bars: list[dict[str, Any]] = []
        for moment, lane in zip(prediction.moments, placed, strict=True):
            left, right = self._share(moment.start_s), self._share(moment.end_s)
            share = 60 + 40 * (moment.score / best if best > 0 else 1)
            style = (
                f"left:{100 * left:.3f}%;width:{100 * (right - left):.3f}%;"
                f"top:{lane * height:.2f}rem;height:{height - 0.15:.2f}rem;--share:{share:.0f}%"
            )
            title = f"{len(bars) + 1}: {_times(moment)}, score {moment.score:.2f}"
            narrow = right - left < 0.03 or count > 6
            bars.append({"moment": moment, "title": title, "style": style, "narrow": narrow})
        return bars, count * height

    def _ticks(self) -> list[dict[str, Any]]:
        ticks = nice_ticks(self._start_s, self._end_s, 8)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
        found = []
        for tick in ticks:
            share = self._share(tick)
            edge = "first" if share < 0.03 else "last" if share > 0.97 else ""
            label = axis_clock(tick, step)
            found.append({"percent": 100 * share, "edge": edge, "label": label})
        return found

    def _card(self, number: int, rank: int, moment: Moment) -> dict[str, Any]:
        image, size = self._images.get((number, rank), (None, (0, 0)))
        percent = 100 * min(max(moment.score, 0.0), 1.0)
        times = _times(moment)
        return {"moment": moment, "image": image, "size": size, "times": times, "percent": percent}

    def _share(self, time_s: float) -> float:
        share = (time_s - self._start_s) / (self._end_s - self._start_s)
        return min(max(share, 0.0), 1.0)

    def _points(self, prediction: Prediction) -> list[tuple[float, float]]:
        """Return the curve in 0..1000 by 0..100, y downwards; of many clips the best remain."""
        values = np.nan_to_num(prediction.saliency.astype(np.float64), nan=self._low)
        starts = prediction.clip_starts_s
        middles = starts + 0.5 / float(prediction.fps)
        group = -(-len(values) // _MOST_POINTS)
        kept = [at + int(np.argmax(values[at : at + group])) for at in range(0, len(values), group)]
        end_s = float(starts[0]) + prediction.duration_s
        times = [float(starts[0]), *(float(middles[at]) for at in kept), end_s]
        levels = [float(values[kept[0]]), *(float(values[at]) for at in kept)]
        levels.append(float(values[kept[-1]]))
        scale = 92 / (self._high - self._low)
        return [
            (1000 * self._share(time_s), 97 - (level - self._low) * scale)
            for time_s, level in zip(times, levels, strict=True)
        ]


def _times(moment: Moment) -> str:
    return f"{format_clock(moment.start_s)} to {format_clock(moment.end_s)}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
