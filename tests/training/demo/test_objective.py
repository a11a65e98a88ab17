from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from training.clip import ClipTowers
from training.demo.objective import losses, ranking_loss
from training.demo.scenes import Pool
from training.demo.settings import model_config
from training.demo.videos import Composer, Lesson, Shape, Truth
from training.losses import LossTargets, LossWeights, compute_losses, point_targets
from training.model import R2Output, R2Tuning

SHAPE = Shape(videos=2, queries=3, absent=2, clips=(12, 24))


@pytest.fixture(scope="module")
def model(towers: ClipTowers) -> R2Tuning:
    torch.manual_seed(0)
    return R2Tuning(model_config(towers)).eval()


@pytest.fixture(scope="module")
def lesson(pool: Pool, towers: ClipTowers) -> Lesson:
    """One in which a video's query is true of the other one too."""
    lessons = map(Composer(pool, towers, SHAPE, seed=2).lesson, range(20))
    return next(lesson for lesson in lessons if (lesson.truth == Truth.OTHERS).any())


@pytest.fixture(scope="module")
def output(model: R2Tuning, lesson: Lesson) -> R2Output:
    batch = lesson.batch
    with torch.no_grad():
        found = model(batch.video.float(), batch.query, batch.video_mask, batch.query_mask)
    assert isinstance(found, R2Output)
    return found


def right_points(output: R2Output, lesson: Lesson) -> torch.Tensor:
    targets = lesson.batch.targets
    assert targets.boundary_s is not None
    assert targets.fps is not None
    boundary = targets.boundary_s * targets.fps[:, None, None]
    right, _ = point_targets(output.points, output.point_strides, boundary)
    return right & output.point_mask & (lesson.truth == Truth.OWN).flatten()[:, None]


def test_a_video_s_own_true_queries_have_the_model_s_losses(
    model: R2Tuning, output: R2Output, lesson: Lesson
) -> None:
    batch, targets = lesson.batch, lesson.batch.targets
    terms = losses(model, output, targets, lesson.truth, LossWeights())
    assert terms.pop("loss_absent") > 0
    assert terms.pop("loss_rank") > 0
    rows = (lesson.truth.flatten() == Truth.OWN).nonzero().flatten()
    assert rows.tolist() == [0, 1, 2, 15, 16, 17]
    assert targets.boundary_s is not None
    assert targets.fps is not None
    alone = model(batch.video.float(), batch.query[rows], batch.video_mask, batch.query_mask[rows])
    kept = LossTargets(
        saliency=targets.saliency[rows],
        pos_clip=targets.pos_clip[rows],
        boundary_s=targets.boundary_s[rows],
        fps=targets.fps[rows],
    )
    expected = compute_losses(model, alone, kept)
    assert expected.keys() == terms.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(terms[name], loss, msg=name)


def test_ranking_is_a_softmax_over_the_points_of_all_videos(
    output: R2Output, lesson: Lesson
) -> None:
    targets, truth = lesson.batch.targets, lesson.truth
    right = right_points(output, lesson)
    assert targets.boundary_s is not None
    shares = []
    for place in range(truth.shape[1]):
        good = bad = 0.0
        for video in range(truth.shape[0]):
            row = video * truth.shape[1] + place
            if truth[video, place] == Truth.OTHERS:
                continue
            spans = [(s / 2, e / 2) for s, e in targets.boundary_s[row].tolist() if s < math.inf]
            for point in range(len(output.points)):
                if not output.point_mask[row, point]:
                    continue
                at, stride = int(output.points[point]), int(output.point_strides[point])
                value = math.exp(float(output.class_logits[row, point]))
                if right[row, point]:
                    good += value
                elif not any(at < end and at + stride > start for start, end in spans):
                    bad += value
        if good:
            shares.append(good / (good + bad))
    assert len(shares) == 6
    expected = -sum(map(math.log, shares)) / len(shares)
    assert float(ranking_loss(output, targets, truth)) == pytest.approx(expected, rel=1e-5)


def test_what_is_learned_of_a_point_is_whether_it_is_right(
    model: R2Tuning, output: R2Output, lesson: Lesson
) -> None:
    logits = output.class_logits.clone().requires_grad_()
    changed = dataclasses.replace(output, class_logits=logits)
    terms = losses(model, changed, lesson.batch.targets, lesson.truth, LossWeights())
    total = terms["loss_rank"] + terms["loss_absent"] + terms["loss_cls"]
    (slope,) = torch.autograd.grad(total, logits)
    right = right_points(output, lesson)
    assert (slope[right] < 0).all()
    assert (slope[~right] >= 0).all()
    others = (lesson.truth == Truth.OTHERS).flatten()
    assert not slope[others].any()
    nowhere = (lesson.truth == Truth.NOWHERE).flatten()[:, None] & output.point_mask
    assert (slope[nowhere] > 0).all()
    assert not slope[~output.point_mask].any()


def test_nothing_right_is_nothing_to_rank(output: R2Output, lesson: Lesson) -> None:
    truth = torch.full_like(lesson.truth, Truth.NOWHERE)
    assert ranking_loss(output, lesson.batch.targets, truth) == 0


def test_alone_a_query_s_points_are_ranked_among_those_of_its_video(
    output: R2Output, lesson: Lesson
) -> None:
    """As if there were no other video, whose answer depends on none."""
    targets, truth = lesson.batch.targets, lesson.truth
    alone = float(ranking_loss(output, targets, truth, shared=False))
    each = []
    for row in range(truth.numel()):
        one = {
            name: getattr(output, name)[row : row + 1]
            for name in ("class_logits", "offsets", "saliency", "point_mask", "video_mask")
        }
        assert targets.boundary_s is not None
        assert targets.fps is not None
        wanted = LossTargets(
            saliency=targets.saliency[row : row + 1],
            pos_clip=targets.pos_clip[row : row + 1],
            boundary_s=targets.boundary_s[row : row + 1],
            fps=targets.fps[row : row + 1],
        )
        whose = truth.view(-1, 1)[row : row + 1]
        if (whose == Truth.OWN).all():
            each.append(float(ranking_loss(dataclasses.replace(output, **one), wanted, whose)))
    assert len(each) == 6
    assert alone == pytest.approx(sum(each) / len(each), rel=1e-5)
