from __future__ import annotations

import pytest

from r2rt.grounding.vocabulary import knows_any, unknown_words

KNOWN = frozenset({"a", "an", "and", "cream", "dog", "ice", "jack-o-lantern", "left", "moving"})
KNOWN |= {"red", "the", "to"}


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("a red dog moving to the left", ()),
        ("A RED Dog!", ()),
        ("a dog catches a frisbee", ("catches", "frisbee")),
        ("a frisbee, a frisbee and a dog", ("frisbee",)),
        ("a jack-o-lantern", ()),
        ("an ice-cream", ()),
        ("a dog-house", ("house",)),
        ("the dog's ball", ("ball",)),
        ("the cat’s jack-o-lantern's ball", ("cat", "ball")),
        ("un café à gauche", ("un", "café", "à", "gauche")),
        ("3 dogs & 2 dog", ("dogs",)),
        ("犬", ("犬",)),
        ("  ", ()),
    ],
)
def test_words_that_were_never_read(query: str, unknown: tuple[str, ...]) -> None:
    assert unknown_words(query, KNOWN) == unknown
    assert unknown_words(query, None) == ()


@pytest.mark.parametrize(
    ("query", "knows"),
    [
        ("a red blorp", True),
        ("blorp", False),
        ("a blorp and the glarg to", False),  # articles and the like name nothing
        ("An ICE-cube", True),
        ("the dog's dinner", True),
        ("a blorp's to", False),
        ("42", False),
        ("犬", False),
    ],
)
def test_a_query_without_a_known_word_is_recognised(query: str, knows: bool) -> None:
    assert knows_any(query, KNOWN) is knows
    assert knows_any(query, None)
