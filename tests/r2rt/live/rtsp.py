"""A real RTSP server, the benchmarks' own; tests skip loudly where GStreamer's is absent."""

from __future__ import annotations

import pytest

from benchmarks.live_servers import RTSP_PACKAGES, RtspServer, rtsp_lacks

__all__ = ["RtspServer", "skip_unless_served"]


def skip_unless_served() -> None:
    """Skip, saying what to install, where no RTSP server can be run."""
    reason = rtsp_lacks()
    if reason is not None:
        pytest.skip(f"no RTSP server ({reason}); apt-get install {RTSP_PACKAGES}")
