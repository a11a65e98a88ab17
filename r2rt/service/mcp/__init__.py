"""Tools for agents by the Model Context Protocol: thin layers over the HTTP interface."""

from __future__ import annotations
