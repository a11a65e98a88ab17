"""`python -m training.evaluate`, from files and from a model."""

from __future__ import annotations

import json
import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2rt import Grounder
from r2rt.grounding.encoded import EncodedVideo
from tests.conftest import CHECKOUT
from training.data.checks import check_file
from training.evaluate import main
from training.evaluation.answering import find_sources, write_submission
from training.evaluation.benchmarks import BENCHMARKS
from training.evaluation.curves import OUTCOMES, RECALLS, breakdown, precision_over_recall
from training.evaluation.reading import read_annotations
from training.metrics import Annotation, EvaluationInputError, Prediction

BUNDLE = CHECKOUT / "demo" / "random-tiny"
VIDEO = CHECKOUT / "demo" / "shapes.mp4"

TRUTHS: list[dict[str, Any]] = [
    {"qid": 1, "query": "a dog", "vid": "shapes", "duration": 30, "relevant_windows": [[0, 8]]},
    {"qid": 2, "query": "a cat", "vid": "shapes", "duration": 30, "relevant_windows": [[8, 28]]},
]
ANSWERS: list[dict[str, Any]] = [
    {"qid": 1, "pred_relevant_windows": [[0, 8, 0.9]]},
    {"qid": 2, "pred_relevant_windows": [[20, 28, 0.9], [8, 24, 0.2]]},
]


@pytest.fixture
def truths(tmp_path: Path) -> Path:
    return _write(tmp_path / "truths.jsonl", TRUTHS)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return _write(tmp_path / "answers.jsonl", ANSWERS)


def test_several_predictions_stand_side_by_side(
    tmp_path: Path, truths: Path, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perfect = [
        {"qid": line["qid"], "pred_relevant_windows": [[*line["relevant_windows"][0], 1]]}
        for line in TRUTHS
    ]
    other = _write(tmp_path / "perfect.jsonl", perfect)
    written = tmp_path / "figures.json"
    arguments = ["own", "--annotations", str(truths), "--predictions", str(answers)]
    arguments += ["--predictions", str(other), "--json", str(written), "--quiet"]
    code = main(arguments)
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert code == 0
    assert not err
    assert rows["metric"] == ["answers", "perfect"]
    assert rows["MR-full-R1@0.5"] == ["50.00", "100.00"]
    assert rows["MR-full-mAP"][1] == rows["MR-full-mIoU"][1] == "100.00"
    assert rows["MR-full-mIoU"][0] == "70.00"
    assert rows["queries"] == ["2", "2"]
    document = json.loads(written.read_text())
    assert [result["name"] for result in document["results"]] == ["answers", "perfect"]
    assert document["results"][0]["metrics"]["full"]["MR-R5"]["0.8"] == 100.0


RATED: dict[str, Any] = {"relevant_clip_ids": [1], "saliency_scores": [[4, 2]]}


@pytest.mark.parametrize(
    ("first", "second", "clips", "fault"),
    [
        (RATED, RATED, 15, None),
        (RATED, RATED, 30, "qid 1: 30 `pred_saliency_scores`, the video has 15 clips"),
        (RATED, {}, 15, "qid 2: no `saliency_scores`"),
        (RATED, RATED | {"duration": None}, 15, "qid 2: no `duration`"),
        (RATED | {"relevant_clip_ids": [3], "duration": 7}, RATED, 3, "qid 1: clips 3 to 3"),
        (RATED, RATED | {"saliency_scores": [[4]]}, 15, "has [1, 2] values a clip"),
        ({"relevant_clip_ids": [1]}, {}, 30, None),
    ],
)
def test_what_is_rated_otherwise_than_qvhighlights_is_evaluated_by_its_moments(
    tmp_path: Path,
    first: dict[str, Any],
    second: dict[str, Any],
    clips: int,
    fault: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Training takes ratings of some lines, and of clips of 2 s at any rate and length."""
    lines = [
        TRUTHS[0] | {"vid": "other", "relevant_windows": [[0, 6]]} | first,
        TRUTHS[1] | second,
    ]
    truths = _write(tmp_path / "truths.jsonl", lines)
    assert not check_file(truths, fps=Fraction(1, 2), length_s=lambda _: 30.0).errors
    saliency = {"pred_saliency_scores": [0.5] * clips}
    answers = _write(tmp_path / "answers.jsonl", [line | saliency for line in ANSWERS])
    arguments = ["--annotations", str(truths), "--predictions", str(answers)]
    assert main(["own", *arguments]) == 0
    out, err = capsys.readouterr()
    assert "MR-full-mAP" in out
    assert ("HL-min-Good-mAP" in out) == (fault is None and "saliency_scores" in first)
    assert (fault or "") in err
    assert ("moments alone are evaluated" in err) == (fault is not None)
    assert main(["qvhighlights", *arguments]) == (0 if "HL-min-Good-mAP" in out else 61)


def test_a_default_model_is_not_asked_about_predictions(
    truths: Path, answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2RT_MODEL", "demo")
    arguments = ["own", "--annotations", str(truths), "--predictions", str(answers), "--quiet"]
    assert main(arguments) == 0


def test_plots_are_drawn(tmp_path: Path, truths: Path, answers: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need pip install 'r2rt[train]'")
    folder = tmp_path / "new" / "plots"
    arguments = ["own", "--annotations", str(truths), "--predictions", str(answers)]
    assert main([*arguments, "--plots", str(folder), "--quiet"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "errors.png",
        "precision_recall.png",
        "recall.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())


def test_domains_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need pip install 'r2rt[train]'")
    annotations = _write(tmp_path / "t.jsonl", [{"qid": 1, "label": [[1], [0]], "domain": "dog"}])
    predictions = _write(tmp_path / "p.jsonl", [{"qid": 1, "pred_saliency_scores": [2, 1]}])
    arguments = ["youtube", "--annotations", str(annotations), "--predictions", str(predictions)]
    assert main([*arguments, "--plots", str(tmp_path), "--quiet"]) == 0
    assert (tmp_path / "domains.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--predictions", "{answers}", "--model", "x"], 2, "--videos DIR or --features DIR"),
        (["--predictions", "{answers}", "--submission", "x"], 2, "--videos DIR or --features"),
        (["--videos", "a", "--features", "b"], 2, "give one of them"),
        (["--predictions", "{answers}", "--predictions", "{answers}"], 2, "given twice"),
        ([], 2, "give --predictions FILE"),
        (["--predictions", "{truths}"], 61, "truths.jsonl:1: no `pred_relevant_windows`"),
        (["--predictions", "none.jsonl"], 61, "none.jsonl: No such file"),
        (["--videos", "nowhere"], 61, "nowhere: no such folder"),
        (["--videos", "{folder}"], 61, "truths.jsonl:1: shapes is not in"),
        (["--predictions", "{answers}", "--json", "no/such/x"], 40, "there is no folder no/such"),
        (["--predictions", "{answers}", "--json", "{answers}"], 40, "is the input"),
        (["--features", "{folder}", "--submission", "no/such/x"], 40, "there is no folder no/such"),
        (["--features", "{folder}", "--submission", "{truths}"], 40, "is the input"),
        (["--features", "{folder}", "--json", "{folder}/shapes.r2rt"], 40, "is the input"),
        (["--features", "{folder}", "--plots", "{answers}"], 40, "a file, not a folder"),
        (["--features", "{folder}", "--submission", "x", "--json", "./x"], 2, "name two files"),
    ],
)
def test_ends_with_one_line_and_a_code(
    truths: Path,
    answers: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (truths.parent / "shapes.r2rt").touch()  # it could not be asked
    before = truths.read_bytes(), answers.read_bytes()
    given = [
        each.format(answers=answers, truths=truths, folder=truths.parent) for each in arguments
    ]
    assert main(["own", "--annotations", str(truths), "--quiet", *given]) == code
    out, err = capsys.readouterr()
    assert not out
    assert message in err.splitlines()[-1]
    assert before == (truths.read_bytes(), answers.read_bytes())


def test_plots_that_cannot_be_drawn_are_found_out_before_anything_is_asked(
    tmp_path: Path,
    truths: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "shapes.r2rt").touch()
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # cannot be imported
    arguments = ["own", "--annotations", str(truths), "--features", str(tmp_path)]
    assert main([*arguments, "--plots", str(tmp_path / "plots")]) == 30
    assert "plots need Matplotlib" in capsys.readouterr().err


def test_a_submission_may_go_to_a_device() -> None:
    write_submission(Path(os.devnull), [Prediction(qid=1, pred_relevant_windows=[(0, 1, 1)])])


def test_a_model_answers_alike_over_videos_features_and_its_own_submission(
    tmp_path: Path, truths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, features = tmp_path / "videos", tmp_path / "features"
    videos.mkdir()
    features.mkdir()
    shutil.copy(VIDEO, videos / "shapes.mp4")
    grounder = Grounder.load(BUNDLE, device="cpu", threads=1)
    encoded = grounder.encode(str(VIDEO))
    encoded.save(features / "shapes.r2rt")
    submission = tmp_path / "submission.jsonl"
    common = ["own", "--annotations", str(truths), "--quiet"]
    model = ["--model", str(BUNDLE), "--device", "cpu"]
    tables = []
    for given in (
        [*model, "--videos", str(videos), "--submission", str(submission)],
        [*model, "--features", str(features)],
        ["--predictions", str(submission)],
    ):
        assert main([*common, *given]) == 0
        tables.append(capsys.readouterr().out.split("\n", 1)[1].split())
    assert tables[0] == tables[1] == tables[2]
    lines = [json.loads(line) for line in submission.read_text().splitlines()]
    assert [line["qid"] for line in lines] == [1, 2]
    prediction = grounder.ground(encoded, "a cat")
    moments = [[each.start_s, each.end_s, each.score] for each in prediction.moments]
    np.testing.assert_allclose(lines[1]["pred_relevant_windows"], moments, atol=1e-4)
    np.testing.assert_allclose(lines[1]["pred_saliency_scores"], prediction.saliency, atol=1e-5)


def test_queries_of_a_secret_test_split_are_answered_and_not_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"qid": 7, "query": "a dog", "vid": "shapes", "duration": 8},
        {"qid": 3, "query": "a cat", "vid": "shapes", "duration": 8},
    ]
    queries = _write(tmp_path / "test.jsonl", rows)
    Grounder.load(BUNDLE, device="cpu", threads=1).encode(str(VIDEO)).save(tmp_path / "shapes.r2rt")
    arguments = ["qvhighlights", "--annotations", str(queries), "--model", str(BUNDLE)]
    arguments += ["--device", "cpu", "--features", str(tmp_path)]
    submission = tmp_path / "hl_test_submission.jsonl"
    assert main([*arguments, "--submission", str(submission)]) == 0
    out, err = capsys.readouterr()
    assert not out
    assert "hl_test_submission.jsonl has the answers to its 2 queries" in err
    lines = [json.loads(line) for line in submission.read_text().splitlines()]
    assert [(line["qid"], line["query"], line["vid"]) for line in lines] == [
        (7, "a dog", "shapes"),
        (3, "a cat", "shapes"),
    ]
    assert all(line["pred_relevant_windows"] and line["pred_saliency_scores"] for line in lines)
    # Where figures are asked for, there have to be annotations; in all lines, if in any.
    figures = ["--submission", str(submission), "--json", str(tmp_path / "figures.json")]
    assert main([*arguments, *figures]) == 61
    assert main(arguments) == 61
    _write(queries, [rows[0] | {"relevant_windows": [[0, 2]]}, rows[1]])
    assert main([*arguments, "--submission", str(submission)]) == 61
    assert capsys.readouterr().err.count("no `relevant_windows`") == 3


def test_moments_of_a_part_count_from_where_it_begins(tmp_path: Path, truths: Path) -> None:
    """Annotations know of no clock but the one that starts with their video."""
    grounder = Grounder.load(BUNDLE, device="cpu", threads=1)
    late = grounder.encode(str(VIDEO), start_s=4.0)
    assert late.start_s == 4.0
    late.save(tmp_path / "shapes.r2rt")
    submission = tmp_path / "submission.jsonl"
    arguments = ["own", "--annotations", str(truths), "--quiet", "--model", str(BUNDLE)]
    arguments += ["--device", "cpu", "--features", str(tmp_path), "--submission", str(submission)]
    assert main(arguments) == 0
    first = json.loads(submission.read_text().splitlines()[0])["pred_relevant_windows"][0]
    moment = grounder.ground(EncodedVideo.load(tmp_path / "shapes.r2rt"), "a dog").moments[0]
    assert first[:2] == [moment.start_s - 4.0, moment.end_s - 4.0]


@pytest.mark.parametrize(
    ("files", "encoded", "expected"),
    [
        (["a_1.0_2.0.mp4"], False, "a_1.0_2.0.mp4"),
        (["a_1.0_2.0"], False, "a_1.0_2.0"),
        (["a_1.0_2.0.mp4", "a_1.0_2.0.r2rt"], False, "a_1.0_2.0.mp4"),
        (["a_1.0_2.0.mp4", "a_1.0_2.0.r2rt"], True, "a_1.0_2.0.r2rt"),
        (["a_1.0_2.0.MTS", "a_1.0_2.0.jpg", "a_1.0_2.0.srt"], False, "a_1.0_2.0.MTS"),
        (["below/a_1.0_2.0.mp4"], False, "below/a_1.0_2.0.mp4"),
        (["a_1.0_2.0-cam-002.avi"], False, "a_1.0_2.0-cam-002.avi"),
        (["a_1.0_2.0.mp4", "a_1.0_2.0.mkv"], False, "a_1.0_2.0.mkv and a_1.0_2.0.mp4"),
        (["a_1.0.mp4", "a_1.r2rt"], False, "is not in"),
        (["a_1.0_2.0.mp4"], True, "a_1.0_2.0.r2rt is not in"),
        (["a_1.0_2.r2rt"], True, "a_1.0_2.0.r2rt is not in"),
    ],
)
def test_a_video_is_found_by_its_name(
    tmp_path: Path, files: list[str], encoded: bool, expected: str
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    line = TRUTHS[0] | {"vid": "a_1.0_2.0"}
    file = read_annotations(_write(tmp_path / "t.jsonl", [line]), BENCHMARKS["own"])
    if " " not in expected:
        assert find_sources(folder, file, encoded=encoded) == {"a_1.0_2.0": folder / expected}
        return
    with pytest.raises(EvaluationInputError, match=expected):
        find_sources(folder, file, encoded=encoded)


@pytest.mark.parametrize(
    ("files", "encoded", "expected"),
    [
        (["e\u0301.mp4"], False, "e\u0301.mp4"),
        (["e\u0301/1.jpg"], False, "e\u0301"),
        (["e\u0301.mp4", "e\u0301.r2rt"], True, "e\u0301.r2rt"),
        (["e\u0301.mp4", "\u00e9.mp4"], False, "\u00e9.mp4"),
        (["e\u0301.r2rt", "\u00e9.r2rt"], True, "\u00e9.r2rt"),
        (["e.mp4"], False, None),
    ],
)
def test_accents_may_be_written_either_way(
    tmp_path: Path, files: list[str], encoded: bool, expected: str | None
) -> None:
    """The annotations write them in NFC; macOS writes names of files in NFD."""
    folder = tmp_path / "videos"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    file = read_annotations(
        _write(tmp_path / "t.jsonl", [TRUTHS[0] | {"vid": "\u00e9"}]), BENCHMARKS["own"]
    )
    if expected is not None:
        assert find_sources(folder, file, encoded=encoded) == {"\u00e9": folder / expected}
        return
    with pytest.raises(EvaluationInputError, match="is not in"):
        find_sources(folder, file, encoded=encoded)


def test_the_area_under_precision_and_recall_is_the_map() -> None:
    annotations = [Annotation(qid=1, relevant_windows=[(0, 10), (20, 30)])]
    windows = [(0.0, 10.0, 0.9), (50.0, 60.0, 0.8), (20.0, 30.0, 0.7)]
    curve = precision_over_recall(
        [Prediction(qid=1, pred_relevant_windows=windows)], annotations, (0.5,)
    )[0]
    np.testing.assert_allclose(curve[RECALLS <= 0.5], 1)
    np.testing.assert_allclose(curve[RECALLS > 0.5], 2 / 3)


@pytest.mark.parametrize(
    ("windows", "outcome"),
    [
        ([(0, 10, 1)], "right"),
        ([(0, 6, 1)], "close"),
        ([(50, 60, 1), (0, 9, 0.5)], "ranked lower"),
        ([(0, 30, 1)], "too long"),
        ([(0, 3, 1)], "too short"),
        ([(6, 16, 1)], "shifted"),
        ([(10, 20, 1)], "elsewhere"),
        ([], "elsewhere"),
    ],
)
def test_breakdown(windows: list[tuple[float, float, float]], outcome: str) -> None:
    parts = breakdown(
        [Prediction(qid=1, pred_relevant_windows=windows)],
        [Annotation(qid=1, relevant_windows=[(0, 10)])],
    )
    for name in ("all", "short"):
        assert parts[name].counts == {each: int(each == outcome) for each in OUTCOMES}
    assert parts["long"].num_queries == 0


def _write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
