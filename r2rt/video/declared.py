"""When a video ends by its container's header, which damage further on does not change."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from r2rt.video.container import exact

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from r2rt.video.index import PacketIndex

__all__ = ["ends_early_s"]

# A difference up to this share of the duration, or so many seconds, is rounding.
_SHARE, _SECONDS = Fraction(1, 50), Fraction(1, 2)
# FFmpeg computes the durations of these from timestamps.
_WITHOUT_DURATION = frozenset(("mpegts", "mpeg", "ogg"))


def ends_early_s(container: InputContainer, stream: VideoStream, index: PacketIndex) -> float:
    """Return how many seconds before the declared end the frames end; 0 if none is declared.

    Of a Matroska file that is cut or damaged FFmpeg reads what it can and reports no error.
    """
    if index.leaps or container.format.name in _WITHOUT_DURATION:
        return 0.0
    declared_s = _declared_end_s(container, stream)
    if declared_s is None:
        return 0.0
    early_s = declared_s - index.end_pts * index.time_base
    return float(early_s) if early_s > max(_SECONDS, declared_s * _SHARE) else 0.0


def _declared_end_s(container: InputContainer, stream: VideoStream) -> Fraction | None:
    time_base = exact(stream.time_base)
    if container.format.name == "avi" and stream.frames and time_base:
        # Of a file that is shorter than its header FFmpeg shortens the duration, not the count.
        return stream.frames * time_base
    if stream.duration and time_base:
        return ((stream.start_time or 0) + stream.duration) * time_base
    # Matroska's tag of a track, such as 00:00:05.000000000.
    tag = stream.metadata.get("DURATION", "")
    match = re.fullmatch(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d{1,9})?)", tag)
    if match:
        hours, minutes, seconds = map(Fraction, match.groups())
        return hours * 3600 + minutes * 60 + seconds
    if len(container.streams) == 1 and container.duration and "matroska" in container.format.name:
        return Fraction(container.duration, 1_000_000)
    return None
