"""Backends that run a bundle's graphs, behind one small interface, and the choice among them."""

from __future__ import annotations

from r2rt.engines.base import Engine
from r2rt.engines.choice import DEVICES, Choice, Device, choose, open_engine

__all__ = ["DEVICES", "Choice", "Device", "Engine", "choose", "open_engine"]
