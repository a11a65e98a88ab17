"""What one pass over a file's packets and its first frame say about it; read once a process."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import NoFramesError
from r2rt.video.container import exact, metadata_text, sample_aspect_ratio
from r2rt.video.declared import ends_early_s
from r2rt.video.demux import Demuxer
from r2rt.video.fingerprint import is_playlist
from r2rt.video.first import FirstFrame
from r2rt.video.index import PacketIndex, index_packets
from r2rt.video.pixels import Orientation, display_matrix, display_size, orientation
from r2rt.video.remote import RemoteVideo, VideoPath
from r2rt.video.structure import broken_at

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["AudioFacts", "FileFacts", "inspect_file"]

# Encoding, exports and media of one command ask about the same few files again and again. An index
# takes 27 bytes a packet: 12 MB for two hours at 60 frames a second.
_REMEMBERED = 4
_Identity = tuple[str, int | None, int, int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class AudioFacts:
    """An audio stream.

    Attributes:
        codec: the codec's name; None where this FFmpeg has no decoder.
        rate: samples a second, 0 if unknown.
        channels: how many, 0 if unknown.
        metadata: the stream's language and title, those that it has.
    """

    codec: str | None
    rate: int
    channels: int
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class FileFacts:
    """What a video file is, from one pass over it.

    Attributes:
        index: the packets of the video stream.
        keyframes: (N,) bool: the container marks the packet as a keyframe.
        stored_size: width and height of the first frame as stored, in samples.
        display_size: width and height in square pixels, upright.
        sample_aspect_ratio: width of a sample over its height; None where the file has none.
        matrix: the display matrix, None where frames are stored upright.
        turn: what makes stored frames upright.
        average_rate: frames a second by the container's count and duration; None if unknown.
        declared_rates: average, base and guessed rate, those that the file has.
        codec: the codec's name.
        audio: the audio streams, in the file's order.
        video_track: number of the video track that was read, from 1.
        video_tracks: how many video tracks there are, cover art not counted.
        timecodes: the `timecode` entries of the video stream, the container and other streams.
        timecode_frame: the number of the first frame in the timecode track of a QuickTime file or
            MP4, which may count fewer frames a second than there are; None where there is none.
        ends_early_s: how many seconds before the end that the header declares the frames end.
        broken_at_byte: where the container's parts do not fit together; None if they all fit.
    """

    index: PacketIndex
    keyframes: NDArray[np.bool_]
    stored_size: tuple[int, int]
    display_size: tuple[int, int]
    sample_aspect_ratio: Fraction | None
    matrix: tuple[int, ...] | None
    turn: Orientation
    average_rate: Fraction | None
    declared_rates: tuple[Fraction, ...]
    codec: str
    audio: tuple[AudioFacts, ...]
    timecodes: tuple[str, ...]
    video_track: int
    video_tracks: int
    ends_early_s: float
    broken_at_byte: int | None
    timecode_frame: int | None = None


def inspect_file(path: VideoPath, *, video_track: int | None = None) -> FileFacts:
    """Index a file and decode its first frame, since only its side data gives the orientation.

    The facts of the last few files are kept as long as the file's inode, size and times stay the
    same, so encoding a video and then exporting from it reads its packets once. Those of a playlist
    are not, since the files that it names may change while it stays as it is.

    Args:
        path: the file.
        video_track: which of its video tracks, from 1; None takes the default one.

    Raises:
        SourceNotFoundError: there is no such file.
        NotAVideoError: FFmpeg does not understand it.
        NoVideoStreamError: it has no video stream.
        QueryError: there is no such video track.
        NoFramesError: no frame can be decoded.
    """
    identity = _identity(path, video_track)
    if identity is None:
        return _inspect(path, video_track)
    with _lock:
        kept = _kept.get(identity)
        if kept is not None:
            _kept.move_to_end(identity)
            return kept
    facts = _inspect(path, video_track)
    with _lock:
        _kept[identity] = facts
        while len(_kept) > _REMEMBERED:
            _kept.popitem(last=False)
    return facts


_lock = threading.Lock()
_kept: OrderedDict[_Identity, FileFacts] = OrderedDict()


def _identity(path: VideoPath, video_track: int | None) -> _Identity | None:
    try:
        status = path.stat()
        if isinstance(path, RemoteVideo):
            return os.fspath(path), video_track, 0, 0, status.st_size, path.version() or 0, 0
    except OSError:
        return None  # opening it says why
    # Opening a pipe would wait for who writes to it.
    if not stat.S_ISREG(status.st_mode) or is_playlist(path):
        return None
    times = status.st_mtime_ns, status.st_ctime_ns
    name = str(path.absolute())
    return name, video_track, status.st_dev, status.st_ino, status.st_size, *times


def _inspect(path: VideoPath, video_track: int | None) -> FileFacts:
    keyframes = array("B")
    demuxer = Demuxer(path, threads=1, video_track=video_track)
    try:
        first = FirstFrame(demuxer)

        def see(packet: Packet[VideoStream]) -> None:
            keyframes.append(packet.is_keyframe)

        broken_at_byte = None
        if isinstance(path, Path):
            broken_at_byte = broken_at(path, demuxer.container.format.name)
        demuxer.need()
        index = index_packets(demuxer, see, first=first, broken=broken_at_byte is not None)
        frame = first.found()
        if frame is None:
            raise NoFramesError(
                f"{path}: no frame could be decoded from {len(index)} packets; "
                "the file is empty or damaged throughout"
            )
        stream = demuxer.stream
        ratio = sample_aspect_ratio(stream)
        rates = map(exact, (stream.average_rate, stream.base_rate, stream.guessed_rate))
        places = [stream.metadata, demuxer.container.metadata]
        places += [other.metadata for other in demuxer.container.streams]
        return FileFacts(
            index=index,
            keyframes=np.frombuffer(keyframes, np.uint8) > 0,
            stored_size=(frame.width, frame.height),
            display_size=display_size(frame, ratio),
            sample_aspect_ratio=ratio,
            matrix=display_matrix(frame),
            turn=orientation(frame),
            average_rate=exact(stream.average_rate),
            declared_rates=tuple(rate for rate in rates if rate),
            codec=stream.codec_context.codec.canonical_name,
            audio=tuple(map(_audio_facts, demuxer.container.streams.audio)),
            video_track=demuxer.video_track,
            video_tracks=demuxer.video_tracks,
            ends_early_s=ends_early_s(demuxer.container, stream, index),
            broken_at_byte=broken_at_byte,
            timecodes=tuple(
                text
                for place in places
                for name, text in place.items()
                if name.lower() == "timecode" and text  # Matroska's names of tags are in capitals
            ),
            timecode_frame=_timecode_frame(demuxer.container, path),
        )
    finally:
        demuxer.close()


def _timecode_frame(container: InputContainer, path: VideoPath) -> int | None:
    for stream in container.streams.data:
        entries = getattr(stream, "index_entries", None)  # since PyAV 17
        if isinstance(path, Path) and entries and stream.metadata.get("timecode"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(entries[0].pos)
                return int.from_bytes(file.read(4), "big")
    return None


def _audio_facts(stream: AudioStream) -> AudioFacts:
    # PyAV's types promise a context; streams without a decoder have none.
    context = getattr(stream, "codec_context", None)
    names = ("language", "title")
    return AudioFacts(
        codec=None if context is None else context.codec.canonical_name,
        rate=0 if context is None else context.sample_rate or 0,
        channels=0 if context is None else context.channels or 0,
        metadata={
            name: metadata_text(stream.metadata[name])
            for name in names
            if stream.metadata.get(name)
        },
    )
