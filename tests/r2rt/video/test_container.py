"""What PyAV's versions do differently is the same to those who read through it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import r2rt
from r2rt.video.container import codec_tag, exact, metadata_text, open_input
from r2rt.video.demux import choose_track
from tests.r2rt.video.clips import write_video


@pytest.fixture(scope="module")
def odd_title(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose title holds bytes that are no UTF-8."""
    path = tmp_path_factory.mktemp("titles") / "odd.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "12345678"
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for _ in range(3):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert content.count(b"12345678") == 1
    path.write_bytes(content.replace(b"12345678", b"\xff\xfeok\x80 ok"))
    return path


def test_metadata_that_is_no_utf8_is_read_as_text(odd_title: Path) -> None:
    with open_input(str(odd_title)) as container:
        assert metadata_text(container.metadata["title"]) == "��ok� ok"


def test_rates_are_fractions(odd_title: Path) -> None:
    with open_input(str(odd_title)) as container:
        stream = container.streams.video[0]
        assert exact(stream.average_rate) == Fraction(5)
        assert type(exact(stream.average_rate)) is Fraction
        time_base = exact(stream.time_base)
        assert time_base is not None
        # PyAV 19's own type keeps 32 bits of a product.
        assert time_base**6 == Fraction(1, 1000**6)


def test_a_codec_that_is_named_by_no_letters_has_no_tag(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.ts", codec="mpeg2video", frames=3)
    data = bytearray(path.read_bytes())
    for start in range(0, len(data), 188):
        begins, table = data[start + 1] & 0x40, start + 5
        if begins and data[table] == 2:  # a program map
            size = 3 + (int.from_bytes(data[table + 1 : table + 3]) & 0xFFF)
            data[table + 12] = 0xEA  # VC-1
            end = table + size - 4
            data[end : end + 4] = _mpeg_checksum(bytes(data[table:end])).to_bytes(4)
    path.write_bytes(data)
    with open_input(str(path)) as container:
        stream = choose_track(container, "video", None)
        assert stream.codec_context.name == "vc1"
        assert codec_tag(stream) == ""


def _mpeg_checksum(data: bytes) -> int:
    value = 0xFFFFFFFF
    for bit in (byte >> place & 1 for byte in data for place in range(7, -1, -1)):
        value = (value << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 * (value >> 31 ^ bit))
    return value


def test_what_is_not_known_is_none() -> None:
    assert exact(None) is None
    assert exact(Fraction(0)) is None


def test_files_are_opened_here_alone() -> None:
    """What `av.open` takes differs between versions of PyAV; writing is the same in all."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted(Path(r2rt.__file__).parent.rglob("*.py"))
        if path.name != "container.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if "av.open(" in line and '"w"' not in line
    ]
    assert not found
