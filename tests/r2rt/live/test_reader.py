"""The thread that reads: its reports of connections, and the times that it gives."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r2rt.live.backlog import Backlog, ClipItem, End, Item
from r2rt.live.events import Reconnected, Retrying
from r2rt.live.reader import Reader
from r2rt.live.segments import Segments
from r2rt.live.source import LiveSource, SourceOptions
from r2rt.video.container import packets_of
from tests.r2rt.local_server import local_server
from tests.r2rt.video.clips import write_video

DEADLINE_S = 30.0
# Five segments are longer than the part that may be left out as read before.
SEGMENT_S, SEGMENT_FRAMES = 20, 10


def reader_of(address: str, backlog: Backlog, **options: object) -> Reader:
    """A reader of four clips a second; `duration_s` is its own, the others are the source's."""
    duration_s = options.pop("duration_s", None)
    return Reader(
        LiveSource(address, SourceOptions(**options)),  # type: ignore[arg-type]
        backlog,
        fps=Fraction(4),
        image_size=8,
        window_s=60.0,
        duration_s=duration_s,  # type: ignore[arg-type]
    )


def next_of(kind: type[Item], backlog: Backlog, seen: list[Item]) -> None:
    """Take items until one is of a kind; add them to those seen before."""
    until_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s:
        items = backlog.take(0.1)
        seen += items
        if any(isinstance(item, kind) for item in items):
            return
    raise AssertionError(f"no {kind.__name__} in {DEADLINE_S} s, but {seen}")


class Served:
    """A playlist of so many segments of a broadcast, by HTTP on this machine.

    Each segment holds `SEGMENT_S` of video; the playlist says a tenth of a second, which is how
    long a reader waits before it asks again.

    Attributes:
        segments: the content of all segments.
        count: how many of them are listed.
        has_ended: whether nothing will come after them.
    """

    def __init__(self, segments: list[bytes], count: int, *, has_ended: bool = False) -> None:
        self.segments, self.count, self.has_ended = segments, count, has_ended

    @contextmanager
    def address(self, name: str = "live.m3u8") -> Iterator[str]:
        """Serve until the end of the block; give the playlist's address, which ends in `name`."""
        served, playlist = self, name

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.partition("?")[0].strip("/")
                content = (
                    served._playlist()
                    if name == playlist
                    else served.segments[int(name.removesuffix(".ts"))]
                )
                self.send_response(200)
                if name == playlist:
                    self.send_header("Content-Type", "application/vnd.apple.mpegurl")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        with local_server(Handler) as url:
            yield f"{url}/{playlist}"

    def _playlist(self) -> bytes:
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1"]
        for number in range(self.count):
            lines += ["#EXTINF:0.1,", f"{number}.ts"]
        if self.has_ended:
            lines.append("#EXT-X-ENDLIST")
        return "\n".join([*lines, ""]).encode()


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Five segments of `SEGMENT_FRAMES` pictures in `SEGMENT_S` seconds each, with B-frames."""
    folder = tmp_path_factory.mktemp("segments")
    write_video(
        folder / "list.m3u8",
        frames=5 * SEGMENT_FRAMES,
        rate=Fraction(SEGMENT_FRAMES, SEGMENT_S),
        size=(64, 64),
        options={"g": str(SEGMENT_FRAMES), "bf": "2", "sc_threshold": "0"},
        muxer="hls",
        muxer_options={
            "hls_time": str(SEGMENT_S),
            "hls_list_size": "0",
            "hls_segment_filename": str(folder / "%d.ts"),
        },
    )
    return [(folder / f"{number}.ts").read_bytes() for number in range(5)]


class Clock:
    """Seconds that pass when the test says so, in the place of the module `time`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        for module in ("reader", "decoding", "segments"):
            stand_in = SimpleNamespace(monotonic=lambda: self.now_s, time=time.time)
            monkeypatch.setattr(f"r2rt.live.{module}.time", stand_in)


@pytest.mark.parametrize("decoding_s", [0.0, 1.0, 4.0])
def test_a_stream_of_bursts_is_decoded_whole_by_who_is_fast_enough(
    decoding_s: float, segments: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture lasts for two seconds; a segment comes when the last of its pictures was taken."""
    clock = Clock(monkeypatch)
    begun_s = clock.now_s

    def in_bursts(*of: Any) -> Iterator[Any]:
        for number, packet in enumerate(packets_of(*of)):
            # The packet that is complete only when the next segment comes waits for that, too.
            comes_s = begun_s + SEGMENT_S * (number // SEGMENT_FRAMES + 1)
            clock.now_s = max(clock.now_s, comes_s)
            yield packet

    def add(*arguments: Any) -> None:
        clock.now_s += decoding_s
        Segments.add(*arguments)

    monkeypatch.setattr("r2rt.live.reader.packets_of", in_bursts)
    backlog = Backlog(1000)
    with Served(segments, 5, has_ended=True).address() as address:
        reader = reader_of(address, backlog)
        monkeypatch.setattr(reader._segments, "add", partial(add, reader._segments))
        reader.start()
        assert reader.join(DEADLINE_S)
    assert backlog.take(0)[-1] == End(None)
    is_too_slow = decoding_s > 2
    assert (reader.counts.frames_skipped > 0) == is_too_slow
    assert (reader.counts.frames < 5 * SEGMENT_FRAMES) == is_too_slow


def test_a_broadcast_by_playlist_is_seen_once_whatever_becomes_of_it(
    segments: list[bytes],
) -> None:
    backlog, seen = Backlog(1000), list[Item]()
    served = Served(segments, 3)
    with served.address() as address:
        reader = reader_of(address, backlog, timeout_s=1.0, reconnect=100)
        reader.start()
        next_of(ClipItem, backlog, seen)
        seen.clear()  # a slow machine may have opened it in vain
        next_of(Retrying, backlog, seen)
        # The last picture is known to be whole when the next one comes.
        assert 2 * SEGMENT_FRAMES < reader.counts.frames <= 3 * SEGMENT_FRAMES
        served.count = 5
        next_of(Reconnected, backlog, seen)
        served.has_ended = True
        next_of(End, backlog, seen)
    assert reader.counts.frames == 5 * SEGMENT_FRAMES
    assert seen[-1] == End(None)
    first, *_, last = [item for item in seen if isinstance(item, Retrying)]
    assert (first.reason, last.reason) == ("it said nothing in time", "the stream ended")


@pytest.mark.parametrize(("timeout_s", "expected_s"), [(None, 60), (7.0, 7)])
def test_a_playlist_is_known_by_its_content_too(
    segments: list[bytes], timeout_s: float | None, expected_s: float
) -> None:
    with Served(segments, 5, has_ended=True).address("watch") as address:
        source = LiveSource(f"{address}?key=1", SourceOptions(timeout_s=timeout_s))
        with contextlib.closing(source.open(threading.Event(), first=True)) as connection:
            assert connection.container.format.name == "hls"
            assert connection.container.read_timeout == expected_s
    assert source.network_timeout_s == expected_s


def test_by_arrival_a_pipe_begins_at_zero_as_well(tmp_path: Path, transport_stream: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    began_s = time.monotonic()
    thread = threading.Thread(target=lambda: fifo.write_bytes(transport_stream.read_bytes()))
    thread.start()
    backlog = Backlog(1000)
    reader = reader_of(str(fifo), backlog, clock="arrival", no_drop=True)
    reader.start()
    assert reader.join(DEADLINE_S)
    thread.join()
    took_s = time.monotonic() - began_s
    assert 0 <= reader.time_s <= took_s
    clips = [item for item in backlog.take(0) if isinstance(item, ClipItem)]
    assert sum(clip.count for clip in clips) <= took_s * 4 + 1


def test_a_source_that_is_not_there_yet_is_reported_when_it_comes(transport_stream: Path) -> None:
    backlog, seen = Backlog(1000), list[Item]()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        reader = reader_of(address, backlog, duration_s=1.0, reconnect=100)
        reader.start()
        next_of(Retrying, backlog, seen)
        server.listen()
        with server.accept()[0] as connection:
            with contextlib.suppress(ConnectionError):  # the reader leaves when it has enough
                connection.sendall(transport_stream.read_bytes())
            next_of(End, backlog, seen)
    notices = [item for item in seen if isinstance(item, Retrying | Reconnected)]
    assert [item.kind for item in notices[-2:]] == ["retrying", "reconnected"]
    back = notices[-1]
    assert isinstance(back, Reconnected)
    assert back.reason == "Connection refused"
    assert (back.gap_s, back.resumed_s, back.new_window) == (0, 0, False)
    assert sum(isinstance(item, Reconnected) for item in seen) == 1
    # Nothing that had been seen was lost.
    assert (reader.counts.reconnects, reader.counts.gaps_s) == (0, 0)
