"""Text from outside, such as names and queries, made safe to print."""

from __future__ import annotations

import re

__all__ = ["escape_controls", "one_line", "printable"]

# Zero-width joiners are no controls: emoji and Persian are spelled with them.
_JOINERS = "\u200c\u200d"
# Delete and the C1 controls, which some terminals obey: U+009B begins an escape sequence.
_C1 = re.compile("[\x7f-\x9f]")


def printable(text: str) -> str:
    """Return a text whose control and bidirectional characters, and line ends, are spaces."""
    return "".join(c if c.isprintable() or c in _JOINERS else " " for c in text)


def one_line(text: str) -> str:
    """Return the words of a text on one line, without control and bidirectional characters."""
    return " ".join(printable(text).split())


def escape_controls(json: str) -> str:
    """Return JSON whose strings hold no control characters, which JSON allows from U+007F on."""
    return _C1.sub(lambda match: f"\\u{ord(match[0]):04x}", json)
