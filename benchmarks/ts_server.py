"""MPEG-TS over TCP from a video file: `ts_server.py FILE PORT`.

It prints one line when it listens: `ready PORT`. Port 0 takes a free one. Each client is sent the
file's video from its beginning, as it is encoded, at its own rate. It ends with its standard input.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

import av


def main() -> None:
    path, port = sys.argv[1:3]
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        print("ready", listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(path, client), daemon=True).start()


class _Sink:
    """What PyAV writes to: a socket, at once and whole."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def write(self, content: bytes) -> int:
        self._client.sendall(content)
        return len(content)


def _serve(path: str, client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with (
            client,
            av.open(path) as source,
            av.open(
                _Sink(client),
                "w",
                format="mpegts",
                container_options={"flush_packets": "1"},
            ) as target,
        ):
            video = source.streams.video[0]
            stream = target.add_stream_from_template(video, opaque=True)
            began_s = time.monotonic()
            for packet in source.demux(video):
                if packet.dts is None:
                    continue
                due_s = began_s + float(packet.dts * packet.time_base)
                time.sleep(max(0.0, due_s - time.monotonic()))
                packet.stream = stream
                target.mux(packet)
    except (OSError, av.FFmpegError) as error:
        print(f"ts_server: {error}", file=sys.stderr, flush=True)


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
