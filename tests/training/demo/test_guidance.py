from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from training.clip import ClipTowers
from training.demo.guidance import Guide, hints_of
from training.demo.scenes import Pool
from training.demo.settings import FPS, model_config
from training.demo.testset import sample_test_videos
from training.demo.videos import Composer, Shape
from training.model import R2Tuning
from training.world.claims import Claim
from training.world.scenes import Motion
from training.world.sprites import Sprites
from training.world.videos import Query, Video

MOTIONS = tuple(Motion)
# Which of x, y and size each motion changes, and which way.
WAYS = (
    (Motion.LEFT, 0, -1),
    (Motion.RIGHT, 0, 1),
    (Motion.UP, 1, -1),
    (Motion.DOWN, 1, 1),
    (Motion.GROW, 2, 1),
    (Motion.SHRINK, 2, -1),
)


@pytest.fixture(scope="module")
def video(toy_sprites: Sprites) -> Video:
    (test,) = sample_test_videos("noto", 1, toy_sprites, lengths_s=(120.0, 120.0))
    return test.video


def query(**claim: object) -> Query:
    return Query(text="", claim=Claim(**claim), spans_s=())  # type: ignore[arg-type]


def test_what_is_shown_is_what_is_salient(video: Video, toy_sprites: Sprites) -> None:
    names = toy_sprites.concepts("noto")
    asked = [query(concept=name) for name in names]
    asked += [query(concept=names[0], other=name) for name in names[1:]]
    hints = hints_of(video, asked, 60)
    salient = [video.saliency(each.claim, float(FPS)) > 0 for each in asked]
    for hint, expected in zip(hints, salient, strict=True):
        # All that is named is on screen where, and only where, the claim holds.
        np.testing.assert_array_equal(hint.shown[:, 1].bool(), expected)
    for hint, one in zip(hints[len(names) :], salient[1 : len(names)], strict=True):
        np.testing.assert_array_equal(hint.shown[:, 0].bool(), salient[0] | one)
        assert (hint.motion == -100).all()
        assert hint.place.isnan().all()


def test_motion_hints_are_the_spans_of_motion_claims(video: Video, toy_sprites: Sprites) -> None:
    seen = 0
    for name in toy_sprites.concepts("noto"):
        for index, motion in enumerate(MOTIONS):
            if motion is Motion.STILL:
                continue
            one = query(concept=name, motion=motion)
            (hint,) = hints_of(video, [one], 60)
            assert hint.asked == index
            salient = torch.from_numpy(video.saliency(one.claim, float(FPS)) > 0)
            assert torch.equal(hint.motion == index, salient)
            seen += int(salient.sum())
    assert seen > 20


def test_places_follow_the_motion(video: Video, toy_sprites: Sprites) -> None:
    steps = 0
    scenes = [video.at((clip + 0.5) / float(FPS)) for clip in range(60)]
    same = torch.tensor([one is two for one, two in itertools.pairwise(scenes)])
    for name in toy_sprites.concepts("noto"):
        (hint,) = hints_of(video, [query(concept=name)], 60)
        assert torch.equal(hint.place.isnan().any(dim=1), hint.motion == -100)
        moved = hint.place[1:] - hint.place[:-1]
        for motion, axis, sign in WAYS:
            does = hint.motion == MOTIONS.index(motion)
            together = does[1:] & does[:-1] & same
            assert (sign * moved[together, axis] > 0).all(), (name, motion)
            steps += int(together.sum())
    assert steps > 10


@pytest.mark.slow
def test_a_guide_learns_and_padding_teaches_nothing(pool: Pool, towers: ClipTowers) -> None:
    shape = Shape(videos=2, queries=3, absent=2, clips=(12, 24))
    composer = Composer(pool, towers, shape, seed=3)
    lesson = next(x for x in map(composer.lesson, range(20)) if not x.batch.video_mask.all())
    batch, hints = lesson.batch, lesson.hints
    torch.manual_seed(0)
    model = R2Tuning(model_config(towers)).eval()
    guide = Guide(model.config.width)
    output = model(batch.video.float(), batch.query, batch.video_mask, batch.query_mask)
    padded = ~output.video_mask
    terms = guide(model, output, hints)
    noise = torch.where(padded[..., None], torch.randn_like(output.video_emb), output.video_emb)
    other = guide(model, dataclasses.replace(output, video_emb=noise), hints)
    for name, term in terms.items():
        torch.testing.assert_close(other[name], term, msg=name)
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        output = model(batch.video.float(), batch.query, batch.video_mask, batch.query_mask)
        after = guide(model, output, hints)
        torch.stack(list(after.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, term in terms.items():
        assert after[name] < 0.9 * term, name
