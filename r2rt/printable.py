"""Text from outside, such as names and queries, made safe to print."""

from __future__ import annotations

__all__ = ["printable"]

# Joiners are part of words and emoji in many scripts, and do nothing to a terminal.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """Return text on one line, each control character and unpaired surrogate replaced by a mark.

    A name with an escape sequence or a line break could otherwise drive the terminal or forge a
    message.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else "�" for c in text)
