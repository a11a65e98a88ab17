"""The address shows what can be watched; anything else is refused in one line."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import numpy as np
import pytest

from r2rt.errors import (
    NotAVideoError,
    NoVideoStreamError,
    QueryError,
    SourceLostError,
    SourceNotFoundError,
)
from r2rt.live import LiveSource, SourceOptions
from r2rt.live.backlog import Backlog, End
from r2rt.live.reader import Reader
from r2rt.live.source import LostError, _Waiting
from tests.r2rt.local_server import local_server
from tests.r2rt.video.clips import write_video
from tests.r2rt.video.test_foreign_kinds import two_tracks


def test_kinds(tmp_path: Path) -> None:
    file = tmp_path / "a.ts"
    file.write_bytes(b"x")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert LiveSource("rtsp://camera/1").kind == "network"
    assert LiveSource("HTTP://camera/1").kind == "network"
    assert LiveSource("-").kind == "pipe"
    assert LiveSource(str(fifo)).kind == "pipe"
    assert LiveSource("/dev/null").kind == "device"
    assert LiveSource(str(file), SourceOptions(follow=True)).kind == "growing"
    assert LiveSource(str(file), SourceOptions(realtime=True)).kind == "file"


def test_what_cannot_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"x")
    with pytest.raises(QueryError, match="--timeout: of no use"):
        LiveSource(str(file), SourceOptions(realtime=True, timeout_s=1.0))
    with pytest.raises(QueryError, match="--timeout: of no use"):
        LiveSource("/dev/null", SourceOptions(timeout_s=1.0))
    monkeypatch.setattr(sys, "stdin", None)  # closed, as in `r2rt watch - "a dog" <&-`
    with pytest.raises(QueryError, match="pipe a video into the command"):
        LiveSource("-")
    with pytest.raises(QueryError, match="--realtime"):
        LiveSource(str(file))
    with pytest.raises(QueryError, match="for files alone"):
        LiveSource("rtsp://camera/1", SourceOptions(follow=True))
    with pytest.raises(QueryError, match="gopher"):
        LiveSource("gopher://camera/1")
    with pytest.raises(SourceNotFoundError, match=r"none\.ts"):
        LiveSource(str(tmp_path / "none.ts"), SourceOptions(follow=True))
    with pytest.raises(SourceNotFoundError, match="folder"):
        LiveSource(str(tmp_path))
    for options in ({"follow": True, "realtime": True}, {"reconnect": -1}, {"timeout_s": 0.0}):
        with pytest.raises(QueryError):
            SourceOptions(**options)


@pytest.mark.parametrize(
    "address", ["rtsp://[::1/1", "rtsp://user:se#cret@camera/1", "rtsp://user:se/cret@camera/1"]
)
def test_an_address_that_cannot_be_read_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(QueryError, match="IPv6") as caught:
        LiveSource(address)
    assert "user:se" not in str(caught.value)


def test_passwords_and_keys_are_not_reported() -> None:
    source = LiveSource("rtsp://user:secret@127.0.0.1:9/live/1?key=hidden")
    assert source.name == "rtsp://127.0.0.1:9/live/1"
    with pytest.raises(LostError) as caught:
        source.open(threading.Event(), first=True)
    assert str(caught.value) == "Connection refused"


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"
        source = LiveSource(address, SourceOptions(timeout_s=0.3))
        with pytest.raises(LostError, match="no answer in time"):
            source.open(threading.Event(), first=True)


@pytest.mark.parametrize(
    ("address", "timeout_s", "expected_s"),
    [
        ("rtsp://camera/live", None, 10),
        ("https://camera/live.ts?then=a.m3u8", None, 10),
        ("https://camera/live.M3U8?key=1", None, 60),
        ("https://camera/live.mpd", None, 60),
        ("https://camera/live.m3u8", 5.0, 5),
        ("/dev/null", None, None),
    ],
)
def test_a_playlist_may_say_nothing_for_longer(
    address: str,
    timeout_s: float | None,
    expected_s: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def refuse(_: object, *, timeout: object, **__: object) -> None:
        asked.append(timeout)
        raise OSError

    monkeypatch.setattr("r2rt.video.container.open_input", refuse)
    source = LiveSource(address, SourceOptions(timeout_s=timeout_s))
    with pytest.raises(LostError):
        source.open(threading.Event(), first=True)
    assert asked == [expected_s]


@pytest.mark.parametrize(
    ("first", "track", "error"),
    [(True, None, NoVideoStreamError), (False, None, LostError), (False, 2, LostError)],
)
def test_a_stream_that_comes_back_without_its_video_is_tried_again(
    first: bool, track: int | None, error: type[Exception], tmp_path: Path
) -> None:
    path = tmp_path / "sound.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp2", rate=48000)
        for _ in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), layout="stereo")
            sound.sample_rate = 48000
            container.mux(stream.encode(sound))
        container.mux(stream.encode())

    def serve() -> None:
        with server.accept()[0] as connection:
            connection.sendall(path.read_bytes())

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        options = SourceOptions(video_track=track)
        source = LiveSource(f"tcp://127.0.0.1:{server.getsockname()[1]}", options)
        with pytest.raises(error):
            source.open(threading.Event(), first=first)
        thread.join()


def test_what_is_no_video(tmp_path: Path) -> None:
    text = tmp_path / "a.ts"
    text.write_text("not a video\n" * 50_000)
    with pytest.raises(NotAVideoError, match=r"a\.ts"):
        LiveSource(str(text), SourceOptions(realtime=True)).open(threading.Event(), first=True)
    growing = SourceOptions(follow=True, timeout_s=0.2)
    with pytest.raises(NotAVideoError, match="MPEG-TS"):
        LiveSource(str(text), growing).open(threading.Event(), first=True)


def test_a_file_that_stopped_growing_is_not_waited_for_again(tmp_path: Path) -> None:
    """At the end FFmpeg asks several times."""
    path = tmp_path / "growing.ts"
    path.write_bytes(b"first")
    waiting = _Waiting(str(path), threading.Event(), 0.05, growing=True)
    assert waiting.read(100) == b"first"
    assert waiting.read(100) == b""
    path.write_bytes(b"first and more")
    assert waiting.read(100) == b""
    waiting.close()


def test_a_playlist_through_a_pipe_opens_no_file(tmp_path: Path, video: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:12\n#EXTINF:12,\n{video}\n#EXT-X-ENDLIST\n"

    def write() -> None:
        fifo.write_text(playlist)

    thread = threading.Thread(target=write)
    thread.start()
    with pytest.raises(NotAVideoError):
        LiveSource(str(fifo)).open(threading.Event(), first=True)
    thread.join()


@pytest.mark.parametrize(("asked", "width"), [(None, 192), (1, 96), (2, 192)])
def test_the_default_video_track_is_read_or_the_one_asked_for(
    asked: int | None, width: int, tmp_path: Path
) -> None:
    path = two_tracks(tmp_path / "two.mkv", default=1)
    source = LiveSource(str(path), SourceOptions(realtime=True, video_track=asked))
    connection = source.open(threading.Event(), first=True)
    try:
        assert connection.stream.width == width
    finally:
        connection.close()
    with pytest.raises(QueryError, match="video track 3; expected 1 to 2"):
        LiveSource(str(path), SourceOptions(realtime=True, video_track=3)).open(
            threading.Event(), first=True
        )


def test_sound_that_begins_on_the_way_is_no_obstacle(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / "silent.ts", frames=50),
        write_video(tmp_path / "sound.ts", frames=50, audio_start_s=Fraction(0)),
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    backlog = Backlog(100)
    source = LiveSource(str(path), SourceOptions(follow=True, timeout_s=0.1))
    reader = Reader(source, backlog, fps=Fraction(2), image_size=32, window_s=60.0, duration_s=None)
    reader.start()
    assert reader.join(10)
    assert backlog.take(0)[-1] == End(None)
    assert reader.counts.frames == 100


def test_a_raw_stream_from_the_network_has_the_times_of_its_arrival(tmp_path: Path) -> None:
    # Its frames say nothing about when they were taken; FFmpeg would count 25 a second.
    path = write_video(tmp_path / "a.h264", frames=20, options={"bf": "0", "tune": "zerolatency"})
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    sent_s: list[float] = []
    backlog = Backlog(100)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        # Few bytes are looked at before the first frame; the others come while they are read.
        options = SourceOptions(reconnect=0, input_options={"probesize": "4096"})
        source = LiveSource(address, options)
        reader = Reader(
            source, backlog, fps=Fraction(2), image_size=32, window_s=60.0, duration_s=None
        )
        reader.start()
        connection = server.accept()[0]
        with connection:
            for packet in packets:
                connection.sendall(packet)
                sent_s.append(time.monotonic())
                time.sleep(0.1)
        assert reader.join(10)
    assert reader.counts.frames == len(packets)
    assert reader.time_s == pytest.approx(sent_s[-1] - sent_s[0], abs=0.5)


class TestRecordingsOnTheNetwork:
    @pytest.fixture
    def cut(self, tmp_path: Path) -> Iterator[tuple[str, list[str], list[bool]]]:
        """Serve a video of 20 s, cut off half way at first; give address, ranges, and a switch."""
        path = write_video(
            tmp_path / "a.mp4",
            frames=500,
            options={"qp": "10"},
            muxer_options={"movflags": "faststart"},
        )
        content = path.read_bytes()
        asked: list[str] = []
        serves_ranges = [True]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                range_ = self.headers.get("Range", "")
                asked.append(range_)
                first = int(range_.removeprefix("bytes=").partition("-")[0] or 0)
                if first and not serves_ranges[0]:
                    self.send_error(503)
                    return
                self.send_response(206 if first else 200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(content) - first))
                if first:
                    whole = f"bytes {first}-{len(content) - 1}/{len(content)}"
                    self.send_header("Content-Range", whole)
                self.end_headers()
                end = len(content) if first else len(content) // 2
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content[first:end])

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        with local_server(Handler) as url:
            yield f"{url}/a.mp4", asked, serves_ranges

    def test_one_that_breaks_off_goes_on_where_it_was(
        self, cut: tuple[str, list[str], list[bool]]
    ) -> None:
        address, asked, _ = cut
        frames, error = watched(address)
        assert error is None
        assert frames == 500
        assert len(asked) > 1

    def test_one_that_cannot_go_on_does_not_begin_anew(
        self, cut: tuple[str, list[str], list[bool]]
    ) -> None:
        address, _, serves_ranges = cut
        serves_ranges[0] = False
        frames, error = watched(address)
        assert 100 < frames < 500
        assert isinstance(error, SourceLostError)
        assert "would begin anew" in str(error)


def watched(address: str) -> tuple[int, BaseException | None]:
    """Read a source to its end; return how many frames were seen, and the error."""
    source = LiveSource(address, SourceOptions(timeout_s=2.0, reconnect=2))
    backlog = Backlog(1000)
    reader = Reader(
        source, backlog, fps=Fraction(1, 2), image_size=8, window_s=60.0, duration_s=None
    )
    reader.start()
    assert reader.join(30)
    end = backlog.take(0)[-1]
    assert isinstance(end, End)
    return reader.counts.frames, end.error
