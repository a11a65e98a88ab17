"""`r2rt`: the commands, and what becomes of an error."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from r2rt.cli.session import show_log
from r2rt.errors import NotInVideoError, R2rtError, exit_codes
from r2rt.portable import terminations_interrupt

__all__ = ["cli", "run"]

# A command's module is imported when the command is run, not before.
_COMMANDS = {
    "ground": "r2rt.cli.ground",
    "highlights": "r2rt.cli.highlights",
    "summarize": "r2rt.cli.summarize",
    "watch": "r2rt.cli.watch",
    "encode": "r2rt.cli.encode",
    "models": "r2rt.cli.models",
    "cache": "r2rt.cli.cache",
    "doctor": "r2rt.cli.doctor",
}
_SUMMARIES = {
    "ground": "Find the moments of a video that fit a sentence.",
    "highlights": "Find what stands out in a video.",
    "summarize": "Choose the shots that summarise a video.",
    "watch": "Tell when moments open and close in live video.",
    "encode": "Encode a video once, to ask it many times.",
    "models": "List, fetch, check and remove models.",
    "cache": "Show or clear what is kept between runs.",
    "doctor": "Tell what is installed and which backend would run.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[name]), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in exit_codes().items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="r2rt", message="%(prog)s %(version)s")
def cli() -> None:
    """Find moments in videos from a sentence."""
    show_log()


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; a foreseen error is one line on stderr."""
    try:
        with terminations_interrupt():
            result = cli.main(args=list(arguments), prog_name="r2rt", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130
    except NotInVideoError as answer:
        _complain(str(answer))  # no fault: an answer
        return answer.exit_code
    except R2rtError as error:
        _complain(f"error: {error}")
        return error.exit_code
    except Exception as error:
        if os.environ.get("R2RT_DEBUG"):
            raise
        line = str(error).strip().partition("\n")[0]
        _complain(
            f"internal error: {type(error).__name__}: {line}; "
            "please report it with the traceback that R2RT_DEBUG=1 shows"
        )
        return 1
    return result if isinstance(result, int) else 0


def _complain(line: str) -> None:
    print(f"r2rt: {line}", file=sys.stderr)
