"""`r2rt models quantize` and `pull --precision int8`, without PyTorch and without onnx."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from r2rt.cli.main import run
from r2rt.grounding.grounder import Grounder
from r2rt.model.bundle import Bundle
from r2rt.model.installed import choose_default, int8_form
from r2rt.model.manifest import TOKENIZER_NAME
from r2rt.quality.agreement import LIMITS, compare
from tests.conftest import CHECKOUT
from tests.r2rt.bundles import fake_files, write_bundle
from tests.r2rt.conftest import DEMO_BUNDLE, DEMO_VIDEO

_ALONE = """
import sys
for name in ("onnx", "torch", "export", "training", "google.protobuf"):
    sys.modules[name] = None  # an import raises ImportError
from r2rt.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("R2RT_MODEL", raising=False)
    return tmp_path / "home" / "models"


def test_a_graph_of_another_exporter_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer = (DEMO_BUNDLE / TOKENIZER_NAME).read_bytes()
    write_bundle(tmp_path / "odd", {**fake_files(), TOKENIZER_NAME: tokenizer})
    command = ["models", "quantize", str(tmp_path / "odd"), "--output", str(tmp_path / "int8")]
    assert run([*command, "--quiet"]) == 21
    (line,) = capfd.readouterr().err.splitlines()
    assert "not a graph that r2rt exports" in line


@pytest.mark.slow
def test_pull_makes_the_int8_form_where_the_runtime_is_alone(models: Path) -> None:
    arguments = ["models", "pull", "mine", "--from", str(DEMO_BUNDLE), "--precision", "int8"]
    command = [sys.executable, "-c", _ALONE, *arguments]
    first = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert first.returncode == 0, first.stderr
    bundle = Bundle.open(models / "mine-int8", verify="always")
    report = bundle.manifest.quantization
    assert report is not None
    assert report.origin == Bundle.open(models / "mine").fingerprint
    assert report.calibration == ("frames made by r2rt",)
    assert all(figure.passed for figure in report.figures)
    assert int8_form(models / "mine") == models / "mine-int8"
    assert choose_default().name == "mine", "two forms of one model are no two models"
    # On frames of a video, which nothing was calibrated on.
    with Grounder.load(models / "mine") as want, Grounder.load(models / "mine-int8") as got:
        assert compare(want, got, [DEMO_VIDEO], queries=["a red circle"]).passed
    again = run(arguments)
    assert again == 0
    assert Bundle.open(models / "mine-int8").manifest == bundle.manifest


@pytest.mark.slow
def test_what_the_gate_refuses_leaves_fp32_and_one_line(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusing(*arguments: object, **options: object) -> object:
        options["limits"] = dataclasses.replace(LIMITS, token_error=1e-6)
        return compare(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("r2rt.quality.quantizer.compare", refusing)
    arguments = ["--from", str(DEMO_BUNDLE), "--precision", "int8", "--quiet"]
    assert run(["models", "pull", "mine", *arguments]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("r2rt: mine stays in fp32: the int8 form")
    assert "tokens, layer -1" in line
    assert [path.name for path in models.iterdir() if not path.name.startswith(".")] == ["mine"]
