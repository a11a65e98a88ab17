"""The facts that a packet's first bytes give about decoding, as bits of a number."""

from __future__ import annotations

__all__ = ["CLOSED", "DISPOSABLE", "ENTRY", "FIELD", "HIDDEN", "TEMPORAL_SHIFT", "UNSAFE"]

ENTRY = 1
DISPOSABLE = 2
HIDDEN = 4
UNSAFE = 8  # something that skipping cannot cope with: everything must be decoded
TEMPORAL_SHIFT = 4  # bits 4 to 6 hold the temporal sub-layer (HEVC), 0 to 7
CLOSED = 128
FIELD = 256  # one field of a frame, whose other field is in a packet of its own
