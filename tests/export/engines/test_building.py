"""Engines that TensorRT-RTX builds, and the command that has them built."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export import compile_kernels
from export._checkout import CHECKOUT
from export.engines import build_engines, default_ranges
from export.exporter import Exported
from export.to_trt import main
from export.trt_builder import (
    EngineBuildError,
    Flavour,
    build_plan,
)
from r2rt.engines.tensorrt.plans import (
    find_engine,
    header_problem,
    read_engine,
    read_plan,
)
from r2rt.model.bundle import Bundle
from r2rt.model.contract import TEXT_ENCODER, VIDEO_ENCODER, graph_specs
from tests.export.engine_bundle import (
    FUSED,
    INT8_PRODUCTS,
    listing,
    save_checkpoint,
)


class TestBuilding:
    @pytest.mark.slow
    def test_fp16_engines_fuse_all_attention_and_are_the_same_twice(
        self, bundle: Bundle, builder: Flavour
    ) -> None:
        (first,) = build_engines(bundle, builder)
        files = listing(first.path)
        (second,) = build_engines(Bundle.open(bundle.path), builder)
        assert listing(second.path) == files
        opened = Bundle.open(bundle.path)
        assert opened.fingerprint == bundle.fingerprint
        manifest = find_engine(opened, flavour="rtx", version=builder.version, capability="12.0")
        assert {name: x.kernels["attention"] for name, x in manifest.plans.items()} == FUSED
        for graph in opened.graphs:
            read_plan(opened, manifest, graph)  # real headers say what the manifest does
        assert manifest.plans[TEXT_ENCODER].kernels["softmax"] == 1

    @pytest.mark.slow
    def test_int8_engines_multiply_int8_and_fuse_attention(
        self, bundle: Bundle, builder: Flavour
    ) -> None:
        (engine,) = build_engines(bundle, replace(builder, targets=("8.9",)), precision="int8")
        kernels = {name: plan.kernels for name, plan in engine.manifest.plans.items()}
        assert {name: x["attention"] for name, x in kernels.items()} == FUSED
        assert {name: x["int8_products"] for name, x in kernels.items()} == INT8_PRODUCTS
        plan = read_plan(Bundle.open(bundle.path), engine.manifest, VIDEO_ENCODER)
        assert header_problem(plan, version=builder.version, capabilities=("8.9",)) is None

    def test_every_message_of_the_parser_is_reported(
        self, bundle: Bundle, builder: Flavour
    ) -> None:
        import onnx

        spec = graph_specs(bundle.dims)[VIDEO_ENCODER]
        model = onnx.load(bundle.file(f"{VIDEO_ENCODER}.onnx"))
        node = next(x for x in model.graph.node if x.op_type == "Softmax")
        node.domain, node.op_type = "elsewhere", "Unheard"
        model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
        with pytest.raises(EngineBuildError, match=r"could not build video_encoder.*Unheard"):
            build_plan(builder, model.SerializeToString(), spec, "portable", default_ranges(bundle))

    def test_bytes_that_are_no_graph_are_an_error(self, bundle: Bundle, builder: Flavour) -> None:
        spec = graph_specs(bundle.dims)[VIDEO_ENCODER]
        with pytest.raises(EngineBuildError, match="could not build video_encoder"):
            build_plan(builder, b"not onnx", spec, "portable", default_ranges(bundle))


class TestCommand:
    def test_targets_that_cannot_be_had_exit_52_in_one_line(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        demo = str(CHECKOUT / "demo" / "random-tiny")
        assert main([demo, "--flavour", "rtx", "--target", "9.0"]) == 52
        error = capsys.readouterr().err
        assert error.startswith("Error: no engine for compute capability 9.0")
        assert error.count("\n") == 1

    def test_kernels_without_triton_exit_30_before_anything_is_read(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "triton" else real(name)
        )
        assert compile_kernels.main([str(tmp_path)]) == 30
        (tmp_path / "model.pth").touch()
        assert main([str(tmp_path / "model.pth"), "--kernels"]) == 30
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert all(line.endswith("not installed; pip install triton") for line in lines)

    @pytest.mark.parametrize("sizes", ["8", "0:1:2", "3:2:1", "1:2:x"])
    def test_sizes_must_ascend(self, sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["somewhere", "--batch", sizes]) == 2
        assert "three ascending from 1" in capsys.readouterr().err

    @pytest.mark.usefixtures("builder")
    def test_no_such_model_is_reported(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["no-such-model", "--flavour", "rtx", "--quiet"]) == 20
        assert "no-such-model" in capsys.readouterr().err

    @pytest.mark.usefixtures("builder")
    def test_options_of_a_checkpoint_need_one(
        self, bundle: Bundle, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(bundle.path), "--clip", "random:1"]) == 2
        assert "--clip: only a checkpoint is converted" in capsys.readouterr().err

    @pytest.mark.slow
    @pytest.mark.usefixtures("builder")
    def test_a_checkpoint_becomes_a_bundle_with_engines(
        self,
        tmp_path: Path,
        exported: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        taken: dict[str, Any] = {}

        def export(checkpoint: str, output: Path, **options: Any) -> SimpleNamespace:
            taken.update(options, checkpoint=checkpoint)
            return SimpleNamespace(path=shutil.copytree(exported, output))

        monkeypatch.setattr("export.exporter.export_bundle", export)
        checkpoint = save_checkpoint(tmp_path / "model.pth")
        arguments = [str(checkpoint), "--output", str(tmp_path / "out"), "--fps", "1/2"]
        arguments += ["--clip", "random:0", "--unit", "2", "--target", "8.9", "--batch", "1:2:4"]
        assert main([*arguments, "--flavour", "rtx"]) == 0
        assert taken["checkpoint"] == str(checkpoint)
        assert (taken["clip"], str(taken["fps"]), taken["unit_s"]) == ("random:0", "1/2", 2.0)
        manifest = read_engine(Bundle.open(tmp_path / "out"), "engines/rtx-8.9-fp16")
        assert manifest.plans[VIDEO_ENCODER].ranges["B"].most == 4
        assert "video_finalizer" in capsys.readouterr().err

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    @pytest.mark.usefixtures("builder")
    def test_the_full_size_model(self, full_size: Exported, tmp_path: Path, precision: str) -> None:
        output = shutil.copytree(full_size.path, tmp_path / "bundle", copy_function=os.link)
        arguments = [str(output), "--precision", precision, "--target", "portable"]
        assert main([*arguments, "--flavour", "rtx"]) == 0
        manifest = read_engine(Bundle.open(output), f"engines/rtx-portable-{precision}")
        fused = {name: plan.kernels["attention"] for name, plan in manifest.plans.items()}
        assert fused == {
            "video_encoder": 12,
            "video_finalizer": 0,
            "text_encoder": 12,
            "grounder": 9,
        }
        sizes = {name: plan.file.size / 1e6 for name, plan in manifest.plans.items()}
        assert sizes["video_encoder"] < (120 if precision == "int8" else 190)
