"""Check and time everything that runs on a GPU, for someone who has one.

    python benchmarks/gpu_selfcheck.py

Every Triton kernel against its fp64 reference, every graph on every device against ONNX Runtime on
the CPU, then their times: median, 95th percentile, GB/s, share of what this GPU was measured to
copy. Frames to tokens is compared with eager PyTorch and `torch.compile`. What disagrees or fails
is noted and the rest goes on; the last line is JSON to be sent back. The exit code is 1 if anything
disagreed. Without a GPU the kernels are checked in Triton's interpreter on small shapes, and what
could not be checked is listed with the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if not torch.cuda.is_available():
    # Read when Triton is first imported.
    os.environ["TRITON_INTERPRET"] = "1"

from benchmarks.harness import Case, DisagreementError, Options, Report, common_options, timed
from benchmarks.workload import ModelChoice, Workload, load_towers, model_options, prepare
from r2rt.engines import Device, Engine, open_engine
from r2rt.engines.choice import obstacles
from r2rt.errors import R2rtError
from r2rt.model.bundle import Bundle
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, VIDEO_FINALIZER, query_inputs
from training.checkpoint import build_model

__all__ = ["main"]

_DEVICES: tuple[Device, ...] = ("cuda", "tensorrt", "rtx")
# Share of the largest number by which a device may be off. Engines compute in fp16.
_ERRORS: dict[Device, float] = {"cuda": 1e-3, "tensorrt": 2e-2, "rtx": 2e-2}
_T = TypeVar("_T")


@dataclass
class _Check:
    """The report, and how many checks failed."""

    report: Report
    failures: int = 0

    def run(self, group: str, name: str, work: Callable[[], object]) -> None:
        """Do a piece of work; note what it raises, and go on."""
        try:
            work()
        except (DisagreementError, R2rtError, RuntimeError) as error:
            self.failures += 1
            self.report.skip(group, name, f"FAILED: {str(error).splitlines()[0]}")


@click.command()
@common_options
@model_options
def main(options: Options, model: ModelChoice) -> None:
    """Check and time what runs on a GPU."""
    workload = prepare(model, options)
    on_gpu = torch.cuda.is_available()
    bandwidth = _copy_bandwidth() if on_gpu else None
    report = Report(
        "gpu_selfcheck",
        options,
        bundle=workload.bundle,
        gpu=torch.cuda.get_device_name() if on_gpu else None,
        bytes_per_s=bandwidth,
        ways=obstacles(Bundle.open(workload.bundle)),
    )
    for way, lack in report.settings["ways"].items():
        report.say(f"{way}: {lack or 'usable'}")
    check = _Check(report)
    _check_kernels(check, workload, bandwidth)
    _check_engines(check, workload)
    _check_encoders(check, workload)
    report.target("checks that failed", check.failures, "<=", 0)
    report.finish()
    sys.exit(min(check.failures, 1))


def _check_kernels(check: _Check, workload: Workload, bandwidth: float | None) -> None:
    group = "kernels"
    if workload.checkpoint is None:
        check.report.skip(group, "all", workload.without_baseline or "no checkpoint")
        return
    bundle = Bundle.open(workload.bundle)
    model = build_model(workload.checkpoint, use_tef=bundle.dims.use_tef)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # A number takes the interpreter about as long as a GPU a whole frame.
    clips = 75 if device == "cuda" and not check.report.options.quick else 2
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for kernel in _kernels(model.state_dict(), bundle, clips, dtype, device):
            name = f"{kernel.name}, {clips} clips, {str(dtype).removeprefix('torch.')}"
            check.run(group, name, partial(_check_kernel, check, kernel, name, bandwidth))


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """A kernel's call, the reference's, and the least traffic in bytes."""

    name: str
    dtype: torch.dtype
    run: Callable[[], Tensor]
    expect: Callable[[], Tensor]
    nbytes: int


def _kernels(
    state: Mapping[str, Tensor], bundle: Bundle, clips: int, dtype: torch.dtype, device: str
) -> Iterator[_Kernel]:
    from kernels.finalize import finalize
    from kernels.frame_pool import frame_pool
    from kernels.r2_block import r2_block
    from kernels.reference.finalize import finalize as exact_finalize
    from kernels.reference.frame_pool import frame_pool as exact_frame_pool
    from kernels.reference.r2_block import r2_block as exact_r2_block
    from kernels.weights import pack_finalize, pack_r2_block

    dims = bundle.dims
    length, layers, patches, width = 12, dims.layers, dims.patches, dims.width
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, kind)

    v, q = normal(clips, layers, patches, width), normal(1, layers, length, width)
    key = (q.float() / 16).to(dtype)
    scale = torch.tensor(0.5, device=device)
    wide = [x.double() for x in (v, q, key)]
    first = (v[None, :, 0].contiguous(), q[:, None, 0], key[:, None, 0])
    yield _Kernel(
        name="frame_pool",
        dtype=dtype,
        run=lambda: frame_pool(*first, scale),
        expect=lambda: exact_frame_pool(
            first[0].double(), first[1].double(), first[2].double(), scale.double()
        ),
        nbytes=v[:, 0].nbytes + 2 * q[:, 0].nbytes + clips * width * v.element_size(),
    )
    block = pack_r2_block(state, heads=bundle.manifest.heads, dtype=dtype, device=device)
    exact = replace(block, frame=_double(block.frame), time=_double(block.time))
    weight_bytes = sum(_nbytes(part) for part in (block.frame, block.time))
    yield _Kernel(
        name="r2_block",
        dtype=dtype,
        run=lambda: r2_block(v, q, key, None, block),
        expect=lambda: exact_r2_block(wide[0], wide[1], wide[2], None, exact),
        nbytes=v.nbytes + 2 * q.nbytes + weight_bytes + 4 * clips * width,
    )
    if not dims.use_tef:
        return
    mapped = pack_finalize(state, dtype=dtype, device=device)
    tokens = normal(clips, layers, patches, width + 2, kind=torch.float32).abs() + 1
    ends = torch.arange(clips + 1, device=device, dtype=torch.float32) / clips
    ends = torch.stack([ends[:-1], ends[1:]], dim=1)
    yield _Kernel(
        name="finalize",
        dtype=dtype,
        run=lambda: finalize(tokens, ends, mapped),
        expect=lambda: exact_finalize(tokens.double(), ends.double(), _double(mapped)),
        nbytes=tokens.nbytes + v.nbytes + _nbytes(mapped),
    )


def _check_kernel(check: _Check, kernel: _Kernel, name: str, bandwidth: float | None) -> None:
    from kernels.tolerances import assert_close

    def agree() -> str:
        assert_close(kernel.run(), kernel.expect(), kernel.dtype, kernel.name)
        return f"{name}: as the fp64 reference"

    if bandwidth is None:
        check.report.agree("kernels", agree)
        check.report.skip("kernels", name, "not timed: no GPU; checked in Triton's interpreter")
        return
    case = Case(name=name, measure=_timed_on_gpu(kernel.run))
    rows = check.report.time(
        "kernels", [case], agree=agree, repeats=check.report.options.rounds(50), warmup=5
    )
    seconds = rows[name].seconds
    assert seconds is not None
    rate = kernel.nbytes / seconds.p50_s
    check.report.rows[-1] = replace(
        rows[name], values={"GB/s": rate / 1e9, "share of copying": rate / bandwidth}
    )


def _check_engines(check: _Check, workload: Workload) -> None:
    for precision, path in workload.bundles.items():
        bundle = Bundle.open(path)
        cpu, _ = open_engine(bundle, "cpu")
        graphs = dict(_graph_inputs(bundle, check.report.options.quick))
        expected = {graph: cpu.run(graph, inputs) for graph, inputs in graphs.items()}
        for device in _DEVICES:
            group = f"{precision} bundle on {device}"
            try:
                engine, choice = open_engine(bundle, device)
            except R2rtError as error:
                check.report.skip(group, "all graphs", str(error))
                continue
            check.report.say(f"{group}: {choice.backend}, {engine.name}")
            for graph, inputs in graphs.items():
                work = _graph_check(check, group, engine, graph, inputs, expected[graph], device)
                check.run(group, graph, work)


def _graph_check(
    check: _Check,
    group: str,
    engine: Engine,
    graph: str,
    inputs: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    device: Device,
) -> Callable[[], object]:
    def agree() -> str:
        worst = 0.0
        for name, got in engine.run(graph, inputs).items():
            size = float(np.abs(expected[name]).max())
            error = float(np.abs(got - expected[name]).max()) / max(size, 1e-6)
            assert error <= _ERRORS[device], f"{name} is off by {error:.2g} of its largest number"
            worst = max(worst, error)
        return f"{graph} within {worst:.1g} of the CPU's largest number"

    case = Case(name=graph, measure=timed(lambda: engine.run(graph, inputs)))
    rounds = check.report.options.rounds(50)
    return lambda: check.report.time(group, [case], agree=agree, repeats=rounds, warmup=5)


def _graph_inputs(bundle: Bundle, quick: bool) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield inputs like those of a session: what one graph gives, the next one takes."""
    dims, rng, clips, length = bundle.dims, np.random.default_rng(0), 16 if quick else 75, 12
    cpu, _ = open_engine(bundle, "cpu")
    size = dims.image_size
    frames = rng.integers(0, 256, (16, size, size, 3), np.uint8)
    yield VIDEO_ENCODER, {"frames": frames}
    tokens = cpu.run(VIDEO_ENCODER, {"frames": frames})["tokens"]
    v = tokens = np.resize(tokens, (clips, *tokens.shape[1:]))
    if dims.use_tef:
        index = np.arange(clips + 1, dtype=np.float32) / clips
        inputs: dict[str, NDArray[Any]] = {
            "tokens": tokens,
            "endpoints": np.stack([index[:-1], index[1:]], axis=1),
        }
        yield VIDEO_FINALIZER, inputs
        v = cpu.run(VIDEO_FINALIZER, inputs)["v"]
    ids = rng.integers(300, 40_000, (1, length))
    texts: dict[str, NDArray[Any]] = {
        "token_ids": ids,
        "query_mask": np.ones((1, length), np.float32),
    }
    yield TEXT_ENCODER, texts
    encoded = cpu.run(TEXT_ENCODER, texts)
    yield GROUNDER, {"v": v, **query_inputs(encoded), "query_mask": texts["query_mask"]}


def _check_encoders(check: _Check, workload: Workload) -> None:
    """Time frames to tokens, the dearest stage, against PyTorch with the same weights."""
    group = "frames to tokens, 32 frames"
    if not torch.cuda.is_available():
        for name in ("PyTorch eager", "torch.compile"):
            check.report.skip(group, name, "no GPU that PyTorch can use")
        return
    if workload.clip is None or workload.checkpoint is None:
        check.report.skip(group, "PyTorch", workload.without_baseline or "")
        return
    from export.graphs.video import FrameTokens

    bundle = Bundle.open(workload.bundle)
    dims, size = bundle.dims, bundle.dims.image_size
    towers = load_towers(workload.clip).requires_grad_(False).cuda()
    tokens_of = FrameTokens(build_model(workload.checkpoint, use_tef=dims.use_tef)).cuda()
    frames = np.random.default_rng(1).integers(0, 256, (32, size, size, 3), np.uint8)

    def eager() -> NDArray[Any]:
        with torch.inference_mode():
            images = torch.from_numpy(frames).cuda()
            result: NDArray[Any] = tokens_of(towers.encode_video(images, dims.layers)).cpu().numpy()
            return result

    compiled = torch.compile(eager)
    runs: dict[str, tuple[Callable[[], NDArray[Any]], float]] = {
        "PyTorch eager": (eager, 1e-3),
        "torch.compile": (compiled, 1e-3),
    }
    for device in _DEVICES:
        try:
            engine, _ = open_engine(bundle, device)
        except R2rtError as error:
            check.report.skip(group, device, str(error))
        else:
            runs[device] = partial(_tokens, engine, frames), _ERRORS[device]

    def agree() -> str:
        want = eager()
        for name, (run, limit) in runs.items():
            error = float(np.abs(run() - want).max() / np.abs(want).max())
            assert error <= limit, f"{name} is off by {error:.2g} of the largest token"
        return f"{', '.join(runs)} agree"

    cases = [Case(name=name, measure=timed(run)) for name, (run, _) in runs.items()]
    rounds = check.report.options.rounds(30)
    check.run(
        group,
        "all",
        lambda: check.report.time(
            group, cases, agree=agree, repeats=rounds, warmup=5, baseline="PyTorch eager"
        ),
    )


def _tokens(engine: Engine, frames: NDArray[np.uint8]) -> NDArray[Any]:
    return engine.run(VIDEO_ENCODER, {"frames": frames})["tokens"]


def _timed_on_gpu(work: Callable[[], object]) -> Callable[[], float]:
    """Return a `measure` by the GPU's own clock."""

    def measure() -> float:
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return measure


def _copy_bandwidth() -> float:
    """Return bytes a second, read and written, of copying on the GPU; the best of several."""
    source = torch.zeros(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    measure = _timed_on_gpu(lambda: target.copy_(source))
    return 2 * source.nbytes / min(measure() for _ in range(10))


def _double(weights: _T) -> _T:
    changed = {
        field.name: value.double()
        for field in fields(weights)  # type: ignore[arg-type]
        if isinstance(value := getattr(weights, field.name), Tensor)
    }
    return replace(weights, **changed)  # type: ignore[type-var]


def _nbytes(weights: object) -> int:
    values = (getattr(weights, field.name) for field in fields(weights))  # type: ignore[arg-type]
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


if __name__ == "__main__":
    main()
