"""Test videos of any length, resolution, codec and GOP length, made once and kept.

    python benchmarks/material.py FOLDER --seconds 158 --codec h264 --keyint 50

Only one segment of whole GOPs (and what is left at the end) is encoded; a longer video repeats its
packets with shifted timestamps, so that an hour takes seconds to write and every GOP decodes alone.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import av
import click
import numpy as np
from numpy.typing import NDArray

from r2rt.files import replacing

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["CODECS", "RATE", "VideoSpec", "find_source", "looped", "make_video"]

RATE = 25
# Raised whenever the same spec would give another file.
_RECIPE = 1
# About this many frames are encoded; a longer video repeats them.
_SEGMENT_FRAMES = 250
# Encoders of one thread count write the same bytes on every machine.
_THREADS = "2"


@dataclass(frozen=True, kw_only=True)
class _Codec:
    encoder: str
    suffix: str
    options: dict[str, str]


# Closed GOPs of exactly `keyint` frames. The options spell out what makes them so.
_X264 = "scenecut=0:open-gop=0"
CODECS: dict[str, _Codec] = {
    "h264": _Codec(
        encoder="libx264",
        suffix=".mp4",
        options={"preset": "medium", "crf": "23", "x264-params": _X264},
    ),
    "hevc": _Codec(
        encoder="libx265",
        suffix=".mp4",
        options={
            "preset": "fast",
            "crf": "26",
            "x265-params": f"{_X264}:log-level=none:pools={_THREADS}:frame-threads=1",
        },
    ),
    "vp9": _Codec(
        encoder="libvpx-vp9",
        suffix=".webm",
        options={
            "deadline": "realtime",
            "cpu-used": "6",
            "row-mt": "1",
            "crf": "34",
            "b": "0",
            "lag-in-frames": "16",
            "auto-alt-ref": "1",
        },
    ),
    "av1": _Codec(
        encoder="libsvtav1",
        suffix=".mp4",
        options={"preset": "10", "crf": "36", "svtav1-params": f"lp={_THREADS}:scd=0"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """A test video, 25 frames a second.

    Attributes:
        seconds: its length.
        width: its width, even.
        height: its height, even.
        codec: one of `CODECS`.
        keyint: frames from keyframe to keyframe.
    """

    seconds: float
    width: int = 1280
    height: int = 720
    codec: str = "h264"
    keyint: int = 250

    @property
    def frames(self) -> int:
        """Number of frames."""
        return max(1, round(self.seconds * RATE))

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.codec} {self.height}p, GOP {self.keyint}"


def find_source() -> Path | None:
    """Return the real video that test videos show, or None where it is absent.

    It is `videos/bigbuckbunny.mp4` in `$R2RT_SHARED`, or in `shared` beside the checkout.
    """
    checkout = Path(__file__).resolve().parents[1]
    shared = Path(os.environ.get("R2RT_SHARED", checkout.parent / "shared"))
    path = shared / "videos" / "bigbuckbunny.mp4"
    return path if path.is_file() else None


def make_video(spec: VideoSpec, folder: Path, source: Path | None = None) -> Path:
    """Return the file of a test video in `folder`, made if it is not there.

    Args:
        spec: what it is like.
        folder: where such files are kept.
        source: a video that is shown in a loop; without, moving patterns are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(spec, spec.frames, source)
    if not path.exists():
        segment = spec.keyint * -(-_SEGMENT_FRAMES // spec.keyint)
        whole, rest = divmod(spec.frames, segment)
        if not whole:
            _encode(spec, spec.frames, source, path)
        else:
            parts = [_segment(spec, segment, source, folder)] * whole
            if rest:
                parts.append(_segment(spec, rest, source, folder))
            _join(parts, segment, path)
    return path


def looped(video: Path, seconds: float, path: Path) -> Path:
    """Write a video's packets again and again, until `path` lasts so long, and return it."""
    end_s = 0.0
    with av.open(str(video)) as first, av.open(str(path), "w") as output:
        template = first.streams.video[0]
        length, time_base = template.duration, template.time_base
        assert length is not None
        assert time_base is not None
        stream = output.add_stream_from_template(template, opaque=True)
        for turn in itertools.count():
            if end_s >= seconds:
                return path
            with av.open(str(video)) as again:
                for packet in again.demux(again.streams.video[0]):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        packet.pts += turn * length
                        packet.dts += turn * length
                        packet.stream = stream
                        output.mux(packet)
            end_s = float((turn + 1) * length * time_base)
    raise AssertionError("unreachable")


def _file_name(spec: VideoSpec, frames: int, source: Path | None) -> str:
    digest = hashlib.sha256(repr((_RECIPE, spec.codec, CODECS[spec.codec])).encode())
    if source is not None:
        digest.update(source.read_bytes())
    return (
        f"{spec.codec}-{spec.width}x{spec.height}-g{spec.keyint}-{frames}f-"
        f"{digest.hexdigest()[:8]}{CODECS[spec.codec].suffix}"
    )


def _segment(spec: VideoSpec, frames: int, source: Path | None, folder: Path) -> Path:
    path = folder / _file_name(spec, frames, source)
    if not path.exists():
        _encode(spec, frames, source, path)
    return path


def _encode(spec: VideoSpec, frames: int, source: Path | None, path: Path) -> None:
    codec = CODECS[spec.codec]
    options = {
        **codec.options,
        "g": str(spec.keyint),
        "keyint_min": str(spec.keyint),
        "threads": _THREADS,
    }
    source_frames = _synthetic(spec) if source is None else _looped(spec, source)
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format=codec.suffix[1:]) as output,
    ):
        stream = cast("VideoStream", output.add_stream(codec.encoder, rate=RATE, options=options))
        stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, "yuv420p"
        for number in range(frames):
            frame = next(source_frames)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _looped(spec: VideoSpec, source: Path) -> Iterator[av.VideoFrame]:
    while True:
        with av.open(str(source)) as video:
            for frame in video.decode(video=0):
                # A new frame without the type and time that it had in the source.
                yield av.VideoFrame.from_ndarray(
                    frame.reformat(spec.width, spec.height, "yuv420p").to_ndarray(), "yuv420p"
                )


def _synthetic(spec: VideoSpec) -> Iterator[av.VideoFrame]:
    """Yield a window that wanders over smooth noise, another noise every five seconds."""
    number = 0
    texture = _texture(spec, 0)
    while True:
        scene, step = divmod(number, 5 * RATE)
        if number and step == 0:
            texture = _texture(spec, scene)
        top, left = step % 64, 2 * step % 256
        window = texture[top : top + spec.height, left : left + spec.width]
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(window), format="rgb24")
        number += 1


def _texture(spec: VideoSpec, scene: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(scene)
    height, width = spec.height + 64, spec.width + 256
    image = np.zeros((height, width, 3), np.float32)
    for cell, weight in ((64, 0.5), (16, 0.3), (4, 0.2)):
        coarse = noise.random((height // cell + 1, width // cell + 1, 3), np.float32)
        fine = coarse.repeat(cell, axis=0)[:height].repeat(cell, axis=1)[:, :width]
        image += weight * fine
    return (255 * image).astype(np.uint8)


def _join(parts: list[Path], segment_frames: int, path: Path) -> None:
    """Write the packets of all parts one after another."""
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format=path.suffix[1:]) as output,
        av.open(str(parts[0])) as first,
    ):
        template = first.streams.video[0]
        # Opaque: packets are copied, so no encoder of that codec is needed.
        stream = output.add_stream_from_template(template, opaque=True)
        header = template.codec_context.extradata
        for number, part in enumerate(parts):
            with av.open(str(part)) as video:
                if video.streams.video[0].codec_context.extradata != header:
                    raise ValueError(f"{part}: encoded with other parameters than {parts[0]}")
                for packet in _shifted(video, number * segment_frames):
                    packet.stream = stream
                    output.mux(packet)


def _shifted(video: InputContainer, frames: int) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of a video, `frames` frames later."""
    source = video.streams.video[0]
    for packet in video.demux(source):
        if packet.size and packet.pts is not None and packet.dts is not None:
            shift = int(frames / (RATE * packet.time_base))
            packet.pts += shift
            packet.dts += shift
            yield packet


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seconds", type=float, default=158.0, show_default=True)
@click.option("--size", default="1280x720", show_default=True, help="WIDTHxHEIGHT.")
@click.option("--codec", type=click.Choice(list(CODECS)), default="h264", show_default=True)
@click.option("--keyint", type=int, default=250, show_default=True, help="Frames of a GOP.")
@click.option("--source", type=click.Path(path_type=Path, exists=True), help="Video to loop.")
def main(
    folder: Path, seconds: float, size: str, codec: str, keyint: int, source: Path | None
) -> None:
    """Make a test video in FOLDER and print its path."""
    width, height = map(int, size.split("x"))
    spec = VideoSpec(seconds=seconds, width=width, height=height, codec=codec, keyint=keyint)
    click.echo(make_video(spec, folder, source or find_source()))


if __name__ == "__main__":
    main()
