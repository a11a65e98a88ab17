"""Standing queries on live sources, each in a thread; they go on after a restart."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r2rt.errors import R2rtError
from r2rt.files import as_text
from r2rt.service.containers import container_of
from r2rt.service.database import Database
from r2rt.service.hub import Hub
from r2rt.service.models import Models
from r2rt.service.problems import ProblemError
from r2rt.service.settings import Settings
from r2rt.service.videos import Videos

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder
    from r2rt.live import LiveSource, Watcher, Webhook

__all__ = ["Watches"]

_log = logging.getLogger(__name__)
_KEPT_EVENTS = 1000
_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "srt://", "http://", "https://")


@dataclass
class _Running:
    """One that runs in this process, or ran."""

    events: deque[tuple[int, dict[str, Any]]] = field(
        default_factory=lambda: deque(maxlen=_KEPT_EVENTS)
    )
    first: int = 1  # number of its first event
    last: int = 0  # number of its last event
    unknown_words: list[str] = field(default_factory=list)
    watcher: Watcher | None = None
    stopping: bool = False
    ended_at: float | None = None
    thread: threading.Thread | None = None


class Watches:
    """The table of watches, and the threads of those that run."""

    def __init__(
        self, database: Database, hub: Hub, models: Models, videos: Videos, settings: Settings
    ) -> None:
        self._database = database
        self._hub = hub
        self._models = models
        self._videos = videos
        self._settings = settings
        self._running: dict[str, _Running] = {}
        self._opened_at = time.time()

    def start(self) -> None:
        """Go on with the watches that ran when the process ended."""
        for row in self._database.rows("SELECT * FROM watches WHERE state = 'running'"):
            # Later than those of the process before, which clients ask to be resumed after.
            first = int(1000 * time.time())
            self._begin(row["id"], json.loads(row["request"]), first)

    def close(self, timeout_s: float = 10.0) -> None:
        """End all; they go on with the next process."""
        for running in self._running.values():
            _stop(running)
        deadline = time.monotonic() + timeout_s
        for running in self._running.values():
            if running.thread is not None:
                running.thread.join(max(deadline - time.monotonic(), 0.0))

    def add(self, request: dict[str, Any]) -> dict[str, Any]:
        """Begin to watch a source and return the watch.

        Args:
            request: see `r2rt.service.routes.watches.WatchBody`.

        Raises:
            ProblemError: the source is not allowed, or too many are watched.
            R2rtError: the source, the model or a query cannot be used.
        """
        row = self._database.row("SELECT count(*) FROM watches WHERE state = 'running'")
        if row is not None and row[0] >= self._settings.max_watches:
            raise ProblemError(
                409, "too-many-watches", f"{self._settings.max_watches} sources are watched already"
            )
        self._source(request)  # what cannot be used is refused now
        with self._models.use(request.get("model")) as grounder:
            unknown_words = _unknown_words(grounder, request["queries"])
        id_ = secrets.token_hex(8)
        self._database.write(
            "INSERT INTO watches (id, request, state, created_at) VALUES (?, ?, 'running', ?)",
            (id_, json.dumps(request), time.time()),
        )
        self._begin(id_, request, unknown_words=unknown_words)
        return self.get(id_)

    def all(self) -> list[dict[str, Any]]:
        """Return all watches, the newest first."""
        rows = self._database.rows("SELECT * FROM watches ORDER BY created_at DESC")
        return [self._document(row) for row in rows]

    def get(self, id_: str) -> dict[str, Any]:
        """Return a watch.

        Raises:
            ProblemError: there is none of that id.
        """
        row = self._database.row("SELECT * FROM watches WHERE id = ?", (id_,))
        if row is None:
            raise ProblemError(404, "no-such-watch", "no watch has this id")
        return self._document(row)

    def events(self, id_: str, after: int = 0) -> list[tuple[int, dict[str, Any]]]:
        """Return the events of a watch that are kept, each with its number, which grows."""
        running = self._running.get(id_)
        # Copied at once: its thread adds to them.
        return [] if running is None else [item for item in list(running.events) if item[0] > after]

    def remove(self, id_: str) -> None:
        """End a watch and forget it.

        Raises:
            ProblemError: there is none of that id.
        """
        self.get(id_)
        self._database.write("DELETE FROM watches WHERE id = ?", (id_,))
        running = self._running.pop(id_, None)
        if running is not None:
            _stop(running)
            self._publish(id_, running, {"event": "ended", "error": None})

    def expire(self, before: float) -> None:
        """Forget the watches that ended before a time, in seconds since 1970, and their events."""
        for row in self._database.rows("SELECT id FROM watches WHERE state != 'running'"):
            running = self._running.get(row["id"])
            # One of the process before may have ended just before this one began.
            ended_at = self._opened_at if running is None else running.ended_at
            if ended_at is not None and ended_at < before:
                self._database.write("DELETE FROM watches WHERE id = ?", (row["id"],))
                self._running.pop(row["id"], None)

    def _begin(
        self,
        id_: str,
        request: dict[str, Any],
        first: int = 1,
        unknown_words: Sequence[str] = (),
    ) -> None:
        running = self._running[id_] = _Running(
            first=first, last=first - 1, unknown_words=list(unknown_words)
        )
        running.thread = threading.Thread(
            target=self._run, args=(id_, request, running), name=f"r2rt-watch-{id_}", daemon=True
        )
        running.thread.start()

    def _run(self, id_: str, request: dict[str, Any], running: _Running) -> None:
        state, error = "ended", None
        try:
            self._watch(id_, request, running)
        except (R2rtError, ProblemError) as found:
            state, error = "failed", as_text(str(found))
        except Exception as found:
            _log.exception("watch %s failed", id_)
            state, error = "failed", ProblemError.fault(found).detail
        if running.stopping:
            return
        running.ended_at = time.time()
        self._database.write(
            "UPDATE watches SET state = ?, error = ? WHERE id = ?", (state, error, id_)
        )
        self._publish(id_, running, {"event": state, "error": error})

    def _watch(self, id_: str, request: dict[str, Any], running: _Running) -> None:
        from r2rt.live import TrackerRules, Watcher, as_record

        source = self._source(request)
        hook = self._webhook(request)
        try:
            with (
                self._models.use(request.get("model")) as grounder,
                Watcher(
                    grounder,
                    source,
                    request["queries"],
                    window_s=request.get("window_s"),
                    rules=TrackerRules(min_score=request["threshold"]),
                ) as watcher,
            ):
                # After a restart nobody has asked the model yet.
                running.unknown_words = _unknown_words(grounder, request["queries"])
                running.watcher = watcher
                if running.stopping:
                    return
                for event in watcher:
                    record = as_record(event, source=source.name)
                    self._publish(id_, running, record)
                    if hook is not None:
                        hook.post(record | {"watch": id_})
        finally:
            running.watcher = None
            if hook is not None:
                hook.close()

    def _source(self, request: Mapping[str, Any]) -> LiveSource:
        """Return the source: an address, or a file that videos may be added from."""
        from r2rt.live import LiveSource, SourceOptions

        source = request["source"]
        if source.startswith(_SCHEMES):
            return LiveSource(source, SourceOptions(reconnect=request["reconnect"]))
        path = self._videos.allowed(source)
        container_of(path)
        return LiveSource(str(path), SourceOptions(realtime=True))

    def _webhook(self, request: Mapping[str, Any]) -> Webhook | None:
        from r2rt.live import Webhook
        from r2rt.service.outbound import PublicTransport

        if request.get("webhook") is None:
            return None
        transport = PublicTransport(private=self._settings.private_addresses)
        return Webhook(request["webhook"], transport=transport)

    def _publish(self, id_: str, running: _Running, record: dict[str, Any]) -> None:
        running.last += 1
        running.events.append((running.last, record))
        self._hub.publish(f"watch:{id_}", (running.last, record))

    def _document(self, row: sqlite3.Row) -> dict[str, Any]:
        request = json.loads(row["request"])
        running = self._running.get(row["id"])
        return {
            "id": row["id"],
            "source": _shown(request["source"]),
            "queries": request["queries"],
            "unknown_words": [] if running is None else running.unknown_words,
            "state": row["state"],
            "error": row["error"],
            "events": 0 if running is None else running.last - running.first + 1,
            "created_at": row["created_at"],
        }


def _unknown_words(grounder: Grounder, queries: Iterable[str]) -> list[str]:
    """Return the words of the queries that the model does not know, each once."""
    return list(dict.fromkeys(word for query in queries for word in grounder.unknown_words(query)))


def _stop(running: _Running) -> None:
    running.stopping = True
    watcher = running.watcher
    if watcher is not None:
        watcher.stop()


def _shown(source: str) -> str:
    """Return a source without its password; of a file, its name."""
    if not source.startswith(_SCHEMES):
        return source.rpartition("/")[2]
    from r2rt.live import LiveSource

    return LiveSource(source).name
