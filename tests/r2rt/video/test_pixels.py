"""Pixels: size, crop, colour, orientation and aspect ratio against pictures worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from struct import pack
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from r2rt.video import FramePreparer, open_source, prepare_frame
from tests.r2rt.video.clips import decode_everything
from tests.r2rt.video.conftest import VideoMaker
from tests.r2rt.video.oracle import ffmpeg_clips, needs_ffmpeg


def quadrants(height: int, width: int) -> NDArray[np.uint8]:
    """Red, green above blue, white."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    picture[height // 2 :, width // 2 :] = (255, 255, 255)
    return picture


def corners(pixels: NDArray[np.uint8]) -> str:
    """The colours of the corners, row by row, as letters."""
    names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w", (0, 0, 0): "k"}
    points = (pixels[2, 2], pixels[2, -3], pixels[-3, 2], pixels[-3, -3])
    return "".join(names[int(r > 127), int(g > 127), int(b > 127)] for r, g, b in points)


@pytest.mark.parametrize(
    "shape", [(48, 80), (80, 48), (33, 57), (57, 33), (224, 224), (1, 9), (3, 2)]
)
@pytest.mark.parametrize("size", [1, 16, 31, 224])
def test_shape_and_type(shape: tuple[int, int], size: int) -> None:
    pixels = prepare_frame(np.full((*shape, 3), 77, np.uint8), size)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.owndata
    assert np.all(np.abs(pixels.astype(int) - 77) <= 1)


def test_a_frame_of_the_right_size_is_unchanged_and_copied() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    pixels = prepare_frame(picture, 32)
    assert np.array_equal(pixels, picture)
    assert not np.shares_memory(pixels, picture)


def test_the_crop_is_central() -> None:
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, 32:64] = 255
    assert prepare_frame(picture, 32).min() == 255
    assert prepare_frame(picture.swapaxes(0, 1), 32).min() == 255


def test_resizing_is_bicubic() -> None:
    pillow_like = np.zeros((8, 8, 3), np.uint8)
    pillow_like[:, 4:] = 255
    row = prepare_frame(pillow_like, 32)[16, :, 0]
    # Bicubic overshoots on both sides of an edge, which clips here, and is monotone between.
    assert row[0] == 0
    assert row[-1] == 255
    assert 4 <= np.count_nonzero((row > 0) & (row < 255)) <= 8


def test_reuse_of_a_preparer_changes_nothing() -> None:
    prepare = FramePreparer(24)
    rng = np.random.default_rng(1)
    for shape in ((40, 70), (70, 40), (40, 70), (24, 24)):
        picture = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
        assert np.array_equal(prepare(picture), prepare_frame(picture, 24))


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuvj420p", "yuv444p", "yuv422p10le", "gbrp", "nv12", "gray"]
)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_range_and_depth(pix_fmt: str, level: int) -> None:
    grey = av.VideoFrame.from_ndarray(np.full((40, 60, 3), level, np.uint8), format="rgb24")
    pixels = prepare_frame(grey.reformat(format=pix_fmt), 32)
    assert np.abs(pixels.astype(int) - level).max() <= 2


@pytest.mark.parametrize(
    ("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)]
)
def test_the_colour_matrix_is_the_stream_s(matrix: int, kr: float, kb: float) -> None:
    wanted = np.array([200, 60, 30], np.float64)
    luma = kr * wanted[0] + (1 - kr - kb) * wanted[1] + kb * wanted[2]
    codes = [
        16 + 219 * luma / 255,
        128 + 112 * (wanted[2] - luma) / (1 - kb) / 255,
        128 + 112 * (wanted[0] - luma) / (1 - kr) / 255,
    ]
    planes = np.stack([np.full((32, 32), round(code), np.uint8) for code in codes])
    frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    frame.colorspace = matrix
    frame.color_range = 1
    assert np.abs(prepare_frame(frame, 32)[16, 16].astype(int) - wanted).max() <= 3


def test_alpha_is_ignored() -> None:
    picture = np.dstack([quadrants(40, 60), np.zeros((40, 60), np.uint8)])
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgba")
    assert np.array_equal(prepare_frame(frame, 32), prepare_frame(quadrants(40, 60), 32))


def test_sample_aspect_ratio_stretches() -> None:
    # 40 samples of width 2 are as wide as 80 of width 1: the central half is the crop.
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, 10:30] = 255
    wide = prepare_frame(picture, 20, sample_aspect_ratio=Fraction(2))
    assert wide[:, 1:-1].min() > 240
    tall = prepare_frame(picture.swapaxes(0, 1), 20, sample_aspect_ratio=Fraction(1, 2))
    assert tall[1:-1].min() > 240


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(shape: tuple[int, ...], dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"expected \(height, width, 3\) uint8"):
        prepare_frame(np.zeros(shape, dtype), 32)


def write_turned(path: Path, turn: Callable[[Any], None]) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv444p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip(f"PyAV {av.__version__} writes no display matrix")
        turn(stream)
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(quadrants(48, 96), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotation_is_honoured(degrees: int, tmp_path: Path) -> None:
    path = write_turned(
        tmp_path / "turned.mp4", lambda stream: stream.set_display_rotation(degrees)
    )
    # What other players read off the file: degrees counter-clockwise.
    rotation = next(decode_everything(path)).rotation
    assert abs(rotation) == abs(degrees)
    upright = np.ascontiguousarray(np.rot90(quadrants(48, 96), rotation // 90))
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        assert corners(next(iter(source)).pixels) == corners(upright)
        assert (source.info.width, source.info.height) == upright.shape[1::-1]


def test_a_telephone_held_upright(tmp_path: Path) -> None:
    # The matrix that telephones write: x' = -y, y' = x, a quarter turn clockwise.
    matrix = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]
    path = write_turned(tmp_path / "phone.mp4", lambda stream: stream.set_display_matrix(matrix))
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        assert corners(next(iter(source)).pixels) == "brwg"
        assert (source.info.width, source.info.height) == (48, 96)


@pytest.mark.parametrize(
    ("flips", "expected"), [({"hflip": True}, "grwb"), ({"vflip": True}, "bwrg")]
)
def test_mirroring_is_honoured(flips: dict[str, bool], expected: str, tmp_path: Path) -> None:
    path = write_turned(
        tmp_path / "mirrored.mp4", lambda stream: stream.set_display_rotation(0, **flips)
    )
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        assert corners(next(iter(source)).pixels) == expected


def rotate(stream: Any, *, degrees: int) -> None:
    stream.set_display_rotation(degrees)


def test_a_preparer_sees_a_stream_turn(tmp_path: Path) -> None:
    prepare = FramePreparer(32)
    frames: list[av.VideoFrame] = []
    for degrees in (0, 90, 0):
        path = tmp_path / f"turned{len(frames)}.mp4"
        write_turned(path, partial(rotate, degrees=degrees))
        frames.append(next(decode_everything(path)))
    turned = [corners(prepare(frame)) for frame in frames]
    assert turned[0] == turned[2] == "rgbw"
    assert turned[1] != "rgbw"


def test_sizes_reported_are_those_displayed(make_video: VideoMaker) -> None:
    path = make_video("anamorphic.mp4", sample_aspect_ratio=Fraction(4, 3), frames=10)
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        assert (source.info.width, source.info.height) == (128, 64)


@pytest.mark.parametrize("ratio", [(65536, 1), (1, 65536)])
def test_a_damaged_aspect_ratio_is_none(
    ratio: tuple[int, int], make_video: VideoMaker, tmp_path: Path
) -> None:
    whole = make_video("anamorphic.mp4", sample_aspect_ratio=Fraction(4, 3), frames=10)
    content = whole.read_bytes()
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content.replace(b"pasp" + pack(">II", 4, 3), b"pasp" + pack(">II", *ratio)))
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        assert (source.info.width, source.info.height) == (96, 64)
        assert [frame.pixels.shape for frame in source] == [(32, 32, 3)]


@pytest.mark.parametrize("size", [(33, 57), (97, 51)])
def test_odd_sizes(size: tuple[int, int], make_video: VideoMaker) -> None:
    path = make_video(f"odd{size[0]}.mkv", codec="ffv1", size=size, pix_fmt="yuv444p", frames=10)
    with open_source(path, fps=Fraction(5), image_size=40) as source:
        frames = list(source)
        assert (source.info.width, source.info.height) == size
    assert all(frame.pixels.shape == (40, 40, 3) for frame in frames)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "options"),
    [
        ("libx264", "yuv420p", {}),
        ("libx264", "yuv420p", {"x264-params": "tff=1"}),
        ("mpeg2video", "yuv420p", {"flags": "+ildct+ilme"}),
        ("libx264", "yuv420p", {"colorspace": "bt709", "color_range": "tv"}),
        ("libx264", "yuv420p", {"colorspace": "bt709", "color_range": "pc"}),
        ("libx264", "yuv422p10le", {"colorspace": "bt2020nc"}),
        ("libx264", "yuv444p", {}),
        ("ffv1", "bgra", {}),
    ],
    ids=["plain", "interlaced", "fields", "bt709", "full", "ten", "444", "alpha"],
)
@pytest.mark.parametrize("size", [(96, 64), (64, 100)])
def test_pixels_are_those_of_the_ffmpeg_program(
    codec: str, pix_fmt: str, options: dict[str, str], size: tuple[int, int], make_video: VideoMaker
) -> None:
    name = "-".join([codec, pix_fmt, *options.values(), str(size[0])]).replace("=", "")
    path = make_video(
        f"{name}.mkv", codec=codec, pix_fmt=pix_fmt, options=options, size=size, frames=8
    )
    with av.open(str(path)) as container:
        interlaced = next(container.decode(video=0)).interlaced_frame
    assert interlaced == ("tff=1" in options.values() or "flags" in options)
    with open_source(path, fps=Fraction(5), image_size=40) as source:
        ours = [frame.pixels for frame in source for _ in range(frame.count)]
    theirs = ffmpeg_clips(path, Fraction(5), 40)
    assert len(ours) == len(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_photos_with_exif_are_turned_as_pillow_turns_them(
    orientation: int, suffix: str, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    operations = pytest.importorskip("PIL.ImageOps")
    if suffix != "jpg" and not hasattr(av.stream, "Discard"):
        pytest.skip("before PyAV 17.1 PNG and WebP are not turned by EXIF")
    exif = image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"photo.{suffix}"
    image.fromarray(quadrants(48, 96)).save(path, exif=exif, quality=95)
    upright = np.asarray(operations.exif_transpose(image.open(path)).convert("RGB"))
    with open_source(tmp_path, fps=Fraction(1), image_size=32) as source:
        assert corners(next(iter(source)).pixels) == corners(prepare_frame(upright.copy(), 32))
        assert (source.info.width, source.info.height) == upright.shape[1::-1]
