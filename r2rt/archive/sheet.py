"""The hits of a search as one image, and as one page, whichever videos they are of."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.archive.result import Hit, SearchResult
from r2rt.errors import R2rtError
from r2rt.files import StrPath, check_destinations, replacing
from r2rt.media.drawing import (
    INK,
    LINE,
    PAPER,
    QUIET,
    font,
    jpeg_bytes,
    require_jinja,
    require_pillow,
    save_image,
    shortened,
    wrapped,
)
from r2rt.media.indexed_video import IndexedVideo
from r2rt.media.page import render_page
from r2rt.media.report import address_of
from r2rt.media.stills import stills
from r2rt.printable import one_line
from r2rt.timecode import format_clock
from r2rt.video.remote import file_name, video_path

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MOST_IMAGES", "write_hits_page", "write_hits_sheet"]

MOST_IMAGES = 200
_MARGIN, _GAP, _COLUMNS = 40, 24, 4
_ROWS = 40  # at most: a WebP is no higher than 16,383 pixels
_BOX = (360, 270)
_CAPTION = 92


def write_hits_sheet(found: SearchResult, path: StrPath) -> None:
    """Draw a frame of each hit as a grid, best first, with video, time and score.

    Args:
        found: the hits; the first 200 are drawn.
        path: a .png, .jpg or .webp.

    Raises:
        MissingExtraError: Pillow is not installed.
        OutputError: it cannot be written.
    """
    require_pillow()
    from PIL import Image, ImageDraw

    path = Path(path)
    hits = found.hits[:MOST_IMAGES]
    check_destinations([path], [hit.path for hit in hits])
    images = _frames(hits)
    columns = max(1, min(_COLUMNS, len(hits)), -(-len(hits) // _ROWS))
    rows = -(-len(hits) // columns)
    width = max(720, 2 * _MARGIN + columns * (_BOX[0] + _GAP) - _GAP)
    title = one_line(_title(found))
    heading = wrapped(title, font(25, title), width - 2 * _MARGIN, 3)
    top = _MARGIN + 36 * len(heading) + 14
    sheet = Image.new("RGB", (width, top + rows * (_BOX[1] + _CAPTION) + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        draw.text((_MARGIN, _MARGIN + 36 * number), line, INK, font(25, title))
    for number, hit in enumerate(hits):
        row, column = divmod(number, columns)
        x, y = _MARGIN + column * (_BOX[0] + _GAP), top + row * (_BOX[1] + _CAPTION)
        image = images.get(number) or Image.new("RGB", _BOX, "#808080")
        sheet.paste(image, (x, y))
        draw.rectangle((x, y, x + image.width - 1, y + image.height - 1), outline=LINE)
        below = y + image.height + 8
        times = f"{number + 1}. {_times(hit)}"
        draw.text((x, below), times, INK, font(19))
        draw.text((x + _BOX[0], below), f"{hit.score:.2f}", INK, font(19), anchor="ra")
        name = one_line(file_name(hit.path))
        letters = font(17, name)
        draw.text((x, below + 28), shortened(name, letters, _BOX[0]), QUIET, letters)
    save_image(sheet, path)


def write_hits_page(found: SearchResult, path: StrPath) -> None:
    """Write an HTML page of all hits that plays them where their videos lie.

    The first 200 have a frame. It has style, script and images inside, and loads nothing but the
    videos, from where `r2rt.media.report.address_of` says.

    Raises:
        MissingExtraError: Pillow or Jinja2 is not installed.
        OutputError: it cannot be written.
    """
    require_pillow()
    require_jinja()

    path = Path(path)
    hits = found.hits
    check_destinations([path], [hit.path for hit in hits])
    images = _frames(hits[:MOST_IMAGES])
    places = [address_of(hit.path, path) for hit in hits]
    cards = [
        {
            "hit": hit,
            "name": one_line(file_name(hit.path)),
            "times": _times(hit),
            "address": places[number],
            "words": one_line(hit.words or ""),
            "image": _data_url(images[number]) if number in images else None,
        }
        for number, hit in enumerate(hits)
    ]
    facts = f"{len(hits)} moments · {found.videos} videos, {found.duration_s / 3600:.1f} h"
    page = render_page(
        "r2rt.archive",
        "hits",
        title=one_line(_title(found)),
        facts=f"{facts} · model {one_line(found.model)}",
        cards=cards,
        from_elsewhere=any((place or "").startswith("http") for place in places),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _frames(hits: Sequence[Hit]) -> dict[int, Image.Image]:
    """Return the frame in the middle of each hit, by its number; of unreadable videos none."""
    of_video: dict[str, list[int]] = {}
    for number, hit in enumerate(hits):
        of_video.setdefault(hit.path, []).append(number)
    images: dict[int, Image.Image] = {}
    for path, numbers in of_video.items():
        times_s = [(hits[number].start_s + hits[number].end_s) / 2 for number in numbers]
        try:
            with IndexedVideo(video_path(path)) as video:
                images |= {numbers[index]: x for index, x in stills(video, times_s, _BOX)}
        except R2rtError:
            continue  # a page without this frame is better than none
    return images


def _title(found: SearchResult) -> str:
    return " + ".join(filter(None, (found.query, *found.images)))


def _times(hit: Hit) -> str:
    return f"{format_clock(hit.start_s)} to {format_clock(hit.end_s)}"


def _data_url(image: Image.Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(image, 75)).decode()
