"""What each of CLIP's layers knows of a frame that the others do not: linear probes.

`python -m training.demo.probe --scenes DIR` fits, to each layer and to all of them together, ridge
regressions of what the only thing on screen is, its colour, place, size and motion, on four scenes
in five, and prints how well they do on the fifth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from training._command import run
from training.demo.scenes import Pool
from training.demo.settings import FPS, LAYERS
from training.world.scenes import Actor

__all__ = ["Known", "known_table", "main", "probe"]

Floats = NDArray[np.float64]

# One scene in so many is tested on, and as many choose the penalty.
_FOLDS = 5
_PENALTIES = (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True, kw_only=True)
class Known:
    """How well a linear map reads a layer, in percent.

    Attributes:
        concept: frames whose thing is named.
        colour: frames whose thing's colour is named, of those that have one.
        x: share of the variance of its centre that is explained, left to right.
        y: the same from top to bottom.
        size: the same of its size.
        motion: pairs of neighbouring frames whose thing's motion is named.
    """

    concept: float
    colour: float
    x: float
    y: float
    size: float
    motion: float


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A clip with one thing on screen."""

    scene: int
    clip: int
    actor: Actor
    time_s: float


def probe(pool: Pool) -> dict[str, Known]:
    """Return how well facts are read without a frame, from each layer, and from all together."""
    shown = list(_alone(pool))
    pairs = [
        (first, second)
        for first, second in pairwise(shown)
        if second.clip == first.clip + 1 and second.scene == first.scene
    ]
    sets: dict[str, tuple[int, ...]] = {"none": ()}
    sets |= {f"{LAYERS - layer} from the end": (layer,) for layer in reversed(range(LAYERS))}
    sets["all"] = tuple(range(LAYERS))
    return {name: _known(pool, shown, pairs, layers) for name, layers in sets.items()}


def known_table(rows: Mapping[str, Known]) -> str:
    """Return a Markdown table."""
    lines = ["| layer | concept | colour | x | y | size | motion |", "|---" * 7 + "|"]
    for name, row in rows.items():
        values = (row.concept, row.colour, row.x, row.y, row.size, row.motion)
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    return "\n".join(lines)


def _alone(pool: Pool) -> Iterator[_Shown]:
    """Yield the clips in whose middle one thing is on screen."""
    for index, scene in enumerate(pool.scenes):
        first, end = pool.first_clip[index : index + 2].tolist()
        for clip in range(first, end):
            time_s = (clip - first + 0.5) / float(FPS)
            actors = [actor for actor in scene.actors if actor.pose_at(time_s) is not None]
            if len(actors) == 1:
                yield _Shown(scene=index, clip=clip, actor=actors[0], time_s=time_s)


def _known(
    pool: Pool,
    shown: Sequence[_Shown],
    pairs: Sequence[tuple[_Shown, _Shown]],
    layers: tuple[int, ...],
) -> Known:
    states = _states(pool, [each.clip for each in shown], layers)
    scenes = np.array([each.scene for each in shown])
    poses = [each.actor.pose_at(each.time_s) for each in shown]
    places = np.array([(pose.x, pose.y, pose.size) for pose in poses if pose is not None])
    coloured = [row for row, each in enumerate(shown) if each.actor.thing.colour is not None]
    rows = {each.clip: row for row, each in enumerate(shown)}
    moved = [(rows[first.clip], rows[second.clip]) for first, second in pairs]
    both = np.concatenate([states[[row for row, _ in moved]], states[[row for _, row in moved]]], 1)
    motions = [_motion(second) for _, second in pairs]
    x, y, size = _explained(states, places, scenes)
    return Known(
        concept=_named(states, [each.actor.thing.concept for each in shown], scenes),
        colour=_named(
            states[coloured],
            [str(shown[row].actor.thing.colour) for row in coloured],
            scenes[coloured],
        ),
        x=x,
        y=y,
        size=size,
        motion=_named(both, motions, scenes[[row for row, _ in moved]]),
    )


def _motion(shown: _Shown) -> str:
    phase = shown.actor.phase_at(shown.time_s)
    assert phase is not None
    return phase.motion


def _states(pool: Pool, clips: Sequence[int], layers: tuple[int, ...]) -> Floats:
    """Return the CLS token and the mean of the patches of each layer, (N, layers · 2 · Cv)."""
    parts = []
    for clip in clips:
        tokens = pool.hidden[clip, list(layers)].astype(np.float64)  # (layers, P, Cv)
        parts.append(np.stack([tokens[:, 0], tokens[:, 1:].mean(axis=1)]).ravel())
    return np.stack(parts)


def _named(states: Floats, labels: Sequence[str], scenes: NDArray[np.int64]) -> float:
    """Return how often the greatest of the predicted indicators is the label's, in percent."""
    names = sorted(set(labels))
    truth = np.array([names.index(label) for label in labels])
    found, test = _ridge(states, np.eye(len(names))[truth], scenes)
    return 100 * float((found.argmax(axis=1) == truth[test]).mean())


def _explained(states: Floats, values: Floats, scenes: NDArray[np.int64]) -> list[float]:
    """Return the share of each column's variance that is explained, in percent."""
    found, test = _ridge(states, values, scenes)
    wrong = np.square(found - values[test]).mean(axis=0)
    shares: list[float] = (100 * (1 - wrong / values[test].var(axis=0))).tolist()
    return shares


def _ridge(
    states: Floats, values: Floats, scenes: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return predictions of the rows whose scenes are tested on, and which rows these are."""
    test, choose = scenes % _FOLDS == 0, scenes % _FOLDS == 1
    fit = ~test & ~choose
    states = (states - states[fit].mean(axis=0)) / (states[fit].std(axis=0) + 1e-6)
    middle = values[fit].mean(axis=0)
    inner, outer = states[fit].T @ states[fit], states[fit].T @ (values[fit] - middle)
    weights = [np.linalg.solve(inner + each * np.eye(len(inner)), outer) for each in _PENALTIES]
    errors = [np.square(states[choose] @ w + middle - values[choose]).mean() for w in weights]
    return states[test] @ weights[int(np.argmin(errors))] + middle, test


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option(
    "--scenes", type=click.Path(path_type=Path), required=True, help="Folder of encoded scenes."
)
def command(scenes: Path) -> None:
    """Probe the layers and print the table."""
    click.echo(known_table(probe(Pool.open(scenes))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(command, "python -m training.demo.probe", arguments, cut="nothing was written.")


if __name__ == "__main__":
    sys.exit(main())
