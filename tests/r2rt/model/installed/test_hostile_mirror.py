"""Mirrors that lie, cut off, or never end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from r2rt.errors import (
    BundleDamagedError,
    BundleSchemaError,
    DownloadError,
    HashMismatchError,
    OutputError,
    QueryError,
    R2rtError,
)
from r2rt.model.installed import (
    installed,
    models_dir,
)
from r2rt.model.pull import pull
from tests.r2rt.bundles import fake_files
from tests.r2rt.hub import Hub, Step
from tests.r2rt.model.installed.mirror import publish, republish


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/r2rt-was-here", "a/../../x", "..", ".partial", "bundle.json"]
)
def test_names_that_leave_the_folder(hub: Hub, tmp_path: Path, name: str) -> None:
    publish(hub, tmp_path / "source", "mine")
    entry = {"size": 3, "sha256": hashlib.sha256(b"bad").hexdigest()}
    republish(hub, "mine", lambda d: d["files"].update({name: entry}))
    hub.always["mirror/x"] = Step()
    hub.add("mirror/x", b"bad")
    with pytest.raises(BundleDamagedError, match="not a file name"):
        pull("mine", source=f"{hub.url}/mirror")
    assert not (models_dir() / ".partial" / "x").exists()
    assert not Path("/tmp/r2rt-was-here").exists()
    assert len(hub.requests) == 1, "nothing of such a bundle may be asked for"


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Step(corrupt=True), HashMismatchError),
        (Step(endless=True), DownloadError),
        (Step(announce=10**12), DownloadError),
        (Step(status=404), DownloadError),
        (Step(cut_after=10), DownloadError),
    ],
    ids=["corrupt", "endless", "announced", "absent", "always-cut"],
)
def test_files_that_are_not_as_promised(
    hub: Hub, tmp_path: Path, step: Step, error: type[R2rtError]
) -> None:
    publish(hub, tmp_path / "source", "mine", fake_files(size=30_000))
    hub.always["mirror/mine/tokenizer.json"] = step
    with pytest.raises(error, match=r"tokenizer\.json"):
        pull("mine", source=f"{hub.url}/mirror")
    assert installed() == ()
    size = len(fake_files(size=30_000)["tokenizer.json"])
    # What the server has sent waits in part in the system's buffers, some 10 MB of them.
    most = 2 * size + 16 * 10**6
    assert all(sent <= most for sent in hub.sent("mirror/mine/tokenizer.json"))


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_sizes_that_are_not_those_of_the_files(hub: Hub, tmp_path: Path, size: int) -> None:
    publish(hub, tmp_path / "source", "mine")
    republish(hub, "mine", lambda d: d["files"]["grounder.onnx"].update(size=size))
    with pytest.raises(DownloadError, match=f"expected {size}"):
        pull("mine", source=f"{hub.url}/mirror")
    assert installed() == ()


def test_a_bundle_larger_than_the_disk_is_refused_at_once(hub: Hub, tmp_path: Path) -> None:
    publish(hub, tmp_path / "source", "mine")
    republish(hub, "mine", lambda d: d["files"]["grounder.onnx"].update(size=10**17))
    with pytest.raises(OutputError, match="MB are free"):
        pull("mine", source=f"{hub.url}/mirror")
    assert len(hub.requests) == 1


def test_a_huge_manifest_is_not_read(hub: Hub) -> None:
    hub.add("mirror/mine/bundle.json", b" " * (5 << 20))
    with pytest.raises(DownloadError, match="at most"):
        pull("mine", source=f"{hub.url}/mirror")
    hub.always["mirror/mine/bundle.json"] = Step(endless=True)
    with pytest.raises(DownloadError, match="more than"):
        pull("mine", source=f"{hub.url}/mirror")


@pytest.mark.parametrize("text", [b"", b"<html>login</html>", b"[" * 10**6])
def test_a_manifest_that_is_none(hub: Hub, text: bytes) -> None:
    hub.add("mirror/mine/bundle.json", text)
    with pytest.raises(BundleDamagedError, match=f"{hub.url}/mirror/mine/bundle.json"):
        pull("mine", source=f"{hub.url}/mirror")


def test_a_bundle_of_another_schema(hub: Hub) -> None:
    hub.add("mirror/mine/bundle.json", b'{"schema": 4}')
    with pytest.raises(BundleSchemaError, match="schema 4"):
        pull("mine", source=f"{hub.url}/mirror")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "-x", "x" * 200])
def test_a_model_has_a_plain_name(name: str) -> None:
    with pytest.raises(QueryError):
        pull(name, source="/nowhere")
