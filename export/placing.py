"""A folder of files added to a bundle at once, and listed in its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from r2rt.errors import OutputError, R2rtError
from r2rt.files import remove_orphans, replacing, temporary_beside, umask
from r2rt.model.bundle import file_entry
from r2rt.model.manifest import MANIFEST_NAME, FileEntry, manifest_bytes, read_manifest
from r2rt.portable import locked

__all__ = ["placed"]


@contextmanager
def placed(bundle: Path, kind: str, name: str) -> Iterator[Path]:
    """Give an empty folder that becomes the bundle's `kind/name` when the block ends well.

    What was there before is replaced; if the block raises, it stays as it was.

    Raises:
        OutputError: the bundle cannot be written.
    """
    parent = bundle / kind
    had_parent = parent.is_dir()
    staged: Path | None = None
    try:
        parent.mkdir(exist_ok=True)
        remove_orphans(parent)
        staged = temporary_beside(parent / name)
        staged.mkdir(0o700)
        yield staged
        staged.chmod(0o777 & ~umask())
        prefix = f"{kind}/{name}/"
        names = {prefix + x.name: file_entry(x) for x in sorted(staged.iterdir())}
        # Another build may end at the same moment, and lists what it put there, too.
        with locked(bundle / f".{MANIFEST_NAME}.lock"):
            # Not listed while it changes: what is not listed is not read.
            if (parent / name).exists():
                _relist(bundle, prefix, {})
                shutil.rmtree(parent / name)
            staged.rename(parent / name)
            _relist(bundle, prefix, names)
    except OSError as error:
        if isinstance(error, R2rtError):
            raise
        raise OutputError(
            f"{parent / name}: cannot be written ({error.strerror or error}); "
            "free the disk or copy the bundle elsewhere"
        ) from error
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
        if not had_parent and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _relist(bundle: Path, prefix: str, names: Mapping[str, FileEntry]) -> None:
    """Replace what `bundle.json` lists below `prefix`."""
    manifest = read_manifest(bundle)
    files = {name: x for name, x in manifest.files.items() if not name.startswith(prefix)}
    files = dict(sorted({**files, **names}.items()))
    if files == manifest.files:
        return
    with replacing(bundle / MANIFEST_NAME) as path:
        path.write_bytes(manifest_bytes(msgspec.structs.replace(manifest, files=files)))
