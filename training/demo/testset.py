"""Test videos of one style, their queries, and what is annotated of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.demo.settings import FPS, TEST_SEED, WORLD
from training.metrics import Annotation
from training.world.art import STYLES
from training.world.photographs import Photographs
from training.world.sprites import Sprites
from training.world.videos import (
    Painter,
    Query,
    Video,
    sample_absent,
    sample_queries,
    sample_video,
)

__all__ = ["AskedVideo", "sample_test_videos"]

# Lengths in seconds, whole clips.
_LENGTHS_S = (30.0, 150.0)


@dataclass(frozen=True, kw_only=True)
class AskedVideo:
    """A video and what is asked of it.

    Attributes:
        vid: its name, which contains style and number.
        video: the video.
        queries: sentences that are true of some of it.
        absent: sentences that are true of none of it.
    """

    vid: str
    video: Video
    queries: tuple[Query, ...]
    absent: tuple[Query, ...]

    def qid(self, number: int) -> str:
        """Name of query `number` of `queries`."""
        return f"{self.vid}/{number}"

    def frames(
        self, sprites: Sprites, image_size: int, photographs: Photographs | None = None
    ) -> NDArray[np.uint8]:
        """Return the frame of every clip, (T, S, S, 3)."""
        painter = Painter(sprites, image_size, photographs)
        return np.stack(list(painter.clips(self.video, float(FPS))))

    def annotations(self) -> list[Annotation]:
        """Return what is annotated of every query, in the form of QVHighlights."""
        found = []
        for number, query in enumerate(self.queries):
            # Grades 2, 3 and 4: on screen, well, and very well.
            scores = 4 * self.video.saliency(query.claim, float(FPS))
            clips = np.flatnonzero(scores)
            found.append(
                Annotation(
                    qid=self.qid(number),
                    # Whole clips, which sums of lengths miss by a rounding.
                    duration=round(self.video.duration_s, 6),
                    query=query.text,
                    vid=self.vid,
                    relevant_windows=list(query.spans_s),
                    relevant_clip_ids=clips.tolist(),
                    saliency_scores=[[float(scores[clip])] for clip in clips],
                )
            )
        return found


def sample_test_videos(
    style: str,
    count: int,
    sprites: Sprites,
    *,
    seed: int = TEST_SEED,
    lengths_s: tuple[float, float] = _LENGTHS_S,
    concepts: Sequence[str] | None = None,
) -> list[AskedVideo]:
    """Draw test videos in one style: the same for the same seed, none of them trained on."""
    names = tuple(sprites.concepts(style) if concepts is None else concepts)
    place = list(STYLES).index(style)
    clip_s = float(1 / FPS)
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, place, number])
        length_s = round(rng.uniform(*lengths_s) / clip_s) * clip_s
        video = sample_video(rng, sprites, style, length_s, WORLD, concepts=names)
        found.append(
            AskedVideo(
                vid=f"{style}-{number}",
                video=video,
                queries=tuple(sample_queries(rng, video)),
                absent=tuple(sample_absent(rng, video, names)),
            )
        )
    return found
