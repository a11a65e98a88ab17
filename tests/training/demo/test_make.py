from __future__ import annotations

import itertools
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest
import torch

from tests.training.world.toy_art import write_toy_sprites
from training.clip import ClipError
from training.demo import make as module
from training.demo.make import make
from training.demo.stages import STAGES, Plan, clip_of, options_of
from training.tiny_clip.model import TinyClip
from training.tiny_clip.weights import read_made, write_compact, write_weights

PLAN = Plan(clip_steps=2, clip_stop=0, block_steps=2)


def test_stages_run_in_order_once_and_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    broken = {"scenes"}

    def stage(name: str, _out: Path, _plan: Plan) -> None:
        if name in broken:
            raise RuntimeError("power cut")
        ran.append(name)

    for name in STAGES:
        monkeypatch.setitem(STAGES, name, partial(stage, name))
    with pytest.raises(RuntimeError, match="power cut"):
        make(tmp_path, PLAN, say=ran.append)
    assert [line for line in ran if line in STAGES] == ["art", "clip", "clip-again"]
    broken.clear()
    ran.clear()
    said: list[str] = []
    make(tmp_path, PLAN, say=said.append)
    assert ran == ["scenes", "block", "block-again", "block-last", "bundle", "card"]
    assert sum("done before" in line for line in said) == 3
    said.clear()
    make(tmp_path, PLAN, say=said.append)
    assert sum("done before" in line for line in said) == len(STAGES)
    # Weights of one seed are not mixed with those of another.
    with pytest.raises(click.UsageError, match=r"clip in .* was made with other options"):
        make(tmp_path, Plan(clip_steps=3, clip_stop=0, block_steps=2), say=said.append)
    with pytest.raises(click.UsageError, match=r"block in .* was made with other options"):
        make(tmp_path, Plan(clip_steps=2, clip_stop=0, block_steps=3), say=said.append)


def test_what_is_not_done_yet_may_have_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(name: str, _out: Path, plan: Plan) -> None:
        if name == "block" and plan == PLAN:
            raise RuntimeError("too slow")

    for name in STAGES:
        monkeypatch.setitem(STAGES, name, partial(stage, name))
    said: list[str] = []
    with pytest.raises(RuntimeError, match="too slow"):
        make(tmp_path, PLAN, say=said.append)
    make(tmp_path, Plan(clip_steps=2, clip_stop=0, block_steps=1), say=said.append)
    assert sum("done before" in line for line in said) == 4


@pytest.mark.parametrize(
    ("name", "left", "changed", "free"),
    [
        ("clip", "checkpoint.pt", {"clip_seed": 5}, {"clip_stop": 1}),
        ("scenes", "frames.npy", {"scenes": 14}, {"block_seed": 5}),
        ("block", "checkpoint.pt", {"block_seed": 5}, {"block_steps": 1}),
    ],
)
def test_what_was_killed_goes_on_with_its_seed_and_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    left: str,
    changed: dict[str, Any],
    free: dict[str, Any],
) -> None:
    ran: list[str] = []

    def killed(out: Path, _plan: Plan) -> None:
        shutil.copy(out / "stages.json", out / "killed.json")
        raise RuntimeError("killed")

    for each in STAGES:
        monkeypatch.setitem(STAGES, each, lambda *_, each=each: ran.append(each))
    with monkeypatch.context() as once:
        once.setitem(STAGES, name, killed)
        with pytest.raises(RuntimeError, match="killed"):
            make(tmp_path, PLAN)
    # Who is killed writes nothing any more.
    (tmp_path / "killed.json").replace(tmp_path / "stages.json")
    ran.clear()
    option = next(iter(changed)).replace("_", "-")
    (tmp_path / name).mkdir()
    other = msgspec.structs.replace(PLAN, **changed)
    if left == "checkpoint.pt":
        torch.save({"elapsed_s": 1.0}, tmp_path / name / left)
    else:
        (tmp_path / name / left).touch()
    with pytest.raises(click.UsageError, match=f"{name} in .* begun with --{option} "):
        make(tmp_path, other)
    assert not ran
    make(tmp_path, msgspec.structs.replace(PLAN, **free))
    assert ran[0] == name


def test_what_has_made_nothing_yet_may_have_another_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(_out: Path, plan: Plan) -> None:
        if plan == PLAN:
            raise RuntimeError("killed")

    for name in STAGES:
        monkeypatch.setitem(STAGES, name, stage if name == "block" else lambda *_: None)
    with pytest.raises(RuntimeError, match="killed"):
        make(tmp_path, PLAN)
    make(tmp_path, msgspec.structs.replace(PLAN, block_seed=5))
    assert json.loads((tmp_path / "stages.json").read_text())["block"]["options"]["block_seed"] == 5


@pytest.mark.parametrize("last", ["clip", "clip-again"])
def test_a_clip_of_another_run_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    ran: list[str] = []
    for name in STAGES:
        monkeypatch.setitem(STAGES, name, lambda *_, name=name: ran.append(name))
    trained, out = tmp_path / "r2rt-tiny.safetensors", tmp_path / "out"
    weights = write_weights(TinyClip(), tmp_path / "whole")
    write_compact(weights, trained, {"clip_steps": 2, "photographs": 0.25})
    with pytest.raises(click.UsageError, match="made with other options"):
        make(out, PLAN, trained_clip=trained)
    made = options_of(last, PLAN)
    write_compact(weights, trained, made)
    make(out, PLAN, trained_clip=trained)
    done = ["clip", "clip-again"][: 1 + (last == "clip-again")]
    assert ran == [name for name in STAGES if name not in done]
    copied = out / ("weights" if last == "clip-again" else "clip") / trained.name
    assert copied.read_bytes() == trained.read_bytes()
    assert read_made(copied) == made
    trained.write_bytes(b"no weights")
    with pytest.raises(ClipError, match="not weights of the tiny CLIP"):
        make(tmp_path / "again", PLAN, trained_clip=trained)


def test_the_kept_weights_are_those_of_the_command() -> None:
    kept = Path(module.__file__).parent / "weights" / "r2rt-tiny.safetensors"
    assert read_made(kept) == options_of("clip-again", Plan())


@pytest.mark.slow
def test_each_training_of_the_block_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    plan = Plan(
        photographs=0.0,
        scenes=40,
        block_steps=2,
        block_alone=1,
        block_again=1,
        block_last=1,
        threads=1,
    )
    (tmp_path / "art").mkdir()
    write_toy_sprites(tmp_path / "art" / "sprites.npz")
    (tmp_path / "weights").mkdir()
    torch.manual_seed(0)
    write_compact(write_weights(TinyClip(), tmp_path / "whole"), clip_of(tmp_path), {})
    trainings = ("block", "block-again", "block-last")
    for name in ("scenes", *trainings):
        STAGES[name](tmp_path, plan)
    states = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in trainings
    ]
    # The first step of the warm-up moves a weight by a hundred-thousandth at most.
    for (first, again), part in itertools.product(itertools.pairwise(states), ("average", "guide")):
        moved = [
            float((tensor - first[part][name]).abs().max()) for name, tensor in again[part].items()
        ]
        assert 0 < max(moved) < 2e-5, part
    made = tmp_path / "weights" / "r2.pth"
    for ends, changed in (
        ("block-last", {}),
        ("block-again", {"block_last": 0}),
        ("block", {"block_last": 0, "block_again": 0}),
    ):
        STAGES["block-last"](tmp_path, msgspec.structs.replace(plan, **changed))
        assert made.read_bytes() == (tmp_path / ends / "model.pth").read_bytes()


def test_seconds_are_those_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that was killed counts up to its checkpoint, one that was interrupted as a whole."""
    now_s = 0.0
    takes_s = {"scenes": 40.0}

    def stage(name: str, out: Path, _plan: Plan) -> None:
        nonlocal now_s
        now_s += takes_s.get(name, 1.0)
        if takes_s.pop(name, None):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now_s))
    for name in STAGES:
        monkeypatch.setitem(STAGES, name, partial(stage, name))
    # As a process leaves it that is killed in its first stage but one.
    (tmp_path / "stages.json").write_text('{"art": {"options": {}, "seconds": 39.0}}')
    (tmp_path / "clip").mkdir()
    torch.save({"elapsed_s": 700.0}, tmp_path / "clip" / "checkpoint.pt")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, PLAN, say=lambda _: None)
    said: list[str] = []
    make(tmp_path, PLAN, say=said.append)
    assert said[:4] == [
        "art: done before, in 39 s",
        "clip: done before, in 701 s",
        "clip-again: done before, in 1 s",
        "scenes: 41 s",
    ]
    kept = json.loads((tmp_path / "stages.json").read_text())
    assert {name: stage["seconds"] for name, stage in kept.items()} == {
        **dict.fromkeys(STAGES, 1.0),
        "art": 39.0,
        "clip": 701.0,
        "scenes": 41.0,
    }
    assert all(stage.keys() == {"options", "seconds"} for stage in kept.values())
