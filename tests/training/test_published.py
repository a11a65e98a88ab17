"""That a recipe as published trains as the authors' configuration does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from r2rt.model.manifest import Nms
from tests.training.trainer.material import RandomSamples, small_model, small_recipe
from training.config import RunConfig, TrainOptions, find_recipe
from training.model import Padding, R2Config, R2Tuning
from training.trainer.machine import chosen_precision
from training.trainer.order import Batches
from training.trainer.validation import predict, published_moments

WIDTH = 32


def linear(module: object) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def published_attention() -> list[torch.Tensor]:
    """Four linear maps as PyTorch makes them, then started anew: Xavier-uniform, no bias."""
    maps = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
    return [nn.init.xavier_uniform_(each.weight) for each in maps]


def test_initial_weights_are_those_of_the_published_training_by_value() -> None:
    """In the order in which the published checkpoints list the maps, from one seed."""
    torch.manual_seed(5)
    # video_map, query_map, v_map and q_map keep PyTorch's own start.
    maps = [nn.Linear(18, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(12, WIDTH)]
    maps += [nn.Linear(WIDTH, WIDTH) for _ in range(3)]
    attention = [*published_attention(), *published_attention()]
    wide, narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
    ffn = [nn.init.kaiming_normal_(x.weight, mode="fan_out") for x in (wide, narrow)]

    torch.manual_seed(5)
    model = R2Tuning(R2Config(width=WIDTH, layers=2, vision_width=16, text_width=12, heads=4))
    block = model.adapter
    found = [linear(each[place]) for each in (block.video_map, block.query_map) for place in (2, 6)]
    for mine, theirs in zip([*found, block.v_map, block.q_map], maps, strict=True):
        assert torch.equal(mine.weight, theirs.weight)
        assert torch.equal(mine.bias, theirs.bias)
    layers = (block.tem.cross_att, block.tem.self_att)
    ours = [getattr(layer, name) for layer in layers for name in "qkvm"]
    ours += [linear(block.tem.ffn.mapping[place]) for place in (0, 2)]
    for mine, weight in zip(ours, [*attention, *ffn], strict=True):
        assert torch.equal(mine.weight, weight)
        assert not mine.bias.any()
    assert not block.gate.any()
    assert not block.scale.any()
    assert (model.coef == 1).all()


def test_initial_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    tem = R2Tuning(R2Config()).adapter.tem
    bound = math.sqrt(6 / (256 + 256))
    for each in (tem.cross_att.q, tem.self_att.v, tem.self_att.m):
        assert each.weight.abs().max() <= bound
        assert each.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    for place, outputs in ((0, 1024), (2, 256)):
        weight = linear(tem.ffn.mapping[place]).weight
        assert weight.std().item() == pytest.approx(math.sqrt(2 / outputs), rel=0.02)
        # A normal distribution, not a uniform one: a third of it lies beyond one deviation.
        share = (weight.abs() > math.sqrt(2 / outputs)).float().mean().item()
        assert share == pytest.approx(0.3173, abs=0.01)


def test_repeats_are_shuffled_as_one() -> None:
    recipe = small_recipe(passes=4, batch_size=8)
    batches = Batches(RandomSamples(10), range(10), recipe, seed=3)
    drawn = [qid for step in range(5) for qid in batches[step].qids]
    assert sorted(drawn) == sorted(4 * list(range(10)))
    # Of four permutations one after the other, each ten would hold every sample.
    assert any(len(set(drawn[start : start + 10])) < 10 for start in (0, 10, 20, 30))


def test_padding_and_precision_are_the_published_ones() -> None:
    config = RunConfig(recipe=find_recipe("qvhighlights"))
    assert config.model.padding is Padding.SHARED
    assert chosen_precision(config.options, "cuda") == "fp16"
    assert chosen_precision(config.options, "cpu") == "fp32"
    assert chosen_precision(TrainOptions(precision="bf16"), "cpu") == "bf16"


def test_heads_and_losses_are_not_in_mixed_precision() -> None:
    model = small_model()
    sample = RandomSamples(1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        output = model(sample.video[None].float(), sample.query[None].float())
        mapped = model.adapter.v_map(torch.zeros(1, WIDTH))
    assert mapped.dtype is torch.bfloat16
    for name in ("class_logits", "offsets", "saliency", "video_emb", "query_emb", "layer_cls"):
        assert getattr(output, name).dtype is torch.float32, name


def test_a_validated_video_is_alone_whatever_the_padding_of_training() -> None:
    samples, recipe = RandomSamples(3), small_recipe()
    model = small_model().eval()
    exact = predict(model, samples, recipe)
    torch.manual_seed(0)
    shared = R2Tuning(replace(model.config, padding=Padding.SHARED)).eval()
    for one, other in zip(exact, predict(shared, samples, recipe), strict=True):
        np.testing.assert_allclose(
            np.array(one.pred_saliency_scores), np.array(other.pred_saliency_scores), atol=1e-5
        )
        assert one.pred_relevant_windows is not None
        assert len(one.pred_relevant_windows) == len(other.pred_relevant_windows or ())


def test_moments_are_suppressed_and_rounded_as_the_authors_do() -> None:
    rows = np.array(
        [
            [10.0, 20.0, 0.9],
            [10.4, 20.0, 0.8],  # overlaps the first by 0.96
            [-3.0, 74.9, 0.7],  # ends in the video, and is rounded to 76, beyond its end
            [40.4, 99.0, 0.6],  # ends beyond the video: cut there, and its start is not rounded
            [30.2, 30.3, 0.5],  # is rounded to nothing
        ]
    )
    found = published_moments(
        rows, duration_s=75.3, unit_s=2.0, nms=Nms(kind="normal", iou_threshold=0.7)
    )
    expected = [
        [10.0, 20.0, 0.9],
        [0.0, 74.0, 0.7],
        [40.4, 75.3, 0.6],
        [30.0, 30.0, 0.5],
        [10.0, 20.0, 0.0],
    ]
    np.testing.assert_allclose(found, expected)
    late = published_moments(
        np.array([[70.0, 75.2, 0.9]]), duration_s=75.3, unit_s=2.0, nms=Nms(kind="normal")
    )
    np.testing.assert_allclose(late, [[70.0, 76.0, 0.9]])
    # Half units go to the even one, as torch.round does.
    halves = published_moments(
        np.array([[1.0, 5.0, 0.9]]), duration_s=75.3, unit_s=2.0, nms=Nms(kind="linear")
    )
    np.testing.assert_allclose(halves, [[0.0, 4.0, 0.9]])
