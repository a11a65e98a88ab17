"""Videos at addresses, and libraries; fsspec's store in memory is used as any other store is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import opentimelineio as otio
import pytest
from PIL import Image

from r2rt.archive.formats import render
from r2rt.archive.library import Archive
from r2rt.archive.maintenance import info_of
from r2rt.archive.result import Hit, SearchResult, SearchTimings
from r2rt.archive.sheet import write_hits_page
from r2rt.cli.hits_media import deliver_hits_media
from r2rt.cli.main import run
from r2rt.cli.media import MediaOptions
from r2rt.errors import QueryError, SourceNotFoundError
from tests.r2rt.archive.colours import colour_grounder, make_colours, write_colours
from tests.r2rt.media.footage import watch, write_footage
from tests.r2rt.ranges import running_ranges

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def address() -> Iterator[str]:
    yield "memory://bucket/garden.mp4"
    fsspec.filesystem("memory").store.clear()


def put(tmp_path: Path, address: str, colours: list[str]) -> None:
    content = write_colours(tmp_path / "video.mp4", colours).read_bytes()
    with fsspec.open(address, "wb") as file:
        file.write(content)


def test_what_is_at_an_address_is_shown_without_secrets_compared_and_removed(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, address, ["green", "red"])
    failing = "memory://anne:secret@host/no.mp4?key=secret"
    with fsspec.open(failing, "wb") as file:
        file.write(b"no video" * 1000)
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add([address, failing])
    assert run(["library", "info", str(tmp_path / "library")]) == 0
    said = capsys.readouterr().out
    assert "memory://host/no.mp4" in said
    assert "secret" not in said
    (hit,) = archive.search(like=f"{address}@0:05").hits
    assert (hit.start_s, hit.end_s) == (4, 8)
    assert run(["library", "remove", str(tmp_path / "library"), "memory://bucket/"]) == 0
    assert [row["path"] for row in archive.videos()] == [failing]


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


def test_a_folder_of_a_store_is_indexed_and_followed(tmp_path: Path, address: str) -> None:
    """Its videos are those that the store lists; a file that is not a video is left out."""
    folder = address.rpartition("/")[0]
    later = f"{folder}/clips [old]/2.mp4"
    put(tmp_path, f"{folder}/10.mp4", ["green", "red"])
    put(tmp_path, later, ["red", "green"])
    with fsspec.open(f"{folder}/notes.txt", "wb") as file:
        file.write(b"not a video")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    assert archive.add(f"{folder}/").added == 2
    assert {path for path, _, _ in moments(archive, "red")} == {f"{folder}/10.mp4", later}
    for same in (folder, f"{folder}/", f"{folder}/**/*.mp4"):
        assert archive.add(same).unchanged == 2
    # A glob names what it fits, and what fitted it before.
    put(tmp_path, f"{folder}/3.mp4", ["blue"])
    assert archive.add(f"{folder}/1*.mp4").unchanged == 1
    fsspec.filesystem("memory").rm_file(later)
    report = archive.add(folder)
    assert (report.added, report.removed, report.unchanged) == (1, 1, 1)
    assert [path for path, _, _ in moments(archive, "red")] == [f"{folder}/10.mp4"]
    # A single file says nothing of the others.
    fsspec.filesystem("memory").rm(f"{folder}/3.mp4")
    assert archive.add(f"{folder}/10.mp4").unchanged == 1
    fsspec.filesystem("memory").rm(f"{folder}/10.mp4")
    assert archive.add(folder).removed == 2


def test_a_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    with fsspec.open("memory://bucket/notes.txt", "wb") as file:
        file.write(b"not a video")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    for empty in ("memory://bucket", "memory://bucket/*.mp4", "memory://elsewhere/"):
        with pytest.raises(SourceNotFoundError, match=r"no videos there|cannot be listed"):
            archive.add(empty)
    assert list(archive.videos()) == []


def test_an_address_without_a_file_fails_with_its_reason(tmp_path: Path) -> None:
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    (reason,) = archive.add("memory://bucket/nothing.mp4").failed.values()
    assert "memory://bucket/nothing.mp4" in reason


@pytest.mark.parametrize("kind", ["memory", "strange"])
def test_messages_do_not_show_what_an_address_keeps_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    arguments = [
        "index",
        str(tmp_path / "library"),
        f"{kind}://anne:secret@bucket/no.mp4?key=secret",
    ]
    assert run([*arguments, "-m", "demo"]) == 4
    written = capfd.readouterr()
    assert f"{kind}://bucket/no.mp4: " in written.err
    assert "secret" not in written.out + written.err


def test_a_library_is_made_at_an_address(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_colours(tmp_path / "videos")
    place = (tmp_path / "library").as_uri()
    archive = Archive.open(place, model=colour_grounder(tmp_path))
    with pytest.raises(QueryError, match="leave --quota out"):  # it could not be kept to
        archive.add(tmp_path / "videos", quota_bytes=1)
    assert archive.add(tmp_path / "videos").added == 3
    again = Archive.open(place, model=colour_grounder(tmp_path))
    assert again.add(tmp_path / "videos").unchanged == 3
    assert [Path(hit.path).name for hit in again.search("yellow")] == ["beach.mp4"]
    found = info_of(again.tables)
    assert (found.videos, found.size_bytes, found.table_bytes) == (3, None, None)
    assert run(["library", "compact", place]) == run(["library", "info", place]) == 0
    assert "MB" not in "".join(capfd.readouterr())


def test_a_video_whose_server_does_not_answer_stays_in_the_library(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    with running_ranges() as server:
        server.files["garden.mp4"] = write_colours(tmp_path / "video.mp4", ["red"]).read_bytes()
        address = f"{server.url}/garden.mp4"
        assert archive.add(address).added == 1
    assert archive.add(address).unchanged == 1
    assert moments(archive, "red") == [(address, 0, 4)]


def found_in(path: str) -> SearchResult:
    hits = tuple(
        Hit(path=path, start_s=start_s, end_s=start_s + 1.2, score=0.5, duration_s=4.0)
        for start_s in (2.2, 0.4)
    )
    return SearchResult(
        query="a dog", hits=hits, timings=SearchTimings(query_s=0, first_s=0, second_s=0)
    )


def test_what_is_made_of_hits_at_an_address_is_as_of_the_file(
    tmp_path: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_footage(tmp_path / "my garden.mp4", frames=100)
    address = "memory://anne:secret@bucket/my%20garden.mp4?key=secret"
    with fsspec.open(address, "wb") as there:
        there.write(file.read_bytes())
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder, path in ((here, str(file)), (elsewhere, address)):
        folder.mkdir()
        wanted = MediaOptions(
            clips=folder / "clips",
            copy=True,
            thumbnails=folder / "images",
            reel=folder / "reel.mp4",
            contact_sheet=folder / "sheet.png",
            report=folder / "page.html",
        )
        deliver_hits_media(found_in(path), wanted, quiet=False)
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
        for folder in (here, elsewhere)
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 7
    for name in names[0]:
        if name.endswith(".mp4"):
            assert watch(elsewhere / name) == watch(here / name)
        elif name.endswith(".jpg"):
            assert (elsewhere / name).read_bytes() == (here / name).read_bytes()
    with Image.open(here / "sheet.png") as mine, Image.open(elsewhere / "sheet.png") as other:
        assert mine.tobytes() == other.tobytes()
    texts = [render("otio", found_in(path)) for path in (str(file), address)]
    mine, other = (otio.adapters.read_from_string(text) for text in texts)
    pairs = zip(mine.find_clips(), other.find_clips(), strict=True)
    assert all(one.source_range == two.source_range for one, two in pairs)
    assert {clip.media_reference.target_url for clip in other.find_clips()} == {address}
    page = (elsewhere / "page.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2  # a store in memory is no place that a browser knows
    assert "<video" not in page
    assert "secret" not in page + capfd.readouterr().err


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("https://host/a%20dog.mp4", "https://host/a%20dog.mp4"),
        ("https://anne:secret@host/a%20dog.mp4", None),
        ("https://host/a%20dog.mp4?key=secret", None),
        ("s3://bucket/a dog.mp4", None),
    ],
)
def test_a_page_plays_videos_at_addresses_of_the_web_that_hold_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, link: str | None
) -> None:
    monkeypatch.setattr("r2rt.archive.sheet._frames", lambda _: {})
    write_hits_page(found_in(path), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("a dog.mp4") >= 2
    assert "secret" not in page
    if link is None:
        assert "src=" not in page
    else:
        assert f'src="{link}#t=2.200,3.400"' in page
        assert "media-src &#39;self&#39; file: http: https:;" in page
