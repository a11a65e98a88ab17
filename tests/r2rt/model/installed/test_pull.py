"""Models fetched from a mirror."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from r2rt.errors import (
    DownloadError,
    HashMismatchError,
    ModelNotFoundError,
    OutputError,
    QueryError,
)
from r2rt.model.bundle import Bundle
from r2rt.model.installed import (
    installed,
    models_dir,
)
from r2rt.model.manifest import MANIFEST_NAME, Manifest, manifest_bytes
from r2rt.model.pull import manifest_sha256, pull
from tests.conftest import CHECKOUT
from tests.r2rt.bundles import fake_files, fake_manifest, write_bundle
from tests.r2rt.hub import Hub, Step
from tests.r2rt.model.installed.mirror import install, publish, republish
from tests.r2rt.model.test_download import wait_until
from tests.r2rt.permissions import permitting


class TestMirror:
    def test_a_bundle_is_fetched_whole_and_then_needs_no_network(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        files = {**fake_files(), "engines/x-y/grounder.engine": b"engine"}
        publish(hub, tmp_path / "source", "mine", files)
        reported: list[tuple[int, int | None]] = []
        path = pull(
            "mine",
            source=f"{hub.url}/mirror/",
            progress=lambda done, total: reported.append((done, total)),
        )
        assert path == models_dir() / "mine"
        assert Bundle.open(path).manifest == Bundle.open(tmp_path / "source").manifest
        total = sum(map(len, files.values()))
        assert reported[-1] == (total, total)
        assert [done for done, _ in reported] == sorted(done for done, _ in reported)
        asked = len(hub.requests)
        assert asked == len(files) + 1
        assert pull("mine", source="http://127.0.0.1:9/nobody") == path
        assert pull("mine") == path
        assert len(hub.requests) == asked
        assert sorted(entry.name for entry in models_dir().iterdir()) == [".partial", "mine"]

    @pytest.mark.parametrize("as_url", [False, True])
    def test_a_folder_is_a_mirror_too(self, tmp_path: Path, as_url: bool) -> None:
        manifest = write_bundle(tmp_path / "mirror" / "mine")
        source = (tmp_path / "mirror").as_uri() if as_url else str(tmp_path / "mirror")
        assert Bundle.open(pull("mine", source=source)).manifest == manifest

    def test_a_bundles_own_folder_will_do(self, tmp_path: Path) -> None:
        manifest = write_bundle(tmp_path / "exported")
        path = pull("mine", source=str(tmp_path / "exported"))
        assert path.name == "mine"
        assert Bundle.open(path).manifest == manifest

    def test_force_replaces(self, hub: Hub, tmp_path: Path) -> None:
        path = install("mine", max_moments=7)
        publish(hub, tmp_path / "source", "mine")
        source = f"{hub.url}/mirror"
        pull("mine", source=source)
        assert Bundle.open(path).manifest.max_moments == 7
        pull("mine", source=source, force=True)
        assert Bundle.open(path).manifest.max_moments == 50
        assert sorted(entry.name for entry in models_dir().iterdir()) == [".partial", "mine"]

    def test_what_is_installed_and_damaged_is_fetched_again(self, hub: Hub, tmp_path: Path) -> None:
        path = install("mine")
        (path / "grounder.onnx").unlink()
        publish(hub, tmp_path / "source", "mine")
        said: list[str] = []
        pull("mine", source=f"{hub.url}/mirror", say=said.append)
        Bundle.open(path)
        assert "fetched again" in said[0]

    def test_a_failed_replacement_leaves_the_old_one(self, hub: Hub, tmp_path: Path) -> None:
        path = install("mine", max_moments=7)
        publish(hub, tmp_path / "source", "mine")
        hub.always["mirror/mine/grounder.onnx"] = Step(corrupt=True)
        with pytest.raises(HashMismatchError):
            pull("mine", source=f"{hub.url}/mirror", force=True)
        assert Bundle.open(path).manifest.max_moments == 7

    def test_an_interrupted_pull_goes_on(self, hub: Hub, tmp_path: Path) -> None:
        publish(hub, tmp_path / "source", "mine", fake_files(size=100_000))
        last = "mirror/mine/video_encoder.onnx"
        order = list(Bundle.open(tmp_path / "source").manifest.files)
        hub.steps[last] = [Step(cut_after=30_000)]
        hub.always[last] = Step(status=503)
        with pytest.raises(DownloadError):
            pull("mine", source=f"{hub.url}/mirror")
        assert installed() == ()
        before = {path: sum(hub.sent(path)) for path in hub.files}
        hub.always.clear()
        pull("mine", source=f"{hub.url}/mirror")
        Bundle.open(models_dir() / "mine")
        for name in order:
            path = f"mirror/mine/{name}"
            assert sum(hub.sent(path)) == len(hub.files[path]), f"{name} was fetched twice"
        assert before[last] == 30_000

    def test_a_killed_pull_goes_on(self, hub: Hub, tmp_path: Path, home: Path) -> None:
        publish(hub, tmp_path / "source", "mine", fake_files(size=200_000))
        slow = "mirror/mine/grounder.onnx"
        hub.steps[slow] = [Step(pause_s=0.1)]
        process = pull_in_process("mine", f"{hub.url}/mirror")
        wait_until(lambda: sum(hub.sent(slow)) > 60_000)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert installed() == ()
        pull("mine", source=f"{hub.url}/mirror")
        Bundle.open(models_dir() / "mine")
        resumed = hub.sent(slow)[-1]
        assert 0 < resumed <= len(hub.files[slow]) - 60_000 + 2 * 16_384

    def test_a_bundle_of_another_published_name_is_refused(self, hub: Hub, tmp_path: Path) -> None:
        write_bundle(tmp_path / "charades", name="r2_tuning_qvhighlights")
        with pytest.raises(ModelNotFoundError, match="is the bundle of qvhighlights, asked for"):
            pull("charades", source=str(tmp_path))
        assert not (models_dir() / "charades").exists()
        write_bundle(tmp_path / "charades", name="r2_tuning_charades")
        assert pull("charades", source=str(tmp_path)) == models_dir() / "charades"

    def test_a_mirror_that_changed_meanwhile(self, hub: Hub, tmp_path: Path) -> None:
        old = {**fake_files(size=50_000), "extra/old.bin": b"old"}
        publish(hub, tmp_path / "old", "mine", old)
        hub.steps["mirror/mine/video_encoder.onnx"] = [Step(cut_after=20_000)]
        hub.always["mirror/mine/video_encoder.onnx"] = Step(status=503)
        with pytest.raises(DownloadError):
            pull("mine", source=f"{hub.url}/mirror")
        hub.always.clear()
        new = {**fake_files(size=3500), "extra": b"a file now"}
        publish(hub, tmp_path / "new", "mine", new)
        path = pull("mine", source=f"{hub.url}/mirror")
        Bundle.open(path)
        there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        assert there == {*new, MANIFEST_NAME}

    def test_two_processes_pull_one_model_once(self, hub: Hub, tmp_path: Path) -> None:
        publish(hub, tmp_path / "source", "mine", fake_files(size=100_000))
        hub.always["mirror/mine/grounder.onnx"] = Step(pause_s=0.02)
        processes = [pull_in_process("mine", f"{hub.url}/mirror") for _ in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        Bundle.open(models_dir() / "mine")
        assert len(hub.requests) == len(fake_files()) + 1

    def test_the_one_who_waits_is_reported(self, hub: Hub, tmp_path: Path) -> None:
        publish(hub, tmp_path / "source", "mine")
        is_reported = threading.Event()
        hub.always["mirror/mine/grounder.onnx"] = Step(hold=is_reported)
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            is_reported.set()

        source = f"{hub.url}/mirror"
        first = threading.Thread(target=pull, args=("mine",), kwargs={"source": source})
        first.start()
        wait_until(lambda: bool(hub.requests))
        pull("mine", source=source, say=say)
        first.join()
        assert said == ["waiting for another process that works on mine"]


class TestPin:
    def test_the_right_pin_lets_it_in(self, hub: Hub, tmp_path: Path) -> None:
        pin = publish(hub, tmp_path / "source", "mine")
        path = pull(f"mine@{pin.upper()}", source=f"{hub.url}/mirror")
        assert manifest_sha256(path) == pin
        assert pull(f"mine@{pin}", source="http://127.0.0.1:9/nobody") == path

    def test_another_manifest_does_not_get_in(self, hub: Hub, tmp_path: Path) -> None:
        pin = publish(hub, tmp_path / "source", "mine")
        republish(hub, "mine", lambda d: d.update(name="evil"))
        with pytest.raises(HashMismatchError):
            pull(f"mine@{pin}", source=f"{hub.url}/mirror")
        assert installed() == ()

    def test_another_version_that_is_installed_is_not_passed_off(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        install("mine", max_moments=7)
        pin = publish(hub, tmp_path / "source", "mine")
        with pytest.raises(HashMismatchError, match="--force"):
            pull(f"mine@{pin}", source=f"{hub.url}/mirror")
        pull(f"mine@{pin}", source=f"{hub.url}/mirror", force=True)

    @pytest.mark.parametrize("pin", ["", "12345678", "g" * 64, "0" * 65])
    def test_a_pin_is_a_whole_hash(self, pin: str) -> None:
        with pytest.raises(QueryError, match="64"):
            pull(f"mine@{pin}", source="/nowhere")

    def test_a_pin_without_a_mirror_means_nothing(self) -> None:
        with pytest.raises(QueryError, match="--from"):
            pull(f"qvhighlights@{'0' * 64}")

    def test_plain_http_without_a_pin_is_remarked_upon(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        said: list[str] = []
        with pytest.raises(DownloadError):
            pull("mine", source="http://mirror.invalid", say=said.append)
        assert "plain http" in said[0]


class TestDisk:
    def test_a_home_that_cannot_be_written(self, home: Path) -> None:
        home.mkdir()
        with permitting(home, 0o555), pytest.raises(OutputError, match="R2RT_HOME"):
            pull("mine", source="/nowhere")

    def test_a_home_that_is_a_file(self, home: Path) -> None:
        home.write_bytes(b"")
        assert installed() == ()
        with pytest.raises(OutputError, match="R2RT_HOME"):
            pull("mine", source="/nowhere")


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(QueryError, match="no address"):
        pull("mine", source="http://[::1/mirror")


def test_a_name_that_was_never_published() -> None:
    with pytest.raises(ModelNotFoundError, match="--from"):
        pull("nonesuch")


def test_fake_bundles_are_real_to_the_reader(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    manifest: Manifest = fake_manifest(tmp_path, list(fake_files()))
    assert (tmp_path / MANIFEST_NAME).read_bytes() == manifest_bytes(manifest)


def pull_in_process(name: str, source: str) -> subprocess.Popen[bytes]:
    code = "import sys; from r2rt.model.pull import pull; pull(sys.argv[1], source=sys.argv[2])"
    return subprocess.Popen([sys.executable, "-c", code, name, source], cwd=CHECKOUT)
