from __future__ import annotations

import torch

from training.clip import ClipTowers
from training.demo.scenes import Pool
from training.demo.settings import model_config
from training.demo.train import losses
from training.demo.videos import Composer, Shape, encode_queries
from training.losses import LossTargets, LossWeights, compute_losses
from training.model import R2Tuning
from training.tiny_clip.rows import encode

SHAPE = Shape(videos=2, queries=3, absent=0, clips=(12, 24))


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
    assert batch.video.shape[0] == 2
    assert len(batch) == 6
    for saliency, clip, moments in zip(
        targets.saliency, targets.pos_clip, targets.boundary_s, strict=True
    ):
        middle_s = 2 * int(clip) + 1
        assert saliency[clip] > 0
        assert any(start <= middle_s < end for start, end in moments.tolist())


def test_sharing_videos_changes_no_loss(pool: Pool, towers: ClipTowers) -> None:
    batch = Composer(pool, towers, SHAPE, seed=2).lesson(7).batch
    torch.manual_seed(0)
    model = R2Tuning(model_config(towers)).eval()
    shared = model(batch.video.float(), batch.query, batch.video_mask, batch.query_mask)
    alone = model(
        batch.video.float().repeat_interleave(3, dim=0),
        batch.query,
        batch.video_mask.repeat_interleave(3, dim=0),
        batch.query_mask,
    )
    one = compute_losses(model, shared, batch.targets)
    two = compute_losses(model, alone, batch.targets)
    for name, loss in one.items():
        torch.testing.assert_close(loss, two[name], msg=name)


def test_queries_are_encoded_as_alone(towers: ClipTowers) -> None:
    texts = ["a dog", "the red car moving to the left", "cat"]
    together = encode_queries(towers, texts)
    for text, states in zip(texts, together, strict=True):
        with torch.no_grad():
            alone = towers.encode_text(encode([text]), 4)[0].transpose(0, 1)
        torch.testing.assert_close(states, alone)


def test_queries_that_are_true_nowhere_have_one_loss_and_change_no_other(
    pool: Pool, towers: ClipTowers
) -> None:
    shape = Shape(videos=2, queries=3, absent=2, clips=(12, 24))
    batch = Composer(pool, towers, shape, seed=2).lesson(1).batch
    torch.manual_seed(0)
    model = R2Tuning(model_config(towers)).eval()
    output = model(batch.video.float(), batch.query, batch.video_mask, batch.query_mask)
    terms = losses(model, output, batch.targets, LossWeights())
    absent = terms.pop("loss_absent")
    assert absent > 0
    rows = [0, 1, 2, 5, 6, 7]
    assert (batch.targets.saliency > 0).any(dim=1).nonzero().flatten().tolist() == rows
    targets = batch.targets
    assert targets.boundary_s is not None
    assert targets.fps is not None
    alone = model(batch.video.float(), batch.query[rows], batch.video_mask, batch.query_mask[rows])
    kept = LossTargets(
        saliency=targets.saliency[rows],
        pos_clip=targets.pos_clip[rows],
        boundary_s=targets.boundary_s[rows],
        fps=targets.fps[rows],
    )
    for name, loss in compute_losses(model, alone, kept).items():
        torch.testing.assert_close(terms[name], loss, msg=name)


def test_a_positive_clip_has_no_other_clip_of_its_query_for_a_negative(
    pool: Pool, towers: ClipTowers
) -> None:
    targets = Composer(pool, towers, SHAPE, seed=4).lesson(2).batch.targets
    for saliency, clip in zip(targets.saliency, targets.pos_clip, strict=True):
        others = saliency.clone()
        others[clip] = 0
        assert set(others.tolist()) <= {0.0, 1.0}
        assert saliency[clip] == 0.5
