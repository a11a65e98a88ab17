"""What a bundle holds, and that a failed export leaves nothing."""

from __future__ import annotations

import errno
import hashlib
import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from torch import nn

import export.exporter
from export._checkout import CHECKOUT
from export.errors import ExportError, VerificationError
from export.exporter import (
    Exported,
    default_name,
    export_bundle,
)
from export.onnx_writer import module_weights
from export.settings import choose_settings
from export.templates import build_graphs, model_dims, template_of
from export.to_onnx import main
from r2rt.engines.onnx_runtime import mismatches
from r2rt.errors import OutputError, QueryError
from r2rt.model.bundle import Bundle
from r2rt.model.bundle_writer import staged_folder
from r2rt.model.convert.check import sample_frames
from r2rt.model.convert.template import write_graph
from r2rt.model.registry import PUBLISHED
from tests.export.tiny import CONFIG, HIGHLIGHT, MOMENT, session, tiny_towers
from training.checkpoint import build_model
from training.clip import load_clip

pytestmark = pytest.mark.slow

UNKNOWN = "0" * 64


@pytest.mark.parametrize("fixture", ["moment_bundle", "highlight_bundle"])
def test_bundle_opens_and_its_graphs_fit_the_contract(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    exported: Exported = request.getfixturevalue(fixture)
    bundle = Bundle.open(exported.path, verify="always")
    assert bundle.manifest == exported.manifest
    assert bundle.manifest.verification.passed
    assert set(bundle.manifest.files) == {
        "tokenizer.json",
        *(f"{graph}.onnx" for graph in bundle.graphs),
    }
    for graph, spec in bundle.graphs.items():
        assert mismatches(session(bundle.file(f"{graph}.onnx")), spec) == []


def test_manifest_reports_the_recipe(moment_bundle: Exported, highlight_bundle: Exported) -> None:
    moment, highlight = moment_bundle.manifest, highlight_bundle.manifest
    assert (moment.name, moment.fps, moment.unit_s, moment.window_s) == (
        "moment",
        "1/2",
        2.0,
        150.0,
    )
    assert moment.dims.use_tef
    assert moment.dims.has_offsets
    assert moment.merge_cls_sal
    assert moment.provenance.random_weights
    assert highlight.name == "highlight"
    assert (highlight.fps, highlight.unit_s, highlight.window_s) == ("3/5", None, None)
    assert highlight.dims.strides == (1,)
    assert not highlight.merge_cls_sal


def test_every_graph_is_compared_with_pytorch(moment_bundle: Exported) -> None:
    checked = {check.name.split()[0] for check in moment_bundle.manifest.verification.checks}
    assert checked == {"video_encoder", "video_finalizer", "text_encoder", "grounder", "bundle"}
    # The measured errors are far from the limit: nothing passes by luck.
    assert max(check.error for check in moment_bundle.manifest.verification.checks) < 0.5


def test_graphs_report_nothing_of_the_machine(moment_bundle: Exported) -> None:
    for path in moment_bundle.path.glob("*.onnx"):
        data = path.read_bytes()
        for trace in (
            str(CHECKOUT),
            str(Path.home()),
            sys.prefix,
            "site-packages",
            ".py",
            "torch.",
        ):
            assert trace.encode() not in data, (path.name, trace)
        model = onnx.load_model_from_string(data)
        assert model.producer_name == "r2rt"
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.slow
def test_same_weights_give_the_same_bytes(highlight_bundle: Exported, tmp_path: Path) -> None:
    """Random towers of one seed are one CLIP, and exporting twice gives one bundle."""
    again = export_bundle(
        HIGHLIGHT, tmp_path / "again", clip=tiny_towers(), recipe="youtube_dog", name="again"
    )
    assert again.manifest.files == highlight_bundle.manifest.files
    assert again.manifest.provenance == highlight_bundle.manifest.provenance
    assert Bundle.open(again.path).fingerprint == Bundle.open(highlight_bundle.path).fingerprint


@pytest.mark.slow
def test_full_size_random_clip_is_reproducible(full_size: Exported, tmp_path: Path) -> None:
    """`random:SEED` names one CLIP: drawn again, it gives the bytes of all graphs."""
    manifest = full_size.manifest
    towers = load_clip(manifest.provenance.clip)
    model = build_model(
        full_size.path.parent / "model.pth", use_tef=True, merge_cls_sal=manifest.merge_cls_sal
    ).requires_grad_(False)
    for graph, module in build_graphs(model, towers).items():
        path = tmp_path / "again.onnx"
        write_graph(template_of(graph, module, manifest.dims), module_weights(module), path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        assert digest == manifest.files[f"{graph}.onnx"].sha256, graph


@pytest.mark.parametrize(
    ("graph", "initializer"),
    [
        ("video_encoder", "patch_weight"),
        ("text_encoder", "tokens.key_map.bias"),
        ("grounder", "pooling.scale"),
    ],
)
def test_a_wrong_graph_leaves_no_bundle(
    graph: str,
    initializer: str,
    highlight_bundle: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two per cent off in one weight are noticed."""

    def weights(module: nn.Module) -> dict[str, NDArray[Any]]:
        found = module_weights(module)
        if initializer in found:
            found[initializer] = found[initializer] * np.float32(1.02)
        return found

    monkeypatch.setattr(export.exporter, "module_weights", weights)
    with pytest.raises(VerificationError, match=f"differ from PyTorch.*{graph}") as caught:
        export_bundle(HIGHLIGHT, tmp_path / "bundle", clip=tiny_towers())
    assert any(not check.passed for check in caught.value.checks)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(highlight_bundle: Exported, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line == "comparing with PyTorch":
            assert len(list(tmp_path.glob("*/*.onnx"))) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(HIGHLIGHT, tmp_path / "bundle", clip=tiny_towers(), say=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    def write(destination: Path) -> None:
        with staged_folder(destination) as folder:
            (folder / "video_encoder.onnx").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays_unless_forced(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "bundle.json").write_text("old")
    with pytest.raises(OutputError, match="--force"), staged_folder(bundle):
        pass
    with pytest.raises(ZeroDivisionError), staged_folder(bundle, force=True) as folder:
        (folder / "bundle.json").write_text(str(1 / 0))
    assert (bundle / "bundle.json").read_text() == "old"
    with staged_folder(bundle, force=True) as folder:
        (folder / "bundle.json").write_text("new")
    assert (bundle / "bundle.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [bundle]


def test_force_replaces_nothing_but_bundles(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="is no bundle"), staged_folder(tmp_path, force=True):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_a_clip_of_other_widths_is_refused(tmp_path: Path) -> None:
    towers = tiny_towers(replace(CONFIG, vision_width=128, vision_heads=2))
    with pytest.raises(ExportError, match=r"vision states 64 wide, tiny has 128.*--clip"):
        export_bundle(MOMENT, tmp_path / "bundle", clip=towers)
    with pytest.raises(ExportError, match="4 CLIP layers, tiny has 3"):
        model_dims(build_model(MOMENT), tiny_towers(replace(CONFIG, vision_layers=3)))
    with pytest.raises(ExportError, match=r"64 \(vision\) and 64 \(text\).*--clip"):
        export_bundle(MOMENT, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"highlight.pth has no coordinate head.*qvhighlights"):
        export_bundle(HIGHLIGHT, tmp_path / "b", clip=tiny_towers(), recipe="qvhighlights")


def test_settings_follow_the_checkpoint() -> None:
    charades = PUBLISHED["charades"].hash8 + "0" * 56
    found = choose_settings(charades, has_offsets=True)
    assert (found.recipe, found.fps, found.unit_s, found.nms.kind) == (
        "charades",
        Fraction(1),
        0.1,
        "linear",
    )
    assert choose_settings(UNKNOWN, has_offsets=True).recipe == "qvhighlights"
    assert choose_settings(UNKNOWN, has_offsets=False).recipe == "tvsum"


def test_settings_follow_what_is_asked() -> None:
    found = choose_settings(
        UNKNOWN, has_offsets=True, recipe="tacos", fps=Fraction(2, 3), unit_s=0.5
    )
    assert (found.recipe, found.fps, found.unit_s, found.window_s) == (
        "tacos",
        Fraction(2, 3),
        0.5,
        None,
    )
    for wrong in (
        {"recipe": "imagenet"},
        {"fps": Fraction(0)},
        {"fps": Fraction(2000)},
        {"fps": Fraction("0.333333333")},  # more digits than a bundle may have
        {"unit_s": -1.0},
        {"unit_s": math.nan},
        {"unit_s": math.inf},
    ):
        with pytest.raises(QueryError):
            choose_settings(UNKNOWN, has_offsets=True, **wrong)


def test_sample_frames_move_and_are_always_the_same() -> None:
    frames = sample_frames(5, 32)
    assert frames.shape == (5, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, sample_frames(5, 32))
    assert all(np.any(a != b) for a, b in itertools.pairwise(frames))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.pth"], 10, "cannot read nowhere.pth"),
        ([str(MOMENT)], 50, "name it with --clip"),
        ([str(MOMENT), "--recipe", "imagenet"], 2, "no recipe 'imagenet'"),
        ([str(MOMENT), "--fps", "fast"], 2, "'fast' is no rate"),
        ([str(MOMENT), "--clip", "clip.pt"], 65, "clip.pt is no file"),
        ([], 2, "Missing argument"),
    ],
)
def test_command_ends_in_one_line_and_a_code(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = ["--output", str(tmp_path / "bundle"), "--quiet"]
    assert main([*arguments, *output]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_script_runs_from_anywhere_with_this_checkouts_packages(tmp_path: Path) -> None:
    """A package `training` elsewhere on the path is not the one that is imported."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    script = CHECKOUT / "export" / "to_onnx.py"
    done = subprocess.run(
        [sys.executable, str(script), "nowhere.pth"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 10, done.stderr
    assert done.stderr.strip().splitlines() == [
        "Error: cannot read nowhere.pth: No such file or directory"
    ]


def test_a_package_that_only_shares_the_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(CHECKOUT)!r}]\n"
        "from export._checkout import require_checkout\n"
        "require_checkout('export', 'r2rt')\n"
        "require_checkout('training')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: `import training` finds {tmp_path}")
    assert f"expected {CHECKOUT / 'training'}" in done.stderr


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/mine/best.pth", "mine"),
        ("runs/mine/last.pth", "mine"),
        ("runs/my run!/best.pth", "my-run"),
        ("models/dogs.pth", "dogs"),
        ("models/r2_tuning_dogs-0123abcd.pth", "r2_tuning_dogs"),
    ],
)
def test_a_bundle_is_named_by_its_run(path: str, expected: str) -> None:
    assert default_name(Path(path), "0" * 64) == expected
