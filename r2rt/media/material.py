"""A video to cut from: when each of its pictures is shown, and its pictures of any span."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import NoFramesError, QueryError
from r2rt.video.decoder import DecodeCounts, TimeGuesser, decode_packet, drain
from r2rt.video.demux import Demuxer
from r2rt.video.file import FirstPicture
from r2rt.video.index import PacketIndex, index_packets
from r2rt.video.pixels import Orientation, display_matrix, orientation

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["Geometry", "Material", "PictureReader", "Span"]

# A container may seek to a place after the one asked for; how much earlier to ask then, seconds.
_EARLIER_S = (0, 1, 5, 30)


@dataclass(frozen=True)
class Span:
    """A part of a video in timestamps of its stream, half open."""

    start_pts: int
    end_pts: int


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How the pictures of a video lie.

    Attributes:
        width: width as stored, in samples.
        height: height as stored, in samples.
        sample_aspect_ratio: width of a sample over its height.
        matrix: the display matrix, None where pictures are stored upright.
        turn: what makes stored pictures upright.
    """

    width: int
    height: int
    sample_aspect_ratio: Fraction
    matrix: tuple[int, ...] | None
    turn: Orientation

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height in square pixels, upright."""
        ratio = self.sample_aspect_ratio
        width = round(self.width * ratio) if ratio > 1 else self.width
        height = round(self.height / ratio) if ratio < 1 else self.height
        return (height, width) if self.turn.transpose else (width, height)


class Material:
    """A video file, indexed once.

    Attributes:
        path: the file.
        index: its packets.
        pts: (F,) int64, when each picture is shown, ascending.
        usual: how long a picture lasts by the median, in timestamps; at least 1.
        geometry: how its pictures lie.
        rate: pictures a second, on average.

    Raises:
        SourceNotFoundError: there is no such file.
        NotAVideoError: FFmpeg does not understand it.
        NoVideoStreamError: it has no picture.
        NoFramesError: not one picture can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        keys = array("B")
        demuxer = Demuxer(path, threads=1)
        try:
            first = FirstPicture(demuxer)

            def see(packet: Packet[VideoStream]) -> None:
                keys.append(packet.is_keyframe)
                first.see(packet)

            self.index: PacketIndex = index_packets(demuxer, see=see)
            picture = first.found()
            if picture is None:
                raise NoFramesError(f"{path}: not one picture could be decoded")
            stream = demuxer.stream
            self.geometry = Geometry(
                width=picture.width,
                height=picture.height,
                sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
                matrix=display_matrix(picture),
                turn=orientation(picture),
            )
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.has_sound = bool(demuxer.container.streams.audio)
        finally:
            demuxer.close()
        index = self.index
        shown = np.flatnonzero(index.shown)
        self._order = shown[np.argsort(index.pts[shown], kind="stable")]
        self.pts: NDArray[np.int64] = index.pts[self._order]
        if not len(self.pts):
            raise NoFramesError(f"{path}: not one picture is shown")
        gaps = np.diff(self.pts)
        self.usual = max(1, int(np.median(gaps)) if len(gaps) else index.frame_duration)
        entry = index.entry if index.entry.any() else np.frombuffer(keys, np.uint8) > 0
        self.entries: NDArray[np.int64] = np.flatnonzero(entry & index.shown)

    @property
    def time_base(self) -> Fraction:
        """Seconds of one unit of a timestamp."""
        return self.index.time_base

    @property
    def duration_s(self) -> float:
        """When the last picture ends, on the source's clock."""
        return self.seconds(self.index.end_pts)

    def seconds(self, pts: int) -> float:
        """Return a timestamp's time on the source's clock, whose 0 is the container's start."""
        return float((pts - self.index.start_pts) * self.time_base)

    def ticks(self, time_s: float) -> int:
        """Return the timestamp nearest to a time on the source's clock."""
        return self.index.start_pts + round(Fraction(time_s) / self.time_base)

    def shown_at(self, pts: int) -> int:
        """Return the timestamp of the picture that is on display at a time."""
        place = int(np.searchsorted(self.pts, pts, side="right")) - 1
        return int(self.pts[max(place, 0)])

    def place_of(self, pts: int | None) -> int | None:
        """Return the number of the packet, in decoding order, whose picture is shown at `pts`."""
        if pts is None:
            return None
        place = int(np.searchsorted(self.pts, pts))
        found = place < len(self.pts) and self.pts[place] == pts
        return int(self._order[place]) if found else None

    def entry_before(self, pts: int) -> int:
        """Return the number of the packet from which the picture shown at `pts` can be decoded."""
        before = self.entries[self.index.pts[self.entries] <= pts]
        return int(before[-1]) if len(before) else 0

    def span(self, start_s: float, end_s: float) -> Span:
        """Return the cut that is asked for, on the boundaries of pictures where they are close.

        A cut moves to the nearest boundary if that is at most half a usual picture away, so a video
        of constant rate is never cut inside a picture. One that is shown for long, as in recordings
        of screens, is cut where it was asked for.

        Raises:
            QueryError: the span lies outside of the video.
        """
        first, last = self.index.start_pts, self.index.end_pts
        start, end = self.ticks(start_s), self.ticks(end_s)
        if start >= last or end <= first:
            raise QueryError(
                f"{self.path}: the moment {start_s:.3f} to {end_s:.3f} s lies outside of the "
                f"video, which lasts {self.duration_s:.3f} s; is it the video that was asked?"
            )
        start, end = self._snap(max(start, first)), self._snap(min(end, last))
        start = min(start, int(self.pts[-1]))
        if end <= start:
            later = self.pts[self.pts > start]
            end = int(later[0]) if len(later) else last
        return Span(start_pts=start, end_pts=end)

    def _snap(self, pts: int) -> int:
        place = int(np.searchsorted(self.pts, pts))
        around = [int(value) for value in self.pts[max(place - 1, 0) : place + 1]]
        around.append(self.index.end_pts)
        nearest = min(around, key=lambda boundary: abs(boundary - pts))
        return nearest if 2 * abs(nearest - pts) <= self.usual + 1 else pts


class PictureReader:
    """Decodes spans of a `Material`, one after another, with one open file."""

    def __init__(self, material: Material, *, threads: int | None = None) -> None:
        self._material = material
        self._threads = threads
        self._demuxer: Demuxer | None = None

    def pictures(self, span: Span) -> Iterator[tuple[VideoFrame, int]]:
        """Yield the pictures shown in a span, and when: first the one on display at its start.

        What the decoder refuses is left out.
        """
        material = self._material
        index = material.index
        first = material.shown_at(span.start_pts)
        if index.unusable is not None:
            yield from self._from_the_beginning(first, span.end_pts)
            return
        needed = np.flatnonzero(index.shown & (index.pts >= first) & (index.pts < span.end_pts))
        last = int(index.pts[needed[-1]])  # the last one that must be fed, in decoding order
        counts = DecodeCounts()
        for packet in self.packets_from(material.entry_before(first)):
            for frame in decode_packet(self._open(), packet, counts):
                if frame.pts is not None and first <= frame.pts < span.end_pts:
                    yield frame, frame.pts
            if packet.pts == last:
                break
        for frame in drain(self._open(), counts):
            if frame.pts is not None and first <= frame.pts < span.end_pts:
                yield frame, frame.pts

    def close(self) -> None:
        """Close the file."""
        if self._demuxer is not None:
            self._demuxer.close()
        self._demuxer = None

    def __enter__(self) -> PictureReader:
        """Return the reader."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _open(self) -> Demuxer:
        if self._demuxer is None:
            self._demuxer = Demuxer(self._material.path, threads=self._threads)
        return self._demuxer

    def packets_from(self, place: int) -> Iterator[Packet[VideoStream]]:
        """Return the packets of pictures from one on, in decoding order.

        Args:
            place: its number; 0, or that of a picture that is shown.
        """
        self.stream.codec_context.flush_buffers()
        if place:
            for earlier_s in _EARLIER_S:
                packets = self._seek(place, earlier_s)
                if packets is not None:
                    return packets
        self.close()  # read on from the beginning, which always works
        packets = self._open().packets()
        return itertools.dropwhile(lambda packet: self._is_before(packet, place), packets)

    @property
    def stream(self) -> VideoStream:
        """The stream that is read."""
        return self._open().stream

    def _is_before(self, packet: Packet[VideoStream], place: int) -> bool:
        return bool(place) and self._material.place_of(packet.pts) != place

    def _seek(self, place: int, earlier_s: int) -> Iterator[Packet[VideoStream]] | None:
        """Return the packets from one on; None if the container went to a later one."""
        material = self._material
        demuxer = self._open()
        target = int(material.index.pts[place]) - round(earlier_s / material.time_base)
        try:
            demuxer.container.seek(target, stream=demuxer.stream)
        except OSError:
            return None
        packets = demuxer.packets()
        for packet in packets:
            found = material.place_of(packet.pts)
            if found == place:
                return itertools.chain((packet,), packets)
            if found is not None and found > place:
                return None
        return None

    def _from_the_beginning(self, first: int, end_pts: int) -> Iterator[tuple[VideoFrame, int]]:
        """Decode everything where the index cannot say when pictures are shown."""
        self.close()
        demuxer = self._open()
        counts = DecodeCounts()
        times = TimeGuesser(self._material.index.frame_duration)
        packets: Iterator[Packet[VideoStream] | None] = itertools.chain(demuxer.packets(), (None,))
        for packet in packets:
            frames = (
                drain(demuxer, counts) if packet is None else decode_packet(demuxer, packet, counts)
            )
            for frame in frames:
                pts = times.guess(frame)
                if pts >= end_pts:
                    self.close()
                    return
                if pts >= first:
                    yield frame, pts
        self.close()
