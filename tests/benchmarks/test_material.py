from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import av
import pytest

from benchmarks.material import CODECS, VideoSpec, make_video


def _hashes(path: Path) -> list[str]:
    with av.open(str(path)) as video:
        return [
            hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest()
            for frame in video.decode(video=0)
        ]


def _keyframes(path: Path) -> list[float]:
    with av.open(str(path)) as video:
        return [
            float(packet.pts * packet.time_base)
            for packet in video.demux(video=0)
            if packet.size and packet.is_keyframe and packet.pts is not None
        ]


@pytest.mark.parametrize("codec", CODECS)
def test_long_video_repeats_its_segment(tmp_path: Path, codec: str) -> None:
    spec = VideoSpec(seconds=22, width=128, height=72, codec=codec, keyint=50)
    path = make_video(spec, tmp_path)
    segment = make_video(replace(spec, seconds=10), tmp_path)
    rest = make_video(replace(spec, seconds=2), tmp_path)
    assert _hashes(path) == 2 * _hashes(segment) + _hashes(rest)
    assert _keyframes(path) == pytest.approx([2.0 * n for n in range(11)])


def test_video_is_made_once_and_alike_elsewhere(tmp_path: Path) -> None:
    spec = VideoSpec(seconds=1, width=128, height=72, keyint=5)
    first = make_video(spec, tmp_path / "a")
    stamp = first.stat().st_mtime_ns
    assert make_video(spec, tmp_path / "a").stat().st_mtime_ns == stamp
    assert make_video(spec, tmp_path / "b").read_bytes() == first.read_bytes()


def test_h264_has_b_frames(tmp_path: Path) -> None:
    path = make_video(VideoSpec(seconds=2, width=128, height=72, keyint=25), tmp_path)
    with av.open(str(path)) as video:
        kinds = {
            av.video.frame.PictureType(frame.pict_type).name for frame in video.decode(video=0)
        }
    assert kinds == {"I", "P", "B"}
