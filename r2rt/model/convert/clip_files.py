"""Where CLIP's weights come from: a file that is here, or one of several places that publish it.

Whatever the place, the file is one of those that `r2rt.model.registry.CLIP_SOURCES` knows by hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from r2rt.errors import DownloadError, HashMismatchError, SourceNotFoundError
from r2rt.model import registry
from r2rt.model.download import download, is_remote, shown_url
from r2rt.model.registry import ClipSource, hub_endpoint
from r2rt.progress import Update
from r2rt.user_folders import user_cache, user_path

__all__ = ["clip_folder", "fetch_clip", "hub_is_offline"]


def fetch_clip(
    place: str | None = None, *, progress: Update | None = None, say: Callable[[str], None]
) -> Path:
    """Return a file of CLIP ViT-B/32's weights; fetch it where it is not on this machine.

    Looked at are the folder of former downloads, OpenAI's own (`~/.cache/clip`) and the hub's
    cache; then, unless `HF_HUB_OFFLINE` is set, every address that publishes the file.

    Args:
        place: a file, or the URL of one that has a known name, or a folder or URL that holds such
            a file, in place of all these; by default what `R2RT_CLIP` says, if anything.
        progress: called with the bytes fetched so far and in all.
        say: called with lines for a person.

    Raises:
        SourceNotFoundError: `place` is a path at which nothing is.
        HashMismatchError: the file at `place` is not one that is known.
        DownloadError: the file could not be fetched; says how to bring it.
    """
    place = place or os.environ.get("R2RT_CLIP")
    if place and not is_remote(place):
        return _named(user_path(place))
    failures = []
    if not place:
        for source in registry.CLIP_SOURCES:
            for path in _here(source):
                with contextlib.suppress(SourceNotFoundError, OSError):  # another user's, say
                    # Other models have files of that name, of gigabytes.
                    fits = source.size in {None, path.stat().st_size}
                    if fits and _sha256(path) == source.sha256:
                        return path
        if hub_is_offline():
            failures.append("HF_HUB_OFFLINE is set")
    named = _at(place) if place else None
    for source in registry.CLIP_SOURCES if named is None else (named,):
        urls = list(_urls(source))
        if place:
            urls = [f"{place.rstrip('/')}/{source.filename}" if named is None else place]
        for url in urls if not hub_is_offline() or place else ():
            try:
                size = "" if source.size is None else f" ({source.size / 1e6:.0f} MB)"
                say(f"fetching CLIP from {shown_url(url)}{size}")
                target = clip_folder() / source.filename
                return download(
                    url, target, sha256=source.sha256, size=source.size, progress=progress
                )
            except (DownloadError, HashMismatchError) as error:
                failures.append(str(error))
                say(f"CLIP could not be fetched from there: {error}")
    names = " or ".join(source.filename for source in registry.CLIP_SOURCES)
    raise DownloadError(
        f"CLIP's weights could not be fetched ({failures[-1]}); bring {names} here and "
        "name it with --clip FILE"
    )


def hub_is_offline() -> bool:
    """Whether the user forbids to ask the hub, as huggingface_hub understands it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def clip_folder() -> Path:
    """Return the folder of fetched weights: `clip` in `$R2RT_HOME` or in the user's cache."""
    home = os.environ.get("R2RT_HOME")
    return (user_path(home) if home else user_cache()) / "clip"


def _named(path: Path) -> Path:
    """Check what the user named: a file, or a folder with one in it."""
    if path.is_dir():
        found = [path / x.filename for x in registry.CLIP_SOURCES if (path / x.filename).is_file()]
        if not found:
            names = " or ".join(source.filename for source in registry.CLIP_SOURCES)
            raise SourceNotFoundError(f"{path} holds no {names}; name a file of CLIP's weights")
        path = found[0]
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file; name a file of CLIP's weights")
    digest = _sha256(path)
    known = {source.sha256 for source in registry.CLIP_SOURCES}
    if digest not in known:
        raise HashMismatchError(
            f"{path}: sha256 is {digest[:16]}…, which is none of CLIP ViT-B/32's known files "
            f"({', '.join(f'{x[:16]}…' for x in sorted(known))}); get it again"
        )
    return path


def _at(url: str) -> ClipSource | None:
    """Return the file that a URL is the address of, going by its name; None for a folder's."""
    try:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
    except ValueError:  # an unreadable one; the download says so
        return None
    return next((source for source in registry.CLIP_SOURCES if source.filename == name), None)


def _here(source: ClipSource) -> Iterator[Path]:
    """Yield files of that name that are on this machine."""
    hub = os.environ.get("HF_HUB_CACHE") or (
        user_path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    )
    candidates = [clip_folder() / source.filename]
    candidates.append(user_path("~/.cache/clip") / source.filename)
    candidates += sorted(Path(hub).glob(f"models--timm--*/snapshots/*/{source.filename}"))
    yield from (path for path in candidates if os.path.isfile(path))  # noqa: PTH113  never raises


def _urls(source: ClipSource) -> Iterator[str]:
    yield from (url.format(hub=hub_endpoint()) for url in source.urls)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceNotFoundError(f"{path}: cannot be read ({error.strerror})") from error
