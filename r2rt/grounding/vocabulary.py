"""Which words of a query a model of few words has never read."""

from __future__ import annotations

import re
from collections.abc import Collection

from r2rt.grounding.tokenizer import clean

__all__ = ["knows_any", "unknown_words"]

# Letters, and what joins them inside a word: "jack-o-lantern", "don't".
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_POSSESSIVE = re.compile(r"['’]s\b")
# Words that name nothing by themselves.
_FUNCTION_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "by", "can", "does", "for", "from", "has"),
        *("have", "in", "is", "it", "its", "of", "on", "or", "so", "that", "the", "then", "there"),
        *("this", "to", "was", "were", "what", "where", "which", "while", "who", "with"),
    )
)


def unknown_words(text: str, known: Collection[str] | None) -> tuple[str, ...]:
    """Return the words of a query that are not among `known`, each once, in their order.

    A word with hyphens is known if it is listed, or if all its parts are; `dog's` is `dog`.

    Args:
        text: the query.
        known: words in lower case; None if the model does not list them, which leaves none unknown.
    """
    if known is None:
        return ()
    unknown: dict[str, None] = {}
    for word in _words(text):
        if word not in known:
            unknown.update(dict.fromkeys(part for part in word.split("-") if part not in known))
    return tuple(unknown)


def knows_any(text: str, known: Collection[str] | None) -> bool:
    """Return whether a word of a query, other than articles and the like, is among `known`.

    Args:
        text: the query.
        known: words in lower case; None if the model does not list them, which knows every query.
    """
    if known is None:
        return True
    parts = {part for word in _words(text) for part in (word, *word.split("-"))}
    return not parts.isdisjoint(set(known) - _FUNCTION_WORDS)


def _words(text: str) -> list[str]:
    return [_POSSESSIVE.sub("", word) for word in _WORD.findall(clean(text))]
