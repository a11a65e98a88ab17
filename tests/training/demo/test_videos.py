from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from training.clip import ClipTowers
from training.demo.scenes import Pool
from training.demo.settings import model_config
from training.demo.videos import Composer, Shape, collate_shared, encode_queries
from training.losses import compute_losses
from training.model import R2Tuning
from training.tiny_clip.rows import encode

SHAPE = Shape(videos=2, queries=3, clips=(12, 24))


def test_a_batch_is_its_seed_s_and_its_number_s(pool: Pool, towers: ClipTowers) -> None:
    one, two = (Composer(pool, towers, SHAPE, seed=5).batch(3) for _ in range(2))
    assert one.qids == two.qids
    assert torch.equal(one.video, two.video)
    assert torch.equal(one.targets.pos_clip, two.targets.pos_clip)
    other = Composer(pool, towers, SHAPE, seed=5).batch(4)
    assert one.video.shape != other.video.shape or not torch.equal(one.video, other.video)


def test_positive_clips_lie_in_moments(pool: Pool, towers: ClipTowers) -> None:
    batch = Composer(pool, towers, SHAPE, seed=1).batch(0)
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
    batch = Composer(pool, towers, SHAPE, seed=2).batch(7)
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


def test_nothing_to_collate_is_refused() -> None:
    with pytest.raises((ValueError, IndexError)):
        collate_shared([])


def test_shape_is_frozen() -> None:
    assert {field.name for field in fields(Shape)} == {"videos", "queries", "clips"}
