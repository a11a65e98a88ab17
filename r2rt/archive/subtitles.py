"""Words of videos: subtitle files beside them, and subtitle streams inside of them."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2rt.archive.tables import require_package

if TYPE_CHECKING:
    from pysubs2 import SSAFile

__all__ = ["Line", "lines_of", "subtitle_names", "words_key"]

_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".sub", ".ttml")
_LARGEST_BYTES = 32 << 20
_MOST_LINES = 100_000
_MOST_CHARACTERS, _MOST_CHARACTERS_A_LINE = 1000, 4000
_LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(-[a-zA-Z]{2,4})?")
# None reaches over the beginning of another: else many beginnings without an end take for ever.
_TAGS = re.compile(r"\{[^{}]*\}|<[^<>]*>")
_BREAKS = re.compile(r"\\[Nnh]")
_GAPS = re.compile(r"\n{3,}")
_TTML = "http://www.w3.org/ns/ttml"
_EVENT_FIELDS = 8  # fields of an ASS event before its text, as FFmpeg hands it out


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line that is shown or spoken, in seconds on the video's clock."""

    start_s: float
    end_s: float
    text: str
    language: str


def subtitle_names(folder: Path) -> list[str]:
    """Return the names of the subtitle files in a folder, sorted; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.lower().endswith(_SUFFIXES))
    except OSError:
        return []


def words_key(video: Path, names: Sequence[str]) -> str:
    """Return a key of the subtitle files beside a video that changes when they do; '' for none.

    Args:
        video: the file.
        names: the `subtitle_names` of its folder.
    """
    parts = []
    for file in _beside(video, names):
        with contextlib.suppress(OSError):
            status = file.stat()
            parts.append(f"{file.name} {status.st_size} {status.st_mtime_ns}")
    text = os.fsencode("\n".join(parts))  # a name need not be text
    return hashlib.blake2b(text, digest_size=8).hexdigest() if parts else ""


def lines_of(video: Path) -> Iterator[Line]:
    """Yield the lines of the files beside a video, then those of the streams inside of it.

    A line that another file or stream has, too, at the same time, comes once. What cannot be read
    is left out: the video is searched by its images anyway.

    Raises:
        MissingExtraError: there is a subtitle file and pysubs2 is not installed.
    """
    seen: set[tuple[float, float, str]] = set()
    for line in _all_lines(video):
        key = (round(line.start_s, 2), round(line.end_s, 2), line.text)
        if line.text and -math.inf < line.start_s < line.end_s < math.inf and key not in seen:
            yield line
            seen.add(key)
            if len(seen) == _MOST_LINES:
                return


def _all_lines(video: Path) -> Iterator[Line]:
    for file in _beside(video, subtitle_names(video.parent)):
        yield from _file_lines(file, video.stem)
    if video.is_file():
        yield from _stream_lines(video)


def _beside(video: Path, names: Sequence[str]) -> list[Path]:
    """Return the files `talk.srt` and `talk.en.srt` beside `talk.mp4`, of sorted names."""
    # A slash, which no name has, is the sign after the point.
    first, end = (bisect_left(names, f"{video.stem}{sign}") for sign in "./")
    files = (video.parent / name for name in names[first:end])
    try:
        return [file for file in files if file.is_file()]
    except OSError:
        return []


def _file_lines(file: Path, stem: str) -> Iterator[Line]:
    require_package("pysubs2", f"{file}: a subtitle file")
    import pysubs2

    try:
        if file.stat().st_size > _LARGEST_BYTES:
            return
        text = _shortened(_decoded(file.read_bytes()))
        # Marks of style stay, and go with all others.
        subtitles: SSAFile = pysubs2.SSAFile.from_string(text, keep_html_tags=True)
        events = [
            (event.start / 1000, event.end / 1000, _plain(event.text))
            for event in subtitles
            if not event.is_comment
        ]
    except Exception:  # each format has errors of its own for damaged files
        return
    ending = file.stem[len(stem) + 1 :]
    language = ending if _LANGUAGE.fullmatch(ending) else ""
    for start_s, end_s, text in events:
        yield Line(start_s=start_s, end_s=end_s, text=text, language=language)


def _decoded(content: bytes) -> str:
    for encoding in ("utf-16",) if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode(encoding)
    return content.decode("cp1252", errors="replace")


def _shortened(text: str) -> str:
    """Return text whose lines are no longer than any that is read, and that has no gaps.

    pysubs2 takes the square of a line's length, or of a gap's, for some that no program writes.
    """
    if _TTML in text:  # XML may be one line
        return text
    lines = (line[:_MOST_CHARACTERS_A_LINE] for line in text.split("\n"))
    return _GAPS.sub("\n\n", "\n".join(lines))


def _stream_lines(video: Path) -> Iterator[Line]:
    import av

    from r2rt.video.container import metadata_text, open_input, packets_of

    try:
        with open_input(str(video)) as container:
            begins_s = (container.start_time or 0) / av.time_base
            for stream in container.streams.subtitles:
                language = metadata_text(stream.metadata.get("language", ""))
                container.seek(0, backward=True)
                for packet in packets_of(container, stream):
                    yield from _packet_lines(packet, begins_s, language)
    except (av.error.FFmpegError, OSError, ValueError):
        return


def _packet_lines(packet: Any, begins_s: float, language: str) -> Iterator[Line]:
    if packet.pts is None or not packet.duration:
        return
    start_s = float(packet.pts * packet.time_base) - begins_s
    end_s = start_s + float(packet.duration * packet.time_base)
    for item in packet.decode():
        raw = getattr(item, "dialogue", None) or getattr(item, "ass", b"") or b""
        text = raw.decode(errors="replace")
        fields = text.split(",", _EVENT_FIELDS)
        if not getattr(item, "dialogue", None) and len(fields) > _EVENT_FIELDS:
            text = fields[_EVENT_FIELDS]
        yield Line(start_s=start_s, end_s=end_s, text=_plain(text), language=language)


def _plain(text: str) -> str:
    """Return text on one line without marks of style."""
    joined = _TAGS.sub("", _BREAKS.sub(" ", text))
    line = " ".join(joined.split())[:_MOST_CHARACTERS]
    return line.encode(errors="replace").decode()  # halves of characters cannot be stored
