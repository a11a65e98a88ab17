"""What differs from TensorRT-RTX, by a module with the few calls that are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import to_trt
from export.engines import build_engines, default_ranges
from export.trt_builder import (
    EngineBuildError,
    Flavour,
    build_plan,
    choose_flavour,
)
from r2rt.engines import gpu
from r2rt.engines.tensorrt.plans import (
    Range,
    read_plan,
)
from r2rt.model.bundle import Bundle
from r2rt.model.contract import GROUNDER
from tests.conftest import CHECKOUT
from tests.export.engine_bundle import (
    modules,
)

DEMO = CHECKOUT / "demo" / "random-tiny"

_FAKE_TENSORRT = """
import enum, os
__version__ = "11.4.0"
class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1
class BuilderFlag(enum.Enum):
    REQUIRE_USER_ALLOCATION = 1
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
    flags = ()
    def set_flag(self, flag):
        self.flags += (flag.name,)
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

# As much of Windows as the worker may notice, in a process that imports it before all else.
_WINDOWS = """
import ctypes, os, sys
sys.platform = "win32"
del os.sched_getaffinity, os.sched_setaffinity
def refuse(*_):
    raise TypeError("not on Windows")
os.execv = ctypes.CDLL = refuse
"""

_FAKE_RTX = f"""{_FAKE_TENSORRT}
class ComputeCapability(enum.Enum):
    SM89 = 89
Config.set_compute_capability = lambda *_: None
Builder.build_serialized_network = lambda *_: os.environ.get("SYSTEMROOT", "lost").encode()
"""


def test_rtx_builds_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text(_FAKE_RTX)
    (tmp_path / "sitecustomize.py").write_text(_WINDOWS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SYSTEMROOT", r"C:\Windows")
    rtx = choose_flavour("rtx", ["8.9"], gpu=lambda: None, load=modules("tensorrt_rtx"))
    spec = Bundle.open(DEMO).engine_graphs["video_finalizer"]
    ranges = {"T": Range(least=1, usual=7, most=9)}
    assert build_plan(rtx, b"graph", spec, "8.9", ranges) == rb"C:\Windows"


class TestTensorRtProper:
    """What differs from TensorRT-RTX, against a module that has the few calls used."""

    @pytest.fixture
    def proper(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flavour:
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "tensorrt.py").write_text(_FAKE_TENSORRT)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
        return choose_flavour("tensorrt", gpu=lambda: "9.0", load=modules("tensorrt"))

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

    def test_a_cache_that_cannot_be_written_costs_no_engine(
        self, proper: Flavour, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        said: list[str] = []
        plan = build_plan(
            proper,
            b"graph",
            Bundle.open(DEMO).engine_graphs["video_finalizer"],
            "9.0",
            {"T": Range(least=1, usual=7, most=9)},
            timing_cache=tmp_path / "file" / "timings",
            say=said.append,
        )
        assert b"endpoints" in plan
        assert "timings: what was measured is not kept (" in said[-1]

    def test_the_gpu_of_the_command_is_the_builder_s(
        self, proper: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of several GPUs, which one a number means depends on the order."""
        names = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES")
        for name, value in zip(names, ("PCI_BUS_ID", "1"), strict=True):
            monkeypatch.setenv(name, value)
        found = f"' '.join(os.environ.get(name, 'lost') for name in {names}).encode()"
        fake = _FAKE_TENSORRT.replace("repr(sorted(config.profile.items())).encode()", found)
        (tmp_path / "modules" / "tensorrt.py").write_text(fake)
        ranges = {"T": Range(least=1, usual=7, most=9)}
        spec = Bundle.open(DEMO).engine_graphs["video_finalizer"]
        assert build_plan(proper, b"graph", spec, "9.0", ranges) == b"PCI_BUS_ID 1"

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

    @pytest.mark.parametrize("known", [True, False])
    def test_engines_allocate_nothing_while_they_run_where_the_builder_can_see_to_it(
        self, proper: Flavour, tmp_path: Path, known: bool
    ) -> None:
        """What allocates cannot be captured in a CUDA graph."""
        fake = _FAKE_TENSORRT.replace("repr(sorted(config.profile.items()))", "repr(config.flags)")
        if not known:
            fake = fake.replace("REQUIRE_USER_ALLOCATION", "REFIT")
        (tmp_path / "modules" / "tensorrt.py").write_text(fake)
        ranges = {"T": Range(least=1, usual=7, most=9)}
        spec = Bundle.open(DEMO).engine_graphs["video_finalizer"]
        flags = build_plan(proper, b"graph", spec, "9.0", ranges)
        assert flags == (b"('REQUIRE_USER_ALLOCATION',)" if known else b"()")

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
