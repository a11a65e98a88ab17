"""A model of short clips, so that live video need not be watched for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest

from r2rt import Bundle, Grounder
from r2rt.engines import open_engine
from r2rt.live import Watcher
from tests.r2rt.conftest import DEMO_BUNDLE
from tests.r2rt.video.clips import write_video

FPS = 4
WINDOW_S = 5.0
VIDEO_S = 12
RATE = 12


def quick_grounder() -> Grounder:
    """The demo's random model, with clips of a quarter of a second and windows of 5 s."""
    bundle = Bundle.open(DEMO_BUNDLE, verify="never")
    manifest = msgspec.structs.replace(
        bundle.manifest, fps=str(FPS), window_s=WINDOW_S, unit_s=None
    )
    quick = Bundle(bundle.path, manifest)
    engine, choice = open_engine(quick, "cpu", threads=1)
    return Grounder(quick, engine, choice=choice)


def once_read(watcher: Watcher, frames: int, then: Callable[[], object]) -> threading.Thread:
    """Call a function once a watcher has read so many frames, in the thread that is returned."""

    def wait() -> None:
        while watcher.summary.frames < frames:
            time.sleep(0.02)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="session")
def grounder() -> Grounder:
    return quick_grounder()


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s at 12 pictures a second, with B-frames, a keyframe each second."""
    return write_video(
        tmp_path_factory.mktemp("live") / "video.mp4",
        frames=VIDEO_S * RATE,
        rate=Fraction(RATE),
        options={"g": str(RATE), "bf": "2"},
        muxer_options={"movflags": "+faststart"},
    )


@pytest.fixture(scope="session")
def transport_stream(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same packets in a container that can be read while it grows."""
    import av

    path = tmp_path_factory.mktemp("live") / "video.ts"
    with av.open(str(video)) as source, av.open(str(path), "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path
