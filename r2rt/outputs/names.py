"""Names of files that are written about videos: told apart, whatever the videos are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["output_stems"]


def output_stems(videos: Sequence[str]) -> list[str]:
    """Return a file name without ending for each video.

    It is the video's own without ending, or with it where that is the same for several, or with
    the folders that lead there, or with a number. Capitals tell no files apart, as on most discs
    of cameras and people.
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
    return _numbered(names)


def _numbered(names: Sequence[str]) -> list[str]:
    used: set[str] = set()
    numbered = []
    for plain in names:
        name, number = plain, 2
        while name.casefold() in used:
            name, number = f"{plain}-{number}", number + 1
        used.add(name.casefold())
        numbered.append(name)
    return numbered
