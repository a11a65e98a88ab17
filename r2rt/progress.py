"""Progress of long work, as callbacks receive it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Update"]

# Called with what is done so far and the total, which is None while it is unknown.
Update = Callable[[int, int | None], None]
