"""Videos of the emoji world: scenes with cuts between them, drawn at any time, and the truth.

A video is a description; its frames are drawn one by one, in any order, from the description alone,
so that hours of it take no memory. The same seed gives the same video, frame by frame.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from r2rt.files import replacing
from training.world.claims import (
    KINDS,
    Claim,
    Kind,
    Timed,
    absent_claims,
    claims_of,
    saliency_at,
    spans_of,
)
from training.world.colours import COLOURS
from training.world.compose import background, look, paste
from training.world.photographs import Photographs
from training.world.scenes import Scene, Thing, sample_scene
from training.world.sentences import say
from training.world.sprites import Sprites

__all__ = [
    "Painter",
    "Query",
    "Video",
    "VideoSettings",
    "cast_thing",
    "is_worth_asking",
    "sample_absent",
    "sample_queries",
    "sample_video",
    "write_video",
]

Image = NDArray[np.uint8]

_COLOUR_NAMES = tuple(COLOURS)
# A moment that is worth asking for: neither a blink, nor most of the video.
_SHORTEST_MOMENT_S = 4.0
_LONGEST_SHARE = 0.6
_MOST_MOMENTS = 6
# What is asked for, in turn: one kind is not to crowd out the others.
_KINDS = ("object", "colour", "motion", "pair", "object", "motion", "colour", "pair")


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """What videos are like.

    Attributes:
        things: chances of no, one, two and three things in a scene.
        scene_s: the shortest and the longest scene, in seconds; short ones are more frequent.
        grid_s: lengths of scenes are multiples of this; None leaves them as they fall.
        painted: chance that a thing is painted in a named colour.
        leads: how many things come back during a video.
        returns: the most scenes that one of them is in.
        varied: whether images vary beyond the art itself.
    """

    things: tuple[float, float, float, float] = (0.06, 0.36, 0.36, 0.22)
    scene_s: tuple[float, float] = (6.0, 30.0)
    grid_s: float | None = None
    painted: float = 0.3
    leads: int = 4
    returns: int = 4
    varied: bool = False


@dataclass(frozen=True, kw_only=True)
class Query:
    """A sentence about a video, and its answer.

    Attributes:
        text: the sentence.
        claim: what it says.
        spans_s: when it is true, (start, end) in seconds; empty where it is not in the video.
    """

    text: str
    claim: Claim
    spans_s: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Video:
    """Scenes in order, each following the last without a gap."""

    scenes: tuple[Scene, ...]

    @cached_property
    def timed(self) -> tuple[Timed, ...]:
        """The scenes and when they start."""
        starts = [0.0, *np.cumsum([scene.duration_s for scene in self.scenes]).tolist()]
        return tuple(
            Timed(start_s=start_s, scene=scene)
            for start_s, scene in zip(starts[:-1], self.scenes, strict=True)
        )

    @cached_property
    def duration_s(self) -> float:
        """Length in seconds."""
        last = self.timed[-1]
        return last.start_s + last.scene.duration_s

    @cached_property
    def _starts(self) -> list[float]:
        return [timed.start_s for timed in self.timed]

    def at(self, time_s: float) -> Timed:
        """Return the scene that is on at a time, the last one behind the end."""
        return self.timed[max(bisect.bisect_right(self._starts, time_s) - 1, 0)]

    def saliency(self, claim: Claim, fps: float) -> NDArray[np.float32]:
        """Return how well each clip shows a claim, (T,), judged at the clip's middle."""
        values = np.zeros(max(1, round(self.duration_s * fps)), np.float32)
        for start_s, end_s in spans_of(claim, self.timed):
            # Clips whose middle lies in the span.
            first, last = (math.ceil(bound_s * fps - 0.5) for bound_s in (start_s, end_s))
            for clip in range(first, min(last, len(values))):
                time_s = (clip + 0.5) / fps
                timed = self.at(time_s)
                values[clip] = saliency_at(claim, timed.scene, time_s - timed.start_s)
        return values


class Painter:
    """Draws frames of videos; it keeps the images that it drew last."""

    def __init__(self, sprites: Sprites, size: int, photographs: Photographs | None = None) -> None:
        """Draw square frames, `size` pixels a side, on drawn backgrounds and on photographs."""
        self.size = size
        self._photographs = photographs
        self._sprites = sprites
        self._backdrop = lru_cache(maxsize=4)(self._draw_backdrop)
        self._sprite = lru_cache(maxsize=64)(self._draw_sprite)

    def frame_at(self, video: Video, time_s: float) -> Image:
        """Return the frame that a video shows at a time, (S, S, 3) uint8 RGB."""
        timed = video.at(time_s)
        return self.draw(timed.scene, time_s - timed.start_s)

    def draw(self, scene: Scene, time_s: float) -> Image:
        """Return what a scene shows at a time of it, (S, S, 3) uint8 RGB."""
        canvas = self._backdrop(scene.backdrop_seed).copy()
        for actor in scene.actors:
            pose = actor.pose_at(time_s)
            if pose is not None:
                pixels = pose.size * self.size
                level = 24 if pixels <= 24 else 48 if pixels <= 48 else 96
                paste(
                    canvas,
                    self._sprite(actor.thing, level),
                    pose.x * self.size,
                    pose.y * self.size,
                    pose.size,
                    angle=360 * pose.angle,
                    flip=actor.thing.mirrored,
                )
        return canvas

    def clips(self, video: Video, fps: float) -> Iterator[Image]:
        """Yield the frame in the middle of every clip."""
        for clip in range(max(1, round(video.duration_s * fps))):
            yield self.frame_at(video, (clip + 0.5) / fps)

    def _draw_backdrop(self, seed: int) -> Image:
        return background(np.random.default_rng(seed), self.size, photographs=self._photographs)

    def _draw_sprite(self, thing: Thing, level: int) -> Image:
        return _look(self._sprites, thing, level)[0]


def cast_thing(
    rng: Generator, sprites: Sprites, style: str, concept: str, settings: VideoSettings
) -> Thing:
    """Choose how an object is drawn throughout a scene."""
    variants = sprites.variants(style, concept)
    painted = rng.random() < settings.painted
    thing = Thing(
        concept=concept,
        style=style,
        variant=int(variants[rng.integers(len(variants))]),
        paint=_COLOUR_NAMES[rng.integers(len(_COLOUR_NAMES))] if painted else None,
        mirrored=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
        varied=settings.varied,
    )
    return replace(thing, colour=_look(sprites, thing, 48)[1])


def sample_video(
    rng: Generator,
    sprites: Sprites,
    style: str,
    duration_s: float,
    settings: VideoSettings | None = None,
    *,
    concepts: Sequence[str] | None = None,
) -> Video:
    """Draw a video in one style.

    A few things, the leads, come back at random times, in other places, colours and motions;
    others fill the scenes between.

    Args:
        rng: the only source of chance.
        sprites: the images.
        style: whose drawings.
        duration_s: the video's length.
        settings: what it is like.
        concepts: names of the things that it may show; all that the style has by default.
    """
    settings = VideoSettings() if settings is None else settings
    names = list(sprites.concepts(style) if concepts is None else concepts)
    order = [names[index] for index in rng.permutation(len(names))]
    leads, fillers = order[: settings.leads], order[settings.leads :]
    lengths = _scene_lengths(rng, duration_s, settings)
    counts = rng.choice(len(settings.things), len(lengths), p=settings.things)
    casts: list[list[str]] = [[] for _ in lengths]
    for lead in leads:
        times = int(rng.integers(1, settings.returns + 1))
        for index in rng.permutation(len(lengths))[:times]:
            if len(casts[index]) < 3:
                casts[index].append(lead)
    scenes = []
    for length, count, cast in zip(lengths, counts, casts, strict=True):
        while fillers and len(cast) < count:
            filler = fillers[rng.integers(len(fillers))]
            if filler not in cast:
                cast.append(filler)
        things = [cast_thing(rng, sprites, style, name, settings) for name in cast]
        scenes.append(sample_scene(rng, things, length))
    return Video(tuple(scenes))


def sample_queries(
    rng: Generator, video: Video, most: int = 8, *, kinds: Collection[Kind] = KINDS
) -> list[Query]:
    """Draw sentences about a video, the kinds in turn, each about something else.

    Args:
        rng: the only source of chance.
        video: what they are about.
        most: the most sentences; there are fewer where little happens.
        kinds: kinds of sentences that are drawn.
    """
    claims = [claim for claim in claims_of(video.timed) if claim.kind in kinds]
    by_kind: dict[str, list[Claim]] = {kind: [] for kind in _KINDS}
    for index in rng.permutation(len(claims)):
        by_kind[claims[index].kind].append(claims[index])
    queries: list[Query] = []
    while len(queries) < most and any(by_kind.values()):
        for kind in _KINDS:
            found = _next_query(rng, video, by_kind[kind])
            if found is not None and len(queries) < most:
                queries.append(found)
    return queries


def sample_absent(
    rng: Generator,
    video: Video,
    concepts: Sequence[str],
    most: int = 4,
    *,
    kinds: Collection[Kind] = KINDS,
) -> list[Query]:
    """Draw sentences that are true nowhere in a video, the kinds in turn."""
    claims = [claim for claim in absent_claims(video.timed, concepts) if claim.kind in kinds]
    by_kind: dict[str, list[Claim]] = {}
    for index in rng.permutation(len(claims)):
        by_kind.setdefault(claims[index].kind, []).append(claims[index])
    queries: list[Query] = []
    while len(queries) < most and any(by_kind.values()):
        for kind in sorted(by_kind):
            if by_kind[kind] and len(queries) < most:
                claim = by_kind[kind].pop()
                queries.append(Query(text=say(rng, claim), claim=claim, spans_s=()))
    return queries


def is_worth_asking(spans_s: Sequence[tuple[float, float]], duration_s: float) -> bool:
    """Whether moments are few, none of them a blink, and together not most of the video."""
    lengths = [end_s - start_s for start_s, end_s in spans_s]
    return (
        0 < len(lengths) <= _MOST_MOMENTS
        and min(lengths) >= _SHORTEST_MOMENT_S
        and sum(lengths) <= _LONGEST_SHARE * duration_s
    )


def write_video(
    path: Path,
    video: Video,
    sprites: Sprites,
    *,
    size: int = 256,
    fps: int = 12,
    crf: int = 28,
) -> None:
    """Write a video to an mp4 file (H.264), whole or not at all.

    Args:
        path: the file.
        video: what it shows.
        sprites: the images.
        size: side of the square image in pixels, even.
        fps: frames a second.
        crf: x264's constant rate factor: more is smaller and worse.
    """
    import av

    painter = Painter(sprites, size)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "slow"}
        stream.time_base = Fraction(1, fps)
        for index in range(round(video.duration_s * fps)):
            frame = av.VideoFrame.from_ndarray(painter.frame_at(video, index / fps), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _look(sprites: Sprites, thing: Thing, level: int) -> tuple[Image, str | None]:
    """Return a thing's image, about `level` pixels a side, and the colour that prevails."""
    found = look(
        np.random.default_rng(thing.seed),
        sprites,
        thing.style,
        thing.concept,
        variant=thing.variant,
        colour=thing.paint,
        augment=thing.varied,
        size=level,
    )
    return found.image, found.colour


def _scene_lengths(rng: Generator, duration_s: float, settings: VideoSettings) -> list[float]:
    """Cut a video into scenes; the last one takes what is left."""
    shortest, longest = settings.scene_s
    lengths: list[float] = []
    left = duration_s
    while left > 0:
        length = float(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
        if settings.grid_s is not None:
            length = max(1, round(length / settings.grid_s)) * settings.grid_s
        length = left if left - length < shortest else length
        lengths.append(length)
        left -= length
    return lengths


def _next_query(rng: Generator, video: Video, claims: list[Claim]) -> Query | None:
    """Take claims off the list up to the first one that is worth asking for."""
    while claims:
        claim = claims.pop()
        spans_s = tuple(spans_of(claim, video.timed))
        if is_worth_asking(spans_s, video.duration_s):
            return Query(text=say(rng, claim), claim=claim, spans_s=spans_s)
    return None
