"""A bundle: the folder that holds a model ready to run, and its manifest `bundle.json`.

Nothing in a bundle is pickled and opening one runs no code from it. Every file is listed in the
manifest with its size and sha256; what is not listed is not read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from r2rt.cache.verified import is_verified, remember_verified
from r2rt.errors import BundleDamagedError, HashMismatchError
from r2rt.model.contract import GraphSpec, ModelDims, graph_specs
from r2rt.model.graph_files import external_locations
from r2rt.model.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    read_manifest,
)

__all__ = ["PREPARED", "Bundle", "file_entry"]

# Forms of the graphs that are ready for one kind of machine: adding one changes no answer.
PREPARED = ("engines/", "kernels/")
# The graph revision since which saliency is the authors'.
_SALIENCY_MENDED = 2
_NEWER_SIZES = ("embedding_width", "patch_bias", "read_layers")


class Bundle:
    """An opened bundle: a folder whose manifest was read and whose files are there."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(
        cls, path: str | Path, *, verify: Literal["always", "change", "never"] = "change"
    ) -> Bundle:
        """Open the bundle in folder `path`.

        Args:
            path: the folder that holds `bundle.json`.
            verify: compare the sha256 of every file: `always`, once after every `change` of a
                file, or `never`; sizes are always compared.

        Raises:
            ModelNotFoundError: there is no such folder, or no manifest in it.
            BundleSchemaError: the manifest has another schema version.
            BundleDamagedError: the manifest is malformed, or a file is missing or of another size.
            HashMismatchError: a file's content is not what the manifest promises.
        """
        folder = Path(path)
        bundle = cls(folder, read_manifest(folder))
        for name, entry in bundle.manifest.files.items():
            _check_present(folder, name, entry)
        names = (MANIFEST_NAME, *bundle.manifest.files)
        if verify == "always" or (verify == "change" and not is_verified(folder, names)):
            bundle.verify_hashes()
            remember_verified(folder, names)
        return bundle

    def verify_hashes(self) -> None:
        """Compare the sha256 of every file, and see that graphs read listed files alone.

        Raises:
            HashMismatchError: a file's content is not what the manifest promises.
            BundleDamagedError: a graph is malformed or names a file that is not listed.
        """
        with ThreadPoolExecutor(max_workers=4) as pool:  # hashlib releases the GIL
            entries = self.manifest.files
            found = dict(zip(entries, pool.map(self._hash, entries), strict=True))
        for name, digest in found.items():
            want = entries[name].sha256
            if digest != want:
                raise HashMismatchError(
                    f"{self.path / name}: sha256 is {digest[:16]}…, expected {want[:16]}…; "
                    "the bundle is damaged, fetch or export it again"
                )
        for name in entries:
            if name.endswith(".onnx"):
                self._check_graph(name)

    def _check_graph(self, name: str) -> None:
        """Raise `BundleDamagedError` if a graph reads a file whose hash is not in the manifest."""
        try:
            locations = external_locations(self.path / name)
        except (ValueError, OSError) as error:
            raise BundleDamagedError(
                f"{self.path / name}: not an ONNX graph ({error}); fetch or export the bundle again"
            ) from error
        for location in sorted(locations):
            if str(PurePosixPath(name).parent / location) not in self.manifest.files:
                raise BundleDamagedError(
                    f"{self.path / name}: reads weights from {location[:80]!r}, which the manifest "
                    "does not list, so nothing can verify them; export the bundle again"
                )

    def file(self, name: str) -> Path:
        """Return the path of a listed file; raise `BundleDamagedError` if it is not listed."""
        if name not in self.manifest.files:
            raise BundleDamagedError(
                f"{self.path}: the manifest lists no file {name}; export the bundle again"
            )
        return self.path / name

    @property
    def dims(self) -> ModelDims:
        """Sizes of the graphs."""
        return self.manifest.dims

    @property
    def fps(self) -> Fraction:
        """Clips a second, exactly."""
        return Fraction(self.manifest.fps)

    @property
    def outdated(self) -> str | None:
        """Say how answers differ from those of a bundle exported today; None if they do not."""
        if self.manifest.graph_revision >= _SALIENCY_MENDED or len(self.dims.strides) == 1:
            return None
        return (
            f"{self.manifest.name} was exported by an older r2rt, and its saliency is off by up to "
            "0.07 in videos of 10 to 63 clips; fetch or export it again"
        )

    @cached_property
    def graphs(self) -> dict[str, GraphSpec]:
        """Definition of every graph of this bundle, by name."""
        return graph_specs(self.manifest.dims)

    @cached_property
    def engine_graphs(self) -> dict[str, GraphSpec]:
        """Definition of every graph as engines compute it: for P patches a frame, none merged."""
        return graph_specs(dataclasses.replace(self.manifest.dims, patch_bias=False))

    @cached_property
    def fingerprint(self) -> str:
        """Hash (32 hexadecimal digits) of all that decides what the bundle computes.

        Two bundles with the same fingerprint give the same answers; what one has encoded, the other
        can ground.
        """
        decisive = msgspec.structs.asdict(self.manifest)
        for name in (
            "name",
            "provenance",
            "verification",
            "quantization",
            "known_words",
            "presence",
            "graph_revision",
        ):
            del decisive[name]
        # Older bundles keep the fingerprint that they had before there were these.
        if self.manifest.text_cleaning == "clip":
            del decisive["text_cleaning"]
        sizes = dataclasses.asdict(self.dims)
        sizes = {name: size for name, size in sizes.items() if size or name not in _NEWER_SIZES}
        decisive["dims"] = msgspec.Raw(msgspec.json.encode(sizes))
        decisive["files"] = {
            name: entry.sha256
            for name, entry in self.manifest.files.items()
            if not name.startswith(PREPARED)
        }
        text = msgspec.json.encode(decisive, order="deterministic")
        return hashlib.sha256(text).hexdigest()[:32]

    def _hash(self, name: str) -> str:
        try:
            return file_entry(self.path / name).sha256
        except OSError as error:
            raise BundleDamagedError(
                f"{self.path / name}: cannot be read ({error.strerror}); "
                "fetch or export the bundle again"
            ) from error


def file_entry(path: Path) -> FileEntry:
    """Return size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size=path.stat().st_size, sha256=digest)


def _check_present(folder: Path, name: str, entry: FileEntry) -> None:
    path = folder / name
    try:
        status = path.stat()
    except OSError as error:
        raise BundleDamagedError(
            f"{path}: {error.strerror}, but the manifest lists it; fetch or export the bundle again"
        ) from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise BundleDamagedError(f"{path}: not a regular file; fetch or export the bundle again")
    if status.st_size != entry.size:
        raise BundleDamagedError(
            f"{path}: {status.st_size} bytes, expected {entry.size}; "
            "fetch or export the bundle again"
        )
