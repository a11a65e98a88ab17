"""A video file as a source: indexed once, planned once, then decoded as often as it is iterated."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from fractions import Fraction

from r2rt.errors import NoFramesError, SourceNotFoundError
from r2rt.video.api import ClipFrame, DecodeReport, Sampling, SourceInfo
from r2rt.video.decoder import DecodeCounts, Picked, decode_all, decode_planned, decode_tail
from r2rt.video.decoders import Decoder
from r2rt.video.demux import Demuxer
from r2rt.video.departures import Departures
from r2rt.video.fingerprint import fingerprint_file
from r2rt.video.hardware import choose_decoder
from r2rt.video.inspection import inspect_file
from r2rt.video.part import Part
from r2rt.video.pixels import FramePreparer
from r2rt.video.plan import DecodePlan, PlanCost, plan_exact, plan_nearest
from r2rt.video.remote import RemoteVideo, VideoPath

__all__ = ["VideoFile"]


class VideoFile:
    """A `FrameSource` over a file that PyAV can read; see `open_source` for the arguments."""

    def __init__(
        self,
        path: VideoPath,
        *,
        fps: Fraction,
        image_size: int,
        sampling: Sampling = "exact",
        tolerance_s: Fraction | None = None,
        part: Part | None = None,
        threads: int | None = None,
        decoder: Decoder = "cpu",
        video_track: int | None = None,
    ) -> None:
        self._path = path
        self._asked_decoder: Decoder = decoder
        self._video_track = video_track
        self._decoder = "cpu"
        self._decoder_fallback: str | None = None
        self._fps = fps
        self._threads = threads
        self._sampling: Sampling = sampling
        self._prepare = FramePreparer(image_size)
        self._iteration: Generator[ClipFrame, None, None] | None = None
        self._counts = DecodeCounts()
        self._clips = self._clips_lost = self._frames_corrupt = 0

        facts = inspect_file(path, video_track=video_track)
        self._index = facts.index
        self._ends_early_s = facts.ends_early_s
        self._broken_at_byte = facts.broken_at_byte
        self._ratio, self._turn = facts.sample_aspect_ratio, facts.turn
        self._span = (part or Part()).span(
            fps=fps, time_base=self._index.time_base, source_start_pts=self._index.start_pts
        )
        self._track_chosen = (
            f"{path} has {facts.video_tracks} video tracks, of which number {facts.video_track} is "
            "read; --video-track N takes another"
            if video_track is None and facts.video_tracks > 1
            else None
        )
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
            width=facts.display_size[0],
            height=facts.display_size[1],
            frame_rate=facts.average_rate,
            codec=facts.codec,
            fingerprint=_fingerprint(path),
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
        index = self._index
        starts_inside = self._span.begin_pts is not None
        stops_inside = self._span.end_pts is not None and self._span.end_pts <= index.end_pts
        return DecodeReport(
            clips=self._clips,
            frames_decoded=counts.frames_decoded,
            packets=counts.packets,
            packets_decoded=counts.packets_decoded,
            sampling=self._sampling,
            cost=self.cost,
            decoder=self._decoder,
            departures=Departures(
                packets_lost=counts.packets_lost,
                packets_damaged=index.damaged,
                frames_corrupt=self._frames_corrupt,
                frames_replaced=counts.frames_replaced,
                frames_lost_at_start=0 if starts_inside else index.lost_at_start,
                clips_lost_at_end=self._clips_lost,
                broken_at_byte=self._broken_at_byte,
                missing_s=index.missing_s,
                ends_early_s=0.0 if stops_inside else self._ends_early_s,
                leaps_closed=index.leaps,
                leaps_s=index.leaps_s,
                decoded_all=index.unusable,
                decoder_fallback=self._decoder_fallback,
                track_chosen=self._track_chosen,
            ),
        )

    def __iter__(self) -> Iterator[ClipFrame]:
        """Yield the frames of all clips in order, decoding on demand.

        An iteration under way ends when another begins.

        Raises:
            NoFramesError: no frame could be decoded.
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

    def __exit__(self, *_: object) -> None:
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
        self._clips = self._clips_lost = self._frames_corrupt = 0
        yield from self._read(self._picked)
        if self._plan is not None and self._clips < self._num_clips:
            yield from self._read(self._tail)
        if not self._clips:
            raise self._no_frames()
        self._clips_lost = max(self._num_clips - self._clips, 0)
        if self._clips_lost:
            self._info = replace(self._info, duration_s=float(self._clips / self._fps))

    def _read(self, pick: Callable[[Demuxer], Iterator[Picked]]) -> Iterator[ClipFrame]:
        """Yield what is picked from the file, read from its beginning."""
        threads, track = self._threads, self._video_track
        decoder = self._asked_decoder
        if not isinstance(self._path, RemoteVideo):
            decoder = choose_decoder(decoder, self._path, video_track=track, threads=threads)
        elif decoder == "auto":
            decoder = "cpu"  # the demuxer refuses any other, and says so
        demuxer = Demuxer(self._path, threads=threads, decoder=decoder, video_track=track)
        # A decoder that was chosen by name does not know the stream's display matrix.
        turn = None if demuxer.decoder == "cpu" else self._turn
        try:
            for picked in pick(demuxer):
                self._clips = picked.clip_index + picked.count
                self._frames_corrupt += picked.frame.is_corrupt
                yield ClipFrame(
                    clip_index=picked.clip_index,
                    count=picked.count,
                    time_s=self._span.clock.time_s(picked.pts),
                    pixels=self._prepare(picked.frame, sample_aspect_ratio=self._ratio, turn=turn),
                )
        finally:
            self._decoder, self._decoder_fallback = demuxer.decoder, demuxer.refusal
            demuxer.close()

    def _picked(self, demuxer: Demuxer) -> Iterator[Picked]:
        if self._plan is not None:
            demuxer.need(self._plan.feed)
            return decode_planned(demuxer, self._plan, self._counts)
        return decode_all(
            demuxer,
            self._index,
            self._span.clock,
            self._counts,
            begin_pts=self._span.begin_pts,
            end_pts=self._span.end_pts,
        )

    def _tail(self, demuxer: Demuxer) -> Iterator[Picked]:
        from_clip = self._clips
        picked_pts: set[int] = set()
        for picked in decode_tail(
            demuxer,
            self._index,
            self._span.clock,
            self._counts,
            from_clip=from_clip,
            begin_pts=self._span.begin_pts,
            end_pts=self._span.end_pts,
        ):
            picked_pts.add(picked.pts)
            yield picked
        assert self._plan is not None
        chosen, clips = self._plan.chosen_pts, self._plan.clip_index
        due = chosen[(clips >= from_clip) & (clips < self._clips)]
        self._counts.frames_replaced += len(set(due.tolist()) - picked_pts)

    def _no_frames(self) -> NoFramesError:
        lasts_s = float((self._index.end_pts - self._index.start_pts) * self._index.time_base)
        return NoFramesError(
            f"{self._path}: no frame could be decoded in the requested part; "
            f"the video lasts {lasts_s:.3f} s"
        )


def _fingerprint(path: VideoPath) -> str:
    try:
        return fingerprint_file(path)
    except SourceNotFoundError:
        raise
    except OSError as error:
        raise SourceNotFoundError(f"{path}: cannot be read: {error.strerror or error}") from error
