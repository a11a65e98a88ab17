"""A video file to export from: when each frame is shown, and the frames of any span."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import NoFramesError, QueryError
from r2rt.files import StrPath
from r2rt.video.decoder import DecodeCounts, decode_packets
from r2rt.video.demux import Demuxer
from r2rt.video.index import PacketIndex
from r2rt.video.inspection import inspect_file
from r2rt.video.pixels import Orientation
from r2rt.video.remote import VideoPath, video_path

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["FrameReader", "Geometry", "IndexedVideo", "Span", "Video", "indexed", "path_of"]

# A container may seek to a place after the one asked for; how much earlier to ask then, seconds.
_EARLIER_S = (0, 1, 5, 30)


@dataclass(frozen=True)
class Span:
    """A part of a video in timestamps of its stream, half open."""

    start_pts: int
    end_pts: int


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size, shape and rotation of a video's frames.

    Attributes:
        width: width as stored, in samples.
        height: height as stored, in samples.
        sample_aspect_ratio: width of a sample over its height.
        matrix: the display matrix, None where frames are stored upright.
        turn: what makes stored frames upright.
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


class IndexedVideo:
    """A video file, indexed once, and the open files that read it, used one after another.

    What is read at the same time needs a place of its own in the file: frames are read through one
    open file, and each audio track through another. They stay open for the next reader until
    `close`.

    Attributes:
        path: the file, or a video at an address.
        index: its packets.
        audio: its audio streams, in the file's order.
        pts: (F,) int64, when each frame is shown, ascending.
        usual: median duration of a frame, in timestamps; at least 1.
        geometry: size, shape and rotation of its frames.
        rate: frames a second, on average.

    Args:
        path: the file, or a video at an address.
        video_track: which of its video tracks, from 1; None takes the default one.

    Raises:
        SourceNotFoundError: there is no such file.
        NotAVideoError: FFmpeg does not understand it.
        NoVideoStreamError: it has no video stream.
        NoFramesError: no frame can be decoded.
    """

    def __init__(self, path: StrPath, *, video_track: int | None = None) -> None:
        self.path = video_path(path)
        facts = inspect_file(self.path, video_track=video_track)
        self._video_track = facts.video_track
        index: PacketIndex = facts.index
        self.index = index
        self.codec, self.audio = facts.codec, facts.audio
        self.geometry = Geometry(
            width=facts.stored_size[0],
            height=facts.stored_size[1],
            sample_aspect_ratio=facts.sample_aspect_ratio or Fraction(1),
            matrix=facts.matrix,
            turn=facts.turn,
        )
        # The average, else the guessed rate.
        rates = (facts.average_rate, *facts.declared_rates[-1:])
        self.rate = next((rate for rate in rates if rate), Fraction(25))
        shown = np.flatnonzero(index.shown)
        self._order = shown[np.argsort(index.pts[shown], kind="stable")]
        self.pts: NDArray[np.int64] = index.pts[self._order]
        if not len(self.pts):
            raise NoFramesError(f"{path}: not one frame is shown")
        gaps = np.diff(self.pts)
        self.usual = max(1, int(np.median(gaps)) if len(gaps) else index.frame_duration)
        entry = index.entry if index.entry.any() else facts.keyframes
        self.entries: NDArray[np.int64] = np.flatnonzero(entry & index.shown)
        self._idle: dict[int | None, list[Demuxer]] = {}

    def __enter__(self) -> IndexedVideo:
        """Return the video."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its open files."""
        self.close()

    def close(self) -> None:
        """Close the open files that nobody reads; later readers open others."""
        for demuxer in itertools.chain(*self._idle.values()):
            demuxer.close()
        self._idle.clear()

    @contextlib.contextmanager
    def borrowed(self, audio: int | None = None) -> Iterator[Demuxer]:
        """Give an open file for as long as the block lasts: one that is idle, or a new one.

        Args:
            audio: number of the audio stream that is to be read; None for the video stream.
        """
        idle = self._idle.setdefault(audio, [])
        demuxer = idle.pop() if idle else self.open(threads=None if audio is None else 1)
        try:
            yield demuxer
        except BaseException:
            demuxer.close()  # where it stands is not known
            raise
        self._idle.setdefault(audio, []).append(demuxer)

    @contextlib.contextmanager
    def unread(self) -> Iterator[Demuxer]:
        """Give the file opened anew, to be read from its beginning without seeking."""
        with contextlib.closing(self.open(threads=1)) as demuxer:
            yield demuxer

    def open(self, *, threads: int | None = None) -> Demuxer:
        """Open the file once more."""
        return Demuxer(self.path, threads=threads, video_track=self._video_track)

    @property
    def time_base(self) -> Fraction:
        """Seconds of one unit of a timestamp."""
        return self.index.time_base

    @property
    def duration_s(self) -> float:
        """When the last frame ends, on the source's clock."""
        return self.seconds(self.index.end_pts)

    def seconds(self, pts: int) -> float:
        """Return a timestamp's time on the source's clock, whose 0 is the container's start."""
        return float((pts - self.index.start_pts) * self.time_base)

    def ticks(self, time_s: float) -> int:
        """Return the timestamp nearest to a time on the source's clock."""
        return self.index.start_pts + round(Fraction(time_s) / self.time_base)

    def shown_at(self, pts: int) -> int:
        """Return the timestamp of the frame that is on display at a time."""
        place = int(np.searchsorted(self.pts, pts, side="right")) - 1
        return int(self.pts[max(place, 0)])

    def place_of(self, pts: int | None) -> int | None:
        """Return the number of the packet, in decoding order, whose frame is shown at `pts`."""
        if pts is None:
            return None
        place = int(np.searchsorted(self.pts, pts))
        found = place < len(self.pts) and self.pts[place] == pts
        return int(self._order[place]) if found else None

    def entry_before(self, pts: int) -> int:
        """Return the number of the packet from which the frame shown at `pts` can be decoded."""
        before = self.entries[self.index.pts[self.entries] <= pts]
        return int(before[-1]) if len(before) else 0

    def span(self, start_s: float, end_s: float) -> Span:
        """Return the cut that is asked for, on the boundaries of frames where they are close.

        A cut moves to the nearest boundary if that is at most half a usual frame away, so a video
        of constant rate is never cut inside a frame. One that is shown for long, as in recordings
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


class FrameReader:
    """Decodes spans of a video, one after another, with one open file.

    Use it as a context manager, so that the open file goes back to the video.
    """

    def __init__(self, video: IndexedVideo) -> None:
        self._video = video
        self._files = contextlib.ExitStack()
        self._demuxer: Demuxer | None = None
        self._own: Demuxer | None = None

    def __enter__(self) -> FrameReader:
        """Return the reader."""
        return self

    def __exit__(self, *error: object) -> None:
        """Give the open file back."""
        self._demuxer = None
        self._close_own()
        self._files.__exit__(*error)  # type: ignore[arg-type]

    def frames(
        self, span: Span, only: Container[int] | None = None
    ) -> Iterator[tuple[VideoFrame, int]]:
        """Yield the frames shown in a span, and when: first the one on display at its start.

        That is the video's first frame where the span begins before it, as where sound comes first.
        What the decoder refuses is left out.

        Args:
            span: the span.
            only: timestamps of the frames that are wanted; others that no frame refers to are not
                decoded. None wants all.
        """
        video = self._video
        index = video.index
        first = video.shown_at(span.start_pts)
        end_pts = max(span.end_pts, first + 1)
        if index.unusable is not None:
            yield from self._from_the_beginning(first, end_pts)
            return
        needed = np.flatnonzero(index.shown & (index.pts >= first) & (index.pts < end_pts))
        last = int(index.pts[needed[-1]])  # the last one that must be fed, in decoding order
        packets = _until(self.packets_from(video.entry_before(first)), last)
        if only is not None:
            packets = itertools.filterfalse(functools.partial(self._is_spare, only), packets)
        for frame in decode_packets(self._open(), packets, DecodeCounts()):
            if frame.pts is not None and first <= frame.pts < end_pts:
                yield frame, frame.pts

    def packets_from(self, place: int) -> Iterator[Packet[VideoStream]]:
        """Return the video's packets from one on, in decoding order.

        Args:
            place: its number; 0, or that of a frame that is shown.
        """
        self.stream.codec_context.flush_buffers()
        for earlier_s in _EARLIER_S if place else (0,):
            packets = self._seek(place, earlier_s)
            if packets is not None:
                return packets
        packets = self._reopened().packets()
        return itertools.dropwhile(lambda packet: self._is_before(packet, place), packets)

    @property
    def stream(self) -> VideoStream:
        """The stream that is read."""
        return self._open().stream

    def _open(self) -> Demuxer:
        if self._demuxer is None:
            self._demuxer = self._files.enter_context(self._video.borrowed())
        return self._demuxer

    def _reopened(self) -> Demuxer:
        """Open the file anew: reading from the beginning works also where seeking does not."""
        self._close_own()
        self._demuxer = self._own = self._video.open()
        return self._own

    def _close_own(self) -> None:
        if self._own is not None:
            self._own.close()
        self._own = None

    def _is_spare(self, wanted: Container[int], packet: Packet[VideoStream]) -> bool:
        """Whether a packet's frame is not wanted, and no other frame refers to it."""
        place = None if packet.pts in wanted else self._video.place_of(packet.pts)
        return place is not None and bool(self._video.index.disposable[place])

    def _is_before(self, packet: Packet[VideoStream], place: int) -> bool:
        return bool(place) and self._video.place_of(packet.pts) != place

    def _seek(self, place: int, earlier_s: int) -> Iterator[Packet[VideoStream]] | None:
        """Return the packets from one on; None if the container went to a later one."""
        video = self._video
        demuxer = self._open()
        target = int(video.index.pts[place]) - round(earlier_s / video.time_base)
        try:
            demuxer.container.seek(target, stream=demuxer.stream)
        except OSError:
            return None
        packets = demuxer.packets()
        for packet in packets:
            found = video.place_of(packet.pts)
            if found == place:
                return itertools.chain((packet,), packets)
            if found is not None and found > place:
                return None
        return None

    def _from_the_beginning(self, first: int, end_pts: int) -> Iterator[tuple[VideoFrame, int]]:
        """Decode everything where the index cannot say when frames are shown."""
        demuxer = self._reopened()
        times = self._video.index.time_guesser()
        for frame in decode_packets(demuxer, demuxer.packets(), DecodeCounts()):
            pts = times.guess(frame)
            if pts >= end_pts:
                return
            if pts >= first:
                yield frame, pts


def _until(packets: Iterator[Packet[VideoStream]], last_pts: int) -> Iterator[Packet[VideoStream]]:
    """Yield packets up to the one of a timestamp, which is the last."""
    for packet in packets:
        yield packet
        if packet.pts == last_pts:
            return


Video: TypeAlias = IndexedVideo | StrPath


def path_of(video: Video) -> VideoPath:
    """Return the path of a video's file, or the video at an address."""
    return video.path if isinstance(video, IndexedVideo) else video_path(video)


@contextlib.contextmanager
def indexed(video: Video) -> Iterator[IndexedVideo]:
    """Give a video indexed: as it is, or, of a path, one whose files are closed in the end."""
    if isinstance(video, IndexedVideo):
        yield video
        return
    with IndexedVideo(video) as opened:
        yield opened
