"""`r2rt cache`: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from r2rt.cli.console import print_table, write_text
from r2rt.errors import OutputError

__all__ = ["cache"]

_PARTS = {
    "encodings": "videos as models see them, so that asking again decodes nothing",
    "graphs": "models as optimised for this machine, so that they open fast",
    "engines": "what TensorRT found to be fast on this GPU",
    "verified": "which models were compared with their hashes",
}


@click.group()
def cache() -> None:
    """Show or clear what is kept between runs; all of it is made again when needed."""


@cache.command()
def info() -> None:
    """Tell where the caches are and how large."""
    from r2rt.cache import cache_dir

    root = cache_dir()
    rows = [(name, f"{_size(root / name) / 1e6:.1f} MB", what) for name, what in _PARTS.items()]
    write_text(None, f"{root}\n")
    print_table(("part", "size", "what it keeps"), rows)


@cache.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(_PARTS)))
def clear(parts: tuple[str, ...]) -> None:
    """Remove the named PARTS, or everything."""
    from r2rt.cache import cache_dir
    from r2rt.files import remove_orphans

    remove_orphans(cache_dir())
    for name in parts or tuple(_PARTS):
        folder = cache_dir() / name
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"{folder}: cannot be removed ({error.strerror})") from error


def _size(folder: Path) -> int:
    """Return the bytes of all files; those that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
