"""Options that several commands share, and how a source is read under them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r2rt.engines.choice import DEVICES
from r2rt.errors import QueryError
from r2rt.memory import MAX_MEMORY_VARIABLE, parse_bytes
from r2rt.timecode import parse_time

__all__ = [
    "TIME",
    "encoding_options",
    "model_options",
    "quiet_option",
    "verbose_option",
    "window_options",
]

if TYPE_CHECKING:
    from r2rt.grounding.windows import WindowLength

F = TypeVar("F", bound=Callable[..., Any])


class _Time(click.ParamType[float]):
    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return parse_time(value)
        except QueryError as error:
            self.fail(str(error), param, ctx)


class _WindowLength(click.ParamType["WindowLength"]):
    name = "SECONDS|auto|none"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> WindowLength:
        if value == "auto":
            return "auto"
        return None if value == "none" else TIME.convert(value, param, ctx)


TIME = _Time()


def model_options(command: F) -> F:
    """Add `--model` and `--device`."""
    command = click.option(
        "--device",
        type=click.Choice(DEVICES),
        default="auto",
        show_default=True,
        help="What to run on.",
    )(command)
    return click.option("--model", "-m", help="An installed model's name or a bundle's folder.")(
        command
    )


def encoding_options(command: F) -> F:
    """Add how frames are chosen and which part of the video is read."""
    for option in (
        click.option(
            "--max-memory",
            metavar="SIZE",
            expose_value=False,
            callback=_limit_memory,
            help="The most that an encoded video may take, e.g. 4G, also as R2RT_MAX_MEMORY.  "
            "[default: half of the machine's memory]",
        ),
        click.option(
            "--skip-similar",
            type=click.FloatRange(0, 255),
            default=0.0,
            metavar="LEVELS",
            help="Do not encode a frame that differs from the last one encoded by at most so many "
            "levels of 255 in every 8 x 8 block; what was skipped is reported.  "
            "[default: 0, equal frames alone]",
        ),
        click.option("--end", "end_s", type=TIME, help="Read no further, e.g. 5m."),
        click.option("--start", "start_s", type=TIME, help="Read from here, e.g. 1:15.5."),
        click.option("--source-fps", type=float, help="Images a second of a folder of images."),
        click.option(
            "--tolerance",
            "tolerance_s",
            type=float,
            help="How far a nearest frame may be, in seconds.  [default: half a clip]",
        ),
        click.option(
            "--sampling",
            type=click.Choice(["exact", "nearest"]),
            default="exact",
            show_default=True,
            help="Take the very frame of each clip, or the cheapest near it.",
        ),
    ):
        command = option(command)
    return command


def _limit_memory(_: click.Context, __: click.Parameter, size: str | None) -> None:
    """Hand the limit to whatever encodes videos in this process and in its workers."""
    if size is not None:
        parse_bytes(size, what="--max-memory")
        os.environ[MAX_MEMORY_VARIABLE] = size


def window_options(command: F) -> F:
    """Add how a long video is split: `window` and `overlap` of `Grounder.ground`."""
    command = click.option(
        "--overlap",
        type=TIME,
        help="What two windows have in common.  [default: half a window]",
    )(command)
    return click.option(
        "--window",
        type=_WindowLength(),
        default="auto",
        show_default=True,
        help="Split longer videos into windows of this length; auto: as the model was trained.",
    )(command)


def quiet_option(command: F) -> F:
    """Add `--quiet`."""
    return click.option("--quiet", is_flag=True, help="No progress and no notes; warnings stay.")(
        command
    )


def verbose_option(command: F) -> F:
    """Add `--verbose`, which starts logging to stderr and hands nothing to the command."""
    return click.option(
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_start_logging,
        help="Tell what is decoded, what it costs, and what takes time.",
    )(command)


def _start_logging(_: click.Context, __: click.Parameter, verbose: bool) -> None:
    if verbose:
        logging.getLogger("r2rt").setLevel(logging.INFO)
