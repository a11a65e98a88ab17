"""Answers as text in the formats that other programs read; see `r2rt.outputs.formats`."""

from __future__ import annotations

from r2rt.outputs.answers import Answers
from r2rt.outputs.formats import FORMATS, Format, render
from r2rt.outputs.source import SourceFacts, read_source_facts

__all__ = ["FORMATS", "Answers", "Format", "SourceFacts", "read_source_facts", "render"]
