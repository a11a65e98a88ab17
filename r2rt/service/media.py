"""Images, sound peaks and clips of videos, made when they are asked for and kept for a while."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from r2rt.cache.folder import CacheFolder
from r2rt.errors import QueryError
from r2rt.files import temporary_beside
from r2rt.portable import replace
from r2rt.video.remote import RemoteVideo, VideoPath

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from r2rt.media.indexed_video import IndexedVideo

__all__ = ["LONGEST_CLIP_S", "MOST_FRAMES", "Media"]

_OPEN = 6
_THREADS = 16
_KEPT_BYTES = 2 << 30
MOST_FRAMES = 200
LONGEST_CLIP_S = 600.0
# Wide enough for a screen of a fine display, not for a bomb of memory.
_MAX_HEIGHT = 720
_WIDEST_JPEG = 65_500


@dataclass
class _Opened:
    video: IndexedVideo
    status: tuple[int, ...]
    lock: threading.Lock = field(default_factory=threading.Lock)


def _is_awaited() -> None:
    """Raise nothing: somebody waits for the result."""


class Media:
    """What is made of video files, and of videos at addresses.

    One thread at a time decodes a video. Where a method takes `check`, it is called once it is that
    thread's turn, and raises if nobody waits for the result any more.

    Args:
        folder: where it is kept, the least recently used making room.
        decoders: files that are decoded at the same time.

    Attributes:
        threads: how many threads of the server may make something at the same time.
    """

    def __init__(self, folder: Path, decoders: int) -> None:
        self._kept = CacheFolder(folder, _KEPT_BYTES, alone=True)
        self._open: OrderedDict[VideoPath, _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._decoders = threading.BoundedSemaphore(decoders)
        self._peaks = threading.Lock()
        self.threads = anyio.CapacityLimiter(_THREADS)
        self.hits = self.misses = 0

    def close(self) -> None:
        """Close the open files."""
        with self._lock:
            opened = list(self._open.values())
            self._open.clear()
        for item in opened:
            with item.lock:
                item.video.close()

    def forget(self, path: VideoPath) -> None:
        """Close a file that is to be removed: open, it would go on taking space on the disk."""
        with self._lock:
            opened = self._open.pop(path, None)
        if opened is not None:
            with opened.lock:
                opened.video.close()

    def filmstrip(
        self,
        path: VideoPath,
        start_s: float,
        end_s: float,
        count: int,
        height: int,
        check: Callable[[], object] = _is_awaited,
    ) -> bytes:
        """Return one JPEG of `count` frames beside each other, the middle of each equal part.

        Keyframes that lie in the same part are preferred, since they cost one decoded frame.

        Raises:
            QueryError: the span, the count or the height is out of range, or the frames together
                are wider than a JPEG can be.
            R2rtError: the video cannot be read, or Pillow is missing.
        """
        if not 0 <= start_s < end_s <= 1e9:
            raise QueryError(f"start_s {start_s:g}, end_s {end_s:g}: expected 0 <= start_s < end_s")
        if not 1 <= count <= MOST_FRAMES or not 16 <= height <= _MAX_HEIGHT:
            raise QueryError(
                f"count {count}, height {height}: expected 1 to {MOST_FRAMES} frames, "
                f"16 to {_MAX_HEIGHT} pixels high"
            )
        name = f"strip {start_s!r} {end_s!r} {count} {height}"
        return self._remembered(
            path,
            name,
            lambda file: file.write_bytes(self._strip(path, start_s, end_s, count, height, check)),
        ).read_bytes()

    def frame(
        self, path: VideoPath, time_s: float, height: int, check: Callable[[], object] = _is_awaited
    ) -> bytes:
        """Return the frame on display at a time as a JPEG.

        Raises:
            QueryError: the height is out of range.
            R2rtError: the video cannot be read, or Pillow is missing.
        """
        if not 0 <= time_s <= 1e9 or not 16 <= height <= 2160:
            raise QueryError(f"time_s {time_s:g}, height {height}: expected 16 to 2160 pixels")
        name = f"frame {time_s!r} {height}"
        return self._remembered(
            path, name, lambda file: file.write_bytes(self._frame(path, time_s, height, check))
        ).read_bytes()

    def clip(
        self,
        path: VideoPath,
        start_s: float,
        end_s: float,
        check: Callable[[], object] = _is_awaited,
    ) -> Path:
        """Return an mp4 of a span, exact to the frame.

        Raises:
            QueryError: the span is empty, too long, or outside of the video, or the clip too large
                to be kept.
            R2rtError: the video cannot be read, or the clip not be written.
        """
        if not 0 <= start_s < end_s or end_s - start_s > LONGEST_CLIP_S:
            raise QueryError(
                f"start_s {start_s:g}, end_s {end_s:g}: expected 0 <= start_s < end_s, "
                f"{LONGEST_CLIP_S:g} s at most; longer ones are a job of kind `clips`"
            )

        def write(file: Path) -> None:
            from r2rt.media.movie import Segment, write_movie

            with self._decoded(path, check) as video:
                write_movie(file, [Segment(video, video.span(start_s, end_s))])

        return self._remembered(path, f"clip {start_s!r} {end_s!r}", write)

    def peaks(
        self, path: VideoPath, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.int8]:
        """Return the peaks of a whole video's sound; see `r2rt.media.waveform.sound_peaks`."""
        import numpy as np

        def write(file: Path) -> None:
            from r2rt.media.indexed_video import IndexedVideo
            from r2rt.media.waveform import sound_peaks

            # Not the shared one, which would keep frames waiting for as long as this takes.
            with IndexedVideo(path) as video:
                file.write_bytes(sound_peaks(video, progress).tobytes())

        with self._peaks:
            content = self._remembered(path, "peaks", write).read_bytes()
        return np.frombuffer(content, np.int8).reshape(2, -1)

    def _strip(
        self,
        path: VideoPath,
        start_s: float,
        end_s: float,
        count: int,
        height: int,
        check: Callable[[], object],
    ) -> bytes:
        from r2rt.media.drawing import require_pillow

        require_pillow()
        from PIL import Image

        from r2rt.media.stills import fitted_size, stills

        box = (4 * height, height)
        part_s = (end_s - start_s) / count
        times_s = [start_s + (number + 0.5) * part_s for number in range(count)]
        with self._decoded(path, check) as video:
            width = count * fitted_size(video.geometry.display_size, box)[0]
            if width > _WIDEST_JPEG:
                raise QueryError(
                    f"count {count}, height {height}: {width} pixels wide; a JPEG has "
                    f"{_WIDEST_JPEG} at most; ask for fewer frames, or lower ones"
                )
            frames = dict(stills(video, times_s, box, near_s=part_s / 2))
        width = frames[0].width
        strip = Image.new("RGB", (count * width, frames[0].height))
        for number, frame in frames.items():
            strip.paste(frame, (number * width, 0))
        return _jpeg(strip, 75)

    def _frame(
        self, path: VideoPath, time_s: float, height: int, check: Callable[[], object]
    ) -> bytes:
        from r2rt.media.drawing import require_pillow

        require_pillow()
        from r2rt.media.stills import stills

        with self._decoded(path, check) as video:
            return _jpeg(dict(stills(video, [time_s], (4 * height, height)))[0], 85)

    def _remembered(self, path: VideoPath, name: str, write: Callable[[Path], object]) -> Path:
        """Return the file that keeps what was made of a video, which is made if it is not kept."""
        identity = f"{os.fspath(path)}\0{_status(path)}\0{name}"
        key = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:40]
        kept = self._kept.path(key)
        if kept.exists():
            self.hits += 1
            self._kept.touch(key)
            return kept
        self.misses += 1
        self._kept.folder.mkdir(parents=True, exist_ok=True)
        made = temporary_beside(kept)
        try:
            write(made)
            size = made.stat().st_size
            if not self._kept.put(key, size, lambda file: replace(made, file)):
                raise QueryError(
                    f"{size >> 20} MB; expected {self._kept.max_bytes >> 21} MB at most; "
                    "longer clips are a job of kind `clips`"
                )
        finally:
            made.unlink(missing_ok=True)
        return kept

    @contextmanager
    def _decoded(self, path: VideoPath, check: Callable[[], object]) -> Iterator[IndexedVideo]:
        """Give a video that is open, to one thread at a time, unless `check` raises by then."""
        from r2rt.media.indexed_video import IndexedVideo

        status = _status(path)
        with self._lock:
            opened = self._open.get(path)
        if opened is None or opened.status != status:
            fresh = _Opened(IndexedVideo(path), status)
            with self._lock:
                opened = self._open.get(path)
                if opened is None or opened.status != status:
                    opened = self._open[path] = fresh
                stale = [] if len(self._open) <= _OPEN else [self._open.popitem(last=False)[1]]
            for item in stale:
                with item.lock:
                    item.video.close()
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
        with opened.lock, self._decoders:
            try:
                check()
                yield opened.video
            finally:
                with self._lock:
                    evicted = self._open.get(path) is not opened
                if evicted:
                    opened.video.close()


def _status(path: VideoPath) -> tuple[int, ...]:
    try:
        status = path.stat()
        if isinstance(path, RemoteVideo):
            return status.st_size, path.version() or 0
    except OSError as error:
        from r2rt.errors import SourceNotFoundError

        raise SourceNotFoundError(f"{path.name}: {error.strerror or error}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _jpeg(image: object, quality: int) -> bytes:
    from PIL import Image

    assert isinstance(image, Image.Image)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()
