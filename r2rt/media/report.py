"""A report: one page that needs nothing but itself, and plays the video where it lies beside it."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import numpy as np

from r2rt.files import StrPath, check_destinations, replacing
from r2rt.grounding.prediction import Moment, Prediction
from r2rt.media.drawing import axis_clock, jpeg_bytes, nice_ticks, require_pillow
from r2rt.media.indexed_video import IndexedVideo, Video, indexed, path_of
from r2rt.media.lanes import lanes
from r2rt.media.peaks import peak_s
from r2rt.media.stills import stills
from r2rt.outputs.text import one_line
from r2rt.timecode import format_clock

__all__ = ["write_report"]

Update = Callable[[int, int | None], None]

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

    It refers to the video by a path relative to the page and loads nothing else. Clicking a moment
    plays it; without the video the page shows the rest.

    Args:
        video: the file that was grounded, or its path; None leaves player and images out.
        predictions: at least one.
        path: the page to write.
        update: called with frames decoded and their total.

    Raises:
        MissingExtraError: Pillow is not installed.
        OutputError: disk full, no permission, no such folder.
        R2rtError: the video cannot be read.
    """
    require_pillow()
    path = Path(path)
    check_destinations([path], [] if video is None else [path_of(video)])
    images: dict[tuple[int, int], tuple[str, tuple[int, int]]] = {}
    address = None
    if video is not None:
        with indexed(video) as source:
            images = _images(source, predictions, update)
            address = _address(source.path, path)
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
    images = stills(video, times_s, _IMAGE, update=update)
    return {
        place: (
            "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(image, 75)).decode(),
            image.size,
        )
        for place, image in zip(places, images, strict=True)
    }


def _address(video: Path, page: Path) -> str:
    """Return the video's address relative to the page, with every sign of its name quoted."""
    relative = os.path.relpath(video.resolve(), page.resolve().parent)
    # A leading `./` keeps a name with a colon from being taken for another scheme.
    return "./" + "/".join(quote(part, safe="") for part in Path(relative).parts)


class _Page:
    def __init__(
        self,
        predictions: Sequence[Prediction],
        images: dict[tuple[int, int], tuple[str, tuple[int, int]]],
        address: str | None,
    ) -> None:
        self._predictions = predictions
        self._images = images
        self._address = address
        first = predictions[0]
        self._name = one_line(Path(first.video).name)
        self._start_s = min(float(item.clip_starts_s[0]) for item in predictions)
        self._end_s = max(float(item.clip_starts_s[0]) + item.duration_s for item in predictions)
        values = np.concatenate([item.saliency for item in predictions])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        self._low, self._high = (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)

    def text(self) -> str:
        style, script = _asset("report.css"), _asset("report.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        # Nothing is loaded but the video, and no script runs but this one, whatever a query says.
        policy = (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'; media-src 'self' file:; base-uri 'none'; "
            "form-action 'none'"
        )
        sections = "\n".join(
            self._section(number, prediction) for number, prediction in enumerate(self._predictions)
        )
        kind = "page with-video" if self._address else "page"
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{_escaped(self._name)}: moments</title>
<style>
{style}</style>
</head>
<body>
{self._header()}
<div class="{kind}">
{self._player()}<main>
{sections}
</main>
</div>
<script>{script}</script>
</body>
</html>
"""

    def _header(self) -> str:
        first = self._predictions[0]
        moments = sum(len(prediction.moments) for prediction in self._predictions)
        part = f"{format_clock(self._start_s)} to {format_clock(self._end_s)}"
        length = format_clock(self._end_s) if self._start_s < 0.05 else part
        facts = [
            length,
            _count(len(self._predictions), "query", "queries"),
            _count(moments, "moment", "moments"),
            f"model {one_line(first.model)}",
        ]
        return (
            f"<header><h1>{_escaped(self._name)}</h1>"
            f'<p class="quiet">{_escaped(" · ".join(facts))}</p>'
            '<p class="quiet key"><span class="line-key"></span>saliency '
            '<span class="bar-key"></span>moments, 1 is the best</p></header>'
        )

    def _player(self) -> str:
        if not self._address:
            return ""
        address = _escaped(self._address)
        # Until it plays it shows the best moment; the first picture of many videos is black.
        poster = next((f'poster="{picture}" ' for picture, _ in self._images.values()), "")
        return (
            '<div class="player">'
            f'<video src="{address}" {poster}controls preload="metadata" '
            f'aria-label="The video {_escaped(self._name)}"></video>'
            '<p class="quiet no-video" hidden>The video is not beside this page, or this browser '
            "cannot play it. It is looked for at "
            f"<code>{address}</code>.</p></div>\n"
        )

    def _section(self, number: int, prediction: Prediction) -> str:
        query = one_line(prediction.query) or "(no query)"
        cards = "".join(
            self._card(number, rank, moment) for rank, moment in enumerate(prediction.moments)
        )
        shape = next(
            (size[0] / size[1] for place, (_, size) in self._images.items() if place[0] == number),
            1.5,
        )
        # Upright pictures are shown narrower, so that they are not as high as the window.
        width = "9rem" if shape < 0.8 else "13rem"
        body = (
            f'<ol class="moments" style="--card-width:{width}">{cards}</ol>'
            if cards
            else '<p class="quiet">No moment was found.</p>'
        )
        return (
            f'<section aria-labelledby="q{number}"><h2 id="q{number}">{_escaped(query)}</h2>\n'
            f"{self._timeline(prediction)}\n{body}</section>"
        )

    def _timeline(self, prediction: Prediction) -> str:
        count = len(prediction.moments)
        summary = (
            f"Saliency from {format_clock(self._start_s)} to {format_clock(self._end_s)}, "
            f"{_count(count, 'moment', 'moments')}."
        )
        points = self._points(prediction)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        area = f"{points[0][0]:.1f},100 {line} {points[-1][0]:.1f},100"
        bands = "".join(
            f'<rect class="band" x="{1000 * self._share(m.start_s):.2f}" y="0" height="100" '
            f'width="{max(1000 * (self._share(m.end_s) - self._share(m.start_s)), 1):.2f}"/>'
            for m in prediction.moments[:1]
        )
        return (
            f'<div class="timeline" data-from="{self._start_s:.3f}" data-to="{self._end_s:.3f}">'
            f'<div class="plot"><svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
            f'aria-label="{_escaped(summary)}">{bands}<polygon class="area" points="{area}"/>'
            f'<polyline class="curve" points="{line}"/></svg><div class="playhead"></div></div>'
            f"{self._bars(prediction)}{self._axis()}</div>"
        )

    def _bars(self, prediction: Prediction) -> str:
        """Return the moments as bars; they say what the list says, so readers skip them."""
        if not prediction.moments:
            return ""
        length_s = self._end_s - self._start_s
        spans = [(moment.start_s, moment.end_s) for moment in prediction.moments]
        placed = lanes(spans, 0.006 * length_s)
        count = max(placed) + 1
        height = 1.35 if count <= 6 else 0.6
        best = max(moment.score for moment in prediction.moments)
        bars = []
        for rank, (moment, lane) in enumerate(
            zip(prediction.moments, placed, strict=True), start=1
        ):
            left, right = self._share(moment.start_s), self._share(moment.end_s)
            share = 60 + 40 * (moment.score / best if best > 0 else 1)
            narrow = right - left < 0.03 or count > 6
            title = f"{rank}: {_times(moment)}, score {moment.score:.2f}"
            bars.append(
                f'<{self._tag} class="bar{" narrow" if narrow else ""}" tabindex="-1" '
                f"{self._seek(moment)}"
                f'title="{_escaped(title)}" style="left:{100 * left:.3f}%;'
                f"width:{100 * (right - left):.3f}%;top:{lane * height:.2f}rem;"
                f'height:{height - 0.15:.2f}rem;--share:{share:.0f}%">'
                f"{'' if narrow else rank}</{self._tag}>"
            )
        return (
            f'<div class="bars" aria-hidden="true" style="height:{count * height:.2f}rem">'
            f"{''.join(bars)}</div>"
        )

    def _axis(self) -> str:
        ticks = nice_ticks(self._start_s, self._end_s, 8)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
        labels = []
        for tick in ticks:
            share = self._share(tick)
            edge = ' class="first"' if share < 0.03 else ' class="last"' if share > 0.97 else ""
            labels.append(
                f'<span{edge} style="left:{100 * share:.3f}%">{axis_clock(tick, step)}</span>'
            )
        return f'<div class="axis" aria-hidden="true">{"".join(labels)}</div>'

    def _card(self, number: int, rank: int, moment: Moment) -> str:
        picture = ""
        if (number, rank) in self._images:
            address, (width, height) = self._images[number, rank]
            picture = (
                f'<img src="{address}" width="{width}" height="{height}" alt="" loading="lazy">'
            )
        share = 100 * min(max(moment.score, 0.0), 1.0)
        return (
            f'<li><{self._tag} class="moment" {self._seek(moment)}>{picture}'
            f'<span class="facts"><span class="line"><b><span class="hidden">Moment </span>'
            f'{rank + 1}</b><span><span class="hidden">score </span>{moment.score:.2f}</span>'
            f'</span><span class="times">{_times(moment)}</span>'
            f'<span class="score"><i style="width:{share:.1f}%"></i></span></span>'
            f"</{self._tag}></li>"
        )

    @property
    def _tag(self) -> str:
        return "a" if self._address else "span"

    def _seek(self, moment: Moment) -> str:
        """Return what makes an element play a moment; without scripts it is a link to it."""
        if not self._address:
            return ""
        link = f"{self._address}#t={moment.start_s:.3f},{moment.end_s:.3f}"
        return (
            f'href="{_escaped(link)}" data-start="{moment.start_s:.3f}" '
            f'data-end="{moment.end_s:.3f}" '
        )

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


def _asset(name: str) -> str:
    return resources.files("r2rt.media").joinpath(name).read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


def _times(moment: Moment) -> str:
    return f"{format_clock(moment.start_s)} to {format_clock(moment.end_s)}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
