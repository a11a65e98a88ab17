"""Options of `r2rt watch`, in groups that the command gets as one object each."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

import click

from r2rt.cli.options import TIME, check_has_use, format_or_json

__all__ = [
    "EventOptions",
    "Pace",
    "event_options",
    "pace_options",
    "source_options",
    "tracker_options",
]

F = TypeVar("F", bound=Callable[..., Any])


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
            self.fail(f"{value!r}: expected a time such as 18:30 or 2030-01-31T18:30", param, ctx)


def _pairs(_: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    separator = ":" if option.name == "webhook_headers" else "="
    pairs = {}
    for text in texts:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise click.BadParameter(f"{text!r}; expected NAME{separator}VALUE")
        pairs[name.strip()] = value.strip()
    return pairs


def source_options(command: F) -> F:
    """Add how the source is read; the command gets it as `source_options: SourceOptions`."""

    @functools.wraps(command)
    def withsource_options(
        *,
        follow: bool,
        realtime: bool,
        reconnect: int,
        reconnect_forever: bool,
        timeout_s: float | None,
        transport: Literal["tcp", "udp"],
        clock: Literal["auto", "stream", "arrival"],
        no_drop: bool,
        input_format: str | None,
        input_options: dict[str, str],
        video_track: int | None,
        **others: Any,
    ) -> Any:
        from r2rt.live import SourceOptions

        options = SourceOptions(
            follow=follow,
            realtime=realtime,
            reconnect=None if reconnect_forever else reconnect,
            timeout_s=timeout_s,
            transport=transport,
            clock=clock,
            no_drop=no_drop,
            input_format=input_format,
            input_options=input_options,
            video_track=video_track,
        )
        return command(source_options=options, **others)

    return _with(
        command,
        withsource_options,
        click.option("--follow", is_flag=True, help="SOURCE is a file that grows."),
        click.option("--realtime", is_flag=True, help="SOURCE is a file; play it at its own rate."),
        click.option(
            "--reconnect",
            type=click.IntRange(min=0),
            default=10,
            show_default=True,
            help="How often in a row to try to reconnect to a lost source.",
        ),
        click.option("--reconnect-forever", is_flag=True, help="Try to reconnect without end."),
        click.option(
            "--timeout",
            "timeout_s",
            type=TIME,
            help="How long a source may send nothing.  [default: 10s on the network, 60s there for "
            "playlists (HLS, DASH), else no limit]",
        ),
        click.option(
            "--transport",
            type=click.Choice(["tcp", "udp"]),
            default="tcp",
            show_default=True,
            help="How RTSP sends its packets.",
        ),
        click.option(
            "--clock",
            type=click.Choice(["auto", "stream", "arrival"]),
            default="auto",
            show_default=True,
            help="Use the stream's timestamps, or the time of arrival.",
        ),
        click.option(
            "--no-drop",
            is_flag=True,
            help="Never drop frames, but let the source wait; for recordings, not cameras.",
        ),
        click.option("--input-format", metavar="NAME", help="FFmpeg's name of SOURCE's format."),
        click.option(
            "--input-option",
            "input_options",
            multiple=True,
            callback=_pairs,
            metavar="NAME=VALUE",
            help="An option of FFmpeg for opening SOURCE; repeatable.",
        ),
        click.option(
            "--video-track",
            type=click.IntRange(min=1),
            metavar="N",
            help="Read the Nth video track of SOURCE.  [default: the default track]",
        ),
    )


def tracker_options(command: F) -> F:
    """Add when moments open and close; the command gets it as `rules: TrackerRules`."""

    @functools.wraps(command)
    def with_rules(
        *,
        min_score: float,
        keep_score: float | None,
        open_after: int,
        close_after: int,
        **others: Any,
    ) -> Any:
        from r2rt.live import TrackerRules

        rules = TrackerRules(
            min_score=min_score,
            keep_score=keep_score,
            open_after=open_after,
            close_after=close_after,
        )
        return command(rules=rules, **others)

    return _with(
        command,
        with_rules,
        click.option(
            "--min-score",
            type=click.FloatRange(0, 1),
            default=0.5,
            show_default=True,
            help="The score at which a moment opens.",
        ),
        click.option(
            "--keep-score",
            type=click.FloatRange(0, 1),
            help="The score at which an open moment stays open.  [default: 0.8 of --min-score]",
        ),
        click.option(
            "--open-after",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="A moment opens after so many answers in a row with it.",
        ),
        click.option(
            "--close-after",
            type=click.IntRange(min=1),
            default=3,
            show_default=True,
            help="A moment closes after so many answers in a row without it, or with its end "
            "unchanged.",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Arguments of `Watcher`: what is asked how often, and when the watch ends."""

    window_s: float | None
    every_s: float | None
    top_k: int | None
    changes: bool
    duration_s: float | None
    until: float | None


def pace_options(command: F) -> F:
    """Add what is asked how often, and until when; the command gets it as `pace: Pace`."""

    @functools.wraps(command)
    def with_pace(**others: Any) -> Any:
        names = [field.name for field in dataclasses.fields(Pace)]
        pace = Pace(**{name: others.pop(name) for name in names})
        return command(pace=pace, **others)

    return _with(
        command,
        with_pace,
        click.option(
            "--top-k", type=click.IntRange(min=1), help="The most moments followed for each query."
        ),
        click.option(
            "--window",
            "window_s",
            type=TIME,
            help="How much of the stream is searched, up to now.  [default: the model's window]",
        ),
        click.option(
            "--every",
            "every_s",
            type=TIME,
            help="The interval between two searches.  [default: one clip]",
        ),
        click.option("--changes", is_flag=True, help="Report changes of open moments, too."),
        click.option(
            "--duration", "duration_s", type=TIME, help="End after so much of the stream."
        ),
        click.option("--until", type=_PointInTime(), help="End at this time, e.g. 18:30."),
    )


@dataclass(frozen=True, kw_only=True)
class EventOptions:
    """Where events go."""

    format_: Literal["lines", "jsonl"]
    output: str | None
    webhook: str | None
    webhook_headers: dict[str, str]


def event_options(command: F) -> F:
    """Add where events go; the command gets it as `events: EventOptions`."""

    @functools.wraps(command)
    def with_events(**others: Any) -> Any:
        check_has_use("webhook_headers", "--webhook", given=others["webhook"] is not None)
        json_ = others.pop("json_")
        others["format_"] = format_or_json(others["format_"], json_, means="jsonl")
        names = [field.name for field in dataclasses.fields(EventOptions)]
        events = EventOptions(**{name: others.pop(name) for name in names})
        return command(events=events, **others)

    return _with(
        command,
        with_events,
        click.option(
            "--format",
            "-f",
            "format_",
            type=click.Choice(["lines", "jsonl"]),
            default="lines",
            show_default=True,
            help="How events are printed.",
        ),
        click.option("--json", "json_", is_flag=True, help="Short for --format jsonl."),
        click.option(
            "--output", "-o", type=click.Path(), help="Append events to this file, one JSON a line."
        ),
        click.option("--webhook", metavar="URL", help="POST events here, one JSON a request."),
        click.option(
            "--webhook-header",
            "webhook_headers",
            multiple=True,
            callback=_pairs,
            metavar="NAME:VALUE",
            help="A header of these requests; repeatable.",
        ),
    )


def _with(_: F, wrapped: Any, *options: Callable[[Any], Any]) -> F:
    """Return the wrapped command with options, in the order of the help."""
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]
