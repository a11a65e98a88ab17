"""Names of files that come from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["plain_name", "stored_name"]

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


def plain_name(text: str) -> str:
    """Return the last part of a path from elsewhere, without control characters."""
    name = re.split(r"[/\\]", text)[-1]
    name = "".join(letter for letter in name if letter.isprintable()).strip()[:200]
    return name if name.strip(".") else "video"


def stored_name(name: str) -> str:
    """Return the name of a file on the disk: letters, digits, hyphens and an ending."""
    from r2rt.media.names import slug

    path = Path(name)
    suffix = path.suffix.lower() if _SUFFIX.fullmatch(path.suffix) else ""
    return slug(path.stem, empty="video") + suffix
