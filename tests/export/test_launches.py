"""Graphs as launches of kernels, run over the stub driver: the kernels by Triton's interpreter.

A launch reaches a kernel as the driver would pass it on: by the order and types of the record
beside the cubin, at addresses in the stub's memory. So whatever is at the wrong place shows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export import engines, trt_builder
from export.engine_checks import TOLERANCES, Sample, _compared, open_graph
from export.exporter import Exported
from export.placing import _relist
from export.to_trt import main
from kernels.splitting import PARTS_EXPRESSION, step_parts
from r2rt.engines.onnx_runtime import OnnxRuntimeEngine
from r2rt.engines.tensorrt.cubins import Launch, extent, read_cubins, read_sequence
from r2rt.engines.tensorrt.cuda import Gpu
from r2rt.engines.tensorrt.engine import TensorRTEngine
from r2rt.engines.tensorrt.plans import GROUNDER_HEADS, read_engine
from r2rt.model.bundle import Bundle, file_entry
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, VIDEO_FINALIZER, query_inputs
from r2rt.model.manifest import Check
from tests.export.engine_bundle import rtx
from tests.export.tiny import HIGHLIGHT, MOMENT, endpoints
from tests.kernels.interpreted import interpreted, uncompiled
from tests.r2rt.engines.tensorrt.fake_tensorrt import FakeRuntime, plan_bytes
from tests.r2rt.engines.tensorrt.stub_driver import StubDriver
from tests.unmerged import unmerged

pytestmark = pytest.mark.slow

triton = pytest.importorskip("triton", reason="the kernels need triton: pip install triton")
if not isinstance(triton.language.zeros, triton.runtime.interpreter.InterpretedFunction):
    pytest.skip(
        "triton was imported without its interpreter before tests/conftest.py: TRITON_INTERPRET=1 "
        "in the environment of pytest chooses it for certain",
        allow_module_level=True,
    )

_FOLDER = "kernels/sm_89"
_ENGINES = "engines/rtx-8.9-fp16"
_CLIPS = 4


class Built:
    """A bundle with kernels and engines of which only the descriptions are real."""

    def __init__(self, path: Path, graphs: Mapping[str, bytes]) -> None:
        self.bundle = Bundle.open(path)
        self.low = {name: open_graph(onnx.load_from_string(text)) for name, text in graphs.items()}
        self.calls: list[str] = []
        self.cases: dict[str, tuple[dict[str, Any], Any]] = {}

    def run(self, graph: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stand for the engine of a graph."""
        self.calls.append(graph)
        return self.low[graph](inputs)


@pytest.fixture(scope="module")
def patched() -> Iterator[dict[str, bytes]]:
    """Builder and compiler replaced by what needs neither; the graphs that are built, by name."""
    from kernels import aot, budgets

    graphs: dict[str, bytes] = {}

    def build_plan(_flavour: Any, text: bytes, spec: Any, *_: Any, **__: Any) -> bytes:
        graphs[spec.name] = text
        return plan_bytes(spec.name, mask=8)

    none = {"attention": 0, "softmax": 0, "products": 0, "int8_products": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "build_plan", build_plan)
        patch.setattr(engines, "check_sample", small_sample)
        patch.setattr(engines, "plan_kernels", lambda _: none)
        patch.setattr(trt_builder, "choose_flavour", lambda *_: rtx("8.9"))
        patch.setattr(aot, "compile_variant", uncompiled)
        patch.setattr(budgets, "broken_limits", lambda *_, **__: [])
        yield graphs


def small_sample(bundle: Bundle, _frames: None) -> Sample:
    """What the engines' graphs are compared on; the towers know 300 tokens alone."""
    size = bundle.dims.image_size
    return Sample(
        frames=np.random.default_rng(1).integers(0, 256, (4, size, size, 3), dtype=np.uint8),
        token_ids=np.random.default_rng(2).integers(0, 300, (2, 9)),
        query_mask=np.ones((2, 9), np.float32),
    )


def built(source: Exported, checkpoint: Path, folder: Path, graphs: dict[str, bytes]) -> Built:
    shutil.copytree(source.path, folder)
    options = ["--kernels", "--checkpoint", str(checkpoint), "--allow-unfused", "--quiet"]
    assert main([str(folder), *options]) == 0
    return Built(folder, graphs)


@pytest.fixture(scope="module")
def moment(
    moment_bundle: Exported, patched: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Built:
    return built(moment_bundle, MOMENT, tmp_path_factory.mktemp("moment") / "b", patched)


@contextmanager
def opened(of: Built) -> Iterator[tuple[TensorRTEngine, StubDriver]]:
    cubins = read_cubins(of.bundle, "sm_89")
    kernels = {x.record.entry: interpreted(x.record) for x in cubins.values()}
    driver = StubDriver(kernels=kernels, capability=(8, 9))
    runtime = FakeRuntime(driver, of.bundle, cpu=of)
    engine = TensorRTEngine(of.bundle, "rtx", gpu=Gpu(driver), runtime=runtime)
    try:
        yield engine, driver
    finally:
        engine.close()
    assert (driver.leaks(), driver.faults) == ([], [])


def answers(of: Built, graph: str, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    with opened(of) as (engine, _):
        return engine.run(graph, inputs)


def cases(bundle: Bundle) -> dict[str, tuple[dict[str, Any], Any]]:
    """Inputs of the graphs behind the encoders, and what ONNX Runtime makes of them in fp32.

    They come of random frames and of two queries, one padded.
    """
    cpu = OnnxRuntimeEngine(bundle, threads=1)
    size = bundle.dims.image_size
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (_CLIPS, size, size, 3), dtype=np.uint8)
    mask = np.ones((2, 9), np.float32)
    mask[1, 6:] = 0
    queries: dict[str, Any] = {"token_ids": random.integers(0, 300, (2, 9)), "query_mask": mask}
    tokens = cpu.run(VIDEO_ENCODER, {"frames": frames})["tokens"]
    found: dict[str, dict[str, Any]] = {}
    v = tokens
    if VIDEO_FINALIZER in bundle.graphs:
        found[VIDEO_FINALIZER] = {"tokens": tokens, "endpoints": endpoints(_CLIPS)}
        v = cpu.run(VIDEO_FINALIZER, found[VIDEO_FINALIZER])["v"]
    found[GROUNDER] = {"v": v, "query_mask": mask, **query_inputs(cpu.run(TEXT_ENCODER, queries))}
    bias = {GROUNDER: unmerged(v)}
    return {
        graph: (inputs, cpu.run(graph, inputs | bias.get(graph, {})))
        for graph, inputs in found.items()
    }


def compared(of: Built, graph: str) -> list[Check]:
    """Compare with ONNX Runtime's fp32 graph, in units of the fp16 tolerance."""
    of.cases = of.cases or cases(of.bundle)
    inputs, want = of.cases[graph]
    return _compared(answers(of, graph, inputs), want, of.bundle.dims, graph, TOLERANCES["fp16"])


@pytest.mark.parametrize("graph", [VIDEO_FINALIZER, GROUNDER])
def test_launches_answer_as_the_graph_does(moment: Built, graph: str) -> None:
    moment.calls.clear()
    checks = compared(moment, graph)
    assert all(check.passed for check in checks), checks
    assert len(checks) == len(moment.bundle.graphs[graph].outputs)
    assert moment.calls == ([GROUNDER_HEADS] if graph == GROUNDER else [])


def test_a_model_without_endpoints_and_offsets_is_launched(
    highlight_bundle: Exported, patched: dict[str, bytes], tmp_path: Path
) -> None:
    highlight = built(highlight_bundle, HIGHLIGHT, tmp_path / "b", patched)
    assert VIDEO_FINALIZER not in highlight.bundle.graphs
    assert not (highlight.bundle.path / _FOLDER / "video_finalizer.launches.json").exists()
    checks = compared(highlight, GROUNDER)
    assert all(check.passed for check in checks), checks
    assert highlight.calls == [GROUNDER_HEADS]


def swap_in_launches(*names: str) -> Callable[[Any], None]:
    def change(sequence: Any) -> None:
        swapped = 0
        for step in sequence["steps"]:
            given = step.get("arguments", {})
            if set(names) <= given.keys():
                given[names[0]], given[names[1]] = given[names[1]], given[names[0]]
                swapped += 1
        assert swapped

    return change


def swap_in_record(*names: str) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        order = record["arguments"]
        first, second = (next(a for a in order if a["name"] == name) for name in names)
        first["name"], second["name"] = second["name"], first["name"]

    return change


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("grounder.launches.json", swap_in_launches("q_ptr", "key_ptr")),
        ("grounder.launches.json", swap_in_launches("mixed_ptr", "pooled_ptr")),
        ("grounder.launches.json", swap_in_launches("norm_weight_ptr", "last_norm_weight_ptr")),
        ("frame_step-next-fp16.json", swap_in_record("keys_ptr", "values_ptr")),
        ("time_step-fp16.json", swap_in_record("out_bias_ptr", "back_bias_ptr")),
    ],
)
@pytest.mark.filterwarnings("ignore:All-NaN slice")  # memory that was never written is read
def test_swapped_arguments_show(
    moment: Built, tmp_path: Path, file: str, change: Callable[[Any], None]
) -> None:
    folder = shutil.copytree(moment.bundle.path, tmp_path / "b")
    content = json.loads((folder / _FOLDER / file).read_bytes())
    change(content)
    (folder / _FOLDER / file).write_text(json.dumps(content))
    names = {f"{_FOLDER}/{x.name}": file_entry(x) for x in (folder / _FOLDER).iterdir()}
    _relist(folder, f"{_FOLDER}/", names)
    wrong = Built(folder, {})
    moment.cases = moment.cases or cases(moment.bundle)
    wrong.low, wrong.cases = moment.low, moment.cases
    checks = compared(wrong, GROUNDER)
    assert max(check.error for check in checks) > 3, checks


@pytest.mark.slow
def test_kernels_are_listed_and_change_no_answer(
    moment: Built, moment_bundle: Exported, patched: dict[str, bytes], tmp_path: Path
) -> None:
    bundle = moment.bundle
    bundle.verify_hashes()
    assert bundle.fingerprint == Bundle.open(moment_bundle.path).fingerprint
    names = {x.name for x in (bundle.path / _FOLDER).iterdir()}
    assert {"grounder.launches.json", "video_finalizer.launches.json"} <= names
    sequence = read_sequence(bundle, "sm_89", GROUNDER)
    assert sequence is not None
    launched = [step.cubin for step in sequence.steps if isinstance(step, Launch)]
    layers = bundle.dims.layers
    assert launched.count("cast-fp16") == 3
    assert len(launched) == 3 + 3 + 3 * layers
    resident = read_sequence(bundle, "sm_89", GROUNDER, resident=True)
    assert resident is not None
    assert len(resident.steps) == len(sequence.steps) - 1  # v is not cast
    again = built(moment_bundle, MOMENT, tmp_path / "again", patched)
    for name in names:
        path = f"{_FOLDER}/{name}"
        assert (again.bundle.path / path).read_bytes() == (bundle.path / path).read_bytes()
    plan = read_engine(bundle, _ENGINES).plans[GROUNDER_HEADS]
    assert all(check.passed for check in plan.checks)
    assert plan.ranges.keys() == {"N", "T"}


def test_without_its_engine_a_sequence_is_left_to_the_graph(
    moment: Built, tmp_path: Path, patched: dict[str, bytes]
) -> None:
    folder = shutil.copytree(moment.bundle.path, tmp_path / "b")
    assert main([str(folder), "--allow-unfused", "--quiet"]) == 0
    anew = Built(folder, patched)
    checks = compared(anew, GROUNDER)
    assert all(check.passed for check in checks), checks
    assert anew.calls == [GROUNDER]


def test_grids_are_those_of_the_kernels_own_launches(moment: Built) -> None:
    sequence = read_sequence(moment.bundle, "sm_89", GROUNDER)
    assert sequence is not None
    layers = moment.bundle.dims.layers
    for clips in (1, 16, 17, 75, 1000):
        for queries in (1, 3):
            symbols = {"T": clips, "N": queries, "L": 7, "MULTIPROCESSORS": 132}
            parts = step_parts(clips=clips, queries=queries, multiprocessors=132)
            heads = moment.bundle.manifest.heads
            grids = {
                step.cubin: [extent(size, symbols) for size in step.grid]
                for step in sequence.steps
                if isinstance(step, Launch)
            }
            assert grids["layer_pool-fp16"] == [queries, clips, layers]
            assert grids["query_maps-fp16"] == [queries, layers, heads]
            assert grids["frame_step-next-fp16"] == [queries, -(-clips // 16), parts]
            assert grids["time_attention-fp16"] == [queries, -(-clips // 32), heads]
            assert grids["time_step-fp16"] == [queries, -(-clips // 16), parts]
            assert grids["settle-fp16"] == [queries, -(-clips // 8), 1]
            assert extent(PARTS_EXPRESSION, symbols) == parts


@pytest.mark.slow
def test_v_that_stays_on_the_gpu_is_rounded_once(moment: Built) -> None:
    """The finalizer writes fp16, the grounder reads it: the answers are those of fp32's way."""
    moment.cases = moment.cases or cases(moment.bundle)
    inputs, want = moment.cases[GROUNDER]
    tokens, _ = moment.cases[VIDEO_FINALIZER]
    with opened(moment) as (engine, driver):
        v = engine.empty(inputs["v"].shape)
        assert v.dtype == np.float16
        engine.run(VIDEO_FINALIZER, tokens, {"v": v})
        before = len(driver.ran)
        got = [engine.run(GROUNDER, {**inputs, "v": v}) for _ in range(3)]
        assert sum(name == "cast-fp16" for name in driver.ran[before:]) == 2 * 3  # q and q_key
    for answer in got:
        checks = _compared(answer, want, moment.bundle.dims, GROUNDER, TOLERANCES["fp16"])
        assert all(check.passed for check in checks), checks


def test_another_checkpoint_is_refused(
    moment_bundle: Exported,
    patched: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = str(shutil.copytree(moment_bundle.path, tmp_path / "b"))
    before = (tmp_path / "b" / "bundle.json").read_bytes()
    assert main([folder, "--kernels", "--checkpoint", str(HIGHLIGHT), "--quiet"]) == 50
    assert "name that one" in capsys.readouterr().err
    assert main([folder, "--kernels", "--quiet"]) == 2
    assert main([folder, "--checkpoint", str(MOMENT), "--quiet"]) == 2
    assert (tmp_path / "b" / "bundle.json").read_bytes() == before
    assert msgspec.json.decode(before)["files"].keys() == {
        x.name for x in (tmp_path / "b").iterdir() if x.name != "bundle.json"
    }
