"""Which models there are, which one a name means, and their removal."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import msgspec
import pytest

from r2rt.errors import (
    DownloadError,
    ModelNotFoundError,
    OutputError,
    QueryError,
)
from r2rt.model import installed as models
from r2rt.model import registry
from r2rt.model.installed import (
    changeable,
    choose_default,
    demo_model,
    install_folder,
    installed,
    models_dir,
    remove,
    resolve,
)
from r2rt.model.manifest import MANIFEST_NAME
from r2rt.model.pull import pull
from tests.r2rt.bundles import fake_files, write_bundle
from tests.r2rt.hub import Hub, Step
from tests.r2rt.model.installed.mirror import install, publish


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

    def test_the_copy_of_a_read_only_package_can_be_changed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        demo = tmp_path / "demo"
        write_bundle(demo)
        monkeypatch.setattr(models, "_DEMO", demo)
        for path in (*demo.iterdir(), demo):
            path.chmod(0o555 if path == demo else 0o444)
        copy = changeable(demo)
        demo.chmod(0o755)
        assert copy == models_dir() / "demo"
        assert all(path.stat().st_mode & stat.S_IWUSR for path in (copy, *copy.iterdir()))

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

    @pytest.mark.parametrize(
        "left",
        [
            "qvhighlights.convert/video_encoder.onnx",
            "qvhighlights.import/bundle.json",
            f"checkpoints/{registry.PUBLISHED['qvhighlights'].filename}",
            f"checkpoints/{registry.PUBLISHED['qvhighlights'].filename}.part",
        ],
    )
    def test_removing_what_a_killed_conversion_or_import_left(self, left: str) -> None:
        path = models_dir() / ".partial" / left
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
        remove("qvhighlights")
        assert not path.exists()

    @pytest.mark.parametrize("name", ["../home", "a/b", "", ".partial", "..", "-x"])
    def test_removing_takes_no_paths(self, name: str) -> None:
        install("mine")
        with pytest.raises(QueryError, match="no name of a model"):
            remove(name)
        assert len(installed()) == 1


def test_a_model_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    before = install("mine")
    with pytest.raises(OutputError, match="cannot be installed"):
        install_folder(tmp_path / "nothing", "mine")
    assert resolve("mine") == before
    assert [model.problem for model in installed()] == [None]
