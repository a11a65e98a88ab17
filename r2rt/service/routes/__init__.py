"""The addresses of the interface, by what they are about."""

from __future__ import annotations
