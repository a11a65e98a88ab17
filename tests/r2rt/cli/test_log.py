"""What the library logs and the command line prints of it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import msgspec
import pytest

from r2rt import Grounder
from r2rt.cli.session import show_log
from r2rt.model.manifest import MANIFEST_NAME, manifest_bytes, read_manifest
from tests.r2rt.conftest import DEMO_BUNDLE


def test_an_outdated_bundle_is_loaded_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(DEMO_BUNDLE, folder)
    manifest = msgspec.structs.replace(read_manifest(folder), graph_revision=1)
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    show_log()
    show_log()
    Grounder.load(folder, device="cpu").close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("r2rt: warning: random-tiny was exported by an older r2rt")
    Grounder.load(DEMO_BUNDLE, device="cpu").close()
    assert capsys.readouterr().err == ""


def test_escapes_in_what_is_logged_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_log()
    logging.getLogger("r2rt.x").warning("name \x1b[31m")
    assert "\x1b" not in capsys.readouterr().err
