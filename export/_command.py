"""How the development commands run: errors become one line on stderr, and an exit code."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from export._checkout import WrongPackageError

__all__ = ["end_cleanly_on_sigterm", "run"]


def run(command: click.Command, script: str, arguments: Sequence[str] | None, *, cut: str) -> int:
    """Run a command and return its exit code.

    Args:
        command: what is run.
        script: its file.
        arguments: what follows the script; the process's own if None.
        cut: what an interruption has left, for the person who interrupted.
    """
    from r2rt.errors import R2rtError

    try:
        command.main(args=arguments, prog_name=Path(script).name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"Interrupted: {cut}", err=True)
        return 130
    except (R2rtError, WrongPackageError) as error:
        click.echo(f"Error: {error}", err=True)
        return getattr(error, "exit_code", 1)
    return 0


def end_cleanly_on_sigterm() -> None:
    """Let SIGTERM end the process like Ctrl-C, so that what is half written is removed."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
