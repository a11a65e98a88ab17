"""Fetching videos from addresses: those that clients name, and those of the library."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2

from r2rt.errors import SourceNotFoundError
from r2rt.files import replacing
from r2rt.service.jobs.runner import Progress
from r2rt.service.names import plain_name
from r2rt.service.outbound import ForbiddenAddressError, PublicTransport
from r2rt.service.problems import ProblemError
from r2rt.service.settings import Settings
from r2rt.video.remote import RemoteReader, RemoteVideo

__all__ = ["checked_url", "fetch", "fetch_indexed"]

_SCHEMES = ("http", "https")
_REDIRECTS = 5
_TIMEOUT_S = 20.0
_PART_BYTES = 4 << 20


def checked_url(url: str) -> tuple[str, str]:
    """Return an address and the name of its file.

    Raises:
        ProblemError: it is no address that can be fetched from.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
        usable = usable and parts.username is None and url.isprintable() and " " not in url
    except ValueError:
        usable = False
    if not usable:
        raise ProblemError(
            422, "bad-url", "expected http://HOST/… or https://HOST/…, without user and password"
        )
    return url, plain_name(unquote(parts.path))


def fetch(
    url: str,
    path: Path,
    settings: Settings,
    progress: Progress,
    transport: Callable[..., httpx2.BaseTransport] = PublicTransport,
) -> None:
    """Fetch a file, whole or not at all.

    Args:
        url: see `checked_url`.
        path: where it goes.
        settings: how long it may take, and how large it may be.
        progress: called with bytes, and while nothing comes; raises to end it.
        transport: makes what connects, of arguments `private` and `before_read`.

    Raises:
        ProblemError: the address is forbidden or does not answer, or the file is too large.
    """
    deadline = time.monotonic() + settings.fetch_timeout_s

    def check() -> None:
        progress(0, None)
        if time.monotonic() > deadline:
            raise _failed(f"it took longer than {settings.fetch_timeout_s:g} s")

    path.parent.mkdir(parents=True, exist_ok=True)
    client = httpx2.Client(
        transport=transport(private=settings.private_addresses, before_read=check),
        timeout=_TIMEOUT_S,
        headers={"Accept-Encoding": "identity", "User-Agent": "r2rt"},
    )
    try:
        with client:
            for _ in range(1 + _REDIRECTS):
                with client.stream("GET", url) as response:
                    # Followed here, since httpx2 reads the whole body of a redirect.
                    if response.next_request is not None:
                        url = str(response.next_request.url)
                        continue
                    if response.status_code != 200:
                        raise _failed(f"it answers with status {response.status_code}")
                    _receive(response, path, settings, progress, check)
                    return
            raise _failed(f"it redirects more than {_REDIRECTS} times")
    except ForbiddenAddressError as error:
        raise _forbidden(error) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        if isinstance(error.__cause__, ForbiddenAddressError):
            raise _forbidden(error.__cause__) from error
        raise _failed(type(error).__name__) from error


def fetch_indexed(address: str, path: Path, settings: Settings, progress: Progress) -> None:
    """Fetch a video of the library by what opened it there, whole or not at all.

    Private networks and other kinds of addresses are not forbidden, so no client may name it.

    Args:
        address: as the library has it.
        path: where it goes.
        settings: how long it may take, and how large it may be.
        progress: see `fetch`.

    Raises:
        ProblemError: the address does not answer, or the file is too large.
        MissingExtraError: what opens such addresses is not installed.
    """
    deadline = time.monotonic() + settings.fetch_timeout_s
    path.parent.mkdir(parents=True, exist_ok=True)
    video = RemoteVideo(address)
    try:
        size = video.stat().st_size
    except OSError as error:
        raise _failed(str(error)) from error
    if size > settings.max_upload_bytes:
        raise _too_large(settings.max_upload_bytes)
    reader = RemoteReader(video)
    with replacing(path) as temporary, temporary.open("wb") as file:
        while reader.tell() < size:
            progress(reader.tell() // 10, size)
            if time.monotonic() > deadline:
                raise _failed(f"it took longer than {settings.fetch_timeout_s:g} s")
            try:
                part = reader.read(_PART_BYTES)
            except SourceNotFoundError as error:
                raise _failed(str(error)) from error
            file.write(part)


def _receive(
    response: httpx2.Response,
    path: Path,
    settings: Settings,
    progress: Progress,
    check: Callable[[], None],
) -> None:
    most = settings.max_upload_bytes
    announced = response.headers.get("content-length", "")
    total = int(announced) if announced.isdecimal() else None
    if total is not None and total > most:
        raise _too_large(most)
    received = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        # Not decoded: what a few bytes may become has no limit. And as it comes: what fills a
        # chunk of some size may come slowly.
        for chunk in response.iter_raw():
            received += len(chunk)
            if received > most:
                raise _too_large(most)
            check()
            file.write(chunk)
            # The encoding, which follows, is most of the work.
            progress(received // 10, total)
        if total is not None and received != total:
            raise _failed(f"{received} of {total} bytes came")


def _failed(reason: str) -> ProblemError:
    return ProblemError(502, "fetch-failed", f"the address could not be fetched: {reason}"[:300])


def _forbidden(error: Exception) -> ProblemError:
    return ProblemError(403, "address-forbidden", f"{error}; only public addresses are fetched")


def _too_large(most: int) -> ProblemError:
    return ProblemError(413, "too-large", f"the file is larger than {most} bytes (--max-upload)")
