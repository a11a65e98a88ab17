"""Text from outside, such as names and queries, made safe to print."""

from __future__ import annotations

import json

__all__ = ["escape_controls", "one_line", "printable"]

# Zero-width joiners are parts of words and emoji in many scripts, and do nothing to a terminal.
_JOINERS = "\u200c\u200d"


def printable(text: str, replacement: str = "�") -> str:
    """Return text on one line, each control character and unpaired surrogate replaced.

    A name with an escape sequence or a line break could otherwise drive the terminal or forge a
    message.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else replacement for c in text)


def one_line(text: str) -> str:
    """Return the words of a text on one line, without control and bidirectional characters."""
    return " ".join(printable(text, " ").split())


def escape_controls(document: str) -> str:
    """Return JSON whose strings spell what `printable` replaces as escapes; it means the same."""
    return "\n".join(map(_escape_line, document.split("\n")))


def _escape_line(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c in _JOINERS else json.dumps(c)[1:-1] for c in line)
