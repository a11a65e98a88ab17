"""`r2rt models calibrate`, "not in this video", exit code 3, and sequences, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from r2rt import Grounder
from r2rt.cli.main import cli, run
from r2rt.model.installed import demo_model, resolve
from r2rt.model.manifest import Presence, read_manifest
from r2rt.outputs import Answers, render
from r2rt.quality.calibration import store_presence
from tests.r2rt.answers import moments, prediction
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

PRESENCE = Presence(
    statistic="score",
    false_alarm=0.05,
    quantiles=tuple(float(level) for level in range(-120, -100)),
    tail=1.0,
    areas={"score": 0.9},
    kept=0.8,
    kept_interval=(0.7, 0.9),
    positives=20,
    negatives=20,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of which no more is known than that it may be written to."""
    return Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "model"))


def never(presence: Presence) -> Presence:
    """Return a calibration under which nothing is present."""
    shifted = tuple(value + 1000 for value in presence.quantiles)
    return msgspec.structs.replace(presence, quantiles=shifted)


def ground(
    model: Path, *arguments: object, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    code = run(["ground", str(DEMO_VIDEO), *map(str, arguments), "-m", str(model), "--quiet"])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_is_not_in_the_video_is_said_and_ends_with_3(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_presence(model, never(PRESENCE))
    code, out, err = ground(model, "a dog", "a cat", capsys=capsys)
    assert code == 3
    assert "a dog: not in this video" in out
    assert "start" not in out
    assert "r2rt: not in this video: 'a dog', 'a cat'" in err
    assert "error" not in err.replace("random weights", "")


def test_another_calibration_is_another_question(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("a panda", "--output-dir", tmp_path / "out", "-f", "csv", "--skip-existing")
    codes = []
    for presence in (PRESENCE, never(PRESENCE)):
        store_presence(model, presence)
        codes.append(ground(model, *asked, capsys=capsys)[0])
    assert codes == [0, 3]


def test_data_keeps_the_moments_and_says_so(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_presence(model, never(PRESENCE))
    code, out, _ = ground(model, "a dog", "--format", "json", capsys=capsys)
    (result,) = json.loads(out)["results"]
    assert code == 3
    assert result["present"] is False
    assert result["presence_score"] == 0
    assert result["moments"]
    code, out, _ = ground(model, "a dog", "--format", "csv", capsys=capsys)
    assert code == 3
    assert len(out.splitlines()) == 1


def test_anyway_reports_them_and_ends_well(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_presence(model, never(PRESENCE))
    code, out, _ = ground(model, "a dog", "--anyway", capsys=capsys)
    assert code == 0
    assert "start" in out
    assert "a dog: not in this video" in out
    code, out, _ = ground(model, "a dog", "--anyway", "--format", "csv", capsys=capsys)
    assert (code, len(out.splitlines()) > 1) == (0, True)


def test_what_is_present_is_reported_as_ever(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ground(model, "a dog", capsys=capsys)
    store_presence(model, PRESENCE)
    after = ground(model, "a dog", capsys=capsys)
    assert before == after
    assert after[0] == 0


def test_a_score_that_no_moment_reaches_ends_with_3(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ground(model, "a dog", "--min-score", "1", capsys=capsys)
    assert code == 3
    assert "a dog: no moments" in out
    assert "r2rt: no moments: 'a dog'" in err


def test_a_failure_counts_more_than_nothing_found(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_presence(model, never(PRESENCE))
    arguments = ["-i", str(DEMO_VIDEO), "-i", str(tmp_path / "none.mp4"), "-m", str(model)]
    assert run(["ground", "a dog", *arguments, "--quiet"]) == 4
    capsys.readouterr()


def test_every_format_leaves_out_what_is_absent_unless_asked() -> None:
    absent = prediction(moments=moments((2, 4, 0.9)), present=False, presence_score=0.1)
    here = prediction(query="a cat", moments=moments((6, 8, 0.9)), present=True)
    answers = Answers.of([absent, here])
    anyway = Answers(video="dog.mp4", predictions=(absent, here), qids=(1, 2), anyway=True)
    for name in ("csv", "srt", "vtt", "chapters"):
        assert "a cat" in render(name, answers)
        assert "a dog" not in render(name, answers)
        assert "a dog" in render(name, anyway)
    assert render("json", answers) == render("json", anyway)


def test_calibrate_measures_and_writes(
    model: Path, tmp_path: Path, tiny_grounder: Grounder
) -> None:
    queries = [f"sentence number {number} of all" for number in range(60)]
    video = tiny_grounder.encode(DEMO_VIDEO)
    scores = [answer.presence_statistics[0, 0] for answer in tiny_grounder.ground(video, queries)]
    middle = sorted(scores)[30]
    pairs = tmp_path / "pairs.jsonl"
    lines = [
        {"video": str(DEMO_VIDEO), "query": query, "belongs": bool(score > middle)}
        for query, score in zip(queries, scores, strict=True)
    ]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = CliRunner().invoke(
        cli, ["models", "calibrate", str(model), "--pairs", str(pairs), "--quiet"]
    )
    assert result.exit_code == 0, result.stderr
    presence = read_manifest(model).presence
    assert presence is not None
    assert presence.areas["score"] == 1.0
    assert (presence.positives, presence.negatives) == (29, 31)
    assert presence.kept == 1.0
    assert "not in this video" in result.stdout
    assert "area under ROC" in result.stdout
    reported = CliRunner().invoke(cli, ["models", "info", str(model)])
    assert "by score, above" in reported.stdout


@pytest.mark.slow
@pytest.mark.parametrize("by_path", [False, True])
def test_the_packages_own_model_stays_as_it_is(
    by_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    packaged = demo_model()
    assert packaged is not None
    before = (packaged.path / "bundle.json").read_bytes()
    pairs = tmp_path / "pairs.jsonl"
    lines = [
        {"video": str(DEMO_VIDEO), "query": f"a dog number {number}", "belongs": number % 2 == 0}
        for number in range(60)
    ]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    # However it is called: a path that is spelled another way is the same folder.
    name = f"{packaged.path.parent}/cli/../demo" if by_path else "demo"
    arguments = ["models", "calibrate", name, "--pairs", str(pairs), "--no-cache"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.stderr
    own = tmp_path / "home" / "models" / "demo"
    assert f"this is a copy: {own}" in " ".join(result.stderr.split())
    assert (packaged.path / "bundle.json").read_bytes() == before
    reported = read_manifest(own).presence
    assert reported is not None
    assert (reported.positives, reported.negatives) == (30, 30)
    # From now on, the copy is what is meant by the name.
    assert resolve("demo") == own


def test_too_few_pairs_change_nothing(model: Path, tmp_path: Path) -> None:
    before = (model / "bundle.json").read_bytes()
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"video": str(DEMO_VIDEO), "query": "a", "belongs": True}) + "\n")
    assert run(["models", "calibrate", str(model), "--pairs", str(pairs), "--quiet"]) == 2
    assert (model / "bundle.json").read_bytes() == before


def test_one_thing_then_another(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ground(
        model, "a dog", "--then", "a cat", "--within", "4s", "-f", "json", capsys=capsys
    )
    assert code in (0, 3)
    (result,) = json.loads(out)["results"]
    assert result["query"] == "a dog then a cat within 4 s"
    for found in result["moments"]:
        first, last = found["parts"]
        assert (found["start_s"], found["end_s"]) == (first["start_s"], last["end_s"])
        assert last["start_s"] - first["end_s"] <= 4
        assert found["score"] == pytest.approx((first["score"] * last["score"]) ** 0.5)
    same = ground(model, "--sequence", "a dog then a cat within 4s", "-f", "json", capsys=capsys)
    assert json.loads(same[1])["results"] == [result]


def test_a_sentence_with_then_in_it_is_a_sentence(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = ground(
        model, "a dog then a cat", "--sequence", "a then b", "-f", "json", capsys=capsys
    )
    results = json.loads(out)["results"]
    assert [item["query"] for item in results] == ["a dog then a cat", "a then b"]
    assert [item["qid"] for item in results] == [1, 2]
    assert "parts" not in results[0]["moments"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--within", "3"), "give --then"),
        (("a", "b", "--then", "c"), "one query, got 2"),
        (("a", "--then", " "), "is empty"),
        (("--sequence", "a dog"), "no sequence"),
    ],
)
def test_what_is_no_sequence(
    arguments: tuple[str, ...], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ground(model, *arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert message in err


def test_too_few_pairs_are_refused_before_a_video_is_read(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"video": "nowhere.mp4", "query": "a dog", "belongs": true}\n' * 30)
    assert run(["models", "calibrate", str(model), "--pairs", str(pairs)]) == 2
    assert "30 queries that belong and 0 that do not" in capsys.readouterr().err


def test_a_missing_video_is_noticed_before_the_others_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [
        {"video": str(DEMO_VIDEO) if number else "nowhere.mp4", "query": "a", "belongs": belongs}
        for belongs in (True, False)
        for number in range(20)
    ]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["models", "calibrate", "none", "--pairs", str(pairs)]) == 10
    assert "nowhere.mp4: no such file" in capsys.readouterr().err
