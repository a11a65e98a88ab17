"""Which words of a query a model of few words has never read."""

from __future__ import annotations

import re
from collections.abc import Collection

from r2rt.grounding.tokenizer import clean

__all__ = ["unknown_words"]

# Letters, and what joins them inside a word: "jack-o-lantern", "don't".
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def unknown_words(text: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the words of a query that are not among `known`, each once, in their order.

    A word with hyphens is known where it is, or where all its parts are.

    Args:
        text: the query.
        known: words in lower case.
    """
    unknown: dict[str, None] = {}
    for word in _WORD.findall(clean(text)):
        if word not in known:
            unknown.update(dict.fromkeys(part for part in word.split("-") if part not in known))
    return tuple(unknown)
