"""Writing an mp4 of segments of videos, with exact times of frames and audio samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
from av.codec.context import Flags
from numpy.typing import NDArray

from r2rt.errors import OutputError
from r2rt.media.canvas import Canvas, Fitter, common_canvas
from r2rt.media.indexed_video import FrameReader, IndexedVideo, Span
from r2rt.media.sound import SoundFormat, read_sound, sound_formats
from r2rt.progress import Update

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["Movie", "Segment", "write_movie"]


# What PyAV's FFmpeg may have, best first, and what makes it indistinguishable at a glance.
_ENCODERS = (
    ("libx264", {"crf": "18", "preset": "fast"}),
    ("libopenh264", {"b": "12000000", "allow_skip_frames": "0"}),
    ("h264_videotoolbox", {"q": "70"}),
    ("mpeg4", {"qscale": "2", "flags": "+qscale"}),
)
_KEYFRAME_EVERY_S = 2
_BITS_A_CHANNEL = 96_000
# Several videos share one clock; 90 kHz is exact for all usual rates but NTSC's, 6 µs off there.
_SHARED_TIME_BASE = Fraction(1, 90_000)
_FINEST_TIME_BASE = Fraction(1, 1_000_000)


@dataclass(frozen=True)
class Segment:
    """A span of a video."""

    video: IndexedVideo
    span: Span

    @property
    def start_s(self) -> Fraction:
        """Where it starts, on the source's clock."""
        index = self.video.index
        return (self.span.start_pts - index.start_pts) * index.time_base

    @property
    def duration_s(self) -> Fraction:
        """How long it is."""
        return (self.span.end_pts - self.span.start_pts) * self.video.time_base


@dataclass(frozen=True, kw_only=True)
class Movie:
    """A movie that was written: of how many segments, and its length in seconds."""

    segments: int
    duration_s: Fraction


def write_movie(path: Path, segments: Sequence[Segment], update: Update | None = None) -> Movie:
    """Encode segments one after another into an mp4 of H.264 and AAC.

    The movie begins with the first segment's start at its time 0 and is as long as the segments
    together. Frames keep their distance in time. Every audio track is kept, cut to the sample, and
    silent where a source has none. Videos of different sizes are fitted into the largest, with
    black bars. The first segments are left out as long as not one frame of them decodes.

    Args:
        path: where to write; overwritten.
        segments: at least one.
        update: called with frames done and their total.

    Raises:
        OutputError: this FFmpeg cannot encode it.
        OSError: the file cannot be written.
    """
    sources = list(dict.fromkeys(segment.video for segment in segments))
    canvas = common_canvas([source.geometry for source in sources])
    time_base = sources[0].time_base if len(sources) == 1 else _SHARED_TIME_BASE
    if time_base < _FINEST_TIME_BASE:
        time_base = _SHARED_TIME_BASE
    # A track is written in the format of the first source that has it.
    formats: list[SoundFormat] = []
    for source in sources:
        formats += sound_formats(source)[len(formats) :]
    try:
        # A faststart movie can be shown while it is still being fetched.
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            return _Writer(container, canvas, time_base, formats).write(segments, update)
    except OSError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise OutputError(f"FFmpeg cannot encode the movie ({error}); try --copy") from error


class _Writer:
    def __init__(
        self,
        container: Any,
        canvas: Canvas,
        time_base: Fraction,
        formats: Sequence[SoundFormat],
    ) -> None:
        self._container = container
        self._canvas = canvas
        self._time_base = time_base
        self._formats = formats
        self._video: VideoStream | None = None
        self._tracks: list[_AudioTrack] = []
        self._last_pts = -1

    def write(self, segments: Sequence[Segment], update: Update | None) -> Movie:
        total = sum(_count(segment) for segment in segments)
        done = written = 0
        offset_s = Fraction(0)
        previous = segments[0].video
        for segment in segments:
            if segment.video is not previous:
                previous.close()  # of many videos one is open at a time
                previous = segment.video
            sounds = [
                _sound_of(segment, number, offset_s, format_)
                for number, format_ in enumerate(self._formats)
            ]
            for frame, pts, duration in self._frames(segment, offset_s):
                if self._video is None:
                    self._open(frame, segment.video.rate)
                self._write_frame(frame, pts, duration)
                # Sound keeps pace with the frames, so that the muxer need not hold either.
                for track, sound in zip(self._tracks, sounds, strict=True):
                    track.write(sound, until_s=(pts + duration) * self._time_base)
                done += 1
                if update is not None:
                    update(done, total)
            if self._video is None:
                continue  # no frame decodes: its sound has no track yet, and would be missing
            for track, sound in zip(self._tracks, sounds, strict=True):
                track.write(sound, until_s=None)
            offset_s += segment.duration_s
            written += 1
        if self._video is None:
            raise ValueError("no frame could be decoded")
        streams: list[Any] = [self._video, *(track.stream for track in self._tracks)]
        for stream in streams:
            self._container.mux(stream.encode(None))
        return Movie(segments=written, duration_s=offset_s)

    def _frames(
        self, segment: Segment, offset_s: Fraction
    ) -> Iterator[tuple[VideoFrame, int, int]]:
        """Yield frames fitted to the canvas with time and duration on the movie's clock."""
        fitter = Fitter(self._canvas, segment.video.geometry)
        span, source = segment.span, segment.video

        def movie_pts(pts: int) -> int:
            return round((offset_s + (pts - span.start_pts) * source.time_base) / self._time_base)

        held: tuple[VideoFrame, int] | None = None
        with FrameReader(source) as reader:
            for frame, pts in reader.frames(span):
                begin = max(pts, span.start_pts)
                if held is not None:
                    start = movie_pts(held[1])
                    yield fitter(held[0]), start, movie_pts(begin) - start
                # Where earlier frames are lost, the first decoded one is shown from the start on.
                held = frame, span.start_pts if held is None else begin
        if held is not None:
            start = movie_pts(held[1])
            yield fitter(held[0]), start, movie_pts(span.end_pts) - start

    def _open(self, frame: VideoFrame, rate: Fraction) -> None:
        """Start the movie: its colours are those of the first frame."""
        name, options = _encoder()
        stream = self._container.add_stream(name, rate=rate, options=dict(options))
        context = stream.codec_context
        context.width, context.height = frame.width, frame.height
        context.pix_fmt = frame.format.name
        context.time_base = stream.time_base = self._time_base
        context.framerate = rate
        context.sample_aspect_ratio = self._canvas.sample_aspect_ratio
        context.gop_size = max(1, round(rate * _KEYFRAME_EVERY_S))
        # Without frames out of order every player, also one that reads no edit list, starts with
        # the first; and the last one's duration, which may be seconds, is kept.
        context.max_b_frames = 0
        context.color_range = int(frame.color_range)
        context.colorspace = int(frame.colorspace)
        if hasattr(frame, "color_primaries"):  # since PyAV 17
            context.color_primaries = int(frame.color_primaries)
            context.color_trc = int(frame.color_trc)
        context.flags |= Flags.frame_duration
        if frame.interlaced_frame:
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        if self._canvas.matrix is not None:
            stream.set_display_matrix(self._canvas.matrix)
        self._video = stream
        self._tracks = [_AudioTrack(self._container, item) for item in self._formats]

    def _write_frame(self, frame: VideoFrame, pts: int, duration: int) -> None:
        assert self._video is not None
        # Two frames on one tick cannot both be shown; the muxer would refuse the second.
        if pts <= self._last_pts:
            return
        self._last_pts = pts
        frame.time_base = self._time_base
        frame.pts, frame.duration = pts, duration
        frame.pict_type = 0  # the encoder chooses frame types itself
        self._container.mux(self._video.encode(frame))


class _AudioTrack:
    """An audio stream of the movie, and how many samples were written to it."""

    def __init__(self, container: Any, format_: SoundFormat) -> None:
        self._container = container
        self._format = format_
        self._written = 0
        self.stream: AudioStream = container.add_stream("aac", rate=format_.rate)
        self.stream.metadata.update(format_.metadata)
        context = self.stream.codec_context
        context.layout = format_.layout
        context.format = "fltp"
        context.bit_rate = _BITS_A_CHANNEL * context.channels

    def write(self, sound: Iterator[NDArray[np.float32]], *, until_s: Fraction | None) -> None:
        """Write blocks until the track is at least so long; all of them if None."""
        until = None if until_s is None else round(until_s * self._format.rate)
        while until is None or self._written < until:
            block = next(sound, None)
            if block is None:
                return
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(block), format="fltp", layout=self._format.layout
            )
            frame.sample_rate = self._format.rate
            frame.time_base = Fraction(1, self._format.rate)
            frame.pts = self._written
            self._written += block.shape[1]
            self._container.mux(self.stream.encode(frame))


def _sound_of(
    segment: Segment, track: int, offset_s: Fraction, format_: SoundFormat
) -> Iterator[NDArray[np.float32]]:
    # Lengths are differences of rounded ends, so that segments never drift apart.
    rate = format_.rate
    begin = round(offset_s * rate)
    samples = round((offset_s + segment.duration_s) * rate) - begin
    end_s = segment.start_s + Fraction(samples, rate)
    return read_sound(segment.video, track, segment.start_s, end_s, format_)


def _count(segment: Segment) -> int:
    pts = segment.video.pts
    first = segment.video.shown_at(segment.span.start_pts)
    return max(1, int(np.searchsorted(pts, segment.span.end_pts) - np.searchsorted(pts, first)))


def _encoder() -> tuple[str, dict[str, str]]:
    """Return the best encoder of H.264 that this FFmpeg has, or of MPEG-4."""
    for name, options in _ENCODERS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name, options
    raise ValueError("it has no encoder for mp4")
