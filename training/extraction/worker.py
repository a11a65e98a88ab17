"""What does a job: it loads the model once and writes the files itself.

What comes back is what went wrong, so nothing large moves between processes. A run that is killed
goes on where it stopped: files are whole or absent, and those that are there are not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import msgspec

from r2rt.errors import R2rtError
from training.extraction.encoders import Encoder, Settings, make_encoder
from training.extraction.jobs import Job
from training.extraction.store import FeatureManifest, FeatureStore

__all__ = ["MOST_DEATHS", "Outcome", "Setup", "Worker", "died"]

MOST_DEATHS = 5
"""Of workers, one after the other; if there are more, the videos are not what ends them."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is started from, in any process.

    Attributes:
        settings: what features are made with.
        manifest: of the folder.
        folder: where they go, an absolute path.
    """

    settings: Settings
    manifest: FeatureManifest
    folder: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one job.

    Attributes:
        made: files that were written.
        kept: files that were there.
        failures: a line for each that could not be made.
    """

    made: int = 0
    kept: int = 0
    failures: tuple[str, ...] = ()


def died(job: Job) -> str:
    """Return the line of a failure for a job whose worker ended early, each time it was tried."""
    name = job.vid or f"queries from {job.queries[0]!r} on"
    return f"{name}: its worker ended early; it crashes the decoder, or memory is short"


class Worker:
    """Does jobs with a model of its own, which is loaded with the first one."""

    def __init__(self, setup: Setup) -> None:
        self._settings = setup.settings
        self._store = FeatureStore(Path(setup.folder), setup.manifest)
        self._encoder: Encoder | None = None

    def work(self, job: Job) -> Outcome:
        """Make the missing parts of a job."""
        if self._store.is_done(job):
            return Outcome(kept=1 if job.vid is not None else len(job.queries))
        if job.vid is not None:
            path = self._store.video_path(job.vid)
            source, vid, fps = Path(job.path), job.vid, Fraction(job.fps)
            self._store.discard(vid)
            made = self._make(vid, lambda e: e.video(source, vid, fps, path))
            if made.made:
                self._store.own(job)
            return made
        made_count = kept = 0
        failures: list[str] = []
        for text in job.queries:
            path = self._store.query_path(text)
            if path.is_file():
                kept += 1
                continue

            def encode(encoder: Encoder, text: str = text, path: Path = path) -> None:
                encoder.query(text, path)

            one = self._make(f"query {text!r}", encode)
            made_count += one.made
            failures.extend(one.failures)
        return Outcome(made=made_count, kept=kept, failures=tuple(failures))

    def _make(self, name: str, encode: Callable[[Encoder], None]) -> Outcome:
        # Outside the `try`: a model that cannot be loaded is no fault of this video.
        encoder = self._loaded()
        try:
            encode(encoder)
        except R2rtError as error:
            return Outcome(failures=(f"{name}: {error}",))
        except Exception as error:  # one bad file must not end the others
            return Outcome(failures=(f"{name}: {type(error).__name__}: {error}",))
        return Outcome(made=1)

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._encoder = make_encoder(self._settings)
        return self._encoder
