"""A world of colours: videos of plain frames, and a model that finds the colour that is named.

Its tokens and embeddings are the mean colour of a clip's frame, so every answer follows from
the colours that a video was made of. Videos are real files, decoded as always.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.grounder import Grounder
from r2rt.grounding.prediction import Moment, Prediction, Timings
from r2rt.model.manifest import Manifest
from r2rt.video import open_source
from tests.r2rt.fakes import fake_bundle

__all__ = [
    "CLIP_S",
    "COLOURS",
    "ColourGrounder",
    "colour_grounder",
    "make_colours",
    "write_colours",
]

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 220),
    "yellow": (220, 220, 20),
    "pink": (220, 20, 220),
    "cyan": (20, 220, 220),
    "white": (230, 230, 230),
}
CLIP_S = 2.0
_WIDTH = 3
_WINDOW_S = 20.0


def write_colours(path: Path, colours: Sequence[str], *, seconds: float = 4.0) -> Path:
    """Write a video that shows each colour for so many seconds, at 5 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 5
        for colour in colours:
            pixels = np.full((32, 32, 3), COLOURS[colour], np.uint8)
            for _ in range(int(5 * seconds)):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def make_colours(folder: Path) -> dict[str, list[str]]:
    """Write three videos and return their colours, 4 seconds each, by name."""
    videos = {
        "beach.mp4": ["yellow", "yellow", "blue", "white"],
        "garden.mp4": ["green", "red", "green", "pink"],
        "night.mp4": ["blue", "blue", "cyan", "blue"],
    }
    for name, colours in videos.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(tuple(colours)))
    return videos


@functools.cache
def _content(colours: tuple[str, ...]) -> bytes:
    """Return a video's file; every test has its own copy of it."""
    with tempfile.TemporaryDirectory() as folder:
        return write_colours(Path(folder) / "video.mp4", colours).read_bytes()


def _unit(colour: NDArray[Any]) -> NDArray[np.float32]:
    """Return a colour as an embedding: its difference from grey, so that white is no direction."""
    return np.asarray(colour, np.float32) - 100.0


class ColourGrounder:
    """Does what `Grounder` does, for sentences that are the name of a colour."""

    def __init__(self, folder: Path) -> None:
        manifest: Manifest = fake_bundle(folder).manifest
        dims = SimpleNamespace(
            **{name: getattr(manifest.dims, name) for name in type(manifest.dims).__annotations__}
        )
        dims.layers, dims.patches, dims.width = 1, 2, _WIDTH
        dims.token_width = dims.embedding_width = _WIDTH
        self.bundle = SimpleNamespace(
            path=folder,
            fps=Fraction(1, 2),
            fingerprint="colours",
            dims=dims,
            manifest=SimpleNamespace(name="colours", window_s=_WINDOW_S, presence=None),
        )
        self.encoded: list[str] = []

    def encode(self, source: Any, progress: Any = None, **options: Any) -> EncodedVideo:
        self.encoded.append(str(source))
        with open_source(source, fps=self.bundle.fps, image_size=8, **options) as frames:
            rows = [
                frame.pixels.reshape(-1, 3).mean(axis=0)
                for frame in frames
                for _ in range(frame.count)
            ]
            info, report = frames.info, frames.report
        colours = np.array(rows, np.float32)
        if progress is not None:
            progress(len(rows), len(rows))
        return EncodedVideo(
            tokens=np.repeat(colours[:, None, None, :], 2, axis=2),
            embeddings=_unit(colours),
            model="colours",
            model_fingerprint="colours",
            source=info.name,
            duration_s=info.duration_s,
            start_s=info.start_s,
            fps=self.bundle.fps,
            sampling=options.get("sampling", "exact"),
            departures=report.departures,
            encode_s=0.0,
        )

    def embed_text(self, queries: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([_unit(np.array(COLOURS[query])) for query in queries])

    def embed_image(self, image: Any) -> NDArray[np.float32]:
        assert isinstance(image, np.ndarray)
        return _unit(image.reshape(-1, 3).mean(axis=0))

    def unknown_words(self, query: str) -> tuple[str, ...]:
        return ()

    def knows(self, query: str) -> bool:
        return query in COLOURS

    def close(self) -> None:
        pass

    def ground(self, video: EncodedVideo, query: str, **_: Any) -> Prediction:
        """Return the runs of clips of the colour; the score is how near it is."""
        rows = video.tokens if video.compact is None else video.compact.rows()
        colours = rows[:, 0, 0, :]
        apart = np.abs(colours - np.array(COLOURS[query], np.float32)).max(axis=1)
        near = np.flatnonzero(apart < 40)
        runs = np.split(near, np.flatnonzero(np.diff(near) > 1) + 1) if len(near) else []
        moments = [
            Moment(
                start_s=video.start_s + int(run[0]) * CLIP_S,
                end_s=video.start_s + min((int(run[-1]) + 1) * CLIP_S, video.duration_s),
                score=float(0.9 - apart[run].max() / 200),
            )
            for run in runs
        ]
        return Prediction(
            query=query,
            moments=tuple(sorted(moments, key=lambda moment: -moment.score)),
            saliency=np.exp(-apart / 50),
            clip_starts_s=video.clip_starts_s,
            boundaries=np.empty((0, 3)),
            query_truncated=False,
            video=video.source,
            duration_s=video.duration_s,
            fps=video.fps,
            sampling=video.sampling,
            model="colours",
            timings=Timings(encode_s=0, text_s=0, ground_s=0),
            presence_statistics=np.array([[1.0, 1.0, 1.0, 1.0]]),
        )


def colour_grounder(folder: Path) -> Grounder:
    """Return the model under the type that the library takes."""
    return cast("Grounder", ColourGrounder(folder))
