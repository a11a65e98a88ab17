"""`r2rt doctor`: it lists the installed parts, and never fails because something is missing."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from r2rt.cli import doctor as doctor_module
from r2rt.cli.doctor import doctor
from r2rt.cli.main import run
from tests.conftest import CHECKOUT
from tests.r2rt.bundles import write_bundle


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return tmp_path / "home" / "models"


def diagnose() -> dict[str, dict[str, dict[str, Any]]]:
    result = CliRunner().invoke(doctor, ["--format", "json"], catch_exceptions=False)
    assert result.exit_code == 0
    document: dict[str, dict[str, dict[str, Any]]] = json.loads(result.stdout)
    return document


def test_every_section_is_there() -> None:
    found = diagnose()
    sections = ["system", "packages", "extras", "video", "backend", "gpu", "models", "folders"]
    assert list(found) == sections
    assert found["system"]["python"]["value"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["packages"]["numpy"]["value"] == importlib.metadata.version("numpy")
    assert {"h264", "hevc", "vp9", "av1"} < set(found["video"])
    assert "CPUExecutionProvider" in found["backend"]["providers"]["value"]
    assert "onnxruntime on" in found["backend"]["chosen"]["value"]


def test_it_makes_nothing(home: Path) -> None:
    found = diagnose()
    assert not home.parent.exists()
    assert "not made yet" in found["folders"]["models"]["value"]


def test_the_demo_model_stands_in_and_it_is_said_what_fetches_a_full_one() -> None:
    default = diagnose()["models"]["default"]
    assert not default["problem"]
    assert default["value"].startswith("demo")
    assert "r2rt models pull qvhighlights" in default["value"]


def test_models_are_listed_with_what_ails_them(home: Path) -> None:
    write_bundle(home / "qvhighlights")
    write_bundle(home / "broken")
    (home / "broken" / "bundle.json").write_bytes(b"")
    (home / ".partial").mkdir()
    (home / ".partial" / "x.part").write_bytes(bytes(2_000_000))
    found = diagnose()
    assert not found["models"]["qvhighlights"]["problem"]
    assert found["models"]["broken"]["problem"]
    assert found["models"]["default"]["value"].startswith("qvhighlights: ")
    assert found["folders"]["unfinished downloads"]["value"].startswith("2.0 MB")


def test_extras_say_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    missing = {"jinja2", "aiohttp"}

    def without(name: str) -> str:
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    installed = {"value": "installed", "problem": False}
    found = diagnose()["extras"]
    assert [found[name] for name in ("media", "remote", "archive", "serve")] == [installed] * 4
    monkeypatch.setattr("importlib.metadata.version", without)
    found = diagnose()["extras"]
    value = "not installed (jinja2); pip install 'r2rt[media]'"
    assert found["media"] == {"value": value, "problem": False}
    assert "jinja2" in found["archive"]["value"]  # which brings media
    assert "aiohttp" in found["remote"]["value"]  # of the extra http of fsspec


def test_a_missing_package_and_decoder_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "tokenizers":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libdav1d", "libaom-av1"})
    found = diagnose()
    assert found["packages"]["tokenizers"] == {"value": "not installed", "problem": True}
    assert found["video"]["av1"]["problem"]
    assert not found["video"]["h264"]["problem"]


def test_a_gpu_is_described_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        """Answers as the driver's library does, through pointers."""

        def cuInit(self, flags: int) -> int:  # noqa: N802
            return 0

        def cuDriverGetVersion(self, number: Any) -> int:  # noqa: N802
            number._obj.value = 12080
            return 0

        def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
            device._obj.value = ordinal
            return 0

        def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
            count._obj.value = 1
            return 0

        def cuDeviceGetName(self, name: Any, size: int, device: int) -> int:  # noqa: N802
            name.value = b"A GPU"
            return 0

        def cuDeviceTotalMem_v2(self, memory: Any, device: int) -> int:  # noqa: N802
            memory._obj.value = 80 << 30
            return 0

        def cuDeviceGetAttribute(self, value: Any, key: int, device: int) -> int:  # noqa: N802
            value._obj.value = {75: 9, 76: 0}[key]
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver())
    document = diagnose()
    ways = document["backend"]
    assert "does not serve compute capability 9.0" in ways["TensorRT-RTX"]["value"]
    assert "onnxruntime-gpu[cuda,cudnn]" in ways["CUDAExecutionProvider"]["value"]
    assert not any(way["problem"] for way in ways.values())
    found = document["gpu"]
    assert found["driver"]["value"] == "for CUDA 12.8"
    assert found["device 0"]["value"] == "A GPU, 80 GiB, compute capability 9.0"
    assert found["R² block"]["value"].startswith("by TensorRT's engine")
    assert "not yet measured" in found["R² block"]["value"]


def test_no_gpu_is_reported_and_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    found = diagnose()
    assert found["gpu"]["driver"]["value"].startswith("none")
    assert not found["gpu"]["driver"]["problem"]
    assert "no GPU" in found["backend"]["chosen"]["value"]


def test_the_table_names_each_section_once() -> None:
    command = [sys.executable, "-m", "r2rt", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert result.returncode == 0, result.stderr
    starts = [line.split()[0] for line in result.stdout.splitlines()[1:] if line[:1].strip()]
    assert starts == list(diagnose())


def test_two_packages_of_one_module_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "1.31.1" if name == "onnxruntime-gpu" else real(name),
    )
    found = diagnose()["packages"]["onnxruntime"]
    assert found["problem"]
    assert "uninstall both" in found["value"]


def test_a_system_that_says_little_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS names no available pages and has no /proc; Windows has no sysconf."""
    known, read = os.sysconf, Path.read_text

    def sysconf(name: str) -> int:
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return known(name)

    def read_text(path: Path, **options: Any) -> str:
        if path.is_relative_to("/proc") or path.is_relative_to("/sys"):
            raise FileNotFoundError(path)
        return read(path, **options)

    monkeypatch.setattr(os, "sysconf", sysconf)
    monkeypatch.setattr(Path, "read_text", read_text)
    total = known("SC_PAGE_SIZE") * known("SC_PHYS_PAGES") / 2**30
    assert doctor_module._system()[-1].value == f"{total:.1f} GiB"
    monkeypatch.delattr(os, "sysconf")
    assert doctor_module._system()[-1].value == "unknown"


def test_json_of_a_folder_whose_name_is_not_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / os.fsdecode(b"caf\xe9")))
    found = [item for item in doctor_module._folders() if item.name == "models"]
    assert "caf\ufffd" in json.loads(doctor_module._as_json(found))["folders"]["models"]["value"]


def test_a_model_that_cannot_be_measured_ends_the_command() -> None:
    assert run(["doctor", "--measure", "none"]) == 20
