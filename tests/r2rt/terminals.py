"""What a command shows on a terminal."""

from __future__ import annotations

import contextlib


def read_to_the_end(terminal: int) -> str:
    """Read and close a terminal's near side until nobody holds its far side."""
    shown = b""
    # Linux reports the end of a terminal as an error.
    with open(terminal, "rb", buffering=0) as stream, contextlib.suppress(OSError):
        while part := stream.read(1 << 16):
            shown += part
    return shown.decode()
