"""Fetch a model: a ready bundle from a mirror, or a published checkpoint that is converted here.

A mirror is any web server or folder that holds `NAME/bundle.json` and beside it every file that
this manifest lists. Each file is held to the size and sha256 of the manifest; the manifest itself
is trusted as far as the mirror is, or held to a hash by asking for `NAME@SHA256`, which is what
`r2rt models info` prints for a bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from r2rt.errors import (
    BundleDamagedError,
    DownloadError,
    HashMismatchError,
    ModelNotFoundError,
    OutputError,
    QueryError,
    R2rtError,
)
from r2rt.model.bundle import Bundle
from r2rt.model.download import download, is_remote, shown_url
from r2rt.model.installed import (
    checked_name,
    install_folder,
    locked,
    models_dir,
    staging_dir,
)
from r2rt.model.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from r2rt.model.registry import CLIP_ARCHITECTURE, PUBLISHED, canonical_name
from r2rt.progress import Update
from r2rt.user_folders import user_path

__all__ = ["how_to_carry", "manifest_sha256", "pull"]


def pull(
    name: str,
    *,
    source: str | None = None,
    clip: str | None = None,
    force: bool = False,
    progress: Update | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Install a model, or leave it as it is where it is already installed, without any network.

    Args:
        name: the model; `NAME@SHA256` pins the sha256 (64 digits) of a mirror's manifest.
        source: a mirror, as a URL or folder; a bundle's own folder will do as well. With None the
            published checkpoint and CLIP are fetched and converted here.
        clip: for the conversion: a file of CLIP's weights, or a folder or URL that holds one, in
            place of where it was published; see `r2rt.model.convert.clip_files.fetch_clip`.
        force: fetch it again even where it is installed.
        progress: called with the bytes fetched so far and in all.
        say: called with lines for a person.

    Returns:
        The folder of the installed bundle.

    Raises:
        QueryError: the name can be none, or the pin or the source's address cannot be used.
        ModelNotFoundError: no source is given, and no model of that name was published; or the
            source holds another published model under this name.
        DownloadError: it could not be fetched.
        ConversionError: the checkpoint or CLIP cannot be used, or the graphs made of them do not
            compute what the model does.
        HashMismatchError: a file is not what the manifest, the registry or the pin promises.
        BundleDamagedError, BundleSchemaError: the manifest cannot be used.
        OutputError: it cannot be written.
    """
    say = say or _silent
    name, at, pin_text = name.partition("@")
    pin = _checked_pin(pin_text) if at else None
    name = checked_name(name)
    if pin and source is None:
        raise QueryError("NAME@SHA256 pins a mirror's manifest; add --from URL|DIR")
    if not force and (there := _installed_as_asked(name, pin, say)):
        return there
    with locked(name, lambda: say(f"waiting for another process that works on {name}")):
        if not force and (there := _installed_as_asked(name, pin, say)):
            return there
        if source is None:
            return _convert(name, clip, progress, say)
        return _mirror(name, source, pin, progress, say)


def manifest_sha256(folder: Path) -> str:
    """Return the hash by which `NAME@SHA256` pins the bundle in `folder`.

    Raises:
        BundleDamagedError: its manifest cannot be read.
    """
    path = folder / MANIFEST_NAME
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleDamagedError(f"{path}: cannot be read ({error.strerror})") from error


def how_to_carry(name: str) -> str:
    """Return what to do to bring a model to a machine without a network."""
    return (
        f"`r2rt models pull {name}` and `r2rt models export {name} FILE` on a machine with a "
        "network, carry FILE here, and `r2rt models import FILE`"
    )


def _installed_as_asked(name: str, pin: str | None, say: Callable[[str], None]) -> Path | None:
    folder = models_dir() / name
    if not folder.exists():
        return None
    try:
        Bundle.open(folder, verify="never")
        found = manifest_sha256(folder)
    except R2rtError as error:
        say(f"what is installed is fetched again: {error}")
        return None
    if pin and found != pin:
        raise HashMismatchError(
            f"{folder / MANIFEST_NAME}: sha256 is {found[:16]}…, pinned is {pin[:16]}…; "
            "another version is installed, replace it with --force"
        )
    return folder


def _mirror(
    name: str, source: str, pin: str | None, progress: Update | None, say: Callable[[str], None]
) -> Path:
    base = _base(source, name)
    if is_remote(base) and not pin:
        _warn_of_plain_http(base, say)
    staging = staging_dir(name)
    manifest_path = staging / MANIFEST_NAME
    manifest_url = f"{base}/{MANIFEST_NAME}"
    download(manifest_url, manifest_path, sha256=pin, max_size=MAX_MANIFEST_BYTES)
    try:
        manifest = parse_manifest(manifest_path.read_bytes(), where=shown_url(manifest_url))
        _check_own_name(manifest, name, shown_url(manifest_url))
    except R2rtError:
        manifest_path.unlink()
        raise
    _remove_strays(staging, manifest)
    _check_space(staging, manifest)
    total = sum(entry.size for entry in manifest.files.values())
    before = 0
    for file, entry in manifest.files.items():
        download(
            f"{base}/{file}",
            staging / file,
            sha256=entry.sha256,
            size=entry.size,
            progress=_shifted(progress, before, total),
        )
        before += entry.size
        if progress:
            progress(before, total)
    Bundle.open(staging, verify="never")  # the hashes were compared file by file
    return install_folder(staging, name)


def _check_own_name(manifest: Manifest, name: str, where: str) -> None:
    """Refuse a bundle that calls itself a published model other than the one asked for."""
    own = canonical_name(manifest.name)
    if own in PUBLISHED and own != name:
        raise ModelNotFoundError(
            f"{where}: is the bundle of {own}, asked for was {name}; pull {own}, or another source"
        )


def _base(source: str, name: str) -> str:
    """Return where the bundle's own files lie: `NAME` in the mirror, or a bundle's very folder."""
    if "://" in source:
        try:
            urlsplit(source)
        except ValueError as error:
            raise QueryError(
                f"the source is no address ({error}); give https://HOST/PATH or a folder"
            ) from error
        return f"{source.rstrip('/')}/{name}"
    folder = user_path(source).absolute()
    if (folder / MANIFEST_NAME).is_file() and not (folder / name / MANIFEST_NAME).is_file():
        return str(folder)
    return str(folder / name)


def _warn_of_plain_http(base: str, say: Callable[[str], None]) -> None:
    parts = urlsplit(base)
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
        say(
            f"{parts.hostname} is asked over plain http, where anyone on the way can change what "
            "comes; use https, or pin the manifest with NAME@SHA256"
        )


def _remove_strays(staging: Path, manifest: Manifest) -> None:
    """Remove what an earlier version of the bundle left; what belongs to this one is resumed."""
    keep = {MANIFEST_NAME}
    for file in manifest.files:
        keep.update((file, f"{file}.part", f"{file}.part.json"))
    for path in sorted(staging.rglob("*"), reverse=True):  # what a folder holds before the folder
        if path.is_dir():
            with contextlib.suppress(OSError):  # not empty, and so needed
                path.rmdir()
        elif path.relative_to(staging).as_posix() not in keep:
            path.unlink()


def _check_space(staging: Path, manifest: Manifest) -> None:
    """Refuse at once what cannot fit, rather than after the disk has been filled."""
    there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    needed = sum(entry.size for entry in manifest.files.values()) - there
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise OutputError(
            f"{staging}: the model needs {needed / 1e6:.0f} MB more, {free / 1e6:.0f} MB are free; "
            "make room, or set R2RT_HOME to a folder on another disk"
        )


def _shifted(progress: Update | None, before: int, total: int) -> Update | None:
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _convert(
    name: str, clip: str | None, progress: Update | None, say: Callable[[str], None]
) -> Path:
    model = PUBLISHED.get(name)
    if model is None:
        raise ModelNotFoundError(
            f"no model {name!r} was published, `r2rt models list` shows which were; "
            "name a mirror that has it with --from URL|DIR"
        )
    from r2rt.model.convert.clip_files import fetch_clip, hub_is_offline
    from r2rt.model.convert.convert import convert

    checkpoint = models_dir() / ".partial" / "checkpoints" / model.filename
    if hub_is_offline() and not checkpoint.is_file():
        raise DownloadError(
            f"HF_HUB_OFFLINE is set, and {model.filename} is not here; {how_to_carry(name)}"
        )
    say(f"fetching {shown_url(model.url)}")
    try:
        download(model.url, checkpoint, sha256=model.hash8, progress=progress)
    except DownloadError as error:
        raise DownloadError(f"{error}; without a network here, {how_to_carry(name)}") from error
    clip_file = fetch_clip(clip, progress=progress, say=say)
    staging = staging_dir(f"{name}.convert")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    say(f"converting {model.filename} with {CLIP_ARCHITECTURE}")
    try:
        convert(model, checkpoint, clip_file, staging, say=say)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    folder = install_folder(staging, name)
    checkpoint.unlink(missing_ok=True)
    return folder


def _checked_pin(text: str) -> str:
    pin = text.lower()
    if len(pin) != 64 or set(pin) - set("0123456789abcdef"):
        raise QueryError(f"{text!r} pins nothing: expected the 64 hexadecimal digits of a sha256")
    return pin


def _silent(line: str) -> None:
    """Say nothing."""
