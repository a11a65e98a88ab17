"""JSON output against the JSON Schema files of the package."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from r2rt.cli.main import run
from r2rt.errors import NotAVideoError
from r2rt.outputs import Answers, render
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO
from tests.r2rt.outputs.material import MOMENTS, answers_about


def validator(name: str) -> Any:
    text = resources.files("r2rt.outputs").joinpath(f"schema/{name}.schema.json").read_text("utf-8")
    kind = jsonschema.Draft202012Validator
    kind.check_schema(json.loads(text))
    return kind(json.loads(text))


@pytest.fixture
def answers() -> list[Answers]:
    return [
        answers_about("a.mp4", ("a dog", MOMENTS), ("nothing", [])),
        Answers(video="bad.mp4", error=NotAVideoError("bad.mp4: no video")),
    ]


def test_json_of_one_video_of_several_and_of_a_failure(answers: list[Answers]) -> None:
    schema = validator("answers")
    cases: list[Answers | list[Answers]] = [*answers, answers]
    for item in cases:
        document = json.loads(render("json", item))
        schema.validate(document)
        assert document["schema_version"] == 1


def test_lines_of_a_submission(answers: list[Answers]) -> None:
    schema = validator("submission")
    for line in render("jsonl", answers).splitlines():
        schema.validate(json.loads(line))


def test_a_prediction_is_the_document_of_its_query(answers: list[Answers]) -> None:
    prediction = answers[0].predictions[0]
    document = json.loads(render("json", answers[0]))
    expected = document | {"results": document["results"][:1]}
    assert prediction.to_dict() == json.loads(prediction.to_json()) == expected
    validator("answers").validate(prediction.to_dict("an id"))


def test_wrong_documents_are_refused(answers: list[Answers]) -> None:
    document = json.loads(render("json", answers[0]))
    for wrong in (
        document | {"schema_version": 2},
        document | {"results": [{"qid": 1}]},
        document | {"fps": 0.5},
        {name: value for name, value in document.items() if name != "video"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator("answers").validate(wrong)


def test_what_commands_write(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    ground = ["ground", str(DEMO_VIDEO), "-m", str(DEMO_BUNDLE), "--quiet"]
    many = [str(tmp_path / "bad.mp4"), "-q", "a ring", "--sequence", "a ring then a red ball"]
    out = tmp_path / "a.json"
    assert run([*ground, *many, "-o", str(out)]) == 4
    validator("answers").validate(json.loads(out.read_text()))
    assert run([*ground, *many, "-o", str(tmp_path / "a.jsonl")]) == 4
    for line in (tmp_path / "a.jsonl").read_text().splitlines():
        validator("submission").validate(json.loads(line))
    assert run(["highlights", *ground[1:], "-o", str(out)]) == 0
    validator("answers").validate(json.loads(out.read_text()))
