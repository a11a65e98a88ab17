"""The first frame of a video, decoded on the way of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2rt.video.decoder import DecodeCounts, decode_packet, drain

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from r2rt.video.demux import Demuxer

__all__ = ["FirstFrame"]


class FirstFrame:
    """Decodes the packets that it is shown until a frame comes out."""

    def __init__(self, demuxer: Demuxer) -> None:
        self._demuxer = demuxer
        self._frame: VideoFrame | None = None

    def see(self, packet: Packet[VideoStream]) -> None:
        """Take the next packet."""
        if self._frame is None:
            self._take(decode_packet(self._demuxer, packet, DecodeCounts()))

    def found(self) -> VideoFrame | None:
        """Return the first frame, when all packets have been seen; None if none came out."""
        if self._frame is None:
            self._take(drain(self._demuxer, DecodeCounts()))
        return self._frame

    def _take(self, frames: list[VideoFrame]) -> None:
        self._frame = next(iter(frames), None)
