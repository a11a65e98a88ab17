"""Files that cannot be evaluated are refused in one line that names file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.data.checks import check_file
from training.evaluation.benchmarks import BENCHMARKS, evaluate
from training.evaluation.reading import matched, read_annotations, read_predictions
from training.metrics import Annotation, EvaluationInputError, Prediction

ANNOTATION: dict[str, Any] = {
    "qid": 1,
    "query": "a dog",
    "duration": 10,
    "vid": "v",
    "relevant_windows": [[2, 6]],
    "relevant_clip_ids": [1, 2],
    "saliency_scores": [[4, 3, 2], [1, 1, 4]],
}
PREDICTION: dict[str, Any] = {
    "qid": 1,
    "pred_relevant_windows": [[2, 6, 0.9], [0, 4, 0.1]],
    "pred_saliency_scores": [0.0, 0.9, 0.8, 0.1, 0.1],
}
LABELLED: dict[str, Any] = {"qid": 1, "label": [[1.0, 2.0], [3.0, 1.0]], "domain": "VT"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"relevant_windows": [[6, 2]]}, r"moment \[6.0, 2.0\]; expected its start before its end"),
        ({"relevant_windows": [[2, 2]]}, "expected its start before its end"),
        ({"relevant_windows": [[2]]}, r"relevant_windows\[0\].*a moment is \[start s, end s\]"),
        ({"relevant_windows": "2-6"}, "relevant_windows"),
        ({"relevant_windows": []}, "no `relevant_windows`"),
        ({"relevant_windows": None}, "no `relevant_windows`"),
        ({"relevant_windows": [[2, float("nan")]]}, "NaN or Infinity in it"),
        ({"duration": "long"}, r"Expected `float`, got `str` - at `\$.duration`"),
        ({"qid": [1]}, "qid"),
        ({"relevant_clip_ids": [1]}, "1 `relevant_clip_ids`, 2 `saliency_scores`"),
        (
            {"relevant_clip_ids": [1, 5]},
            "clips 1 to 5 are annotated, and a `duration` of 10 s has 5",
        ),
        ({"relevant_clip_ids": [-1, 1]}, "clips -1 to 1"),
        ({"saliency_scores": None}, "no `saliency_scores`"),
        ({"saliency_scores": [[4, 3, 2], [1, 1]]}, r"\[2, 3\]"),
    ],
)
def test_annotations(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    other = ANNOTATION | {"qid": 2}
    path = _write(tmp_path / "truth.jsonl", other, ANNOTATION | changed)
    with pytest.raises(EvaluationInputError, match=message) as caught:
        read_annotations(path, BENCHMARKS["qvhighlights"])
    _one_line(caught.value, f"{path}:2: ")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pred_relevant_windows": [[2, 6]]}, r"a predicted moment is \[start s, end s, score\]"),
        ({"pred_relevant_windows": [[2, 6, 1, 1]]}, "a predicted moment is"),
        ({"pred_relevant_windows": [[6, 2, 0.5]]}, "ends before it starts"),
        ({"pred_relevant_windows": [[2, 6, float("nan")]]}, "NaN or Infinity in it"),
        ({"pred_relevant_windows": [["0", 6, 1]]}, "a predicted moment is"),
        ({"pred_relevant_windows": None}, r"write \[\] where a model finds no moment"),
        ({"pred_saliency_scores": [0, float("inf"), 0, 0, 0]}, "NaN or Infinity in it"),
        ({"pred_saliency_scores": [0, None, 0, 0, 0]}, r"pred_saliency_scores\[1\]|got `null`"),
        ({"qid": None}, "qid"),
    ],
)
def test_predictions(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    other = PREDICTION | {"qid": 2}
    path = _write(tmp_path / "answers.jsonl", other, PREDICTION | changed)
    with pytest.raises(EvaluationInputError, match=message) as caught:
        read_predictions(path, BENCHMARKS["qvhighlights"])
    _one_line(caught.value, f"{path}:2: ")


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_numbers_beyond_all_bounds(tmp_path: Path, number: str) -> None:
    path = tmp_path / "answers.jsonl"
    for field in ('"pred_relevant_windows":[[0,{},1]]', '"pred_saliency_scores":[{}]'):
        path.write_text(f'{{"qid":1,"pred_relevant_windows":[],{field.format(number)}}}\n')
        with pytest.raises(EvaluationInputError) as caught:
            read_predictions(path, BENCHMARKS["qvhighlights"])
        _one_line(caught.value, f"{path}:1: ")


@pytest.mark.parametrize("text", ["", "\n \n", "[]\n", "{", '{"qid": 1} {"qid": 2}', "\xff"])
def test_what_is_no_jsonl(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(text.encode("latin-1"))
    for read in (read_annotations, read_predictions):
        with pytest.raises(EvaluationInputError) as caught:
            read(path, BENCHMARKS["own"])
        _one_line(caught.value, str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EvaluationInputError, match="No such file"):
        read_predictions(tmp_path / "none.jsonl", BENCHMARKS["own"])


def test_a_qid_twice(tmp_path: Path) -> None:
    path = _write(tmp_path / "answers.jsonl", PREDICTION, PREDICTION | {"qid": 2}, PREDICTION)
    with pytest.raises(EvaluationInputError, match="3: qid 1 again, first in line 1"):
        read_predictions(path, BENCHMARKS["own"])


def test_a_qid_that_lacks_an_answer_or_a_question(tmp_path: Path) -> None:
    both = [ANNOTATION, ANNOTATION | {"qid": 2}, ANNOTATION | {"qid": 3}]
    with pytest.raises(EvaluationInputError, match=r"no prediction for qid 2 .*:2\) and 1 more"):
        _matched(tmp_path, both, [PREDICTION])
    extra = [PREDICTION, PREDICTION | {"qid": "x"}]
    with pytest.raises(EvaluationInputError, match=r"answers.jsonl:2: qid 'x' is not in"):
        _matched(tmp_path, both[:1], extra)
    with pytest.raises(EvaluationInputError, match="not one qid"):
        _matched(tmp_path, both, [PREDICTION | {"qid": "1"}], shared_only=True)
    lines, truths = _matched(tmp_path, both, extra, shared_only=True)
    assert [line.qid for line in lines] == [line.qid for line in truths] == [1]


@pytest.mark.parametrize(
    ("clips", "right"), [(3, False), (4, True), (5, True), (6, True), (7, False)]
)
def test_saliency_may_be_a_clip_off(tmp_path: Path, clips: int, right: bool) -> None:
    answers = [PREDICTION | {"pred_saliency_scores": [0.5] * clips}]
    if right:
        assert _matched(tmp_path, [ANNOTATION], answers)
        return
    with pytest.raises(EvaluationInputError, match=f"jsonl:1: {clips} `pred.* the video has 5"):
        _matched(tmp_path, [ANNOTATION], answers)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": None}, "no `label`"),
        ({"label": []}, "no `label`"),
        ({"label": [[1.0], [1.0, 2.0]]}, r"`label` has \[1, 2\] values a clip"),
        ({"label": [[], []]}, r"`label` has \[0\] values a clip"),
        ({"label": [1.0, 2.0]}, "Expected `array`"),
    ],
)
def test_labels(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = _write(tmp_path / "truth.jsonl", LABELLED | changed)
    with pytest.raises(EvaluationInputError, match=message) as caught:
        read_annotations(path, BENCHMARKS["tvsum"])
    _one_line(caught.value, f"{path}:1: ")


def test_labels_want_saliency(tmp_path: Path) -> None:
    path = _write(tmp_path / "answers.jsonl", {"qid": 1, "pred_relevant_windows": []})
    with pytest.raises(EvaluationInputError, match="no `pred_saliency_scores`"):
        read_predictions(path, BENCHMARKS["youtube"])


def test_a_line_without_qid_is_given_its_number(tmp_path: Path) -> None:
    line = {"video": "v.mp4", "query": "a dog", "relevant_windows": [[0, 1]]}
    path = tmp_path / "own.jsonl"
    path.write_text(f"\n{json.dumps(line)}\n{json.dumps(line)}\n")
    file = read_annotations(path, BENCHMARKS["own"])
    assert [each.qid for each in file.lines] == [2, 3]
    assert file.at(3) == f"{path}:3"
    assert file.lines[0].video == "v.mp4"


def test_fields_that_are_null_are_not_there_as_in_training(tmp_path: Path) -> None:
    """Tables that are written as JSON lines have null where a row has no value."""
    line = {"video": "v.mp4", "query": "a dog", "relevant_windows": [[0, 1]]}
    path = _write(tmp_path / "own.jsonl", line | {"qid": None, "vid": None, "duration": None})
    assert not check_file(path).errors
    (only,) = read_annotations(path, BENCHMARKS["own"]).lines
    assert (only.qid, only.vid, only.duration) == (1, "", 0.0)


def test_a_byte_order_mark_is_left_out_as_in_training(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    line = {"qid": 7, "video": "v.mp4", "query": "a dog", "relevant_windows": [[0, 1]]}
    path.write_text(f"{json.dumps(line)}\n", encoding="utf-8-sig")
    assert [each.qid for each in read_annotations(path, BENCHMARKS["own"]).lines] == [7]


def test_saliency_is_given_for_all_queries_or_for_none() -> None:
    truths = [Annotation(qid=qid, relevant_windows=[(0, 1)]) for qid in (1, 2)]
    lines = [
        Prediction(qid=1, pred_relevant_windows=[], pred_saliency_scores=[1.0]),
        Prediction(qid=2, pred_relevant_windows=[]),
    ]
    with pytest.raises(EvaluationInputError, match="1 of 2 queries have no `pred_saliency_scores`"):
        evaluate(BENCHMARKS["own"], lines, truths)


def _matched(
    folder: Path,
    annotations: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    *,
    shared_only: bool = False,
) -> tuple[list[Prediction], list[Annotation]]:
    chosen = BENCHMARKS["qvhighlights"]
    truths = read_annotations(_write(folder / "truth.jsonl", *annotations), chosen)
    lines = read_predictions(_write(folder / "answers.jsonl", *predictions), chosen)
    return matched(lines, truths, chosen, shared_only=shared_only)


def _write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _one_line(error: EvaluationInputError, begins: str) -> None:
    assert "\n" not in str(error)
    assert str(error).startswith(begins)
    assert error.exit_code == 61
