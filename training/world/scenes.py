"""Scenes of the emoji world: which things are on screen from when to when, and how they move.

A scene is steady: one backdrop, one to three things, each with phases of one motion. It is a
description, a few hundred bytes; images are drawn of it at any time, at any size.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

__all__ = ["Actor", "Motion", "Phase", "Pose", "Scene", "Thing", "sample_scene"]

# The shortest phase of one motion, where a stay has two.
_SHORTEST_PHASE_S = 5.0
# A thing is on screen for this long at least, or for the whole scene.
_SHORTEST_STAY_S = 6.0
_LONGEST_MOTION_S = 12.0
_MAX_TILT = 12 / 360  # of what stands still, in turns
_SPIN = (20 / 360, 45 / 360)  # turns a second


class Motion(enum.StrEnum):
    """What a thing does during a phase."""

    STILL = "still"
    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    GROW = "grow"
    SHRINK = "shrink"
    SPIN = "spin"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object and which image shows it.

    Attributes:
        concept: its name.
        style: whose drawing.
        variant: which of the style's drawings of it.
        paint: name of the colour that it is painted in; None leaves its own.
        colour: the named colour that it has then; None where no one colour prevails.
        mirrored: whether it faces the other way.
        seed: what its shades and outline are drawn from.
        varied: whether these vary beyond the art itself.
    """

    concept: str
    style: str
    variant: int = 0
    paint: str | None = None
    colour: str | None = None
    mirrored: bool = False
    seed: int = 0
    varied: bool = False


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a thing is: centre and size as shares of the image's side, angle in turns."""

    x: float
    y: float
    size: float
    angle: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A span of a scene, half open, in which a thing moves evenly from one pose to another."""

    motion: Motion
    start_s: float
    end_s: float
    begin: Pose
    end: Pose

    def pose_at(self, time_s: float) -> Pose:
        """Return the pose at a time of the scene."""
        share = (time_s - self.start_s) / (self.end_s - self.start_s)

        def mix(name: str) -> float:
            begin, end = getattr(self.begin, name), getattr(self.end, name)
            return float(begin + (end - begin) * share)

        return Pose(x=mix("x"), y=mix("y"), size=mix("size"), angle=mix("angle"))


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A thing on screen and what it does, from its first phase to its last without a gap."""

    thing: Thing
    phases: tuple[Phase, ...]

    @property
    def start_s(self) -> float:
        """When it appears, in seconds of the scene."""
        return self.phases[0].start_s

    @property
    def end_s(self) -> float:
        """When it is gone."""
        return self.phases[-1].end_s

    def phase_at(self, time_s: float) -> Phase | None:
        """Return what it does at a time of the scene; None where it is not on screen."""
        for phase in self.phases:
            if phase.start_s <= time_s < phase.end_s:
                return phase
        return None

    def pose_at(self, time_s: float) -> Pose | None:
        """Return the pose at a time of the scene; None where it is not on screen."""
        phase = self.phase_at(time_s)
        return None if phase is None else phase.pose_at(time_s)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a steady shot shows.

    Attributes:
        duration_s: its length.
        backdrop_seed: what the backdrop and its clutter are drawn from.
        actors: things on screen, those behind first.
    """

    duration_s: float
    backdrop_seed: int
    actors: tuple[Actor, ...] = field(default=())


def sample_scene(rng: np.random.Generator, cast: Sequence[Thing], duration_s: float) -> Scene:
    """Draw a scene: places, stays and motions of one to three things (or none).

    Args:
        rng: the only source of chance.
        cast: the things, each concept once.
        duration_s: the scene's length.
    """
    lanes = _lanes(rng, len(cast))
    horizontal = bool(rng.random() < 0.5)
    actors = [
        _sample_actor(rng, thing, lane, duration_s, horizontal, alone=len(cast) == 1)
        for thing, lane in zip(cast, lanes, strict=True)
    ]
    return Scene(
        duration_s=duration_s,
        backdrop_seed=int(rng.integers(2**31)),
        actors=tuple(actors),
    )


def _lanes(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Return centre and breadth of the lane of each thing, in random order."""
    breadth = 1 / max(count, 1)
    lanes = [((index + 0.5) * breadth, breadth) for index in range(count)]
    return [lanes[index] for index in rng.permutation(count)]


def _sample_actor(
    rng: np.random.Generator,
    thing: Thing,
    lane: tuple[float, float],
    duration_s: float,
    horizontal: bool,
    *,
    alone: bool,
) -> Actor:
    centre, breadth = lane
    largest = 0.8 if alone else min(0.62, 1.2 * breadth)
    size = float(rng.uniform(0.26 if alone else 0.24, largest))
    margin = min(size / 2, 0.3)
    across = float(rng.uniform(margin, 1 - margin)) if alone else centre
    along = float(rng.uniform(margin, 1 - margin))
    pose = Pose(
        x=along if horizontal else across,
        y=across if horizontal else along,
        size=size,
        angle=float(rng.uniform(-_MAX_TILT, _MAX_TILT)),
    )
    start_s, end_s = _sample_stay(rng, duration_s)
    phases: list[Phase] = []
    for begin_s, until_s, motion in _sample_plan(rng, start_s, end_s, horizontal):
        phase = _sample_phase(rng, motion, begin_s, until_s, pose, largest)
        if phases and phase.begin != pose:
            # What moves starts elsewhere than the last phase ended: that phase gives way.
            phases[-1] = _led_to(phases[-1], phase.begin)
        phases.append(phase)
        pose = replace(phase.end, angle=_upright(phase.end.angle))
    return Actor(thing=thing, phases=tuple(phases))


def _sample_stay(rng: np.random.Generator, duration_s: float) -> tuple[float, float]:
    """Return when a thing appears and is gone: half of them are there throughout."""
    if duration_s < _SHORTEST_STAY_S + 2 or rng.random() < 0.5:
        return 0.0, duration_s
    length = float(rng.uniform(_SHORTEST_STAY_S, duration_s))
    free = duration_s - length
    start = float(rng.choice([0.0, free, rng.uniform(0, free)]))
    return start, start + length


def _sample_plan(
    rng: np.random.Generator, start_s: float, end_s: float, horizontal: bool
) -> list[tuple[float, float, Motion]]:
    """Cut a stay into phases and give each a motion; what does not stand still is short."""
    ways = (Motion.LEFT, Motion.RIGHT) if horizontal else (Motion.UP, Motion.DOWN)
    moving = (*ways, *ways, Motion.GROW, Motion.SHRINK, Motion.SPIN)

    def choose() -> Motion:
        return moving[rng.integers(len(moving))] if rng.random() < 0.6 else Motion.STILL

    length = end_s - start_s
    if length < 2 * _SHORTEST_PHASE_S:
        return [(start_s, end_s, choose())]
    motion = choose()
    if motion is Motion.STILL:
        if rng.random() < 0.5:
            return [(start_s, end_s, motion)]
        other = moving[rng.integers(len(moving))]
    else:
        other = Motion.STILL
    longest = min(length - _SHORTEST_PHASE_S, _LONGEST_MOTION_S)
    moved = float(rng.uniform(_SHORTEST_PHASE_S, longest))
    cut_s = end_s - moved if motion is Motion.STILL else start_s + moved
    return [(start_s, cut_s, motion), (cut_s, end_s, other)]


def _sample_phase(
    rng: np.random.Generator,
    motion: Motion,
    start_s: float,
    end_s: float,
    pose: Pose,
    largest: float,
) -> Phase:
    """Give a phase its poses; it may begin elsewhere than at `pose` where the motion needs room."""
    begin = end = pose
    near, far = float(rng.uniform(0.02, 0.2)), float(rng.uniform(0.8, 0.98))
    if motion is Motion.LEFT:
        begin, end = replace(pose, x=far), replace(pose, x=near)
    elif motion is Motion.RIGHT:
        begin, end = replace(pose, x=near), replace(pose, x=far)
    elif motion is Motion.UP:
        begin, end = replace(pose, y=far), replace(pose, y=near)
    elif motion is Motion.DOWN:
        begin, end = replace(pose, y=near), replace(pose, y=far)
    elif motion in (Motion.GROW, Motion.SHRINK):
        small = replace(pose, size=float(rng.uniform(0.18, 0.24)))
        large = replace(pose, size=float(rng.uniform(0.8, 1.0)) * max(largest, 0.45))
        begin, end = (small, large) if motion is Motion.GROW else (large, small)
    elif motion is Motion.SPIN:
        turned = float(rng.uniform(*_SPIN)) * (end_s - start_s) * float(rng.choice([-1, 1]))
        end = replace(pose, angle=pose.angle + turned)
    return Phase(motion=motion, start_s=start_s, end_s=end_s, begin=begin, end=end)


def _led_to(phase: Phase, pose: Pose) -> Phase:
    """Return a phase that ends where the next begins; standing still, it stands there all along."""
    if phase.motion is Motion.STILL:
        return replace(phase, begin=pose, end=pose)
    return replace(phase, end=pose)


def _upright(angle: float) -> float:
    """The angle that a spinning thing comes to rest at."""
    return (
        angle - round(angle)
        if abs(angle - round(angle)) <= _MAX_TILT
        else math.copysign(_MAX_TILT, angle - round(angle))
    )
