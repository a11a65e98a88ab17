"""What every command prints with: data to stdout or a file, messages and progress to stderr."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from r2rt.errors import OutputError
from r2rt.files import replacing
from r2rt.portable import output_encoding
from r2rt.printable import printable
from r2rt.progress import Update

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

__all__ = [
    "complain",
    "is_terminal",
    "note",
    "print_table",
    "printable",
    "progress",
    "warn",
    "write_text",
]

_LINE_EVERY_S = 10.0

# The console of the progress bar that is shown: messages go above the bar.
_bar_console: Console | None = None


def complain(text: str) -> None:
    """Print one message on stderr, without control characters."""
    line = f"r2rt: {printable(text)}"
    if _bar_console is not None:
        _bar_console.print(line, markup=False, highlight=False, soft_wrap=True)
    elif sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except BrokenPipeError:  # of `2>&1 | head`; the command and its files go on
            _abandon(sys.stderr)


def note(text: str, *, quiet: bool) -> None:
    """Print a message that is not needed to understand the result; with `quiet`, nothing."""
    if not quiet:
        complain(text)


def warn(text: str) -> None:
    """Print a message that is needed to understand the result; `--quiet` does not silence it."""
    complain(f"warning: {text}")


def is_terminal() -> bool:
    """Return whether stdout is a terminal; a closed one (`>&-`) is not."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout: ruled on a terminal, else aligned columns of plain text.

    Columns without any name have no header line.

    Raises:
        OutputError: stdout cannot be written.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    text = _ruled(columns, cells) if is_terminal() else _aligned(columns, cells)
    write_text(None, text)


@contextlib.contextmanager
def progress(
    description: str, total: int | None = None, unit: str = "", *, quiet: bool = False
) -> Iterator[Update]:
    """Show progress on stderr while the block runs, and yield `update(done, total)`.

    On a terminal it is a bar; elsewhere a line every ten seconds. A block inside of another shows
    nothing, since a terminal has one bar.

    Args:
        description: what is being done, such as `encoding`.
        total: how much there is to do, if it is known before the first update.
        unit: what is counted, such as `clips`; with `B` bytes are shown in MB.
        quiet: show nothing.
    """
    if quiet or sys.stderr is None or _bar_console is not None:
        yield _ignore
    elif sys.stderr.isatty():
        with _bar(description, total, unit) as update:
            yield update
    else:
        yield _sparse_lines(description, unit)


def write_text(path: Path | None, text: str) -> None:
    """Write text to a file, whole or not at all, or to stdout where there is no path.

    It is UTF-8, unless stdout is a terminal, or the user's environment gives it another encoding.
    A path that is a device or a pipe is written to, never replaced. Line ends are written as they
    are on every system: CSV has its own.

    Raises:
        OutputError: disk full, no permission, no such folder.
        click.exceptions.Exit: the reader of stdout has closed it; the command ends without error.
    """
    if path is None:
        _write_stdout(text)
        return
    if path.exists() and not path.is_file():
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
        return
    with replacing(path.resolve()) as temporary:  # a symbolic link stays one
        temporary.write_text(text, encoding="utf-8", newline="")


def _write_stdout(text: str) -> None:
    if sys.stdout is None:
        raise OutputError("standard output is closed; write to a file by --output")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=output_encoding(sys.stdout), newline="")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnicodeEncodeError:
        # Such as `PYTHONIOENCODING=ascii`, or a name that is not UTF-8.
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon(sys.stdout)
        # The reader, such as `head`, needs no more. Click would make it an internal error.
        raise click.exceptions.Exit(0) from None
    except OSError as error:
        _abandon(sys.stdout)
        raise OutputError(
            f"standard output cannot be written ({error.strerror}); free some space, "
            "or write elsewhere"
        ) from error


def _abandon(stream: TextIO) -> None:
    """Send what is still buffered to /dev/null; else writing it fails again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _ruled(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    buffer = io.StringIO()
    width = shutil.get_terminal_size().columns
    console = Console(file=buffer, width=width, force_terminal=True, highlight=False, emoji=False)
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(table)
    return buffer.getvalue()


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(columns), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in (lines if any(columns) else lines[1:])
    )


@contextlib.contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import Progress

    global _bar_console  # noqa: PLW0603  a process has one stderr
    console = Console(stderr=True)
    with Progress(*_columns(unit), console=console, transient=True) as bar:
        task = bar.add_task(printable(description), total=total)

        def update(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        _bar_console = console
        try:
            yield update
        finally:
            _bar_console = None


def _columns(unit: str) -> list[ProgressColumn]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    head: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
    if unit == "B":
        return [*head, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
    return [*head, MofNCompleteColumn(), TextColumn(unit, markup=False), TimeRemainingColumn()]


def _sparse_lines(description: str, unit: str) -> Update:
    last_s = time.monotonic()

    def update(done: int, total: int | None) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s < _LINE_EVERY_S:
            return
        last_s = now_s
        scale, name = (1e6, "MB") if unit == "B" else (1, unit)
        amount = f"{done / scale:.0f}" + ("" if total is None else f" of {total / scale:.0f}")
        complain(f"{description}: {amount} {name}".rstrip())

    return update


def _ignore(done: int, total: int | None) -> None:
    """Show nothing."""
