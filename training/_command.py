"""How the development commands run: errors become one line on stderr, and an exit code."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import NoReturn

import click

from r2rt.errors import R2rtError

__all__ = ["end_cleanly_on_sigterm", "run"]


def run(command: click.Command, name: str, arguments: Sequence[str] | None, *, cut: str) -> int:
    """Run a command and return its exit code.

    Args:
        command: what is run; a value that it returns, an int, is its exit code.
        name: how it was called, such as `python -m training.data`.
        arguments: what follows the name; the process's own if None.
        cut: what an interruption has left, for the person who interrupted.
    """
    try:
        code = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"Interrupted: {cut}", err=True)
        return 130
    except R2rtError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    return code if isinstance(code, int) else 0


def end_cleanly_on_sigterm() -> None:
    """Let SIGTERM end the process like Ctrl-C, so that half-written files are removed."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
