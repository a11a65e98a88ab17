"""Long videos whose truth is known: short ones asked queries, among hours of other things.

What the queries are about is shown in the short videos alone: these are drawn with one half of the
world's things and all else with the other half. So a query has the same moments in the long video
as in its short one. A frame's tokens do not depend on what else a video shows, so every short video
is encoded once and put together by its tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.grounder import Grounder
from r2rt.grounding.growing_array import GrowingArray, forget
from training.demo.testset import AskedVideo, sample_test_videos
from training.world.claims import spans_of
from training.world.sprites import Sprites
from training.world.videos import Query, Video

__all__ = ["Asked", "LongVideo", "Segment", "compose", "make_segments"]

# Of the things in the world, in order, every so many is shown in the short videos that are asked.
_EVERY = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """A short video, encoded."""

    test: AskedVideo
    encoded: EncodedVideo


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One query of a segment, in the long video.

    Attributes:
        segment: which segment it is asked of.
        segment_s: where that starts and ends in the long video, in seconds.
        query: what is asked, with its moments in the segment.
        spans_s: its moments in the long video, in seconds.
    """

    segment: int
    segment_s: tuple[float, float]
    query: Query
    spans_s: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LongVideo:
    """A composed video, encoded, and what is asked of it."""

    video: Video
    encoded: EncodedVideo
    asked: tuple[Asked, ...]


def make_segments(
    grounder: Grounder, sprites: Sprites, style: str, *, targets: int, filler_s: float, seed: int
) -> tuple[list[Segment], list[Segment]]:
    """Return `targets` short videos that are asked, and others of `filler_s` seconds in all."""
    names = sprites.concepts(style)
    asked = [name for number, name in enumerate(names) if number % _EVERY == 0]
    other = [name for number, name in enumerate(names) if number % _EVERY]
    tests = sample_test_videos(style, targets, sprites, seed=seed, concepts=asked)
    # Test videos are 90 s long in the mean; a few more than needed cost little.
    fillers = sample_test_videos(
        style, max(2, round(filler_s / 90)), sprites, seed=seed + 1, concepts=other
    )
    return _encode(grounder, sprites, tests), _encode(grounder, sprites, fillers)


def compose(
    rng: np.random.Generator,
    segments: Sequence[Segment],
    targets: Sequence[int],
    fillers: Sequence[Segment],
    duration_s: float,
) -> LongVideo:
    """Put short videos at random places among fillers, in a video at least `duration_s` long.

    Args:
        rng: the only source of chance.
        segments: all short videos.
        targets: which of them are put in.
        fillers: what is between them, again and again if need be.
        duration_s: the length, reached by whole fillers.
    """
    chosen = [(index, segments[index]) for index in targets]
    left_s = duration_s - sum(segment.encoded.duration_s for _, segment in chosen)
    while left_s > 0:
        for place in rng.permutation(len(fillers)):
            if left_s > 0:
                chosen.append((-1, fillers[place]))
                left_s -= fillers[place].encoded.duration_s
    order = [chosen[place] for place in rng.permutation(len(chosen))]
    video = Video(tuple(scene for _, segment in order for scene in segment.test.video.scenes))
    asked = []
    start_s = 0.0
    for index, segment in order:
        if index >= 0:
            asked += _asked(index, segment, video, start_s)
        start_s += segment.encoded.duration_s
    return LongVideo(
        video=video,
        encoded=_joined([segment.encoded for _, segment in order]),
        asked=tuple(asked),
    )


def _asked(index: int, segment: Segment, video: Video, start_s: float) -> list[Asked]:
    """Return the segment's queries that are true nowhere else in the long video."""
    found = []
    segment_s = (start_s, start_s + segment.encoded.duration_s)
    for query in segment.test.queries:
        spans_s = tuple((start_s + a, start_s + b) for a, b in query.spans_s)
        everywhere = spans_of(query.claim, video.timed)
        if len(everywhere) == len(spans_s) and np.allclose(everywhere, spans_s, atol=1e-3):
            found.append(Asked(segment=index, segment_s=segment_s, query=query, spans_s=spans_s))
    return found


def _encode(grounder: Grounder, sprites: Sprites, tests: Sequence[AskedVideo]) -> list[Segment]:
    size, fps = grounder.bundle.dims.image_size, grounder.bundle.fps
    return [
        Segment(test=test, encoded=grounder.encode_frames(test.frames(sprites, size), fps))
        for test in tests
    ]


def _joined(parts: Sequence[EncodedVideo]) -> EncodedVideo:
    clips = sum(part.num_clips for part in parts)
    tokens = GrowingArray(parts[0].tokens.shape[1:], clips)
    start = 0
    for part in parts:
        tokens.rows[start : start + part.num_clips] = part.tokens
        forget(tokens.rows)
        start += part.num_clips
    return dataclasses.replace(
        parts[0],
        source="composed",
        tokens=tokens.rows,
        embeddings=None,
        duration_s=sum(part.duration_s for part in parts),
    )
