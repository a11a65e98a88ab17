"""Indexing: new, changed, moved, copied, removed and failing files; quotas; rows kept."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from r2rt.archive import index, indices, writer
from r2rt.archive.library import Archive
from r2rt.archive.maintenance import check_tables, compact_tables, info_of, remove_videos
from r2rt.archive.tables import Table
from r2rt.errors import (
    LibraryFullError,
    MemoryLimitError,
    ModelMismatchError,
    QueryError,
    SourceNotFoundError,
)
from tests.r2rt.archive.colours import ColourGrounder, colour_grounder, make_colours, write_colours


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    make_colours(tmp_path / "videos")
    return tmp_path / "videos"


@pytest.fixture
def archive(tmp_path: Path, videos: Path) -> Archive:
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(videos)
    return archive


def encoded(archive: Archive) -> list[str]:
    """The names of all videos that were encoded so far."""
    return [Path(name).name for name in cast("ColourGrounder", archive.grounder).encoded]


def names(archive: Archive, where: str | None = None) -> set[str]:
    return {Path(row["path"]).name for row in archive.videos(where)}


def test_what_is_known_of_a_video(archive: Archive, videos: Path) -> None:
    (row,) = archive.videos("path like '%beach%'")
    status = (videos / "beach.mp4").stat()
    assert (row["size"], row["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
    assert (row["duration_s"], row["rate"], row["clips"]) == (16, 5, 8)
    assert (row["codec"], row["width"], row["height"]) == ("mpeg4", 32, 32)
    assert (row["state"], row["error"], row["keep"]) == ("ready", None, "tokens")


def test_what_has_not_changed_is_not_read_again(archive: Archive, videos: Path) -> None:
    before = encoded(archive)
    report = archive.add(videos)
    assert (report.unchanged, report.added) == (3, 0)
    assert encoded(archive) == before


def test_a_changed_video_is_read_again(archive: Archive, videos: Path) -> None:
    write_colours(videos / "beach.mp4", ["red", "red"])
    report = archive.add(videos)
    assert (report.changed, report.unchanged, report.added) == (1, 2, 0)
    assert [Path(hit.path).name for hit in archive.search("yellow")] == []
    assert "beach.mp4" in {Path(hit.path).name for hit in archive.search("red")}


def test_a_touched_video_is_not_encoded_again(archive: Archive, videos: Path) -> None:
    before = encoded(archive)
    os.utime(videos / "beach.mp4", (1, 1))
    assert archive.add(videos).unchanged == 3
    assert encoded(archive) == before
    (row,) = archive.videos("path like '%beach%'")
    assert row["mtime_ns"] == 10**9


def test_a_moved_video_is_not_encoded_again(archive: Archive, videos: Path) -> None:
    before = encoded(archive)
    (videos / "sea").mkdir()
    (videos / "beach.mp4").rename(videos / "sea" / "waves.mp4")
    report = archive.add(videos)
    assert (report.moved, report.removed, report.added) == (1, 0, 0)
    assert encoded(archive) == before
    assert names(archive) == {"waves.mp4", "garden.mp4", "night.mp4"}
    assert [Path(hit.path).name for hit in archive.search("yellow")] == ["waves.mp4"]


def test_a_copy_is_not_encoded_again_and_found_once(archive: Archive, videos: Path) -> None:
    before = encoded(archive)
    shutil.copy(videos / "beach.mp4", videos / "copy.mp4")
    assert archive.add(videos).copied == 1
    assert encoded(archive) == before
    (hit,) = archive.search("yellow")
    assert [Path(path).name for path in (hit.path, *hit.also)] == ["beach.mp4", "copy.mp4"]


def test_a_removed_video_is_not_found_until_it_is_back(archive: Archive, videos: Path) -> None:
    before = encoded(archive)
    content = (videos / "beach.mp4").read_bytes()
    (videos / "beach.mp4").unlink()
    assert archive.add(videos).removed == 1
    assert archive.search("yellow").hits == ()
    (videos / "beach.mp4").write_bytes(content)
    archive.add(videos)
    assert len(archive.search("yellow")) == 1
    assert encoded(archive) == before


@pytest.mark.parametrize("named", ["glob", "singly"])
def test_a_removed_video_is_not_found_whichever_way_the_others_are_named(
    archive: Archive, videos: Path, tmp_path: Path, named: str
) -> None:
    other = write_colours(tmp_path / "disk" / "far.mp4", ["cyan"])
    archive.add(other)
    (videos / "beach.mp4").unlink()
    shutil.rmtree(other.parent)
    sources = [videos / "*.mp4"] if named == "glob" else sorted(videos.glob("*.mp4"))
    report = archive.add(sources)
    assert (report.removed, report.unchanged) == (1, 2)
    assert archive.search("yellow").hits == ()
    # Nobody asked about the other folder: its disk may not be there now.
    assert names(archive, "state = 'ready'") == {"garden.mp4", "night.mp4", "far.mp4"}


def test_a_failing_video_is_tried_again_when_it_changes(archive: Archive, videos: Path) -> None:
    (videos / "new.mp4").write_bytes(b"not a video")
    reasons: dict[str, str] = {}
    report = archive.add(videos, failed=reasons.__setitem__)
    assert list(map(str, reasons)) == [str(videos / "new.mp4")]
    assert report.failed == reasons
    (row,) = archive.videos("state = 'failed'")
    assert row["error"] == reasons[str(videos / "new.mp4")]
    assert archive.add(videos).failed_before == 1
    write_colours(videos / "new.mp4", ["pink"])
    assert archive.add(videos).added == 1
    assert "new.mp4" in {Path(hit.path).name for hit in archive.search("pink")}


def test_a_playlist_is_refused(archive: Archive, videos: Path) -> None:
    """It stays as it is while the files change that it names, and the library would not notice."""
    playlist = videos / "list.ffconcat"
    playlist.write_text("ffconcat version 1.0\nfile beach.mp4\n")
    (reason,) = archive.add([playlist]).failed.values()
    assert reason == (
        f"{playlist}: a playlist, which stays the same when the files that it names change; "
        "index its files, or join them into one first"
    )
    assert archive.add([playlist]).failed_before == 1
    assert archive.add(videos).unchanged == len(names(archive, "state = 'ready'"))


def test_a_name_that_is_no_text_does_not_stop_the_others(
    archive: Archive, videos: Path, tmp_path: Path
) -> None:
    odd = videos / os.fsdecode(b"caf\xe9.mp4")
    write_colours(tmp_path / "new.mp4", ["pink"]).rename(odd)
    write_colours(videos / "other.mp4", ["cyan"])
    words = videos / os.fsdecode(b"other.\xe9.srt")
    words.write_text("1\n00:00:00,500 --> 00:00:03,000\nA cyan sea\n", encoding="utf-8")
    reasons: dict[str, str] = {}
    assert archive.add(videos, failed=reasons.__setitem__).added == 1
    assert list(reasons) == [str(odd)]
    assert "rename it" in reasons[str(odd)]
    assert list(archive.add(videos).failed) == [str(odd)]
    assert "A cyan sea" in {hit.words for hit in archive.search("cyan")}


@pytest.mark.parametrize("changed_s", [10**10, 3 * 10**11, -(10**10)])
def test_a_date_far_away_does_not_stop_the_others(
    archive: Archive, videos: Path, changed_s: int
) -> None:
    """The table counts nanoseconds up to the year 2262, Python's dates end with 9999."""
    os.utime(write_colours(videos / "new.mp4", ["pink"]), (changed_s, changed_s))
    assert archive.add(videos).added == 1
    assert archive.add(videos).unchanged == 4


def test_files_of_a_folder_that_were_never_there_are_reported(archive: Archive) -> None:
    with pytest.raises(SourceNotFoundError):
        archive.add("no-such-folder/*.mp4")
    assert list(archive.add("no-such-file.mp4").failed) == [os.path.realpath("no-such-file.mp4")]


def test_a_folder_that_was_away_leaves_no_row_of_its_own(archive: Archive, videos: Path) -> None:
    away = videos.rename(videos.with_name("away"))
    for removed in (3, 0):
        report = archive.add(videos)
        assert (list(report.failed), report.removed) == ([str(videos)], removed)
    away.rename(videos)
    assert archive.add(videos).unchanged == 3
    assert names(archive) == {"beach.mp4", "garden.mp4", "night.mp4"}


def test_vectors_alone_answer_the_same(tmp_path: Path, videos: Path, archive: Archive) -> None:
    small = Archive.open(tmp_path / "small", model=colour_grounder(tmp_path))
    small.add(videos, keep="vectors")
    assert small.tables.tokens.latest().count_rows() == 0
    for colour in ("yellow", "blue", "green"):
        expected = [(hit.path, hit.start_s, hit.end_s) for hit in archive.search(colour)]
        assert [(hit.path, hit.start_s, hit.end_s) for hit in small.search(colour)] == expected


def test_a_window_whose_file_is_gone_is_skipped_with_the_reason(
    tmp_path: Path, videos: Path
) -> None:
    archive = Archive.open(tmp_path / "small", model=colour_grounder(tmp_path))
    archive.add(videos, keep="vectors")
    (videos / "beach.mp4").unlink()
    result = archive.search("yellow")
    assert list(result.skipped) == [str(videos / "beach.mp4")]


def test_a_lock_that_cannot_be_removed_while_it_is_held_is_given_up(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows removes no file that is open."""
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".lock":
            raise PermissionError(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    archive = Archive.open(tmp_path / "small", model=colour_grounder(tmp_path))
    assert archive.add(videos / "beach.mp4").added == 1
    (row,) = archive.videos()
    with archive.tables.claim(row["content"]) as is_mine:
        assert is_mine


def test_a_quota_stops_before_the_next_video(tmp_path: Path, videos: Path) -> None:
    archive = Archive.open(tmp_path / "small", model=colour_grounder(tmp_path))
    archive.add(videos / "beach.mp4")
    with pytest.raises(LibraryFullError, match="--quota"):
        archive.add(videos, quota_bytes=1000)
    assert names(archive, "state = 'ready'") == {"beach.mp4"}


def test_a_quota_is_not_spent_on_joining_files(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is joined stays for a while beside its parts."""
    monkeypatch.setattr(writer, "_BATCH_VIDEOS", 1)
    parts = Archive.open(tmp_path / "parts", model=colour_grounder(tmp_path))
    parts.add(videos)
    monkeypatch.setattr(indices, "_MOST_FILES", 1)
    size = info_of(parts.tables).size_bytes
    assert size is not None
    for quota, files in ((size + 1000, 3), (3 * size, 1)):
        archive = Archive.open(tmp_path / f"library {files}", model=colour_grounder(tmp_path))
        archive.add(videos, quota_bytes=quota)
        assert len(archive.tables.tokens.latest().get_fragments()) == files


def test_old_versions_are_removed_before_a_quota_ends_a_run(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive.open(tmp_path / "small", model=colour_grounder(tmp_path))
    archive.add(videos / "beach.mp4")
    archive.tables.tokens.commit(lambda dataset: dataset.optimize.compact_files())
    monkeypatch.setattr(indices, "OLD", datetime.timedelta())
    size = info_of(archive.tables).size_bytes
    assert size is not None
    archive.add(videos / "beach.mp4", quota_bytes=size)
    archive.add(videos / "night.mp4", quota_bytes=size)
    assert names(archive, "state = 'ready'") == {"beach.mp4", "night.mp4"}


def test_a_followed_folder_may_be_empty(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "empty").mkdir()
    archive = Archive.open(tmp_path / "small", model=colour_grounder(tmp_path))
    assert archive.add([tmp_path / "empty", videos], follow=True).added == 3
    with pytest.raises(SourceNotFoundError, match="no videos"):
        archive.add([tmp_path / "empty", videos])


@pytest.mark.parametrize("table", ["clips", "tokens"])
def test_an_interrupt_while_rows_are_committed_doubles_none(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    append = Table.append
    written: list[str] = []

    def interrupted(self: Table, rows: pa.Table) -> None:
        append(self, rows)
        written.append(Path(self.uri).stem)
        if written.count(table) == 1 and written[-1] == table:
            raise KeyboardInterrupt

    monkeypatch.setattr(Table, "append", interrupted)
    monkeypatch.setattr(writer, "_BATCH_VIDEOS", 1)
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        archive.add(videos)
    archive.add(videos)
    found = check_tables(archive.tables)
    assert (found.videos, found.faults) == (3, [])
    assert [Path(hit.path).name for hit in archive.search("yellow")] == ["beach.mp4"]


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of videos that cannot be encoded for now, as for lack of memory."""
    encode, names = ColourGrounder.encode, set[str]()

    def refuse(self: ColourGrounder, source: Path, *arguments: Any, **options: Any) -> Any:
        if Path(source).name in names:
            raise MemoryLimitError("too large")
        return encode(self, source, *arguments, **options)

    monkeypatch.setattr(ColourGrounder, "encode", refuse)
    return names


def test_a_video_that_failed_is_found_with_the_vectors_of_its_copy(
    archive: Archive, videos: Path, unreadable: set[str]
) -> None:
    unreadable.add("fails.mp4")
    shutil.copy(write_colours(videos / "fails.mp4", ["pink", "red"]), videos / "sound.mp4")
    assert list(archive.add(videos / "fails.mp4").failed) == [str(videos / "fails.mp4")]
    assert archive.add(videos / "sound.mp4").added == 1
    assert archive.add(videos, retry=True).copied == 1
    copies = [{Path(path).name for path in (x.path, *x.also)} for x in archive.search("pink")]
    assert {"fails.mp4", "sound.mp4"} in copies
    assert check_tables(archive.tables).faults == []


def test_a_video_that_fails_does_not_stop_its_copy(
    tmp_path: Path, videos: Path, unreadable: set[str]
) -> None:
    archive = Archive.open(tmp_path / "small", model=colour_grounder(tmp_path))
    archive.add(videos, keep="vectors")
    shutil.copy(videos / "beach.mp4", videos / "copy.mp4")
    unreadable.add("beach.mp4")
    report = archive.add(videos, keep="tokens")
    assert (list(report.failed), report.added) == ([str(videos / "beach.mp4")], 1)
    assert [Path(hit.path).name for hit in archive.search("yellow")] == ["copy.mp4"]


def test_a_video_with_vectors_alone_takes_the_tokens_of_its_copy(
    tmp_path: Path, videos: Path
) -> None:
    archive = Archive.open(tmp_path / "small", model=colour_grounder(tmp_path))
    archive.add(videos, keep="vectors")
    archive.add(shutil.copy(videos / "beach.mp4", tmp_path / "copy.mp4"), keep="tokens")
    archive.add(videos, keep="tokens")
    assert {row["keep"] for row in archive.videos()} == {"tokens"}


@pytest.fixture
def meanwhile(
    archive: Archive, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Let another process do something to the beach while a run has read what the library has."""

    def another(name: str, *, compacted: bool) -> None:
        module = index if name == "scan" else writer
        original = getattr(module, name)

        def last(*arguments: Any, **options: Any) -> Any:
            found = original(*arguments, **options)
            with contextlib.suppress(QueryError):  # only once
                remove_videos(archive.tables, [str(videos / "beach.mp4")], None)
                if compacted:
                    compact_tables(archive.tables)
            return found

        monkeypatch.setattr(module, name, last)

    return another


@pytest.mark.parametrize("name", ["scan", "copied_piece"])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_copy_of_a_video_that_is_removed_meanwhile(
    archive: Archive, videos: Path, meanwhile: Callable[..., None], name: str, compacted: bool
) -> None:
    copy = shutil.copy(videos / "beach.mp4", videos.parent / "copy.mp4")
    meanwhile(name, compacted=compacted)
    archive.add(copy)
    assert names(archive, "state = 'ready'") == {"copy.mp4", "garden.mp4", "night.mp4"}
    assert check_tables(archive.tables).faults == []
    assert info_of(archive.tables).duration_s == 3 * 16
    assert [Path(hit.path).name for hit in archive.search("yellow")] == ["copy.mp4"]


def test_what_is_removed_meanwhile_does_not_come_back_with_its_words(
    archive: Archive, videos: Path, meanwhile: Callable[..., None]
) -> None:
    (videos / "beach.srt").write_text("1\n00:00:00,500 --> 00:00:03,000\nWaves\n")
    meanwhile("scan", compacted=False)
    archive.add(videos)
    assert names(archive) == {"garden.mp4", "night.mp4"}


def test_another_model_is_refused(tmp_path: Path, videos: Path, archive: Archive) -> None:
    other = ColourGrounder(tmp_path)
    other.bundle.fingerprint = "another"
    with pytest.raises(ModelMismatchError, match="was indexed with"):
        Archive.open(archive.path, model=cast("object", other)).add(videos)  # type: ignore[arg-type]
