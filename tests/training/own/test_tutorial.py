"""The tutorial's own lines and commands, on small videos."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import msgspec
import pytest

from r2rt.cli.main import run as r2rt_main
from tests.conftest import CHECKOUT
from tests.r2rt.video.clips import write_video
from training.data.__main__ import main as data_main
from training.own.__main__ import main as own_main

PAGE = (CHECKOUT / "docs" / "guides" / "own-data.md").read_text(encoding="utf-8")

# A line as the service saves it; its own tests hold it to its form.
CORRECTION = {
    "qid": 5,
    "query": "a dog runs",
    "vid": "three",
    "duration": 17.0,
    "relevant_windows": [[0.5, 3.25]],
    "rejected_windows": [[4.0, 6.0]],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def words(command: str) -> list[str]:
    return shlex.split(command.removeprefix("$ "))


@pytest.mark.slow
def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (lines,) = blocks("json")
    save, validate, train, ask = (words(block.strip()) for block in blocks("console"))
    assert save[-3:] == ["localhost:8080/api/v1/annotations.jsonl", ">", "mine.jsonl"]
    Path("mine.jsonl").write_text(lines + json.dumps(CORRECTION) + "\n")
    Path("videos").mkdir()
    for index, name in enumerate(
        sorted({json.loads(line)["video"] for line in lines.split("\n") if line})
    ):
        write_video(Path("videos") / name, frames=400 + 25 * index)
    assert validate[:3] == ["python", "-m", "training.data"]
    assert data_main(validate[3:]) == 0

    assert train[:3] == ["python", "-m", "training.own"]
    arguments = [*train[3:], "--set", "epochs=2", "--workers", "0"]
    assert own_main(arguments) == 0
    said = capsys.readouterr()
    steps = re.findall(r"^(\w+): [\d.]+ s \(", said.err, re.MULTILINE)
    assert steps == re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert "not calibrated" in said.err
    figures = msgspec.json.decode(Path("runs/mine/figures.json").read_bytes())
    assert 0 <= figures["brief"]["MR-full-mAP"] <= 100
    last = words(said.out.splitlines()[-1])
    assert last[:4] == ["r2rt", "ground", "--model", "runs/mine/bundle"]
    for command in (last, ask):
        assert r2rt_main([*command[1:], "--json"]) in (0, 3)
        assert json.loads(capsys.readouterr().out)

    # Nothing is done twice, and one step can be asked for.
    assert own_main(arguments) == 0
    assert capsys.readouterr().err.count("done before") == len(steps) - 1
    assert own_main([*arguments, "--step", "evaluate"]) == 0
    assert re.findall(r"^(\w+): ", capsys.readouterr().err, re.MULTILINE) == ["evaluate"]
