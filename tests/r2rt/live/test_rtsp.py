"""A real RTSP server on this machine: its answers, its death, and its return."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt import Grounder
from r2rt.errors import SourceLostError, SourceNotFoundError
from r2rt.live import (
    Closed,
    Event,
    Opened,
    Reconnected,
    Retrying,
    SourceOptions,
    TrackerRules,
    Watcher,
)
from tests.r2rt.live.conftest import FPS, RATE, WINDOW_S, once_read
from tests.r2rt.live.rtsp import RtspServer, skip_unless_served
from tests.r2rt.live.test_watcher import QUERIES, assert_is_offline_answer

ANYTHING = TrackerRules(min_score=0.0)


@pytest.fixture
def server(video: Path) -> Iterator[RtspServer]:
    skip_unless_served()
    with RtspServer(video) as running:
        yield running


def test_the_last_window_is_that_cut_of_the_file_served(
    grounder: Grounder, server: RtspServer, video: Path
) -> None:
    watcher = Watcher(grounder, server.url, QUERIES, rules=ANYTHING, duration_s=6.3)
    assert not [item for item in watcher if isinstance(item, Retrying | Reconnected)]
    for prediction in watcher.predictions:
        assert len(prediction.saliency) == WINDOW_S * FPS
        assert_is_offline_answer(grounder, prediction, video, start_s=1.25)
    summary = watcher.summary
    assert (summary.clips, summary.clips_dropped, summary.packets_lost) == (25, 0, 0)
    assert summary.latency_p95_s is not None


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(
    grounder: Grounder, server: RtspServer, video: Path
) -> None:
    away_s = 4.0

    def die_and_come_back() -> None:
        server.kill()
        time.sleep(away_s)
        server.start()

    options = SourceOptions(reconnect=20)
    watcher = Watcher(grounder, server.url, QUERIES, rules=ANYTHING, options=options)
    began: list[float] = []
    once_read(watcher, 1, lambda: began.append(time.time()))
    life = once_read(watcher, 3 * RATE, die_and_come_back)
    events: list[Event] = []
    for event in watcher:
        events.append(event)
        if isinstance(event, Reconnected):
            once_read(watcher, watcher.summary.frames + 4 * RATE, watcher.stop)
    life.join()

    retries = [item for item in events if isinstance(item, Retrying)]
    (back,) = [item for item in events if isinstance(item, Reconnected)]
    gaps = [item for item in events if isinstance(item, Closed) and item.reason == "gap"]
    assert retries
    assert gaps
    # Open moments are reported as closed long before the server is back.
    assert max(events.index(item) for item in gaps) < events.index(back)
    # Each wait is longer than the last, give or take the jitter of half of it.
    assert [item.attempt for item in retries] == list(range(1, len(retries) + 1))
    assert all(0.25 * 2**n <= item.wait_s <= 0.5 * 2**n for n, item in enumerate(retries))
    assert back.new_window
    assert back.gap_s > away_s
    # The clock went on by arrival time.
    assert back.resumed_s == pytest.approx(back.at - began[0], abs=2.5)
    opened = [item for item in events if isinstance(item, Opened)]
    # Two queries: what was open before the gap, and what opened after it, under new numbers.
    assert {item.stream_s < back.resumed_s for item in opened} == {True, False}
    assert sorted(item.moment_id for item in opened) == sorted(
        item.moment_id for item in events if isinstance(item, Closed)
    )
    # The server plays its file from the beginning, so the window is a cut of that again.
    prediction = watcher.predictions[0]
    start_s = float(prediction.clip_starts_s[0]) - back.resumed_s
    assert start_s >= 0
    assert_is_offline_answer(grounder, prediction, video, start_s=round(start_s, 6))
    assert watcher.summary.reconnects == 1
    assert watcher.summary.gaps_s == pytest.approx(back.gap_s)


def test_a_server_that_stays_dead_is_given_up(grounder: Grounder, server: RtspServer) -> None:
    server.kill()
    watcher = Watcher(grounder, server.url, QUERIES, options=SourceOptions(reconnect=2))
    events: list[Event] = []
    with pytest.raises(SourceLostError, match="lost for good after 2 tries"):
        events.extend(watcher)
    assert SourceLostError.exit_code == 15
    assert len(events) == 2
    for event in events:
        assert isinstance(event, Retrying)
        assert event.reason == "Connection refused"


def test_a_wrong_path_is_reported_at_once(grounder: Grounder, server: RtspServer) -> None:
    watcher = Watcher(grounder, server.url + "-none", QUERIES)
    with pytest.raises(SourceNotFoundError, match="check the address"):
        list(watcher)


def test_a_server_that_goes_silent_is_lost_in_time(grounder: Grounder) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x"
        options = SourceOptions(reconnect=1, timeout_s=0.3)
        with pytest.raises(SourceLostError, match="no answer in time"):
            list(Watcher(grounder, address, QUERIES, options=options))


def test_a_stream_that_hangs_is_lost_in_time(grounder: Grounder, server: RtspServer) -> None:
    options = SourceOptions(reconnect=0, timeout_s=3.0)  # opening it takes a while, too
    watcher = Watcher(grounder, server.url, QUERIES, rules=ANYTHING, options=options)
    once_read(watcher, 7, server.freeze)
    began = time.monotonic()
    with pytest.raises(SourceLostError, match="said nothing in time"):
        list(watcher)
    assert time.monotonic() - began < 20.0
    assert watcher.summary.frames > 6
