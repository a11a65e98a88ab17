"""Servers of live video on this machine, in processes of their own, that can be killed."""

from __future__ import annotations

import abc
import functools
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

__all__ = ["RTSP_PACKAGES", "LiveServer", "RtspServer", "TsServer", "rtsp_lacks"]

RTSP_PACKAGES = "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good python3-gi"

_HERE = Path(__file__).parent
# Debian's packages of GStreamer are found by its own Python alone.
_SYSTEM_PYTHON = Path("/usr/bin/python3")


class LiveServer(abc.ABC):
    """Plays a file to each client, from its beginning and at its own rate, until it is killed.

    Attributes:
        port: where it listens: a free port, and the same one again after it was killed.

    Args:
        video: the file.
    """

    def __init__(self, video: Path) -> None:
        self._video = video
        self.port = 0
        self.start()

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    def start(self) -> None:
        """Come back after `kill`."""
        self._process = subprocess.Popen(
            [*self._command(), str(self._video), str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        if words[:1] != ["ready"]:
            self.kill()
            raise RuntimeError(f"{type(self).__name__} did not come up on port {self.port}")
        self.port = int(words[1])

    def freeze(self) -> None:
        """Hang: connections stay open and nothing comes."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Die as a server does whose machine loses power."""
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it, if that has not happened yet."""
        if self._process.poll() is None:
            self.kill()

    @abc.abstractmethod
    def _command(self) -> Sequence[str]:
        """Return what starts it, but for the video and the port."""


class RtspServer(LiveServer):
    """GStreamer's RTSP server; see `rtsp_lacks`."""

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"rtsp://127.0.0.1:{self.port}/video"

    def _command(self) -> Sequence[str]:
        return [str(_SYSTEM_PYTHON), str(_HERE / "rtsp_server.py")]


class TsServer(LiveServer):
    """MPEG-TS over TCP, by PyAV alone."""

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"tcp://127.0.0.1:{self.port}"

    def _command(self) -> Sequence[str]:
        return [sys.executable, str(_HERE / "ts_server.py")]


@functools.cache
def rtsp_lacks() -> str | None:
    """Return what `RtspServer` lacks on this machine, None if nothing."""
    program = (
        "import gi\n"
        "gi.require_version('Gst', '1.0')\n"
        "gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer\n"
        "Gst.init(None)\n"
        "for name in ('qtdemux', 'rtph264pay', 'udpsrc', 'rtpbin'):\n"
        "    assert Gst.ElementFactory.find(name), name + ' is missing'\n"
    )
    if not _SYSTEM_PYTHON.exists():
        return f"{_SYSTEM_PYTHON} is absent"
    result = subprocess.run(
        [_SYSTEM_PYTHON, "-c", program], capture_output=True, text=True, check=False
    )
    return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]
