"""Fetch a model: a ready bundle from a mirror, or a published checkpoint that is converted here.

A mirror is any web server or folder that holds `NAME/bundle.json` and beside it every file that
this manifest lists. Each file is held to the size and sha256 of the manifest; the manifest itself
is trusted as far as the mirror is, or held to a hash by asking for `NAME@SHA256`, which is what
`r2rt models info` prints for a bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from r2rt.errors import (
    BundleDamagedError,
    ConversionError,
    DownloadError,
    HashMismatchError,
    ModelNotFoundError,
    OutputError,
    QueryError,
    R2rtError,
    error_class,
)
from r2rt.model.bundle import MANIFEST_NAME, MAX_MANIFEST_BYTES, Bundle, Manifest, parse_manifest
from r2rt.model.download import Progress, download, is_remote, shown_url
from r2rt.model.installed import (
    checked_name,
    install_folder,
    locked,
    models_dir,
    staging_dir,
    user_path,
)
from r2rt.model.registry import CLIP_ARCHITECTURE, PUBLISHED, canonical_name

__all__ = ["find_workbench", "manifest_sha256", "pull"]

_CONVERTER = Path("export") / "to_onnx.py"
_INTERRUPTED = 130
_CONVERTER_NEEDS = ("torch", "open_clip", "onnx")


def pull(
    name: str,
    *,
    source: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Install a model, or leave it as it is where it is already installed, without any network.

    Args:
        name: the model; `NAME@SHA256` pins the sha256 (64 digits) of a mirror's manifest.
        source: a mirror, as a URL or folder; a bundle's own folder will do as well. With None the
            published checkpoint is fetched from the hub and converted by the workbench.
        force: fetch it again even where it is installed.
        progress: called with the bytes fetched so far and in all.
        say: called with lines for a person.

    Returns:
        The folder of the installed bundle.

    Raises:
        QueryError: the name can be none, or the pin cannot be used.
        ModelNotFoundError: no source is given, and no model of that name was published; or the
            source holds another published model under this name.
        DownloadError: it could not be fetched, or nothing here converts it; says what is needed.
        ConversionError: the checkpoint cannot be used, or the converter failed in a way of its own.
        HashMismatchError: a file is not what the manifest, the registry or the pin promises.
        BundleDamagedError, BundleSchemaError: the manifest cannot be used.
        OutputError: it cannot be written.
    """
    say = say or _silent
    name, _, pin_text = name.partition("@")
    pin = _checked_pin(pin_text) if pin_text else None
    name = checked_name(name)
    if pin and source is None:
        raise QueryError("NAME@SHA256 pins a mirror's manifest; add --from URL|DIR")
    if not force and (there := _installed_as_asked(name, pin, say)):
        return there
    with locked(name, lambda: say(f"waiting for another process that works on {name}")):
        if not force and (there := _installed_as_asked(name, pin, say)):
            return there
        if source is None:
            return _convert(name, progress, say)
        return _mirror(name, source, pin, progress, say)


def find_workbench() -> Path | None:
    """Return the checkout that can convert checkpoints: `$R2RT_WORKBENCH`, or where r2rt lies.

    Raises:
        DownloadError: the variable names a folder that is none.
    """
    named = os.environ.get("R2RT_WORKBENCH")
    folder = user_path(named) if named else Path(__file__).resolve().parents[2]
    if (folder / _CONVERTER).is_file():
        return folder
    if named:
        raise DownloadError(f"R2RT_WORKBENCH is {folder}, which holds no {_CONVERTER}")
    return None


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
    name: str, source: str, pin: str | None, progress: Progress | None, say: Callable[[str], None]
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


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _convert(name: str, progress: Progress | None, say: Callable[[str], None]) -> Path:
    model = PUBLISHED.get(name)
    if model is None:
        raise ModelNotFoundError(
            f"no model {name!r} was published, `r2rt models list` shows which were; "
            "name a mirror that has it with --from URL|DIR"
        )
    workbench = _usable_workbench(name)
    checkpoint = models_dir() / ".partial" / "checkpoints" / model.filename
    say(f"fetching {shown_url(model.url)}")
    download(model.url, checkpoint, sha256=model.hash8, progress=progress)
    staging = staging_dir(f"{name}.export")
    shutil.rmtree(staging, ignore_errors=True)
    say(f"converting {model.filename} with {CLIP_ARCHITECTURE}")
    _run_converter(workbench, checkpoint, staging, name, say)
    Bundle.open(staging)
    folder = install_folder(staging, name)
    checkpoint.unlink(missing_ok=True)
    return folder


def _usable_workbench(name: str) -> Path:
    """Return the workbench, or say what it lacks before anything is downloaded."""
    workbench = find_workbench()
    if workbench is None:
        raise DownloadError(
            f"{name} was published as a PyTorch checkpoint, and there is no workbench here to "
            "convert it: take a ready bundle with --from URL|DIR, or set R2RT_WORKBENCH to a "
            "checkout of r2rt with pip install 'r2rt[export]'"
        )
    missing = [module for module in _CONVERTER_NEEDS if importlib.util.find_spec(module) is None]
    if missing:
        raise DownloadError(
            f"converting {name} needs {', '.join(missing)}: pip install 'r2rt[export]', "
            "or take a ready bundle with --from URL|DIR"
        )
    return workbench


def _run_converter(
    workbench: Path, checkpoint: Path, output: Path, name: str, say: Callable[[str], None]
) -> None:
    command = [sys.executable, str(workbench / _CONVERTER), str(checkpoint)]
    command += ["--clip", CLIP_ARCHITECTURE, "--output", str(output), "--name", name]
    last = ""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip():
                    last = line.strip()
                    say(last)
        except BaseException:
            process.terminate()  # it removes what it has half written
            raise
    if process.returncode:
        raise _converters_error(checkpoint, process.returncode, last)


def _converters_error(checkpoint: Path, exit_code: int, last: str) -> BaseException:
    """Return the converter's error as one of ours: of the same exit code, if that is one of ours.

    Its own codes, those for wrong usage by us, and a death by a signal come to the same for whoever
    asked for the model: it could not be converted.
    """
    if exit_code == _INTERRUPTED:
        return KeyboardInterrupt()
    error = error_class(exit_code)
    if error is None or error is QueryError:
        error = ConversionError
    reason = last.removeprefix("Error: ") if last else "it said nothing"
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return error(f"{checkpoint.name} could not be converted ({how}): {reason}")


def _checked_pin(text: str) -> str:
    pin = text.lower()
    if len(pin) != 64 or set(pin) - set("0123456789abcdef"):
        raise QueryError(f"{text!r} pins nothing: expected the 64 hexadecimal digits of a sha256")
    return pin


def _silent(line: str) -> None:
    """Say nothing."""
