"""A library whose truth is known: hours of drawn videos, really encoded, and rows like theirs.

    python benchmarks/archive_material.py --bundle r2rt/demo --art art --folder corpus --hours 20

What the queries are about is shown in the asked videos alone: these are drawn with one half of the
world's things, and the others with the other half. So a query is true in asked videos only, and
`Corpus.queries` says when in each of them. `distractors` makes further hours of the others' rows,
which therefore hold no answer either.

Every video is one file, encoded from its own seed: an interrupted run goes on where it was, and
any number of processes may share the work.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from r2rt.errors import EncodedVideoError, SourceNotFoundError
from r2rt.grounding.compact import CompactTokens
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.grounder import Grounder
from training.demo.settings import FPS
from training.demo.testset import AskedVideo, sample_test_videos
from training.world.claims import spans_of
from training.world.sprites import Sprites

__all__ = [
    "DISTRACTOR",
    "Corpus",
    "CorpusQuery",
    "Plan",
    "corpus_options",
    "distractors",
    "encode_corpus",
]

Floats = NDArray[np.float32]

_SEED = 7_000_000
_STYLES = ("twemoji", "noto")
# One in so many things of the world is asked about.
_EVERY = 2
# Of short videos and of long ones, the shortest and the longest, in seconds.
_ASKED_S, _OTHERS_S = (60.0, 180.0), (300.0, 900.0)
# Asked videos are this share of the hours.
_ASKED_SHARE = 0.2
# Distractors: clips of a run, and how much of another row is mixed into its rows.
DISTRACTOR = "distractor-"
_RUN_CLIPS = (8, 75)
_MIXED = 0.1
_DISTRACTOR_CLIPS = 300


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which videos a corpus consists of.

    Attributes:
        asked: how many videos are asked about.
        others: how many are not.
    """

    asked: int
    others: int

    @classmethod
    def of(cls, hours: float) -> Plan:
        """Return the plan of so many hours."""
        asked_s, others_s = (sum(length) / 2 for length in (_ASKED_S, _OTHERS_S))
        total_s = 3600 * hours
        return cls(
            asked=max(1, round(_ASKED_SHARE * total_s / asked_s)),
            others=max(1, round((1 - _ASKED_SHARE) * total_s / others_s)),
        )

    def names(self) -> list[str]:
        """Return the stems of all files: asked ones between the others, evenly."""
        found = [(number / self.asked, f"asked-{number:05d}") for number in range(self.asked)]
        found += [(number / self.others, f"other-{number:05d}") for number in range(self.others)]
        return [name for _, name in sorted(found)]


@dataclass(frozen=True, kw_only=True)
class CorpusQuery:
    """A sentence and all its answers.

    Attributes:
        text: the sentence.
        kind: `object`, `colour`, `motion` or `pair`.
        source: the video that it was made from.
        spans_s: by the names of the videos that it is true in, (start, end) in seconds.
    """

    text: str
    kind: str
    source: str
    spans_s: dict[str, tuple[tuple[float, float], ...]]


class Corpus:
    """A folder of encoded videos, and the queries about them.

    Args:
        folder: where `encode_corpus` puts the files.
        plan: which videos there are.
        sprites: images of the world.
    """

    def __init__(self, folder: Path, plan: Plan, sprites: Sprites) -> None:
        self.folder = folder
        self.plan = plan
        self._sprites = sprites

    def path(self, name: str) -> Path:
        """Return the file of a video."""
        return self.folder / f"{name}.r2rt"

    @cached_property
    def asked(self) -> dict[str, AskedVideo]:
        """The descriptions of the asked videos, by name."""
        names = [name for name in self.plan.names() if name.startswith("asked")]
        return {name: describe(name, self._sprites) for name in names}

    def queries(self, most: int) -> list[CorpusQuery]:
        """Return sentences about the asked videos, evenly, with all their answers.

        Sentences that are true of most videos are left out: whatever is found would be right.
        """
        every = [
            (name, query)
            for number in range(max(len(video.queries) for video in self.asked.values()))
            for name, video in self.asked.items()
            for query in video.queries[number : number + 1]
        ]
        order = np.random.default_rng(_SEED).permutation(len(every))
        found: list[CorpusQuery] = []
        texts: set[str] = set()
        for index in order:
            name, query = every[index]
            if len(found) == most or query.text in texts:
                continue
            spans = {
                other: tuple(spans_of(query.claim, video.video.timed))
                for other, video in self.asked.items()
            }
            spans = {other: times for other, times in spans.items() if times}
            if len(spans) <= max(3, len(self.asked) // 20):
                texts.add(query.text)
                kind = query.claim.kind
                found.append(CorpusQuery(text=query.text, kind=kind, source=name, spans_s=spans))
        return found

    def absent(self, most: int) -> list[str]:
        """Return sentences of the kinds of `queries` that are true in no video of the corpus."""
        every = [describe(name, self._sprites) for name in self.plan.names()]
        drawn = [query for video in self.asked.values() for query in video.absent]
        order = np.random.default_rng(_SEED + 1).permutation(len(drawn))
        found: dict[str, None] = {}
        for query in (drawn[index] for index in order):
            if len(found) < most and not any(spans_of(query.claim, x.video.timed) for x in every):
                found[query.text] = None
        return list(found)


def describe(name: str, sprites: Sprites) -> AskedVideo:
    """Return the description of a video: the same for the same name, in any process."""
    kind, _, text = name.partition("-")
    number, asked = int(text), kind == "asked"
    style = _STYLES[number % len(_STYLES)]
    concepts = [
        concept
        for place, concept in enumerate(sprites.concepts(style))
        if (place % _EVERY == 0) == asked
    ]
    (video,) = sample_test_videos(
        style,
        1,
        sprites,
        seed=_SEED + 2 * number + (not asked),
        lengths_s=_ASKED_S if asked else _OTHERS_S,
        concepts=concepts,
    )
    return video


def encode_corpus(
    grounder: Grounder, corpus: Corpus, sprites: Sprites
) -> Iterator[tuple[str, float]]:
    """Draw and encode the videos whose files are not there yet; yield name and length in seconds.

    Files of another model are made anew.
    """
    for name in corpus.plan.names():
        path = corpus.path(name)
        try:
            kept = EncodedVideo.load(path)
            if kept.model_fingerprint == grounder.bundle.fingerprint:
                yield name, kept.duration_s
                continue
        except (SourceNotFoundError, EncodedVideoError):
            pass
        video = describe(name, sprites)
        frames = video.frames(sprites, grounder.bundle.dims.image_size)
        encoded = grounder.encode_frames(frames, FPS).compacted(grounder.bundle.dims)
        dataclasses.replace(encoded, source=name).save(path)
        yield name, encoded.duration_s


def distractors(corpus: Corpus, hours: float, *, first: int = 0) -> Iterator[EncodedVideo]:
    """Yield compact videos of ten minutes whose rows have the distribution of the others'.

    A video is made of runs of consecutive clips, each of another video. Into the embeddings of a
    run one other row is mixed, about the mean and with the variance kept, so that no two runs are
    the same; tokens are those of the run's clips. The first one has the number `first`; a number
    is the same video each time.
    """
    names = [name for name in corpus.plan.names() if name.startswith("other")]
    videos = [EncodedVideo.load(corpus.path(name)) for name in names]
    rows = np.concatenate([video.embeddings for video in videos if video.embeddings is not None])
    mean = rows.mean(axis=0)
    scale = np.float32(1 / np.hypot(1 - _MIXED, _MIXED))
    fps = float(videos[0].fps)
    for number in range(first, first + round(3600 * fps * hours / _DISTRACTOR_CLIPS)):
        rng = np.random.default_rng([_SEED, number])
        parts: list[CompactTokens] = []
        embeddings: list[Floats] = []
        left = _DISTRACTOR_CLIPS
        while left:
            video = videos[rng.integers(len(videos))]
            length = min(left, int(rng.integers(*_RUN_CLIPS)), video.num_clips)
            start = int(rng.integers(video.num_clips - length + 1))
            part = video.part(start, start + length)
            assert part.compact is not None
            assert part.embeddings is not None
            other = rows[rng.integers(len(rows))]
            mixed = (1 - _MIXED) * (part.embeddings - mean) + _MIXED * (other - mean)
            embeddings.append((mean + scale * mixed).astype(np.float32))
            parts.append(part.compact)
            left -= length
        yield dataclasses.replace(
            videos[0],
            source=f"{DISTRACTOR}{number:07d}",
            start_s=0.0,
            duration_s=_DISTRACTOR_CLIPS / fps,
            embeddings=np.concatenate(embeddings),
            compact=CompactTokens.joined(parts),
        )


def corpus_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add options of a benchmark that asks a corpus: `bundle`, `art`, `folder` and `hours`."""
    there = click.Path(path_type=Path, exists=True)
    for option in (
        click.option("--hours", type=float, default=20.0, show_default=True, help="Of the corpus."),
        click.option("--corpus", "folder", type=there, required=True),
        click.option("--art", type=there, required=True),
        click.option("--bundle", type=there, required=True),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--art", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--hours", type=float, default=20.0, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
def main(bundle: Path, art: Path, folder: Path, hours: float, threads: int) -> None:
    """Encode a corpus, or go on with it."""
    sprites = Sprites(art / "sprites.npz")
    corpus = Corpus(folder, Plan.of(hours), sprites)
    folder.mkdir(parents=True, exist_ok=True)
    total = len(corpus.plan.names())
    with Grounder.load(bundle.resolve(), device="cpu", threads=threads) as grounder:
        seconds = 0.0
        for number, (name, length_s) in enumerate(encode_corpus(grounder, corpus, sprites), 1):
            seconds += length_s
            click.echo(f"{number} of {total}: {name}, {seconds / 3600:.2f} h")


if __name__ == "__main__":
    main()
