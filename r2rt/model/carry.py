"""Carries an installed model to a machine without a network: one file there, one file back.

The file is a zip of the bundle's folder, uncompressed. What comes out of it is held to the sizes
and hashes of the manifest in it, and the file itself to a hash where one is given.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

from r2rt.errors import (
    BundleDamagedError,
    HashMismatchError,
    R2rtError,
    SourceNotFoundError,
)
from r2rt.files import replacing
from r2rt.model.bundle import Bundle
from r2rt.model.download import checked_hash
from r2rt.model.installed import checked_name, install_folder, locked, resolve, staging_dir
from r2rt.model.manifest import MANIFEST_NAME, parse_manifest
from r2rt.model.partial_file import output_error

__all__ = ["export_model", "import_model"]

_MAX_MANIFEST_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_NAME_ENTRY = "NAME"
# What is raised for a zip that is damaged: of bzip2 an OSError, of a cipher a RuntimeError.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(KeyError, RuntimeError, UnicodeDecodeError, EOFError),
)


def export_model(name: str, destination: Path) -> str:
    """Write an installed model to one file; return the file's sha256.

    Raises:
        ModelNotFoundError: there is no such model.
        HashMismatchError: a file of it is damaged.
        OutputError: the file cannot be written.
    """
    bundle = Bundle.open(resolve(name), verify="always")
    with replacing(destination) as temporary:
        # Files of reproducible installations are dated before 1980, which a zip cannot say.
        with zipfile.ZipFile(
            temporary, "w", zipfile.ZIP_STORED, strict_timestamps=False
        ) as archive:
            archive.writestr(_NAME_ENTRY, checked_name(bundle.path.absolute().name))
            for file in (MANIFEST_NAME, *bundle.manifest.files):
                archive.write(bundle.path / file, file)
        return _sha256(temporary)


def import_model(source: Path, *, sha256: str | None = None) -> Path:
    """Install a model from a file of `export_model`; return the bundle's folder.

    Args:
        source: the file.
        sha256: what `export_model` returned, or at least its first 8 digits.

    Raises:
        QueryError: `sha256` is not a hash.
        SourceNotFoundError: the file cannot be read.
        HashMismatchError: the file, or one in it, is not what was promised.
        BundleDamagedError, BundleSchemaError: it holds no bundle that can be used.
        OutputError: it cannot be installed.
    """
    want = checked_hash(sha256)
    try:
        if want and not (found := _sha256(source)).startswith(want):
            raise HashMismatchError(
                f"{source}: sha256 is {found[:16]}…, expected {want[:16]}…; copy it again"
            )
        with zipfile.ZipFile(source) as archive:
            return _install(archive, source)
    except _DAMAGED as error:
        raise _damaged(source, error) from error
    except OSError as error:
        if isinstance(error, R2rtError):
            raise
        if error.errno is None:
            raise _damaged(source, error) from error
        raise SourceNotFoundError(f"{source}: cannot be read ({error.strerror})") from error


def _damaged(source: Path, error: Exception) -> BundleDamagedError:
    return BundleDamagedError(
        f"{source} is no file of `r2rt models export`, or damaged ({error}); copy it again"
    )


def _install(archive: zipfile.ZipFile, source: Path) -> Path:
    name = checked_name(_text(archive, _NAME_ENTRY, 100).decode())
    manifest_text = _text(archive, MANIFEST_NAME, _MAX_MANIFEST_BYTES)
    manifest = parse_manifest(manifest_text, where=f"{source}:{MANIFEST_NAME}")
    with locked(name):
        staging = staging_dir(f"{name}.import")
        shutil.rmtree(staging, ignore_errors=True)
        try:
            for file, entry in manifest.files.items():  # names were checked by parse_manifest
                if archive.getinfo(file).file_size != entry.size:
                    raise BundleDamagedError(f"{source}: {file} has another size than promised")
                with archive.open(file) as packed:
                    _write(packed, staging / file)
            _write(io.BytesIO(manifest_text), staging / MANIFEST_NAME)
            Bundle.open(staging, verify="always")
            return install_folder(staging, name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write(content: IO[bytes], path: Path) -> None:
    """Copy to a new file; an error in writing it is no error of the source."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except OSError as error:
        raise output_error(path, error) from error
    with file:
        while chunk := content.read(_CHUNK_BYTES):
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise output_error(path, error) from error


def _text(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    with archive.open(name) as file:
        return file.read(most)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
