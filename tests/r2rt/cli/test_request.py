"""What the commands share that answer about videos: pipes, lists, what was asked, jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from r2rt import EncodedVideo
from r2rt.cli.asked import NAME, AskedRecord
from r2rt.cli.main import run
from r2rt.cli.sequences import Asked
from r2rt.errors import OutputError, QueryError
from r2rt.queries import Query
from tests.conftest import CHECKOUT
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

QUERY = "a red ball"


def ground(*arguments: object) -> int:
    return run(["ground", *map(str, arguments), "--model", str(DEMO_BUNDLE)])


def piped(*arguments: object, stdin: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run with a pipe, not a file, as standard input."""
    command = [sys.executable, "-m", "r2rt", *map(str, arguments), "--model", str(DEMO_BUNDLE)]
    with subprocess.Popen(["cat", str(stdin)], stdout=subprocess.PIPE) as cat:
        return subprocess.run(
            command,
            stdin=cat.stdout,
            capture_output=True,
            text=True,
            env=os.environ | environment,
            check=False,
        )


def results(text: str) -> list[dict[str, object]]:
    document = json.loads(text)
    return [item["results"] for item in document.get("videos", [document])]


class TestPipes:
    @pytest.mark.slow
    def test_standard_input_and_a_named_pipe_give_the_answer_of_the_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        temporary = tmp_path / "tmp"
        temporary.mkdir()
        assert ground(DEMO_VIDEO, QUERY, "--json") == 0
        want = results(capsys.readouterr().out)
        how = ("--json", "--no-cache")
        result = piped("ground", "-", QUERY, *how, stdin=DEMO_VIDEO, TMPDIR=str(temporary))
        assert result.returncode == 0, result.stderr
        assert results(result.stdout) == want
        document = json.loads(result.stdout)
        assert document["video"] == "-"
        assert document["timings"]["encode_s"] > 0
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        with subprocess.Popen(["/bin/sh", "-c", f"cat '{DEMO_VIDEO}' > '{fifo}'"]):
            assert ground(fifo, QUERY, "--json") == 0
        out = capsys.readouterr().out
        assert results(out) == want
        assert json.loads(out)["video"] == str(fifo)
        assert not list(temporary.glob("r2rt-*"))

    @pytest.mark.slow
    def test_a_pipe_can_be_encoded_and_has_a_limit(self, tmp_path: Path) -> None:
        encoded = tmp_path / "x.r2rt"
        result = piped("encode", "-", encoded, stdin=DEMO_VIDEO, R2RT_SPOOL_BYTES="10K")
        assert result.returncode == 2
        assert "R2RT_SPOOL_BYTES" in result.stderr.splitlines()[-1]
        assert not encoded.exists()
        assert piped("encode", "-", encoded, stdin=DEMO_VIDEO).returncode == 0
        assert EncodedVideo.load(encoded).source == "-"
        assert ground(encoded, QUERY, "--quiet") == 0

    def test_what_cannot_be_read_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert ground("/dev/zero", QUERY) == 2
        assert "/dev/zero is a device, not a video file; r2rt watch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ground", "", QUERY], 2, "the name of the video is empty"),
        (["ground", "-i", "", QUERY], 2, "the name of the video is empty"),
        (["highlights", ""], 2, "the name of the video is empty"),
        (["encode", "", "x.r2rt"], 2, "the name of the video is empty"),
        (["watch", "", QUERY], 2, "the name of the source is empty"),
        pytest.param(["ground", "x" * 5000, QUERY], 10, "too long", id="name"),
        pytest.param(["ground", "a/" * 3000, QUERY], 10, "too long", id="path"),
        pytest.param(["encode", "x" * 5000, "x.r2rt"], 10, "too long", id="encode"),
        (["ground", "a.mp4", QUERY, "--null"], 2, "--videos-from"),
        (["ground", "a.mp4", QUERY, "-o", "x.json", "-o", "y.json"], 2, "given 2 times"),
    ],
)
def test_names_that_are_no_videos(
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO_VIDEO, tmp_path / "in-the-current-folder.mp4")
    assert run([*arguments, "--model", str(DEMO_BUNDLE)]) == code
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert words in stderr.splitlines()[-1]
    assert "internal error" not in stderr


def test_names_and_queries_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = tmp_path / "a\x1b[2J\nr2rt: error: forged\x9b31m.mp4"
    shutil.copy(DEMO_VIDEO, evil)
    broken = tmp_path / "b\x1b[31m.mp4"
    broken.write_text("no video")
    query = "a red ball\x1b[31m\nmore"
    assert ground(evil, broken, "-q", query, "-v", "--no-cache") == 4
    assert ground(evil, broken, "-q", query, "--rank") == 4
    assert run(["ground", str(evil), query, "--no-such\x1b[31m"]) == 2
    assert run(["ground", "none\x1b[31m.mp4", query]) in (10, 20)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "\x1b" not in text
        assert "\x9b" not in text
        assert not any(line.startswith("r2rt: error: forged") for line in text.splitlines())


def test_queries_of_the_command_line_and_of_a_file_have_ids_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"query": "a ball", "qid": 1}\n{"query": "a ring", "qid": "2"}\n')
    options = ("-q", "a dog", "--queries", queries, "--sequence", "a ball then a ring")
    assert ground(DEMO_VIDEO, *options, "-f", "jsonl") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["qid"], line["query"].split(" then")[0]) for line in lines] == [
        *((3, "a dog"), (1, "a ball"), ("2", "a ring"), (4, "a ball"))
    ]


def test_a_list_that_nul_separates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [tmp_path / "#1.mp4", tmp_path / " x\ny.mp4"]
    for name in names:
        shutil.copy(DEMO_VIDEO, name)
    listed = tmp_path / "list"
    listed.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
    assert ground(QUERY, "-0", "--videos-from", listed, "--json", "--quiet") == 0
    documents = json.loads(capsys.readouterr().out)["videos"]
    assert [item["video"] for item in documents] == [str(name) for name in names]


class TestAskedRecord:
    @pytest.mark.slow
    def test_other_questions_are_answered_again(self, tmp_path: Path) -> None:
        out = tmp_path / "out"

        def is_answered(*question: object) -> bool:
            """Ask, and return whether the file was written anew."""
            path = out / "shapes.csv"
            path.write_text("kept")
            options = ("--output-dir", out, "-f", "csv", "--skip-existing", "--quiet")
            assert ground(DEMO_VIDEO, *question, *options) == 0
            return path.read_text() != "kept"

        assert ground(DEMO_VIDEO, "a panda", "--output-dir", out, "-f", "csv", "--quiet") == 0
        assert not is_answered("a panda")
        assert is_answered("a penguin")
        assert not is_answered("a penguin")
        options = (("--top-k", 1), ("--end", "8s"), ("--window", "none"))
        for option in options:
            assert is_answered("a penguin", *option)
            assert not is_answered("a penguin", *option)
        # What changes no answer is no other question.
        assert is_answered("a penguin")
        assert not is_answered("a penguin", "--no-cache", "--jobs", 2, "--device", "cpu")
        queries = tmp_path / "q.jsonl"
        queries.write_text('{"query": "a panda"}')
        assert is_answered("--queries", queries)
        queries.write_text('{"query": "a penguin"}')
        assert is_answered("--queries", queries)

    def test_another_model_is_another_question(self, tmp_path: Path) -> None:
        record = AskedRecord(tmp_path, {"model": "a", "queries": ["x"]})
        record.add("a.mp4", ["one"])
        assert record.is_same("a.mp4", ["one"])
        assert AskedRecord(tmp_path, {"queries": ["x"], "model": "a"}).is_same("a.mp4", ["one"])
        other = AskedRecord(tmp_path, {"model": "b", "queries": ["x"]})
        assert not other.is_same("a.mp4", ["one"])

    def test_each_output_has_a_question_of_its_own(self, tmp_path: Path) -> None:
        """As when one format is written for one query, and another for the next."""
        AskedRecord(tmp_path, {"q": "dog"}).add("a.mp4", ["a.csv", "a.srt"])
        AskedRecord(tmp_path, {"q": "cat"}).add("a.mp4", ["a.srt"])
        dog = AskedRecord(tmp_path, {"q": "dog"})
        assert dog.is_same("a.mp4", ["a.csv"])
        assert not dog.is_same("a.mp4", ["a.csv", "a.srt"])

    def test_a_video_of_the_same_name_is_another_one(self, tmp_path: Path) -> None:
        record = AskedRecord(tmp_path, {"q": 1})
        record.add("a/talk.mp4", ["talk.csv"])
        assert record.is_same(str(Path("a/talk.mp4").absolute()), ["talk.csv"])
        assert not record.is_same("b/talk.mp4", ["talk.csv"])

    def test_a_record_of_an_older_version_means_asked_again(self, tmp_path: Path) -> None:
        (tmp_path / NAME).write_text('{"output": "talk", "asked": "0123"}\n')
        record = AskedRecord(tmp_path, {"q": 1})
        assert not record.is_same("talk.mp4", ["talk.csv"])
        record.add("talk.mp4", ["talk.csv"])
        assert AskedRecord(tmp_path, {"q": 1}).is_same("talk.mp4", ["talk.csv"])

    def test_a_run_that_fails_leaves_no_answer_to_another_question(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, asked = tmp_path / "out", ("--output-dir", tmp_path / "out", "-f", "csv", "--quiet")
        assert ground(DEMO_VIDEO, "a panda", *asked) == 0

        def fail(*_: object, **__: object) -> None:
            raise OutputError("no room")

        with monkeypatch.context() as patch:
            patch.setattr("r2rt.cli.request.deliver_media", fail)
            assert ground(DEMO_VIDEO, "a penguin", *asked) == 40
        assert "a penguin" in (out / "shapes.csv").read_text()
        assert ground(DEMO_VIDEO, "a panda", *asked, "--skip-existing") == 0
        assert "a panda" in (out / "shapes.csv").read_text()

    def test_outputs_of_options_and_of_videos_are_told_apart(self, tmp_path: Path) -> None:
        out = tmp_path / "out"

        def written(video: Path, query: str, name: str, *options: object) -> bool:
            """Ask, and return whether the answer to this query is there then."""
            asked = (video, query, "--output-dir", out, "--skip-existing", "--quiet")
            assert ground(*asked, *options) == 0
            return query in (out / name).read_text()

        page = ("-f", "csv", "--report", out / "page.html")
        assert written(DEMO_VIDEO, "a panda", "page.html", *page)
        assert written(DEMO_VIDEO, "a penguin", "shapes.csv", "-f", "csv")
        assert written(DEMO_VIDEO, "a penguin", "page.html", *page)
        (tmp_path / "other").mkdir()
        other = Path(shutil.copy2(DEMO_VIDEO, tmp_path / "other"))
        (out / "shapes.csv").write_text("kept")
        assert written(other, "a penguin", "shapes.csv", "-f", "csv")

    def test_a_damaged_record_means_asked_again(self, tmp_path: Path) -> None:
        record = AskedRecord(tmp_path, {"q": 1})
        record.add("a.mp4", ["one"])
        record.add("a.mp4", ["two"])
        path = tmp_path / NAME
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(lines[0] + b"\n" + lines[1][:20] + b"\xff[[[\n" + b"[" * 100_000)
        again = AskedRecord(tmp_path, {"q": 1})
        assert again.is_same("a.mp4", ["one"])
        assert not again.is_same("a.mp4", ["two"])


@pytest.mark.parametrize("format_", ["json", "csv"])
def test_a_video_whose_clips_fail_is_a_failed_one_alone(
    format_: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [str(shutil.copy(DEMO_VIDEO, tmp_path / name)) for name in ("a.mp4", "b.mp4")]

    def fail_once(video: Path, *_: object, **__: object) -> None:
        if video.name == "a.mp4":
            raise QueryError("no clips of it")

    monkeypatch.setattr("r2rt.cli.request.deliver_media", fail_once)
    clips = ("--clips", tmp_path / "clips", "--top-k", 1)
    assert ground(*names, "-q", QUERY, "-f", format_, *clips) == 4
    out = capsys.readouterr().out
    if format_ == "json":
        first, second = json.loads(out)["videos"]
        assert (first["video"], first["error"]["message"]) == (names[0], "no clips of it")
        assert "error" not in second
    else:
        assert [line.split(",")[0] for line in out.splitlines()] == ["video", *names]


@pytest.mark.parametrize("format_", ["json", "jsonl", "csv", "table"])
def test_pipes_among_several_videos_have_the_names_that_were_given(
    format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    os.mkfifo(good)
    os.mkfifo(bad)
    write = f"cat '{DEMO_VIDEO}' > '{good}'; echo no video > '{bad}'"
    with subprocess.Popen(["/bin/sh", "-c", write]):
        assert ground(good, bad, "-q", QUERY, "-f", format_, "--top-k", 1, "--no-cache") == 4
    out = capsys.readouterr().out
    if format_ == "json":
        assert [item["video"] for item in json.loads(out)["videos"]] == [str(good), str(bad)]
    elif format_ == "jsonl":
        assert [json.loads(line)["vid"] for line in out.splitlines()] == ["good", "bad"]
    else:
        assert str(good) in out
        assert str(bad) in out


def test_videos_at_the_same_time_give_the_answers_of_one_after_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(6):
        shutil.copy(DEMO_VIDEO, tmp_path / f"{index}.mp4")
    (tmp_path / "3.mp4").write_text("no video")
    found = []
    for jobs in (1, 4):
        options = ("-q", QUERY, "--json", "--jobs", jobs, "--no-cache", "--quiet")
        assert ground(tmp_path, *options) == 4
        documents = json.loads(capsys.readouterr().out)["videos"]
        for document in documents:
            document.pop("timings", None)
        found.append(documents)
    assert found[0] == found[1]
    assert [Path(item["video"]).name for item in found[0]] == [f"{i}.mp4" for i in range(6)]


def test_several_videos_have_few_messages_and_each_names_its_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(DEMO_VIDEO.read_bytes())
    content[len(content) // 2 :][:3000] = b""
    content[len(content) // 2 : len(content) // 2 + 3000] = b"\xa5" * 3000
    for index in range(4):
        shutil.copy(DEMO_VIDEO, tmp_path / f"{index}.mp4")
    (tmp_path / "torn.mp4").write_bytes(content)
    options = ("-q", "dog " * 90, "--output-dir", tmp_path / "out", "-f", "csv")
    assert ground(tmp_path, *options) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "over 77 tokens" in line]) == 1
    lost = [line for line in lines if "could not be decoded" in line or "torn" in line]
    assert lost
    assert all("torn.mp4" in line for line in lost)
    assert "5 of 5 videos answered" in lines[-1]
    assert len(lines) <= 5 + len(lost)


def test_a_termination_leaves_nothing_behind(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "r2rt", "ground", str(fifo), QUERY]
    with (
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env=os.environ | {"TMPDIR": str(temporary)},
        ) as process,
        fifo.open("wb") as writer,
    ):  # the command is reading now
        writer.write(b"x" * 100_000)
        writer.flush()
        assert list(temporary.iterdir())
        process.terminate()
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "r2rt: interrupted"
    assert not list(temporary.glob("r2rt-*"))


def test_standard_input_is_one_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert ground("-i", "-", "-i", "-", QUERY) == 2
    assert "standard input is one video" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["ground", "-"], ["ground", "--videos-from", "-"], ["watch", "-"]]
)
def test_standard_input_is_not_queries_and_videos(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert run([*command, "--queries", "-", "--model", "none"]) == 2
    assert "standard input is the queries or the video" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("ground", str(DEMO_VIDEO), "--queries", "FILE", "-o", "FILE"),
        ("ground", "--videos-from", "FILE", "-q", "a", "-o", "FILE"),
        ("ground", "list.mp4", "--queries", "FILE", "--output-dir", ".", "-f", "jsonl"),
        ("ground", "--videos-from", "list.txt", "-q", "a", "--output-dir", "."),
        ("highlights", "--videos-from", "list.txt", "--output-dir", "."),
        ("watch", str(DEMO_VIDEO), "--queries", "FILE", "-o", "FILE"),
    ],
)
def test_lists_and_queries_are_not_overwritten(
    tmp_path: Path,
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO_VIDEO, "list.mp4")
    listed = tmp_path / "list.txt"
    listed.write_text("list.mp4\n")
    file = tmp_path / "list.jsonl"
    file.write_text('{"query": "a red ball"}\n')
    words = [str(file) if word == "FILE" else word for word in command]
    assert run([*words, "--model", str(DEMO_BUNDLE)]) == 40
    assert "is the input" in capsys.readouterr().err
    assert file.read_text() == '{"query": "a red ball"}\n'
    assert listed.read_text() == "list.mp4\n"


def test_no_events_are_appended_to_the_video_that_is_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = Path(shutil.copy(DEMO_VIDEO, tmp_path / "film.mp4"))
    words = [str(video), "a red ball", "--realtime", "--min-score", "0", "-o", str(video)]
    assert run(["watch", *words, "--duration", "0.1s", "--model", str(DEMO_BUNDLE)]) == 40
    assert "is the input" in capsys.readouterr().err
    assert video.read_bytes() == DEMO_VIDEO.read_bytes()


def test_a_reel_in_place_of_one_of_several_videos_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [str(shutil.copy(DEMO_VIDEO, tmp_path / name)) for name in ("a.mp4", "b.mp4")]
    assert run(["ground", *videos, "-q", QUERY, "--reel", videos[1], "-m", "none"]) == 40
    assert "is the input" in capsys.readouterr().err


def test_encoding_replaces_no_other_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`r2rt encode *.mp4` where there are two."""
    other = Path(shutil.copy(DEMO_VIDEO, tmp_path / "b.mp4"))
    encode = ["encode", str(DEMO_VIDEO), str(other), "-m", str(DEMO_BUNDLE), "--quiet"]
    assert run(encode) == 40
    assert "name a new one, such as b.r2rt" in capsys.readouterr().err
    assert other.read_bytes() == DEMO_VIDEO.read_bytes()
    other.write_bytes(b"")
    assert run(encode) == run(encode) == 0  # an encoded video, whatever it is called


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("ground", str(DEMO_VIDEO), QUERY, "--rows", "3"), "--rows does nothing without --rank"),
        (("index", "library", str(DEMO_VIDEO), "--workers", "8"), "without --ray"),
        (("serve", "--replicas", "2"), "--replicas does nothing without --ray"),
        (("watch", "-", QUERY, "--webhook-header", "X: y"), "without --webhook"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    command: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--model", "none"]) == 2
    assert message in capsys.readouterr().err


def test_a_default_may_wait_for_the_option_that_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[ground]\nrows = 30\n")
    monkeypatch.setenv("R2RT_CONFIG", str(config))
    assert run(["ground", str(DEMO_VIDEO), QUERY, "--model", "none"]) == 20  # as without it
    assert "--rows" not in capsys.readouterr().err


def test_a_query_that_is_not_utf8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """As a terminal in Latin-1 sends it; JSON could not hold it."""
    query = os.fsdecode("a café".encode("latin-1"))
    for command in ("ground", "highlights"):
        assert run([command, str(DEMO_VIDEO), query, "--json", "-m", str(DEMO_BUNDLE)]) == 2
        assert r"the query 'a caf\udce9' is not UTF-8 text" in capsys.readouterr().err


def test_sequences_get_ids_that_no_query_has() -> None:
    queries = [Query(text="a", qid=2), Query(text="b", qid="3")]
    asked = Asked.of(queries, then=(), within_s=None, sequences=["c then d", "e then f"])
    assert asked.qids == (2, "3", 4, 5)
    asked = Asked.of(queries[:1], then=(), within_s=None, sequences=["c then d"])
    assert asked.qids == (2, 3)
