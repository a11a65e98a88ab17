"""Encoded videos that are open, the few used last, over the cache that the command line shares."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.errors import MemoryLimitError, OutputError
from r2rt.retry import TransientError

if TYPE_CHECKING:
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.encoding_cache import EncodingCache
    from r2rt.grounding.grounder import Grounder, Progress

__all__ = ["Encodings"]

# Opening one reads it once to compare its checksum. Their tokens are memory-mapped.
_OPEN = 32
# A job that waits for its turn looks so often whether it was cancelled.
_LOOK_S = 0.5
_OPTIONS = {"sampling": "exact"}


class Encodings:
    """Encoded videos by file and model.

    Args:
        encoders: how many are encoded at the same time; others wait.
    """

    def __init__(self, encoders: int) -> None:
        self._cache: EncodingCache | None = None
        self._open: OrderedDict[tuple[str, str], EncodedVideo] = OrderedDict()
        self._lock = threading.Lock()
        self._encoders = threading.BoundedSemaphore(encoders)
        self.hits = self.misses = 0

    def find(self, path: Path, fingerprint: str) -> EncodedVideo | None:
        """Return an encoded video; None if it was not encoded by the model, or made room.

        Args:
            path: the video's file.
            fingerprint: the fingerprint of the model's bundle.

        Raises:
            SourceNotFoundError: there is no such file.
        """
        from r2rt.grounding.encoding_cache import EncodingCache

        with self._lock:
            if self._cache is None:
                self._cache = EncodingCache()
            cache = self._cache
        key = cache.key(path, fingerprint, _OPTIONS)
        name = (key, str(path))
        with self._lock:
            found = self._open.get(name)
            if found is not None:
                self._open.move_to_end(name)
                self.hits += 1
                return found
        found = cache.get(key, str(path))
        with self._lock:
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._open[name] = found
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return found

    def encode(self, grounder: Grounder, path: Path, progress: Progress) -> EncodedVideo:
        """Return a video encoded, from the cache or anew; `progress` may raise to end it.

        Raises:
            MemoryLimitError: the encoded video is larger than the cache may keep.
            OutputError: the cache cannot be written.
            TransientError: the file changed meanwhile.
            R2rtError: see `Grounder.encode`.
        """
        fingerprint = grounder.bundle.fingerprint
        found = self.find(path, fingerprint)
        if found is not None:
            return found
        while not self._encoders.acquire(timeout=_LOOK_S):
            progress(0, 1)
        try:
            progress(0, 1)  # it may have been cancelled while it waited
            found = self.find(path, fingerprint)  # or been encoded by another job
            if found is not None:
                return found
            encoded = self._encode(grounder, path, progress)
        finally:
            self._encoders.release()
        return self.find(path, fingerprint) or encoded

    def _encode(self, grounder: Grounder, path: Path, progress: Progress) -> EncodedVideo:
        """Encode a video and keep it."""
        cache, fingerprint = self._cache, grounder.bundle.fingerprint
        assert cache is not None
        key = cache.key(path, fingerprint, _OPTIONS)
        encoded = grounder.encode(path, progress, sampling="exact")
        if cache.key(path, fingerprint, _OPTIONS) != key:  # such as one that is still copied
            raise TransientError(
                f"{path.name}: changed while it was encoded; encode it once it is whole"
            )
        if not cache.put(key, encoded):
            if encoded.nbytes < cache.max_bytes // 2:
                raise OutputError(
                    f"{cache.folder}: cannot be written, so {path.name} is not kept as encoded; "
                    "free some space, or set R2RT_CACHE to a folder that can be written"
                )
            raise MemoryLimitError(
                f"{path.name}: encoded it takes {encoded.tokens.nbytes >> 20} MB, and the "
                f"cache of {cache.max_bytes >> 20} MB keeps none larger than half of it; "
                "set R2RT_CACHE_BYTES to more"
            )
        return encoded

    def close(self) -> None:
        """Forget the open ones."""
        with self._lock:
            self._open.clear()
