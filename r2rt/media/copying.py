"""Copying a span of a video packet by packet: nothing is lost, and nothing is exact."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
from av.stream import Discard

from r2rt.errors import OutputError
from r2rt.media.material import Material, PictureReader, Span
from r2rt.video.demux import Demuxer

if TYPE_CHECKING:
    from av.packet import Packet

__all__ = ["copy_span", "copy_suffix"]

_MP4_PICTURE = frozenset(("h264", "hevc", "av1", "vp9", "mpeg4"))
_MP4_SOUND = frozenset(("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"))
# Sound is interleaved with pictures to within this of where it belongs.
_INTERLEAVE_S = 5


def copy_suffix(material: Material) -> str:
    """Return `.mp4` where it can hold the video's codecs, else `.mkv`."""
    demuxer = Demuxer(material.path, threads=1)
    try:
        picture = demuxer.stream.codec_context.codec.canonical_name
        sound = _sound(demuxer)
        heard = None if sound is None else sound.codec_context.codec.canonical_name
        fits = picture in _MP4_PICTURE and (heard is None or heard in _MP4_SOUND)
        return ".mp4" if fits else ".mkv"
    finally:
        demuxer.close()


def copy_span(material: Material, span: Span, path: Path) -> Span:
    """Copy a span's packets into a new file, from the last keyframe at or before its start.

    It ends with the first picture after which none of the span is missing and none between is.

    Args:
        material: the video.
        span: what is wanted.
        path: where to write; overwritten. Its format is that of `copy_suffix`.

    Returns:
        What the file holds.

    Raises:
        OutputError: the container has no times to copy, or FFmpeg cannot write the codec.
        OSError: the file cannot be written.
    """
    if material.index.unusable is not None:
        raise OutputError(
            f"{material.path}: cannot be copied ({material.index.unusable}); leave --copy out"
        )
    first, last = _packets(material, span)
    start_pts = int(material.index.pts[first])
    kept = np.zeros(len(material.index), bool)
    kept[first : last + 1] = material.index.pts[first : last + 1] >= start_pts
    shown = material.index.pts[kept & material.index.shown]
    following = material.pts[material.pts > shown.max()]
    end_pts = int(following[0]) if len(following) else material.index.end_pts
    whole = Span(start_pts=start_pts, end_pts=end_pts)
    format_ = "mp4" if copy_suffix(material) == ".mp4" else "matroska"
    options = {"movflags": "+faststart"} if format_ == "mp4" else {}
    try:
        with (
            PictureReader(material, threads=1) as reader,
            av.open(str(path), "w", format=format_, options=options) as container,
        ):
            _copy(reader, material, whole, (first, last), container)
    except OSError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise OutputError(
            f"{material.path}: FFmpeg cannot copy it ({error}); leave --copy out"
        ) from error
    return whole


def _packets(material: Material, span: Span) -> tuple[int, int]:
    """Return the first and the last packet to copy, in decoding order."""
    index = material.index
    first = material.entry_before(material.shown_at(span.start_pts))
    wanted = np.flatnonzero(index.shown & (index.pts < span.end_pts))
    last = max(int(wanted[wanted >= first].max(initial=first)), first)
    # Packets come in decoding order: go on until no picture is missing before the latest one.
    latest = int(index.pts[first : last + 1].max())
    while True:
        missing = np.flatnonzero(index.shown & (index.pts < latest))
        missing = missing[missing > last]
        if not len(missing):
            return first, last
        last = int(missing.max())
        latest = int(index.pts[first : last + 1].max())


def _copy(
    reader: PictureReader,
    material: Material,
    span: Span,
    packets: tuple[int, int],
    container: Any,
) -> None:
    start_s = span.start_pts * material.time_base
    end_s = span.end_pts * material.time_base
    picture_out = container.add_stream_from_template(reader.stream)
    heard = Demuxer(material.path, threads=1)
    try:
        sound = _sound(heard)
        sound_out = None if sound is None else container.add_stream_from_template(sound)
        sounds = iter(()) if sound is None else _sound_packets(heard, sound, start_s, end_s)
        waiting: Packet[Any] | None = next(sounds, None)
        for packet in _picture_packets(reader, material, span.start_pts, packets):
            due_s = _time_s(packet) + _INTERLEAVE_S
            while waiting is not None and _time_s(waiting) <= due_s:
                _mux(container, waiting, sound_out, start_s)
                waiting = next(sounds, None)
            _mux(container, packet, picture_out, start_s)
        while waiting is not None:
            _mux(container, waiting, sound_out, start_s)
            waiting = next(sounds, None)
    finally:
        heard.close()


def _picture_packets(
    reader: PictureReader, material: Material, start_pts: int, packets: tuple[int, int]
) -> Iterator[Packet[Any]]:
    first, last = packets
    for packet in reader.packets_from(first):
        place = material.place_of(packet.pts)  # whoever takes the packet changes its times
        # Pictures shown before the keyframe depend on what is not copied.
        if packet.pts is None or packet.pts >= start_pts:
            yield packet
        if place == last:
            return


def _sound_packets(
    demuxer: Demuxer, stream: Any, start_s: Fraction, end_s: Fraction
) -> Iterator[Packet[Any]]:
    """Yield the packets of sound that begin in the span, and the one before them.

    That one is needed to decode the first; the edit list hides what it says itself.
    """
    demuxer.stream.discard = Discard.all
    stream.discard = Discard.default
    before_s = max(start_s - 1, Fraction(demuxer.container.start_time or 0, 1_000_000) - 1)
    demuxer.container.seek(int(before_s / stream.time_base), stream=stream)
    held: Packet[Any] | None = None
    for packet in demuxer.container.demux(stream):
        if not packet.size or packet.pts is None:
            continue
        time_s = _time_s(packet)
        if time_s >= end_s:
            return
        if time_s < start_s:
            held = packet
            continue
        if held is not None:
            yield held
            held = None
        yield packet


def _mux(container: Any, packet: Packet[Any], stream: Any, start_s: Fraction) -> None:
    assert packet.time_base is not None
    shift = round(start_s / packet.time_base)
    if packet.pts is not None:
        packet.pts -= shift
    if packet.dts is not None:
        packet.dts -= shift
    packet.stream = stream
    container.mux(packet)


def _time_s(packet: Packet[Any]) -> Fraction:
    assert packet.pts is not None
    assert packet.time_base is not None
    return packet.pts * packet.time_base


def _sound(demuxer: Demuxer) -> Any:
    """Return the stream of sound that players would play; None if there is none."""
    stream = demuxer.container.streams.best("audio")
    return None if getattr(stream, "codec_context", None) is None else stream
