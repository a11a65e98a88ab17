"""Engines of made-up plans: put into bundles, read back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from export import engines
from export.engine_checks import TOLERANCES
from export.engines import build_engines, default_ranges
from export.errors import ExportError, VerificationError
from export.trt_builder import (
    EngineBuildError,
    plan_kernels,
)
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
from r2rt.model.contract import GROUNDER, VIDEO_ENCODER, VIDEO_FINALIZER
from r2rt.model.manifest import FileEntry
from tests.conftest import CHECKOUT
from tests.export.engine_bundle import (
    FOLDER,
    VERSION,
    fake_build,
    fake_plan,
    listing,
    rtx,
)

pytestmark = pytest.mark.slow


class TestPlacing:
    def test_engines_are_listed_and_change_no_answer(self, bundle: Bundle, faked: Bundle) -> None:
        assert engine_folders(faked) == (FOLDER,)
        assert faked.fingerprint == bundle.fingerprint
        faked.verify_hashes()
        assert {x.name for x in (faked.path / FOLDER).iterdir()} == {
            "engine.json",
            *(f"{graph}.plan" for graph in faked.graphs),
        }
        manifest = read_engine(faked, FOLDER)
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
        assert engine_folders(again) == ("engines/rtx-8.9-fp16", FOLDER)
        assert read_engine(again, FOLDER).plans[VIDEO_ENCODER].ranges == ranges
        assert again.fingerprint == faked.fingerprint

    def test_the_finalizer_takes_the_runs_that_any_window_is_cut_into(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built: dict[str, Range] = {}

        def build(*arguments: Any, **_: Any) -> bytes:
            spec, ranges = arguments[2], arguments[4]
            if "T" in ranges:
                built[spec.name] = ranges["T"]
            return fake_plan(0, 0)

        monkeypatch.setattr(engines, "build_plan", build)
        shutil.copytree(CHECKOUT / "demo" / "random-tiny", tmp_path, dirs_exist_ok=True)
        clips = Range(least=20, usual=30, most=90)
        (engine,) = build_engines(
            Bundle.open(tmp_path), rtx(), ranges={"T": clips}, allow_unfused=True
        )
        runs = Range(least=1, usual=64, most=90)
        assert built == {VIDEO_FINALIZER: runs, GROUNDER: clips}
        assert {name: engine.manifest.plans[name].ranges["T"] for name in built} == built

    def test_a_failed_build_leaves_nothing_behind(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: Any, **options: Any) -> bytes:
            if arguments[2].name == GROUNDER:
                raise EngineBuildError("no")
            return fake_build(*arguments, **options)

        monkeypatch.setattr(engines, "build_plan", fail)
        before = listing(bundle.path)
        with pytest.raises(EngineBuildError, match="no"):
            build_engines(bundle, rtx())
        assert listing(bundle.path) == before

    def test_a_failed_build_leaves_the_engine_that_was_there(
        self, faked: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "build_plan", _interrupted)
        before = listing(faked.path)
        with pytest.raises(KeyboardInterrupt):
            build_engines(faked, rtx())
        assert listing(faked.path) == before

    def test_attention_that_did_not_fuse_is_refused(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "build_plan", lambda *_, **__: fake_plan(2, 1))
        with pytest.raises(EngineBuildError, match="video_encoder has 2 fused attention kernels"):
            build_engines(bundle, rtx())
        reported: list[str] = []
        build_engines(bundle, rtx(), allow_unfused=True, say=reported.append)
        assert any("expected 5, 0 and 0" in line for line in reported)

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

    def test_graphs_beyond_2_gb_become_no_engines(self) -> None:
        demo = Bundle.open(CHECKOUT / "demo" / "random-tiny")
        data = {"video_encoder.onnx.data": FileEntry(size=3 << 30, sha256="0" * 64)}
        manifest = msgspec.structs.replace(demo.manifest, files={**demo.manifest.files, **data})
        with pytest.raises(
            ExportError, match=r"encoder\.onnx\.data: engines are made of graphs of"
        ):
            build_engines(Bundle(demo.path, manifest), rtx())

    def test_only_fp32_bundles_become_engines(self, bundle: Bundle) -> None:
        bundle.manifest = msgspec.structs.replace(bundle.manifest, precision="int8")
        with pytest.raises(ExportError, match="computes in int8; engines are made of fp32"):
            build_engines(bundle, rtx())

    def test_clips_are_tuned_for_the_window(self, bundle: Bundle) -> None:
        assert default_ranges(bundle)["T"] == Range(least=1, usual=75, most=256)

    def test_models_without_a_window_take_videos_of_half_an_hour(self) -> None:
        """All published ones but QVHighlights' see a whole video at once."""
        demo = Bundle.open(CHECKOUT / "demo" / "random-tiny")
        manifest = msgspec.structs.replace(demo.manifest, window_s=None)
        clips = default_ranges(Bundle(demo.path, manifest))["T"]
        assert clips == Range(least=1, usual=75, most=1024)
        assert clips.most >= 30 * 60 / 2  # at a clip every two seconds


class TestReading:
    def test_an_engine_of_this_machine_is_found_others_are_refused(self, faked: Bundle) -> None:
        found = find_engine(faked, flavour="rtx", version=VERSION, capability="8.9")
        assert found.folder == FOLDER
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
        manifest = read_engine(faked, FOLDER)
        plan = read_plan(faked, manifest, VIDEO_ENCODER)
        assert plan == fake_plan(3, 0)
        path = faked.path / FOLDER / f"{VIDEO_ENCODER}.plan"
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
        path = faked.path / FOLDER / "engine.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, field: value}))
        with pytest.raises(BundleDamagedError, match=problem):
            read_engine(faked, FOLDER)

    def test_an_engine_of_other_graphs_is_refused(self, faked: Bundle) -> None:
        path = faked.path / FOLDER / "engine.json"
        content = json.loads(path.read_text())
        content["plans"][GROUNDER]["source_sha256"] = "0" * 64
        path.write_text(json.dumps(content))
        with pytest.raises(BundleDamagedError, match=r"built of another grounder\.onnx"):
            read_engine(faked, FOLDER)


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


def _interrupted(*_: Any, **__: Any) -> bytes:
    raise KeyboardInterrupt
