"""Many videos: which ones a person means, and one answer after another, whatever some of them are.

for video, answer in ground_many(grounder, find_videos(["recordings/"]), ["a dog runs"]):
    if isinstance(answer, R2rtError):
        print(video, "failed:", answer)
    else:
        print(video, answer[0].moments)
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, Unpack

from r2rt.errors import OutputError, QueryError, R2rtError, SourceNotFoundError
from r2rt.grounding.options import GroundOptions, check_names

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction

__all__ = [
    "VIDEO_SUFFIXES",
    "answer_each",
    "find_videos",
    "ground_many",
    "kind_of",
    "matches",
    "names_several",
    "read_video_list",
]

T = TypeVar("T")

# What is taken for a video in a folder. A file that is named is read whatever it is called.
VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
        *(".mts", ".mxf", ".ogv", ".r2rt", ".ts", ".vob", ".webm", ".wmv"),
    )
)
_MPEG_TS_BEGINS = b"\x47"  # TypeScript has the same ending


def find_videos(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the videos that files, folders and globs stand for, each once, in a fixed order.

    A folder of images is one video, as in `Grounder.encode`. A folder that holds videos stands for
    them, and for those in the folders below it; images beside them are left alone. Globs take `*`,
    `?`, `[…]`, and `**` for any folders. What a folder or glob stands for comes in natural order:
    `clip 2` before `clip 10`. A file that is not there is returned too, for whoever reads it to
    tell.

    Raises:
        SourceNotFoundError: a folder holds neither videos nor images, or a glob fits nothing.
    """
    videos: dict[Path, str] = {}
    for source in sources:
        for video in _stands_for(os.fspath(source)):
            videos.setdefault(Path(video).resolve(), video)
    return list(videos.values())


def names_several(source: str) -> bool:
    """Return whether a source is a glob or a folder of videos, whatever number that comes to."""
    if kind_of(source) == "folder":
        return not _is_one_video(Path(source))
    return _is_glob(source)


def kind_of(source: str) -> Literal["file", "folder"] | None:
    """Return what is at a path; None for nothing, and for texts that could be no path."""
    try:
        path = Path(source)
        return "folder" if path.is_dir() else "file" if path.exists() else None
    except (OSError, ValueError):  # such as a name too long
        return None


def matches(pattern: str) -> list[str]:
    """Return the files and folders that a glob fits, in natural order."""
    # Patterns may be absolute, which those of pathlib may not.
    return sorted(glob.glob(pattern, recursive=True), key=_natural)  # noqa: PTH207


def read_video_list(path: str | os.PathLike[str]) -> list[str]:
    """Return the sources that a text file names, one a line; `-` is standard input.

    Blank lines and lines that begin with `#` are left out. Relative paths are relative to where
    the process runs, as those that `find` writes are.

    Raises:
        SourceNotFoundError: the file cannot be read.
        QueryError: it is no text, or names nothing.
    """
    try:
        if os.fspath(path) == "-":
            text = sys.stdin.read()
        else:
            text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceNotFoundError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise QueryError(f"{path}: no list of videos, since it is not UTF-8 text") from error
    lines = [line.strip() for line in text.splitlines()]
    sources = [line for line in lines if line and not line.startswith("#")]
    if not sources:
        raise QueryError(f"{path}: no videos in it; write one path a line")
    return sources


def ground_many(
    grounder: Grounder,
    videos: Iterable[str | os.PathLike[str]],
    queries: Sequence[str],
    **options: Unpack[GroundOptions],
) -> Iterator[tuple[str, list[Prediction] | R2rtError]]:
    """Ask every video the same queries; yield its predictions, or why there are none.

    Args:
        grounder: the session; its model is loaded once.
        videos: files, folders of images, or what `EncodedVideo.save` wrote; see `find_videos`.
        queries: sentences; they are encoded once.
        options: keyword arguments of `Grounder.ground`.

    Yields:
        The video as it was given, and one prediction a query in order, or an error.

    Raises:
        QueryError: a query is empty, or windows of such a length or overlap make no sense.
        OutputError: the disk is full.
    """
    from r2rt.grounding.encoded import EncodedVideo, is_encoded_video

    check_names("ground_many", options, GroundOptions)
    grounder.encode_queries(queries)
    grounder.window_size(options.get("window", "auto"), options.get("overlap"))

    def answer(video: str) -> list[Prediction]:
        source = EncodedVideo.load(video) if is_encoded_video(video) else video
        return grounder.ground(source, list(queries), **options)

    return answer_each((os.fspath(video) for video in videos), answer)


def answer_each(
    videos: Iterable[str], answer: Callable[[str], T]
) -> Iterator[tuple[str, T | R2rtError]]:
    """Yield each video and what `answer` returns for it, or the error that it raises.

    What is wrong with one video never stops the others. A fault of r2rt itself becomes an
    `R2rtError` too, with its traceback as cause.

    Raises:
        OutputError: something cannot be written; it could not for the other videos either.
    """
    for video in videos:
        try:
            result: T | R2rtError = answer(video)
        except OutputError:
            raise
        except R2rtError as error:
            result = error
        except Exception as error:
            line = str(error).strip().partition("\n")[0]
            result = R2rtError(f"{video}: internal error: {type(error).__name__}: {line}")
            result.__cause__ = error
        yield video, result


def _stands_for(source: str) -> list[str]:
    if kind_of(source) == "folder":
        return _videos_in(Path(source))
    if not _is_glob(source):
        return [source]
    videos = []
    for match in matches(source):
        if kind_of(match) == "file":
            videos.append(match)
        elif not source.endswith("**"):  # whose matches are what is in them, too
            videos += _walk(Path(match)) if not _is_one_video(Path(match)) else [match]
    if not videos:
        raise SourceNotFoundError(f"{source}: fits no video; check the pattern")
    return videos


def _is_glob(source: str) -> bool:
    return glob.has_magic(source) and kind_of(source) is None


def _videos_in(folder: Path) -> list[str]:
    if _is_one_video(folder):
        return [str(folder)]
    videos = _walk(folder)
    if not videos:
        raise SourceNotFoundError(
            f"{folder}: no videos and no images in it; expected files such as video.mp4 or 0001.png"
        )
    return videos


def _is_one_video(folder: Path) -> bool:
    """Return whether a folder is a source itself: images, or unreadable, as its reader tells."""
    from r2rt.video.still import IMAGE_SUFFIXES

    try:
        files = [path for path in _entries(folder) if path.is_file()]
    except OSError:
        return True
    has_images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in files)
    return has_images and not any(_is_video(path) for path in files)


def _walk(folder: Path) -> list[str]:
    try:
        entries = _entries(folder)
    except OSError:
        return [str(folder)]  # whoever reads it tells why it cannot
    found: list[str] = []
    for path in sorted(entries, key=lambda path: _natural(path.name)):
        if path.is_dir():
            found += [] if path.is_symlink() else _walk(path)  # a link may lead back up
        elif _is_video(path):
            found.append(str(path))
    return found


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _is_video(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix not in VIDEO_SUFFIXES or not path.is_file():
        return False
    if suffix != ".ts":
        return True
    try:
        with path.open("rb") as file:
            return file.read(1) == _MPEG_TS_BEGINS
    except OSError:
        return True


def _natural(name: str) -> list[tuple[int, int, str]]:
    from r2rt.video.still import natural_key

    return natural_key(name)
