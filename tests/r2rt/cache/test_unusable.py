"""A cache that cannot be used is left out with one warning, and no video is blamed for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from r2rt.cache import folder
from r2rt.cache.graphs import PreparedGraph
from r2rt.cache.verified import is_verified, remember_verified
from r2rt.cli.cache import cache as cache_command
from r2rt.grounding.encoding_cache import EncodingCache
from tests.r2rt.grounding.test_encoding_cache import encoded
from tests.r2rt.permissions import permitting


@pytest.fixture(autouse=True)
def _each_test_is_warned() -> None:
    folder._warn_once.cache_clear()


def use_everything(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    cache = EncodingCache()
    key = cache.key(video, "model", {})
    assert cache.get(key, "video.mp4") is None
    assert not cache.put(key, encoded())
    graph = PreparedGraph("0" * 64, "runtime")
    assert not graph.find()
    assert not graph.put(10, lambda path: path.touch())
    remember_verified(tmp_path, ["video.mp4"])
    assert not is_verified(tmp_path, ["video.mp4"])


@pytest.fixture
def material(tmp_path: Path) -> Path:
    (tmp_path / "video.mp4").write_bytes(b"a video")
    return tmp_path


def test_a_file_in_its_place(
    material: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (material / "cache").write_text("no folder")
    monkeypatch.setenv("R2RT_CACHE", str(material / "cache"))
    use_everything(material)
    (record,) = caplog.records
    assert "cannot be written (Not a directory), so nothing is kept" in record.getMessage()


def test_the_warning_names_the_folder_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "one", "two"):
        monkeypatch.setenv("R2RT_CACHE", name)
        folder.report_unusable(OSError("no disk"))  # an error without a number
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "the cache one cannot be written (no disk)",
        "the cache two cannot be written (no disk)",
    ]


def test_a_folder_that_may_not_be_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "video.mp4").write_bytes(b"a video")
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("R2RT_CACHE", str(cache))
    PreparedGraph("0" * 64, "runtime").find()
    with permitting(cache, 0):
        use_everything(tmp_path)
    (record,) = caplog.records
    assert "(Permission denied)" in record.getMessage()


def test_info_says_why_it_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("R2RT_CACHE", str(tmp_path / "cache"))
    cache_command.main(["info"], standalone_mode=False)
    assert capsys.readouterr().out.count("Not a directory") == 7
