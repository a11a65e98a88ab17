"""Many videos: finding them, and asking one after another although some may fail.

for video, answer in ground_many(grounder, find_videos(["recordings/"]), ["a dog runs"]):
    if isinstance(answer, R2rtError):
        print(video, "failed:", answer)
    else:
        print(video, answer[0].moments)
"""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, Unpack

from r2rt.errors import OutputError, QueryError, R2rtError, SourceNotFoundError
from r2rt.grounding.options import GroundOptions, check_names
from r2rt.textfiles import numbered_lines, read_bytes
from r2rt.video.remote import RemoteVideo, is_remote, shown_address

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction

__all__ = [
    "VIDEO_SUFFIXES",
    "answer_each",
    "attempt",
    "find_videos",
    "ground_many",
    "kind_of",
    "list_videos",
    "matches",
    "names_several",
    "read_video_list",
]

T = TypeVar("T")

# Which files of a folder are videos. A file named by the user is read whatever its suffix.
VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
        *(".mts", ".mxf", ".ogv", ".r2rt", ".ts", ".vob", ".webm", ".wmv"),
    )
)
_MPEG_TS_BEGINS = b"\x47"  # TypeScript has the same ending


def find_videos(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the videos that files, folders and globs name, each once, in a fixed order.

    A folder of images is one video, as in `Grounder.encode`. A folder with videos names these and
    the ones in its subfolders; images beside them are ignored. Globs take `*`, `?`, `[…]`, and `**`
    for any folders. The videos of a folder or glob are in natural order: `clip 2` before `clip 10`.
    A file that does not exist is returned too; reading it raises the error. So is a video at an
    address; folders of a store, such as `s3://bucket/videos/`, and globs there are listed.

    Raises:
        MissingExtraError: what reads an address is not installed.
        SourceNotFoundError: a folder holds neither videos nor images, or a glob fits nothing.
    """
    videos: dict[str, str] = {}
    for source in sources:
        for video in _videos_of(os.fspath(source)):
            # Not Path.resolve, which raises where links lead in a circle.
            place = video if is_remote(video) else os.path.realpath(video)
            videos.setdefault(place, video)
    return list(videos.values())


def list_videos(folder: RemoteVideo) -> list[RemoteVideo]:
    """Return the videos of a store's folder or glob, in natural order.

    Raises:
        SourceNotFoundError: they cannot be listed.
    """
    try:
        files = folder.files()
    except OSError as error:
        raise SourceNotFoundError(f"{folder}: cannot be listed: {error}") from error
    videos = [file for file in files if Path(file.name).suffix.lower() in VIDEO_SUFFIXES]
    return sorted(videos, key=lambda video: _natural(str(video)))


def names_several(source: str) -> bool:
    """Return whether a source is a glob or a folder of videos, whatever number that comes to."""
    if is_remote(source):
        try:
            return RemoteVideo(source).names_several()
        except OSError:  # which reading it tells
            return False
    if kind_of(source) == "folder":
        return not _is_one_video(Path(source))
    return _is_glob(source)


def kind_of(source: str) -> Literal["file", "folder"] | None:
    """Return what is at a path; None if there is nothing, or the text cannot be a path."""
    try:
        path = Path(source)
        return "folder" if path.is_dir() else "file" if path.exists() else None
    except (OSError, ValueError):  # such as a name too long
        return None


def matches(pattern: str) -> list[str]:
    """Return the files and folders that a glob fits, in natural order."""
    # Patterns may be absolute, which those of pathlib may not.
    return sorted(glob.glob(pattern, recursive=True), key=_natural)  # noqa: PTH207


def read_video_list(path: str | os.PathLike[str], *, null: bool = False) -> list[str]:
    """Return the sources that a file lists, one a line; `-` is standard input.

    Blank lines, lines that begin with `#`, and blanks around a name are ignored, unless the line
    as it stands is the name of a file or folder. Relative paths are relative to where the process
    runs, as those that `find` writes are. Names need not be UTF-8.

    Args:
        path: the list.
        null: the names end with NUL instead of a line feed, as `find -print0` writes them; each is
            taken as it stands.

    Raises:
        SourceNotFoundError: the file cannot be read.
        QueryError: it is not text, or names nothing.
    """
    content = read_bytes(path)
    if null:
        sources = [os.fsdecode(name) for name in content.split(b"\0") if name]
    elif content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise QueryError(f"{path}: UTF-16 text; save the list as UTF-8")
    elif b"\0" in content:
        raise QueryError(f"{path}: has NUL bytes; a list that NUL separates is read with --null")
    else:
        lines = [os.fsdecode(line) for _, line in numbered_lines(content)]
        sources = [source for line in lines if (source := _listed(line))]
    if not sources:
        raise QueryError(f"{path}: no videos in it; write one path a line")
    return sources


def _listed(line: str) -> str | None:
    if kind_of(line) is not None:
        return line
    text = line.strip()
    return text if text and (not text.startswith("#") or kind_of(text) is not None) else None


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
        queries: sentences; as many as fit into 256 MB (some 2,500 short ones) are encoded once.
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
    videos: Iterable[str], answer: Callable[[str], T], *, jobs: int = 1
) -> Iterator[tuple[str, T | R2rtError]]:
    """Yield each video and what `answer` returns for it, or the error that it raises, in order.

    An error of one video does not stop the others; see `attempt`.

    Args:
        videos: the sources.
        answer: called with each, in threads if `jobs` is above 1.
        jobs: how many videos are answered at the same time.

    Raises:
        OutputError: something cannot be written, and could not for the other videos either.
    """
    if jobs == 1:
        for video in videos:
            yield video, attempt(video, answer)
        return
    with ThreadPoolExecutor(jobs, thread_name_prefix="r2rt-video") as pool:
        waiting: deque[tuple[str, Future[T | R2rtError]]] = deque()
        try:
            for video in videos:
                waiting.append((video, pool.submit(attempt, video, answer)))
                if len(waiting) == jobs:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def attempt(video: str, answer: Callable[[str], T]) -> T | R2rtError:
    """Return what `answer` returns for a video, or the error that it raises.

    An unexpected exception becomes an `R2rtError` with the exception as its cause.

    Raises:
        OutputError: something cannot be written.
    """
    try:
        return answer(video)
    except OutputError:
        raise
    except R2rtError as error:
        return error
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        wrapped = R2rtError(
            f"{shown_address(video)}: internal error: {type(error).__name__}: {line}"
        )
        wrapped.__cause__ = error
        return wrapped


def _videos_of(source: str) -> list[str]:
    if is_remote(source):
        if not names_several(source):
            return [source]
        listed = list_videos(RemoteVideo(source))
        if not listed:
            raise SourceNotFoundError(f"{shown_address(source)}: no videos there")
        return [os.fspath(video) for video in listed]
    if kind_of(source) == "folder":
        return _videos_in(Path(source))
    if not _is_glob(source):
        return [source]
    videos = []
    for match in matches(source):
        if kind_of(match) == "file":
            videos.append(match)
        elif not source.endswith("**"):  # which matches what is in the folders, too
            videos += _walk(Path(match)) if not _is_one_video(Path(match)) else [match]
    if not videos:
        raise SourceNotFoundError(f"{source}: no video matches; check the pattern")
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
    """Return whether a folder is one source: images, or unreadable, which its reader reports."""
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
        return [str(folder)]  # reading it raises the reason
    found: list[str] = []
    for path in sorted(entries, key=lambda path: _natural(path.name)):
        if path.is_symlink() and kind_of(str(path)) != "file":
            continue  # a link to a folder may lead back up; one to nothing is no video
        if kind_of(str(path)) == "folder":
            found += _walk(path)
        elif _is_video(path):
            found.append(str(path))
    return found


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _is_video(path: Path) -> bool:
    suffix = path.suffix.lower()
    try:
        if suffix not in VIDEO_SUFFIXES or not path.is_file():
            return False
    except OSError:
        return True  # reading it raises the reason
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
