"""Copying a span of a video packet by packet: lossless, but cut at keyframes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np

from r2rt.errors import OutputError
from r2rt.media.indexed_video import FrameReader, IndexedVideo, Span
from r2rt.media.sound import audio_tracks, only_sound
from r2rt.video.container import packets_of

if TYPE_CHECKING:
    from av.packet import Packet

    from r2rt.video.demux import Demuxer

__all__ = ["copy_span", "copy_suffix"]

_MP4_VIDEO = frozenset(("h264", "hevc", "av1", "vp9", "mpeg4"))
_MP4_AUDIO = frozenset(("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"))
# Audio may be written at most this long before the frames of the same time, in seconds.
_INTERLEAVE_S = 5


def copy_suffix(video: IndexedVideo) -> str:
    """Return `.mp4` where it can hold the video's codecs, else `.mkv`."""
    sounds = {video.audio[number].codec for number in audio_tracks(video)}
    return ".mp4" if video.codec in _MP4_VIDEO and sounds <= _MP4_AUDIO else ".mkv"


def copy_span(video: IndexedVideo, span: Span, path: Path) -> Span:
    """Copy a span's packets into a new file, from the last keyframe at or before its start.

    It ends with the first frame after which none of the span is missing and none between is.

    Args:
        video: the video.
        span: the part to copy.
        path: where to write; overwritten. `copy_suffix` says in which format.

    Returns:
        What the file holds.

    Raises:
        OutputError: the container has no times to copy, or FFmpeg cannot write the codec.
        OSError: the file cannot be written.
    """
    if video.index.unusable is not None:
        raise OutputError(
            f"{video.path}: cannot be copied ({video.index.unusable}); leave --copy out"
        )
    first, last = _packets(video, span)
    start_pts = int(video.index.pts[first])
    kept = np.zeros(len(video.index), bool)
    kept[first : last + 1] = video.index.pts[first : last + 1] >= start_pts
    shown = video.index.pts[kept & video.index.shown]
    following = video.pts[video.pts > shown.max()]
    end_pts = int(following[0]) if len(following) else video.index.end_pts
    whole = Span(start_pts=start_pts, end_pts=end_pts)
    format_ = "mp4" if copy_suffix(video) == ".mp4" else "matroska"
    options = {"movflags": "+faststart"} if format_ == "mp4" else {}
    try:
        with (
            FrameReader(video) as reader,
            av.open(str(path), "w", format=format_, options=options) as container,
        ):
            _copy(reader, video, whole, (first, last), container)
    except OSError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise OutputError(
            f"{video.path}: FFmpeg cannot copy it ({error}); leave --copy out"
        ) from error
    return whole


def _packets(video: IndexedVideo, span: Span) -> tuple[int, int]:
    """Return the first and the last packet to copy, in decoding order."""
    index = video.index
    first = video.entry_before(video.shown_at(span.start_pts))
    wanted = np.flatnonzero(index.shown & (index.pts < span.end_pts))
    last = max(int(wanted[wanted >= first].max(initial=first)), first)
    # Packets come in decoding order: go on until no frame is missing before the latest one.
    latest = int(index.pts[first : last + 1].max())
    while True:
        missing = np.flatnonzero(index.shown & (index.pts < latest))
        missing = missing[missing > last]
        if not len(missing):
            return first, last
        last = int(missing.max())
        latest = int(index.pts[first : last + 1].max())


def _copy(
    reader: FrameReader,
    video: IndexedVideo,
    span: Span,
    packets: tuple[int, int],
    container: Any,
) -> None:
    start_s = span.start_pts * video.time_base
    end_s = span.end_pts * video.time_base
    video_out = container.add_stream_from_template(reader.stream)
    with contextlib.ExitStack() as files:
        sounds = []
        for number in audio_tracks(video):
            heard = files.enter_context(_audio_from(video, number, start_s - 1))
            stream = heard.container.streams.audio[number]
            copied = container.add_stream_from_template(stream)
            copied.metadata.update(video.audio[number].metadata)
            sounds.append(_Sound(packets_of(heard.container, stream), copied, start_s, end_s))
        for packet in _video_packets(reader, video, span.start_pts, packets):
            due_s = _time_s(packet) + _INTERLEAVE_S
            for sound in sounds:
                sound.mux(container, until_s=due_s)
            _mux(container, packet, video_out, start_s)
        for sound in sounds:
            sound.mux(container, until_s=None)


class _Sound:
    """Packets of one audio stream on their way into the copy."""

    def __init__(
        self, packets: Iterator[Packet[Any]], copied: Any, start_s: Fraction, end_s: Fraction
    ) -> None:
        self._packets = _sound_packets(packets, start_s, end_s)
        self._waiting = next(self._packets, None)
        self._copied = copied
        self._start_s = start_s

    def mux(self, container: Any, *, until_s: Fraction | None) -> None:
        """Write the packets that begin no later than `until_s`; all of them if None."""
        while self._waiting is not None and (until_s is None or _time_s(self._waiting) <= until_s):
            _mux(container, self._waiting, self._copied, self._start_s)
            self._waiting = next(self._packets, None)


def _video_packets(
    reader: FrameReader, video: IndexedVideo, start_pts: int, packets: tuple[int, int]
) -> Iterator[Packet[Any]]:
    first, last = packets
    for packet in reader.packets_from(first):
        place = video.place_of(packet.pts)  # the caller changes the packet's times
        # Frames shown before the keyframe depend on what is not copied.
        if packet.pts is None or packet.pts >= start_pts:
            yield packet
        if place == last:
            return


@contextlib.contextmanager
def _audio_from(video: IndexedVideo, number: int, time_s: Fraction) -> Iterator[Demuxer]:
    """Give the file open at or before a time of an audio stream."""
    with contextlib.ExitStack() as files:
        demuxer = files.enter_context(video.borrowed(audio=number))
        stream: Any = only_sound(demuxer, number)
        begin_s = Fraction(demuxer.container.start_time or 0, 1_000_000) - 1
        try:
            demuxer.container.seek(int(max(time_s, begin_s) / stream.time_base), stream=stream)
        except OSError:  # a stream without packets, or a time before the first one of AVI or FLV
            demuxer = files.enter_context(video.unread())
            only_sound(demuxer, number)
        yield demuxer


def _sound_packets(
    packets: Iterator[Packet[Any]], start_s: Fraction, end_s: Fraction
) -> Iterator[Packet[Any]]:
    """Yield the audio packets that begin in the span, and the one before them.

    That one is needed to decode the first; the edit list hides its own samples.
    """
    held: Packet[Any] | None = None
    for packet in packets:
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
