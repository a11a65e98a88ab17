"""What can be watched, how it is opened, and which failures are worth another try."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from r2rt.errors import (
    NotAVideoError,
    NoVideoStreamError,
    QueryError,
    R2rtError,
    SourceLostError,
    SourceNotFoundError,
)
from r2rt.portable import has_input

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["Kind", "LiveSource", "LostError", "SourceOptions", "Transport"]

Kind: TypeAlias = Literal["network", "device", "pipe", "growing", "file"]
Transport: TypeAlias = Literal["tcp", "udp"]

_SCHEMES = frozenset(
    ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp")
)
# A playlist from the network may name further addresses there, but no file of this machine.
_NETWORK_PROTOCOLS = (
    "rtsp,rtsps,rtp,udp,tcp,tls,http,https,httpproxy,rtmp,rtmps,srt,crypto,data,hls"
)
_NETWORK_TIMEOUT_S = 10.0
# Between two segments, of 10 s or more, nothing comes.
_PLAYLIST_TIMEOUT_S = 60.0
_PLAYLISTS = (".m3u8", ".mpd")
_PLAYLIST_FORMATS = ("hls", "dash")  # FFmpeg's names
_POLL_S = 0.2


class LostError(Exception):
    """The source cannot be opened or read now, and may be later; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is opened and held.

    Attributes:
        follow: a file is read on while it grows.
        realtime: a file is played at its own rate.
        reconnect: tries in a row before a lost source is given up; 0 for none, None without end.
        timeout_s: how long a source may send nothing; if None, 10 s on the network, 60 s there for
            playlists (HLS, DASH), whose segments come at once, and no limit elsewhere. A pipe, or a
            file that grows, ends after so long.
        transport: how RTSP brings its packets.
        input_format: FFmpeg's name of the format, where the content does not show it.
        input_options: further options of FFmpeg, such as `{"video_size": "1280x720"}`.
        clock: `stream` believes the source's timestamps, `arrival` takes the time of arrival;
            `auto` does the former wherever the format has timestamps; of raw streams through pipes,
            which may be recordings, it counts the frames.
        no_drop: wait for what cannot keep up instead of leaving out; for recordings, not cameras.
        video_track: number of the video track to read, from 1; None takes the default one.

    Raises:
        QueryError: options that contradict each other or are out of range.
    """

    follow: bool = False
    realtime: bool = False
    reconnect: int | None = 10
    timeout_s: float | None = None
    transport: Transport = "tcp"
    input_format: str | None = None
    input_options: Mapping[str, str] = field(default_factory=dict)
    clock: Literal["auto", "stream", "arrival"] = "auto"
    no_drop: bool = False
    video_track: int | None = None

    def __post_init__(self) -> None:
        if self.follow and self.realtime:
            raise QueryError("follow and realtime: one or the other; a file grows or is played")
        if self.reconnect is not None and self.reconnect < 0:
            raise QueryError(f"reconnect {self.reconnect}; expected 0 or more tries")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise QueryError(f"timeout {self.timeout_s} s; expected more than 0")


class LiveSource:
    """A source by its address: `rtsp://…`, `http://…`, `/dev/video0`, `-`, or a file.

    Attributes:
        name: what messages and results call it: the address without password and query.
        kind: what it is.
        options: how it is opened.

    Raises:
        SourceNotFoundError: no such file or device.
        QueryError: a file without `follow` or `realtime`, or these with something else.
    """

    def __init__(self, address: str, options: SourceOptions | None = None) -> None:
        self.options = options or SourceOptions()
        self._address = address
        self.kind: Kind = _kind(address, self.options)
        self.name, self._is_playlist = address, False
        if self.kind == "network":
            self.name = _without_secrets(address)
            self._is_playlist = urlsplit(address).path.lower().endswith(_PLAYLISTS)
        if self.kind == "pipe" and address == "-":
            self.name = "<stdin>"
            if sys.stdin is None or sys.stdin.isatty():
                raise QueryError("-: standard input is a terminal; pipe a video into the command")
        if self.kind in ("device", "file") and self.options.timeout_s is not None:
            what = "devices" if self.kind == "device" else "files that are played"
            raise QueryError(f"--timeout: of no use for {what}; leave it out")

    @property
    def is_live(self) -> bool:
        """Whether frames come when they are taken, and are lost when nobody reads them."""
        return self.kind in ("network", "device")

    @property
    def may_wait(self) -> bool:
        """Whether the writer waits for a reader who is ahead of real time."""
        return self.kind in ("pipe", "growing")

    @property
    def network_timeout_s(self) -> float | None:
        """How long the network may send nothing, in seconds; None for other sources."""
        if self.kind != "network":
            return None
        default_s = _PLAYLIST_TIMEOUT_S if self._is_playlist else _NETWORK_TIMEOUT_S
        return self.options.timeout_s or default_s

    def open(self, stopped: threading.Event, *, first: bool) -> Connection:
        """Open the source.

        Args:
            stopped: set to end what waits for more to read.
            first: it was never open before, so that what looks like a mistake is one.

        Raises:
            LostError: it cannot be opened now; try again.
            SourceNotFoundError, NotAVideoError, NoVideoStreamError: no use in trying again.
        """
        from r2rt.video.container import open_input
        from r2rt.video.demux import CANNOT_OPEN

        waiting = self._reader(stopped)
        began_s = time.monotonic()
        try:
            container = open_input(
                self._address_for_ffmpeg() if waiting is None else waiting,
                format=self._format(),
                container_options=self._container_options(),
                timeout=self.network_timeout_s,
                buffer_size=4096 if self.kind == "growing" else 32768,
            )
        except CANNOT_OPEN as error:
            if waiting is not None:
                waiting.close()
                # What has come and is no video is refused as such, however it ended.
                if waiting.timed_out and not waiting.has_read:
                    raise SourceLostError(
                        f"{self.name}: nothing to read within {self.options.timeout_s:g} s"
                    ) from error
            timeout_s = self.network_timeout_s
            if timeout_s is not None and time.monotonic() - began_s >= timeout_s:
                raise LostError("no answer in time") from error  # FFmpeg may call it anything
            raise self._refusal(error, first=first, stopped=stopped) from error
        if self.kind == "network" and not self._is_playlist:
            # An address need not show it, and a container keeps the limit that it was opened with.
            self._is_playlist = container.format.name in _PLAYLIST_FORMATS
            if self._is_playlist and self.options.timeout_s is None:
                container.close()
                return self.open(stopped, first=first)
        try:
            return Connection(self, container, waiting)
        except BaseException as error:
            container.close()
            if waiting is not None:
                waiting.close()
            if self.is_live and not first and isinstance(error, NoVideoStreamError | QueryError):
                raise LostError("its video is not there") from error  # it was there before
            raise

    def _reader(self, stopped: threading.Event) -> _Waiting | None:
        if self.kind == "pipe":
            path = None if self._address == "-" else self._address
            return _Waiting(path, stopped, self.options.timeout_s, growing=False)
        if self.kind == "growing":
            return _Waiting(self._address, stopped, self.options.timeout_s, growing=True)
        return None

    def _address_for_ffmpeg(self) -> str:
        return f"file:{self._address}" if self.kind == "file" else self._address

    def _format(self) -> str | None:
        if self.options.input_format is None and self.kind == "device":
            return "v4l2"
        return self.options.input_format

    def _container_options(self) -> dict[str, str]:
        # FFmpeg would read on for seconds to estimate a frame rate that nobody asks for.
        options = {} if self.kind == "file" else {"fpsprobesize": "0"}
        if self.kind == "network":
            options["protocol_whitelist"] = _NETWORK_PROTOCOLS
            scheme = urlsplit(self._address).scheme.lower()
            if scheme in ("rtsp", "rtsps"):
                options["rtsp_transport"] = self.options.transport
            elif scheme in ("http", "https"):
                options["reconnect"] = "1"  # where the connection broke off, if the server can
        elif self.kind == "file":
            options["protocol_whitelist"] = "file"
        elif self.kind != "device":
            # A playlist that comes through a pipe opens nothing.
            options["protocol_whitelist"] = "data"
        return options | dict(self.options.input_options)

    def _refusal(
        self, error: Exception, *, first: bool, stopped: threading.Event
    ) -> R2rtError | LostError:
        import av.error

        reason = _reason(error)
        if self.kind in ("network", "device"):
            mistakes = (
                av.error.InvalidDataError,
                av.error.ProtocolNotFoundError,
                av.error.HTTPClientError,
                ValueError,
            )
            if not first or not isinstance(error, mistakes):
                return LostError(reason)
            if isinstance(error, av.error.InvalidDataError):
                return NotAVideoError(f"{self.name}: not a video that FFmpeg understands")
            return SourceNotFoundError(
                f"{self.name}: refused ({reason}); check the address, and user:password in it"
            )
        if stopped.is_set():
            return LostError("stopped")
        hint = (
            "; a growing file must be readable from its head: MPEG-TS, Matroska, fragmented MP4"
            if self.kind == "growing"
            else ""
        )
        return NotAVideoError(f"{self.name}: not a video that FFmpeg understands ({reason}){hint}")


class Connection:
    """An open source: its container and the video stream that is read."""

    def __init__(
        self, source: LiveSource, container: InputContainer, waiting: _Waiting | None
    ) -> None:
        from r2rt.video.container import skip_stream
        from r2rt.video.demux import choose_track

        self.container = container
        self._waiting = waiting
        self.stream = choose_track(container, source.name, source.options.video_track)
        for stream in container.streams:
            if stream is not self.stream:
                skip_stream(stream)
        # Decoding several frames at once would hold each back until the others are there.
        self.stream.codec_context.thread_type = "SLICE"
        self.stream.codec_context.thread_count = 0

    @property
    def is_finite(self) -> bool:
        """Whether the container says how long it is, so that its end is the end."""
        return bool(self.container.duration)

    @property
    def was_replaced(self) -> bool:
        """Whether a growing file ended because another took its place."""
        return self._waiting is not None and self._waiting.was_replaced

    def close(self) -> None:
        """Close the source."""
        self.container.close()
        if self._waiting is not None:
            self._waiting.close()


class _Waiting:
    """A file object for PyAV that waits for more without becoming deaf to being stopped."""

    def __init__(
        self, path: str | None, stopped: threading.Event, timeout_s: float | None, *, growing: bool
    ) -> None:
        self._path = path
        self._stopped = stopped
        self._timeout_s = timeout_s
        self._growing = growing
        self.was_replaced = False
        self.timed_out = False
        self.has_read = False
        if path is None:
            self._handle, self._owned = sys.stdin.fileno(), False
            return
        # A named pipe opens at once, whether somebody writes to it yet or not. Windows changes
        # line breaks of a file that is not opened as binary.
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | (0 if growing else os.O_NONBLOCK)
        try:
            self._handle, self._owned = os.open(path, flags), True
        except OSError as error:
            raise SourceNotFoundError(f"{path}: cannot be read: {error.strerror}") from error

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as there are any, none at the end."""
        if self.timed_out:
            return b""  # at the end FFmpeg asks again, several times
        content = self._read_growing(size) if self._growing else self._read_waiting(size)
        self.has_read = self.has_read or bool(content)
        return content

    def _read_waiting(self, size: int) -> bytes:
        began = time.monotonic()
        while not self._stopped.is_set():
            content = self._read_pipe(size)
            if content is not None:
                return content
            if self._timeout_s is not None and time.monotonic() - began > self._timeout_s:
                self.timed_out = True
                break
        return b""

    def close(self) -> None:
        """Close the file; standard input is left open."""
        if self._owned:
            os.close(self._handle)
            self._owned = False

    def _read_pipe(self, size: int) -> bytes | None:
        if not has_input(self._handle, _POLL_S):
            return None
        try:
            return os.read(self._handle, size)
        except BlockingIOError:
            return None

    def _read_growing(self, size: int) -> bytes:
        began = time.monotonic()
        while not self._stopped.is_set():
            if content := os.read(self._handle, size):
                return content
            if self._is_over():
                self.was_replaced = True
                return b""
            if self._timeout_s is not None and time.monotonic() - began > self._timeout_s:
                self.timed_out = True
                return b""
            self._stopped.wait(_POLL_S)
        return b""

    def _is_over(self) -> bool:
        """Return whether another file has taken this one's place, or it was cut short."""
        assert self._path is not None
        here = os.fstat(self._handle)
        try:
            there = os.stat(self._path)  # noqa: PTH116
        except OSError:
            return False  # moved away: what is written on still comes
        moved = (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)
        return moved or here.st_size < os.lseek(self._handle, 0, os.SEEK_CUR)


def _kind(address: str, options: SourceOptions) -> Kind:
    scheme = _scheme(address) if "://" in address else ""
    plain_file = False
    kind: Kind
    if scheme in _SCHEMES:
        kind = "network"
    elif scheme:
        raise QueryError(
            f"{scheme}://: not among what can be watched: {', '.join(sorted(_SCHEMES))}"
        )
    elif address == "-":
        kind = "pipe"
    else:
        try:
            mode = Path(address).stat().st_mode
        except OSError as error:
            raise SourceNotFoundError(
                f"{address}: {error.strerror or error}; expected an address such as rtsp://…, "
                "a device, a file, or - for standard input"
            ) from error
        if stat.S_ISDIR(mode):
            raise SourceNotFoundError(f"{address}: a folder; expected something that plays")
        plain_file = stat.S_ISREG(mode)
        kind = "device" if stat.S_ISCHR(mode) else "pipe"
    if plain_file:
        if not options.follow and not options.realtime:
            raise QueryError(
                f"{address}: a file; --realtime plays it at its own rate, --follow reads on while "
                "it grows, and `r2rt ground` answers at once"
            )
        return "growing" if options.follow else "file"
    if options.follow or options.realtime:
        name = "follow" if options.follow else "realtime"
        raise QueryError(f"--{name}: for files alone, and {_without_secrets(address)} is none")
    return kind


def _scheme(address: str) -> str:
    try:
        parts = urlsplit(address)
        if parts.scheme.lower() in _SCHEMES:
            _ = parts.port
    except ValueError:
        # It is not quoted: what was taken for a port may be a part of a password.
        raise QueryError(
            "the address cannot be read; write scheme://user:password@host:port/path, in user and "
            "password %23 for #, %2F for / and %3F for ?, and brackets around an IPv6 address"
        ) from None
    return parts.scheme.lower()


def _without_secrets(address: str) -> str:
    """Return an address without user, password and query, which may hold a key."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _reason(error: Exception) -> str:
    """Return what FFmpeg says without the address, which may hold a password."""
    import av.error

    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    text = getattr(error, "strerror", None) or type(error).__name__
    return str(text).strip().splitlines()[0] if str(text).strip() else type(error).__name__
