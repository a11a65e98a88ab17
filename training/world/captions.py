"""Sentences about what a frame shows, in many wordings, and what each of them claims.

A frame cannot show motion or time. Wordings that speak of them ("the red car driving to the left")
stand here so that the text tower has read such words; what they claim is the object alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from training.world.colours import COLOURS
from training.world.compose import Placed
from training.world.concepts import CONCEPTS, INDEX, Concept, article

__all__ = ["EVALUATION_TEMPLATES", "Caption", "Mention", "all_words", "describe", "is_true"]


@dataclass(frozen=True)
class Mention:
    """A thing that a caption says is there, with its colour where it says one."""

    concept: str
    colour: str | None


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims."""

    text: str
    mentions: tuple[Mention, ...]


# What a class is called by when it is looked for: {} is "a dog".
EVALUATION_TEMPLATES = ("{}", "a picture of {}", "there is {}", "{} appears")

# {} is "a dog", "the dog" or "a red dog".
_ONE = (
    "{}",
    "{}",
    "{}",
    "{}",
    "a picture of {}",
    "a photo of {}",
    "an image of {}",
    "a drawing of {}",
    "a video of {}",
    "a clip of {}",
    "a scene with {}",
    "a frame with {}",
    "this is {}",
    "there is {}",
    "here is {}",
    "{} is here",
    "{} is there",
    "{} is shown",
    "{} is visible",
    "{} is in view",
    "{} is on the screen",
    "{} on a background",
    "{} appears",
    "{} shows up",
    "{} comes into view",
    "we see {}",
    "you can see {}",
    "i see {}",
    "one can see {}",
    "find {}",
    "show me {}",
    "where is {}",
    "when does {} appear",
    "when is {} visible",
    "the moment with {}",
    "the part where {} appears",
    "the scene where {} is shown",
    "only {}",
    "{} alone",
    "{} in the middle",
    "{} at the top",
    "{} at the bottom",
    "{} on the left",
    "{} on the right",
)
_MOTION = (
    "{} moving {way}",
    "{} moves {way}",
    "{} is moving {way}",
    "{} going {way}",
    "{} goes {way}",
    "{} is going {way}",
    "{} driving {way}",
    "{} drives {way}",
    "{} running {way}",
    "{} runs {way}",
    "{} walking {way}",
    "{} walks {way}",
    "{} flying {way}",
    "{} flies {way}",
    "{} swimming {way}",
    "{} sliding {way}",
    "{} slides {way}",
    "{} drifting {way}",
    "{} rolling {way}",
    "{} travels {way}",
    "{} growing {size}",
    "{} grows {size}",
    "{} is growing {size}",
    "{} getting {size}",
    "{} gets {size}",
    "{} becomes {size}",
    "{} growing",
    "{} grows",
    "{} shrinking",
    "{} shrinks",
    "{} spinning",
    "{} spins",
    "{} is spinning",
    "{} turning around",
    "{} rotating",
    "{} rotates",
    "{} jumping",
    "{} jumps up and down",
    "{} bouncing",
    "{} standing still",
    "{} stays still",
    "{} stays in place",
    "{} enters the scene",
    "{} enters from the left",
    "{} enters from the right",
    "{} comes in from the {side}",
    "{} leaves the scene",
    "{} leaves to the {side}",
    "{} rises",
    "{} falls down",
    "{} moves quickly",
    "{} moves slowly",
)
_WAYS = (
    "left",
    "right",
    "up",
    "down",
    "to the left",
    "to the right",
    "to the top",
    "to the bottom",
    "upwards",
    "downwards",
    "across the screen",
    "from left to right",
    "from right to left",
    "past",
    "around",
)
_SIDES = ("left", "right", "top", "bottom")
_SIZES = ("larger", "smaller", "bigger", "big", "small", "large")
# {} and {other} are two objects.
_TWO = (
    "{} and {other}",
    "{} and {other}",
    "{} with {other}",
    "{} next to {other}",
    "{} beside {other}",
    "{} near {other}",
    "{} by {other}",
    "{} together with {other}",
    "{} and also {other}",
    "a picture of {} and {other}",
    "a scene with {} and {other}",
    "there is {} and {other}",
    "both {} and {other}",
    "we see {} and {other}",
    "{} appears with {other}",
    "{} and {other} are visible",
    "{} and {other} appear",
    "{} and {other} at the same time",
    "{} while {other} is there",
    "{} is next to {other}",
)
# Words put before a noun that claim nothing more of a frame.
_ADJECTIVES = ("spinning", "moving", "growing", "small", "big", "large", "little", "tiny", "single")


def describe(rng: Generator, objects: Sequence[Placed]) -> Caption:
    """Say something true of a frame: one of its objects, or two, with or without a colour.

    Args:
        rng: what wordings are drawn from.
        objects: what the frame shows; one at least.
    """
    order = rng.permutation(len(objects))
    first = objects[int(order[0])]
    phrase, mention = _phrase(rng, first)
    if len(objects) > 1 and rng.random() < 0.4:
        other, second = _phrase(rng, objects[int(order[1])])
        return Caption(_any(rng, _TWO).format(phrase, other=other), (mention, second))
    kind = rng.random()
    if kind < 0.12:
        return Caption(_any(rng, _known(first).names), (Mention(first.concept, None),))
    if kind < 0.45:
        text = _any(rng, _MOTION).format(
            phrase, way=_any(rng, _WAYS), side=_any(rng, _SIDES), size=_any(rng, _SIZES)
        )
        return Caption(text, (mention,))
    return Caption(_any(rng, _ONE).format(phrase), (mention,))


def is_true(caption: Caption, objects: Sequence[Placed]) -> bool:
    """Whether a frame shows everything that a caption claims."""
    return all(
        any(
            thing.concept == mention.concept
            and (mention.colour is None or thing.colour == mention.colour)
            for thing in objects
        )
        for mention in caption.mentions
    )


def all_words() -> tuple[str, ...]:
    """Every word that a caption can hold, sorted."""
    texts = [*_ONE, *_MOTION, *_WAYS, *_SIDES, *_SIZES, *_TWO, *_ADJECTIVES, *COLOURS, "a an the"]
    texts += [*EVALUATION_TEMPLATES, *(name for concept in CONCEPTS for name in concept.names)]
    words = {word for text in texts for word in text.split() if "{" not in word}
    return tuple(sorted(words))


def _phrase(rng: Generator, thing: Placed) -> tuple[str, Mention]:
    """Name an object: "a dog", "the red car", "a spinning star"."""
    concept = _known(thing)
    # The first name is what most people say.
    noun = concept.name if rng.random() < 0.6 else _any(rng, concept.names)
    colour = thing.colour if rng.random() < 0.6 else None
    if colour is not None:
        noun = f"{colour} {noun}"
    if rng.random() < 0.08:
        noun = f"{_any(rng, _ADJECTIVES)} {noun}"
    kind = rng.random()
    said = article(noun) if kind < 0.7 else f"the {noun}" if kind < 0.88 else noun
    return said, Mention(thing.concept, colour)


def _known(thing: Placed) -> Concept:
    return CONCEPTS[INDEX[thing.concept]]


def _any(rng: Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
