"""Finding, choosing, pulling and removing models."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from r2rt.errors import (
    BundleDamagedError,
    BundleSchemaError,
    DownloadError,
    HashMismatchError,
    ModelNotFoundError,
    OutputError,
    QueryError,
    R2rtError,
)
from r2rt.model import download as download_module
from r2rt.model import installed as models
from r2rt.model import registry
from r2rt.model.bundle import Bundle
from r2rt.model.installed import (
    choose_default,
    demo_model,
    installed,
    models_dir,
    remove,
    resolve,
)
from r2rt.model.manifest import MANIFEST_NAME, Manifest, manifest_bytes
from r2rt.model.pull import manifest_sha256, pull
from tests.conftest import CHECKOUT
from tests.r2rt.bundles import fake_files, fake_manifest, write_bundle
from tests.r2rt.hub import Hub, Step, running_hub
from tests.r2rt.model.test_download import wait_until


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(download_module, "_BACKOFF_S", 0.001)
    monkeypatch.setattr(models, "_DEMO", tmp_path / "no-demo")
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def install(name: str, **changes: Any) -> Path:
    write_bundle(models_dir() / name, **changes)
    return models_dir() / name


def publish(hub: Hub, folder: Path, name: str, contents: dict[str, bytes] | None = None) -> str:
    """Put a bundle on a mirror; return the hash of its manifest."""
    write_bundle(folder, contents)
    for path in folder.rglob("*"):
        if path.is_file():
            hub.add(f"mirror/{name}/{path.relative_to(folder)}", path.read_bytes())
    return manifest_sha256(folder)


def republish(hub: Hub, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    key = f"mirror/{name}/{MANIFEST_NAME}"
    document = json.loads(hub.files[key])
    change(document)
    hub.files[key] = json.dumps(document).encode()


class TestRegistry:
    def test_all_that_was_published_is_known(self) -> None:
        names = set(registry.PUBLISHED)
        assert len(names) == 20
        assert {"qvhighlights", "ego4d", "charades", "tacos"} < names
        assert len({model.hash8 for model in registry.PUBLISHED.values()}) == 20
        for model in registry.PUBLISHED.values():
            assert len(model.hash8) == 8
            assert set(model.hash8) <= set("0123456789abcdef")

    def test_addresses_follow_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = registry.PUBLISHED["qvhighlights"]
        path = "yeliudev/R2-Tuning/resolve/main/checkpoints/r2_tuning_qvhighlights-ed516355.pth"
        monkeypatch.delenv("HF_ENDPOINT", raising=False)
        assert model.url == f"https://huggingface.co/{path}"
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
        assert model.url == f"https://hub.example/{path}"


class TestFinding:
    def test_the_folder_follows_the_environment(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert models_dir() == home / "models"
        monkeypatch.delenv("R2RT_HOME")
        monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
        if sys.platform == "linux":
            assert models_dir() == home / "data" / "r2rt" / "models"

    def test_nothing_is_installed_at_first(self, home: Path) -> None:
        assert installed() == ()
        assert not home.exists(), "looking must not make folders"

    def test_what_is_installed_is_listed_with_what_ails_it(self) -> None:
        install("good")
        (install("bad") / MANIFEST_NAME).write_bytes(b"{")
        (models_dir() / "unrelated").mkdir()
        (models_dir() / ".partial").mkdir()
        bad, good = installed()
        assert (bad.name, bad.manifest, bad.size_bytes) == ("bad", None, None)
        assert bad.problem
        assert good.name == "good"
        assert good.problem is None
        assert good.size_bytes == sum(map(len, fake_files().values()))

    def test_names_and_folders_resolve(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = install("qvhighlights")
        write_bundle(tmp_path / "mine")
        monkeypatch.chdir(tmp_path)
        assert resolve("qvhighlights") == there
        assert resolve("r2_tuning_qvhighlights") == there
        assert resolve("mine").resolve() == tmp_path / "mine"
        for folder in ("./mine", str(tmp_path / "mine"), Path("mine"), "mine/bundle.json"):
            assert resolve(folder).resolve() == tmp_path / "mine"

    def test_an_installed_name_wins_over_a_folder_beside_us(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = install("mine")
        write_bundle(tmp_path / "mine")
        monkeypatch.chdir(tmp_path)
        assert resolve("mine") == there
        assert resolve("./mine") == Path("mine")

    def test_what_is_not_there_says_what_is(self) -> None:
        with pytest.raises(ModelNotFoundError, match="pull qvhighlights"):
            resolve("qvhighlights")
        install("mymodel")
        with pytest.raises(ModelNotFoundError, match=r"mean mymodel\?.*installed: mymodel"):
            resolve("mymodle")
        with pytest.raises(ModelNotFoundError, match=r"no bundle\.json there"):
            resolve("./nowhere")

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a\x00b", "x" * 5000, "~nobody-here/x", "a\nb"]
    )
    def test_odd_names_are_not_found(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelNotFoundError) as raised:
            resolve(name)
        assert "\n" not in str(raised.value)

    def test_the_default_is_published_before_others(self) -> None:
        with pytest.raises(ModelNotFoundError, match="r2rt models pull qvhighlights"):
            choose_default()
        mine = install("mine")
        assert choose_default().path == mine
        other = install("another")
        with pytest.raises(ModelNotFoundError, match="installed: another, mine"):
            choose_default()
        remove("another")
        assert not other.exists()
        tacos = install("tacos")
        assert choose_default().path == tacos
        qvhighlights = install("qvhighlights")
        assert choose_default().path == qvhighlights

    def test_the_demo_of_the_package_comes_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_bundle(tmp_path / "demo")
        monkeypatch.setattr(models, "_DEMO", tmp_path / "demo")
        assert choose_default().path == tmp_path / "demo"
        assert "demo model" in choose_default().reason
        mine = install("mine")
        assert choose_default().path == mine

    @pytest.mark.parametrize(
        ("sha256", "reason"),
        [("ed516355" + "0" * 56, "a published model"), ("0" * 64, "not made of the published")],
    )
    def test_a_published_model_is_one_made_of_the_published_checkpoint(
        self, sha256: str, reason: str
    ) -> None:
        folder = models_dir() / "qvhighlights"
        manifest = write_bundle(folder)
        origin = msgspec.structs.replace(manifest.provenance, checkpoint_sha256=sha256)
        write_bundle(folder, provenance=origin)
        assert reason in choose_default().reason

    def test_the_demo_of_the_package_has_a_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_bundle(tmp_path / "demo")
        monkeypatch.setattr(models, "_DEMO", tmp_path / "demo")
        demo = demo_model()
        assert demo is not None
        assert resolve("demo") == demo.path
        with pytest.raises(ModelNotFoundError, match="part of the package"):
            remove("demo")
        assert demo_model() == demo
        mine = install("demo")
        assert resolve("demo") == mine
        remove("demo")
        assert not mine.exists()
        assert resolve("demo") == demo.path

    def test_removing(self) -> None:
        path = install("mine")
        assert remove("mine") == path
        assert installed() == ()
        assert [entry.name for entry in models_dir().iterdir()] == [".partial"]
        with pytest.raises(ModelNotFoundError):
            remove("mine")

    def test_removing_what_was_never_finished(self, hub: Hub, tmp_path: Path) -> None:
        publish(hub, tmp_path / "source", "mine")
        hub.always["mirror/mine/video_encoder.onnx"] = Step(status=404)
        with pytest.raises(DownloadError):
            pull("mine", source=f"{hub.url}/mirror")
        remove("mine")
        left = [path for path in models_dir().rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in left) == 0

    @pytest.mark.parametrize("name", ["../home", "a/b", "", ".partial", "..", "-x"])
    def test_removing_takes_no_paths(self, name: str) -> None:
        install("mine")
        with pytest.raises(QueryError, match="no name of a model"):
            remove(name)
        assert len(installed()) == 1


class TestMirror:
    def test_a_bundle_is_fetched_whole_and_then_needs_no_network(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        files = {**fake_files(), "engines/x-y/grounder.engine": b"engine"}
        publish(hub, tmp_path / "source", "mine", files)
        told: list[tuple[int, int | None]] = []
        path = pull(
            "mine",
            source=f"{hub.url}/mirror/",
            progress=lambda done, total: told.append((done, total)),
        )
        assert path == models_dir() / "mine"
        assert Bundle.open(path).manifest == Bundle.open(tmp_path / "source").manifest
        total = sum(map(len, files.values()))
        assert told[-1] == (total, total)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
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
        hub.always["mirror/mine/grounder.onnx"] = Step(pause_s=0.3)
        said: list[str] = []
        source = f"{hub.url}/mirror"
        first = threading.Thread(target=pull, args=("mine",), kwargs={"source": source})
        first.start()
        wait_until(lambda: bool(hub.requests))
        pull("mine", source=source, say=said.append)
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

    @pytest.mark.parametrize("pin", ["12345678", "g" * 64, "0" * 65])
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


class TestHostileMirror:
    @pytest.mark.parametrize(
        "name", ["../x", "/tmp/r2rt-was-here", "a/../../x", "..", ".partial", "bundle.json"]
    )
    def test_names_that_leave_the_folder(self, hub: Hub, tmp_path: Path, name: str) -> None:
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
        self, hub: Hub, tmp_path: Path, step: Step, error: type[R2rtError]
    ) -> None:
        publish(hub, tmp_path / "source", "mine", fake_files(size=30_000))
        hub.always["mirror/mine/tokenizer.json"] = step
        with pytest.raises(error, match=r"tokenizer\.json"):
            pull("mine", source=f"{hub.url}/mirror")
        assert installed() == ()
        size = len(fake_files(size=30_000)["tokenizer.json"])
        assert all(sent <= 2 * size + 10**6 for sent in hub.sent("mirror/mine/tokenizer.json"))

    @pytest.mark.parametrize("size", [1, 3_000_000])
    def test_sizes_that_are_not_those_of_the_files(
        self, hub: Hub, tmp_path: Path, size: int
    ) -> None:
        publish(hub, tmp_path / "source", "mine")
        republish(hub, "mine", lambda d: d["files"]["grounder.onnx"].update(size=size))
        with pytest.raises(DownloadError, match=f"expected {size}"):
            pull("mine", source=f"{hub.url}/mirror")
        assert installed() == ()

    def test_a_bundle_larger_than_the_disk_is_refused_at_once(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        publish(hub, tmp_path / "source", "mine")
        republish(hub, "mine", lambda d: d["files"]["grounder.onnx"].update(size=10**17))
        with pytest.raises(OutputError, match="MB are free"):
            pull("mine", source=f"{hub.url}/mirror")
        assert len(hub.requests) == 1

    def test_a_huge_manifest_is_not_read(self, hub: Hub) -> None:
        hub.add("mirror/mine/bundle.json", b" " * (5 << 20))
        with pytest.raises(DownloadError, match="at most"):
            pull("mine", source=f"{hub.url}/mirror")
        hub.always["mirror/mine/bundle.json"] = Step(endless=True)
        with pytest.raises(DownloadError, match="more than"):
            pull("mine", source=f"{hub.url}/mirror")

    @pytest.mark.parametrize("text", [b"", b"<html>login</html>", b"[" * 10**6])
    def test_a_manifest_that_is_none(self, hub: Hub, text: bytes) -> None:
        hub.add("mirror/mine/bundle.json", text)
        with pytest.raises(BundleDamagedError, match=f"{hub.url}/mirror/mine/bundle.json"):
            pull("mine", source=f"{hub.url}/mirror")

    def test_a_bundle_of_another_schema(self, hub: Hub) -> None:
        hub.add("mirror/mine/bundle.json", b'{"schema": 3}')
        with pytest.raises(BundleSchemaError, match="schema 3"):
            pull("mine", source=f"{hub.url}/mirror")

    @pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "-x", "x" * 200])
    def test_a_model_has_a_plain_name(self, name: str) -> None:
        with pytest.raises(QueryError):
            pull(name, source="/nowhere")


class TestDisk:
    @pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
    def test_a_home_that_cannot_be_written(self, home: Path) -> None:
        home.mkdir()
        home.chmod(0o500)
        with pytest.raises(OutputError, match="R2RT_HOME"):
            pull("mine", source="/nowhere")

    def test_a_home_that_is_a_file(self, home: Path) -> None:
        home.write_bytes(b"")
        assert installed() == ()
        with pytest.raises(OutputError, match="R2RT_HOME"):
            pull("mine", source="/nowhere")


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
