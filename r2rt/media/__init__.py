"""Media made of moments: clips, a reel, thumbnails, a contact sheet, a plot, a page."""

from __future__ import annotations

from r2rt.media.contact_sheet import write_contact_sheet
from r2rt.media.cut import Cut, cut_clips
from r2rt.media.plot import write_plot
from r2rt.media.reel import Reel, write_reel
from r2rt.media.report import write_report
from r2rt.media.thumbnails import write_thumbnails

__all__ = [
    "Cut",
    "Reel",
    "cut_clips",
    "write_contact_sheet",
    "write_plot",
    "write_reel",
    "write_report",
    "write_thumbnails",
]
