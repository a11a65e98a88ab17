"""The cache of encoded videos: found by content, bounded, and safe with several processes."""

from __future__ import annotations

import hashlib
import inspect
import multiprocessing
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from r2rt import EncodedVideo, Grounder
from r2rt.errors import QueryError, SourceNotFoundError
from r2rt.grounding.encoding_cache import EncodingCache
from r2rt.grounding.options import ENCODE_DEFAULTS, EncodeOptions
from r2rt.video import Departures

MODEL = "ab" * 16


def encoded(seed: int = 0, clips: int = 4) -> EncodedVideo:
    rng = np.random.default_rng(seed)
    return EncodedVideo(
        tokens=rng.normal(size=(clips, 2, 5, 10)).astype(np.float32),
        model="tiny",
        model_fingerprint=MODEL,
        source="somewhere/video.mp4",
        duration_s=2.0 * clips,
        start_s=0.0,
        fps=Fraction(1, 2),
        sampling="exact",
        departures=Departures(packets_lost=2),
        encode_s=1.0,
    )


@pytest.fixture
def cache(tmp_path: Path) -> EncodingCache:
    return EncodingCache(tmp_path / "cache", max_bytes=1 << 20)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"the bytes of a video" * 100)
    return path


def test_what_was_put_is_got_under_the_name_it_is_asked_by(cache: EncodingCache) -> None:
    assert cache.get("key", "x.mp4") is None
    assert cache.put("key", encoded())
    kept = cache.get("key", "x.mp4")
    assert kept is not None
    assert kept.source == "x.mp4"
    assert kept.encode_s == 0
    assert kept.departures.packets_lost == 2
    np.testing.assert_array_equal(kept.tokens, encoded().tokens)


def test_the_key_is_of_the_content_not_the_name(cache: EncodingCache, video: Path) -> None:
    key = cache.key(video, MODEL, {"sampling": "exact"})
    moved = video.rename(video.with_name("renamed.mkv"))
    copy = Path(shutil.copy(moved, moved.with_name("copy.mp4")))
    assert cache.key(moved, MODEL, {"sampling": "exact"}) == key
    assert cache.key(copy, MODEL, {"sampling": "exact"}) == key


def test_the_key_changes_with_all_that_decides(cache: EncodingCache, video: Path) -> None:
    keys = [
        cache.key(video, MODEL, {"sampling": "exact", "start_s": None}),
        cache.key(video, MODEL, {"sampling": "nearest"}),
        cache.key(video, "00" * 16, {"sampling": "exact"}),
        cache.key(video, MODEL, {"sampling": "exact", "start_s": 1.0}),
        cache.key(video, MODEL, {"sampling": "exact", "end_s": 1.0}),
    ]
    # One byte in the middle, size and even the date unchanged.
    status = video.stat()
    content = bytearray(video.read_bytes())
    content[len(content) // 2] ^= 1
    video.write_bytes(content)
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))
    keys.append(cache.key(video, MODEL, {"sampling": "exact"}))
    assert len(set(keys)) == len(keys)
    assert cache.key(video, MODEL, {"sampling": "exact", "start_s": None}) == keys[-1]


def test_an_option_that_has_its_default_is_as_good_as_none(
    cache: EncodingCache, video: Path
) -> None:
    parameters = inspect.signature(Grounder.encode).parameters
    defaults = {name: parameters[name].default for name in EncodeOptions.__annotations__}
    assert defaults == ENCODE_DEFAULTS
    assert cache.key(video, MODEL, defaults) == cache.key(video, MODEL, {})


def test_the_key_changes_with_what_decoding_means(
    cache: EncodingCache, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cache.key(video, MODEL, {})
    monkeypatch.setattr("r2rt.grounding.encoding_cache._GENERATION", 0)
    assert cache.key(video, MODEL, {}) != before


def test_files_of_one_status_are_distinguished(
    cache: EncodingCache, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two disks, two files may have the same inode number, size and dates."""
    other = video.with_name("other.mp4")
    other.write_bytes(video.read_bytes()[::-1])
    status = video.stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: status)
    assert cache.key(video, MODEL, {}) != cache.key(other, MODEL, {})


def memos(cache: EncodingCache) -> list[Path]:
    return sorted((cache.folder / "hashes").iterdir())


def test_a_file_is_hashed_once(
    cache: EncodingCache, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = cache.key(video, MODEL, {})
    (memo,) = memos(cache)
    assert memo.read_text() == hashlib.sha256(video.read_bytes()).hexdigest()
    monkeypatch.delattr(hashlib, "file_digest")
    assert cache.key(video, MODEL, {}) == key


@pytest.mark.parametrize("damage", [b"", b"short", b"\xff" * 64, b"a" * 65])
def test_a_damaged_hash_is_computed_again(cache: EncodingCache, video: Path, damage: bytes) -> None:
    key = cache.key(video, MODEL, {})
    (memo,) = memos(cache)
    whole = memo.read_bytes()
    memo.write_bytes(damage)
    assert cache.key(video, MODEL, {}) == key
    assert memo.read_bytes() == whole


def test_every_file_has_its_own_hash(cache: EncodingCache, video: Path) -> None:
    other = video.with_name("other.mp4")
    other.write_bytes(b"the bytes of another video")
    keys = {cache.key(path, MODEL, {}) for path in (video, other)}
    assert len(keys) == len(memos(cache)) == 2


def test_the_newest_hashes_are_remembered(
    cache: EncodingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r2rt.grounding.encoding_cache._MOST_HASHES", 2)
    for number in range(4):
        video = tmp_path / f"{number}.mp4"
        video.write_bytes(bytes([number]))
        cache.key(video, MODEL, {})
        (memo,) = (memo for memo in memos(cache) if memo.stat().st_mtime_ns > 10)
        os.utime(memo, ns=(number, number))
    assert cache.put("key", encoded())
    assert [memo.stat().st_mtime_ns for memo in memos(cache)] in ([2, 3], [3, 2])


def test_an_entry_may_take_half_of_the_room_with_its_header(tmp_path: Path) -> None:
    small = encoded()
    room = 2 * (small.tokens.nbytes + (16 << 10))
    assert not EncodingCache(tmp_path, max_bytes=room - 2).put("key", small)
    assert EncodingCache(tmp_path, max_bytes=room).put("key", small)


def test_encodings_are_in_their_own_folder_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path))
    assert EncodingCache().put("key", encoded())
    ((path, size),) = EncodingCache().entries()
    assert path == tmp_path / "encodings" / "key.r2rt"
    assert size == path.stat().st_size


@pytest.mark.parametrize(("text", "size"), [("", 4 << 30), ("0", 0), ("2M", 2 << 20)])
def test_the_limit_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, size: int
) -> None:
    monkeypatch.setenv("R2RT_CACHE_BYTES", text)
    assert EncodingCache().max_bytes == size
    monkeypatch.setenv("R2RT_CACHE_BYTES", "plenty")
    with pytest.raises(QueryError, match="R2RT_CACHE_BYTES: 'plenty' is no size"):
        EncodingCache()


def test_a_missing_video(cache: EncodingCache, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"none\.mp4: No such file or directory$"):
        cache.key(tmp_path / "none.mp4", MODEL, {})


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    one = encoded(clips=400).tokens.nbytes
    cache = EncodingCache(tmp_path, max_bytes=4 * one)
    for index, name in enumerate(("a", "b", "c")):
        assert cache.put(name, encoded(index, 400))
        os.utime(tmp_path / f"{name}.r2rt", (index, index))
    assert cache.get("a", "a") is not None  # used again, so "b" is the oldest now
    assert cache.put("d", encoded(3, 400))
    left = {path.stem for path, _ in cache.entries()}
    assert left == {"a", "c", "d"}
    assert sum(size for _, size in cache.entries()) <= cache.max_bytes


def test_what_would_fill_the_cache_alone_is_not_kept(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path, max_bytes=1000)
    assert not cache.put("large", encoded())
    assert cache.entries() == []


def test_a_cache_without_room_is_switched_off(cache: EncodingCache) -> None:
    cache.put("key", encoded())
    assert EncodingCache(cache.folder, max_bytes=0).get("key", "x") is None
    assert cache.get("key", "x") is not None


def test_a_damaged_entry_counts_as_none_and_is_removed(cache: EncodingCache) -> None:
    cache.put("key", encoded())
    path = cache.folder / "key.r2rt"
    path.write_bytes(path.read_bytes()[:100])
    assert cache.get("key", "x") is None
    assert not path.exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = EncodingCache(tmp_path / "file" / "cache")
    assert not cache.put("key", encoded())
    assert cache.get("key", "x") is None


def _hammer(folder: Path, seed: int) -> int:
    cache = EncodingCache(folder, max_bytes=60_000)
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(20):
        index = int(rng.integers(0, 6))
        kept = cache.get(str(index), "x")
        if kept is None:
            cache.put(str(index), encoded(index))
        elif not np.array_equal(kept.tokens, encoded(index).tokens):
            wrong += 1
    return wrong


def test_several_processes_never_see_half_an_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        other = pool.apply_async(_hammer, (tmp_path, 1))
        wrong = 0
        while not other.ready():
            wrong += _hammer(tmp_path, 0)
        assert (wrong, other.get()) == (0, 0)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
