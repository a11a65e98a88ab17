"""`r2rt ground` and `r2rt encode` as a user runs them: output, messages, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from r2rt.cli.main import run as main
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.errors import exit_codes
from r2rt.timecode import parse_time
from r2rt.video.remote import shown_address
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

QUERY = "a red ball rolls to the right"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "r2rt", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, check=False
    )


def ground(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run("ground", *arguments, "--model", DEMO_BUNDLE)


def fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Assert one clear line, the documented code, nothing on stdout and no traceback."""
    assert result.returncode == code, result.stderr
    assert code in exit_codes()
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("r2rt: error: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of which 3 KB in the middle are overwritten."""
    path = tmp_path_factory.mktemp("torn") / "torn.mp4"
    content = bytearray(DEMO_VIDEO.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = b"\xa5" * 3000
    path.write_bytes(content)
    return path


def test_the_table_names_the_moments_and_stderr_the_model() -> None:
    result = ground(DEMO_VIDEO, QUERY)
    assert result.returncode == 0, result.stderr
    assert QUERY in result.stdout
    assert "score" in result.stdout
    assert "onnxruntime-cpu" in result.stderr
    assert "random weights" in result.stderr


def test_json_holds_every_query_and_its_saliency() -> None:
    result = ground(DEMO_VIDEO, QUERY, "-q", "a ring", "--format", "json", "--top-k", "2")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert [item["query"] for item in document["results"]] == [QUERY, "a ring"]
    assert document["duration_s"] == pytest.approx(24)
    for item in document["results"]:
        assert len(item["moments"]) == 2
        assert len(item["saliency"]) == 12
        for moment in item["moments"]:
            assert 0 <= moment["start_s"] < moment["end_s"] <= 24


def test_jsonl_is_a_submission_with_the_files_own_ids(tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"qid": 41, "query": "a ball"}\n{"qid": "x", "query": "a ring"}\n')
    output = tmp_path / "out.jsonl"
    result = ground(DEMO_VIDEO, "--queries", queries, "--format", "jsonl", "-o", output, "--quiet")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["qid"] for line in lines] == [41, "x"]
    for line in lines:
        assert line["vid"] == "shapes"
        scores = [row[2] for row in line["pred_relevant_windows"]]
        assert scores == sorted(scores, reverse=True)
        assert len(line["pred_saliency_scores"]) == 12


def test_start_and_end_answer_on_the_videos_clock() -> None:
    result = ground(DEMO_VIDEO, QUERY, "--start", "0:08", "--end", "16s", "--format", "json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["duration_s"] == pytest.approx(8)
    assert [item["start_s"] for item in document["results"][0]["saliency"]] == [8, 10, 12, 14]


def test_the_line_of_saliency_ends_where_the_part_does(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--start", "8", "--end", "15", "--model", str(DEMO_BUNDLE)]
    assert main(["ground", str(DEMO_VIDEO), QUERY, *arguments]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("saliency 0:08.0 ")
    assert line.endswith(" 0:15.0")  # not 0:16.0, where the last clip would end


@pytest.mark.slow
def test_windows_are_chosen_or_left_out() -> None:
    found = [
        json.loads(ground(DEMO_VIDEO, QUERY, "--format", "json", *options).stdout)["results"]
        for options in ((), ("--window", "none"), ("--window", "12s", "--overlap", "6"))
    ]
    assert found[0] == found[1]  # as long as the model knows
    assert found[0] != found[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window", "1"), "give at least a clip"),
        (("--window", "10", "--overlap", "10"), "less than the window of 10 s"),
        (("--window", "none", "--overlap", "2"), "of no use without windows"),
        (("--window", "soon"), "'soon' is no time"),
    ],
)
def test_windows_that_make_no_sense_are_reported_in_a_line(
    options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").touch()  # which is never read
    result = ground(tmp_path / "empty.mp4", QUERY, "--quiet", *options)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]


def test_nearest_runs_and_says_so() -> None:
    result = ground(DEMO_VIDEO, QUERY, "--sampling", "nearest", "--format", "json")
    assert json.loads(result.stdout)["sampling"] == "nearest"


def test_encode_then_ground_without_the_video(tmp_path: Path) -> None:
    encoded = tmp_path / "shapes.r2rt"
    made = run("encode", DEMO_VIDEO, encoded, "--model", DEMO_BUNDLE)
    assert made.returncode == 0, made.stderr
    direct = json.loads(ground(DEMO_VIDEO, QUERY, "--format", "json").stdout)
    kept = json.loads(ground(encoded, QUERY, "--format", "json").stdout)
    assert kept["results"] == direct["results"]
    assert kept["timings"]["encode_s"] == 0
    fails(ground(encoded, QUERY, "--start", "1"), 2, "start_s", "already encoded")


def test_commands_close_their_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX writes what it compiled when it is closed."""
    closed: list[OnnxRuntimeEngine] = []

    def close(engine: OnnxRuntimeEngine) -> None:
        closed.append(engine)

    monkeypatch.setattr(OnnxRuntimeEngine, "close", close)
    model, stored = ("--model", str(DEMO_BUNDLE)), str(tmp_path / "x.r2rt")
    assert main(["encode", str(DEMO_VIDEO), stored, *model]) == 0
    assert main(["ground", stored, QUERY, *model]) == 0
    assert len(closed) == 2


def test_a_folder_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in (1, 2, 10):
        frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        with av.open(str(tmp_path / f"{index}.png"), "w", format="image2") as container:
            stream = container.add_stream("png")
            stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    result = ground(tmp_path, "noise", "--format", "json")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["results"][0]["saliency"]) == 3


def test_a_torn_video_is_answered_from_what_is_left_with_a_warning(torn: Path) -> None:
    result = ground(torn, QUERY, "--format", "json")
    assert result.returncode == 0, result.stderr
    assert "warning" in result.stderr
    assert "could not be decoded" in result.stderr
    assert json.loads(result.stdout)["duration_s"] == pytest.approx(24, abs=0.1)


def test_a_query_of_more_tokens_than_the_model_reads_is_cut_with_a_warning() -> None:
    result = ground(DEMO_VIDEO, "dog " * 90, "--format", "json")
    assert result.returncode == 0
    assert "over 77 tokens" in result.stderr
    assert json.loads(result.stdout)["results"][0]["query_truncated"] is True


def test_bad_sources_are_distinguished(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video at all\n" * 50)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    audio = tmp_path / "audio.wav"
    with av.open(str(audio), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    fails(ground(tmp_path / "none.mp4", QUERY), 10, "none.mp4", "no such file")
    fails(ground(text, QUERY), 11, "notes.mp4")
    fails(ground(empty, QUERY), 11, "empty.mp4")
    fails(ground(audio, QUERY), 12, "audio.wav")
    fails(ground(DEMO_VIDEO, QUERY, "--start", "1h"), 13, "shapes.mp4")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://anne:secret@127.0.0.1:9/a.mp4?key=secret", "ClientConnectorError: Cannot connect"),
        (
            "rtsp://camera/stream",
            "Protocol not known: rtsp; expected a file, or an address such as",
        ),
        ("memory://bucket/none.mp4", "no such file"),
    ],
)
@pytest.mark.parametrize("command", [("ground", "{}", QUERY), ("encode", "{}", "out.r2rt")])
def test_no_model_is_opened_for_an_address_without_a_video(
    address: str, reason: str, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp")
    arguments = [word.format(address) for word in command]
    assert main([*arguments, "--model", str(DEMO_BUNDLE)]) == 10
    said = capsys.readouterr().err
    assert said.startswith(f"r2rt: error: {shown_address(address)}: {reason}")
    assert said.count("\n") == 1


def test_a_sentence_without_quotes_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ground", "none.mp4", "a", "dog", "runs"]) == 10
    assert 'quote it: "a dog runs"' in capsys.readouterr().err
    assert main(["ground", "none.mp4", "a dog", "runs"]) == 10
    assert "quote it" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["models"], ["cache"]])
def test_a_command_without_arguments_shows_its_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    without = capsys.readouterr().err
    assert main([*arguments, "--help"]) == 0
    assert without == capsys.readouterr().out


def test_a_forgotten_or_mistyped_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DEMO_VIDEO), "a dog"]) == 2
    assert f"write r2rt ground {DEMO_VIDEO}" in capsys.readouterr().err
    assert main(["grond", "video.mp4", "a dog"]) == 2
    assert "Did you mean 'ground'?" in capsys.readouterr().err


def test_bad_usage_is_reported_before_anything_is_decoded(tmp_path: Path) -> None:
    fails(ground(DEMO_VIDEO), 2, "no query")
    fails(ground(DEMO_VIDEO, "  "), 2, "empty")
    fails(ground(DEMO_VIDEO, "--queries", tmp_path / "none.jsonl"), 10, "none.jsonl")
    assert ground(DEMO_VIDEO, QUERY, "--start", "soon").returncode == 2
    assert ground(DEMO_VIDEO, QUERY, "--format", "xml").returncode == 2


def test_bad_models_are_distinguished(tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in DEMO_BUNDLE.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    fails(run("ground", DEMO_VIDEO, QUERY, "--model", tmp_path / "none"), 20, "none")
    damaged = broken("damaged")
    (damaged / "grounder.onnx").unlink()
    fails(run("ground", DEMO_VIDEO, QUERY, "--model", damaged), 21, "grounder.onnx")
    future = broken("future")
    manifest = (future / "bundle.json").read_text().replace('"schema": 2', '"schema": 9')
    (future / "bundle.json").write_text(manifest)
    fails(run("ground", DEMO_VIDEO, QUERY, "--model", future), 22, "schema 9")
    changed = broken("changed")
    content = bytearray((changed / "grounder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (changed / "grounder.onnx").write_bytes(content)
    fails(run("ground", DEMO_VIDEO, QUERY, "--model", changed), 23, "sha256")


def test_a_device_that_is_not_there() -> None:
    fails(ground(DEMO_VIDEO, QUERY, "--device", "cuda"), 30, "cuda", "libcuda")


def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    fails(ground(DEMO_VIDEO, QUERY, "-o", tmp_path / "none" / "out.txt"), 40, "out.txt")
    full = Path("/dev/full")
    if full.exists():
        with full.open("w") as stdout:
            command = [sys.executable, "-m", "r2rt", "ground", DEMO_VIDEO, QUERY]
            result = subprocess.run(
                [*map(str, command), "--model", str(DEMO_BUNDLE)],
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert result.returncode == 40, result.stderr
        assert "No space left" in result.stderr


def test_help_documents_every_exit_code() -> None:
    text = run("--help").stdout
    for code in exit_codes():
        assert f"\n  {code} " in text


def test_every_time_that_the_help_writes_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Times are" in line]
    times = re.findall(r"\d[\d:.]*[a-z]*", line)
    assert len(times) == 7
    assert [parse_time(time) for time in times] == [90, 90, 75, 3723.5, 300, 3600, 0.25]


def test_the_whole_way_leaves_torch_unimported() -> None:
    program = (
        "import sys\n"
        "from r2rt.cli.main import run\n"
        f"code = run(['ground', {str(DEMO_VIDEO)!r}, {QUERY!r}, '-m', {str(DEMO_BUNDLE)!r}])\n"
        "assert code == 0\n"
        "bad = {'torch', 'triton', 'open_clip', 'training', 'export', 'kernels'}\n"
        "assert not bad & set(sys.modules), bad & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, r2rt\n"
        "heavy = {'numpy', 'av', 'onnxruntime', 'tokenizers', 'rich', 'click', 'httpx2', 'torch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(r2rt.__all__) <= set(dir(r2rt))\n"
        "for name in r2rt.__all__: getattr(r2rt, name)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
