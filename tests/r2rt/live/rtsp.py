"""A real RTSP server in a process of its own, GStreamer's; tests skip loudly where it is absent."""

from __future__ import annotations

import functools
import signal
import subprocess
from pathlib import Path
from types import TracebackType

import pytest

SYSTEM_PYTHON = Path("/usr/bin/python3")
SCRIPT = Path(__file__).with_name("rtsp_server.py")
PACKAGES = "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good python3-gi"


@functools.cache
def missing() -> str | None:
    """What the server lacks on this machine, None if nothing."""
    program = (
        "import gi\n"
        "gi.require_version('Gst', '1.0')\n"
        "gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer\n"
        "Gst.init(None)\n"
        "for name in ('qtdemux', 'rtph264pay', 'udpsrc', 'rtpbin'):\n"
        "    assert Gst.ElementFactory.find(name), name + ' is missing'\n"
    )
    if not SYSTEM_PYTHON.exists():
        return f"{SYSTEM_PYTHON} is absent"
    result = subprocess.run(
        [SYSTEM_PYTHON, "-c", program], capture_output=True, text=True, check=False
    )
    return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def skip_unless_served() -> None:
    """Skip, saying what to install, where no RTSP server can be run."""
    reason = missing()
    if reason is not None:
        pytest.skip(f"no RTSP server ({reason}); apt-get install {PACKAGES}")


class RtspServer:
    """Serves a file at `rtsp://127.0.0.1:PORT/video` until it is killed."""

    def __init__(self, video: Path, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, SCRIPT, video, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        assert words[:1] == ["ready"], "the server did not come up"
        self.port = int(words[1])

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/video"

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

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.kill()
