from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden_data import load_loss_golden
from training.checkpoint import build_model
from training.data.sample import Batch, Sample, collate, collate_inputs
from training.losses import compute_losses


def sample(clips: int, words: int, moments: int | None = 1, **changes: Any) -> Sample:
    generator = torch.Generator().manual_seed(clips * 100 + words)
    fields: dict[str, Any] = {
        "video": torch.randn(clips, 4, 5, 64, generator=generator).half(),
        "query": torch.randn(words, 4, 64, generator=generator).half(),
        "fps": 0.5,
        "duration_s": 2.0 * clips,
        "moments_s": None if moments is None else torch.rand(moments, 2, generator=generator),
        "saliency": torch.rand(clips, generator=generator),
        "relevant_clips": torch.arange(1, clips),
        "qid": clips,
        "vid": f"v{clips}",
        "text": "a dog",
    }
    return Sample(**fields | changes)


def test_a_batch_is_its_samples_padded() -> None:
    samples = [sample(5, 3, 1), sample(9, 7, 3), sample(7, 4, 2)]
    batch = collate(samples, torch.Generator().manual_seed(0))
    assert len(batch) == 3
    assert batch.video.shape == (3, 9, 4, 5, 64)
    assert batch.query.shape == (3, 7, 4, 64)
    assert batch.video.dtype == torch.float16
    assert batch.qids == (5, 9, 7)
    assert batch.vids == ("v5", "v9", "v7")
    assert batch.targets.boundary_s is not None
    assert batch.targets.boundary_s.shape == (3, 3, 2)
    assert batch.targets.fps is not None
    assert batch.targets.fps.tolist() == [0.5] * 3
    for row, one in enumerate(samples):
        clips, words = len(one.video), len(one.query)
        assert one.moments_s is not None
        moments = len(one.moments_s)
        assert torch.equal(batch.video[row, :clips], one.video)
        assert torch.equal(batch.query[row, :words], one.query)
        assert not batch.video[row, clips:].any()
        assert not batch.query[row, words:].any()
        assert batch.video_mask[row].tolist() == [True] * clips + [False] * (9 - clips)
        assert batch.query_mask[row].tolist() == [True] * words + [False] * (7 - words)
        assert torch.equal(batch.targets.saliency[row, :clips], one.saliency)
        assert not batch.targets.saliency[row, clips:].any()
        assert torch.equal(batch.targets.boundary_s[row, :moments], one.moments_s)
        assert (batch.targets.boundary_s[row, moments:] == math.inf).all()


def test_positive_clips_are_drawn_evenly_and_by_the_generator() -> None:
    samples = [sample(8, 3, relevant_clips=torch.tensor([2, 5, 6]))] * 300
    drawn = collate(samples, torch.Generator().manual_seed(3)).targets.pos_clip
    counts = Counter(drawn.tolist())
    assert counts.keys() == {2, 5, 6}
    assert min(counts.values()) > 70
    again = collate(samples, torch.Generator().manual_seed(3)).targets.pos_clip
    other = collate(samples, torch.Generator().manual_seed(4)).targets.pos_clip
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)


def test_the_losses_take_a_batch_and_do_not_see_its_padding(golden_dir: Path) -> None:
    golden = load_loss_golden(golden_dir / "loss_moment")
    width = golden.video.shape[-1]
    patches = golden.video.shape[-2]
    samples = [
        sample(
            clips,
            4,
            video=torch.randn(clips, 4, patches, width),
            query=torch.randn(4, 4, golden.query.shape[-1]),
            moments_s=torch.tensor([[2.0, 6.0]]),
            relevant_clips=torch.tensor([2]),
        )
        for clips in (12, 12)
    ]
    model = build_model(golden_dir / "moment.pth")
    with torch.no_grad():
        alone = collate(samples)
        longer = collate([*samples, sample_like(samples[0], 20)])

        def saliency(batch: Batch) -> torch.Tensor:
            output = model(batch.video, batch.query, batch.video_mask, batch.query_mask)
            losses = compute_losses(model, output, batch.targets)
            assert all(loss.isfinite() for loss in losses.values())
            found: torch.Tensor = output.saliency[:2, :12]
            return found

        torch.testing.assert_close(saliency(alone), saliency(longer), rtol=1e-4, atol=1e-5)


def sample_like(one: Sample, clips: int) -> Sample:
    return sample(
        clips,
        9,
        video=torch.randn(clips, *one.video.shape[1:]),
        query=torch.randn(9, *one.query.shape[1:]),
    )


def test_moving_a_batch_moves_all_of_it() -> None:
    batch = collate([sample(5, 3), sample(6, 2)])
    moved = batch.to("meta", dtype=torch.float32)
    assert isinstance(moved, Batch)
    assert moved.video.dtype == torch.float32
    assert moved.query.dtype == torch.float32
    assert moved.targets.boundary_s is not None
    tensors = [
        *(moved.video, moved.query, moved.video_mask, moved.query_mask),
        *(moved.targets.saliency, moved.targets.pos_clip, moved.targets.boundary_s),
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.targets.pos_clip.dtype == torch.int64
    assert moved.qids == batch.qids


def test_highlights_have_no_moments() -> None:
    assert collate([sample(5, 3, None), sample(6, 3, None)]).targets.boundary_s is None
    with pytest.raises(ValueError, match="some samples"):
        collate([sample(5, 3, None), sample(6, 3, 1)])


def test_inputs_need_no_labels_but_training_does() -> None:
    bare = sample(5, 3, None, relevant_clips=torch.zeros(0, dtype=torch.int64))
    assert collate_inputs([bare]).video.shape == (1, 5, 4, 5, 64)
    with pytest.raises(ValueError, match="sample 5 of video 'v5' has no relevant clip"):
        collate([bare])
    with pytest.raises(ValueError, match="no samples"):
        collate_inputs([])
    with pytest.raises(ValueError, match="different sizes"):
        collate_inputs([sample(5, 3), sample(5, 3, video=torch.zeros(5, 4, 6, 64))])


def test_half_and_single_precision_meet_in_single() -> None:
    whole = sample(5, 3, video=torch.zeros(5, 4, 5, 64))
    assert collate_inputs([whole, sample(6, 3)]).video.dtype == torch.float32


BROKEN: list[tuple[Callable[[], Sample], str]] = [
    (lambda: sample(5, 3, video=torch.zeros(5, 4, 64)), "video has shape"),
    (lambda: sample(5, 3, video=torch.zeros(0, 4, 5, 64)), "video has shape"),
    (lambda: sample(5, 3, query=torch.zeros(3, 64)), "query has shape"),
    (lambda: sample(5, 3, query=torch.zeros(3, 2, 64)), "differ in CLIP layers"),
    (lambda: sample(5, 3, saliency=torch.zeros(4)), "saliency has shape"),
    (lambda: sample(5, 3, moments_s=torch.zeros(2)), "moments_s must be"),
    (lambda: sample(5, 3, relevant_clips=torch.tensor([5])), "outside 0..4"),
    (lambda: sample(5, 3, fps=0.0), "fps is 0"),
]


@pytest.mark.parametrize(("make", "says"), BROKEN)
def test_a_sample_that_contradicts_itself_is_refused(make: Callable[[], Sample], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
