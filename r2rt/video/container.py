"""What differs between the versions of PyAV that the project supports, 16 to 19."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from numbers import Rational
from typing import TYPE_CHECKING, Any

import av
import av.stream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

__all__ = [
    "LOSES_HARDWARE_COLOURS",
    "codec_tag",
    "exact",
    "metadata_text",
    "open_input",
    "packets_of",
    "read_stream",
    "sample_aspect_ratio",
    "skip_stream",
]

_MAJOR = int(av.__version__.partition(".")[0])
# Since PyAV 19 metadata that is no UTF-8 is decoded with surrogates; before, an argument said how.
_TOLERANT: dict[str, Any] = {} if _MAJOR >= 19 else {"metadata_errors": "replace"}
# Before, frames that are copied from a device come without colour matrix and range.
LOSES_HARDWARE_COLOURS = _MAJOR < 18
_DISCARD: Any = getattr(av.stream, "Discard", None)  # since PyAV 17.1


def open_input(file: Any, **options: Any) -> InputContainer:
    """Open a path, URL or readable object whose metadata may be no UTF-8.

    Args:
        file: as `av.open` takes it.
        options: keyword arguments of `av.open`.

    Raises:
        av.error.FFmpegError, OSError, ValueError: as `av.open`.
    """
    container: InputContainer = av.open(file, "r", **_TOLERANT, **options)
    return container


def metadata_text(value: str) -> str:
    """Return a value of a container's or stream's metadata as text that can be printed anywhere.

    Bytes that are no UTF-8 become U+FFFD.
    """
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def codec_tag(stream: VideoStream) -> str:
    """Return the four letters by which a container names a stream's codec; "" if it has none.

    In a transport stream the tag is a number instead, such as 0xEA for VC-1, which is no ASCII.
    """
    try:
        return stream.codec_context.codec_tag
    except UnicodeDecodeError:
        return ""


def exact(value: Rational | None) -> Fraction | None:
    """Return a rate, a ratio or a time base as a fraction; None where PyAV knows none or zero.

    PyAV 19 has a type of its own for these, whose products may be rounded to 32 bits.
    """
    if not value or not value.denominator:
        return None
    return Fraction(int(value.numerator), int(value.denominator))


def packets_of(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Yield what `demux` yields: packets from where the container stands, then an empty one each.

    Where another stream was added on the way, PyAV raises IndexError at the end.

    Raises:
        av.error.FFmpegError: the container cannot be read on.
    """
    with contextlib.suppress(IndexError):
        yield from container.demux(*streams)


def sample_aspect_ratio(stream: VideoStream) -> Fraction | None:
    """Return width over height of a sample.

    None where the file has none, or a damaged one, by which one side of the frame would be nothing;
    FFmpeg checks a codec's ratio so, but not a container's.
    """
    ratio = exact(stream.sample_aspect_ratio)
    context = stream.codec_context
    is_plausible = ratio and ratio <= max(context.height, 1) and 1 / ratio <= max(context.width, 1)
    return ratio if is_plausible else None


def skip_stream(stream: Stream) -> None:
    """Let the demuxer leave out a stream's packets, which is faster where PyAV can do it."""
    if _DISCARD is not None:
        stream.discard = _DISCARD.all


def read_stream(stream: Stream) -> None:
    """Undo `skip_stream`."""
    if _DISCARD is not None:
        stream.discard = _DISCARD.default
