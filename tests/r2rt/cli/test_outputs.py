"""`r2rt ground` in several formats and over several videos, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import opentimelineio as otio
import pytest

from r2rt.cli.main import run
from r2rt.outputs import FORMATS
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

QUERY = "a red ball rolls to the right"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path_factory.getbasetemp() / "outputs-cache"))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    for name in ("clip 2.mp4", "clip 10.mp4", "more/clip 2.mp4"):
        shutil.copy(DEMO_VIDEO, folder / name)
    (folder / "broken.mp4").write_text("no video at all")
    return folder


def ground(*arguments: object) -> int:
    return run(["ground", *map(str, arguments), "--model", str(DEMO_BUNDLE), "--quiet"])


def test_every_format_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    options = [word for name in FORMATS for word in ("-f", name)]
    assert ground(DEMO_VIDEO, QUERY, "--output-dir", out, *options) == 0
    assert capsys.readouterr().out == ""
    assert {path.name for path in out.glob("[!.]*")} == {
        *("shapes.txt", "shapes.json", "shapes.jsonl", "shapes.csv", "shapes.srt", "shapes.vtt"),
        *("shapes.chapters.txt", "shapes.edl", "shapes.otio", "shapes.fcpxml", "shapes.xml"),
        *("shapes.resolve.edl", "shapes.resolve.csv", "shapes.premiere.csv"),
    }
    clips = list(otio.adapters.read_from_file(str(out / "shapes.otio")).find_clips())
    scores = [clip.metadata["r2rt"]["score"] for clip in clips]  # the good ones; data has all
    assert min(scores) >= 0.5 * max(scores)
    assert len(json.loads((out / "shapes.json").read_text())["results"][0]["moments"]) > len(clips)
    assert ground(DEMO_VIDEO, QUERY, "-f", "edl", "--top-k", 2, "--frame-rate", "29.97") == 0
    text = capsys.readouterr().out
    assert "FCM: DROP FRAME" in text
    assert len([line for line in text.splitlines() if line[:3].isdigit()]) == 2
    assert ground(DEMO_VIDEO, QUERY, "-f", "edl", "--frame-rate", "29.97", "--no-drop-frame") == 0
    assert "NON-DROP" in capsys.readouterr().out


def test_a_folder_with_one_bad_file(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ground(videos, QUERY, "-f", "json", "--top-k", 1) == 4
    out, err = capsys.readouterr()
    documents = json.loads(out)["videos"]
    names = ["broken.mp4", "clip 2.mp4", "clip 10.mp4", "more/clip 2.mp4"]
    assert [item["video"] for item in documents] == [str(videos / name) for name in names]
    assert documents[0]["error"]["code"] == 11
    assert documents[1]["results"] == documents[2]["results"]
    errors = [line for line in err.splitlines() if line.startswith("r2rt: error: ")]
    assert len(errors) == 2
    assert "broken.mp4" in errors[0]
    assert "1 of 4 videos failed" in errors[1]


def test_the_best_of_all_videos(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ground(str(videos / "clip*.mp4"), QUERY, "--rank", "--top-k", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("│") for line in lines if line.startswith("│")]
    scores = [float(row[2]) for row in rows if row[1].strip()]  # others go on with a long name
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)


def test_a_long_query_is_not_broken_to_its_tables_width(
    capsys: pytest.CaptureFixture[str],
) -> None:
    query = "a red ball rolls to the right and a blue square to the left"
    assert ground(DEMO_VIDEO, query) == 0
    title, border = capsys.readouterr().out.splitlines()[:2]
    assert title == query
    assert len(border) < len(title)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (["-f", "csv"], None),
        (["-f", "csv", "-f", "srt"], 3),
        (["-f", "json", "--plot", "plot.png"], 3),
        (["-f", "csv", "-f", "table"], 2),
        (["-f", "csv", "-f", "srt", "--top-k", "4"], None),
    ],
)
def test_moments_that_are_left_out_beside_all_of_them_are_reported(
    options: list[str],
    most: int | None,
    videos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(videos)
    monkeypatch.setattr("r2rt.cli.outputs.MOST", 3)
    monkeypatch.setattr("r2rt.cli.outputs._FEW", 2)
    asked = [*options, "--output-dir", "out", "--model", str(DEMO_BUNDLE)]
    for names in (["clip 2.mp4"], ["clip 2.mp4", "clip 10.mp4"]):
        assert run(["ground", *names, "-q", "a red ball", "-q", "a ring", *asked]) == 0
        said = " ".join(capsys.readouterr().err.split())
        if most is None:
            assert "half as much" not in said
        elif len(names) == 1:
            assert "a red ball: 6 moments score at least half as much" in said
            assert f"--top-k 6 writes more of them than {most}" in said
        else:
            assert said.count("half as much") == 1
            assert "in 2 of the videos, up to 6 moments score" in said


def test_finished_videos_are_left_out(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ("--output-dir", out, "-f", "srt", "-f", "csv", "--skip-existing")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{videos / 'clip 2.mp4'}\n# and\n{videos / 'more'}\n")
    assert ground("--videos-from", listed, QUERY, *options) == 0
    files = sorted(out.glob("[!.]*"))
    assert len(files) == 4
    assert len({path.name for path in files}) == 4  # though both videos have one name
    for path in files:
        path.write_text("kept")
        os.utime(path, ns=(2**62, 2**62))
    assert ground("--videos-from", listed, QUERY, *options) == 0
    assert {path.read_text() for path in files} == {"kept"}
    os.utime(files[0], ns=(1, 1))
    assert ground("--videos-from", listed, QUERY, *options) == 0
    assert [path.read_text() == "kept" for path in files].count(False) == 2  # one video's
    assert ground("--videos-from", listed, QUERY, *options[:-1]) == 0
    assert "kept" not in {path.read_text() for path in files}


def test_a_playlist_is_never_finished(tmp_path: Path) -> None:
    """The files that it names may have changed while it stayed as it was."""
    shutil.copy(DEMO_VIDEO, tmp_path / "demo.mp4")
    playlist = tmp_path / "list.ffconcat"
    playlist.write_text("ffconcat version 1.0\nfile demo.mp4\n")
    out = tmp_path / "out"
    asked = [playlist, QUERY, "--output-dir", out, "-f", "csv", "--skip-existing"]
    assert ground(*asked) == 0
    (written,) = out.glob("[!.]*")
    written.write_text("kept")
    assert ground(*asked) == 0
    assert written.read_text() != "kept"


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--clips", "clips"),
        ("--thumbnails", "stills"),
        ("--contact-sheet", "sheet.png"),
        ("--plot", "plot.png"),
        ("--report", "report.html"),
    ],
)
def test_a_video_is_finished_only_with_all_that_is_made_of_it(
    option: str, name: str, several: bool, videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = [videos / "more" if several else videos / "more" / "clip 2.mp4", "-q", QUERY]
    asked += ["--top-k", 2, "--output-dir", out, "-f", "csv", "--skip-existing"]

    def is_asked(*more: object) -> bool:
        (out / "clip 2.csv").write_text("kept")
        assert ground(*asked, *more) == 0
        return (out / "clip 2.csv").read_text() != "kept"

    assert ground(*asked) == 0
    assert not is_asked()
    assert is_asked(option, tmp_path / name)
    made = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != out]
    made = [path for path in made if videos not in path.parents]
    assert made
    assert not is_asked(option, tmp_path / name)
    for path in made:
        os.utime(path, ns=(1, 1))
    assert is_asked(option, tmp_path / name)
    for path in made:
        path.rename(path.with_name(f"another-{path.name}"))
    assert is_asked(option, tmp_path / name)


def test_images_of_videos_with_like_names_are_distinguished(videos: Path, tmp_path: Path) -> None:
    long = "a" * 90
    names = ["clip 2", "clip_2", f"{long} b", f"{long} c"]
    named = [word for name in names for word in ("-i", videos / f"{name}.mp4")]
    for name in names[1:]:
        shutil.copy(DEMO_VIDEO, videos / f"{name}.mp4")
    made = ["--plot", tmp_path / "plot.png", "--thumbnails", tmp_path / "stills"]
    assert ground(QUERY, *named, "--top-k", 1, *made) == 0
    assert len(list(tmp_path.glob("plot.*.png"))) == len(names)
    assert len(list((tmp_path / "stills").iterdir())) == len(names)


def test_videos_are_distinguished_from_queries(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = videos / "clip 2.mp4", videos / "clip 10.mp4"

    def asked(*arguments: object) -> list[tuple[str, list[str]]]:
        assert ground(*arguments, "-f", "json", "--top-k", 1) == 0
        document = json.loads(capsys.readouterr().out)
        found = document.get("videos", [document])
        return [(x["video"], [y["query"] for y in x["results"]]) for x in found]

    assert asked(one, "a", "b") == [(str(one), ["a", "b"])]
    assert asked(one, "a", "-q", "b") == [(str(one), ["a", "b"])]
    assert asked(one, two, "-q", "b") == [(str(one), ["b"]), (str(two), ["b"])]
    assert asked(one, two, "a", "-q", "b") == [(str(one), ["a", "b"]), (str(two), ["a", "b"])]
    assert asked("a", "-i", two, "-i", one) == [(str(two), ["a"]), (str(one), ["a"])]
    assert asked("a", "-i", one) == [(str(one), ["a"])]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{one}", "{two}", "a"], 2, "is a file, not a query"),
        (["{one}", "-i", "{two}", "a"], 2, "is a file, not a query"),
        (["a", "{one}"], 2, "name the video first"),
        ([], 2, "no video"),
        (["{one}"], 2, "no query"),
        (["{folder}", "a", "-f", "edl"], 2, "--output-dir"),
        (["{one}", "a", "-f", "edl", "-f", "srt"], 2, "--output-dir"),
        (["{one}", "a", "-o", "x", "--output-dir", "y"], 2, "give one of them"),
        (["{one}", "a", "--skip-existing"], 2, "--output-dir"),
        (["{one}", "a", "-o", "x.mp4"], 2, "use --reel"),
        (["{one}", "a", "-o", "x.PDF"], 2, "no format has this suffix"),
        (["{one}", "a", "--json", "-o", "x.mp4"], 2, "no format has this suffix"),
        (
            ["{folder}", "a", "--output-dir", "{folder}/x", "--skip-existing", "--reel", "r.mp4"],
            *(2, "all videos"),
        ),
        (["{one}", "a", "--rank", "-f", "csv"], 2, "--rank is a table"),
        (["{one}", "a", "--frame-rate", "0"], 2, "is no frame rate"),
        (["{one}", "a", "--frame-rate", "25"], 2, "edl, otio, fcpxml, xmeml"),
        (["{one}", "a", "-f", "srt", "--no-drop-frame"], 2, "edl, otio, fcpxml, xmeml"),
        (["{folder}/none.mp4", "a", "-o", "{folder}/none/x.txt"], 40, "make it first"),
        (["{folder}/none.mp4", "a", "--output-dir", "{one}"], 40, "not a folder"),
        (["{folder}/none.mp4", "a", "--clips", "{one}"], 40, "not a folder"),
        (["{folder}/*.avi", "a"], 10, "no video matches"),
        (["-i", "{folder}/none.mp4", "-q", "a"], 10, "none.mp4"),
        (["{one}", "{folder}/none.mp4", "-q", "a"], 4, "1 of 2 videos failed"),
        (["--videos-from", "{folder}/none.txt", "a"], 10, "none.txt"),
    ],
)
def test_what_cannot_be_done_is_said(
    videos: Path,
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"one": videos / "clip 2.mp4", "two": videos / "clip 10.mp4", "folder": videos}
    assert ground(*(text.format(**names) for text in arguments)) == code
    assert words in capsys.readouterr().err


def test_an_encoded_video_counts_in_its_sources_frames(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = videos / "clip 2.mp4"
    encoded = tmp_path / "kept.r2rt"
    assert run(["encode", str(source), str(encoded), "-m", str(DEMO_BUNDLE), "--quiet"]) == 0
    assert ground(encoded, QUERY, "-f", "edl") == 0
    assert "* FROM CLIP NAME: clip 2.mp4" in capsys.readouterr().out
    source.unlink()
    assert ground(encoded, QUERY, "-f", "edl") == 2
    assert "--frame-rate" in capsys.readouterr().err
    assert ground(encoded, QUERY, "-f", "edl", "--frame-rate", "25") == 0
    assert ground(encoded, QUERY, "-f", "srt") == 0


def test_an_encoded_video_exports_from_no_other_file_of_its_name(
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = tmp_path / "kept.r2rt"
    monkeypatch.chdir(videos)
    assert run(["encode", "clip 2.mp4", str(encoded), "-m", str(DEMO_BUNDLE), "--quiet"]) == 0
    assert ground(encoded, QUERY, "-f", "edl", "--clips", tmp_path / "clips") == 0
    (tmp_path / "clip 2.mp4").write_bytes(DEMO_VIDEO.read_bytes() + b"another")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    for options in (["-f", "edl"], ["-f", "edl", "--frame-rate", 25], ["--clips", "more"]):
        assert ground(encoded, QUERY, *options) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert f"clip 2.mp4: not the file that {encoded} was encoded from" in err
    assert ground(encoded, QUERY, "-f", "srt") == 0


@pytest.mark.slow
def test_names_that_are_no_text_or_very_long(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / os.fsdecode(b"bad \xff.mp4")
    try:
        shutil.copy(DEMO_VIDEO, odd)
    except OSError:
        pytest.skip("this file system has names of text alone")
    long = tmp_path / ("n" * 250 + ".mp4")
    shutil.copy(DEMO_VIDEO, long)
    out = tmp_path / "out"
    options = [word for name in FORMATS for word in ("-f", name)]
    assert ground(odd, long, "-q", QUERY, "--output-dir", out, *options) == 0
    assert len(list(out.glob("[!.]*"))) == 2 * len(FORMATS)
    for name in FORMATS:
        assert ground(odd, QUERY, "-f", name) == 0
        assert QUERY in capfd.readouterr().out
    kept = str(tmp_path / "kept.r2rt")
    assert run(["encode", str(odd), kept, "-m", str(DEMO_BUNDLE), "--quiet"]) == 0
    assert ground(odd, QUERY, "-f", "json", "--top-k", 1) == 0
    assert (
        json.loads(capfd.readouterr().out)["video"]
        == f"{tmp_path}/bad \N{REPLACEMENT CHARACTER}.mp4"
    )


@pytest.mark.parametrize("options", [[], ["-f", "json"]])
def test_a_closed_stdout_is_said(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert ground(DEMO_VIDEO, QUERY, *options) == 40
    assert "standard output is closed" in capsys.readouterr().err


@pytest.mark.parametrize("several", [False, True])
def test_answers_are_not_lost_where_clips_fail(
    several: bool, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = videos / "clip 2.mp4"
    asked = [videos if several else one, "-q", QUERY]
    assert ground(*asked, "-f", "csv", "--top-k", 1, "--clips", one / "below a file") == 40
    streams = capsys.readouterr()
    assert QUERY in streams.out
    assert "cannot be made a folder" in streams.err


def test_a_dash_is_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ground(DEMO_VIDEO, QUERY, "-f", "csv", "-o", "-") == 0
    assert QUERY in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
@pytest.mark.parametrize(
    "option", ["-o", "--reel", "--contact-sheet", "--plot", "--report", "encode"]
)
def test_no_output_overwrites_an_input(
    link: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = {"--contact-sheet": ".png", "--plot": ".png", "--report": ".html"}.get(option, ".mp4")
    video = Path(shutil.copy(DEMO_VIDEO, tmp_path / f"film{suffix}"))
    output = video if link == "same" else tmp_path / f"other{suffix}"
    if link == "symbolic":
        output.symlink_to(video)
    elif link == "hard":
        output.hardlink_to(video)
    before = video.read_bytes()
    if option == "encode":
        code = run(["encode", str(video), str(output), "-m", str(DEMO_BUNDLE), "--quiet"])
    else:
        code = ground(video, QUERY, option, output)
    assert code == 40
    assert "is the input" in capsys.readouterr().err
    assert video.read_bytes() == output.read_bytes() == before


@pytest.mark.parametrize("command", ["ground", "encode"])
def test_a_folder_in_place_of_a_file_is_refused_before_a_model_is_looked_for(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [QUERY, "-f", "json", "-o", str(tmp_path)] if command == "ground" else [str(tmp_path)]
    assert run([command, str(DEMO_VIDEO), *words, "-m", str(tmp_path / "none")]) == 40
    assert f"{tmp_path}: a folder; give the name of a file in it" in capsys.readouterr().err


def test_folders_of_outputs_keep_inputs_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = Path(shutil.copy(DEMO_VIDEO, tmp_path / "film.mp4"))
    assert ground(video, QUERY, "--top-k", 1, "--thumbnails", tmp_path / "stills") == 0
    (still,) = (tmp_path / "stills").iterdir()
    still.unlink()
    still.hardlink_to(video)
    assert ground(video, QUERY, "--top-k", 1, "--thumbnails", tmp_path / "stills") == 40
    (tmp_path / "film.csv").hardlink_to(video)
    assert ground(video, QUERY, "-f", "csv", "--output-dir", tmp_path) == 40
    assert capsys.readouterr().err.count("is the input") == 2
    assert video.read_bytes() == DEMO_VIDEO.read_bytes()


@pytest.mark.slow
def test_the_suffix_of_the_output_names_the_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, item in FORMATS.items():
        path = tmp_path / f"out{item.suffix}"
        assert ground(DEMO_VIDEO, QUERY, "--top-k", 1, "-o", path) == 0
        plain = tmp_path / "plain"
        assert ground(DEMO_VIDEO, QUERY, "--top-k", 1, "-f", name, "-o", plain) == 0
        if name != "json":  # it has timings
            assert path.read_text() == plain.read_text()
    assert ground(DEMO_VIDEO, QUERY, "-f", "json", "-o", tmp_path / "a.srt") == 2
    assert "a.json" in capsys.readouterr().err
    assert ground(DEMO_VIDEO, QUERY, "-f", "csv", "-o", tmp_path / "a.txt", "--top-k", 1) == 0


def test_a_name_too_long_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-o", "--output-dir", "--clips", "--thumbnails"):
        assert ground(DEMO_VIDEO, QUERY, option, "n" * 300) == 40
        assert "name too long" in capsys.readouterr().err.lower()


def test_a_ranking_has_twenty_rows_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [shutil.copy(DEMO_VIDEO, tmp_path / f"{number}.mp4") for number in range(5)]
    assert ground(*videos, "-q", QUERY, "-q", "a ring", "--rank") == 0
    text = capsys.readouterr().out
    assert len(re.findall(r"^│ +\d", text, re.MULTILINE)) == 20
    assert "30 further moments" in text
    assert ground(*videos, "-q", QUERY, "-q", "a ring", "--rank", "--rows", 3) == 0
    assert len(re.findall(r"^│ +\d", capsys.readouterr().out, re.MULTILINE)) == 3
