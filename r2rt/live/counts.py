"""What is counted while a source is read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReaderCounts"]


@dataclass(kw_only=True)
class ReaderCounts:
    """Counts that grow while a source is read; see `WatchSummary` for their meaning."""

    frames: int = 0
    packets_lost: int = 0
    frames_skipped: int = 0
    reconnects: int = 0
    gaps_s: float = 0.0
