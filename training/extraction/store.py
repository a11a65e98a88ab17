"""The folder that features are written to: what made them, and a file each, whole or not at all.

Features are never mistaken for others of the same name. A query's file is named by its sentence. A
video's file has a second one beside it, VID.source, with the video's content and rate. What model
and which preprocessing made them all is in the folder's `features.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import OutputError
from r2rt.files import replacing
from training.data.features import MANIFEST, NAMING, query_name
from training.extraction.errors import ExtractionError
from training.extraction.jobs import Job

__all__ = ["MANIFEST", "FeatureManifest", "FeatureStore"]

_SUFFIXES = {"authors": (".npy", ".npy"), "tokens": (".r2rt", ".safetensors")}


class FeatureManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the features of a folder are, and what made them.

    Attributes:
        format: `authors`, hidden states in fp16 npy; or `tokens`, what a bundle's encoders put out.
        model: the model as people call it.
        fingerprint: sha256 of what its numbers depend on.
        prefix: how the folders begin: PREFIX_vid_kK and PREFIX_txt_kK.
        layers: CLIP layers K.
        fps: clips a second, where annotations do not fix another rate.
        sampling: which frame stands for a clip; see `r2rt.video`.
        schema: version of this record and of the files' names.
    """

    format: str
    model: str
    fingerprint: str
    prefix: str
    layers: int
    fps: str
    sampling: str
    schema: int = NAMING


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """The video that features were made of: its content, see `r2rt.video.fingerprint`, and rate."""

    content: str
    fps: str


class FeatureStore:
    """Writes features below a folder; what is there already is left alone."""

    def __init__(self, folder: Path, manifest: FeatureManifest) -> None:
        self.manifest = manifest
        name = f"{manifest.prefix}_{{}}_k{manifest.layers}"
        self.videos = folder / name.format("vid")
        self.queries = folder / name.format("txt")
        self._folder = folder
        self._video_suffix, self._query_suffix = _SUFFIXES[manifest.format]

    def prepare(self) -> None:
        """Make the folders and write the manifest, or check that it is this model's.

        Raises:
            ExtractionError: the folder holds another model's features, or some of unknown origin.
            OutputError: it cannot be written.
        """
        path = self._folder / MANIFEST
        if not path.exists():
            for folder in (self.videos, self.queries):
                if next(folder.rglob("*.*"), None) is not None:
                    raise ExtractionError(
                        f"{folder} holds features, and no {path} says what made them; choose "
                        "another --out"
                    )
        try:
            for folder in (self.videos, self.queries):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{error.filename}: cannot be made ({error.strerror}); choose another place"
            ) from error
        if path.exists():
            self._check_manifest(path)
            return
        with replacing(path) as temporary:
            content = msgspec.json.format(msgspec.json.encode(self.manifest), indent=2)
            temporary.write_bytes(content + b"\n")

    def video_path(self, vid: str) -> Path:
        """Return where a video's features lie, or would lie."""
        return self.videos / f"{vid}{self._video_suffix}"

    def query_path(self, text: str) -> Path:
        """Return where a sentence's features lie, or would lie."""
        return self.queries / f"{query_name(text)}{self._query_suffix}"

    def paths(self, job: Job) -> list[Path]:
        """Return every file of features that a job makes."""
        if job.vid is not None:
            return [self.video_path(job.vid)]
        return [self.query_path(text) for text in job.queries]

    def is_done(self, job: Job) -> bool:
        """Whether every file of a job is there, and made of what it names."""
        if not all(path.is_file() for path in self.paths(job)):
            return False
        return job.vid is None or self._source(job.vid) == _source_of(job)

    def is_of_another(self, job: Job) -> bool:
        """Whether features of this name are there, made of another video or at another rate."""
        if job.vid is None or not self.video_path(job.vid).is_file():
            return False
        found = self._source(job.vid)
        return found is not None and found != _source_of(job)

    def discard(self, vid: str) -> None:
        """Remove a video's features before they are made again: it may not come to that."""
        self.video_path(vid).unlink(missing_ok=True)
        self._source_path(vid).unlink(missing_ok=True)

    def own(self, job: Job) -> None:
        """Note what a video's features, which are written, were made of."""
        assert job.vid is not None
        with replacing(self._source_path(job.vid)) as temporary:
            temporary.write_bytes(msgspec.json.encode(_source_of(job)) + b"\n")

    def _source_path(self, vid: str) -> Path:
        return self.videos / f"{vid}.source"

    def _source(self, vid: str) -> _Source | None:
        """What a video's features were made of; None where a killed run did not note it."""
        try:
            return msgspec.json.decode(self._source_path(vid).read_bytes(), type=_Source)
        except (OSError, msgspec.DecodeError):
            return None

    def sweep(self, jobs: Iterable[Job]) -> None:
        """Remove what a killed run left half-written of these jobs; others' are not touched."""
        waiting = {path for job in jobs for path in self.paths(job)}
        waiting |= {self._source_path(job.vid) for job in jobs if job.vid is not None}
        for folder in {path.parent for path in waiting}:
            for left in folder.glob(".*"):
                # What `replacing` calls its temporary files.
                if folder / left.name[1:].rpartition(".")[0] in waiting:
                    left.unlink(missing_ok=True)

    def _check_manifest(self, path: Path) -> None:
        try:
            there = msgspec.json.decode(path.read_bytes(), type=FeatureManifest)
        except (OSError, msgspec.DecodeError) as error:
            raise ExtractionError(
                f"{path}: not a manifest of features ({error}); choose another --out"
            ) from error
        wanted = msgspec.structs.asdict(self.manifest)
        differing = [
            f"{name} {value} instead of {wanted[name]}"
            for name, value in msgspec.structs.asdict(there).items()
            if value != wanted[name]
        ]
        if differing:
            raise ExtractionError(
                f"{self._folder} holds other features: {'; '.join(differing)}; choose another --out"
            )


def _source_of(job: Job) -> _Source:
    return _Source(content=job.content, fps=job.fps)


def save_npy(path: Path, array: NDArray[np.float16]) -> None:
    """Write an array, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
