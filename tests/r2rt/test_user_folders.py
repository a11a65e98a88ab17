"""A user without a home, as a container's often is: no HOME, no line in /etc/passwd."""

from __future__ import annotations

import pwd
from pathlib import Path

import platformdirs
import pytest

from r2rt import user_folders
from r2rt.cache.folder import cache_dir
from r2rt.cli.config import config_path, read_config
from r2rt.cli.main import run
from r2rt.model.convert.clip_files import clip_folder
from r2rt.model.installed import installed, models_dir
from r2rt.service.settings import default_folder
from tests.conftest import CHECKOUT


@pytest.fixture(params=["newer platformdirs", "older platformdirs"])
def nowhere(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """A folder that cannot be made, which is where folders are for a user without a home."""
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "r2rt"
    monkeypatch.setattr(user_folders, "NOWHERE", nowhere)
    for name in ("HOME", "R2RT_HOME", "R2RT_CACHE", "R2RT_CONFIG", "R2RT_MODEL", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)

    def unknown(user: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    if request.param.startswith("older"):
        for kind in ("cache", "data", "config"):
            monkeypatch.setattr(platformdirs, f"user_{kind}_dir", lambda *_, **__: "~/.x/r2rt")
    monkeypatch.chdir(tmp_path)
    return nowhere


def test_every_folder_is_one_that_cannot_be_made(nowhere: Path) -> None:
    folders = [cache_dir(), models_dir(), clip_folder(), default_folder(), config_path()]
    assert all(folder.is_relative_to(nowhere) for folder in folders), folders
    assert installed() == ()
    assert read_config() == {}


def test_a_video_is_answered_and_one_line_says_that_nothing_is_kept(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = CHECKOUT / "demo" / "shapes.mp4"
    assert run(["ground", str(video), "a panda", "--model", "demo", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "a panda" in out
    assert err.count("\n") == 1
    assert "cannot be written" in err
    assert "R2RT_CACHE" in err
    assert [path.name for path in nowhere.parent.parent.iterdir()] == ["file"], "no folder ~"


def test_what_should_be_written_says_which_variable_to_set(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "pull", "demo"]) not in {0, 1}
    assert "R2RT_HOME" in capsys.readouterr().err
