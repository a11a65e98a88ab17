"""Opening a container and reading its video packets, with damage counted instead of fatal."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import av.error
import numpy as np
from av.codec import Codec, CodecContext
from av.codec.hwaccel import HWAccel
from av.stream import Disposition
from numpy.typing import NDArray

from r2rt.errors import NotAVideoError, NoVideoStreamError, QueryError, SourceNotFoundError
from r2rt.video.container import codec_tag, open_input, packets_of, skip_stream
from r2rt.video.leaps import format_flags, leap_closer
from r2rt.video.remote import BLOCK_BYTES, RemoteReader, RemoteVideo, VideoPath

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["Demuxer", "choose_track", "stores_no_timestamps"]

# Demuxers that take any text or any bytes for a frame.
NOT_VIDEO_FORMATS = frozenset(("tty", "bin", "xbin", "adf", "idf"))
# Sample entries of MP4 whose packets are encrypted, where FFmpeg does not mark each packet.
ENCRYPTED_TAGS = frozenset(("encv", "drmi"))
_NO_TIMESTAMPS = 0x80  # a bit of a demuxer's flags, as in libavformat/avformat.h
# A playlist that waits for more, or a share that does not answer.
_OPEN_TIMEOUT_S = 60.0
# What `av.open` raises of a source that cannot be opened; the last two of names and options.
CANNOT_OPEN = (av.error.FFmpegError, OSError, ValueError, NotImplementedError)
# How a device is opened. The first shares the process's CUDA context, which saves 0.2 s and memory
# at each opening; a context of other settings, such as PyTorch's, cannot be shared.
_DEVICE_OPTIONS: dict[str, tuple[dict[str, str], ...]] = {"cuda": ({"primary_ctx": "1"}, {})}
MAX_READ_ERRORS = 64  # in a row, without one packet in between
# Packets from which a first frame surely comes, and bytes of a packet that say what it is.
_FIRST_PACKETS, _HEAD_BYTES = 20, 4096


class Demuxer:
    """A video stream of a file.

    Of several that are no cover art it is the default one, of several of those the largest, as
    ffmpeg chooses, or the first of these.

    Every pass over the same file numbers its packets alike, from 0, so that a plan made in one pass
    holds in another even where packets have no timestamps.

    Attributes:
        container: PyAV's container.
        stream: the video stream that is read; all others are discarded.
        video_track: its number among the video tracks of the file, from 1.
        video_tracks: how many of these there are.
        read_errors: how often the container could not be read on, so far.
        leaps: how many leaps of the clock were closed, in the pass under way.
        leaps_closed: the sum of these leaps, in units of the stream's time base.
        context: the decoder; it belongs to the stream unless another one was chosen by name.
        decoder: `cpu`, or the hardware that decodes.
        refusal: why the CPU decodes although hardware was asked for; None otherwise.

    Args:
        path: the file.
        threads: decoder threads; None takes one a core.
        decoder: what decodes, where it can, else the CPU; frames come to the host either way.
        video_track: number of the video track to read, from 1; None chooses.

    Raises:
        SourceNotFoundError: there is no such file, or it may not be read.
        NotAVideoError: no demuxer understands it, or it is a pipe or a live playlist.
        NoVideoStreamError: it has no video stream, no decoder for it, or it is encrypted.
        QueryError: there is no such video track.
    """

    def __init__(
        self,
        path: VideoPath,
        *,
        threads: int | None = None,
        decoder: str = "cpu",
        video_track: int | None = None,
    ) -> None:
        self._path = path
        self._remote: RemoteReader | None = None
        self.read_errors = 0
        self.decoder = decoder
        self.refusal: str | None = None
        self.container = self._open_for(path, decoder)
        try:
            tracks = _video_tracks(self.container)
            self.stream = choose_track(self.container, str(path), video_track)
            self.video_tracks = len(tracks)
            self.video_track = tracks.index(self.stream) + 1
            self._closer = leap_closer(self.container, self.stream)
            self.context = self.stream.codec_context
            if self.decoder != "cpu" and not self.context.is_hwaccel:
                self._choose_by_name()
            for stream in self.container.streams:
                if stream is not self.stream:
                    skip_stream(stream)
            self.context.thread_type = "AUTO"
            self.context.thread_count = threads or 0
        except BaseException:
            self.container.close()
            raise

    @property
    def has_no_timestamps(self) -> bool:
        """Whether the format stores no timestamps, such as raw H.264."""
        return stores_no_timestamps(self.container)

    @property
    def leaps(self) -> int:
        """How many leaps of the clock were closed, in the pass under way."""
        return self._closer.leaps

    @property
    def leaps_closed(self) -> int:
        """The sum of these leaps, in units of the stream's time base."""
        return self._closer.closed

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield every packet of the stream from where the container stands, in decoding order.

        Where the clock leaps, timestamps are moved; see `r2rt.video.leaps`.

        Raises:
            SourceNotFoundError: the server of a video at an address fails.
        """
        self._closer = leap_closer(self.container, self.stream)
        errors_in_a_row = 0
        while errors_in_a_row < MAX_READ_ERRORS:
            # A generator that raised is over: damage is read past with a new one.
            try:
                for packet in packets_of(self.container, self.stream):
                    if packet.size:
                        errors_in_a_row = 0
                        pts, dts = packet.pts, packet.dts
                        placed = self._closer.place(pts, dts, packet.duration or 0)
                        if placed != (pts, dts):
                            packet.pts, packet.dts = placed
                        yield packet
            except av.error.FFmpegError:
                self.read_errors += 1
                errors_in_a_row += 1
            else:
                return

    def need(self, feed: NDArray[np.bool_] | None = None) -> None:
        """Fetch no more of a video at an address than the next pass needs, where that is known.

        Args:
            feed: (N,) which packets are decoded; None for a pass that decodes the first frame alone
                and looks at the beginning of the others.
        """
        if self._remote is None or not self.container.format.name.startswith("mov,mp4"):
            return
        listed = getattr(self.stream, "index_entries", None) or ()  # since PyAV 17
        # Empty samples are listed, and never become packets.
        entries = [entry for entry in listed if entry.size > 0]
        if not entries:
            return
        if feed is None:
            spans = [
                (entry.pos, entry.pos + (entry.size if number < _FIRST_PACKETS else _HEAD_BYTES))
                for number, entry in enumerate(entries)
                if number < _FIRST_PACKETS or entry.is_keyframe
            ]
        else:
            spans = [
                (entries[number].pos, entries[number].pos + entries[number].size)
                for number in np.flatnonzero(feed[: len(entries)]).tolist()
            ]
        self._remote.need(spans, before=max(entry.pos + entry.size for entry in entries))

    def encrypted(self) -> NoVideoStreamError:
        """Return the error of a file whose packets turn out to be encrypted."""
        return _encrypted(self._path)

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Return what comes out of the decoder for a packet; None drains it.

        Raises:
            av.error.FFmpegError: the decoder refuses the packet.
        """
        frames: list[VideoFrame] = self.context.decode(packet)
        # FFmpeg goes on on the CPU where the hardware refuses a video, and reports nothing.
        if self.decoder != "cpu" and not all(_is_of_hardware(frame) for frame in frames):
            self._refuse(f"{self.decoder} does not decode this kind of {self.context.codec.name}")
        return frames

    def _open_for(self, path: VideoPath, decoder: str) -> InputContainer:
        """Open the file for a hardware decoder, or for the CPU where there is no such device."""
        if isinstance(path, RemoteVideo):
            container, self._remote = _open_remote(path)
            if decoder != "cpu":
                self._refuse(f"{decoder} does not decode videos at addresses")
            return container
        if decoder == "cpu":
            return _open(path)
        for options in _DEVICE_OPTIONS.get(decoder, ({},)):
            try:
                return _open(path, _hardware(decoder, options))
            except NotAVideoError as error:
                # FFmpeg says no more than an error number; a file at fault fails again on the CPU.
                cause = error.__cause__
        container = _open(path)
        self._refuse(f"FFmpeg cannot use {decoder} ({cause})")
        return container

    def _choose_by_name(self) -> None:
        """Open the codec's own decoder, where FFmpeg prefers a library's that knows no hardware."""
        preferred = self.context.codec
        native = Codec(preferred.canonical_name, "r")
        if native.name != preferred.name:
            for options in _DEVICE_OPTIONS.get(self.decoder, ({},)):
                with contextlib.suppress(*CANNOT_OPEN):
                    made = CodecContext.create(native, "r", _hardware(self.decoder, options))
                    context = cast("VideoCodecContext", made)
                    if context.is_hwaccel:
                        context.extradata = self.context.extradata
                        self.context = context
                        return
        self._refuse(f"this FFmpeg has no {self.decoder} decoder for {preferred.canonical_name}")

    def _refuse(self, reason: str) -> None:
        self.decoder, self.refusal = "cpu", reason


def _hardware(decoder: str, options: Mapping[str, object]) -> HWAccel:
    return HWAccel(decoder, options=dict(options), allow_software_fallback=True)


def _is_of_hardware(frame: VideoFrame) -> bool:
    """Return whether a frame was copied from a device: those have two planes, the CPU's three."""
    return frame.format.name.startswith(("nv", "p0", "p2"))


def _open(path: Path, hardware: HWAccel | None = None) -> InputContainer:
    try:
        if not path.exists():
            raise SourceNotFoundError(
                f"{path}: no such file; expected a video or a folder of images"
            )
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode):
            raise NotAVideoError(
                f"{path}: a pipe or a device, not a file; `r2rt watch` reads it as it comes, "
                "or write it to a file first"
            )
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except SourceNotFoundError:
        raise
    except OSError as error:
        raise SourceNotFoundError(f"{path}: cannot be read: {error.strerror}") from error
    if is_empty:
        raise NotAVideoError(f"{path}: the file is empty; expected a video")
    try:
        # Only local files, whatever a playlist inside the file may refer to; and a name with a
        # colon is no protocol.
        container = open_input(
            f"file:{path}",
            container_options={"protocol_whitelist": "file"},
            hwaccel=hardware,
            timeout=(_OPEN_TIMEOUT_S, None),
        )
    except av.error.ExitError as error:
        raise NotAVideoError(
            f"{path}: could not be opened within {_OPEN_TIMEOUT_S:g} s; what is still being "
            "written is for `r2rt watch`"
        ) from error
    except CANNOT_OPEN as error:
        raise NotAVideoError(
            f"{path}: not a video that FFmpeg understands, or its head is damaged ({error}); "
            "check that it plays elsewhere"
        ) from error
    return _checked(container, path)


def _open_remote(path: RemoteVideo) -> tuple[InputContainer, RemoteReader]:
    try:
        reader = RemoteReader(path, block_bytes=BLOCK_BYTES)
        # A playlist from elsewhere opens no file of this machine.
        container = open_input(reader, container_options={"protocol_whitelist": "data"})
    except SourceNotFoundError:
        raise
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except av.error.FFmpegError as error:
        raise NotAVideoError(f"{path}: not a video that FFmpeg understands ({error})") from error
    except OSError as error:
        raise SourceNotFoundError(f"{path}: cannot be read: {error}") from error
    return _checked(container, path), reader


def _checked(container: InputContainer, path: VideoPath) -> InputContainer:
    if container.format.name in NOT_VIDEO_FORMATS:
        container.close()
        raise NotAVideoError(f"{path}: a text file, not a video; expected a video file")
    if container.format.name == "hls" and not container.duration:
        container.close()
        raise NotAVideoError(
            f"{path}: a live playlist, which has no end; `r2rt watch` reads it as it comes"
        )
    return container


def stores_no_timestamps(container: InputContainer) -> bool:
    """Return whether a container's format has no timestamps, such as raw H.264."""
    return bool(format_flags(container) & _NO_TIMESTAMPS)


def choose_track(container: InputContainer, name: str, number: int | None) -> VideoStream:
    """Return a container's video stream to read; see `Demuxer` for which one that is.

    Args:
        container: what was opened.
        name: what messages call it.
        number: number of the video track, from 1; None chooses.

    Raises:
        NoVideoStreamError: it has no video stream, no decoder for it, or it is encrypted.
        QueryError: there is no such video track.
    """
    tracks = _video_tracks(container)
    if tracks and number is not None and not 1 <= number <= len(tracks):
        raise QueryError(f"{name}: video track {number}; expected 1 to {len(tracks)}")
    stream = _chosen(tracks, number) if tracks else None
    # PyAV's types promise a context; streams without a decoder have none.
    if stream is None or getattr(stream, "codec_context", None) is None:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise NoVideoStreamError(
            f"{name}: no video stream that can be decoded (streams: {kinds}); "
            "expected a file with a video stream"
        )
    if codec_tag(stream) in ENCRYPTED_TAGS:
        raise _encrypted(name)
    return stream


def _encrypted(name: str | VideoPath) -> NoVideoStreamError:
    return NoVideoStreamError(
        f"{name}: the video is encrypted (copy protection); expected one that plays anywhere"
    )


def _video_tracks(container: InputContainer) -> list[VideoStream]:
    """Return the video streams that are no cover art."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & pictures]


def _chosen(tracks: list[VideoStream], number: int | None) -> VideoStream:
    if number is not None and 1 <= number <= len(tracks):
        return tracks[number - 1]

    def merit(stream: VideoStream) -> tuple[bool, bool, int]:
        context = getattr(stream, "codec_context", None)
        area = context.width * context.height if context is not None else 0
        return context is not None, bool(stream.disposition & Disposition.default), area

    return max(tracks, key=merit)
