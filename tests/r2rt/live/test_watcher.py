"""Watching equals grounding the recording, in bounded memory, and nothing is lost unsaid."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from r2rt import Grounder, Prediction
from r2rt.engines.base import Array, Placed
from r2rt.errors import NoVideoStreamError, QueryError, SourceLostError, SourceNotFoundError
from r2rt.live import (
    Changed,
    Closed,
    Dropped,
    Event,
    Opened,
    SourceOptions,
    TrackerRules,
    Watcher,
    as_record,
)
from r2rt.live.backlog import ClipItem, End
from r2rt.live.pace import Pace
from r2rt.live.reader import Reader
from r2rt.live.summary import Latencies
from r2rt.model.contract import VIDEO_ENCODER
from tests.r2rt.live.conftest import FPS, RATE, VIDEO_S, WINDOW_S, once_read, quick_grounder
from tests.r2rt.video.clips import write_video

QUERIES = ["a dog", "a red ball rolls to the right"]
REALTIME = SourceOptions(realtime=True)
FOLLOW = SourceOptions(follow=True, timeout_s=0.6)
ANYTHING = TrackerRules(min_score=0.0)


def moments(prediction: Prediction) -> np.ndarray:
    return np.array([(item.start_s, item.end_s, item.score) for item in prediction.moments])


def assert_is_offline_answer(
    grounder: Grounder, got: Prediction, recording: Path, *, start_s: float
) -> None:
    """Compare with the answer about the same seconds of a recording."""
    end_s = start_s + got.duration_s
    want = grounder.ground(recording, got.query, start_s=start_s, end_s=end_s)
    shift = got.clip_starts_s[0] - want.clip_starts_s[0]
    np.testing.assert_allclose(got.saliency, want.saliency, atol=1e-5)
    times, scores = np.split(moments(got) - [shift, shift, 0], [2], axis=1)
    expected_times, expected_scores = np.split(moments(want), [2], axis=1)
    # Ticks of the time base: a moment may end where the recording does.
    np.testing.assert_allclose(times, expected_times, atol=1e-3)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    assert got.duration_s == pytest.approx(want.duration_s, abs=1e-3)


def test_the_last_window_of_a_file_played_is_that_cut_grounded(
    grounder: Grounder, video: Path
) -> None:
    began = time.monotonic()
    watcher = Watcher(
        grounder, str(video), QUERIES, options=REALTIME, rules=ANYTHING, duration_s=6.3
    )
    events = list(watcher)
    assert time.monotonic() - began > 6.0  # at its own rate
    for prediction in watcher.predictions:
        # 25 clips have passed their middle, and 20 of them are the window.
        assert prediction.duration_s == pytest.approx(6.3 - 1.25, abs=1e-3)
        assert len(prediction.saliency) == WINDOW_S * FPS
        assert prediction.clip_starts_s[0] == pytest.approx(1.25)
        assert_is_offline_answer(grounder, prediction, video, start_s=1.25)
    summary = watcher.summary
    assert summary.clips == 25
    assert summary.stream_s == pytest.approx(6.3)
    assert summary.clips_dropped == summary.frames_skipped == summary.reconnects == 0
    assert summary.latency_p95_s is not None
    assert summary.opened == summary.closed == sum(isinstance(item, Opened) for item in events)


def test_every_answer_on_the_way_is_that_of_its_cut(
    grounder: Grounder, transport_stream: Path, video: Path
) -> None:
    """Each answer of a growing file, also while the window still fills."""
    options = replace(FOLLOW, no_drop=True)
    watcher = Watcher(
        grounder, str(transport_stream), QUERIES[0], options=options, rules=ANYTHING, every_s=1.0
    )
    answers: list[Prediction] = []
    for _ in watcher:
        if watcher.predictions and (not answers or answers[-1] is not watcher.predictions[0]):
            answers.append(watcher.predictions[0])
    assert len(answers) > 4
    assert watcher.summary.answers <= 9  # from the fifth second on, one a second
    for prediction in answers:
        # The transport stream's clock begins where its container says, at its first packet.
        start_s = float(prediction.clip_starts_s[0])
        assert prediction.duration_s <= WINDOW_S + 0.5 / FPS
        assert_is_offline_answer(grounder, prediction, transport_stream, start_s=start_s)


def test_a_file_that_grows_is_read_to_where_it_stops_growing(
    grounder: Grounder, transport_stream: Path, tmp_path: Path
) -> None:
    growing = tmp_path / "growing.ts"
    content = transport_stream.read_bytes()
    third = len(content) // 3
    growing.write_bytes(content[:third])

    def write(part: bytes) -> None:
        with growing.open("ab") as file:
            file.write(part)

    options = replace(FOLLOW, timeout_s=3.0, no_drop=True)
    watcher = Watcher(
        grounder, str(growing), QUERIES, options=options, rules=ANYTHING, every_s=VIDEO_S
    )
    # Each part is written once the one before is read, but for frames that the decoder holds.
    frames = VIDEO_S * RATE // 3
    once_read(watcher, frames - RATE, lambda: write(content[third : 2 * third]))
    once_read(watcher, 2 * frames - RATE, lambda: write(content[2 * third :]))
    events = list(watcher)
    assert not [item for item in events if isinstance(item, Dropped)]
    assert watcher.summary.clips == VIDEO_S * FPS
    assert watcher.summary.frames == VIDEO_S * RATE
    assert_is_offline_answer(
        grounder, watcher.predictions[0], transport_stream, start_s=VIDEO_S - WINDOW_S
    )


def test_a_file_that_another_replaces_is_opened_again(
    grounder: Grounder, transport_stream: Path, tmp_path: Path
) -> None:
    growing, other = tmp_path / "growing.ts", tmp_path / "other.ts"
    for path in (growing, other):
        path.write_bytes(transport_stream.read_bytes())
    watcher = Watcher(
        grounder,
        str(growing),
        QUERIES,
        options=SourceOptions(follow=True, timeout_s=2.0),
        duration_s=VIDEO_S + 3,
    )
    threading.Timer(1.0, lambda: other.replace(growing)).start()
    kinds = Counter(item.kind for item in watcher)
    assert kinds["retrying"] >= 1
    assert kinds["reconnected"] == 1
    assert watcher.summary.stream_s == pytest.approx(VIDEO_S + 3)


def test_a_pipe_is_read_to_its_end_and_waits_for_who_reads(
    grounder: Grounder, transport_stream: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    thread = threading.Thread(target=lambda: fifo.write_bytes(transport_stream.read_bytes()))
    thread.start()
    watcher = Watcher(grounder, str(fifo), QUERIES[0], rules=ANYTHING, depth=1)
    events = list(watcher)
    thread.join()
    # Read far ahead of real time, so nothing need be left out.
    assert not [item for item in events if isinstance(item, Dropped)]
    assert watcher.summary.clips == VIDEO_S * FPS
    assert watcher.summary.clips_dropped == 0
    assert_is_offline_answer(
        grounder, watcher.predictions[0], transport_stream, start_s=VIDEO_S - WINDOW_S
    )


class _Served(ThreadingHTTPServer):
    """A folder by HTTP, without a log."""

    def __init__(self, folder: Path) -> None:
        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that has enough hangs up."""


@pytest.fixture
def http(transport_stream: Path, video: Path, tmp_path: Path) -> Iterator[str]:
    for path in (transport_stream, video):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    server = _Served(tmp_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_film_on_a_web_server_ends_and_a_broadcast_is_lost(grounder: Grounder, http: str) -> None:
    film = Watcher(grounder, f"{http}/video.mp4", QUERIES[0], options=SourceOptions(no_drop=True))
    list(film)
    assert film.summary.clips == VIDEO_S * FPS
    broadcast = Watcher(
        grounder, f"{http}/video.ts", QUERIES[0], options=SourceOptions(no_drop=True, reconnect=0)
    )
    with pytest.raises(SourceLostError, match="the stream ended"):
        list(broadcast)
    assert broadcast.summary.clips == VIDEO_S * FPS
    with pytest.raises(SourceNotFoundError, match="check the address"):
        list(Watcher(grounder, f"{http}/none.mp4", QUERIES[0]))


def test_the_same_recording_gives_the_same_events(
    grounder: Grounder, transport_stream: Path
) -> None:
    options = SourceOptions(follow=True, timeout_s=0.3, no_drop=True)

    def events() -> list[tuple[str, int, float, float]]:
        watcher = Watcher(
            grounder, str(transport_stream), QUERIES, options=options, rules=ANYTHING, changes=True
        )
        return [
            (item.kind, item.moment_id, item.start_s, item.end_s)
            for item in watcher
            if isinstance(item, Opened | Closed | Changed)
        ]

    first = events()
    assert first == events()
    assert {"opened", "closed"} <= {kind for kind, *_ in first}


class SlowEngine:
    """An engine that takes its time over pictures."""

    def __init__(self, inner: Grounder, seconds: float) -> None:
        self._inner = inner.engine
        self._seconds = seconds
        self.name = "slow"
        self.concurrent = True
        self.frame_batch = self._inner.frame_batch

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Placed],
        outputs: Mapping[str, Placed] | None = None,
    ) -> dict[str, Array]:
        if graph == VIDEO_ENCODER:
            time.sleep(self._seconds)
        return self._inner.run(graph, inputs, outputs)

    @property
    def kept_bytes(self) -> int:
        return self._inner.kept_bytes

    @property
    def merges(self) -> bool:
        return self._inner.merges

    def empty(self, shape: tuple[int, ...]) -> Placed:
        return self._inner.empty(shape)

    def release(self, graph: str) -> None:
        self._inner.release(graph)

    def close(self) -> None:
        self._inner.close()


def slow_grounder(seconds: float) -> Grounder:
    quick = quick_grounder()
    return Grounder(quick.bundle, SlowEngine(quick, seconds), choice=quick.choice)  # type: ignore[arg-type]


@pytest.mark.slow
def test_who_is_too_slow_is_reported_what_was_left_out(video: Path) -> None:
    watcher = Watcher(
        slow_grounder(1.5),
        str(video),
        QUERIES[0],
        options=REALTIME,
        rules=ANYTHING,
        depth=2,
        duration_s=8.0,
    )
    events = list(watcher)
    summary = watcher.summary
    assert summary.clips_dropped > 5
    assert summary.answers_skipped > 0
    reported = dict.fromkeys(("clips", "answers"), 0)
    for item in events:
        if isinstance(item, Dropped):
            reported[item.what] += item.count
            assert item.total == reported[item.what]
    assert reported == {"clips": summary.clips_dropped, "answers": summary.answers_skipped}
    # What was left out keeps its place in time.
    assert summary.clips == 8 * FPS
    assert watcher.predictions[0].clip_starts_s[0] == pytest.approx(8 - WINDOW_S)
    assert summary.stream_s == pytest.approx(8.0)


def test_decoding_that_falls_behind_skips_to_keyframes_and_recovers(
    grounder: Grounder, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LatePace(Pace):
        """Two seconds of the stream arrive as if decoding had fallen far behind."""

        def see(self, arrival_s: float, time_s: float) -> None:
            super().see(arrival_s, time_s)
            self.lag_s = 10.0 if 1.0 <= time_s < 3.0 else 0.0

    monkeypatch.setattr("r2rt.live.decoding.Pace", LatePace)
    watcher = Watcher(
        grounder, str(video), QUERIES[0], options=REALTIME, rules=ANYTHING, duration_s=5.5
    )
    reported = sum(
        item.count for item in watcher if isinstance(item, Dropped) and item.what == "frames"
    )
    summary = watcher.summary
    # Of two to three seconds at 12 pictures a second, the keyframes remain, one a second.
    assert 18 <= summary.frames_skipped <= 33
    assert reported == summary.frames_skipped
    assert summary.frames + summary.frames_skipped == pytest.approx(5.5 * 12, abs=3)
    # Clips keep their number, and nothing is damaged: decoding goes on at a keyframe.
    assert summary.packets_lost == 0
    assert summary.clips == 5.5 * FPS


def test_no_drop_waits_instead(transport_stream: Path) -> None:
    watcher = Watcher(
        slow_grounder(0.05),
        str(transport_stream),
        QUERIES[0],
        options=SourceOptions(follow=True, timeout_s=0.3, no_drop=True),
        duration_s=7.0,
        depth=1,
    )
    assert not [item for item in watcher if isinstance(item, Dropped)]
    assert watcher.summary.clips == 7 * FPS
    # After each clip from the fifth second on, and about the very end.
    assert watcher.summary.answers == 2 * FPS + 2


def test_it_can_be_stopped_while_nothing_comes(grounder: Grounder, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)  # somebody who never writes
    watcher = Watcher(grounder, str(fifo), QUERIES)
    threading.Timer(0.5, watcher.stop).start()
    began = time.monotonic()
    assert list(watcher) == []
    assert time.monotonic() - began < 5
    os.close(writer)


def test_stopping_closes_what_is_open(grounder: Grounder, video: Path) -> None:
    watcher = Watcher(grounder, str(video), QUERIES, options=REALTIME, rules=ANYTHING)
    once_read(watcher, 2 * RATE, watcher.stop)
    events: list[Event] = list(watcher)
    opened = {item.moment_id for item in events if isinstance(item, Opened)}
    closed = {item.moment_id for item in events if isinstance(item, Closed)}
    assert opened
    assert opened == closed
    assert {item.reason for item in events if isinstance(item, Closed)} == {"stopped"}


def test_what_was_read_until_it_stopped_is_handled_however_long_that_takes(
    grounder: Grounder, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def take_clip(watcher: Watcher, item: ClipItem, _: object) -> Iterator[Event]:
        taken.append(item.segment)
        if item.segment == 0:
            watcher.stop()
            watcher._backlog.put(replace(item, segment=1))
            time.sleep(0.02)
        else:
            time.sleep(0.06)  # longer than the reader is waited for
            if item.segment == 1:
                watcher._backlog.put(replace(item, segment=2))
                watcher._backlog.put(End(SourceLostError("gone")))
        yield from ()

    def read(reader: Reader) -> None:
        clip = ClipItem(
            pixels=np.zeros((8, 8, 3), np.uint8),
            count=1,
            segment=0,
            segment_s=0.0,
            edge_s=1.0,
            edge_arrival_s=0.0,
            arrival_s=0.0,
            is_live=True,
        )
        reader._backlog.put(clip)

    monkeypatch.setattr(Watcher, "_take_clip", take_clip)
    monkeypatch.setattr(Reader, "_run", read)
    monkeypatch.setattr("r2rt.live.watcher._LET_READER_END_S", 0.05)
    watcher = Watcher(grounder, str(video), QUERIES, options=REALTIME)
    with pytest.raises(SourceLostError):
        list(watcher)
    assert taken == [0, 1, 2]


def test_latencies_can_be_read_while_they_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    latencies = Latencies()
    latencies.add(1.0)
    percentile = np.percentile

    def meanwhile(values: np.ndarray, share: float) -> float:
        latencies.add(2.0)  # as another thread does
        return float(percentile(values, share))

    monkeypatch.setattr(np, "percentile", meanwhile)
    assert latencies.percentile(95) == 1.0


def test_a_wall_clock_time_ends_it(grounder: Grounder, video: Path) -> None:
    watcher = Watcher(grounder, str(video), QUERIES, options=REALTIME, until=time.time() + 3.0)
    list(watcher)
    assert 0 < watcher.summary.stream_s < VIDEO_S / 2


def test_records_are_flat_and_rounded(grounder: Grounder, video: Path) -> None:
    watcher = Watcher(
        grounder, str(video), QUERIES[0], options=REALTIME, rules=ANYTHING, duration_s=1.0
    )
    opened = next(item for item in watcher if isinstance(item, Opened))
    record = as_record(opened, source="camera")
    assert list(record)[:4] == ["event", "source", "moment_id", "query"]
    assert record["event"] == "opened"
    assert record["start_s"] == round(opened.start_s, 3)
    assert abs(record["at"] - time.time()) < 10
    assert record["start_at"] <= record["at"]


def test_a_moment_starts_when_its_frame_arrived_however_sparse_the_stream(
    grounder: Grounder, tmp_path: Path
) -> None:
    # The end is reported once the second picture is there, which lasts as long as the first.
    path = write_video(tmp_path / "sparse.mp4", frames=2, rate=Fraction(4, 5), options={"bf": "0"})
    watcher = Watcher(grounder, str(path), QUERIES, options=REALTIME, rules=ANYTHING)
    began = time.time()
    events = [item for item in watcher if isinstance(item, Opened | Closed)]
    assert {item.stream_s for item in events} == {2.5}
    # At its own rate, a picture comes no sooner than that; clocks differ a little.
    assert all(item.start_at >= began + item.start_s - 0.05 for item in events)


def test_errors_reach_who_iterates(grounder: Grounder, tmp_path: Path) -> None:
    import av

    audio = tmp_path / "audio.wav"
    with av.open(str(audio), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(NoVideoStreamError, match=r"audio\.wav"):
        list(Watcher(grounder, str(audio), QUERIES, options=REALTIME))


def test_what_is_refused(grounder: Grounder, video: Path) -> None:
    with pytest.raises(QueryError, match="no words"):
        Watcher(grounder, str(video), ["  "], options=REALTIME)
    for window_s in (0, math.nan, math.inf):
        with pytest.raises(QueryError, match="window"):
            Watcher(grounder, str(video), QUERIES, options=REALTIME, window_s=window_s)
    with pytest.raises(QueryError, match="at least a clip"):
        Watcher(grounder, str(video), QUERIES, options=REALTIME, window_s=0.01)
    with pytest.raises(QueryError, match="depth"):
        Watcher(grounder, str(video), QUERIES, options=REALTIME, depth=0)
    with pytest.raises(SourceNotFoundError):
        Watcher(grounder, "none.mp4", QUERIES)
    watcher = Watcher(grounder, str(video), QUERIES, options=REALTIME, duration_s=0.1)
    list(watcher)
    with pytest.raises(QueryError, match="once"):
        list(watcher)
