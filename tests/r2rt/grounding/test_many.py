"""Which videos files, folders, globs and lists stand for, and answers that one bad file leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt import Grounder, R2rtError, find_videos, ground_many
from r2rt.errors import NotAVideoError, OutputError, QueryError, SourceNotFoundError
from r2rt.grounding.many import answer_each, names_several, read_video_list
from r2rt.outputs.names import output_stems
from tests.r2rt.conftest import DEMO_VIDEO


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        *("clip 10.mp4", "clip 2.MOV", "notes.txt", ".hidden.mp4", "cover.jpg"),
        *("sub/a.mkv", "sub/deep/b.webm", "images/10.png", "images/9.png"),
        *("empty/readme.md", ".trash/c.mp4"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "code.ts").write_text("let x = 1")
    (tmp_path / "stream.ts").write_bytes(b"\x47\x40")
    (tmp_path / "sub/up").symlink_to(tmp_path)
    return tmp_path


def relative(videos: list[str], folder: Path) -> list[str]:
    return [str(Path(video).relative_to(folder)) for video in videos]


def test_a_folder_of_videos_stands_for_them_in_natural_order(tree: Path) -> None:
    assert relative(find_videos([tree]), tree) == [
        *("clip 2.MOV", "clip 10.mp4", "stream.ts", "sub/a.mkv", "sub/deep/b.webm"),
    ]
    assert names_several(str(tree))


def test_a_folder_of_images_is_one_video(tree: Path) -> None:
    assert find_videos([tree / "images"]) == [str(tree / "images")]
    assert not names_several(str(tree / "images"))


def test_globs_files_and_repeats(tree: Path) -> None:
    pattern = str(tree / "clip *")
    assert relative(find_videos([pattern]), tree) == ["clip 2.MOV", "clip 10.mp4"]
    deep = find_videos([str(tree / "**" / "*.[mw][ke][vb]*")])
    assert {"sub/a.mkv", "sub/deep/b.webm"} <= set(relative(deep, tree))
    twice = find_videos([str(tree / "clip 10.mp4"), pattern, str(tree / "." / "clip 10.mp4")])
    assert relative(twice, tree) == ["clip 10.mp4", "clip 2.MOV"]
    assert find_videos(["gone.mp4"]) == ["gone.mp4"]
    literal = tree / "what [1].mp4"
    literal.touch()
    assert find_videos([literal]) == [str(literal)]
    assert not names_several(str(literal))
    assert names_several(pattern)


def test_what_leads_to_no_video_is_reported(tree: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="empty: no videos"):
        find_videos([tree / "empty"])
    with pytest.raises(SourceNotFoundError, match="no video matches"):
        find_videos([str(tree / "*.avi")])


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa.mp4\n\n# not this one\n  b c.mp4  \n", encoding="utf-8")
    assert read_video_list(path) == ["a.mp4", "b c.mp4"]
    path.write_text("# nothing\n")
    with pytest.raises(QueryError, match="no videos in it"):
        read_video_list(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QueryError, match="UTF-16 text"):
        read_video_list(path)
    with pytest.raises(SourceNotFoundError, match="none"):
        read_video_list(tmp_path / "none")


def test_names_in_lists_are_taken_as_they_stand_where_they_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["#1.mp4", " lead.mp4", "tail.mp4 ", "a\u2028b.mp4", os.fsdecode(b"\xff.mp4")]
    for name in names:
        Path(name).write_bytes(b"x")
    path = tmp_path / "list.txt"
    lines = [*names, "# a comment", "  gone.mp4 ", "  # another"]
    path.write_bytes(b"\r\n".join(os.fsencode(line) for line in lines))
    assert read_video_list(path) == [*names, "gone.mp4"]
    # As `find -print0` writes them, even a line feed may be in a name.
    names.append("x\ny.mp4")
    path.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
    assert read_video_list(path, null=True) == names
    with pytest.raises(QueryError, match="--null"):
        read_video_list(path)


def test_links_in_a_circle_and_names_too_long_raise_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    (tmp_path / "dead.mp4").symlink_to(tmp_path / "none")
    (tmp_path / "real.mp4").write_bytes(b"x")
    assert find_videos([tmp_path]) == [str(tmp_path / "real.mp4")]
    named = [str(tmp_path / "a.mp4"), "x" * 5000]
    assert find_videos(named) == named


def test_a_folder_that_cannot_be_read_is_left_to_its_reader(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not bind the superuser, whom tests often run as.
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "deep":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert relative(find_videos([tree / "sub"]), tree) == ["sub/a.mkv", "sub/deep"]


def test_one_bad_video_stops_no_other(tiny_grounder: Grounder, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("nothing of the kind")
    encoded = tmp_path / "shapes.r2rt"
    tiny_grounder.encode(DEMO_VIDEO).save(encoded)
    videos = [DEMO_VIDEO, bad, tmp_path / "gone.mp4", encoded]
    answers = list(ground_many(tiny_grounder, videos, ["a ball", "a ring"], top_k=1))
    assert [video for video, _ in answers] == [str(video) for video in videos]
    alone = tiny_grounder.ground(DEMO_VIDEO, ["a ball", "a ring"], top_k=1)
    for place in (0, 3):
        found = answers[place][1]
        assert not isinstance(found, R2rtError)
        assert [item.moments for item in found] == [item.moments for item in alone]
    assert isinstance(answers[1][1], NotAVideoError)
    assert isinstance(answers[2][1], SourceNotFoundError)


def test_what_is_wrong_with_the_questions_is_reported_at_once(tiny_grounder: Grounder) -> None:
    with pytest.raises(QueryError):
        ground_many(tiny_grounder, ["a.mp4"], ["a ball", " "])
    with pytest.raises(QueryError):
        ground_many(tiny_grounder, ["a.mp4"], ["a ball"], window=-3.0)


def test_a_fault_becomes_an_error_and_a_full_disk_ends_it() -> None:
    def fault(video: str) -> str:
        if video == "disk":
            raise OutputError("disk full")
        if video == "bug":
            raise RuntimeError("oops\nmore")
        return video.upper()

    answers = answer_each(["a", "bug", "b", "disk", "c"], fault)
    assert next(answers) == ("a", "A")
    video, error = next(answers)
    assert video == "bug"
    assert isinstance(error, R2rtError)
    assert str(error) == "bug: internal error: RuntimeError: oops"
    assert isinstance(error.__cause__, RuntimeError)
    assert next(answers) == ("b", "B")
    with pytest.raises(OutputError):
        next(answers)


@pytest.mark.parametrize(
    ("videos", "stems"),
    [
        (["a.mp4", "b.mp4"], ["a", "b"]),
        (["x/a.mp4"], ["a"]),
        (["a.mp4", "a.mkv", "b.mp4"], ["a.mp4", "a.mkv", "b"]),
        (["/x/a.mp4", "/y/A.mp4", "/b.mp4"], ["x_a.mp4", "y_A.mp4", "b"]),
        (["/x_y/a.mp4", "/x/y_a.mp4", "/x/y/a.mp4"], ["x_y_a.mp4", "y_a", "x_y_a.mp4-2"]),
    ],
)
def test_files_are_distinguished(videos: list[str], stems: list[str]) -> None:
    assert output_stems(videos) == stems
