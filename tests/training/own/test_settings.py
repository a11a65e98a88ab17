from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from training.config import RunConfig
from training.data.annotation import Annotation
from training.data.errors import AnnotationError
from training.model import Padding
from training.own.__main__ import main
from training.own.settings import choose_rate, choose_settings
from training.own.split import split_by_video
from training.trainer.schedule import steps_per_epoch


def annotation(vid: str, *moments: tuple[float, float], qid: int = 1) -> Annotation:
    return Annotation(
        qid=qid,
        vid=vid,
        query="x",
        duration_s=None,
        moments_s=moments,
        saliency=None,
        labels="grounding",
        fps=None,
        domain=None,
        place="1",
    )


@pytest.mark.parametrize(
    ("queries", "batch", "steps"),
    [
        (1, 4, 300),
        (36, 4, 306),
        (63, 4, 512),
        (64, 16, 512),
        (1000, 32, 8000),
        (90_000, 32, 20_000),
    ],
)
def test_steps_and_batches_follow_the_number_of_queries(
    queries: int, batch: int, steps: int
) -> None:
    config = choose_settings(
        queries=queries, longest_s=31.2, fps=Fraction(1), vision_width=128, seed=3
    )
    recipe = config.recipe
    epoch = steps_per_epoch(recipe, queries)
    assert recipe.batch_size == batch
    assert steps <= recipe.epochs * epoch < steps + epoch
    assert recipe.warmup_steps <= recipe.epochs * epoch / 10
    assert recipe.decay_epoch is not None
    assert 1 <= recipe.decay_epoch <= recipe.epochs
    assert (recipe.window_s, recipe.fps, recipe.unit_s) == (32.0, Fraction(1), None)
    assert (config.model.width, config.model.padding) == (128, Padding.EXACT)
    assert config.options.seed == 3


def test_what_depends_on_the_steps_follows_those_that_are_asked_for() -> None:
    def choose(**changes: object) -> RunConfig:
        sizes: dict[str, Any] = {"queries": 36, "longest_s": 30.0, "fps": 1, "vision_width": 128}
        return choose_settings(**sizes, seed=0, changes=changes)

    def timing(config: RunConfig) -> tuple[int | None, ...]:
        recipe = config.recipe
        return recipe.epochs, recipe.decay_epoch, recipe.warmup_steps, config.options.val_epochs

    assert timing(choose(epochs="20")) == (20, 13, 18, 2)
    assert timing(choose(batch_size=12)) == (100, 66, 30, 10)
    assert timing(choose(epochs=20, decay_epoch=None, warmup_steps=5)) == (20, None, 5, 2)


def test_the_rate_is_no_setting_of_the_training_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = str(tmp_path / "mine.jsonl"), str(tmp_path / "run")
    assert main([mine, "--videos", str(tmp_path), "--out", out, "--set", "fps=1"]) == 2
    assert "use --fps" in capsys.readouterr().err


def test_short_moments_get_shorter_clips() -> None:
    assert choose_rate([annotation("a", (0, 3)), annotation("b", (0, 5), (0, 50))]) == 1
    assert choose_rate([annotation("a", (0, 3)), annotation("b", (0, 8), (0, 50))]) == Fraction(
        1, 2
    )


def test_no_video_is_trained_and_evaluated_on() -> None:
    annotations = [annotation(f"v{n % 12}", (0, 4), qid=n) for n in range(36)]
    train, val = split_by_video(annotations, seed=0)
    assert len({a.vid for a in val}) == 2
    assert not {a.vid for a in val} & {a.vid for a in train}
    assert sorted(a.qid for a in (*train, *val)) == list(range(36))
    # Another video leaves the others where they are, or moves one of them.
    more = [*annotations, annotation("another", (0, 4), qid=99)]
    moved = {a.vid for a in split_by_video(more, seed=0)[1]} ^ {a.vid for a in val}
    assert len(moved) <= 2
    with pytest.raises(AnnotationError, match="one video, 'v0'"):
        split_by_video([annotation("v0", (0, 4))], seed=0)


def test_annotations_that_cannot_be_trained_on_end_it_with_each_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"video": "a.mp4", "query": "x", "relevant_windows": [[9, 3]]}\n')
    arguments = [str(mine), "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "run")]
    assert main(arguments) == 60
    said = capsys.readouterr().err
    assert "swap them" in said
    assert "is not in" in said
    assert "run the same command again" in said
    assert not (tmp_path / "run").exists()
