"""Opening a container and reading its video packets, with damage counted instead of fatal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
from av.codec.hwaccel import HWAccel
from av.stream import Discard, Disposition

from r2rt.errors import NotAVideoError, NoVideoStreamError, SourceNotFoundError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["Demuxer"]

# Demuxers that take any text or any bytes for a picture.
NOT_VIDEO_FORMATS = frozenset(("tty", "bin", "xbin", "adf", "idf"))
# What `av.open` raises of a source that cannot be opened; the last two of names and options.
CANNOT_OPEN = (av.error.FFmpegError, OSError, ValueError, NotImplementedError)
MAX_READ_ERRORS = 64  # in a row, without one packet in between


class Demuxer:
    """The video stream of a file: the first that is not cover art.

    Every pass over the same file numbers its packets alike, from 0, so that a plan made in one pass
    holds in another even where packets have no timestamps.

    Attributes:
        container: PyAV's container.
        stream: the video stream that is read; all others are discarded.
        read_errors: how often the container could not be read on, so far.
        on_gpu: whether the GPU's decoder is used.
        gpu_refusal: why it is not although it was asked for; None otherwise.

    Args:
        path: the file.
        threads: decoder threads; None takes one a core.
        gpu: decode on the GPU where it can, else on the CPU; pictures come to the host either way.

    Raises:
        SourceNotFoundError: there is no such file, or it may not be read.
        NotAVideoError: no demuxer understands it.
        NoVideoStreamError: it has no video stream, or no decoder for it.
    """

    def __init__(self, path: Path, *, threads: int | None = None, gpu: bool = False) -> None:
        self.read_errors = 0
        self.gpu_refusal: str | None = None
        self.container = self._open_on_gpu(path) if gpu else _open(path)
        try:
            self.stream = _video_stream(self.container, path)
            for stream in self.container.streams:
                if stream is not self.stream:
                    stream.discard = Discard.all
            self.stream.codec_context.thread_type = "AUTO"
            self.stream.codec_context.thread_count = threads or 0
        except BaseException:
            self.container.close()
            raise

    @property
    def on_gpu(self) -> bool:
        """Whether the GPU's decoder is used."""
        return bool(self.stream.codec_context.is_hwaccel)

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield every packet of the stream from where the container stands, in decoding order."""
        errors_in_a_row = 0
        while errors_in_a_row < MAX_READ_ERRORS:
            # A generator that raised is over: damage is read past with a new one.
            try:
                for packet in self.container.demux(self.stream):
                    if packet.size:
                        errors_in_a_row = 0
                        yield packet
            except av.error.FFmpegError:
                self.read_errors += 1
                errors_in_a_row += 1
            else:
                return

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _open_on_gpu(self, path: Path) -> InputContainer:
        try:
            container = _open(path, HWAccel("cuda", allow_software_fallback=True))
        except NotAVideoError as error:
            # FFmpeg says no more than an error number; a file at fault fails again on the CPU.
            cause = error.__cause__
            container = _open(path)
            self.gpu_refusal = f"FFmpeg cannot use an NVIDIA decoder ({cause})"
            return container
        context = getattr(_first_video(container), "codec_context", None)
        if context is not None and not context.is_hwaccel:
            self.gpu_refusal = f"the GPU has no decoder for {context.codec.canonical_name}"
        return container


def _open(path: Path, hardware: HWAccel | None = None) -> InputContainer:
    if not path.exists():
        raise SourceNotFoundError(f"{path}: no such file; expected a video or a folder of images")
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise SourceNotFoundError(f"{path}: cannot be read: {error.strerror}") from error
    if is_empty:
        raise NotAVideoError(f"{path}: the file is empty; expected a video")
    try:
        # Only local files, whatever a playlist inside the file may refer to; and a name with a
        # colon is no protocol.
        container = av.open(
            f"file:{path}",
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
            hwaccel=hardware,
        )
    except CANNOT_OPEN as error:
        raise NotAVideoError(
            f"{path}: not a video that FFmpeg understands, or its head is damaged ({error}); "
            "check that it plays elsewhere"
        ) from error
    if container.format.name in NOT_VIDEO_FORMATS:
        container.close()
        raise NotAVideoError(f"{path}: a text file, not a video; expected a video file")
    return container


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    stream = _first_video(container)
    # PyAV's types promise a context; streams without a decoder have none.
    if stream is not None and getattr(stream, "codec_context", None) is not None:
        return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    raise NoVideoStreamError(
        f"{path}: no video stream that can be decoded (streams: {kinds}); "
        "expected a file with a picture"
    )


def _first_video(container: InputContainer) -> VideoStream | None:
    """Return the first video stream that is no cover art."""
    for stream in container.streams.video:
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            return stream
    return None
