"""Training videos put together from encoded scenes, each asked its own queries or all.

That a query is true of one video teaches where in it; that it is true of no other teaches how high
to score: in a long video every window is asked every query, and almost none of them shows it. The
first is learned first, at a quarter of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from training.clip import ClipTowers
from training.data.sample import Batch, Sample, collate
from training.demo.guidance import Hints, collate_hints, hints_of
from training.demo.scenes import Pool
from training.demo.settings import FPS, LAYERS
from training.tiny_clip.rows import encode
from training.world.claims import KINDS, Kind, spans_of
from training.world.videos import Query, Video, sample_absent, sample_queries

__all__ = [
    "Composer",
    "Lesson",
    "Shape",
    "Truth",
    "collate_shared",
    "encode_queries",
    "look_alikes",
    "samples_of",
]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How much there is in a batch.

    Attributes:
        videos: videos in a batch.
        queries: true queries that each of them brings.
        absent: queries besides that are true nowhere in it.
        clips: the fewest and the most clips that the videos of a batch have, about.
        alike: share of batches whose videos show things that CLIP takes for one another.
        shared: whether every video is asked the queries of all, else its own alone.
        kinds: kinds of queries that are asked.
    """

    videos: int = 4
    queries: int = 4
    absent: int = 1
    clips: tuple[int, int] = (15, 75)
    alike: float = 0.5
    shared: bool = True
    kinds: tuple[Kind, ...] = KINDS


# Things that a video shows again and again, and of how many that look alike they are chosen.
_LEADS, _THEME = 3, 8


class Truth(IntEnum):
    """What a query is to a video that is asked it."""

    OTHERS = -1
    """Another video's, and true of this one too, or people may disagree: nothing is learned."""
    NOWHERE = 0
    """True nowhere in it."""
    OWN = 1
    """Its own, and true."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """A batch of V videos that are asked N queries each, all of one video together.

    Attributes:
        batch: the B = V · N samples.
        truth: what each query is to its video, values of `Truth`, (V, N).
        hints: what is true of the queries at every clip.
        shared: whether all videos are asked the same queries, else each its own.
    """

    batch: Batch
    truth: Tensor
    hints: Hints
    shared: bool


class Composer:
    """Makes lessons without end: lesson n depends on the seed and on n alone."""

    def __init__(self, pool: Pool, towers: ClipTowers, shape: Shape, seed: int) -> None:
        self._pool, self._towers, self._shape, self._seed = pool, towers, shape, seed
        self._with: dict[str, list[int]] = {}
        for index, scene in enumerate(pool.scenes):
            for actor in scene.actors:
                self._with.setdefault(actor.thing.concept, []).append(index)
        self._concepts = sorted(self._with)
        self._alike = look_alikes(pool, [self._with[concept] for concept in self._concepts])

    def lesson(self, number: int) -> Lesson:
        """Return lesson `number`: videos of about the same length, and what they are asked."""
        rng = np.random.default_rng([self._seed, number])
        low, high = self._shape.clips
        # Short videos are as frequent as long ones, in steps: a batch of long ones costs more.
        clips = int(rng.integers(low, high + 1))
        theme = None
        if rng.random() < self._shape.alike:
            theme = self._alike[rng.integers(len(self._concepts))]
        brought = [self._bring(rng, clips, theme) for _ in range(self._shape.videos)]
        asked = [(video, query) for video, _, queries in brought for query in queries]
        words = encode_queries(self._towers, [query.text for _, query in asked])
        samples: list[list[Sample]] = []
        hints: list[Hints] = []
        truth = []
        for place, (video, hidden, _) in enumerate(brought):
            its = [
                (_as_asked_of(video, query), states, owner is video)
                for (owner, query), states in zip(asked, words, strict=True)
                if self._shape.shared or owner is video
            ]
            here = [query for query, *_ in its]
            states = [states for _, states, _ in its]
            samples.append(samples_of(video, here, states, hidden, vid=f"{number}/{place}"))
            hints += hints_of(video, here, len(hidden))
            truth.append([_truth(video, query, own=own) for query, _, own in its])
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        return Lesson(
            batch=collate_shared(samples, generator),
            truth=torch.tensor(truth),
            hints=collate_hints(hints),
            shared=self._shape.shared,
        )

    def _bring(
        self, rng: Generator, clips: int, theme: NDArray[np.int64] | None
    ) -> tuple[Video, NDArray[np.float16], list[Query]]:
        """Return a video of which enough can be asked, its hidden states, and its queries."""
        while True:
            chosen, video = self._compose(rng, clips, theme)
            shape = self._shape
            queries = sample_queries(rng, video, shape.queries, kinds=shape.kinds)
            absent = sample_absent(rng, video, self._concepts, shape.absent, kinds=shape.kinds)
            if len(queries) == shape.queries and len(absent) == shape.absent:
                hidden = np.concatenate([self._pool.hidden_of(index) for index in chosen])
                return video, hidden, [*queries, *absent]

    def _compose(
        self, rng: Generator, clips: int, theme: NDArray[np.int64] | None
    ) -> tuple[list[int], Video]:
        """Put scenes together: some that share a thing, some at random, up to about `clips`.

        The things that are shared are of the theme, indices of concepts, where there is one.
        """
        chosen: list[int] = []
        among = np.arange(len(self._concepts)) if theme is None else theme
        leads = rng.choice(among, min(_LEADS, len(among)), replace=False)
        for lead in leads:
            known = self._with[self._concepts[lead]]
            times = min(int(rng.integers(1, 4)), len(known))
            chosen += [known[index] for index in rng.choice(len(known), times, replace=False)]
        chosen += rng.integers(len(self._pool.scenes), size=clips).tolist()
        # Leads come first so that they are kept, whatever there is room for.
        lengths = np.diff(self._pool.first_clip)
        total, kept = 0, []
        for index in dict.fromkeys(chosen):
            if total + lengths[index] <= clips:
                total += int(lengths[index])
                kept.append(index)
        order = [kept[index] for index in rng.permutation(len(kept))]
        return order, Video(tuple(self._pool.scenes[index] for index in order))


def look_alikes(pool: Pool, shown_in: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return, for each concept, those that look most like it to CLIP, itself first, (N, A).

    What a concept looks like is the mean of the CLS tokens of the scenes that show it, by CLIP's
    last block.

    Args:
        pool: the scenes.
        shown_in: indices of the scenes that show each of the N concepts.
    """
    first = pool.first_clip[:-1]
    cls = np.asarray(pool.hidden[first, -1, 0], np.float32)  # (scenes, Cv)
    looks = np.stack([cls[list(scenes)].mean(axis=0) for scenes in shown_in])
    looks -= cls.mean(axis=0)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True) + 1e-6
    return np.argsort(-(looks @ looks.T), axis=1, kind="stable")[:, :_THEME]


def _as_asked_of(video: Video, query: Query) -> Query:
    """Return the query with its moments in this video."""
    return replace(query, spans_s=tuple(spans_of(query.claim, video.timed)))


def _truth(video: Video, query: Query, *, own: bool) -> Truth:
    """Say what a query, with its moments in this video, is to it."""
    if not own and any(query.claim.is_unclear(timed.scene) for timed in video.timed):
        return Truth.OTHERS
    if not query.spans_s:
        return Truth.NOWHERE
    return Truth.OWN if own else Truth.OTHERS


def samples_of(
    video: Video,
    queries: Sequence[Query],
    words: Sequence[Tensor],
    hidden: NDArray[np.float16],
    *,
    vid: str,
) -> list[Sample]:
    """Return a sample for each query, with words (L, K, Ct), of a video with these hidden states.

    `hidden` is (T, K, P, Cv).
    """
    states = torch.from_numpy(hidden)
    samples = []
    for number, (query, tokens) in enumerate(zip(queries, words, strict=True)):
        saliency = torch.from_numpy(video.saliency(query.claim, float(FPS)))[: len(hidden)]
        shown = saliency.nonzero().flatten()
        samples.append(
            Sample(
                video=states,
                query=tokens,
                fps=float(FPS),
                duration_s=video.duration_s,
                moments_s=torch.tensor(query.spans_s, dtype=torch.float32).reshape(-1, 2),
                saliency=saliency,
                # A query that no clip shows has one that no loss looks at.
                relevant_clips=shown if len(shown) else torch.zeros(1).long(),
                qid=f"{vid}/{number}",
                vid=vid,
                text=query.text,
            )
        )
    return samples


def encode_queries(towers: ClipTowers, texts: Sequence[str]) -> list[Tensor]:
    """Return each sentence's hidden states, (L, K, Ct), real tokens alone."""
    ids = encode(texts)
    lengths = (ids != 0).sum(dim=1).tolist()
    with torch.no_grad():
        hidden = towers.encode_text(ids, LAYERS).transpose(1, 2)  # (N, L, K, Ct)
    return [row[:length] for row, length in zip(hidden, lengths, strict=True)]


def collate_shared(
    samples: Sequence[Sequence[Sample]], generator: torch.Generator | None = None
) -> Batch:
    """Collate the samples of several videos, as many of each; every video stands there once.

    The batch's `video` is (V, T, K, P, Cv) and its `video_mask` (V, T), as `R2Tuning` takes them.
    """
    videos = collate([group[0] for group in samples], generator)
    # What all samples of a video share is not copied for each of them.
    bare = [replace(s, video=s.video[..., :1, :1]) for group in samples for s in group]
    batch = collate(bare, generator)
    saliency, pos_clip = _contrasts(batch.targets.saliency, len(samples), generator)
    targets = replace(batch.targets, saliency=saliency, pos_clip=pos_clip)
    return replace(batch, video=videos.video, video_mask=videos.video_mask, targets=targets)


def _contrasts(
    saliency: Tensor, videos: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Choose positive clips that contrast, and mark what is no negative of them.

    Queries of one video are often true at the same time, and a query in many clips. The losses take
    every clip for a negative whose saliency is no higher than the positive's, and every other query
    of the batch. So a query's positive clip is one at which the fewest other queries of its video
    are true, and the query's other clips get a higher saliency than it.

    Args:
        saliency: (B, T), 0 where a query is not true.
        videos: number of videos; each has as many queries, one after another.
        generator: what draws among equals.

    Returns:
        Saliency for the losses, (B, T): 0, 1/2 at the positive clip, 1; positive clips, (B,), which
        mean nothing for a query that is true nowhere.
    """
    true = saliency > 0
    # (V, 1, T): how many queries of the video are true at a clip.
    crowd = true.view(videos, -1, true.shape[-1]).sum(dim=1, keepdim=True)
    crowd = crowd.expand(-1, len(true) // videos, -1).flatten(0, 1)
    chance = torch.rand(true.shape, generator=generator)
    pos_clip = (crowd + chance).masked_fill(~true, torch.inf).argmin(dim=1)
    marked = true.to(saliency.dtype)
    marked[torch.arange(len(marked)), pos_clip] /= 2
    return marked, pos_clip
