"""Steps are done once, again where what they are made of has changed, and go on when cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import CHECKOUT
from tests.r2rt.video.clips import write_video
from training.errors import TrainingError
from training.own import steps as module
from training.own.__main__ import main
from training.own.steps import Own

WEIGHTS = CHECKOUT / "training" / "demo" / "weights" / "r2rt-tiny.safetensors"
LATER = ("extract", "train", "export", "quantise", "evaluate", "calibrate")


class Fakes:
    """Steps after `validate` that note that they ran; one of them may be cut off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.cut: str | None = None
        for name in LATER:
            monkeypatch.setitem(module.STEPS, name, self._step(name))

    def _step(self, name: str) -> Callable[[Own], str]:
        def step(_own: Own) -> str:
            if name == self.cut:
                raise KeyboardInterrupt
            self.ran.append(name)
            return "fake"

        return step


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "videos").mkdir()
    for name in ("a", "b"):
        write_video(tmp_path / "videos" / f"{name}.mp4", frames=150)
    write_annotations(tmp_path, "x")
    mine, videos, out = (str(tmp_path / name) for name in ("mine.jsonl", "videos", "run"))
    return [mine, "--videos", videos, "--out", out, "--clip", "r2rt-tiny"]


def write_annotations(folder: Path, query: str) -> None:
    rows = [{"video": f"{name}.mp4", "query": query, "relevant_windows": [[0, 2]]} for name in "ab"]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("cut", LATER)
def test_an_interrupted_run_goes_on_with_the_step_that_was_cut_off(
    fakes: Fakes, arguments: list[str], cut: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.cut = cut
    assert main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    before, fakes.cut = LATER[: LATER.index(cut)], None
    assert fakes.ran == [*before]
    assert main(arguments) == 0
    assert fakes.ran == [*LATER]
    assert capsys.readouterr().err.count("done before") == len(before)


def test_what_has_changed_is_made_again(fakes: Fakes, arguments: list[str], tmp_path: Path) -> None:
    assert main(arguments) == 0
    # Other annotations of the same meaning, other options, another video of the same name.
    mine = tmp_path / "mine.jsonl"
    mine.write_text(mine.read_text().replace(": ", ":  "))
    fakes.ran.clear()
    assert main(arguments) == 0
    assert fakes.ran == []
    write_annotations(tmp_path, "y")
    assert main(arguments) == 0
    assert fakes.ran == [*LATER]
    fakes.ran.clear()
    assert main([*arguments, "--seed", "1"]) == 0
    assert fakes.ran == [*LATER]
    fakes.ran.clear()
    write_video(tmp_path / "videos" / "a.mp4", frames=160)
    assert main([*arguments, "--seed", "1"]) == 0
    assert fakes.ran == [*LATER]


def test_another_clip_of_the_same_name_makes_everything_again(
    fakes: Fakes, arguments: list[str], tmp_path: Path
) -> None:
    clip = tmp_path / "clip.safetensors"
    tensors = load_file(WEIGHTS)
    arguments[-1] = str(clip)
    for scale in (1.0, 0.5):
        save_file(tensors | {"visual.proj": tensors["visual.proj"] * scale}, clip)
        fakes.ran.clear()
        assert main(arguments) == 0
        assert fakes.ran == [*LATER]


def test_a_step_alone_runs_again_and_outdates_what_follows(
    fakes: Fakes, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--step", "train"]) == TrainingError.exit_code
    assert "there is nothing to train yet" in capsys.readouterr().err
    assert main(arguments) == 0
    fakes.ran.clear()
    assert main([*arguments, "--step", "export"]) == 0
    assert fakes.ran == ["export"]
    assert main(arguments) == 0
    assert fakes.ran == ["export", "quantise", "evaluate", "calibrate"]
