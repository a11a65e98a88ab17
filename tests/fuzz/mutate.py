"""Seeded damage to bytes and to JSON."""

from __future__ import annotations

import json
import random
from typing import Any

__all__ = ["damage", "damage_json"]

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63), 2**70, 0.1, -0.0, 1e-300, 1e300),
    *("", " ", "x", "\x00", "\x1b[2J", "\u2028", "\ud83d\ude00", "a" * 100_000, "a/" * 5000),
    *("../../x", "1e999999999", "9" * 5000, "1/0", "nan", [], {}, [[]], [None], {"": None}),
)


def damage(content: bytes, rng: random.Random, *, most: int = 6, same_size: bool = False) -> bytes:
    """Return the content with up to `most` edits: flips, zeros, cuts, copies, edges of numbers.

    With `same_size`, what follows an edit stays in its place, so that more of it is read.
    """
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        if not data:
            break
        at = rng.randrange(len(data))
        size = min(rng.choice((1, 2, 4, 16, 256, 4096)), len(data) - at)
        match rng.choice((0, 1, 2, 3, 6, 8)) if same_size else rng.randrange(8):
            case 0 | 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at : at + size] = bytes(size)
            case 3:
                data[at : at + size] = rng.randbytes(size)
            case 4:
                del data[at : at + size]
            case 5:
                data[at:at] = data[max(0, at - size) : at]
            case 6:
                width = rng.choice((1, 2, 4, 8))
                value = rng.choice(_EDGES) % (1 << 8 * width)
                number = value.to_bytes(width, rng.choice(("big", "little")))
                data[at : at + width] = number[: len(data) - at]
            case 7 if rng.random() < 0.3:
                del data[at:]
            case _:
                data[at] = rng.randrange(256)
    return bytes(data)


def damage_json(content: bytes, rng: random.Random) -> bytes:
    """Return a JSON document with a few values replaced, removed or nested, or its text damaged."""
    if rng.random() < 0.3:
        return damage(content, rng)
    if rng.random() < 0.05:
        depth = rng.choice((100, 10_000, 200_000))
        return b'{"a":' * depth if rng.random() < 0.5 else b"[" * depth + b"]" * depth
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return damage(content, rng)
    if not isinstance(document, dict | list):
        return damage(content, rng)
    for _ in range(rng.randint(1, 3)):
        _edit(document, rng)
    return json.dumps(document).encode()


def _edit(document: Any, rng: random.Random) -> None:
    """Change one value somewhere in a document."""
    while True:
        keys = list(document) if isinstance(document, dict) else range(len(document))
        if not keys:
            return
        key = rng.choice(keys)
        child = document[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.8:
            document = child
            continue
        if rng.random() < 0.15:
            del document[key]
        elif isinstance(child, int | float) and rng.random() < 0.3:
            document[key] = child * rng.choice((-1, 0, 2, 1000, 10**9))
        else:
            document[key] = rng.choice(_VALUES)
        return
