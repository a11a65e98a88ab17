"""Fingerprints: the same for the same content, wherever and whenever, and different for another."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from r2rt.video import open_source
from r2rt.video.fingerprint import (
    fingerprint_array,
    fingerprint_file,
    fingerprint_files,
    is_playlist,
)
from tests.r2rt.video.conftest import VideoMaker


@pytest.mark.parametrize("size", [0, 1, 5000, 2 * 2**20, 2 * 2**20 + 1, 5 * 2**20])
def test_content_counts_and_nothing_else(size: int, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(size)
    one, two = tmp_path / "one.mp4", tmp_path / "two.avi"
    one.write_bytes(data)
    two.write_bytes(data)
    os.utime(two, (1, 1))
    key = fingerprint_file(one)
    assert key == fingerprint_file(two)
    assert len(key) == 32
    assert int(key, 16) >= 0
    two.write_bytes(data + b"\0")
    assert fingerprint_file(two) != key


@pytest.mark.parametrize("position", [0, 2**20, -1])
def test_head_tail_and_small_files_are_read_whole(position: int, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    for size in (2**20 + 2, 2 * 2**20 - 5):
        data = bytearray(size)
        path.write_bytes(data)
        key = fingerprint_file(path)
        data[position] ^= 1
        path.write_bytes(data)
        assert fingerprint_file(path) != key


def test_large_files_differ_where_a_stretch_of_them_does(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    size = 8 * 2**20
    path.write_bytes(bytes(size))
    keys = {fingerprint_file(path)}
    for start in range(0, size - size // 63, size // 8):
        data = bytearray(size)
        data[start : start + size // 63] = b"x" * (size // 63)
        path.write_bytes(data)
        keys.add(fingerprint_file(path))
    assert len(keys) == 9


def test_files_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    assert fingerprint_files(paths) != fingerprint_files(paths[::-1])
    assert fingerprint_files(paths[:1]) != fingerprint_file(paths[0])


def test_arrays_by_shape_and_content() -> None:
    array = np.zeros((4, 2, 6, 3), np.uint8)
    key = fingerprint_array(array)
    assert key == fingerprint_array(array.copy())
    assert key != fingerprint_array(array.reshape(4, 6, 2, 3))
    array[3, 1, 5, 2] = 1
    assert key != fingerprint_array(array)
    strided = np.zeros((8, 2, 6, 3), np.uint8)[::2]
    assert fingerprint_array(strided) == key


def test_sources_carry_it(make_video: VideoMaker) -> None:
    path = make_video("reported.mp4")
    with open_source(path, fps=Fraction(1), image_size=32) as source:
        assert source.info.fingerprint == fingerprint_file(path)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"#EXTM3U\n", True),
        (b"\xef\xbb\xbf\n#EXTM3U\n", True),
        (b"ffconcat version 1.0\nfile a.mp4\n", True),
        (b'<?xml version="1.0"?>\n<MPD type="static">', True),
        (b"<html>", False),
        (b"\0\0\0\x18ftypmp42 #EXTM3U", False),
        (b"", False),
    ],
)
def test_playlists_are_known_by_how_they_begin(head: bytes, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(head)
    assert is_playlist(path) == expected
    assert not is_playlist(tmp_path / "none.m3u8")
