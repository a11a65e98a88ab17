"""A video file as a source: indexed once, planned once, then decoded as often as it is iterated."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from r2rt.errors import NoFramesError
from r2rt.video.api import ClipFrame, DecodeReport, Sampling, SourceInfo
from r2rt.video.decoder import (
    DecodeCounts,
    Picked,
    decode_all,
    decode_packet,
    decode_planned,
    drain,
)
from r2rt.video.demux import Demuxer
from r2rt.video.fingerprint import fingerprint_file
from r2rt.video.index import PacketIndex, index_packets
from r2rt.video.part import Part
from r2rt.video.pixels import FramePreparer, display_size
from r2rt.video.plan import DecodePlan, PlanCost, plan_exact, plan_nearest

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["FirstPicture", "VideoFile"]


class VideoFile:
    """A `FrameSource` over a file that PyAV can read; see `open_source` for the arguments."""

    def __init__(
        self,
        path: Path,
        *,
        fps: Fraction,
        image_size: int,
        sampling: Sampling = "exact",
        tolerance_s: Fraction | None = None,
        part: Part | None = None,
        threads: int | None = None,
        gpu: bool = False,
    ) -> None:
        self._path = path
        self._gpu = gpu
        self._decoder: Literal["cpu", "gpu"] = "cpu"
        self._decoder_fallback: str | None = None
        self._fps = fps
        self._threads = threads
        self._sampling: Sampling = sampling
        self._prepare = FramePreparer(image_size)
        self._iteration: Generator[ClipFrame, None, None] | None = None
        self._counts = DecodeCounts()
        self._clips = self._frames_corrupt = 0

        stream = _inspect(path)
        self._index = stream.index
        self._ratio = stream.sample_aspect_ratio
        self._span = (part or Part()).span(
            fps=fps, time_base=self._index.time_base, source_start_pts=self._index.start_pts
        )
        self._frame_duration = self._index.frame_duration
        self._plan = self._make_plan(tolerance_s)
        clock = self._span.clock
        stop_pts = self._span.stop_pts(self._index.end_pts)
        self._num_clips = self._plan.num_clips if self._plan else clock.num_clips(stop_pts)
        start_s = (clock.origin_pts - self._index.start_pts) * clock.time_base
        self._info = SourceInfo(
            name=str(path),
            kind="video",
            duration_s=clock.time_s(stop_pts),
            start_s=float(start_s),
            width=stream.width,
            height=stream.height,
            frame_rate=stream.frame_rate,
            codec=stream.codec,
            fingerprint=fingerprint_file(path),
        )

    @property
    def info(self) -> SourceInfo:
        """What the file is."""
        return self._info

    @property
    def fps(self) -> Fraction:
        """Clips a second."""
        return self._fps

    @property
    def num_clips(self) -> int:
        """How many clips are planned."""
        return self._num_clips

    @property
    def cost(self) -> PlanCost | None:
        """What the plan costs; None where everything is decoded."""
        return self._plan.cost if self._plan else None

    @property
    def report(self) -> DecodeReport:
        """What the last iteration came to, so far."""
        counts = self._counts
        return DecodeReport(
            clips=self._clips,
            frames_decoded=counts.frames_decoded,
            packets=counts.packets,
            packets_decoded=counts.packets_decoded,
            packets_lost=counts.packets_lost,
            frames_corrupt=self._frames_corrupt,
            frames_replaced=counts.frames_replaced,
            sampling=self._sampling,
            fallback=self._index.unusable,
            cost=self.cost,
            decoder=self._decoder,
            decoder_fallback=self._decoder_fallback,
        )

    def __iter__(self) -> Iterator[ClipFrame]:
        """Yield the pictures of all clips in order, decoding as they are asked for.

        An iteration under way ends when another begins.

        Raises:
            NoFramesError: not one picture could be decoded.
        """
        self.close()
        self._iteration = self._iterate()
        return self._iteration

    def close(self) -> None:
        """Close the file, from the thread that iterates; an iteration under way ends."""
        if self._iteration is not None:
            self._iteration.close()
        self._iteration = None

    def __enter__(self) -> VideoFile:
        """Return the source."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the source."""
        self.close()

    def _make_plan(self, tolerance_s: Fraction | None) -> DecodePlan | None:
        if self._index.unusable is not None:
            return None
        clock = self._span.clock
        end_pts = self._span.stop_pts(self._index.end_pts)
        begin_pts = self._span.begin_pts
        if self._sampling == "exact":
            plan = plan_exact(self._index, clock, begin_pts=begin_pts, end_pts=end_pts)
        else:
            tolerance = 1 / (2 * self._fps) if tolerance_s is None else tolerance_s
            plan = plan_nearest(
                self._index,
                clock,
                begin_pts=begin_pts,
                end_pts=end_pts,
                tolerance_pts=int(tolerance / clock.time_base),
            )
        if plan is None:
            raise self._no_frames()
        return plan

    def _iterate(self) -> Generator[ClipFrame, None, None]:
        self._counts = DecodeCounts()
        self._clips = self._frames_corrupt = 0
        demuxer = Demuxer(self._path, threads=self._threads, gpu=self._gpu)
        self._decoder = "gpu" if demuxer.on_gpu else "cpu"
        self._decoder_fallback = demuxer.gpu_refusal
        try:
            for picked in self._picked(demuxer):
                self._clips = picked.clip_index + picked.count
                self._frames_corrupt += picked.frame.is_corrupt
                yield ClipFrame(
                    clip_index=picked.clip_index,
                    count=picked.count,
                    time_s=self._span.clock.time_s(picked.pts),
                    pixels=self._prepare(picked.frame, sample_aspect_ratio=self._ratio),
                )
        finally:
            demuxer.close()
        if not self._clips:
            raise self._no_frames()

    def _picked(self, demuxer: Demuxer) -> Iterator[Picked]:
        if self._plan is not None:
            return decode_planned(demuxer, self._plan, self._counts)
        return decode_all(
            demuxer,
            self._span.clock,
            self._counts,
            frame_duration=self._frame_duration,
            begin_pts=self._span.begin_pts,
            end_pts=self._span.end_pts,
        )

    def _no_frames(self) -> NoFramesError:
        lasts_s = float((self._index.end_pts - self._index.start_pts) * self._index.time_base)
        return NoFramesError(
            f"{self._path}: not one picture could be decoded in the part asked for; "
            f"the video lasts {lasts_s:.3f} s"
        )


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """What one pass over a file tells."""

    index: PacketIndex
    width: int
    height: int
    sample_aspect_ratio: Fraction | None
    frame_rate: Fraction | None
    codec: str


def _inspect(path: Path) -> _Stream:
    """Index a file, and decode its first picture: only that tells how it is turned."""
    demuxer = Demuxer(path, threads=1)
    try:
        first = FirstPicture(demuxer)
        index = index_packets(demuxer, see=first.see)
        picture = first.found()
        if picture is None:
            raise NoFramesError(
                f"{path}: not one picture could be decoded from {len(index)} packets; "
                "the file is empty or damaged throughout"
            )
        ratio = demuxer.stream.sample_aspect_ratio
        width, height = display_size(picture, ratio)
        return _Stream(
            index=index,
            width=width,
            height=height,
            sample_aspect_ratio=ratio,
            frame_rate=demuxer.stream.average_rate,
            codec=demuxer.stream.codec_context.codec.canonical_name,
        )
    finally:
        demuxer.close()


class FirstPicture:
    """Decodes the packets that it is shown until a picture comes out."""

    def __init__(self, demuxer: Demuxer) -> None:
        self._demuxer = demuxer
        self._picture: VideoFrame | None = None

    def see(self, packet: Packet[VideoStream]) -> None:
        """Take the next packet."""
        if self._picture is None:
            self._take(decode_packet(self._demuxer, packet, DecodeCounts()))

    def found(self) -> VideoFrame | None:
        """Return the first picture, when all packets have been seen; None if none came out."""
        if self._picture is None:
            self._take(drain(self._demuxer, DecodeCounts()))
        return self._picture

    def _take(self, frames: list[VideoFrame]) -> None:
        self._picture = next(iter(frames), None)
