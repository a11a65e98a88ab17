"""The packets of an audio track where the clock leaps, in step with the frames."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from r2rt.video.container import exact, packets_of, read_stream
from r2rt.video.leaps import leap_closer

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet

    from r2rt.video.demux import Demuxer

__all__ = ["packets_in_step"]

# Sound of some seconds: where the frames have not leapt by then, it is a gap and no leap.
_MOST_HELD = 256


def packets_in_step(demuxer: Demuxer, stream: AudioStream) -> Iterator[Packet[AudioStream]]:
    """Yield an audio track's packets, moved as the frames are, so that both stay in step.

    Sound and frames leap together, but one of them some packets before the other in the file. Each
    packet of sound is moved by as much as the frames on the same side of the leap.

    Args:
        demuxer: a file that has not been read from yet.
        stream: the audio stream.
    """
    read_stream(stream)
    container: Any = demuxer.container
    frames, sound = (leap_closer(container, one) for one in (demuxer.stream, stream))
    frame_tick = exact(demuxer.stream.time_base) or Fraction(1, 90_000)
    sound_tick = exact(stream.time_base) or Fraction(1, 90_000)
    held: list[Packet[AudioStream]] = []
    moved, waits = 0, False
    for packet in packets_of(container, demuxer.stream, stream):
        if not packet.size:
            continue
        is_sound = packet.stream_index == stream.index
        closer = sound if is_sound else frames
        leaps = closer.leaps
        closer.place(packet.pts, packet.dts, packet.duration or 0)
        leapt = closer.leaps > leaps
        moved_now = round(frames.moved * frame_tick / sound_tick)
        if is_sound:
            if leapt and not waits:
                # The frames have leapt before, or have yet to leap.
                moved, waits = moved_now, moved == moved_now
            held.append(packet)
            waits = waits and len(held) <= _MOST_HELD
        elif leapt and waits:
            moved, waits = moved_now, False
        if not waits:
            yield from _moved(held, moved)
            held = []
    yield from _moved(held, moved)


def _moved(packets: list[Packet[AudioStream]], by: int) -> Iterator[Packet[AudioStream]]:
    for packet in packets:
        packet.pts = None if packet.pts is None else packet.pts + by
        packet.dts = None if packet.dts is None else packet.dts + by
        yield packet
