from __future__ import annotations

import dataclasses

import numpy as np
import torch

from training.clip import ClipTowers
from training.demo.objective import losses
from training.demo.scenes import Pool
from training.demo.settings import model_config
from training.demo.videos import Composer, Shape, Truth, encode_queries, look_alikes
from training.losses import LossWeights
from training.model import R2Tuning
from training.tiny_clip.rows import encode

SHAPE = Shape(videos=1, queries=3, absent=0, clips=(12, 24))
ASKED = Shape(videos=2, queries=3, absent=2, clips=(12, 24))


def test_a_batch_is_its_seed_s_and_its_number_s(pool: Pool, towers: ClipTowers) -> None:
    one, two = (Composer(pool, towers, SHAPE, seed=5).lesson(3).batch for _ in range(2))
    assert one.qids == two.qids
    assert torch.equal(one.video, two.video)
    assert torch.equal(one.targets.pos_clip, two.targets.pos_clip)
    other = Composer(pool, towers, SHAPE, seed=5).lesson(4).batch
    assert one.video.shape != other.video.shape or not torch.equal(one.video, other.video)


def test_positive_clips_lie_in_moments(pool: Pool, towers: ClipTowers) -> None:
    batch = Composer(pool, towers, SHAPE, seed=1).lesson(0).batch
    targets = batch.targets
    assert targets.boundary_s is not None
    assert batch.video.shape[0] == 1
    assert len(batch) == 3
    for saliency, clip, moments in zip(
        targets.saliency, targets.pos_clip, targets.boundary_s, strict=True
    ):
        middle_s = 2 * int(clip) + 1
        assert saliency[clip] > 0
        assert any(start <= middle_s < end for start, end in moments.tolist())


def test_sharing_videos_changes_no_loss(pool: Pool, towers: ClipTowers) -> None:
    lesson = Composer(pool, towers, ASKED, seed=2).lesson(7)
    batch = lesson.batch
    torch.manual_seed(0)
    model = R2Tuning(model_config(towers)).eval()
    shared = model(batch.video.float(), batch.query, batch.video_mask, batch.query_mask)
    alone = model(
        batch.video.float().repeat_interleave(10, dim=0),
        batch.query,
        batch.video_mask.repeat_interleave(10, dim=0),
        batch.query_mask,
    )
    one = losses(model, shared, batch.targets, lesson.truth, LossWeights())
    two = losses(model, alone, batch.targets, lesson.truth, LossWeights())
    for name, loss in one.items():
        torch.testing.assert_close(loss, two[name], msg=name)


def test_queries_are_encoded_as_alone(towers: ClipTowers) -> None:
    texts = ["a dog", "the red car moving to the left", "cat"]
    together = encode_queries(towers, texts)
    for text, states in zip(texts, together, strict=True):
        with torch.no_grad():
            alone = towers.encode_text(encode([text]), 4)[0].transpose(0, 1)
        torch.testing.assert_close(states, alone)


def test_every_video_is_asked_the_queries_of_all(pool: Pool, towers: ClipTowers) -> None:
    lesson = Composer(pool, towers, ASKED, seed=2).lesson(1)
    batch, truth = lesson.batch, lesson.truth
    assert truth.shape == (2, 10)
    assert len(batch) == truth.numel()
    one, two = batch.query.view(*truth.shape, *batch.query.shape[1:])
    assert torch.equal(one, two)
    own, other = truth[0, :5].tolist(), truth[0, 5:].tolist()
    assert own == [Truth.OWN] * 3 + [Truth.NOWHERE] * 2
    assert set(other) <= {Truth.NOWHERE, Truth.OTHERS}
    assert truth[1, 5:].tolist() == own
    assert batch.targets.boundary_s is not None
    moments = batch.targets.boundary_s[:, 0, 0].isfinite()
    flat = truth.flatten()
    assert moments[flat == Truth.OWN].all()
    assert not moments[flat == Truth.NOWHERE].any()


def test_videos_may_be_asked_their_own_queries_alone(pool: Pool, towers: ClipTowers) -> None:
    shape = dataclasses.replace(ASKED, shared=False)
    alone = Composer(pool, towers, shape, seed=2).lesson(1)
    shared = Composer(pool, towers, ASKED, seed=2).lesson(1)
    assert (alone.shared, shared.shared) == (False, True)
    assert alone.truth.tolist() == [[Truth.OWN] * 3 + [Truth.NOWHERE] * 2] * 2
    assert torch.equal(alone.batch.video, shared.batch.video)
    # The same questions of the same videos, without those of the other one.
    rows = [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]
    assert torch.equal(alone.batch.query, shared.batch.query[rows])
    moments, wanted = (x.batch.targets.boundary_s for x in (alone, shared))
    assert moments is not None
    assert wanted is not None
    # As many columns as the most moments of a query; the others are padding.
    assert torch.equal(moments, wanted[rows, : moments.shape[1]])
    assert not wanted[rows, moments.shape[1] :].isfinite().any()
    assert torch.equal(alone.hints.shown, shared.hints.shown[rows])


def test_a_query_that_is_true_of_another_video_too_is_neither_right_nor_wrong_there(
    pool: Pool, towers: ClipTowers
) -> None:
    lessons = [Composer(pool, towers, ASKED, seed=3).lesson(number) for number in range(6)]
    seen = 0
    for lesson in lessons:
        targets = lesson.batch.targets
        assert targets.boundary_s is not None
        true = targets.boundary_s[:, 0, 0].isfinite().view(lesson.truth.shape)
        for place in range(2):
            foreign = torch.ones(10, dtype=torch.bool)
            foreign[5 * place : 5 * place + 5] = False
            both = true[place] & foreign
            assert (lesson.truth[place][both] == Truth.OTHERS).all()
            seen += int(both.sum())
    assert seen > 0


def test_a_positive_clip_has_no_other_clip_of_its_query_for_a_negative(
    pool: Pool, towers: ClipTowers
) -> None:
    targets = Composer(pool, towers, SHAPE, seed=4).lesson(2).batch.targets
    for saliency, clip in zip(targets.saliency, targets.pos_clip, strict=True):
        others = saliency.clone()
        others[clip] = 0
        assert set(others.tolist()) <= {0.0, 1.0}
        assert saliency[clip] == 0.5


def test_look_alikes_are_those_whose_scenes_look_most_alike(pool: Pool) -> None:
    angles = np.radians([0, 90, 10, 100, 5])  # of each scene's CLS token
    cls = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    hidden = np.zeros((10, 4, 3, 2), np.float16)
    hidden[::2, -1, 0] = cls  # two clips a scene, of which the first is looked at
    made = Pool(pool.scenes[:5], np.arange(0, 11, 2), hidden)
    nearest = look_alikes(made, [[0], [1], [2, 4], [3]])
    assert nearest[:, :2].tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]
