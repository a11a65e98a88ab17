from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import CHECKOUT
from training.clip import ClipTowers
from training.demo.answers import Answer, Answerer, CosineAnswerer, ModelAnswerer, RandomAnswerer
from training.demo.clip import clip_tensors
from training.demo.evaluate import (
    Material,
    arguments_parser,
    evaluate,
    load_model,
    prepare,
    table,
)
from training.demo.scenes import Pool
from training.demo.settings import FPS, READ, TEST_SEED, TEST_VIDEOS, model_config
from training.demo.testset import AskedVideo, sample_test_videos
from training.demo.train import Budget, train
from training.demo.videos import Shape
from training.errors import TrainingError
from training.model import R2Tuning
from training.world.sprites import Sprites


class Knowing:
    """Answers with the truth, `late_s` seconds too late, and scores what is not there lower."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.late_s = late_s

    def answer(
        self,
        video: AskedVideo,
        frames: NDArray[np.uint8],
        hidden: NDArray[np.float16],
        texts: Sequence[str],
    ) -> list[Answer]:
        found = []
        for text, query in zip(texts, (*video.queries, *video.absent), strict=True):
            assert text == query.text
            rows = [(s + self.late_s, e + self.late_s, 0.9) for s, e in query.spans_s]
            saliency = video.video.saliency(query.claim, float(FPS)).astype(np.float64)
            found.append(Answer(moments=np.array(rows or [(0.0, 2.0, 0.1)]), saliency=saliency))
        return found


@pytest.fixture(scope="module")
def material(toy_sprites: Sprites, towers: ClipTowers) -> list[Material]:
    videos = sample_test_videos("twemoji", 5, toy_sprites, lengths_s=(30.0, 50.0))
    return prepare(videos, toy_sprites, towers)


def test_the_truth_is_right(material: list[Material]) -> None:
    figures = evaluate(Knowing(), material)
    assert figures.queries == sum(len(item.video.queries) for item in material)
    for value in (figures.r1_50, figures.r1_70, figures.mean_ap, figures.mean_iou):
        assert value == pytest.approx(100)
    assert figures.hd_map == pytest.approx(100)
    assert figures.hd_hit1 == pytest.approx(100)
    assert figures.roc_auc == pytest.approx(100)
    assert figures.kept == pytest.approx(100)
    assert set(figures.by_kind.values()) == {100.0}


def test_being_late_costs(material: list[Material]) -> None:
    assert evaluate(Knowing(4.0), material).r1_70 < 60
    assert evaluate(Knowing(60.0), material).mean_iou < 20


@pytest.mark.parametrize(("share", "at_50", "at_70"), [(0.4, 0, 0), (0.6, 100, 0), (0.8, 100, 100)])
def test_recall_counts_from_the_iou_that_its_name_says(
    material: list[Material], share: float, at_50: float, at_70: float
) -> None:
    class Short(Knowing):
        def answer(self, *arguments: Any) -> list[Answer]:
            answers = super().answer(*arguments)
            for answer in answers:
                start_s, end_s = answer.moments[:, 0], answer.moments[:, 1]
                answer.moments[:, 1] = start_s + share * (end_s - start_s)
            return answers

    figures = evaluate(Short(), material)
    assert (figures.r1_50, figures.r1_70) == pytest.approx((at_50, at_70))
    assert set(figures.by_kind.values()) == {float(at_50)}


def test_a_guess_is_no_better_than_chance(material: list[Material]) -> None:
    figures = evaluate(RandomAnswerer(), material)
    assert figures.r1_70 < 40
    assert figures.mean_iou < 50


def test_test_videos_are_their_seed_s(toy_sprites: Sprites) -> None:
    one, two = (sample_test_videos("noto", 2, toy_sprites) for _ in range(2))
    assert one == two
    other = sample_test_videos("twemoji", 2, toy_sprites)
    assert other[0].video != one[0].video
    assert all(actor.thing.style == "twemoji" for s in other[0].video.scenes for actor in s.actors)


def test_everyone_answers_every_sentence(
    material: list[Material], towers: ClipTowers, clip_file: Path
) -> None:
    answerers: dict[str, Answerer] = {
        "R²": ModelAnswerer(R2Tuning(model_config(towers)), towers),
        "last": ModelAnswerer(R2Tuning(model_config(towers, read=(-1,))), towers),
        "cosine": CosineAnswerer(towers, clip_tensors(clip_file)[0]),
    }
    rows = {"toy": {name: evaluate(who, material) for name, who in answerers.items()}}
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(answerers)
    assert len({line.count("|") for line in lines}) == 1
    item = material[0]
    texts = [query.text for query in item.video.queries]
    for who in answerers.values():
        for answer in who.answer(item.video, item.frames, item.hidden, texts):
            assert len(answer.saliency) == len(item.hidden)
            assert np.all(answer.moments[:, 1] > answer.moments[:, 0])
            assert np.all(np.diff(answer.moments[:, 2]) <= 0)
            assert answer.moments[:, :2].max() <= item.video.video.duration_s


def test_the_card_counts_the_videos_that_the_command_takes() -> None:
    card = (CHECKOUT / "r2rt" / "demo" / "README.md").read_text()
    assert f"{TEST_VIDEOS} composed videos" in card
    options = {
        name: action.default
        for action in arguments_parser()._actions
        for name in action.option_strings
    }
    assert options["--videos"] == TEST_VIDEOS
    assert options["--seed"] == TEST_SEED


def test_weights_say_which_layers_they_read(pool: Pool, towers: ClipTowers, tmp_path: Path) -> None:
    shape = Shape(videos=1, queries=2, absent=1, clips=(8, 12))
    for number, read in enumerate((READ, (-1, -3))):
        out = tmp_path / str(number)
        train(pool, towers, out, Budget(steps=1), shape=shape, read=read)
        model = load_model(out / "model.pth", towers)
        assert model.config.read == read
    # Those of before do not say, and read as published models do.
    bare = tmp_path / "bare.pth"
    state = torch.load(tmp_path / "0" / "model.pth", weights_only=True)
    torch.save({"meta": {}, "state_dict": state["state_dict"]}, bare)
    assert load_model(bare, towers).config.read == (-4, -3, -2, -1)


def test_training_goes_on_only_from_weights_that_read_the_same_layers(
    pool: Pool, towers: ClipTowers, tmp_path: Path
) -> None:
    shape = Shape(videos=1, queries=2, absent=1, clips=(8, 12))
    first = tmp_path / "first"
    train(pool, towers, first, Budget(steps=1), shape=shape, read=(-1, -2))
    for name in ("model.pth", "checkpoint.pt"):
        with pytest.raises(TrainingError, match=r"add --read=-1,-2$"):
            train(pool, towers, tmp_path / name, Budget(steps=1), shape=shape, init=first / name)
        assert not (tmp_path / name / "checkpoint.pt").exists()
    with pytest.raises(TrainingError, match=r"add --read=-1,-2$"):
        train(pool, towers, first, Budget(steps=2), shape=shape, resume=True)
    on = tmp_path / "on"
    init = first / "checkpoint.pt"
    train(pool, towers, on, Budget(steps=1), shape=shape, read=(-1, -2), init=init)
    train(pool, towers, on, Budget(steps=2), shape=shape, read=(-1, -2), resume=True)
    assert torch.load(on / "checkpoint.pt", weights_only=True)["step"] == 2
