"""Fetch one file from a hub, a mirror or a folder: resumed, verified, landed whole or not at all.

What is being fetched lies in `NAME.part` beside its destination, with what is needed to resume it
in `NAME.part.json`. The part is locked while a process writes to it; a second process that wants
the same file waits, and then finds it there. Only a file of the promised size and hash is moved to
the destination, so a reader never sees a wrong one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from r2rt.errors import DownloadError, HashMismatchError, OutputError, QueryError
from r2rt.model.partial_file import PartialFile, locked_part, output_error
from r2rt.model.registry import hub_endpoint
from r2rt.progress import Update
from r2rt.retry import TransientError, retrying

if TYPE_CHECKING:
    import httpx2

__all__ = ["checked_hash", "download", "is_remote", "shown_url"]

_CHUNK_BYTES = 1 << 18
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 30.0
# So many failures in a row end a download; one that brought at least this much starts a new count.
_ATTEMPTS = 5
_ADVANCE_BYTES = 1 << 20
_BACKOFF_S = 0.5
_LONGEST_WAIT_S = 30.0

_HASH = re.compile(r"[0-9a-f]{8,64}")
# No file has more digits, and Python refuses to read some thousands of them.
_LENGTH = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]+|\*)/([0-9]{1,18}|\*)")


def download(
    url: str,
    destination: Path,
    *,
    sha256: str | None,
    size: int | None = None,
    max_size: int | None = None,
    progress: Update | None = None,
) -> Path:
    """Fetch `url` to `destination`, or leave what is there if its hash is right.

    Args:
        url: an http(s) or file URL, or the path of a file.
        destination: the file to write; its folder is made where it is absent.
        sha256: the hash that the content must have, or its first 8 to 63 hexadecimal digits.
            With None nothing is known of the content, and the file is always fetched anew.
        size: the exact size in bytes, where it is known.
        max_size: the most bytes to accept, where the exact size is not known.
        progress: called as `progress(done_bytes, total_bytes)`, the total None while unknown.

    Returns:
        `destination`.

    Raises:
        DownloadError: no network, not on the server, cut off too often, or not of the given size.
        HashMismatchError: the content is not what `sha256` promises. Nothing of it is kept.
        OutputError: the file cannot be written (disk full, no permission).
        QueryError: `sha256` is not a hash.
    """
    want = checked_hash(sha256)
    if want and _has_hash(destination, want, size):
        return destination
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(destination.parent, error) from error
    wanted = _Wanted(url=url, sha256=want, size=size, max_size=max_size, progress=progress)
    with locked_part(destination) as part:
        if want and _has_hash(destination, want, size):  # another process has just fetched it
            return destination
        if is_remote(url):
            _fetch_verified(wanted, part)
        else:
            _copy(wanted, part)
        _verify(wanted, part)
        part.land()
    return destination


def checked_hash(sha256: str | None) -> str | None:
    """Return a sha256, or its first 8 digits or more, in lower case; None for None.

    Raises:
        QueryError: it is not a hash; an empty text, as of an unset variable, is none either.
    """
    if sha256 is None:
        return None
    if not _HASH.fullmatch(sha256.lower()):
        raise QueryError(f"{sha256!r} is no sha256: expected 8 to 64 hexadecimal digits")
    return sha256.lower()


def is_remote(source: str) -> bool:
    """Whether `source` is an http(s) URL, as opposed to a path or a file URL."""
    return source.lower().startswith(("http://", "https://"))


def shown_url(url: str) -> str:
    """Return the URL as a message may show it: without user, password, query and fragment."""
    if not is_remote(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is to be fetched, and what is known of it."""

    url: str
    sha256: str | None
    size: int | None
    max_size: int | None
    progress: Update | None

    @property
    def limit(self) -> int | None:
        return self.max_size if self.size is None else self.size

    def check_offer(self, total: int | None) -> None:
        """Refuse a file whose announced size is not the expected one, before any of it comes."""
        if total is None or self.limit is None:
            return
        if total > self.limit or (self.size is not None and total != self.size):
            raise DownloadError(
                f"{shown_url(self.url)}: has {total} bytes, expected "
                f"{'at most ' if self.size is None else ''}{self.limit}; it is another file"
            )

    def report(self, done: int, total: int | None) -> None:
        if self.progress:
            self.progress(done, total if self.size is None else self.size)


def _fetch_verified(wanted: _Wanted, part: PartialFile) -> None:
    """Fetch until the part is complete; what an earlier run left is given one chance."""
    url, want = wanted.url, wanted.sha256
    if part.size and not want and (part.url != url or not part.validator):
        part.restart(url=url, validator=None)  # nothing would show whether the halves fit
    if wanted.limit is not None and part.size > wanted.limit:
        part.restart(url=url, validator=None)
    resumed = part.size > 0
    _fetch(wanted, part)
    if resumed and want and not part.sha256().startswith(want):
        part.restart(url=url, validator=None)
        _fetch(wanted, part)


def _fetch(wanted: _Wanted, part: PartialFile) -> None:
    with _client(wanted.url) as client:
        while True:
            again = retrying(tries=_ATTEMPTS, first_s=_BACKOFF_S, longest_s=_LONGEST_WAIT_S)
            try:
                if again(_fetch_more, client, wanted, part):
                    return
            except TransientError as error:
                raise DownloadError(
                    f"{shown_url(wanted.url)}: {error} ({_ATTEMPTS} times in a row); check the "
                    "network or proxy and run the same again, it goes on where it stopped"
                ) from error


def _fetch_more(client: httpx2.Client, wanted: _Wanted, part: PartialFile) -> bool:
    """Ask once for what the part still lacks; return whether it is complete.

    A failure after much has come is none: tries are counted anew.
    """
    before = part.size
    try:
        _fetch_once(client, wanted, part)
    except TransientError:
        if part.size - before >= _ADVANCE_BYTES:
            return False
        raise
    return True


def _fetch_once(client: httpx2.Client, wanted: _Wanted, part: PartialFile) -> None:
    """Ask once for what the part still lacks; return when it is complete."""
    import httpx2

    url, offset = wanted.url, part.size
    if offset and offset == wanted.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if part.validator and part.url == url:
            headers["If-Range"] = part.validator
    try:
        with client.stream("GET", url, headers=headers) as response:
            total = _begin(response, url, part, offset)
            wanted.check_offer(total)
            if part.size != total:
                _check_space(part, total)
                _receive(response, wanted, part, total)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
        raise DownloadError(f"{shown_url(url)}: {_reason(error)}; check the URL") from error
    except httpx2.HTTPError as error:
        raise TransientError(_reason(error)) from error
    expected = total if wanted.size is None else wanted.size
    if expected is not None and part.size < expected:
        raise TransientError(f"the connection ended after {part.size} of {expected} bytes")


def _begin(response: httpx2.Response, url: str, part: PartialFile, offset: int) -> int | None:
    """Judge the response's head, make the part fit it, and return the whole file's size."""
    status = response.status_code
    encoding = response.headers.get("Content-Encoding", "identity")
    if status in {200, 206} and encoding != "identity":
        raise DownloadError(f"{shown_url(url)}: sent as {encoding}, which was not asked for")
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = int(match[2]) if match and match[2] != "*" else None
    if status == 200:
        part.restart(url=url, validator=_validator(response))
        length = response.headers.get("Content-Length", "")
        return int(length) if _LENGTH.fullmatch(length) else None
    if status == 206 and offset:
        known = part.validator if part.url == url else None
        fits = match is not None and match[1] is not None and int(match[1]) == offset
        if fits and (known is None or _validator(response) in {None, known}):
            return total
        part.restart(url=url, validator=None)
        raise TransientError("sent another part or version of the file than was asked for", 0.0)
    if status == 416 and offset:
        if total == offset:
            return total
        part.restart(url=url, validator=None)
        raise TransientError("the file has changed on the server", 0.0)
    reason = f"HTTP {status} {response.reason_phrase}".strip()
    if status in {408, 425, 429} or status >= 500:
        after = response.headers.get("Retry-After", "")
        raise TransientError(reason, float(after) if after.isdecimal() else None)
    raise DownloadError(f"{shown_url(url)}: {reason}; check the name and the address")


def _receive(
    response: httpx2.Response, wanted: _Wanted, part: PartialFile, total: int | None
) -> None:
    done = part.size
    wanted.report(done, total)
    for chunk in response.iter_raw():
        done += len(chunk)
        if wanted.limit is not None and done > wanted.limit:
            part.restart(url=wanted.url, validator=None)
            raise DownloadError(
                f"{shown_url(wanted.url)}: sends more than the {wanted.limit} bytes expected"
            )
        part.write(chunk)
        wanted.report(done, total)


def _copy(wanted: _Wanted, part: PartialFile) -> None:
    path = _local_path(wanted.url)
    part.restart(url=wanted.url, validator=None)
    try:
        if not path.is_file():
            raise DownloadError(f"{path}: no such file; check the path")
        total = path.stat().st_size
        wanted.check_offer(total)
        _check_space(part, total)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                part.write(chunk)
                wanted.report(part.size, total)
    except (DownloadError, OutputError):
        raise
    except OSError as error:
        raise DownloadError(f"{path}: cannot be read ({error.strerror})") from error


def _local_path(source: str) -> Path:
    parts = urlsplit(source)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in source:
        raise DownloadError(f"{source}: expected an http, https or file URL, or a path")
    return Path(source)


def _verify(wanted: _Wanted, part: PartialFile) -> None:
    if wanted.size is not None and part.size != wanted.size:
        size = part.size
        part.discard()
        raise DownloadError(
            f"{shown_url(wanted.url)}: {size} bytes came, expected {wanted.size}; "
            "it was thrown away, fetch it again"
        )
    if wanted.sha256 is None:
        return
    got = part.sha256()
    if not got.startswith(wanted.sha256):
        part.discard()
        raise HashMismatchError(
            f"{shown_url(wanted.url)}: sha256 is {got[:16]}…, expected {wanted.sha256[:16]}…; "
            "it was thrown away, fetch it again or from elsewhere"
        )


def _client(url: str) -> httpx2.Client:
    import httpx2

    try:
        return httpx2.Client(
            follow_redirects=True,
            timeout=httpx2.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            headers={"User-Agent": "r2rt", **_authorization(url)},
        )
    except (ImportError, ValueError, OSError, httpx2.InvalidURL) as error:
        # Read from the environment: HTTPS_PROXY and the like, SSL_CERT_FILE.
        raise DownloadError(
            f"{shown_url(url)}: the proxy or certificate settings cannot be used ({error})"
        ) from error


def _authorization(url: str) -> dict[str, str]:
    """Return the header that shows `HF_TOKEN` to the hub, and to nobody else.

    A redirection to another host drops it.
    """
    token = os.environ.get("HF_TOKEN")
    theirs, ours = urlsplit(url), urlsplit(hub_endpoint())
    same = (theirs.scheme, theirs.netloc) == (ours.scheme, ours.netloc)
    return {"Authorization": f"Bearer {token}"} if token and same else {}


def _validator(response: httpx2.Response) -> str | None:
    etag: str | None = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):  # a weak one does not promise the same bytes
        return etag
    modified: str | None = response.headers.get("Last-Modified")
    return modified


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0]


def _check_space(part: PartialFile, total: int | None) -> None:
    if total is None:
        return
    free = shutil.disk_usage(part.path.parent).free
    needed = total - part.size
    if needed > free:
        raise OutputError(
            f"{part.destination}: needs {needed / 1e6:.1f} MB more, {free / 1e6:.1f} MB are free; "
            "make room, or set R2RT_HOME to a folder on another disk"
        )


def _has_hash(path: Path, want: str, size: int | None) -> bool:
    try:
        if size is not None and path.stat().st_size != size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().startswith(want)
    except OSError:
        return False  # absent or unreadable: fetching it says what is wrong
