"""What can be said of scenes, when it is true, and how well it shows.

A claim is about what is on screen: an object, an object of a colour, two objects together, an
object that moves. It holds over spans of time; `training.world.sentences` puts it into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal, get_args

from training.world.scenes import Actor, Motion, Scene

__all__ = [
    "KINDS",
    "Claim",
    "Kind",
    "Timed",
    "absent_claims",
    "claims_of",
    "saliency_at",
    "spans_of",
]

Kind = Literal["object", "colour", "pair", "motion"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Spans that are no farther apart are one moment.
_SAME_MOMENT_S = 0.5
# Sizes, as shares of the image's side, from which a thing shows well and very well.
_GRADES = ((0.45, 1.0), (0.3, 0.75), (0.0, 0.5))


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A scene and when it starts in its video."""

    start_s: float
    scene: Scene


@dataclass(frozen=True, kw_only=True, order=True)
class Claim:
    """That something is on screen.

    Attributes:
        concept: the object.
        colour: its colour, where that is said.
        motion: what it does, where that is said.
        other: another object on screen with it, where that is said.
    """

    concept: str
    colour: str | None = None
    motion: Motion | None = None
    other: str | None = None

    @property
    def kind(self) -> Kind:
        """What it is about besides the object; motion goes before colour."""
        if self.other is not None:
            return "pair"
        if self.motion is not None:
            return "motion"
        return "object" if self.colour is None else "colour"

    def fits(self, actor: Actor) -> bool:
        """Whether it speaks of this actor, whatever that does."""
        thing = actor.thing
        return thing.concept == self.concept and self.colour in (None, thing.colour)

    def is_unclear(self, scene: Scene) -> bool:
        """Whether people may disagree about it: a thing of its name has no one colour."""
        return self.colour is not None and any(
            actor.thing.concept == self.concept and actor.thing.colour is None
            for actor in scene.actors
        )

    def spans_in(self, scene: Scene) -> list[tuple[float, float]]:
        """Return the spans of a scene in which it is true, in seconds of the scene."""
        spans = []
        for actor in filter(self.fits, scene.actors):
            if self.motion is not None:
                spans += [(p.start_s, p.end_s) for p in actor.phases if p.motion is self.motion]
            elif self.other is None:
                spans.append((actor.start_s, actor.end_s))
            else:
                spans += [
                    (start_s, end_s)
                    for other in scene.actors
                    if other.thing.concept == self.other
                    for start_s, end_s in [_common(actor, other)]
                    if start_s < end_s
                ]
        return spans


def spans_of(claim: Claim, scenes: Iterable[Timed]) -> list[tuple[float, float]]:
    """Return the spans of a video in which a claim is true, in order, joined where they meet."""
    spans = sorted(
        (timed.start_s + start_s, timed.start_s + end_s)
        for timed in scenes
        for start_s, end_s in claim.spans_in(timed.scene)
    )
    joined: list[tuple[float, float]] = []
    for start_s, end_s in spans:
        if joined and start_s - joined[-1][1] <= _SAME_MOMENT_S:
            joined[-1] = (joined[-1][0], max(end_s, joined[-1][1]))
        else:
            joined.append((start_s, end_s))
    return joined


def saliency_at(claim: Claim, scene: Scene, time_s: float) -> float:
    """Return how well a scene shows a claim at a time of it: 0, or 1/2, 3/4, 1 by visible size.

    Of two things the smaller one counts.
    """
    if not any(start_s <= time_s < end_s for start_s, end_s in claim.spans_in(scene)):
        return 0.0
    sizes = []
    for name in (claim.concept, claim.other):
        if name is not None:
            poses = [a.pose_at(time_s) for a in scene.actors if a.thing.concept == name]
            sizes.append(max((pose.size for pose in poses if pose is not None), default=0.0))
    return next(grade for size, grade in _GRADES if min(sizes) >= size)


def claims_of(scenes: Sequence[Timed]) -> list[Claim]:
    """Return every claim that is true somewhere in a video and clear everywhere, in order."""
    claims = set()
    for timed in scenes:
        for actor in timed.scene.actors:
            concept, colour = actor.thing.concept, actor.thing.colour
            motions = {p.motion for p in actor.phases if p.motion is not Motion.STILL}
            claims.add(Claim(concept=concept))
            claims.update(Claim(concept=concept, motion=motion) for motion in motions)
            if colour is not None:
                claims.add(Claim(concept=concept, colour=colour))
                claims.update(
                    Claim(concept=concept, colour=colour, motion=motion) for motion in motions
                )
        for one, two in combinations(timed.scene.actors, 2):
            start_s, end_s = _common(one, two)
            if start_s < end_s:
                first, second = sorted((one.thing.concept, two.thing.concept))
                claims.add(Claim(concept=first, other=second))
    clear = (x for x in claims if not any(x.is_unclear(timed.scene) for timed in scenes))
    return sorted(clear, key=_order)


def absent_claims(scenes: Sequence[Timed], concepts: Sequence[str]) -> list[Claim]:
    """Return claims that are true nowhere in a video though they might be, in order.

    Objects that are not there; and of those that are there, colours that they do not have but
    others have, motions that they do not make, and pairs that are never on screen together.

    Args:
        scenes: the video.
        concepts: names of the objects that may be missed.
    """
    true = set(claims_of(scenes))
    seen = sorted({a.thing.concept for timed in scenes for a in timed.scene.actors})
    colours = sorted({x.colour for x in true if x.colour is not None})
    motions = [motion for motion in Motion if motion is not Motion.STILL]
    claims = [
        *(Claim(concept=concept) for concept in concepts if concept not in seen),
        *(Claim(concept=concept, colour=colour) for concept, colour in product(seen, colours)),
        *(Claim(concept=concept, motion=motion) for concept, motion in product(seen, motions)),
        *(Claim(concept=first, other=second) for first, second in combinations(seen, 2)),
    ]
    unclear = {x for x in claims if any(x.is_unclear(timed.scene) for timed in scenes)}
    return [claim for claim in claims if claim not in true and claim not in unclear]


def _common(one: Actor, two: Actor) -> tuple[float, float]:
    return max(one.start_s, two.start_s), min(one.end_s, two.end_s)


def _order(claim: Claim) -> tuple[str, str, str, str]:
    return (claim.concept, claim.colour or "", claim.motion or "", claim.other or "")
