"""The thread that reads: what it tells of connections, and the times that it gives."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from fractions import Fraction
from pathlib import Path

from r2rt.live.backlog import Backlog, ClipItem, End, Item
from r2rt.live.events import Reconnected, Retrying
from r2rt.live.reader import Reader
from r2rt.live.source import LiveSource, SourceOptions

DEADLINE_S = 30.0


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
    assert [type(item) for item in notices[-2:]] == [Retrying, Reconnected]
    back = notices[-1]
    assert isinstance(back, Reconnected)
    assert back.reason == "Connection refused"
    assert (back.gap_s, back.resumed_s, back.new_window) == (0, 0, False)
    assert sum(isinstance(item, Reconnected) for item in seen) == 1
    # Nothing that had been seen was lost.
    assert (reader.counts.reconnects, reader.counts.gaps_s) == (0, 0)
