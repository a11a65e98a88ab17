"""Small generated videos whose pictures carry their number, and the oracle they are held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.r2rt.video.oracle import scale_and_crop

SIZE = (96, 64)
NUMBER_BITS = 10


def numbered_picture(number: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A moving texture with the number in two rows of black and white squares at the top."""
    width, height = size
    rng = np.random.default_rng(7)
    texture = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    picture = np.roll(texture, (number, 2 * number), (0, 1)).copy()
    side = width // 6
    picture[: 2 * side] = 0
    for bit in range(NUMBER_BITS):
        if number >> bit & 1:
            row, column = divmod(bit, 5)
            left = side // 2 + column * side
            picture[row * side : (row + 1) * side, left : left + side] = 255
    return picture


def picture_number(frame: av.VideoFrame) -> int:
    """The number that a decoded picture of the original size carries."""
    pixels = frame.to_ndarray(format="gray")
    side = pixels.shape[1] // 6
    number = 0
    for bit in range(NUMBER_BITS):
        row, column = divmod(bit, 5)
        left = side // 2 + column * side
        square = pixels[row * side : (row + 1) * side, left : left + side]
        number |= int(square.mean() > 127) << bit
    return number


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 100,
    rate: Fraction = Fraction(25),
    times: Sequence[Fraction] | None = None,
    size: tuple[int, int] = SIZE,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    muxer_options: Mapping[str, str] | None = None,
    rotation: float | None = None,
    sample_aspect_ratio: Fraction | None = None,
    audio_start_s: Fraction | None = None,
    muxer: str | None = None,
) -> Path:
    """Encode numbered pictures; `times` sets their times in seconds, else they follow `rate`."""
    with av.open(str(path), "w", format=muxer, options=dict(muxer_options or {})) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        time_base = Fraction(1, 90_000) if times is not None else 1 / rate
        stream.codec_context.time_base = time_base
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip(f"PyAV {av.__version__} writes no display matrix")
            stream.set_display_rotation(rotation)
        audio: Any = None
        if audio_start_s is not None:
            audio = container.add_stream("aac", rate=48000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, size), format="rgb24")
            frame.time_base = time_base
            frame.pts = number if times is None else round(times[number] / time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None and audio_start_s is not None:
            _write_silence(container, audio, audio_start_s)
    return path


def _write_silence(container: Any, audio: Any, start_s: Fraction) -> None:
    for block in range(20):
        silence = av.AudioFrame.from_ndarray(
            np.zeros((2, 1024), np.float32), format="fltp", layout="stereo"
        )
        silence.sample_rate = 48000
        silence.time_base = Fraction(1, 48000)
        silence.pts = round(start_s * 48000) + 1024 * block
        container.mux(audio.encode(silence))
    container.mux(audio.encode(None))


def ffmpeg_fps(path: Path, fps: Fraction, image_size: int = 32) -> list[NDArray[np.uint8]]:
    """Decode everything and let libavfilter choose and scale: one (S, S, 3) frame a clip."""
    chosen: list[NDArray[np.uint8]] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        ratio, time_base = stream.sample_aspect_ratio, stream.time_base
    assert time_base is not None
    graph: Any = None
    for frame in decode_everything(path):
        if graph is None:
            scaling = scale_and_crop(frame.width, frame.height, image_size, ratio)
            size = (frame.width, frame.height)
            graph = fps_graph(fps, time_base, *size, frame.format, scaling)
        graph.vpush(frame)
        chosen += [np.asarray(out.to_ndarray(), np.uint8) for out in pulled(graph)]
    graph.vpush(None)
    chosen += [np.asarray(out.to_ndarray(), np.uint8) for out in pulled(graph)]
    return chosen


def decode_everything(path: Path) -> Iterator[av.VideoFrame]:
    """Yield every picture with the container's start at zero, as the ffmpeg command shifts it.

    Like that command, give pictures without duration that of the one before.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        stream.codec_context.thread_count = 1
        last_pts = 0
        shift = round(Fraction(container.start_time or 0, 1_000_000) / stream.time_base)
        for packet in container.demux(stream):
            for frame in stream.codec_context.decode(packet if packet.size else None):
                assert frame.pts is not None
                frame.time_base = stream.time_base
                frame.pts -= shift
                frame.duration = frame.duration or frame.pts - last_pts
                last_pts = frame.pts
                yield frame


def fps_graph(
    fps: Fraction,
    time_base: Fraction,
    width: int,
    height: int,
    pix_fmt: Any,
    then: Sequence[tuple[str, str]] = (),
) -> Any:
    """Return a graph of the `fps` filter and the filters (name, arguments) that follow it."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=pix_fmt, time_base=time_base)
    rate = graph.add("fps", f"fps={fps}:round=near:start_time=0")
    filters = [graph.add(*item) for item in then]
    graph.link_nodes(source, rate, *filters, graph.add("buffersink")).configure()
    return graph


def pulled(graph: Any) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
