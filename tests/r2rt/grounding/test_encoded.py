"""Saved encodings: written whole, read back the same, refused when not what they say."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from r2rt import EncodedVideo
from r2rt.errors import EncodedVideoError, OutputError, QueryError, SourceNotFoundError
from r2rt.grounding.encoded import is_encoded_video
from r2rt.video import Departures


@pytest.fixture
def video() -> EncodedVideo:
    random = np.random.default_rng(0)
    return EncodedVideo(
        tokens=random.normal(size=(5, 3, 2, 6)).astype(np.float32),
        embeddings=random.normal(size=(5, 7)).astype(np.float32),
        model="tiny",
        model_fingerprint="ab" * 16,
        source="a video ü.mp4",
        duration_s=0.2,
        start_s=1.5,
        fps=Fraction(24000, 1001),
        sampling="nearest",
        departures=Departures(packets_lost=3, leaps_s=1.5, decoded_all="why"),
        encode_s=0.25,
        video_track=2,
        source_fingerprint="cd" * 16,
    )


def test_what_was_saved_is_loaded(video: EncodedVideo, tmp_path: Path) -> None:
    path = tmp_path / "video.r2rt"
    video.save(path)
    loaded = EncodedVideo.load(path)
    np.testing.assert_array_equal(loaded.tokens, video.tokens)
    np.testing.assert_array_equal(loaded.embeddings, video.embeddings)
    for field in dataclasses.fields(EncodedVideo):
        if field.name not in {"tokens", "embeddings"}:
            assert getattr(loaded, field.name) == getattr(video, field.name)
    assert is_encoded_video(path)
    by_library = load_file(path)
    np.testing.assert_array_equal(by_library["tokens"], video.tokens)
    np.testing.assert_array_equal(by_library["embeddings"], video.embeddings)
    assert [path.name for path in tmp_path.iterdir()] == ["video.r2rt"]


@given(span=st.tuples(st.integers(0, 4), st.integers(1, 5)).filter(lambda span: span[0] < span[1]))
def test_a_part_is_a_view_whose_clips_keep_their_times(
    video: EncodedVideo, span: tuple[int, int]
) -> None:
    part = video.part(*span)
    assert np.shares_memory(part.tokens, video.tokens)
    np.testing.assert_array_equal(part.tokens, video.tokens[slice(*span)])
    assert video.embeddings is not None
    np.testing.assert_array_equal(part.embeddings, video.embeddings[slice(*span)])
    np.testing.assert_allclose(part.clip_starts_s, video.clip_starts_s[slice(*span)], atol=1e-12)
    ends = [*video.clip_starts_s[1:], video.start_s + video.duration_s]
    assert part.start_s + part.duration_s == pytest.approx(ends[span[1] - 1], abs=1e-12)
    # A part of a part is the part.
    again = video.part(span[0], 5).part(0, span[1] - span[0])
    assert (again.start_s, again.duration_s) == pytest.approx((part.start_s, part.duration_s))


@pytest.mark.parametrize("span", [(-1, 2), (0, 6), (2, 2), (3, 1)])
def test_what_is_no_part_is_refused(video: EncodedVideo, span: tuple[int, int]) -> None:
    with pytest.raises(QueryError, match="not a part of 5 clips"):
        video.part(*span)


def test_a_file_without_embeddings_is_read_as_one_of_an_older_r2rt(
    video: EncodedVideo, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    dataclasses.replace(video, embeddings=None).save(path)
    with_record(path, {"schema": 2})
    loaded = EncodedVideo.load(path)
    assert loaded.embeddings is None
    assert loaded.part(1, 3).embeddings is None
    np.testing.assert_array_equal(loaded.tokens, video.tokens)


def test_a_file_that_does_not_know_its_track_or_source_is_read(
    video: EncodedVideo, tmp_path: Path
) -> None:
    """As older versions wrote it."""
    path = tmp_path / "file"
    dataclasses.replace(video, video_track=None, source_fingerprint=None).save(path)
    content = path.read_bytes()
    assert b"video_track" not in content
    assert b"source_fingerprint" not in content
    loaded = EncodedVideo.load(path)
    assert (loaded.video_track, loaded.source_fingerprint) == (None, None)


@pytest.mark.parametrize("shape", [(4, 7), (5,), (5, 0), (5, 7, 1)])
def test_embeddings_of_another_shape_are_refused(
    video: EncodedVideo, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "file"
    dataclasses.replace(video, embeddings=np.ones(shape, np.float32)).save(path)
    with pytest.raises(EncodedVideoError):
        EncodedVideo.load(path)


def test_saving_is_deterministic(video: EncodedVideo, tmp_path: Path) -> None:
    video.save(tmp_path / "a")
    video.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        EncodedVideo.load(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"PK\x03\x04 a zip file", b"{}"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not is_encoded_video(path)
    with pytest.raises(EncodedVideoError):
        EncodedVideo.load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"tokens": np.zeros((1, 1, 1, 1), np.float32)}, path)
    with pytest.raises(EncodedVideoError, match="not an encoded video"):
        EncodedVideo.load(path)


def with_record(path: Path, change: dict[str, object]) -> None:
    """Write `path` again with a changed record and, unless that is changed, a fitting checksum.

    The checksum is computed as the format's description says, apart from the code under test.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, tokens = json.loads(content[8 : 8 + length]), content[8 + length :]
    record = json.loads(header["__metadata__"]["r2rt_encoded_video"])
    record |= {"xxh3_128": "0" * 32} | change
    header["__metadata__"]["r2rt_encoded_video"] = json.dumps(record)
    text = json.dumps(header).encode()
    digest = xxhash.xxh3_128_hexdigest(text + tokens)
    text = text.replace(b"0" * 32, digest.encode())
    path.write_bytes(len(text).to_bytes(8, "little") + text + tokens)


def test_a_fitting_checksum_is_accepted(video: EncodedVideo, tmp_path: Path) -> None:
    path = tmp_path / "file"
    video.save(path)
    with_record(path, {"model": "other"})
    assert EncodedVideo.load(path).model == "other"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "change",
    [
        {"schema": 4},
        {"fps": "0"},
        {"fps": "1/0"},
        {"fps": "many"},
        {"fps": "1e999999999"},
        {"fps": "9" * 5000},
        {"fps": "99999"},
        {"sampling": "random"},
        {"duration_s": "long"},
        {"duration_s": -0.2},
        {"duration_s": 0},
        {"duration_s": 9.7},
        {"duration_s": 1e300},
        {"start_s": 1e300},
        {"departures": {"packets_lost": -1}},
        {"departures": {"frames_replaced": 1 << 80}},
        {"departures": {"leaps_s": 1e300}},
        {"departures": {"decoded_all": 3}},
        {"encode_s": -1},
        {"model": None},
        {"model": [[]] * 3},
        {"xxh3_128": ""},
        {"xxh3_128": "0" * 31},
        {"xxh3_128": "f" * 32},
    ],
    ids=lambda change: str(change)[:40],
)
def test_an_impossible_record_is_refused(
    video: EncodedVideo, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "file"
    video.save(path)
    with_record(path, change)
    with pytest.raises(EncodedVideoError):
        EncodedVideo.load(path)


def test_a_file_without_a_checksum_says_how_to_make_it_anew(
    video: EncodedVideo, tmp_path: Path
) -> None:
    path = tmp_path / "old.r2rt"
    video.save(path)
    with safe_open(path, framework="numpy") as file:
        record = json.loads(file.metadata()["r2rt_encoded_video"])
    del record["xxh3_128"]
    record["schema"] = 1
    save_file({"tokens": video.tokens}, path, {"r2rt_encoded_video": json.dumps(record)})
    with pytest.raises(EncodedVideoError, match=r"schema 1, this r2rt reads 2 to 3; .*r2rt encode"):
        EncodedVideo.load(path)


@pytest.mark.parametrize("at", [0.3, 0.6, 0.999])
def test_zeroed_halves_and_flipped_bits_of_large_tokens_are_found(
    video: EncodedVideo, tmp_path: Path, at: float
) -> None:
    tokens = np.random.default_rng(1).normal(size=(50, 4, 50, 256)).astype(np.float32)
    path = tmp_path / "file"
    large = dataclasses.replace(
        video, tokens=tokens, embeddings=None, duration_s=50 / float(video.fps)
    )
    large.save(path)
    np.testing.assert_array_equal(EncodedVideo.load(path).tokens, tokens)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(EncodedVideoError, match="checksum"):
        EncodedVideo.load(path)
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(EncodedVideoError, match="checksum"):
        EncodedVideo.load(path)


@pytest.mark.parametrize(
    "tokens",
    [
        np.zeros((0, 3, 2, 6), np.float32),
        np.zeros((5, 6), np.float32),
        np.zeros((5, 3, 2, 6), np.float64),
    ],
)
def test_tokens_of_another_shape_or_type_are_refused(
    video: EncodedVideo, tmp_path: Path, tokens: np.ndarray
) -> None:
    path = tmp_path / "file"
    video.save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file({"tokens": tokens}, path, metadata)
    with pytest.raises(EncodedVideoError, match="expected F32"):
        EncodedVideo.load(path)


@given(data=st.data())
@settings(max_examples=60)
def test_no_damage_passes(video: EncodedVideo, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file"
    video.save(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(EncodedVideoError):
        EncodedVideo.load(path)


def test_a_full_disk_leaves_what_was_there(video: EncodedVideo, tmp_path: Path) -> None:
    path = tmp_path / "video.r2rt"
    path.write_bytes(b"what was there")
    large = dataclasses.replace(video, tokens=np.zeros((512, 4, 50, 32), np.float32))
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match=r"video\.r2rt: cannot be written"):
            large.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["video.r2rt"]


def test_a_folder_that_is_not_there(video: EncodedVideo, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        video.save(tmp_path / "none" / "video.r2rt")


def test_a_name_may_contain_what_stands_for_the_checksum(
    video: EncodedVideo, tmp_path: Path
) -> None:
    name = f"{'0' * 40}.mp4"
    dataclasses.replace(video, source=name).save(tmp_path / "video.r2rt")
    assert EncodedVideo.load(tmp_path / "video.r2rt").source == name
