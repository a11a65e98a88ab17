from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import pytest

from training.demo import make as module
from training.demo.make import STAGES, Plan, make

PLAN = Plan(clip_steps=2, block_steps=2)


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
        monkeypatch.setitem(module.STAGES, name, partial(stage, name))
    with pytest.raises(RuntimeError, match="power cut"):
        make(tmp_path, PLAN, say=ran.append)
    assert [line for line in ran if line in STAGES] == ["art", "clip", "clip-again"]
    broken.clear()
    ran.clear()
    said: list[str] = []
    make(tmp_path, PLAN, say=said.append)
    assert ran == ["scenes", "block", "bundle", "card"]
    assert sum("done before" in line for line in said) == 3
    # Weights of one seed are not mixed with those of another.
    with pytest.raises(click.UsageError, match=r"clip in .* was made with other options"):
        make(tmp_path, Plan(clip_steps=3, block_steps=2), say=said.append)
    with pytest.raises(click.UsageError, match=r"block in .* was made with other options"):
        make(tmp_path, Plan(clip_steps=2, block_steps=3), say=said.append)


def test_what_is_not_done_yet_may_have_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(name: str, _out: Path, plan: Plan) -> None:
        if name == "block" and plan == PLAN:
            raise RuntimeError("too slow")

    for name in STAGES:
        monkeypatch.setitem(module.STAGES, name, partial(stage, name))
    said: list[str] = []
    with pytest.raises(RuntimeError, match="too slow"):
        make(tmp_path, PLAN, say=said.append)
    make(tmp_path, Plan(clip_steps=2, block_steps=1), say=said.append)
    assert sum("done before" in line for line in said) == 4
