"""Videos at addresses, and libraries; fsspec's store in memory is used as any other store is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt.archive.library import Archive
from r2rt.errors import QueryError
from tests.r2rt.archive.colours import colour_grounder, make_colours, write_colours

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def address() -> Iterator[str]:
    yield "memory://bucket/garden.mp4"
    fsspec.filesystem("memory").store.clear()


def put(tmp_path: Path, address: str, colours: list[str]) -> None:
    content = write_colours(tmp_path / "video.mp4", colours).read_bytes()
    with fsspec.open(address, "wb") as file:
        file.write(content)


def moments(archive: Archive, colour: str) -> list[tuple[str, float, float]]:
    return sorted((hit.path, hit.start_s, hit.end_s) for hit in archive.search(colour))


@pytest.mark.parametrize("keep", ["tokens", "vectors"])
def test_a_video_is_indexed_searched_and_followed(tmp_path: Path, address: str, keep: str) -> None:
    put(tmp_path, address, ["green", "red", "green"])
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    assert archive.add(address, keep=keep).added == 1  # type: ignore[arg-type]
    assert moments(archive, "red") == [(address, 4, 8)]
    (row,) = archive.videos()
    assert (row["codec"], row["rate"]) == ("mpeg4", 5.0)
    assert archive.add(address, keep=keep).unchanged == 1  # type: ignore[arg-type]
    put(tmp_path, address, ["red", "green"])
    assert archive.add(address, keep=keep).changed == 1  # type: ignore[arg-type]
    assert moments(archive, "red") == [(address, 0, 4)]
    fsspec.filesystem("memory").rm(address)
    assert archive.add(address).removed == 1
    assert moments(archive, "red") == []


def test_an_address_without_a_file_fails_with_its_reason(tmp_path: Path) -> None:
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    (reason,) = archive.add("memory://bucket/nothing.mp4").failed.values()
    assert "memory://bucket/nothing.mp4" in reason


def test_a_library_is_made_at_an_address(tmp_path: Path) -> None:
    make_colours(tmp_path / "videos")
    place = (tmp_path / "library").as_uri()
    archive = Archive.open(place, model=colour_grounder(tmp_path))
    with pytest.raises(QueryError, match="leave --quota out"):  # it could not be kept to
        archive.add(tmp_path / "videos", quota_bytes=1)
    assert archive.add(tmp_path / "videos").added == 3
    again = Archive.open(place, model=colour_grounder(tmp_path))
    assert again.add(tmp_path / "videos").unchanged == 3
    assert [Path(hit.path).name for hit in again.search("yellow")] == ["beach.mp4"]
