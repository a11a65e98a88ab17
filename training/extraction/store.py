"""The folder that features are written to: what made them, and a file each, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import OutputError
from r2rt.files import replacing
from training.extraction.errors import ExtractionError
from training.extraction.jobs import Job

__all__ = ["MANIFEST", "FeatureManifest", "FeatureStore"]

MANIFEST = "features.json"
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
        schema: version of this record.
    """

    format: str
    model: str
    fingerprint: str
    prefix: str
    layers: int
    fps: str
    sampling: str
    schema: int = 1


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
            ExtractionError: the folder holds another model's features.
            OutputError: it cannot be written.
        """
        try:
            for folder in (self.videos, self.queries):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{error.filename}: cannot be made ({error.strerror}); choose another place"
            ) from error
        path = self._folder / MANIFEST
        if path.exists():
            self._check_manifest(path)
            return
        with replacing(path) as temporary:
            content = msgspec.json.format(msgspec.json.encode(self.manifest), indent=2)
            temporary.write_bytes(content + b"\n")

    def video_path(self, vid: str) -> Path:
        """Return where a video's features lie, or would lie."""
        return self.videos / f"{vid}{self._video_suffix}"

    def query_path(self, qid: str) -> Path:
        """Return where a query's features lie, or would lie."""
        return self.queries / f"{qid}{self._query_suffix}"

    def paths(self, job: Job) -> list[Path]:
        """Return every file that a job makes."""
        if job.vid is not None:
            return [self.video_path(job.vid)]
        return [self.query_path(qid) for qid, _ in job.queries]

    def is_done(self, job: Job) -> bool:
        """Whether every file of a job is there; a file that is there is whole."""
        return all(path.is_file() for path in self.paths(job))

    def sweep(self, jobs: Iterable[Job]) -> None:
        """Remove what a killed run left half-written of these jobs; others' are not touched."""
        waiting = {path for job in jobs for path in self.paths(job) if not path.is_file()}
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


def save_npy(path: Path, array: NDArray[np.float16]) -> None:
    """Write an array, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
