"""Videos from standard input, pipes and `<(command)`: copied to a temporary file, then read."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import click

from r2rt.cli.console import progress
from r2rt.errors import OutputError, QueryError
from r2rt.files import as_text
from r2rt.memory import parse_bytes
from r2rt.portable import has_input

__all__ = ["LIMIT_VARIABLE", "spooled"]

LIMIT_VARIABLE = "R2RT_SPOOL_BYTES"
_DEFAULT_LIMIT = "16G"
_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2


def spooled(sources: Iterable[str], *, quiet: bool) -> list[tuple[str, str]]:
    """Return where each source can be read, a pipe from a temporary file, and its own name.

    A decoder must go back and forth in a video, which a pipe does not allow. The copies are removed
    when the command ends. A copy has a size limit, `$R2RT_SPOOL_BYTES` or 16 GB.

    Raises:
        QueryError: a source is a device or a socket, standard input is a terminal or is named
            twice, or a pipe holds more than the limit.
        OutputError: the disk is full.
    """
    paths: list[tuple[str, str]] = []
    sources = list(sources)
    if sources.count("-") > 1:
        raise QueryError("-: standard input is one video; name it once")
    for source in sources:
        kind = "pipe" if source == "-" else _special_kind(source)
        if kind is None:
            paths.append((source, source))
        elif kind == "pipe":
            paths.append((_copy(source, quiet=quiet), source))
        else:
            raise QueryError(
                f"{source} is a {kind}, not a video file; r2rt watch reads cameras and streams"
            )
    return paths


def _special_kind(source: str) -> str | None:
    """Return what a path is if it is neither a file, nor a folder, nor absent."""
    try:
        mode = os.stat(source).st_mode  # noqa: PTH116  of any text, without an exception
    except (OSError, ValueError):
        return None
    if stat.S_ISFIFO(mode):
        return "pipe"
    if stat.S_ISSOCK(mode):
        return "socket"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None


def _copy(source: str, *, quiet: bool) -> str:
    if source == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise QueryError("-: standard input is a terminal; pipe a video into the command")
    context = click.get_current_context()
    folder = context.with_resource(tempfile.TemporaryDirectory(prefix="r2rt-"))
    path = Path(folder) / ("stdin" if source == "-" else Path(source).name)
    limit = parse_bytes(os.environ.get(LIMIT_VARIABLE) or _DEFAULT_LIMIT, what=LIMIT_VARIABLE)
    try:
        with (
            open(
                sys.stdin.fileno() if source == "-" else source, "rb", 0, closefd=source != "-"
            ) as pipe,
            path.open("wb") as file,
            progress(f"reading {source}", unit="B", quiet=quiet) as update,
        ):
            total = 0
            while chunk := _read(pipe.fileno()):
                total += len(chunk)
                if total > limit:
                    raise QueryError(
                        f"{source}: more than {limit / 1e9:.3g} GB; write it to a file first, "
                        f"raise {LIMIT_VARIABLE}, or use r2rt watch for video that does not end"
                    )
                file.write(chunk)
                update(total, None)
    except OSError as error:
        raise OutputError(
            f"{as_text(source)}: cannot be copied to {path} ({error.strerror}); "
            "TMPDIR chooses another folder"
        ) from error
    return str(path)


def _read(handle: int) -> bytes:
    """Return what a pipe holds, as soon as there is anything; none at its end."""
    # Python acts on Ctrl-C between two calls, not in a read that was about to block.
    while not has_input(handle, _POLL_S):
        pass
    return os.read(handle, _CHUNK_BYTES)
