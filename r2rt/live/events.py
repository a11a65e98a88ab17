"""The events of a watched source, and how they are written for machines."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from r2rt.files import as_text

__all__ = [
    "Changed",
    "CloseReason",
    "Closed",
    "Dropped",
    "DroppedKind",
    "Event",
    "MomentEvent",
    "Opened",
    "Reconnected",
    "Retrying",
    "as_record",
]

# ended: its end lies behind the live edge and stays where it is. faded: the model answers it no
# longer. left: it ended before the window begins. gap: the source was lost while it was on.
# stopped: watching ended while it was on.
CloseReason: TypeAlias = Literal["ended", "faded", "left", "gap", "stopped"]
# clips: frames that were never encoded; the next one takes their place. frames: frames that were
# not decoded because decoding fell behind. answers: clips after which nothing was asked, because a
# newer clip was there already.
DroppedKind: TypeAlias = Literal["clips", "frames", "answers"]


@dataclass(frozen=True, kw_only=True)
class MomentEvent:
    """What happened to a moment of one query.

    Attributes:
        moment_id: counts from 1; the same moment keeps its number until it is closed.
        query: the sentence.
        start_s: where it starts, in seconds on the stream's clock, whose 0 is the first frame.
        end_s: where it ends so far.
        score: the score it has now, in [0, 1].
        best_score: the best score it has had.
        stream_s: how far the stream had come when this was answered: the live edge.
        latency_s: from the arrival of the newest frame answered about to the answer.
        at: wall-clock time of the answer, seconds since 1970.
        start_at: wall-clock time at which the moment started, as far as arrival times show.
    """

    kind: ClassVar[str]

    moment_id: int
    query: str
    start_s: float
    end_s: float
    score: float
    best_score: float
    stream_s: float
    latency_s: float
    at: float
    start_at: float


@dataclass(frozen=True, kw_only=True)
class Opened(MomentEvent):
    """A moment that was not reported before."""

    kind: ClassVar[str] = "opened"


@dataclass(frozen=True, kw_only=True)
class Changed(MomentEvent):
    """An open moment whose span has changed since it was reported."""

    kind: ClassVar[str] = "changed"


@dataclass(frozen=True, kw_only=True)
class Closed(MomentEvent):
    """A moment that is over: it is not reported again.

    Attributes:
        reason: why it is over.
    """

    kind: ClassVar[str] = "closed"

    reason: CloseReason


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Something was left out because the machine could not keep up.

    Attributes:
        what: what was left out.
        count: how many since the last report.
        total: how many since watching began.
        at: wall-clock time, seconds since 1970.
    """

    kind: ClassVar[str] = "dropped"

    what: DroppedKind
    count: int
    total: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Retrying:
    """The source cannot be opened or was lost, and is tried again.

    Attributes:
        reason: what went wrong.
        attempt: which try comes next, from 1.
        attempts: how many there are in a row before giving up; None where there is no end.
        wait_s: how long is waited before it.
        at: wall-clock time, seconds since 1970.
    """

    kind: ClassVar[str] = "retrying"

    reason: str
    attempt: int
    attempts: int | None
    wait_s: float
    at: float


@dataclass(frozen=True, kw_only=True)
class Reconnected:
    """The source is back, or there at last, or its timestamps leapt.

    Attributes:
        reason: why there is a gap, or why it was not there at first.
        gap_s: how much of the stream is missing, 0 before its first frame; the clock goes on by
            arrival time.
        resumed_s: where on the stream's clock it goes on.
        new_window: whether the window begins anew, because the gap is too long to bridge.
        at: wall-clock time, seconds since 1970.
    """

    kind: ClassVar[str] = "reconnected"

    reason: str
    gap_s: float
    resumed_s: float
    new_window: bool
    at: float


Event: TypeAlias = Opened | Changed | Closed | Dropped | Retrying | Reconnected


def as_record(event: Event, *, source: str | None = None) -> dict[str, Any]:
    """Return an event as a JSON object: `event`, its own fields, times rounded to milliseconds."""
    record: dict[str, Any] = {"event": event.kind}
    if source is not None:
        record["source"] = as_text(source)
    for name, value in dataclasses.asdict(event).items():
        record[name] = (
            round(value, 3 if not name.endswith("score") else 6)
            if (isinstance(value, float))
            else value
        )
    return record
