"""`r2rt watch`: standing queries on live video."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, Literal

import click

from r2rt.cli.console import printable, write_text
from r2rt.cli.options import model_options, quiet_option, verbose_option
from r2rt.cli.sections import SectionedCommand
from r2rt.cli.session import note, open_model, warn, warn_of_unknown_words
from r2rt.cli.watch_options import (
    EventOptions,
    Pace,
    event_options,
    pace_options,
    source_options,
    tracker_options,
)
from r2rt.errors import OutputError, QueryError
from r2rt.files import check_destinations
from r2rt.printable import escape_controls
from r2rt.queries import read_queries
from r2rt.timecode import format_clock

if TYPE_CHECKING:
    from r2rt.engines import Device
    from r2rt.live import (
        Event,
        MomentEvent,
        SourceOptions,
        TrackerRules,
        Watcher,
        WatchSummary,
        Webhook,
    )

__all__ = ["watch"]

_EXAMPLES = """Examples:

\b
  r2rt watch rtsp://camera/stream "a person falls" --webhook https://example.com/hook
  r2rt watch /dev/video0 "a cat" --until 18:30 -o events.jsonl
  ffmpeg -i INPUT -f mpegts - | r2rt watch - "a goal" --json
  r2rt watch recording.ts "a goal" --follow
"""


@click.command(cls=SectionedCommand, epilog=_EXAMPLES)
@click.argument("source")
@click.argument("query", nargs=-1)
@click.option("--query", "-q", "more_queries", multiple=True, help="A query; repeatable.")
@click.option(
    "--queries",
    "queries_file",
    type=click.Path(),
    metavar="FILE",
    help='Queries from a JSON-lines file, {"query": ...} a line.',
)
@model_options
@tracker_options
@pace_options
@event_options
@source_options
@quiet_option
@verbose_option
def watch(
    source: str,
    query: tuple[str, ...],
    more_queries: tuple[str, ...],
    queries_file: str | None,
    model: str | None,
    device: Device,
    rules: TrackerRules,
    pace: Pace,
    events: EventOptions,
    source_options: SourceOptions,
    quiet: bool,
) -> None:
    """Watch SOURCE, and report when moments that match a QUERY open and close.

    SOURCE is an address (rtsp://, http://, ...), a camera (/dev/video0), - for standard input, or a
    file with --follow or --realtime. Events go to stdout, everything else to stderr. Ctrl-C ends
    with a summary and exit code 0.
    """
    if events.output is not None:
        check_destinations([events.output], [source, *([queries_file] if queries_file else [])])
    if source == queries_file == "-":
        raise QueryError("-: standard input is the queries or the video, not both")
    queries = _queries([*query, *more_queries], queries_file)
    if not source:
        raise QueryError("the name of the source is empty; give an address, a device or a file")

    from r2rt.live import LiveSource, Watcher, Webhook

    live = LiveSource(source, source_options)
    with contextlib.ExitStack() as stack:
        post = None
        if events.webhook is not None:
            post = Webhook(events.webhook, headers=events.webhook_headers)
        file = None if events.output is None else stack.enter_context(_appended(events.output))
        grounder = stack.enter_context(open_model(model, device, quiet=quiet))
        grounder.encode_queries(queries)
        warn_of_unknown_words(grounder, queries)
        watcher = stack.enter_context(
            Watcher(grounder, live, queries, rules=rules, **dataclasses.asdict(pace))
        )
        grounder.warm_up()
        plural = "queries" if len(queries) > 1 else "query"
        note(
            f"watching {live.name} for {len(queries)} {plural}, the last {watcher.window_s:g} s at "
            "a time; Ctrl-C ends",
            quiet=quiet,
        )
        reporter = _Reporter(live.name, events.format_, file, post)
        try:
            with _stopped_by_signals(watcher):
                for event in watcher:
                    reporter.report(event)
        finally:
            if post is not None:
                post.close()
            if not quiet:
                _summarize(watcher.summary, post)


def _queries(texts: list[str], queries_file: str | None) -> list[str]:
    if queries_file is not None:
        texts += [item.text for item in read_queries(queries_file)]
    if not texts:
        raise QueryError("no query: give a sentence, -q SENTENCE or --queries FILE.jsonl")
    if any(not text.strip() for text in texts):
        raise QueryError("a query is empty; write a sentence")
    return texts


class _Reporter:
    """Prints, writes and posts events; losses of the source are warnings, too."""

    def __init__(
        self,
        source: str,
        format_: Literal["lines", "jsonl"],
        file: IO[str] | None,
        webhook: Webhook | None,
    ) -> None:
        self._source = source
        self._format = format_
        self._file = file
        self._webhook = webhook
        self._webhook_dropped = 0

    def report(self, event: Event) -> None:
        """Print, write and post an event."""
        from r2rt.live import Dropped, MomentEvent, Reconnected, Retrying, as_record

        record = as_record(event, source=self._source)
        line = escape_controls(json.dumps(record, ensure_ascii=False, allow_nan=False))
        if self._file is not None:
            _write(self._file, line)
        if self._webhook is not None:
            self._webhook.post(record)
            self._warn_of_webhook(self._webhook)
        if self._format == "jsonl":
            write_text(None, line + "\n")
        elif isinstance(event, MomentEvent):
            write_text(None, _line(event) + "\n")
        if isinstance(event, Dropped):
            warn(f"cannot keep up: {event.count} {_WHAT[event.what]} ({event.total} in all)")
        elif isinstance(event, Retrying):
            of = "" if event.attempts is None else f" of {event.attempts}"
            warn(f"{self._source}: {event.reason}; try {event.attempt}{of} in {event.wait_s:.1f} s")
        elif isinstance(event, Reconnected):
            window = ", in a new window" if event.new_window else ""
            warn(
                f"{self._source}: {event.reason}; continues at {format_clock(event.resumed_s)} "
                f"after a gap of {event.gap_s:.1f} s{window}"
            )

    def _warn_of_webhook(self, webhook: Webhook) -> None:
        if webhook.dropped > self._webhook_dropped:
            self._webhook_dropped = webhook.dropped
            warn(f"webhook: {webhook.dropped} events dropped so far ({webhook.last_failure})")


_WHAT = {
    "clips": "clips dropped, the next frame is used for them",
    "frames": "frames not decoded",
    "answers": "clips not searched on their own",
}


def _line(event: MomentEvent) -> str:
    """Return `14:03:22  opened   #1  0:31.0 – 0:44.0  0.83  a dog`."""
    clock = datetime.fromtimestamp(event.at).strftime("%H:%M:%S")
    span = f"{format_clock(event.start_s)} – {format_clock(event.end_s)}"
    reason = getattr(event, "reason", None)
    tail = f"  ({reason})" if reason not in (None, "ended") else ""
    return (
        f"{clock}  {event.kind:<7}  #{event.moment_id:<3}  {span:<19}  {event.score:.2f}  "
        f"{printable(event.query)}{tail}"
    )


def _write(file: IO[str], line: str) -> None:
    try:
        file.write(line + "\n")
        file.flush()
    except OSError as error:
        raise OutputError(f"{file.name}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def _appended(path: str) -> Iterator[IO[str]]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(Path(path).open("a", encoding="utf-8"))
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
        yield file


@contextlib.contextmanager
def _stopped_by_signals(watcher: Watcher) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the watch with a summary, and a second one end it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        watcher.stop()
        signal.signal(number, previous[number])

    previous: dict[int, Any] = {
        number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _summarize(summary: WatchSummary, webhook: Webhook | None) -> None:
    note(
        f"{format_clock(summary.stream_s)} watched: {summary.frames} frames, {summary.clips} "
        f"clips, {summary.answers} answers, {summary.opened} moments opened, {summary.closed} "
        "closed",
        quiet=False,
    )
    note(
        f"dropped: {summary.clips_dropped} clips, {summary.frames_skipped} frames, "
        f"{summary.answers_skipped} answers; {summary.packets_lost} packets lost; "
        f"{summary.reconnects} reconnects, {summary.gaps_s:.1f} s missing",
        quiet=False,
    )
    if summary.latency_p50_s is not None and summary.latency_p95_s is not None:
        note(
            f"from a frame's arrival to its answer: p50 {summary.latency_p50_s * 1000:.0f} ms, "
            f"p95 {summary.latency_p95_s * 1000:.0f} ms (a clip is {summary.clip_s:g} s)",
            quiet=False,
        )
    if webhook is not None:
        note(
            f"webhook: {webhook.delivered} events delivered, {webhook.dropped} dropped",
            quiet=False,
        )
