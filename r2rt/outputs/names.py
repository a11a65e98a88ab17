"""Distinct names of output files, whatever the videos are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["numbered", "output_stems"]

# A name has 255 bytes at most in every usual file system; endings and numbers need some.
_MOST_BYTES = 200


def output_stems(videos: Sequence[str]) -> list[str]:
    """Return a file name without suffix for each video.

    It is the video's own without suffix. Where several would be equal, it is the name with suffix,
    or with the folders that lead there, or with a number. Names differ by more than capitals, which
    many file systems ignore. Very long names are cut.
    """
    paths = [Path(video).absolute() for video in videos]
    ways: tuple[Callable[[Path], str], ...] = (
        lambda path: path.stem or "video",
        lambda path: path.name or "video",
        lambda path: "_".join(path.parts[1:]) or "video",
    )
    names = [ways[0](path) for path in paths]
    for way in ways[1:]:
        count = Counter(name.casefold() for name in names)
        names = [
            name if count[name.casefold()] == 1 else way(path)
            for name, path in zip(names, paths, strict=True)
        ]
    return numbered([_cut(name) for name in names])


def numbered(names: Sequence[str]) -> list[str]:
    """Return distinct names, capitals ignored: a repeated one gets a number."""
    used: set[str] = set()
    numbered = []
    for plain in names:
        name, number = plain, 2
        while name.casefold() in used:
            name, number = f"{plain}-{number}", number + 1
        used.add(name.casefold())
        numbered.append(name)
    return numbered


def _cut(name: str) -> str:
    bytes_ = os.fsencode(name)
    if len(bytes_) <= _MOST_BYTES:
        return name
    return bytes_[:_MOST_BYTES].decode(errors="ignore").rstrip()
