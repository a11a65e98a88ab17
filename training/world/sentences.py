"""Claims in words, in many wordings."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from training.world.claims import Claim
from training.world.concepts import CONCEPTS, INDEX, article
from training.world.scenes import Motion

__all__ = ["motion_words", "plain_sentence", "say"]

# {} is "a dog", "the red dog" or "dog".
_SHOWN = (
    "{}",
    "{}",
    "{}",
    "{}",
    "there is {}",
    "we see {}",
    "{} appears",
    "{} is visible",
    "{} is shown",
    "{} is on the screen",
    "{} comes into view",
    "the part where {} appears",
    "the moment with {}",
    "the scene where {} is shown",
    "a scene with {}",
    "a picture of {}",
    "show me {}",
    "find {}",
    "where is {}",
    "when is {} visible",
    "when does {} appear",
)
_TOGETHER = (
    "{} and {other}",
    "{} and {other}",
    "{} with {other}",
    "{} next to {other}",
    "{} next to {other}",
    "{} beside {other}",
    "{} near {other}",
    "{} together with {other}",
    "both {} and {other}",
    "{} and {other} at the same time",
    "{} is next to {other}",
    "{} and {other} are visible",
    "a scene with {} and {other}",
    "we see {} and {other}",
    "there is {} and {other}",
)
_WAY_VERBS = (
    "{} moving {way}",
    "{} moving {way}",
    "{} moves {way}",
    "{} moves {way}",
    "{} is moving {way}",
    "{} going {way}",
    "{} goes {way}",
    "{} is going {way}",
    "{} drifting {way}",
    "{} sliding {way}",
    "{} slides {way}",
    "{} travels {way}",
)
_WAYS = {
    Motion.LEFT: ("left", "to the left", "to the left", "from right to left"),
    Motion.RIGHT: ("right", "to the right", "to the right", "from left to right"),
    Motion.UP: ("up", "upwards", "to the top"),
    Motion.DOWN: ("down", "downwards", "to the bottom"),
}
_OWN_VERBS = {
    Motion.UP: ("{} rises",),
    Motion.DOWN: ("{} falls down",),
    Motion.GROW: (
        "{} growing",
        "{} grows",
        "{} is growing larger",
        "{} gets bigger",
        "{} becomes larger",
        "{} getting larger",
    ),
    Motion.SHRINK: (
        "{} shrinking",
        "{} shrinks",
        "{} is growing smaller",
        "{} gets smaller",
        "{} becomes smaller",
        "{} getting smaller",
    ),
    Motion.SPIN: ("{} spinning", "{} spins", "{} is spinning", "{} rotating", "{} rotates"),
}
_PLAIN_MOTION = {
    Motion.LEFT: "{} moving to the left",
    Motion.RIGHT: "{} moving to the right",
    Motion.UP: "{} moving up",
    Motion.DOWN: "{} moving down",
    Motion.GROW: "{} growing",
    Motion.SHRINK: "{} shrinking",
    Motion.SPIN: "{} spinning",
}


def motion_words() -> frozenset[str]:
    """Return the words that the wordings of motions have and others need not tell apart."""
    ways = [way for ways in _WAYS.values() for way in ways]
    verbs = [verb for verbs in _OWN_VERBS.values() for verb in verbs]
    words = " ".join((*ways, *verbs, *_WAY_VERBS)).replace("{way}", "").replace("{}", "").split()
    return frozenset(words) - {"the", "to", "is", "from"}


def say(rng: Generator, claim: Claim) -> str:
    """Put a claim into one of its wordings."""
    phrase = _phrase(rng, claim.concept, claim.colour)
    if claim.other is not None:
        other = _phrase(rng, claim.other, None)
        if rng.random() < 0.5:
            phrase, other = other, phrase
        return _any(rng, _TOGETHER).format(phrase, other=other)
    if claim.motion is None:
        return _any(rng, _SHOWN).format(phrase)
    ways, own = _WAYS.get(claim.motion, ()), _OWN_VERBS.get(claim.motion, ())
    if own and (not ways or rng.random() < 0.2):
        return _any(rng, own).format(phrase)
    return _any(rng, _WAY_VERBS).format(phrase, way=_any(rng, ways))


def plain_sentence(claim: Claim) -> str:
    """Put a claim into its plainest wording: "a red car", "a dog moving to the left"."""
    phrase = _with_colour(claim.concept, claim.colour)
    if claim.other is not None:
        return f"{article(phrase)} next to {article(claim.other)}"
    if claim.motion is not None:
        return _PLAIN_MOTION[claim.motion].format(article(phrase))
    return article(phrase)


def _phrase(rng: Generator, name: str, colour: str | None) -> str:
    names = CONCEPTS[INDEX[name]].names
    noun = _with_colour(name if rng.random() < 0.7 else _any(rng, names), colour)
    kind = rng.random()
    return article(noun) if kind < 0.7 else f"the {noun}" if kind < 0.9 else noun


def _with_colour(noun: str, colour: str | None) -> str:
    return noun if colour is None else f"{colour} {noun}"


def _any(rng: Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
