"""Engines: chosen, built by TensorRT-RTX where it is installed, put into bundles, read back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from export import engines, to_trt
from export._checkout import CHECKOUT
from export.engine_checks import TOLERANCES
from export.engines import build_engines, default_ranges
from export.errors import ExportError, VerificationError
from export.exporter import export_bundle
from export.to_trt import main
from export.trt_builder import (
    EngineBuildError,
    Flavour,
    TargetError,
    build_plan,
    choose_flavour,
    plan_kernels,
)
from r2rt.engines import gpu
from r2rt.engines.tensorrt.plans import (
    Range,
    engine_folders,
    find_engine,
    header_problem,
    read_engine,
    read_plan,
    refusal,
)
from r2rt.errors import BackendUnavailableError, BundleDamagedError, HashMismatchError
from r2rt.model.bundle import Bundle
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, graph_specs
from tests.export.engine_bundle import (
    FUSED,
    INT8_PRODUCTS,
    VERSION,
    fake_build,
    fake_plan,
    rtx,
    save_checkpoint,
    towers,
)

_FOLDER = "engines/rtx-portable-fp16"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    checkpoint = save_checkpoint(folder / "model.pth")
    export_bundle(checkpoint, folder / "bundle", clip=towers(), recipe="qvhighlights", name="small")
    return folder / "bundle"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture
def faked(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle into which engines of made-up plans were put."""
    monkeypatch.setattr(engines, "build_plan", fake_build)
    build_engines(bundle, rtx())
    return Bundle.open(bundle.path)


@pytest.fixture(scope="module")
def builder() -> Flavour:
    pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'r2rt[rtx]'"
    )
    return choose_flavour("rtx", ["portable"], gpu=lambda: None)


class TestChoice:
    def test_without_a_gpu_portable_engines_by_rtx(self) -> None:
        chosen = choose_flavour(gpu=lambda: None, load=_modules("tensorrt_rtx", "tensorrt"))
        assert (chosen.name, chosen.targets) == ("rtx", ("portable",))
        assert chosen.capabilities("portable") == ("8.0", "8.6", "8.9", "12.0", "12.1")
        assert "no GPU" in chosen.reason

    def test_tensorrt_builds_for_the_gpu_that_is_there(self) -> None:
        chosen = choose_flavour(gpu=lambda: "9.0", load=_modules("tensorrt"))
        assert (chosen.name, chosen.targets) == ("tensorrt", ("9.0",))

    def test_a_gpu_without_tensorrt_gets_its_rtx_engine(self) -> None:
        chosen = choose_flavour(gpu=lambda: "8.9", load=_modules("tensorrt_rtx"))
        assert (chosen.name, chosen.targets) == ("rtx", ("8.9",))
        assert "tensorrt is not installed" in chosen.reason

    def test_targets_beside_the_gpu_s_go_to_rtx(self) -> None:
        chosen = choose_flavour(
            "auto", ["8.6", "8.9", "8.6"], gpu=lambda: "8.9", load=_modules("tensorrt_rtx")
        )
        assert (chosen.name, chosen.targets) == ("rtx", ("8.6", "8.9"))

    @pytest.mark.parametrize("target", ["9.0", "10.0", "6.1"])
    @pytest.mark.parametrize("name", ["auto", "rtx"])
    def test_hopper_and_blackwell_are_not_rtx_s(self, name: Any, target: str) -> None:
        with pytest.raises(TargetError, match=r"TensorRT-RTX serves 7\.5, 8\.0.*TensorRT proper"):
            choose_flavour(name, [target], gpu=lambda: None, load=_modules("tensorrt_rtx"))

    def test_tensorrt_without_a_gpu_or_for_another_cannot_be_had(self) -> None:
        load = _modules("tensorrt")
        with pytest.raises(BackendUnavailableError, match="this machine has none"):
            choose_flavour("tensorrt", gpu=lambda: None, load=load)
        with pytest.raises(TargetError, match=r"this machine's GPU \(9\.0\) alone, not for 10\.0"):
            choose_flavour("tensorrt", ["10.0"], gpu=lambda: "9.0", load=load)

    def test_a_missing_package_is_named(self) -> None:
        with pytest.raises(BackendUnavailableError, match=r"pip install 'r2rt\[rtx\]'"):
            choose_flavour("rtx", gpu=lambda: None, load=_modules())

    def test_nonsense_is_no_target(self) -> None:
        with pytest.raises(TargetError, match="no target 'sm_89'"):
            choose_flavour("rtx", ["sm_89"], gpu=lambda: None, load=_modules("tensorrt_rtx"))


class TestPlacing:
    def test_engines_are_listed_and_change_no_answer(self, bundle: Bundle, faked: Bundle) -> None:
        assert engine_folders(faked) == (_FOLDER,)
        assert faked.fingerprint == bundle.fingerprint
        faked.verify_hashes()
        assert {x.name for x in (faked.path / _FOLDER).iterdir()} == {
            "engine.json",
            *(f"{graph}.plan" for graph in faked.graphs),
        }
        manifest = read_engine(faked, _FOLDER)
        assert manifest.capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
        assert manifest.plans[VIDEO_ENCODER].ranges == {"B": Range(least=1, usual=8, most=64)}
        assert manifest.plans[VIDEO_ENCODER].kernels["attention"] == 3
        names = {check.name for check in manifest.plans[GROUNDER].checks}
        assert {"bundle saliency", "grounder, outliers offsets"} <= names

    def test_a_second_build_replaces_and_another_target_stands_beside(
        self, faked: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "build_plan", fake_build)
        ranges = {"B": Range(least=1, usual=2, most=4)}
        build_engines(faked, rtx("portable", "8.9"), ranges=ranges)
        again = Bundle.open(faked.path)
        again.verify_hashes()
        assert engine_folders(again) == ("engines/rtx-8.9-fp16", _FOLDER)
        assert read_engine(again, _FOLDER).plans[VIDEO_ENCODER].ranges == ranges
        assert again.fingerprint == faked.fingerprint

    def test_a_failed_build_leaves_nothing_behind(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: Any, **options: Any) -> bytes:
            if arguments[2].name == GROUNDER:
                raise EngineBuildError("no")
            return fake_build(*arguments, **options)

        monkeypatch.setattr(engines, "build_plan", fail)
        before = _listing(bundle.path)
        with pytest.raises(EngineBuildError, match="no"):
            build_engines(bundle, rtx())
        assert _listing(bundle.path) == before

    def test_a_failed_build_leaves_the_engine_that_was_there(
        self, faked: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "build_plan", _interrupted)
        before = _listing(faked.path)
        with pytest.raises(KeyboardInterrupt):
            build_engines(faked, rtx())
        assert _listing(faked.path) == before

    def test_attention_that_did_not_fuse_is_refused(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "build_plan", lambda *_, **__: fake_plan(2, 1))
        with pytest.raises(EngineBuildError, match="video_encoder has 2 fused attention kernels"):
            build_engines(bundle, rtx())
        told: list[str] = []
        build_engines(bundle, rtx(), allow_unfused=True, say=told.append)
        assert any("expected 5, 0 and 0" in line for line in told)

    def test_int8_that_is_not_int8_is_refused(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "build_plan", fake_build)
        with pytest.raises(EngineBuildError, match="and 0 int8 products, expected 3, 0 and 12"):
            build_engines(bundle, rtx(), precision="int8")

    def test_numbers_beyond_tolerance_build_nothing(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        strict = replace(TOLERANCES["fp16"], rms=1e-6)
        monkeypatch.setitem(TOLERANCES, "fp16", strict)
        with pytest.raises(VerificationError, match="no engine was built"):
            build_engines(bundle, rtx())
        assert not (bundle.path / "engines").exists()

    def test_only_fp32_bundles_become_engines(self, bundle: Bundle) -> None:
        bundle.manifest = msgspec.structs.replace(bundle.manifest, precision="int8")
        with pytest.raises(ExportError, match="computes in int8; engines are made of fp32"):
            build_engines(bundle, rtx())

    def test_clips_are_tuned_for_the_window(self, bundle: Bundle) -> None:
        assert default_ranges(bundle)["T"] == Range(least=1, usual=75, most=256)


class TestReading:
    def test_an_engine_of_this_machine_is_found_others_are_refused(self, faked: Bundle) -> None:
        found = find_engine(faked, flavour="rtx", version=VERSION, capability="8.9")
        assert found.folder == _FOLDER
        for change, why in (
            ({"version": "1.8.0.1"}, "was built by rtx 1.7.1.116, here is 1.8.0.1"),
            ({"capability": "9.0"}, "this GPU has 9.0"),
            ({"flavour": "tensorrt"}, "is for rtx, not tensorrt"),
            ({"precision": "int8"}, "computes in fp16, not int8"),
        ):
            wanted: dict[str, Any] = {"flavour": "rtx", "version": VERSION, "capability": "8.9"}
            with pytest.raises(BackendUnavailableError, match=why):
                find_engine(faked, **{**wanted, **change})

    def test_a_bundle_without_engines_says_how_to_build_one(self, bundle: Bundle) -> None:
        with pytest.raises(BackendUnavailableError, match=r"has none; build one: python export/to"):
            find_engine(bundle, flavour="rtx", version=VERSION, capability="8.9")

    def test_the_engine_for_this_gpu_alone_goes_before_the_portable_one(
        self, faked: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "build_plan", fake_build)
        build_engines(faked, rtx("8.9"))
        bundle = Bundle.open(faked.path)
        found = find_engine(bundle, flavour="rtx", version=VERSION, capability="8.9")
        assert found.target == "8.9"
        assert refusal(found, flavour="rtx", version=VERSION, capability="8.6") is not None

    def test_a_plan_is_given_whole_or_not_at_all(self, faked: Bundle) -> None:
        manifest = read_engine(faked, _FOLDER)
        plan = read_plan(faked, manifest, VIDEO_ENCODER)
        assert plan == fake_plan(3, 0)
        path = faked.path / _FOLDER / f"{VIDEO_ENCODER}.plan"
        path.write_bytes(plan[:-1] + b"!")
        with pytest.raises(BundleDamagedError, match="not what its manifest promises"):
            read_plan(faked, manifest, VIDEO_ENCODER)
        with pytest.raises(HashMismatchError):
            Bundle.open(faked.path)

    @pytest.mark.parametrize(
        ("plan", "problem"),
        [
            (b"vtrt", "only 4 bytes"),
            (b"ftrt" + fake_plan(1, 0)[4:], "begins with b'ftrt'"),
            (fake_plan(1, 0) + b"\0", "its header says"),
            (fake_plan(1, 0, version="1.6.1.120"), "built by 1.6.1.120, expected 1.7.1.116"),
            (fake_plan(1, 0, mask=0x08), "built for GPUs 0x8, expected 0x3e"),
            (fake_plan(1, 0), None),
        ],
    )
    def test_headers_that_contradict_the_manifest(self, plan: bytes, problem: str | None) -> None:
        portable = ("8.0", "8.6", "8.9", "12.0", "12.1")
        found = header_problem(plan, version=VERSION, capabilities=portable)
        assert found is None if problem is None else problem in (found or "")

    @pytest.mark.parametrize(
        ("field", "value", "problem"),
        [
            ("schema", 2, "schema 2"),
            ("target", "8.9", "its manifest is of engines/rtx-8.9-fp16"),
            ("plans", {}, "expected video_encoder"),
            ("extra", 1, "unknown field"),
        ],
    )
    def test_malformed_manifests_are_refused(
        self, faked: Bundle, field: str, value: object, problem: str
    ) -> None:
        path = faked.path / _FOLDER / "engine.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, field: value}))
        with pytest.raises(BundleDamagedError, match=problem):
            read_engine(faked, _FOLDER)

    def test_an_engine_of_other_graphs_is_refused(self, faked: Bundle) -> None:
        path = faked.path / _FOLDER / "engine.json"
        content = json.loads(path.read_text())
        content["plans"][GROUNDER]["source_sha256"] = "0" * 64
        path.write_text(json.dumps(content))
        with pytest.raises(BundleDamagedError, match=r"built of another grounder\.onnx"):
            read_engine(faked, _FOLDER)


class TestDescription:
    def test_kernels_are_counted_by_kind(self) -> None:
        assert plan_kernels(fake_plan(3, 1, int8=2)) == {
            "attention": 3,
            "softmax": 1,
            "other": 1,
            "products": 2,
            "int8_products": 2,
        }
        assert set(plan_kernels(b"").values()) == {0}


class TestBuilding:
    def test_fp16_engines_fuse_all_attention_and_are_the_same_twice(
        self, bundle: Bundle, builder: Flavour
    ) -> None:
        (first,) = build_engines(bundle, builder)
        files = _listing(first.path)
        (second,) = build_engines(Bundle.open(bundle.path), builder)
        assert _listing(second.path) == files
        opened = Bundle.open(bundle.path)
        assert opened.fingerprint == bundle.fingerprint
        manifest = find_engine(opened, flavour="rtx", version=builder.version, capability="12.0")
        assert {name: x.kernels["attention"] for name, x in manifest.plans.items()} == FUSED
        for graph in opened.graphs:
            read_plan(opened, manifest, graph)  # real headers say what the manifest does
        assert manifest.plans[TEXT_ENCODER].kernels["softmax"] == 1

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


_FAKE_TENSORRT = """
import enum, os
__version__ = "11.4.0"
class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1
class ILogger:
    Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO")
class IProgressMonitor:
    pass
class OnnxParser:
    num_errors = 0
    def __init__(self, network, logger):
        self.logger = logger
    def parse(self, text):
        self.logger.log(ILogger.Severity.WARNING, "one   warning")
        if text == b"crash":
            os.abort()
        return True
class Cache:
    def __init__(self, known):
        self.known = known
    def serialize(self):
        return self.known + b"+1"
class Config:
    def add_optimization_profile(self, profile):
        self.profile = profile
    create_timing_cache = Cache
    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        if cache.known.startswith(b"another GPU"):
            return False
        self.cache = cache
        return True
    def get_timing_cache(self):
        return self.cache
class Profile(dict):
    def set_shape(self, name, *sizes):
        self[name] = sizes
class Builder:
    def __init__(self, logger):
        pass
    def create_network(self, flags):
        assert flags == 2
    create_builder_config = staticmethod(Config)
    create_optimization_profile = staticmethod(Profile)
    def build_serialized_network(self, network, config):
        config.progress_monitor.phase_start("Building", None, 2)
        config.progress_monitor.step_complete("Building", 0)
        return repr(sorted(config.profile.items())).encode()
"""


class TestTensorRtProper:
    """What differs from TensorRT-RTX, against a module that has the few calls used."""

    @pytest.fixture
    def proper(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flavour:
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "tensorrt.py").write_text(_FAKE_TENSORRT)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
        return choose_flavour("tensorrt", gpu=lambda: "9.0", load=_modules("tensorrt"))

    def test_the_timing_cache_grows_and_the_profile_is_the_ranges(
        self, bundle: Bundle, proper: Flavour, tmp_path: Path
    ) -> None:
        spec = bundle.engine_graphs["video_finalizer"]
        cache = tmp_path / "cache" / "timings"
        said: list[str] = []
        steps: list[str] = []
        for _ in range(2):
            plan = build_plan(
                proper,
                b"graph",
                spec,
                "9.0",
                {"T": Range(least=1, usual=7, most=9)},
                timing_cache=cache,
                say=said.append,
                step=steps.append,
            )
        assert cache.read_bytes() == b"+1+1"
        assert b"('endpoints', ([1, 2], [7, 2], [9, 2]))" in plan
        assert said == ["video_finalizer: one warning"] * 2
        assert steps == ["building video_finalizer: Building 1/2"] * 2

    def test_timings_of_another_gpu_are_not_taken(
        self, bundle: Bundle, proper: Flavour, tmp_path: Path
    ) -> None:
        spec, cache = bundle.engine_graphs["video_finalizer"], tmp_path / "timings"
        cache.write_bytes(b"another GPU")
        said: list[str] = []
        ranges = {"T": Range(least=1, usual=7, most=9)}
        build_plan(proper, b"graph", spec, "9.0", ranges, timing_cache=cache, say=said.append)
        assert cache.read_bytes() == b"+1"
        assert any("not a timing cache of this GPU" in line for line in said)

    def test_a_builder_without_the_flag_of_strong_types_has_no_other_kind(
        self, bundle: Bundle, proper: Flavour, tmp_path: Path
    ) -> None:
        """TensorRT 11: networks are always strongly typed."""
        path = tmp_path / "modules" / "tensorrt.py"
        text = path.read_text().replace("    STRONGLY_TYPED = 1\n", "    pass\n")
        path.write_text(text.replace("assert flags == 2", "assert flags == 0"))
        ranges = {"T": Range(least=1, usual=7, most=9)}
        assert build_plan(proper, b"graph", bundle.engine_graphs["video_finalizer"], "9.0", ranges)

    def test_timing_caches_are_named_by_the_gpu(
        self, proper: Flavour, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = []
        for name in ("NVIDIA L4", "NVIDIA GeForce RTX 4090"):
            info = gpu.GpuInfo(name=name, capability=(8, 9), cuda=(13, 0))
            monkeypatch.setattr(gpu, "find_gpu", lambda info=info: info)
            names.append(to_trt._timings_of(proper).name)
        assert names[0] != names[1]
        assert "NVIDIA-L4" in names[0]

    def test_a_builder_that_crashes_is_an_error(self, bundle: Bundle, proper: Flavour) -> None:
        spec = bundle.engine_graphs["video_finalizer"]
        with pytest.raises(EngineBuildError, match="it ended by signal 6"):
            build_plan(proper, b"crash", spec, "9.0", default_ranges(bundle))

    def test_kernels_that_it_names_otherwise_are_reported_not_refused(
        self, bundle: Bundle, proper: Flavour
    ) -> None:
        said: list[str] = []
        (built,) = build_engines(bundle, proper, say=said.append)
        assert built.manifest.folder == "engines/tensorrt-9.0-fp16"
        assert any(line.startswith("grounder has 0 fused attention") for line in said)
        plan = read_plan(Bundle.open(bundle.path), built.manifest, GROUNDER)
        assert plan.startswith(b"[('pooled'")


class TestCommand:
    def test_targets_that_cannot_be_had_exit_52_in_one_line(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        demo = str(CHECKOUT / "demo" / "random-tiny")
        assert main([demo, "--flavour", "rtx", "--target", "9.0"]) == 52
        error = capsys.readouterr().err
        assert error.startswith("Error: no engine for compute capability 9.0")
        assert error.count("\n") == 1

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
    @pytest.mark.shared("golden/full")
    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    def test_the_full_size_model(
        self, shared: Path, tmp_path: Path, builder: Flavour, precision: str
    ) -> None:
        output = tmp_path / "bundle"
        arguments = [str(shared / "moment.pth"), "--output", str(output)]
        arguments += ["--clip", "random:0", "--precision", precision, "--target", "portable"]
        arguments += ["--recipe", "qvhighlights", "--flavour", "rtx"]
        assert main(arguments) == 0
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


def _modules(*names: str) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        if name not in names:
            raise ImportError(name)
        return SimpleNamespace(__version__=VERSION, __name__=name)

    return load


def _interrupted(*_: Any, **__: Any) -> bytes:
    raise KeyboardInterrupt


def _listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    } | {str(path.relative_to(folder)): b"" for path in folder.rglob("*") if path.is_dir()}
