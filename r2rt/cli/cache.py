"""`r2rt cache`: show and clear what is kept between runs."""

from __future__ import annotations

import contextlib
import os
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
    "kernels": "kernels as export compiled them",
    "devices": "which device, and which form of a model, was measured to be faster",
    "decoders": "which decoder was measured to be faster",
    "verified": "which models were compared with their hashes",
    "clip": "CLIP's weights as they were fetched, to convert published models",
}


@click.group()
def cache() -> None:
    """Show or clear the caches; r2rt makes or fetches their content again when needed."""


@cache.command()
def info() -> None:
    """Show where the caches are and how large they are."""
    from r2rt.cache import cache_dir

    rows = [(name, _size_text(_folder(name)), what) for name, what in _PARTS.items()]
    write_text(None, f"{cache_dir()}\n")
    print_table(("part", "size", "what it keeps"), rows)


@cache.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(_PARTS)))
def clear(parts: tuple[str, ...]) -> None:
    """Remove the named PARTS; without any, everything but `clip`, which is a download."""
    from r2rt.cache import cache_dir
    from r2rt.files import remove_orphans

    remove_orphans(cache_dir())
    for name in parts or tuple(name for name in _PARTS if name != "clip"):
        folder = _folder(name)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"{folder}: cannot be removed ({error.strerror or error})") from error


def _folder(name: str) -> Path:
    from r2rt.cache import cache_dir
    from r2rt.model.convert.clip_files import clip_folder

    return clip_folder() if name == "clip" else cache_dir() / name


def _size_text(folder: Path) -> str:
    """Return the size of all files, or why the folder cannot be read."""
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        return "0.0 MB"
    except OSError as error:
        return error.strerror or str(error)
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it vanished meanwhile
                total += os.lstat(Path(parent) / name).st_size
    return f"{total / 1e6:.1f} MB"
