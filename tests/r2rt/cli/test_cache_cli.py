"""The cache as a user meets it: the second run decodes nothing; it can be looked at and cleared."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from r2rt import EncodedVideo, Grounder
from r2rt.cli.main import run as main
from r2rt.cli.session import encode_source
from r2rt.grounding.encoding_cache import EncodingCache
from tests.r2rt.cli.test_ground import QUERY, run
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO
from tests.r2rt.fakes import fake_grounder
from tests.r2rt.video.clips import write_video


def test_the_second_run_answers_the_same_without_decoding(tmp_path: Path) -> None:
    def ground(*options: str) -> tuple[dict[str, object], str]:
        result = run(
            *("ground", DEMO_VIDEO, QUERY, "-m", DEMO_BUNDLE, "--format", "json", *options),
            R2RT_CACHE=str(tmp_path),
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout), result.stderr

    first, said = ground()
    assert "from the cache" not in said
    second, said = ground()
    assert "from the cache" in said
    assert second["results"] == first["results"]
    assert second["timings"]["encode_s"] == 0  # type: ignore[index]
    without, said = ground("--no-cache")
    assert "from the cache" not in said
    assert without["results"] == first["results"]
    _, said = ground("--start", "2")
    assert "from the cache" not in said


def test_info_and_clear(tmp_path: Path) -> None:
    run("ground", DEMO_VIDEO, QUERY, "-m", DEMO_BUNDLE, R2RT_CACHE=str(tmp_path))
    info = run("cache", "info", R2RT_CACHE=str(tmp_path))
    assert str(tmp_path) in info.stdout
    assert "encodings" in info.stdout
    assert run("cache", "clear", "encodings", R2RT_CACHE=str(tmp_path)).returncode == 0
    assert not (tmp_path / "encodings").exists()
    assert (tmp_path / "verified").exists()
    for part in ("devices", "decoders", "kernels"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "measured.json").write_text("{}")
    assert run("cache", "clear", R2RT_CACHE=str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_clips_weights_are_shown_and_go_when_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("R2RT_HOME", str(tmp_path))
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "weights").write_bytes(bytes(2_300_000))
    assert main(["cache", "info"]) == 0
    assert "2.3 MB" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0
    assert (tmp_path / "clip" / "weights").exists(), "a download"
    assert main(["cache", "clear", "clip"]) == 0
    assert not (tmp_path / "clip").exists()


def test_a_part_that_is_a_link_says_why_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "encodings").symlink_to(tmp_path / "elsewhere")
    assert main(["cache", "clear", "encodings"]) == 40
    assert "symbolic link" in capsys.readouterr().err


def test_a_compact_encoding_is_a_tenth_as_large_and_kept_apart(tmp_path: Path) -> None:
    sizes = []
    for options in ((), ("--compact",)):
        file = tmp_path / f"{len(options)}.r2rt"
        assert run("encode", DEMO_VIDEO, file, "-m", "demo", *options).returncode == 0
        sizes.append(file.stat().st_size)
    assert sizes[1] < 0.12 * sizes[0]
    command = ("ground", DEMO_VIDEO, QUERY, "-m", "demo", "--anyway")
    for options, kept in (((), False), (("--compact",), False), (("--compact",), True)):
        result = run(*command, *options, R2RT_CACHE=str(tmp_path / "cache"))
        assert result.returncode == 0, result.stderr
        assert ("from the cache" in result.stderr) == kept


def test_a_video_that_changes_meanwhile_is_not_kept(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is the hash of what it was when it was hashed, not of what was decoded."""
    video = tmp_path / "video.mp4"
    video.write_bytes(DEMO_VIDEO.read_bytes())
    grounder = fake_grounder(tmp_path, tokenizer_file)
    cache = EncodingCache(tmp_path / "cache")
    encode = grounder.encode

    def encode_and_change(*arguments: Any, **options: Any) -> EncodedVideo:
        encoded = encode(*arguments, **options)
        with video.open("ab") as file:
            file.write(b"more")
        return encoded

    monkeypatch.setattr(grounder, "encode", encode_and_change)
    encode_and_wait(grounder, video, cache)
    assert not cache.entries()
    monkeypatch.undo()
    encode_and_wait(grounder, video, cache)
    assert len(cache.entries()) == 1


def test_a_playlist_is_read_again(tmp_path: Path, tokenizer_file: Path) -> None:
    """Its files may have changed while it stayed as it was."""
    playlist = tmp_path / "list.m3u8"
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n"
    playlist.write_text(f"{head}#EXTINF:8.8,\none.ts\n#EXT-X-ENDLIST\n")
    grounder = fake_grounder(tmp_path, tokenizer_file)
    cache = EncodingCache(tmp_path / "cache")
    clips = []
    for frames in (200, 100):
        write_video(tmp_path / "one.ts", frames=frames)
        clips.append(encode_and_wait(grounder, playlist, cache).num_clips)
    assert clips[1] < clips[0]
    assert not cache.entries()


def encode_and_wait(grounder: Grounder, video: Path, cache: EncodingCache) -> EncodedVideo:
    """Encode a video, and wait for the thread that writes the cache's entry."""
    before = threading.enumerate()
    encoded = encode_source(grounder, str(video), {}, cache=cache, quiet=True)
    for thread in threading.enumerate():
        if thread not in before:
            thread.join()
    return encoded
