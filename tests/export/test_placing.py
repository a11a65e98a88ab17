"""Folders put into a bundle."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from export import placing
from export.placing import placed
from r2rt.model.bundle import Bundle
from r2rt.model.manifest import Manifest, read_manifest
from tests.conftest import CHECKOUT


def test_two_that_end_at_once_are_both_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as two builds for two targets: each rewrites `bundle.json` as it read it."""
    folder = tmp_path / "bundle"
    shutil.copytree(CHECKOUT / "demo" / "random-tiny", folder)
    has_read, other_is_done = threading.Event(), threading.Event()

    def put(name: str) -> None:
        with placed(folder, "engines", name) as staged:
            (staged / "a.plan").write_bytes(b"plan")

    def read_slowly(bundle: Path) -> Manifest:
        manifest = read_manifest(bundle)
        if threading.current_thread() is slow and not has_read.is_set():
            has_read.set()
            other_is_done.wait(0.3)  # not reached where the other one waits
        return manifest

    monkeypatch.setattr(placing, "read_manifest", read_slowly)
    slow = threading.Thread(target=put, args=("rtx-8.9-fp16",))
    slow.start()
    assert has_read.wait(10)
    put("rtx-12.0-fp16")
    other_is_done.set()
    slow.join()
    bundle = Bundle.open(folder)
    bundle.verify_hashes()
    listed = {name for name in bundle.manifest.files if name.startswith("engines/")}
    assert listed == {"engines/rtx-12.0-fp16/a.plan", "engines/rtx-8.9-fp16/a.plan"}
    assert {path.name for path in folder.iterdir()} == {
        *(path.name for path in (CHECKOUT / "demo" / "random-tiny").iterdir()),
        "engines",
    }
