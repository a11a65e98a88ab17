"""Decoding chosen frames: ours against decord, torchcodec, OpenCV and plain PyAV.

    python benchmarks/decode.py

Everyone goes from a file to the same clips' images at the model's size, in the fastest way that
its documentation offers: decord and torchcodec seek and scale while they decode, OpenCV converts
only what it keeps, plain PyAV decodes everything. The index pass and the plan are part of ours.
torchcodec brings no FFmpeg and is lent PyAV's where the system has none.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import av
import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.agreement import same_images, similar_images
from benchmarks.harness import Case, Options, Report, common_options, timed
from benchmarks.lent_ffmpeg import lend_ffmpeg
from benchmarks.material import RATE, VideoSpec, find_source, make_video
from r2rt.portable import usable_cores
from r2rt.video import Sampling, open_source, prepare_frame

__all__ = ["COMPETITORS", "main", "read_ours"]

_FPS = Fraction(1, 2)
_SIZE = 224
_PLAIN = "PyAV, everything"

Bytes = NDArray[np.uint8]
# From a file and ascending numbers of frames to images (T, S, S, 3) uint8 RGB.
Reader = Callable[[Path, list[int]], Bytes]


@click.command()
@common_options
@click.option("--seconds", type=float, default=60.0, show_default=True, help="Videos' length.")
def main(options: Options, seconds: float) -> None:
    """Measure decoding of chosen frames on several codecs and GOP lengths."""
    report = Report("decode", options, seconds=seconds, fps=str(_FPS), image_size=_SIZE)
    readers = _installed(report)
    for spec in _specs(options, seconds):
        video = make_video(spec, options.media, find_source())
        for sampling in ("exact", "nearest"):
            _compare(report, readers, spec, video, sampling)
    report.finish()


def read_ours(video: Path, sampling: Sampling) -> tuple[Bytes, list[int], int]:
    """Return images (T, S, S, 3), the number of each one's frame, and how many were decoded."""
    with open_source(video, fps=_FPS, image_size=_SIZE, sampling=sampling) as source:
        frames = list(source)
        decoded = source.report.frames_decoded
    images = np.stack([frame.pixels for frame in frames])
    return images, [round(frame.time_s * RATE) for frame in frames], decoded


def read_pyav(video: Path, numbers: list[int]) -> Bytes:
    """Decode everything with PyAV; resize what was chosen."""
    wanted = set(numbers)
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return np.stack(
            [
                prepare_frame(frame, _SIZE)
                for number, frame in enumerate(container.decode(stream))
                if number in wanted
            ]
        )


def read_decord(video: Path, numbers: list[int]) -> Bytes:
    """Let decord seek, decode and scale."""
    import decord

    width, height = _scaled(*_dimensions(video))
    reader = decord.VideoReader(str(video), width=width, height=height)
    return _cropped(reader.get_batch(numbers).asnumpy())


def read_torchcodec(video: Path, numbers: list[int]) -> Bytes:
    """Let torchcodec seek, decode and scale, trusting the container's index."""
    decoders: Any = importlib.import_module("torchcodec.decoders")
    transforms: Any = importlib.import_module("torchcodec.transforms")
    width, height = _scaled(*_dimensions(video))
    decoder = decoders.VideoDecoder(
        str(video),
        dimension_order="NHWC",
        num_ffmpeg_threads=usable_cores(),
        seek_mode="approximate",
        transforms=[transforms.Resize((height, width))],
    )
    return _cropped(decoder.get_frames_at(numbers).data.numpy())


def read_opencv(video: Path, numbers: list[int]) -> Bytes:
    """Grab every frame up to the last chosen one; convert and resize the chosen ones."""
    cv2: Any = importlib.import_module("cv2")
    capture = cv2.VideoCapture(str(video))
    wanted = set(numbers)
    images = []
    for number in range(numbers[-1] + 1):
        if not capture.grab():
            raise ValueError(f"OpenCV finds only {number} frames in {video}")
        if number in wanted:
            _, image = capture.retrieve()
            size = _scaled(image.shape[1], image.shape[0])
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            images.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
    capture.release()
    return _cropped(np.stack(images))


COMPETITORS: dict[str, tuple[str, Reader]] = {
    "decord": ("decord", read_decord),
    "torchcodec": ("torchcodec.decoders", read_torchcodec),
    "OpenCV": ("cv2", read_opencv),
}
"""What else reads frames: the module that must be importable, and how it is asked."""


def _installed(report: Report) -> dict[str, Reader]:
    readers = {}
    for name, (module, reader) in COMPETITORS.items():
        try:
            importlib.import_module(module)
        # Besides being absent, a package may lack libraries that it loads, in ways of its own.
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            report.skip("all", name, f"cannot be imported: {reason}; pip install 'r2rt[bench]'")
        else:
            readers[name] = reader
    return readers


def _specs(options: Options, seconds: float) -> list[VideoSpec]:
    if options.quick:
        return [VideoSpec(seconds=20, width=320, height=180, keyint=50)]
    return [
        *(VideoSpec(seconds=seconds, keyint=keyint) for keyint in (250, 50, 25)),
        *(VideoSpec(seconds=seconds, codec=codec, keyint=50) for codec in ("hevc", "vp9", "av1")),
    ]


def _compare(
    report: Report, readers: dict[str, Reader], spec: VideoSpec, video: Path, sampling: Sampling
) -> None:
    group = f"{sampling}, {spec.label}"
    ours, numbers, decoded = read_ours(video, sampling)
    present = {}
    for name, reader in readers.items():
        # A competitor's own build of FFmpeg may lack the codec.
        try:
            theirs = reader(video, numbers)
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            report.skip(group, name, f"cannot read the file: {reason[:120]}")
        else:
            report.agree(f"{group}, {name}", lambda theirs=theirs: similar_images(ours, theirs))  # type: ignore[misc]
            present[name] = reader
    name = f"ours, {sampling}"
    rows = report.time(
        group,
        [
            Case(name=_PLAIN, measure=timed(lambda: read_pyav(video, numbers))),
            *(
                Case(name=other, measure=timed(lambda reader=reader: reader(video, numbers)))  # type: ignore[misc]
                for other, reader in present.items()
            ),
            Case(name=name, measure=timed(lambda: read_ours(video, sampling))),
        ],
        agree=lambda: same_images(ours, read_pyav(video, numbers)),
        repeats=report.options.rounds(3),
        baseline=_PLAIN,
        values={name: {"decoded": decoded, "of": spec.frames}},
    )
    mine = rows[name].speedup or 0.0
    if sampling == "exact":
        best = max(row.speedup or 0.0 for other, row in rows.items() if other != name)
        limit = 1.3 if spec.codec == "h264" else 1.0
        report.target(f"exact over the fastest other, {spec.label}", mine / best, ">=", limit)
    elif spec.keyint == 50 and spec.codec == "h264":
        report.target(f"nearest over decoding everything, {spec.label}", mine, ">=", 8)


def _dimensions(video: Path) -> tuple[int, int]:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height


def _scaled(width: int, height: int) -> tuple[int, int]:
    if width >= height:
        return round(_SIZE * width / height), _SIZE
    return _SIZE, round(_SIZE * height / width)


def _cropped(images: Bytes) -> Bytes:
    top, left = (images.shape[1] - _SIZE) // 2, (images.shape[2] - _SIZE) // 2
    return np.ascontiguousarray(images[:, top : top + _SIZE, left : left + _SIZE])


if __name__ == "__main__":
    lend_ffmpeg(Path(tempfile.gettempdir()) / f"r2rt-ffmpeg-{av.__version__}")
    main()
