"""`r2rt watch`: standing queries on video that does not end."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, Literal

import click

from r2rt.cli.console import printable, write_text
from r2rt.cli.options import TIME, model_options, quiet_option, verbose_option
from r2rt.cli.session import note, open_model, warn
from r2rt.errors import OutputError, QueryError
from r2rt.queries import read_queries
from r2rt.timecode import format_clock

if TYPE_CHECKING:
    from r2rt.engines import Device
    from r2rt.live import Event, MomentEvent, Watcher, WatchSummary, Webhook

__all__ = ["watch"]

_DEFAULT_MIN_SCORE = 0.5


class _PointInTime(click.ParamType[float]):
    """A wall-clock time: `18:30`, `18:30:00` (the next one), or ISO 8601; in seconds since 1970."""

    name = "clock time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        now = datetime.now().astimezone()
        for pattern in ("%H:%M", "%H:%M:%S"):
            with contextlib.suppress(ValueError):
                clock = datetime.strptime(value, pattern).time()
                then = datetime.combine(now.date(), clock).astimezone()
                if then <= now:
                    then = datetime.combine(now.date() + timedelta(days=1), clock).astimezone()
                return then.timestamp()
        try:
            return datetime.fromisoformat(value).astimezone().timestamp()
        except ValueError:
            self.fail(f"{value!r} is no clock time; write 18:30 or 2030-01-31T18:30", param, ctx)


def _pairs(_: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    separator = ":" if option.name == "webhook_headers" else "="
    pairs = {}
    for text in texts:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise click.BadParameter(f"{text!r}; expected NAME{separator}VALUE")
        pairs[name.strip()] = value.strip()
    return pairs


@click.command()
@click.argument("source")
@click.argument("query", nargs=-1)
@click.option("--query", "-q", "more_queries", multiple=True, help="A further query; repeatable.")
@click.option(
    "--queries",
    "queries_file",
    type=click.Path(),
    help='Queries from a jsonl file: {"query": ...}.',
)
@model_options
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    help=f"What a moment must score to open.  [default: {_DEFAULT_MIN_SCORE}]",
)
@click.option(
    "--keep-score",
    type=click.FloatRange(0, 1),
    help="What it must score to stay open.  [default: 0.8 of --min-score]",
)
@click.option(
    "--open-after",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Answers in a row that must hold a moment before it opens.",
)
@click.option(
    "--close-after",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Answers in a row that leave a moment as it was, or out, before it closes.",
)
@click.option(
    "--top-k", type=click.IntRange(min=1), help="The most moments a query that are followed."
)
@click.option(
    "--window", "window_s", type=TIME, help="Seconds asked about.  [default: the model's]"
)
@click.option("--every", "every_s", type=TIME, help="How often is asked.  [default: each clip]")
@click.option("--changes", is_flag=True, help="Tell also when an open moment changes.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["lines", "jsonl"]),
    default="lines",
    show_default=True,
    help="How events are printed.",
)
@click.option("--output", "-o", type=click.Path(), help="Append events here, one JSON a line.")
@click.option("--webhook", metavar="URL", help="POST events here, one JSON a request.")
@click.option(
    "--webhook-header",
    "webhook_headers",
    multiple=True,
    callback=_pairs,
    metavar="NAME:VALUE",
    help="A header of these requests; repeatable.",
)
@click.option("--follow", is_flag=True, help="SOURCE is a file that grows.")
@click.option("--realtime", is_flag=True, help="SOURCE is a file; play it at its own rate.")
@click.option("--duration", "duration_s", type=TIME, help="End after so much of the stream.")
@click.option("--until", type=_PointInTime(), help="End at this time, e.g. 18:30.")
@click.option(
    "--reconnect",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Tries in a row before a lost source is given up.",
)
@click.option("--reconnect-forever", is_flag=True, help="Never give a lost source up.")
@click.option(
    "--timeout",
    "timeout_s",
    type=TIME,
    help="How long a source may be silent.  [default: 10s on the network, else for ever]",
)
@click.option(
    "--transport",
    type=click.Choice(["tcp", "udp"]),
    default="tcp",
    show_default=True,
    help="How RTSP brings its packets.",
)
@click.option(
    "--clock",
    type=click.Choice(["auto", "stream", "arrival"]),
    default="auto",
    show_default=True,
    help="Believe the stream's timestamps, or the time of arrival.",
)
@click.option(
    "--no-drop",
    is_flag=True,
    help="Wait for what cannot keep up, and leave nothing out; for recordings, not cameras.",
)
@click.option("--input-format", metavar="NAME", help="FFmpeg's name of the format of SOURCE.")
@click.option(
    "--input-option",
    "input_options",
    multiple=True,
    callback=_pairs,
    metavar="NAME=VALUE",
    help="An option of FFmpeg for opening SOURCE; repeatable.",
)
@quiet_option
@verbose_option
def watch(
    source: str,
    query: tuple[str, ...],
    more_queries: tuple[str, ...],
    queries_file: str | None,
    model: str | None,
    device: Device,
    min_score: float | None,
    keep_score: float | None,
    open_after: int,
    close_after: int,
    top_k: int | None,
    window_s: float | None,
    every_s: float | None,
    changes: bool,
    format_: Literal["lines", "jsonl"],
    output: str | None,
    webhook: str | None,
    webhook_headers: dict[str, str],
    follow: bool,
    realtime: bool,
    duration_s: float | None,
    until: float | None,
    reconnect: int,
    reconnect_forever: bool,
    timeout_s: float | None,
    transport: Literal["tcp", "udp"],
    clock: Literal["auto", "stream", "arrival"],
    no_drop: bool,
    input_format: str | None,
    input_options: dict[str, str],
    quiet: bool,
) -> None:
    """Watch SOURCE and tell when a moment that fits a QUERY opens and when it closes.

    SOURCE is an address (rtsp://, http://, ...), a camera (/dev/video0), - for standard input, or a
    file with --follow or --realtime. Events go to stdout, everything else to stderr. Ctrl-C ends
    with a summary and exit code 0.
    """
    queries = [*query, *more_queries]
    if queries_file is not None:
        queries += [item.text for item in read_queries(queries_file)]
    if not queries:
        raise QueryError("no query: give a sentence, -q SENTENCE or --queries FILE.jsonl")
    if any(not text.strip() for text in queries):
        raise QueryError("a query is empty; write a sentence")

    from r2rt.live import LiveSource, SourceOptions, TrackerRules, Watcher, Webhook

    options = SourceOptions(
        follow=follow,
        realtime=realtime,
        reconnect=None if reconnect_forever else reconnect,
        timeout_s=timeout_s,
        transport=transport,
        input_format=input_format,
        input_options=input_options,
        clock=clock,
        no_drop=no_drop,
    )
    rules = TrackerRules(
        min_score=_DEFAULT_MIN_SCORE if min_score is None else min_score,
        keep_score=keep_score,
        open_after=open_after,
        close_after=close_after,
    )
    live = LiveSource(source, options)
    with contextlib.ExitStack() as stack:
        post = None
        if webhook is not None:
            post = Webhook(webhook, headers=webhook_headers)
        file = stack.enter_context(_appended(output)) if output is not None else None
        grounder = open_model(model, device, quiet=quiet)
        watcher = stack.enter_context(
            Watcher(
                grounder,
                live,
                queries,
                window_s=window_s,
                every_s=every_s,
                rules=rules,
                top_k=top_k,
                changes=changes,
                duration_s=duration_s,
                until=until,
            )
        )
        grounder.warm_up()
        note(
            f"watching {live.name} for {len(queries)} "
            f"{'queries' if len(queries) > 1 else 'query'}, the last {watcher.window_s:g} s at a "
            "time; Ctrl-C ends",
            quiet=quiet,
        )
        teller = _Teller(live.name, format_, file, post, quiet=quiet)
        try:
            with _stopped_by_signals(watcher):
                for event in watcher:
                    teller.tell(event)
        finally:
            if post is not None:
                post.close()
            if not quiet:
                _summarize(watcher.summary, post)


class _Teller:
    """Prints, writes and posts events; what befalls the source is a warning as well."""

    def __init__(
        self,
        source: str,
        format_: Literal["lines", "jsonl"],
        file: IO[str] | None,
        webhook: Webhook | None,
        *,
        quiet: bool,
    ) -> None:
        self._source = source
        self._format = format_
        self._file = file
        self._webhook = webhook
        self._quiet = quiet
        self._webhook_dropped = 0

    def tell(self, event: Event) -> None:
        """Tell of an event everywhere it is to be told."""
        from r2rt.live import Dropped, MomentEvent, Reconnected, Retrying, as_record

        record = as_record(event, source=self._source)
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
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
                f"{self._source}: {event.reason}; goes on at {format_clock(event.resumed_s)} after "
                f"a gap of {event.gap_s:.1f} s{window}"
            )

    def _warn_of_webhook(self, webhook: Webhook) -> None:
        if webhook.dropped > self._webhook_dropped:
            self._webhook_dropped = webhook.dropped
            warn(f"webhook: {webhook.dropped} events dropped so far ({webhook.last_failure})")


_WHAT = {
    "clips": "clips left out, the next picture stands in",
    "frames": "pictures not decoded",
    "answers": "clips without an answer of their own",
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
    """Let Ctrl-C and SIGTERM end the watch in order, and a second one end it at once."""
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
        f"{format_clock(summary.stream_s)} watched: {summary.frames} pictures, {summary.clips} "
        f"clips, {summary.answers} answers, {summary.opened} moments opened, {summary.closed} "
        "closed",
        quiet=False,
    )
    note(
        f"dropped: {summary.clips_dropped} clips, {summary.frames_skipped} pictures, "
        f"{summary.answers_skipped} answers; {summary.packets_lost} packets lost; "
        f"{summary.reconnects} reconnects, {summary.gaps_s:.1f} s missing",
        quiet=False,
    )
    if summary.latency_p50_s is not None and summary.latency_p95_s is not None:
        note(
            f"from a picture's arrival to its answer: p50 {summary.latency_p50_s * 1000:.0f} ms, "
            f"p95 {summary.latency_p95_s * 1000:.0f} ms (a clip is {summary.clip_s:g} s)",
            quiet=False,
        )
    if webhook is not None:
        note(
            f"webhook: {webhook.delivered} events delivered, {webhook.dropped} dropped",
            quiet=False,
        )
