"""The audio tracks of a span of a video, exact to the sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from r2rt.media.closed_leaps import packets_in_step
from r2rt.video.container import packets_of, read_stream, skip_stream

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.packet import Packet

    from r2rt.media.indexed_video import IndexedVideo
    from r2rt.video.demux import Demuxer

__all__ = ["SoundFormat", "audio_tracks", "only_sound", "read_sound", "sound_formats"]

# Audio decoders need some packets before their output is right: AAC one, Opus 80 ms.
_WARM_UP_S = (Fraction(1, 2), Fraction(3), Fraction(20), None)
# Matroska rounds timestamps to milliseconds: smaller distances are no gaps.
_JITTER_S = Fraction(2, 1000)
_BLOCK = 1024
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)


@dataclass(frozen=True, kw_only=True)
class SoundFormat:
    """How an audio track is written.

    Attributes:
        rate: samples a second.
        layout: name of the channels' layout.
        metadata: language and title, those that are known.
    """

    rate: int
    layout: str
    metadata: dict[str, str] = field(default_factory=dict)


def audio_tracks(video: IndexedVideo) -> list[int]:
    """Return the numbers of the audio streams that can be decoded, in the file's order."""
    return [number for number, facts in enumerate(video.audio) if facts.codec and facts.rate]


def sound_formats(video: IndexedVideo) -> list[SoundFormat]:
    """Return how each track of `audio_tracks` is written again as AAC."""
    facts = [video.audio[number] for number in audio_tracks(video)]
    return [
        SoundFormat(
            rate=item.rate if item.rate in AAC_RATES else 48000,
            layout=_LAYOUTS.get(item.channels, "stereo"),
            metadata=item.metadata,
        )
        for item in facts
    ]


def read_sound(
    video: IndexedVideo, track: int, start_s: Fraction, end_s: Fraction, format_: SoundFormat
) -> Iterator[NDArray[np.float32]]:
    """Yield a span of an audio track, as long as the span to the sample, silent where it has none.

    Args:
        video: the file.
        track: place among `audio_tracks`; one that the video lacks is silent.
        start_s: where it starts, on the source's clock, whose 0 is the container's start.
        end_s: where it ends.
        format_: rate and layout to give it.

    Yields:
        (channels, n) float32 blocks in -1..1; n is at most 1024.
    """
    channels = av.AudioLayout(format_.layout).nb_channels
    left = round((end_s - start_s) * format_.rate)
    tracks = audio_tracks(video)
    if track < len(tracks):
        leaps = bool(video.index.leaps)
        with video.unread() if leaps else video.borrowed(audio=tracks[track]) as demuxer:
            stream = demuxer.container.streams.audio[tracks[track]]
            origin_s = Fraction(demuxer.container.start_time or 0, 1_000_000)
            if leaps:
                origin_s = video.index.start_pts * video.time_base
                frames = _frames_in_step(demuxer, stream, start_s + origin_s)
            else:
                only_sound(demuxer, tracks[track])
                frames = _frames(video, tracks[track], demuxer, start_s + origin_s)
            decoded = _decoded(frames, start_s + origin_s, end_s + origin_s)
            for block in _converted(decoded, format_):
                for at in range(0, min(block.shape[1], left), _BLOCK):
                    yield block[:, at : min(at + _BLOCK, left)]
                left -= min(block.shape[1], left)
                if not left:
                    break
    while left:
        yield np.zeros((channels, min(left, _BLOCK)), np.float32)
        left -= min(left, _BLOCK)


def only_sound(demuxer: Demuxer, number: int) -> AudioStream:
    """Return an audio stream of an open file, and let that stream alone be read."""
    stream = demuxer.container.streams.audio[number]
    skip_stream(demuxer.stream)
    read_stream(stream)
    return stream


def _converted(
    decoded: Iterator[tuple[NDArray[np.float32], int, str]], format_: SoundFormat
) -> Iterator[NDArray[np.float32]]:
    """Yield what is decoded, resampled."""
    resampler: av.AudioResampler | None = None
    pts = 0
    for block, rate, layout in decoded:
        if resampler is None:
            resampler = av.AudioResampler("fltp", format_.layout, format_.rate)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(block), format="fltp", layout=layout
        )
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), pts
        pts += block.shape[1]
        yield from map(_samples, resampler.resample(frame))
    if resampler is not None:
        yield from map(_samples, resampler.resample(None))


def _decoded(
    frames: Iterator[AudioFrame], start_s: Fraction, end_s: Fraction
) -> Iterator[tuple[NDArray[np.float32], int, str]]:
    """Yield blocks at the source's rate that follow one another from `start_s` to about `end_s`."""
    planar: av.AudioResampler | None = None
    rate, layout = 0, ""
    position = 0  # samples handed out
    for frame in frames:
        if planar is None:
            rate, layout = frame.sample_rate, frame.layout.name
            planar = av.AudioResampler("fltp", layout, rate)
        if (frame.sample_rate, frame.layout.name) != (rate, layout):
            continue  # a stream that changes on the way is silent from there on
        if frame.pts is None or frame.time_base is None:
            begin = position
        else:
            begin = round((frame.pts * frame.time_base - start_s) * rate)
        frame.pts = None
        samples = np.concatenate([_samples(piece) for piece in planar.resample(frame)], axis=1)
        if begin >= (end_s - start_s) * rate:
            return
        if abs(begin - position) <= _JITTER_S * rate and position:
            begin = position
        while begin > position:  # of a gap, which may last for hours, a second at a time
            silent = min(begin - position, rate)
            yield np.zeros((samples.shape[0], silent), np.float32), rate, layout
            position += silent
        fresh = samples[:, position - begin :]
        if fresh.shape[1]:
            yield fresh, rate, layout
            position += fresh.shape[1]


def _frames(
    video: IndexedVideo, number: int, demuxer: Demuxer, start_s: Fraction
) -> Iterator[AudioFrame]:
    """Yield decoded sound that begins before `start_s`, or as early as there is any."""
    stream = demuxer.container.streams.audio[number]
    for warm_up_s in _WARM_UP_S:
        frames = _frames_after_seek(demuxer, stream, start_s, warm_up_s)
        first = next(frames, None)
        if first is None:
            continue
        if first.pts is None or first.time_base is None:
            early = False
        else:
            early = first.pts * first.time_base <= start_s
        if early or warm_up_s is None:
            yield first
            yield from frames
            return
    # AVI and FLV refuse to go to a time before their first packet.
    with video.unread() as anew:
        stream = only_sound(anew, number)
        yield from _decode(stream, packets_of(anew.container, stream))


def _frames_after_seek(
    demuxer: Demuxer, stream: AudioStream, start_s: Fraction, warm_up_s: Fraction | None
) -> Iterator[AudioFrame]:
    container, context = demuxer.container, stream.codec_context
    assert stream.time_base is not None
    begin_s = Fraction(container.start_time or 0, 1_000_000) - 1
    target_s = begin_s if warm_up_s is None else max(start_s - warm_up_s, begin_s)
    try:
        container.seek(int(target_s / stream.time_base), stream=stream)
    except OSError:
        return
    context.flush_buffers()
    yield from _decode(stream, packets_of(container, stream))


def _frames_in_step(
    demuxer: Demuxer, stream: AudioStream, start_s: Fraction
) -> Iterator[AudioFrame]:
    """Yield decoded sound of a file whose clock leaps, from before `start_s` on."""
    tick = stream.time_base
    assert tick is not None
    packets = packets_in_step(demuxer, stream)
    due = (p for p in packets if p.pts is None or p.pts * tick >= start_s - _WARM_UP_S[0])
    yield from _decode(stream, itertools.chain(due, (None,)))


def _decode(
    stream: AudioStream, packets: Iterator[Packet[AudioStream] | None]
) -> Iterator[AudioFrame]:
    """Yield what comes out of the decoder; a packet that is None, or empty, drains it."""
    try:
        for packet in packets:
            try:
                whole = packet if packet is not None and packet.size else None
                yield from stream.codec_context.decode(whole)
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                continue  # damage leaves a gap, which silence fills
    except av.error.FFmpegError:
        return  # the container cannot be read on


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    return np.asarray(frame.to_ndarray(), np.float32)
