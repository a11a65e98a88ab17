"""`r2rt`: the commands, their help, and how errors end them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

import click

from r2rt.cli.config import config_path, defaults_of, read_config
from r2rt.cli.console import complain
from r2rt.cli.session import show_log
from r2rt.errors import NotInVideoError, QueryError, R2rtError, exit_codes
from r2rt.grounding.many import kind_of
from r2rt.portable import terminations_interrupt

__all__ = ["cli", "run"]

# A command's module is imported when the command is run, not before.
_COMMANDS = {
    "ground": "r2rt.cli.ground",
    "highlights": "r2rt.cli.highlights",
    "summarize": "r2rt.cli.summarize",
    "watch": "r2rt.cli.watch",
    "serve": "r2rt.cli.serve",
    "tokens": "r2rt.cli.tokens",
    "mcp": "r2rt.cli.mcp",
    "encode": "r2rt.cli.encode",
    "index": "r2rt.cli.index",
    "search": "r2rt.cli.search",
    "library": "r2rt.cli.library",
    "models": "r2rt.cli.models",
    "cache": "r2rt.cli.cache",
    "doctor": "r2rt.cli.doctor",
}
_SUMMARIES = {
    "ground": "Find the moments of a video that match a sentence.",
    "highlights": "Find the highlights of a video.",
    "summarize": "Choose the shots that summarise a video.",
    "watch": "Report when moments start and end in live video.",
    "serve": "Serve an HTTP API and a page.",
    "tokens": "Make, list and remove tokens of the service.",
    "mcp": "Give an agent tools over videos, by stdin and stdout.",
    "encode": "Encode a video once and query it many times.",
    "index": "Add videos to a library, and keep it up to date.",
    "search": "Find moments in all videos of a library.",
    "library": "Show, check and compact a library, remove videos from it.",
    "models": "List, fetch, check and remove models.",
    "cache": "Show or clear the caches.",
    "doctor": "Show what is installed and which backend would run.",
}
_EXAMPLES = (
    ('r2rt ground talk.mp4 "a dog"', "the moments of one video"),
    ('r2rt ground *.mp4 -q "a dog" --rank', "the best moments of several"),
    ("r2rt highlights match.mp4 --clips best/", "files of the highlights"),
    ("r2rt summarize film.mp4 --length 60s --reel short.mp4", "a shorter film"),
    ('r2rt search library "a dog"', "a library of videos, see r2rt index"),
    ('r2rt watch rtsp://camera/stream "a person falls"', "live video"),
)
_TIMES = "Times are seconds (90, 90s), 1:15, 1:02:03.5, 5m, 1h or 250ms."
_VARIABLES = {
    "R2RT_CONFIG": "File of defaults for options, in TOML: [ground], top-k = 3; [defaults] holds "
    "for all commands.  [config.toml in the user's configuration folder]",
    "R2RT_MODEL": "The model to use without --model, by name or folder.",
    "R2RT_HOME": "Where models are installed.",
    "R2RT_CACHE": "Where encoded videos and prepared models are kept.",
    "R2RT_CACHE_BYTES": "How much encoded videos may take there.  [4G]",
    "R2RT_MAX_MEMORY": "The most memory that an encoded video may take.",
    "R2RT_SPOOL_BYTES": "The most that is copied from a pipe.  [16G]",
    "R2RT_DEBUG": "1 shows the traceback of an error.",
    "NO_COLOR": "Set: no colours.",
}
_COMPLETION = {
    "bash": 'eval "$(_R2RT_COMPLETE=bash_source r2rt)"   in ~/.bashrc',
    "zsh": 'eval "$(_R2RT_COMPLETE=zsh_source r2rt)"   in ~/.zshrc',
    "fish": "_R2RT_COMPLETE=fish_source r2rt | source   in ~/.config/fish/completions/r2rt.fish",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return _load(name) if name in _COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise _no_such_command(error.command_name, ctx) from None
        config = read_config()
        if config and name is not None and command is not None:
            unknown = [title for title in config if title not in (*_COMMANDS, "defaults")]
            if unknown:
                raise QueryError(
                    f"{config_path()}: [{unknown[0]}]: there is no such command; expected "
                    f"defaults, {', '.join(_COMMANDS)}"
                )
            defaults = defaults_of(config, name, command, lambda: map(_load, _COMMANDS))
            ctx.default_map = {name: defaults}
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for command, what in _EXAMPLES:
                formatter.write(f"  {command}   {what}\n")
        with formatter.section("Times"):
            formatter.write_text(_TIMES)
        with formatter.section("Environment"):
            formatter.write_dl(list(_VARIABLES.items()))
        with formatter.section("Shell completion"):
            for shell, line in _COMPLETION.items():
                formatter.write(f"  {shell}: {line}\n")
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in exit_codes().items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="r2rt", message="%(prog)s %(version)s")
def cli() -> None:
    """Find moments in videos from a sentence."""
    show_log()


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; an expected error is one line on stderr."""
    try:
        with terminations_interrupt():
            result = cli.main(args=list(arguments), prog_name="r2rt", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:  # its message is the help
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        _show_usage(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return 130
    except NotInVideoError as answer:
        complain(str(answer))  # an answer, not an error
        return answer.exit_code
    except R2rtError as error:
        complain(f"error: {error}")
        return error.exit_code
    except Exception as error:
        if os.environ.get("R2RT_DEBUG"):
            raise
        line = str(error).strip().partition("\n")[0]
        complain(
            f"internal error: {type(error).__name__}: {line}; "
            "please report it with the traceback that R2RT_DEBUG=1 shows"
        )
        return 1
    return result if isinstance(result, int) else 0


def _show_usage(error: click.ClickException) -> None:
    """Print how a command is used, and what was wrong, on one line."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(
            f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} -h' for help.", err=True
        )
    complain(f"error: {error.format_message()}")


def _no_such_command(name: str, ctx: click.Context) -> click.UsageError:
    if kind_of(name) is not None:
        return click.UsageError(
            f'{name!r} is a file or folder, not a command; write r2rt ground {name} "a sentence"',
            ctx,
        )
    return click.exceptions.NoSuchCommand(name, possibilities=_COMMANDS, ctx=ctx)


def _load(name: str) -> click.Command:
    command: click.Command = getattr(importlib.import_module(_COMMANDS[name]), name)
    return command
