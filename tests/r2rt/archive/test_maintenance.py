"""`r2rt library`: what it shows, what `check` finds, what `compact` and `remove` take away."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from r2rt.archive import maintenance
from r2rt.archive.library import Archive
from r2rt.archive.maintenance import check_tables, compact_tables, info_of, remove_videos
from r2rt.archive.piece import new_id
from r2rt.archive.tables import Table, Tables
from r2rt.cli.main import run
from r2rt.errors import LibraryError, OutputError, QueryError
from tests.r2rt.archive.colours import colour_grounder, make_colours, write_colours

WORDS = "1\n00:00:00,500 --> 00:00:03,000\nThe grass is green\n"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    make_colours(tmp_path / "videos")
    (tmp_path / "videos" / "garden.srt").write_text(WORDS, encoding="utf-8")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(tmp_path / "videos")
    return archive


def entry_of(archive: Archive, name: str) -> str:
    (row,) = archive.videos(f"path like '%{name}'")
    entry: str = row["entry"]
    return entry


def test_what_a_library_holds(archive: Archive) -> None:
    found = info_of(archive.tables)
    assert (found.videos, found.duration_s, found.clips, found.with_tokens) == (3, 48, 24, 3)
    files = [path for path in Path(archive.path).rglob("*") if path.is_file()]
    assert found.size_bytes == sum(path.stat().st_size for path in files)


def test_a_whole_library_has_no_faults(archive: Archive) -> None:
    found = check_tables(archive.tables)
    assert (found.videos, found.leftover, found.faults) == (3, 0, [])


@pytest.mark.parametrize(("table", "rows"), [("clips", "vectors"), ("tokens", "tokens")])
def test_rows_that_are_lost_or_doubled_are_found(archive: Archive, table: str, rows: str) -> None:
    tables = dict(archive.tables.all())
    chosen = tables[table]  # type: ignore[index]
    names = chosen.latest().schema.names
    chosen.append(chosen.rows(names, f"entry = '{entry_of(archive, 'beach.mp4')}'"))
    chosen.delete(f"entry = '{entry_of(archive, 'night.mp4')}'")
    faults = check_tables(archive.tables).faults
    assert len(faults) == 2
    assert all(rows in fault for fault in faults)


def test_subtitles_that_are_lost_are_found(archive: Archive, tmp_path: Path) -> None:
    lines = archive.tables.subtitles.rows(["words", "text"])
    ghost = lines.set_column(0, "words", pa.array([new_id()] * lines.num_rows))
    archive.tables.subtitles.append(ghost)
    assert check_tables(archive.tables).leftover == lines.num_rows
    archive.tables.subtitles.delete("true")
    garden = tmp_path / "videos" / "garden.mp4"
    assert check_tables(archive.tables).faults == [f"{garden}: subtitles are missing"]


def test_rows_of_a_killed_process_are_invisible_and_removed(archive: Archive) -> None:
    before = [hit.path for hit in archive.search("blue")]
    tables = archive.tables
    rows = tables.clips.rows(["entry", "row", "vector"])
    ghost = rows.set_column(0, "entry", pa.array([new_id()] * rows.num_rows))
    tables.clips.append(ghost)
    assert check_tables(tables).leftover == rows.num_rows
    assert [hit.path for hit in archive.search("blue")] == before
    assert compact_tables(tables) == rows.num_rows
    assert check_tables(tables).leftover == 0
    assert [hit.path for hit in archive.search("blue")] == before


def test_removed_videos_are_gone(archive: Archive, tmp_path: Path) -> None:
    assert remove_videos(archive.tables, [str(tmp_path / "videos" / "beach.mp4")], None) == 1
    assert remove_videos(archive.tables, [], "path like '%garden%'") == 1
    assert {Path(row["path"]).name for row in archive.videos()} == {"night.mp4"}
    assert archive.search("yellow").hits == ()
    compact_tables(archive.tables)
    assert archive.tables.clips.latest().count_rows() == 4
    with pytest.raises(QueryError, match="holds none of these"):
        remove_videos(archive.tables, ["no-such.mp4"], None)


def test_a_folder_removes_what_is_below_it(archive: Archive, tmp_path: Path) -> None:
    assert remove_videos(archive.tables, [str(tmp_path / "videos")], None) == 3


def at_address(archive: Archive) -> Tables:
    """Return the same library as one that has no locks."""
    return Tables.open(f"file://{archive.path}")


def test_at_an_address_rows_that_were_just_written_stay(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing keeps another process from committing between any two looks at the tables."""
    tables = at_address(archive)
    rows = tables.clips.rows(["entry", "row", "vector"])
    half_done = rows.set_column(0, "entry", pa.array([new_id()] * rows.num_rows))
    tables.clips.append(half_done)
    assert compact_tables(tables) == 0
    monkeypatch.setattr(maintenance, "OLD", datetime.timedelta())
    assert compact_tables(tables) == rows.num_rows


def test_at_an_address_a_commit_in_between_is_kept(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "OLD", datetime.timedelta())
    tables, read = at_address(archive), Table.rows
    write_colours(tmp_path / "videos" / "late.mp4", ["pink"])

    def rows(self: Table, columns: list[str], where: str | None = None) -> Any:
        found = read(self, columns, where)
        if columns == ["entry", "words"]:
            monkeypatch.setattr(Table, "rows", read)
            archive.add(tmp_path / "videos")
        return found

    monkeypatch.setattr(Table, "rows", rows)
    compact_tables(tables)
    assert check_tables(archive.tables).faults == []
    assert any(Path(hit.path).name == "late.mp4" for hit in archive.search("pink"))


@pytest.mark.parametrize("table", ["clips", "tokens", "subtitles"])
def test_a_damaged_table_is_one_line(
    archive: Archive, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "OLD", datetime.timedelta())
    for path in Path(archive.path, f"{table}.lance", "data").iterdir():
        path.write_bytes(b"damaged")
    for look in (check_tables, compact_tables):
        for tables in (Archive.open(archive.path).tables, at_address(archive)):
            with pytest.raises(LibraryError, match=rf"{table}.lance: cannot be read"):
                look(tables)


@pytest.mark.parametrize(
    "change",
    [
        {"clips_per_vector": 0},
        {"window_clips": 0},
        {"window_clips": -5},
        {"window_clips": 10**30},
        {"overlap_clips": 10},
        {"overlap_clips": -1},
        {"width": 0},
        {"width": 7},
    ],
)
def test_a_library_of_impossible_numbers_is_refused(
    archive: Archive, change: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    """A library may come from anyone, as its tables do."""
    table = archive.tables.videos
    settings = {**msgspec.structs.asdict(archive.tables.settings), **change}
    table.latest().replace_schema_metadata({"r2rt": msgspec.json.encode(settings).decode()})
    with pytest.raises(LibraryError):
        Archive.open(archive.path)
    assert run(["library", "info", archive.path]) == 16
    assert capfd.readouterr().err.count("\n") == 1


def test_what_check_lists_is_mended_by_what_it_says(
    archive: Archive, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    copy = shutil.copy(videos / "beach.mp4", videos / "copy.mp4")
    archive.add(copy)
    archive.tables.clips.delete("row = 0")
    archive.tables.videos.delete("path like '%night%'")
    assert run(["library", "check", archive.path, "--quiet"]) == 16
    listed = capfd.readouterr().err
    damaged = ["beach.mp4", "copy.mp4", "garden.mp4"]
    assert all(f"{videos / name}: 3 vectors of 4" in listed for name in damaged)
    assert "`r2rt library remove`" in listed
    remove_videos(archive.tables, [str(videos / name) for name in damaged], None)
    archive.add(videos)
    assert check_tables(archive.tables).faults == []


def test_a_file_that_goes_while_sizes_are_added_is_not_counted(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may join small files, and remove old ones."""
    stat = Path.stat

    def vanishing(path: Path, **options: Any) -> os.stat_result:
        if path.suffix == ".txn":
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", vanishing)
    monkeypatch.setattr(Path, "is_file", os.path.isfile)
    assert info_of(archive.tables).videos == 3


def test_a_library_that_cannot_be_locked(archive: Archive, tmp_path: Path) -> None:
    """Such as one on a share that is read-only, although there is nothing to write."""
    locks = Path(archive.path, "locks")
    shutil.rmtree(locks)
    locks.write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        archive.add(tmp_path / "videos")
