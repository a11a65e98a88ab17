"""The commands that are killed, and what their output must be whenever it is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av

from r2rt import Bundle, EncodedVideo
from tests.conftest import CHECKOUT
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

__all__ = ["JOBS", "PRELOADED", "Job", "leftovers"]

# Modules that the commands import, if they are installed.
PRELOADED = ("av", "onnxruntime", "tokenizers", "r2rt.cli.main", "r2rt.media", "export.exporter")
_SHORT_S = 3


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        command: r2rt or a script, and its arguments, given the folder for outputs.
        check: raises if an output is there and is not whole.
        prepare: makes what the command reads.
    """

    command: Callable[[Path], list[str]]
    check: Callable[[Path], None]
    prepare: Callable[[Path], object] = lambda _: None


def _write_short_video(folder: Path) -> None:
    """Write the first seconds of the demo video, so that a run is mostly start and output."""
    with av.open(str(DEMO_VIDEO)) as whole, av.open(str(folder / "short.mp4"), "w") as short:
        stream = short.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None and packet.dts * packet.time_base < _SHORT_S:
                packet.stream = stream
                short.mux(packet)


def _ground(folder: Path, *output: str | Path) -> list[str]:
    question = ("a red circle", "--top-k", "2", "--anyway", "-m", DEMO_BUNDLE, "--quiet")
    return _r2rt("ground", folder / "short.mp4", *question, *output)


def _r2rt(*arguments: str | Path) -> list[str]:
    return ["r2rt", *map(str, arguments)]


def _check_encoding(folder: Path) -> None:
    for path in folder.glob("*.r2rt"):
        EncodedVideo.load(path)  # compares the checksum


def _check_videos(folder: Path) -> None:
    for path in folder.rglob("[!.]*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            if not frames or (stream.frames and frames != stream.frames):
                raise ValueError(f"{path}: {frames} frames of {stream.frames}")


def _check_bundle(name: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        if (folder / name).exists():
            Bundle.open(folder / name, verify="always")

    return check


def _publish(folder: Path) -> None:
    shutil.copytree(DEMO_BUNDLE, folder / "mirror" / "mine")


JOBS: dict[str, Job] = {
    "encode": Job(
        lambda folder: _r2rt(
            *("encode", folder / "short.mp4", folder / "out.r2rt", "-m", DEMO_BUNDLE, "--quiet")
        ),
        _check_encoding,
        _write_short_video,
    ),
    "clips": Job(
        lambda folder: _ground(folder, "--clips", folder / "clips"),
        _check_videos,
        _write_short_video,
    ),
    "reel": Job(
        lambda folder: _ground(folder, "--reel", folder / "reel.mp4"),
        _check_videos,
        _write_short_video,
    ),
    "pull": Job(
        lambda folder: _r2rt("models", "pull", "mine", "--from", folder / "mirror", "--force"),
        _check_bundle("home/models/mine"),
        _publish,
    ),
    "quantise": Job(
        lambda folder: _r2rt(
            *("models", "quantize", DEMO_BUNDLE, "--frames", folder / "short.mp4", "--force"),
            *("--output", folder / "int8"),
        ),
        _check_bundle("int8"),
        _write_short_video,
    ),
    "export": Job(
        lambda folder: [str(CHECKOUT / "demo" / "make_random_bundle.py"), str(folder / "exported")],
        _check_bundle("exported"),
    ),
}


def leftovers(folder: Path) -> list[str]:
    """Return what is hidden or partial below a folder, empty folders of locks left out."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if (path.name.startswith(".") or ".part" in path.name) and path.name != ".partial"
    )
