"""Packets of a connection: the clock of what is read from a file."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from r2rt.live.counts import ReaderCounts
from r2rt.live.decoding import PacketDecoder
from r2rt.video.demux import Demuxer
from r2rt.video.index import index_packets
from tests.r2rt.video.test_foreign_kinds import two_recordings


@pytest.mark.parametrize("second_begins_s", [20, 3620])
def test_a_recording_whose_clock_leaps_has_the_times_that_ground_gives_it(
    second_begins_s: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = two_recordings(tmp_path, second_begins_s=second_begins_s)
    options = SimpleNamespace(no_drop=True)
    source: Any = SimpleNamespace(
        kind="pipe", is_live=False, may_wait=True, options=options, name="joined"
    )
    with av.open(str(path)) as container, caplog.at_level(logging.WARNING):
        connection: Any = SimpleNamespace(container=container, stream=container.streams.video[0])
        decoder = PacketDecoder(
            connection, source, ReaderCounts(), clip_s=2.0, sleep=lambda _: None
        )
        packets = [packet for packet in container.demux(connection.stream) if packet.size]
        frames = [frame for packet in packets for frame in decoder.take(packet)]
        frames += decoder.drain()
    demuxer = Demuxer(path)
    index = index_packets(demuxer)
    demuxer.close()
    assert [frame.pts for frame in frames] == np.sort(index.pts).tolist()
    assert np.ptp(np.diff(index.pts[np.argsort(index.pts)])) <= 1
    assert "joined: the clock leaps" in caplog.text
