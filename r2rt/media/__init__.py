"""Moments as things to watch: clips, a reel, pictures, a timeline, a page."""

from __future__ import annotations

from r2rt.media.cut import Cut, cut_clips
from r2rt.media.reel import Reel, write_reel

__all__ = ["Cut", "Reel", "cut_clips", "write_reel"]
