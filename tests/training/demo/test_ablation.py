from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.world.toy_art import write_toy_sprites
from training.clip import ClipTowers
from training.demo import evaluate as evaluate_module
from training.demo import train as train_module
from training.demo.ablation import VARIANTS, main, spread_table
from training.demo.evaluate import Figures
from training.demo.scenes import Pool
from training.demo.settings import model_config
from training.demo.train import Budget
from training.model import R2Tuning


def figures(r1_50: float) -> Figures:
    return Figures(
        queries=10,
        r1_50=r1_50,
        r1_70=5.0,
        mean_ap=0.0,
        mean_iou=0.0,
        hd_map=40.0,
        hd_hit1=0.0,
        by_kind={"object": 50.0},
        roc_auc=50.0,
        kept=0.0,
    )


def test_the_table_has_means_and_deviations_over_seeds() -> None:
    by_seed = [{"noto": figures(value)} for value in (10.0, 20.0, 30.0)]
    lines = spread_table({"four": by_seed, "cosine": [{"noto": figures(7.0)}]}).splitlines()
    # Of 10, 20, 30: mean 20, standard deviation of a sample 10.
    assert lines[2].startswith(
        "| four | noto | 20.0 ± 10.0 | 5.0 ± 0.0 | 0.0 ± 0.0 | 40.0 ± 0.0 | 50.0 ± 0.0 |"
    )
    assert lines[3].startswith("| cosine | noto | 7.0 | 5.0 | 0.0 | 40.0 | 50.0 |")
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_each_variant_is_trained_with_each_seed_once(
    clip_file: Path,
    pool: Pool,
    towers: ClipTowers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: list[tuple[tuple[int, ...], int, tuple[str, ...]]] = []

    def train(
        _pool: Pool, _towers: ClipTowers, out: Path, _budget: Budget, **options: Any
    ) -> R2Tuning:
        out.mkdir(parents=True)
        read, seed = options["read"], options["seed"]
        trained.append((read, seed, options["shape"].kinds))
        return R2Tuning(model_config(towers, read=read)).eval()

    monkeypatch.setattr(train_module, "train", train)
    arguments = ["--scenes", str(Path(str(pool.hidden.filename)).parent)]  # type: ignore[attr-defined]
    art = write_toy_sprites(tmp_path / "sprites.npz").parent
    arguments += ["--art", str(art), "--clip", str(clip_file)]
    arguments += ["--out", str(tmp_path / "out"), "--steps", "1", "--seeds", "0,1", "--videos", "1"]
    arguments += ["--styles", "twemoji", "--threads", "1", "--coarse", "--kinds", "pair,motion"]
    assert main(arguments) == 0
    kinds = ("pair", "motion")
    assert trained == [(order, seed, kinds) for seed in (0, 1) for order in VARIANTS.values()]
    table = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        *(f"| {name}" for name in VARIANTS),
        "| CLIP alone: cosine, smoothed",
    ]
    trained.clear()
    # Neither trained nor drawn and encoded again.
    monkeypatch.setattr(evaluate_module, "prepare", None)
    assert main(arguments) == 0
    assert not trained
    captured = capsys.readouterr()
    assert captured.out == table
    results = [json.loads(line) for line in captured.err.splitlines()]
    assert [(each["layers"], each["seed"]) for each in results] == [
        (name, seed) for seed in (0, 1) for name in VARIANTS
    ]
    assert main([*arguments, "--steps", "2"]) == 2
    assert "other options" in capsys.readouterr().err
    assert main([*arguments, "--kinds", "pair,scent"]) == 2
    assert "'pair,scent' is not a list of object, colour, pair, motion" in capsys.readouterr().err
