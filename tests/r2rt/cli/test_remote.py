"""Commands about videos at addresses: their answers are those of the file, fetched in parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from r2rt.cli.main import run
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.grounder import Grounder
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO
from tests.r2rt.local_server import local_server
from tests.r2rt.ranges import running_ranges

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

QUERY = "a red ball rolls to the right"
SECRET = "memory://anne:secret@bucket/my%20shapes.mp4?key=secret"
SHOWN = "memory://bucket/my%20shapes.mp4"


@pytest.fixture
def store() -> Iterator[Any]:
    """A store in memory."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def put(address: str, content: bytes = b"") -> None:
    with fsspec.open(address, "wb") as file:
        file.write(content or DEMO_VIDEO.read_bytes())


def asked(*arguments: object, code: int = 0) -> None:
    words = [str(argument) for argument in arguments]
    assert run([*words, "--model", str(DEMO_BUNDLE), "--device", "cpu"]) == code


def test_the_answer_is_that_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    documents = []
    with running_ranges() as server:
        server.files["shapes.mp4"] = DEMO_VIDEO.read_bytes()
        for video in (str(DEMO_VIDEO), f"{server.url}/shapes.mp4"):
            asked("ground", video, QUERY, "--json")
            document = json.loads(capsys.readouterr().out)
            assert document.pop("video") == video
            for result in document["results"]:
                result.pop("timings", None)
            document.pop("timings", None)
            documents.append(document)
        with Grounder.load(DEMO_BUNDLE, device="cpu") as grounder:
            (best, *_) = grounder.ground(f"{server.url}/shapes.mp4", QUERY).moments
    assert documents[0] == documents[1]
    assert best.start_s == pytest.approx(documents[0]["results"][0]["moments"][0]["start_s"])


@pytest.mark.usefixtures("store")
def test_files_are_made_of_it_and_nothing_tells_its_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(SECRET)
    out = tmp_path / "out"
    asked(
        *("ground", SECRET, QUERY, "--top-k", "2", "--output-dir", out),
        *("-f", "json", "-f", "csv", "-f", "jsonl", "-f", "edl", "-f", "srt"),
        *("--clips", out / "clips", "--plot", out / "plot.png", "--report", out / "page.html"),
    )
    made = [path.name for path in out.iterdir() if path.is_file() and path.stem == "my shapes"]
    assert {Path(name).suffix for name in made} == {".json", ".csv", ".jsonl", ".edl", ".srt"}
    clips = [path.name for path in (out / "clips").iterdir()]
    assert len(clips) == 2
    assert all(name.startswith("my-shapes.a-red-ball") for name in clips)
    asked("encode", SECRET, out / "shapes.r2rt")
    assert EncodedVideo.load(out / "shapes.r2rt").source == SHOWN
    texts = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    said = "".join(capsys.readouterr())
    assert not any(b"secret" in text for text in texts)
    assert "secret" not in said
    # An encoding may come from anyone: what it names is not fetched.
    asked("ground", out / "shapes.r2rt", QUERY, "--clips", tmp_path / "more", code=2)
    assert "is not a video file here" in capsys.readouterr().err


@pytest.mark.usefixtures("store")
def test_a_decoder_that_does_not_read_addresses_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(SHOWN)
    for decoder, departures in (
        ("cuda", {"decoder_fallback": "cuda does not decode videos at addresses"}),
        ("auto", {}),
    ):
        asked("ground", SHOWN, QUERY, "--json", "--no-cache", "--decoder", decoder)
        said = capsys.readouterr()
        assert json.loads(said.out)["departures"] == departures
        assert ("decoded on the CPU: cuda does not" in said.err) == bool(departures)


@pytest.mark.usefixtures("store")
def test_a_second_question_decodes_nothing_until_the_video_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(SECRET)
    for changed, from_cache in ((False, False), (False, True), (True, False)):
        if changed:
            put(SECRET, DEMO_VIDEO.read_bytes() + bytes(64))
        asked("ground", SECRET, QUERY)
        said = capsys.readouterr().err
        assert ("from the cache" in said) == from_cache


@pytest.mark.usefixtures("store")
def test_a_finished_video_is_left_out_until_it_changes(tmp_path: Path) -> None:
    put(SECRET)
    out = tmp_path / "out"
    options = ("--output-dir", out, "-f", "csv", "--skip-existing")
    asked("ground", SECRET, QUERY, *options[:-1])
    written = out / "my shapes.csv"
    for changed in (False, True):
        if changed:
            put(SECRET, DEMO_VIDEO.read_bytes() + bytes(64))
        written.write_text("kept")
        asked("ground", SECRET, QUERY, *options)
        assert (written.read_text() == "kept") != changed
    assert "secret" not in (out / ".r2rt-asked.jsonl").read_text()


def test_without_a_word_of_its_server_on_changes_nothing_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_ranges() as server:
        server.files["shapes.mp4"] = DEMO_VIDEO.read_bytes()
        for _ in range(2):
            (tmp_path / "shapes.csv").write_text("old")
            options = ("--output-dir", tmp_path, "-f", "csv", "--skip-existing")
            asked("ground", f"{server.url}/shapes.mp4", QUERY, *options)
            assert "from the cache" not in capsys.readouterr().err
            assert (tmp_path / "shapes.csv").read_text() != "old"


@pytest.mark.usefixtures("store")
def test_a_folder_of_a_store_is_several_videos(capsys: pytest.CaptureFixture[str]) -> None:
    put("memory://bucket/2.mp4")
    put("memory://bucket/10.mp4", b"not a video")
    put("memory://bucket/notes.txt", b"text")
    asked("ground", "memory://bucket/", QUERY, "--json", code=4)
    said = capsys.readouterr()
    documents = json.loads(said.out)["videos"]
    assert [item["video"] for item in documents] == [
        "memory://bucket/2.mp4",
        "memory://bucket/10.mp4",
    ]
    assert documents[1]["error"]["kind"] == "NotAVideoError"
    asked("ground", "memory://bucket/*.avi", QUERY, code=10)
    assert "memory://bucket/*.avi: no videos there" in capsys.readouterr().err


def test_videos_and_queries_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with running_ranges() as server:
        server.files["a"] = server.files["b"] = DEMO_VIDEO.read_bytes()
        asked("ground", f"{server.url}/a", f"{server.url}/b", "-q", QUERY, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [item["video"] for item in found["videos"]] == [f"{server.url}/a", f"{server.url}/b"]


def test_a_server_without_ranges_is_told_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(DEMO_VIDEO, tmp_path / "shapes.mp4")
    with local_server(partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as url:
        asked("ground", f"{url}/shapes.mp4", QUERY, code=10)
    assert "gives whole files and no parts of them; download it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!doctype html><title>A page</title>", "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n1.ts\n#EXT-X-ENDLIST\n", "not a video"),
    ],
)
def test_what_is_no_video_is_an_error(
    content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_ranges() as server:
        server.files["page"] = content
        asked("ground", f"{server.url}/page", QUERY, code=11)
    assert reason in capsys.readouterr().err
