"""An RTSP server over a video file, run by the system's Python: `rtsp_server.py FILE PORT`.

It prints one line when it listens: `ready PORT`. Port 0 takes a free one. Each client is played the
file from its beginning, at its own rate. It ends with its standard input, so that none is left
behind.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer


def main() -> None:
    path, port = sys.argv[1:3]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    # The packets go out as they lie in the file: nothing is decoded and encoded again.
    factory.set_launch(
        f'( filesrc location="{path}" ! qtdemux ! rtph264pay name=pay0 pt=96 config-interval=-1 )'
    )
    server.get_mount_points().add_factory("/video", factory)
    if not server.attach(None):
        sys.exit(f"port {port} cannot be listened on")
    print("ready", server.get_bound_port(), flush=True)
    loop = GLib.MainLoop()
    GLib.io_add_watch(
        GLib.IOChannel.unix_new(sys.stdin.fileno()),
        GLib.PRIORITY_DEFAULT,
        GLib.IOCondition.IN | GLib.IOCondition.HUP,
        lambda *_: loop.quit(),
    )
    loop.run()


if __name__ == "__main__":
    main()
