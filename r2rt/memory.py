"""How much memory an encoded video may take, and sizes in bytes with units."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from r2rt.errors import QueryError

__all__ = ["MAX_MEMORY_VARIABLE", "machine_memory", "max_memory", "parse_bytes"]

MAX_MEMORY_VARIABLE = "R2RT_MAX_MEMORY"

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
# A process in a container may have less than the machine.
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# Where the system does not say.
_ASSUMED_BYTES = 8 << 30


def parse_bytes(text: str, *, what: str) -> int:
    """Return a size in bytes from text such as `4G`, `512MB` or `1.5GiB`; K is 1024 bytes.

    Args:
        text: the size.
        what: the option or variable that it was given by, for the message.

    Raises:
        QueryError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise QueryError(f"{what}: {text[:40]!r} is no size; expected bytes or units, such as 4G")
    return int(float(match[1]) * (1 << _UNITS[match[2].upper()]))


def max_memory() -> int:
    """Return the most bytes that the tokens of one encoded video may take.

    It is `$R2RT_MAX_MEMORY`, or half of the machine's memory.

    Raises:
        QueryError: the variable is no size.
    """
    text = os.environ.get(MAX_MEMORY_VARIABLE, "").strip()
    if text:
        return parse_bytes(text, what=MAX_MEMORY_VARIABLE)
    return machine_memory() // 2


def machine_memory() -> int:
    """Return the bytes of memory that this process may use at most, as far as the system says."""
    limits = []
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no sysconf on Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            limits.append(int(path.read_text()))
    return min((limit for limit in limits if limit > 0), default=_ASSUMED_BYTES)
