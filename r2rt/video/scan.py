"""One pass over a stream's packets, without decoding: what each of them says of itself."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.video.bitstream import packet_reader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

    from r2rt.video.demux import Demuxer

__all__ = ["NO_PTS", "Scan", "scan_packets"]

NO_PTS = -(2**63)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The packets of a stream, in decoding order.

    Attributes:
        pts: (N,) int64 presentation times, `NO_PTS` where unknown.
        dts: (N,) int64 decoding times, `NO_PTS` where unknown.
        durations: (N,) int64 durations, 0 where unknown.
        discarded: (N,) bool: decoded and not shown, by an edit list.
        flags: (N,) uint16 bits of `r2rt.video.packet_flags`; zeros where the codec has no reader.
        understood: the codec has a reader.
        parameters_change: the decoder gets new parameters on the way.
        palette_is_rare: a palette comes with some packets, and others need it.
        damaged: packets that the container marks as damaged.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    durations: NDArray[np.int64]
    discarded: NDArray[np.bool_]
    flags: NDArray[np.uint16]
    understood: bool
    parameters_change: bool
    palette_is_rare: bool
    damaged: int

    def __len__(self) -> int:
        return len(self.pts)


def scan_packets(
    demuxer: Demuxer, look: Iterable[Callable[[Packet[VideoStream]], None]] = ()
) -> Scan:
    """Read every packet of the stream once, from its beginning.

    Args:
        demuxer: a file that has not been read from yet.
        look: each is shown every packet.

    Raises:
        NoVideoStreamError: packets are encrypted.
    """
    context = demuxer.stream.codec_context
    codec = context.codec.canonical_name
    reader = packet_reader(codec, context.extradata)
    pts, dts, durations = array("q"), array("q"), array("q")
    flags, discarded = array("H"), array("B")
    parameters_change = False
    damaged = palettes = 0
    for packet in demuxer.packets():
        for see in look:
            see(packet)
        pts.append(NO_PTS if packet.pts is None else packet.pts)
        dts.append(NO_PTS if packet.dts is None else packet.dts)
        durations.append(packet.duration or 0)
        discarded.append(packet.is_discard)
        flags.append(reader(memoryview(packet), packet.is_keyframe) if reader else 0)
        damaged += packet.is_corrupt
        if next(packet.iter_sidedata(), None) is None:  # which is quicker than to ask for a kind
            continue
        if packet.has_sidedata("new_extradata") and len(pts) > 1:
            parameters_change = True
        if packet.has_sidedata("encryption_info"):
            raise demuxer.encrypted()
        palettes += codec == "rawvideo" and packet.has_sidedata("palette")
    return Scan(
        pts=np.array(pts, np.int64),
        dts=np.array(dts, np.int64),
        durations=np.array(durations, np.int64),
        discarded=np.array(discarded, bool),
        flags=np.array(flags, np.uint16),
        understood=reader is not None,
        parameters_change=parameters_change,
        palette_is_rare=0 < palettes < len(pts),
        damaged=damaged,
    )
