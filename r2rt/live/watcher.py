"""Standing queries on a source that does not end."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from r2rt.errors import QueryError
from r2rt.grounding.stream import ClipWindow
from r2rt.live.backlog import Backlog, ClipItem, End, Item, SegmentEnd
from r2rt.live.events import Changed, Closed, CloseReason, Dropped, DroppedKind, Event, Opened
from r2rt.live.reader import Reader
from r2rt.live.source import LiveSource, SourceOptions
from r2rt.live.summary import Latencies, WatchSummary
from r2rt.live.tracker import Change, MomentTracker, TrackerRules

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction

__all__ = ["Watcher"]

# Clips decoded and not encoded yet; beyond these the oldest is left out.
_DEPTH = 16
# Where a model names no window: clips.
_WINDOW_CLIPS = 75
# Models never saw a shorter video in training, so none is asked about but at the very end.
_SHORTEST_S = 5.0
_REPORT_DROPS_EVERY_S = 10.0
_POLL_S = 0.2
_LET_READER_END_S = 1.0


class Watcher:
    """Asks sentences of a live source again and again; iterate over it for what happens.

    Reading, decoding and choosing frames run in a thread; encoding and answering run where the
    watcher is iterated. Example:

        with Watcher(grounder, "rtsp://camera/stream", ["a person falls"]) as watcher:
            for event in watcher:
                if isinstance(event, Opened):
                    print(event.query, event.start_s, event.score)

    The answer after each clip is that about the last `window_s` seconds, equal to `Grounder.ground`
    on that cut of a recording.

    Args:
        grounder: whose model and engine are used.
        source: an address, or a `LiveSource`.
        queries: one sentence or several.
        window_s: how much of the stream each answer is about; the model's own window if None.
        every_s: how often the queries are asked, in seconds of the stream, rounded up to clips;
            after every clip if None.
        rules: when moments open and close.
        top_k: how many moments of an answer are followed at most; all if None.
        changes: report also when an open moment changes.
        duration_s: end when the stream has come so far; None goes on.
        until: end at this wall-clock time, in seconds since 1970; None goes on.
        options: how the source is opened, if it is an address.
        depth: clips that may wait for the encoder before the oldest is left out.

    Raises:
        QueryError: a query or another argument cannot be used, or the model predicts no moments.
        SourceNotFoundError: no such file or device.
    """

    def __init__(
        self,
        grounder: Grounder,
        source: str | LiveSource,
        queries: str | Sequence[str],
        *,
        window_s: float | None = None,
        every_s: float | None = None,
        rules: TrackerRules | None = None,
        top_k: int | None = None,
        changes: bool = False,
        duration_s: float | None = None,
        until: float | None = None,
        options: SourceOptions | None = None,
        depth: int = _DEPTH,
    ) -> None:
        for name, value in (("window", window_s), ("every", every_s), ("duration", duration_s)):
            if value is not None and not 0 < value < math.inf:
                raise QueryError(f"{name} {value} s; expected a number above 0")
        if depth < 1:
            raise QueryError(f"depth {depth}; expected 1 or more clips")
        if not grounder.bundle.dims.has_offsets:
            raise QueryError(
                f"{grounder.bundle.manifest.name} answers with saliency alone; "
                "watching needs a model of moments"
            )
        self._grounder = grounder
        self._source = source if isinstance(source, LiveSource) else LiveSource(source, options)
        self._queries = [queries] if isinstance(queries, str) else list(queries)
        grounder.encode_queries(self._queries)
        self._fps = grounder.bundle.fps
        self._clip_s = float(1 / self._fps)
        self._window_s = (
            window_s or grounder.bundle.manifest.window_s or (_WINDOW_CLIPS * self._clip_s)
        )
        if self._window_s < self._clip_s:
            raise QueryError(
                f"window of {self._window_s:g} s: give at least a clip, {self._clip_s:g} s"
            )
        self._every_s = every_s or 0.0
        self._rules = rules or TrackerRules()
        self._top_k = top_k
        self._reports_changes = changes
        self._until = until
        self._backlog = Backlog(depth)
        self._reader = Reader(
            self._source,
            self._backlog,
            fps=self._fps,
            image_size=grounder.bundle.dims.image_size,
            window_s=self._window_s,
            duration_s=duration_s,
        )
        ids = itertools.count(1)
        self._trackers = [
            MomentTracker(self._rules, clip_s=self._clip_s, ids=ids) for _ in self._queries
        ]
        self._has_begun = self._stopping = False
        self._window: ClipWindow | None = None
        self._newest: ClipItem | None = None
        self._is_answered = True
        self._segment = -1
        self._asked_at_s = float("-inf")
        self._unanswered: list[float] = []  # arrivals of frames whose answer is due
        self._last: list[Prediction] = []
        self._latencies = Latencies()
        self._clips = self._answers = self._skipped = self._opened = self._closed = 0
        self._reported: dict[DroppedKind, int] = {"clips": 0, "frames": 0, "answers": 0}
        self._reported_at_s = float("-inf")

    @property
    def source(self) -> LiveSource:
        """What is watched."""
        return self._source

    @property
    def window_s(self) -> float:
        """How much of the stream each answer is about."""
        return self._window_s

    @property
    def predictions(self) -> list[Prediction]:
        """The latest answer, one prediction a query; empty before the first.

        Times are on the stream's clock.
        """
        return self._last

    @property
    def summary(self) -> WatchSummary:
        """What watching came to so far."""
        counts = self._reader.counts
        return WatchSummary(
            stream_s=self._reader.time_s,
            frames=counts.frames,
            packets_lost=counts.packets_lost,
            frames_skipped=counts.frames_skipped,
            clips=self._clips,
            clips_dropped=self._backlog.dropped,
            answers=self._answers,
            answers_skipped=self._skipped,
            opened=self._opened,
            closed=self._closed,
            reconnects=counts.reconnects,
            gaps_s=counts.gaps_s,
            latency_p50_s=self._latencies.percentile(50),
            latency_p95_s=self._latencies.percentile(95),
            clip_s=self._clip_s,
        )

    def stop(self) -> None:
        """Ask the iteration to end soon, from any thread or signal handler.

        What was read is still answered and what is open is closed.
        """
        self._stopping = True
        self._reader.stop()

    def __iter__(self) -> Iterator[Event]:
        """Watch until the source ends, `stop` is called, or the end that was asked for comes.

        Raises:
            QueryError: the watcher was iterated before.
            SourceLostError: a live source is lost for good.
            NotAVideoError, NoVideoStreamError, NoFramesError: it is no video that can be decoded.
        """
        if self._has_begun:
            raise QueryError("a watcher is iterated once; make another to watch again")
        self._has_begun = True
        self._reader.start()
        try:
            yield from self._watch()
        finally:
            self._reader.stop()
            self._reader.join(_LET_READER_END_S)

    def __enter__(self) -> Watcher:
        """Return the watcher."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading."""
        self._reader.stop()
        self._reader.join(_LET_READER_END_S)

    def _watch(self) -> Iterator[Event]:
        error: BaseException | None = None
        give_up_s: float | None = None
        ended = gave_up = False
        while not ended:
            if self._until is not None and time.time() >= self._until:
                self.stop()
            if self._stopping:
                # A reader that waits for a silent source is not waited for.
                now_s = time.monotonic()
                give_up_s = give_up_s or now_s + _LET_READER_END_S
                gave_up = now_s >= give_up_s
            items = self._backlog.take(_POLL_S)
            if gave_up and not items:
                break  # what was read meanwhile is there
            for place, item in enumerate(items):
                if isinstance(item, End):
                    error, ended = item.error, True
                elif isinstance(item, ClipItem):
                    yield from self._take_clip(item, items[place + 1 :])
                elif isinstance(item, SegmentEnd):
                    self._see_end(item)
                    if item.is_gap:
                        yield from self._end_segment("gap")
                else:
                    yield item
            yield from self._report_drops()
        yield from self._end_segment("stopped")
        yield from self._report_drops(now=True)
        if error is not None:
            raise error

    def _take_clip(self, item: ClipItem, behind: Sequence[Item]) -> Iterator[Event]:
        if item.segment != self._segment or self._window is None:
            yield from self._end_segment("gap")
            self._segment = item.segment
            self._window = ClipWindow(
                self._grounder, name=self._source.name, window_s=self._window_s
            )
        self._window.add(item.pixels, item.count)
        self._clips += item.count
        self._newest, self._is_answered = item, False
        if not self._is_due(item):
            return
        self._unanswered.append(item.arrival_s)
        if item.is_live and any(
            isinstance(later, ClipItem) and later.segment == item.segment for later in behind
        ):
            self._skipped += 1  # the answer would be old before it is there
            return
        yield from self._answer(item)

    def _see_end(self, end: SegmentEnd) -> None:
        """A segment ended a little after its last clip was complete: the last answer knows it."""
        if self._newest is not None and end.edge_s > self._newest.edge_s:
            self._newest = replace(
                self._newest, edge_s=end.edge_s, edge_arrival_s=end.edge_arrival_s
            )
            self._is_answered = False

    def _is_due(self, item: ClipItem) -> bool:
        edge_s = item.segment_s + item.edge_s
        assert self._window is not None
        if self._window.clips * self._clip_s < _SHORTEST_S:
            return False
        return edge_s - self._asked_at_s >= self._every_s - self._clip_s / 4

    def _answer(self, item: ClipItem) -> Iterator[Event]:
        """Ask about the window that ends now, and report what has become of the moments."""
        assert self._window is not None
        encoded = self._window.encoded(end_s=item.edge_s, start_s=item.segment_s)
        self._last = self._grounder.ground(
            encoded, self._queries, top_k=self._top_k, min_score=self._rules.kept_score
        )
        now_s, at = time.monotonic(), time.time()
        self._answers += 1
        self._is_answered = True
        for arrival_s in self._unanswered:
            self._latencies.add(now_s - arrival_s)
        self._unanswered = []
        edge_s = item.segment_s + item.edge_s
        self._asked_at_s = edge_s
        for query, tracker, prediction in zip(
            self._queries, self._trackers, self._last, strict=True
        ):
            for change in tracker.update(
                prediction.moments, start_s=encoded.start_s, edge_s=edge_s
            ):
                yield from self._event(query, change, item, now_s, at)

    def _end_segment(self, reason: CloseReason) -> Iterator[Event]:
        """Ask about what was not asked about yet, and close what is open."""
        if self._newest is None:
            return
        item = self._newest
        if not self._is_answered:
            yield from self._answer(item)
        now_s, at = time.monotonic(), time.time()
        for query, tracker in zip(self._queries, self._trackers, strict=True):
            for change in tracker.close_all(reason):
                yield from self._event(query, change, item, now_s, at)
        self._newest = self._window = None
        self._asked_at_s = float("-inf")

    def _event(
        self, query: str, change: Change, item: ClipItem, now_s: float, at: float
    ) -> Iterator[Event]:
        """Report what has become of a moment in the answer about `item`, given at `now_s`."""
        edge_s = item.segment_s + item.edge_s
        fields: dict[str, Any] = {
            "moment_id": change.moment_id,
            "query": query,
            "start_s": change.start_s,
            "end_s": change.end_s,
            "score": change.score,
            "best_score": change.best_score,
            "stream_s": edge_s,
            "latency_s": now_s - item.arrival_s,
            "at": at,
            "start_at": at - (now_s - item.edge_arrival_s) - (edge_s - change.start_s),
        }
        if change.kind == "opened":
            self._opened += 1
            yield Opened(**fields)
        elif change.kind == "closed":
            assert change.reason is not None
            self._closed += 1
            yield Closed(**fields, reason=change.reason)
        elif self._reports_changes:
            yield Changed(**fields)

    def _report_drops(self, *, now: bool = False) -> Iterator[Event]:
        """Report what was left out, now and then."""
        if not now and time.monotonic() - self._reported_at_s < _REPORT_DROPS_EVERY_S:
            return
        totals: dict[DroppedKind, int] = {
            "clips": self._backlog.dropped,
            "frames": self._reader.counts.frames_skipped,
            "answers": self._skipped,
        }
        for what, total in totals.items():
            if total > self._reported[what]:
                self._reported_at_s = time.monotonic()
                yield Dropped(
                    what=what, count=total - self._reported[what], total=total, at=time.time()
                )
                self._reported[what] = total
