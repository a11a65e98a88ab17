"""One file, read here and by the ffmpeg program: which frames, which pixels, how long."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import R2rtError
from r2rt.video import open_source
from tests.r2rt.video.oracle import ALL_STREAMS

__all__ = ["KINDS", "Kind", "Verdict", "judge", "media_files"]

Kind = Literal[
    "same", "neither", "close", "pixels", "frames", "duration", "refused", "accepted", "crash"
]
KINDS: dict[Kind, str] = {
    "same": "every frame and pixel as ffmpeg's",
    "neither": "no frame here, none from ffmpeg",
    "close": "the same frames, turned after scaling instead of before",
    "pixels": "the same frames, other pixels",
    "frames": "as many clips, other frames",
    "duration": "another number of clips",
    "refused": "refused here, read by ffmpeg",
    "accepted": "read here, not by ffmpeg",
    "crash": "an error that is no r2rt error",
}
SUFFIXES = frozenset(
    (
        ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".hevc",
        ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
        ".mxf", ".nut", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
    )
)  # fmt: skip
SIZE = 32
# Means of absolute differences, in levels: of two scalers on one frame, and of two frames.
_ONE_FRAME = 6.0
_ROTATED = 3.0
_TIMEOUT_S = 300
# The size with square samples, halves up, the shorter side SIZE; as ffmpeg's expressions.
_SQUARE = "st(0,if(gt(sar,1),floor(iw*sar+0.5),iw));st(1,if(lt(sar,1),floor(ih/sar+0.5),ih));"
_WIDTH = f"{_SQUARE}if(gte(ld(0),ld(1)),floor({SIZE}*ld(0)/ld(1)+0.5),{SIZE})"
_HEIGHT = f"{_SQUARE}if(gte(ld(0),ld(1)),{SIZE},floor({SIZE}*ld(1)/ld(0)+0.5))"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a file at one rate.

    Attributes:
        path: the file.
        fps: clips a second.
        kind: how the two readings compare.
        reported: what was reported of the reading here; a difference without is a silent one.
        detail: counts, or the error.
    """

    path: Path
    fps: Fraction
    kind: Kind
    reported: tuple[str, ...]
    detail: str

    @property
    def is_silent(self) -> bool:
        """Whether the reading differs and nothing was reported."""
        differs = self.kind not in {"same", "neither", "close", "refused"}
        return self.kind == "crash" or (differs and not self.reported)


def media_files(folder: Path) -> list[Path]:
    """Return the media files below a folder, by their suffixes, sorted."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )


def judge(path: Path, fps: Fraction) -> Verdict:
    """Read a file here and by the ffmpeg program, which reads its sound too, and compare."""
    theirs = _read_by_ffmpeg(path, fps)
    reported: tuple[str, ...] = ()
    ours: list[NDArray[np.uint8]] = []
    try:
        with open_source(path, fps=fps, image_size=SIZE) as source:
            for frame in source:
                ours += [frame.pixels] * frame.count
            reported = source.report.departures.warnings
    except R2rtError as error:
        kind: Kind = "refused" if theirs else "neither"
        return Verdict(path=path, fps=fps, kind=kind, reported=(), detail=str(error))
    except Exception as error:  # what this is looking for
        detail = f"{type(error).__name__}: {error}"
        return Verdict(path=path, fps=fps, kind="crash", reported=(), detail=detail)
    kind, detail = _compare(ours, theirs)
    return Verdict(path=path, fps=fps, kind=kind, reported=reported, detail=detail)


def _compare(ours: list[NDArray[np.uint8]], theirs: list[NDArray[np.uint8]]) -> tuple[Kind, str]:
    counts = f"{len(ours)} clips, ffmpeg {len(theirs)}"
    if not theirs and len(ours) == 1:
        return "same", "shorter than half a clip: one here, none from ffmpeg"
    if not theirs:
        return "accepted", counts
    if len(ours) != len(theirs):
        return "duration", counts
    away = [float(np.abs(a.astype(int) - b).mean()) for a, b in zip(ours, theirs, strict=True)]
    other = sum(mean > _ONE_FRAME for mean in away)
    if other:
        return "frames", f"{other} of {len(ours)} clips"
    if max(away) == 0:
        return "same", counts
    return ("close" if max(away) < _ROTATED else "pixels"), f"{max(away):.2f} levels away"


def _read_by_ffmpeg(path: Path, fps: Fraction) -> list[NDArray[np.uint8]]:
    filters = (
        f"fps=fps={fps}:round=near:start_time=0,"
        f"scale=w='{_WIDTH}':h='{_HEIGHT}':flags=bicubic,format=rgb24,crop={SIZE}:{SIZE}"
    )
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", f"file:{path}", "-an", "-sn", "-dn"]
    command += ["-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24", "-", *ALL_STREAMS]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return []
    whole = len(done.stdout) // (3 * SIZE * SIZE) * 3 * SIZE * SIZE
    return list(np.frombuffer(done.stdout[:whole], np.uint8).reshape(-1, SIZE, SIZE, 3))
