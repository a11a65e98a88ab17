"""Backends that run a bundle's graphs, behind one small interface, and the choice among them."""

from __future__ import annotations

from r2rt.engines.base import Engine
from r2rt.engines.choice import DEVICES, Choice, Device, choose, open_engine
from r2rt.engines.precision import PRECISIONS, Precision, choose_form

__all__ = [
    "DEVICES",
    "PRECISIONS",
    "Choice",
    "Device",
    "Engine",
    "Precision",
    "choose",
    "choose_form",
    "open_engine",
]
