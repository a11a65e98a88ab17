"""Options that several commands share."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from r2rt.engines import DEVICES, PRECISIONS, Precision
from r2rt.errors import QueryError
from r2rt.grounding.many import kind_of
from r2rt.grounding.options import EncodeOptions
from r2rt.memory import MAX_MEMORY_VARIABLE, parse_bytes
from r2rt.timecode import parse_time
from r2rt.video import DECODERS

__all__ = [
    "TIME",
    "Encoding",
    "asked_precision",
    "check_has_use",
    "encoding_options",
    "format_or_json",
    "is_given",
    "is_model_named",
    "is_yes_given",
    "library_model_options",
    "model_options",
    "quiet_option",
    "verbose_option",
    "window_options",
]

if TYPE_CHECKING:
    from r2rt.grounding.windows import WindowLength

F = TypeVar("F", bound=Callable[..., Any])

_YES = "r2rt.yes"
_PRECISION = "r2rt.precision"


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


_DEFAULT_MODEL = "qvhighlights or another installed one, else the demo model"


def model_options(command: F, *, default: str = _DEFAULT_MODEL) -> F:
    """Add `--model`, `--precision`, `--yes` and `--device`; the command gets the first and last.

    `is_yes_given` and `asked_precision` return the others.

    Args:
        command: the command.
        default: what the help says of the default model.
    """
    command = click.option(
        "--device",
        type=click.Choice(DEVICES),
        default="auto",
        show_default=True,
        help="The device that the model runs on.",
    )(command)
    command = click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="auto",
        show_default=True,
        expose_value=False,
        callback=_remember_precision,
        help="Which form of the model; `auto` measures whether its int8 form, if installed, is "
        "faster on this CPU, `fp32` gives the authors' numbers to the digit.",
    )(command)
    command = click.option(
        "--yes",
        is_flag=True,
        expose_value=False,
        callback=_remember_yes,
        help="Fetch the model without a question if it is a published one and not installed.",
    )(command)
    return click.option(
        "--model",
        "-m",
        envvar="R2RT_MODEL",
        help="An installed model's name or a bundle's folder; also R2RT_MODEL.  "
        f"[default: {default}]",
    )(command)


def library_model_options(command: F) -> F:
    """Add the options of `model_options` to a command about a library; see `is_model_named`."""
    return model_options(command, default=f"the library's own; for a new library {_DEFAULT_MODEL}")


def is_model_named() -> bool:
    """Return whether `--model` stands on the running command's line.

    A library takes its own model otherwise: one that the environment or a file of defaults names
    is for other uses, and the library would be refused with it.
    """
    return is_given("model")


def is_given(name: str) -> bool:
    """Return whether a parameter stands on the command line, and not in the environment or file."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def format_or_json(format_: str | None, json: bool, *, means: str) -> str | None:
    """Return the format of `--format` and `--json`; the command line goes before a default.

    Args:
        format_: the value of `--format`.
        json: the value of `--json`.
        means: the format that `--json` stands for.

    Raises:
        QueryError: both are given and differ.
    """
    if not json or (is_given("format_") and not is_given("json_")):
        return format_
    if is_given("format_") and format_ != means:
        raise QueryError(f"--json and --format {format_}: give one of them")
    return means


def check_has_use(name: str, needed: str, *, given: bool) -> None:
    """Refuse an option that stands on the command line without the one that it belongs to.

    A default from the user's file is left alone: it waits for that option.

    Args:
        name: the parameter's name.
        needed: the option that it belongs to, such as `--ray`.
        given: whether that one is given.

    Raises:
        QueryError: it would do nothing.
    """
    if given or not is_given(name):
        return
    parameters = click.get_current_context().command.params
    option = next(item.opts[0] for item in parameters if item.name == name)
    raise QueryError(f"{option} does nothing without {needed}; give that too, or leave it out")


def is_yes_given() -> bool:
    """Return whether the running command was given `--yes`."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(_YES, False) is True


def asked_precision() -> Precision:
    """Return the `--precision` of the running command."""
    context = click.get_current_context(silent=True)
    asked: Precision = "auto" if context is None else context.meta.get(_PRECISION, "auto")
    return asked


def _remember_precision(context: click.Context, _: click.Parameter, precision: str) -> None:
    context.meta[_PRECISION] = precision


def _remember_yes(context: click.Context, _: click.Parameter, yes: bool) -> None:
    context.meta[_YES] = yes


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How videos are encoded.

    Attributes:
        options: keyword arguments of `Grounder.encode`.
        given: those options that stand on the command line.
    """

    options: EncodeOptions
    given: tuple[str, ...] = ()

    def options_for(self, video: str) -> EncodeOptions:
        """Return the options without a default of the user's file that no such source has."""
        idle = "video_track" if kind_of(video) == "folder" else "source_fps"
        kept = {
            name: value
            for name, value in self.options.items()
            if name != idle or name in self.given
        }
        return cast("EncodeOptions", kept)


def encoding_options(command: F) -> F:
    """Add which frames and which part of a video are read; the command gets them as `encoding`."""

    @functools.wraps(command)
    def with_encoding(*arguments: Any, **others: Any) -> Any:
        names = [name for name in EncodeOptions.__annotations__ if name in others]
        options: dict[str, Any] = {name: others.pop(name) for name in names}
        given = tuple(name for name in names if is_given(name))
        if options.get("sampling") != "nearest" and "tolerance_s" not in given:
            options["tolerance_s"] = None  # a default of the user's file
        encoding = Encoding(options=cast("EncodeOptions", options), given=given)
        return command(*arguments, encoding=encoding, **others)

    for option in (
        click.option(
            "--max-memory",
            metavar="SIZE",
            expose_value=False,
            callback=_limit_memory,
            help="The most memory that an encoded video may take, e.g. 4G; also R2RT_MAX_MEMORY.  "
            "[default: half of the machine's memory]",
        ),
        click.option(
            "--skip-similar",
            type=click.FloatRange(0, 255),
            default=0.0,
            metavar="LEVELS",
            help="Do not encode a frame that differs from the last one encoded by at most so many "
            "levels of 255 in every 8 x 8 block; the number of skipped frames is reported.  "
            "[default: 0, only equal frames]",
        ),
        click.option(
            "--compact",
            is_flag=True,
            help="Keep the encoding in a twentieth of the bytes: similar patches are merged, and "
            "numbers have four bits. Answers depart a little from the exact ones.",
        ),
        click.option(
            "--video-track",
            type=click.IntRange(min=1),
            metavar="N",
            help="Read the Nth video track of a file.  [default: the file's default track]",
        ),
        click.option(
            "--decoder",
            type=click.Choice(DECODERS),
            default="auto",
            show_default=True,
            help="The decoder of videos; `auto` measures whether the hardware's is faster.",
        ),
        click.option("--end", "end_s", type=TIME, help="Read up to this time, e.g. 5m."),
        click.option("--start", "start_s", type=TIME, help="Read from this time on, e.g. 1:15.5."),
        click.option("--source-fps", type=float, help="Frame rate of a folder of images, e.g. 2."),
        click.option(
            "--tolerance",
            "tolerance_s",
            type=float,
            help="With --sampling nearest: the largest distance of a frame from the exact one, in "
            "seconds.  [default: half a clip]",
        ),
        click.option(
            "--sampling",
            type=click.Choice(["exact", "nearest"]),
            default="exact",
            show_default=True,
            help="Decode the exact frame of each clip, or the cheapest one near it.",
        ),
    ):
        with_encoding = option(with_encoding)
    return with_encoding  # type: ignore[return-value]


def _limit_memory(context: click.Context, option: click.Parameter, size: str | None) -> None:
    """Set the limit for this process and its workers; a default gives way to the environment's."""
    given = context.get_parameter_source(option.name or "")
    if given is not click.core.ParameterSource.COMMANDLINE and os.environ.get(MAX_MEMORY_VARIABLE):
        return
    if size is not None:
        parse_bytes(size, what="--max-memory")
        os.environ[MAX_MEMORY_VARIABLE] = size


def window_options(command: F) -> F:
    """Add `--window` and `--overlap`; see `Grounder.ground`."""

    @functools.wraps(command)
    def with_window(
        *arguments: Any, window: WindowLength, overlap: float | None, **others: Any
    ) -> Any:
        if window is None and not is_given("overlap"):
            overlap = None  # a default of the user's file has no use here
        return command(*arguments, window=window, overlap=overlap, **others)

    with_overlap = click.option(
        "--overlap",
        type=TIME,
        help="How much two windows overlap.  [default: half a window]",
    )(with_window)
    return click.option(
        "--window",
        type=_WindowLength(),
        default="auto",
        show_default=True,
        help="Length of the windows that longer videos are split into; auto: the training length.",
    )(with_overlap)  # type: ignore[return-value]


def quiet_option(command: F) -> F:
    """Add `--quiet`."""
    help_ = "Print no progress and no notes, only warnings."
    return click.option("--quiet", is_flag=True, help=help_)(command)


def verbose_option(command: F) -> F:
    """Add `--verbose`, which prints what the library logs; the command does not get it."""
    return click.option(
        "--verbose",
        "-v",
        is_flag=True,
        expose_value=False,
        callback=_start_logging,
        help="Print the frames decoded, their cost, and the time of each stage.",
    )(command)


def _start_logging(context: click.Context, _: click.Parameter, verbose: bool) -> None:
    if verbose:
        logger = logging.getLogger("r2rt")
        context.call_on_close(functools.partial(logger.setLevel, logger.level))
        logger.setLevel(logging.INFO)
