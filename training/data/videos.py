"""A folder of videos, and which of its files an annotation means."""

from __future__ import annotations

import difflib
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from r2rt.errors import SourceNotFoundError
from r2rt.grounding.many import VIDEO_SUFFIXES

__all__ = ["VideoFolder", "composed", "is_safe_name", "video_id"]

# Those that the runtime finds in a folder, but for videos that are encoded already.
_SUFFIXES = VIDEO_SUFFIXES - {".r2rt"}
# TACoS's files are called after the camera, its annotations are not.
_ENDINGS = ("", "-cam-002")
_MAX_NAME = 240
_Files: TypeAlias = defaultdict[str, list[Path]]


class VideoFolder:
    """The videos below a folder, found by id: a path without its suffix, or a file's name alone.

    Raises:
        SourceNotFoundError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SourceNotFoundError(f"{folder}: no such folder; expected one of videos")
        self.folder = folder
        # Of names as they are written, then of their composed forms.
        self._by_path: tuple[_Files, _Files] = (defaultdict(list), defaultdict(list))
        self._files: tuple[_Files, _Files] = (defaultdict(list), defaultdict(list))
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _SUFFIXES and path.is_file():
                whole = path.relative_to(folder).with_suffix("").as_posix()
                names = whole, path.stem
                for form, (by_path, by_name) in enumerate((names, tuple(map(composed, names)))):
                    self._by_path[form][by_path].append(path)
                    for name in {by_path, by_name}:
                        self._files[form][name].append(path)

    def files(self) -> list[Path]:
        """Return every video, in order."""
        return sorted({path for paths in self._files[0].values() for path in paths})

    def candidates(self, vid: str) -> list[Path]:
        """Return the files that may be meant, in order; more than one is an ambiguity.

        What is a path from the folder on means the file there, whatever else has its name below.
        Where no file is called so, accents may be written the other way, see `composed`.
        """
        for form, name in enumerate((vid, composed(vid))):
            for files in (self._by_path[form], self._files[form]):
                for ending in _ENDINGS:
                    if f"{name}{ending}" in files:
                        return files[f"{name}{ending}"]
        return []

    def duration_s(self, file: Path) -> float | None:
        """Return how long a video file lasts by its header, in seconds; None if it does not say."""
        import av

        try:
            with av.open(str(file)) as container:
                stream = container.streams.video[0]
                if stream.duration is not None and stream.time_base is not None:
                    return float(stream.duration * stream.time_base)
                return None if container.duration is None else container.duration / av.time_base
        except (OSError, ValueError, IndexError, av.FFmpegError):
            return None

    def closest(self, vid: str) -> str | None:
        """Return the id of a video there that is called almost like `vid`."""
        names = difflib.get_close_matches(vid, list(self._files[0]), n=1, cutoff=0.75)
        return names[0] if names else None


def composed(name: str) -> str:
    """Return a name with each accent and its letter as one character, where there is one (NFC).

    macOS writes names of files with accents as characters of their own.
    """
    return unicodedata.normalize("NFC", name)


def video_id(name: str) -> str:
    """Return a video's id: its path without the suffix of a video file."""
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in _SUFFIXES else name


def is_safe_name(name: str) -> bool:
    """Whether a file that is called so stays inside the folder it is put into."""
    path = PurePosixPath(name)
    return (
        # First, since printable text can be encoded.
        name.isprintable()
        and 0 < len(name.encode()) <= _MAX_NAME
        and not path.is_absolute()
        and ".." not in path.parts
        and path.as_posix() == name
        and "\\" not in name
        and name != "."
    )
