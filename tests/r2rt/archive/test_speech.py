"""Transcribed words: of videos without subtitles, with a model that always hears the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from r2rt.archive.library import Archive
from r2rt.archive.speech import load_speech_model, spoken_lines
from r2rt.errors import MissingExtraError, ModelNotFoundError
from tests.r2rt.archive.colours import colour_grounder, make_colours


class WhisperModel:
    """Has the methods of faster-whisper's model that are used."""

    heard: list[str]

    def __init__(self, name: str) -> None:
        if name != "tiny":
            raise ValueError(f"Invalid model size '{name}'")
        self.heard = []

    def transcribe(
        self, audio: str, *, vad_filter: bool
    ) -> tuple[Iterator[SimpleNamespace], SimpleNamespace]:
        assert vad_filter
        self.heard.append(Path(audio).name)
        segments = [
            SimpleNamespace(start=1.0, end=2.5, text=" The ferry leaves\n at noon."),
            SimpleNamespace(start=5.0, end=6.0, text=" "),
        ]
        return iter(segments), SimpleNamespace(language="en")


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = ModuleType("faster_whisper")
    module.WhisperModel = WhisperModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    load_speech_model.cache_clear()
    yield load_speech_model("tiny")
    load_speech_model.cache_clear()


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Three videos: one with sound, one with subtitles beside it, one with neither."""
    make_colours(tmp_path / "videos")
    silent = tmp_path / "videos" / "garden.mp4"
    with_sound(silent, tmp_path / "sound.mp4", begins_s=0.5)
    (tmp_path / "sound.mp4").rename(silent)
    subtitles = "1\n00:00:01,000 --> 00:00:02,000\nThe train leaves\n"
    (tmp_path / "videos" / "beach.srt").write_text(subtitles, encoding="utf-8")
    return tmp_path / "videos"


def with_sound(video: Path, path: Path, *, begins_s: float) -> None:
    """Copy a video, with a sound that begins later than it."""
    with av.open(str(video)) as source, av.open(str(path), "w") as file:
        copied = file.add_stream_from_template(source.streams.video[0])
        sound = file.add_stream("aac", rate=8000)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copied
                file.mux(packet)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8192), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        frame.pts = round(begins_s * 8000)
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))


def test_what_is_spoken_is_found_with_its_time(
    tmp_path: Path, videos: Path, whisper: WhisperModel
) -> None:
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(videos, speech="tiny")
    assert whisper.heard == ["garden.mp4"]
    found = archive.tables.subtitles.rows(["text", "start_s", "language"]).to_pylist()
    by_text = {row["text"]: row for row in found}
    assert set(by_text) == {"The ferry leaves at noon.", "The train leaves"}
    assert by_text["The ferry leaves at noon."]["language"] == "en"
    (line,) = spoken_lines(videos / "garden.mp4", "tiny")
    # The encoder's first samples may come before the sound.
    assert (line.start_s, line.end_s) == pytest.approx((1.5, 3.0), abs=0.15)


def test_a_moved_video_keeps_its_words_without_being_heard_again(
    tmp_path: Path, videos: Path, whisper: WhisperModel
) -> None:
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(videos, speech="tiny")
    (videos / "garden.mp4").rename(videos / "park.mp4")
    archive.add(videos, speech="tiny")
    assert whisper.heard == ["garden.mp4"]
    rows = {Path(row["path"]).name: row["words"] for row in archive.videos("state = 'ready'")}
    lines = archive.tables.subtitles.rows(["words", "text"]).to_pylist()
    assert [x["text"] for x in lines if x["words"] == rows["park.mp4"]] == [
        "The ferry leaves at noon."
    ]


def test_what_cannot_transcribe_is_one_line(
    tmp_path: Path, videos: Path, whisper: WhisperModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r"--speech huge: Invalid model size 'huge'; name"):
        archive.add(videos, speech="huge")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    load_speech_model.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'r2rt\[speech\]'"):
        archive.add(videos, speech="tiny")
    assert not (tmp_path / "library").exists()
