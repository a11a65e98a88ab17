"""Achieved arithmetic of every stage against what this machine was measured to reach.

    python benchmarks/roofline.py

The peak of a precision is the fastest of several libraries' large products, run in the same rounds
as the stages. A stage's roofline is the larger of its arithmetic at that peak and its least traffic
at the measured bandwidth; the share says how much of its time that explains.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import counts
from benchmarks.counts import Work
from benchmarks.harness import Case, Options, Report, common_options, time_cases, timed
from benchmarks.peaks import Gemm, fp32_gemms, int8_gemms, measure_bandwidth
from benchmarks.results import Row, summarize
from benchmarks.workload import ModelChoice, Workload, load_towers, model_options, prepare
from r2rt.engines import open_engine
from r2rt.model.bundle import Bundle
from r2rt.model.contract import (
    GROUNDER,
    PATCH_BIAS,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
)

__all__ = ["main"]

_CLIPS = 75
_TOKENS = 12
_BASELINE = "PyTorch eager"


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """A stage's call to time, and the work that it does."""

    name: str
    work: Work
    run: Callable[[], object]


@click.command()
@common_options
@model_options
def main(options: Options, model: ModelChoice) -> None:
    """Measure every stage against the machine's peak in the same precision."""
    workload = prepare(model, options)
    size = 256 if options.quick else 2048
    bandwidth = measure_bandwidth(16 if options.quick else 400, repeats=5)
    report = Report(
        "roofline", options, bundle=workload.bundle, gemm_size=size, bytes_per_s=bandwidth
    )
    encoders: dict[str, tuple[float, ...]] = {}
    for precision, bundle in workload.bundles.items():
        gemms = fp32_gemms(size) if precision == "fp32" else int8_gemms(size)
        stages = list(_stages(bundle, workload))
        if precision == "fp32":
            stages += _baseline(report, workload, stages[0])
        samples = _measure(report, precision, gemms, stages, bandwidth)
        encoders[precision] = samples[stages[0].name]
    if "int8" in encoders:
        fp32, int8 = (statistics.median(encoders[name]) for name in ("fp32", "int8"))
        report.target("int8 encoder over fp32", fp32 / int8, ">=", 3)
    report.finish()


def _stages(bundle_path: Path, workload: Workload) -> Iterator[_Stage]:
    bundle = Bundle.open(bundle_path)
    dims = bundle.dims
    engine, _ = open_engine(bundle, "cpu")
    clip = _clip_config(bundle, workload)
    rng = np.random.default_rng(0)

    def call(graph: str, inputs: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
        return lambda: engine.run(graph, inputs)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    size = dims.image_size
    for batch in dict.fromkeys((engine.frame_batch, 1, 16)):
        frames = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
        yield _Stage(
            name=f"{VIDEO_ENCODER}, {batch} frames",
            work=counts.video_encoder(dims, clip, batch),
            run=call(VIDEO_ENCODER, {"frames": frames}),
        )
    if dims.use_tef:
        tokens = np.abs(normal(_CLIPS, dims.layers, dims.patches, dims.token_width)) + 1
        index = np.arange(_CLIPS + 1, dtype=np.float32) / _CLIPS
        endpoints = np.stack([index[:-1], index[1:]], axis=1)
        yield _Stage(
            name=f"{VIDEO_FINALIZER}, {_CLIPS} clips",
            work=counts.finalizer(dims, _CLIPS),
            run=call(VIDEO_FINALIZER, {"tokens": tokens, "endpoints": endpoints}),
        )
    v = normal(_CLIPS, dims.layers, dims.patches, dims.width)
    for queries in (1, 10):
        mask = np.ones((queries, _TOKENS), np.float32)
        ids = rng.integers(300, 40_000, (queries, _TOKENS))
        yield _Stage(
            name=f"{TEXT_ENCODER}, {queries} x {_TOKENS} tokens",
            work=counts.text_encoder(dims, clip, queries, _TOKENS),
            run=call(TEXT_ENCODER, {"token_ids": ids, "query_mask": mask}),
        )
        q = normal(queries, dims.layers, _TOKENS, dims.width)
        inputs: dict[str, NDArray[Any]] = {
            "v": v,
            "q": q,
            "q_key": q / 16,
            "pooled": normal(queries, dims.width),
            "query_mask": mask,
        }
        if engine.merges:
            inputs[PATCH_BIAS] = np.zeros(v.shape[:-1], np.float32)
        yield _Stage(
            name=f"{GROUNDER}, {_CLIPS} clips, {queries} x {_TOKENS} tokens",
            work=counts.grounder(dims, _CLIPS, queries, _TOKENS),
            run=call(GROUNDER, inputs),
        )


def _baseline(report: Report, workload: Workload, encoder: _Stage) -> list[_Stage]:
    """Return the vision tower in eager PyTorch, its output compared with the encoder's."""
    if workload.clip is None or workload.checkpoint is None:
        report.skip("fp32", _BASELINE, workload.without_baseline or "")
        return []
    import torch

    from export.graphs.video import FrameTokens
    from training.checkpoint import build_model

    bundle = Bundle.open(workload.bundle)
    engine, _ = open_engine(bundle, "cpu")
    size, batch = bundle.dims.image_size, engine.frame_batch
    frames = np.random.default_rng(1).integers(0, 256, (batch, size, size, 3), np.uint8)
    towers = load_towers(workload.clip).requires_grad_(False)
    model = build_model(
        workload.checkpoint,
        heads=bundle.manifest.heads,
        use_tef=bundle.dims.use_tef,
        read_layers=bundle.dims.read_layers,
    ).requires_grad_(False)
    images = torch.from_numpy(frames)
    tokens_of = FrameTokens(model)

    def agree() -> str:
        got = engine.run(VIDEO_ENCODER, {"frames": frames})["tokens"]
        want = tokens_of(towers.encode_video(images, model.config.read)).numpy()
        error = float(np.abs(got - want).max() / np.abs(want).max())
        assert error < 1e-4, f"tokens differ by {error:.2g} of the largest"
        return f"encoder and {_BASELINE} agree to {error:.1g} of the largest token"

    report.agree("fp32", agree)
    return [
        _Stage(
            name=f"{_BASELINE}, vision tower, {batch} frames",
            work=encoder.work,
            run=lambda: towers.encode_video(images, model.config.read),
        )
    ]


def _measure(
    report: Report, precision: str, gemms: list[Gemm], stages: list[_Stage], bandwidth: float
) -> dict[str, tuple[float, ...]]:
    for gemm in gemms:
        report.agree(precision, gemm.check)
    cases = [Case(name=gemm.name, measure=timed(gemm.run)) for gemm in gemms]
    cases += [Case(name=stage.name, measure=timed(stage.run)) for stage in stages]
    # One library's threads spin for a while after their work, on cores that the next one needs.
    samples = time_cases(cases, repeats=report.options.rounds(9), warmup=2, pause_s=0.05)
    rates = {gemm.name: [gemm.flops / s for s in samples[gemm.name]] for gemm in gemms}
    # The best library of each round: what the machine could do just then.
    peaks = [
        max(rates[name][turn] for name in rates) for turn in range(len(samples[cases[0].name]))
    ]
    group = f"{precision}, peak {statistics.median(peaks) / 1e9:.0f} Gop/s"
    for gemm in gemms:
        report.add(
            Row(
                group=group,
                name=gemm.name,
                seconds=summarize(samples[gemm.name]),
                values={"Gop/s": statistics.median(rates[gemm.name]) / 1e9},
            )
        )
    weight_bytes = 4.0 if precision == "fp32" else 1.0
    for stage in stages:
        taken = samples[stage.name]
        work = stage.work
        traffic_s = work.total_bytes(weight_bytes) / bandwidth
        of_peak = statistics.median(
            work.flops / s / peak for s, peak in zip(taken, peaks, strict=True)
        )
        of_roofline = statistics.median(
            max(work.flops / peak, traffic_s) / s for s, peak in zip(taken, peaks, strict=True)
        )
        seconds = summarize(taken)
        report.add(
            Row(
                group=group,
                name=stage.name,
                seconds=seconds,
                values={
                    "Gop": work.flops / 1e9,
                    "MB": work.total_bytes(weight_bytes) / 1e6,
                    "Gop/s": work.flops / seconds.p50_s / 1e9,
                    "of peak": of_peak,
                    "of roofline": of_roofline,
                },
            )
        )
        if precision == "fp32" and stage is stages[0]:
            report.target("fp32 encoder, share of the GEMM peak", of_peak, ">=", 0.85)
    return samples


def _clip_config(bundle: Bundle, workload: Workload) -> Any:
    from training.clip_arch import arch_config

    if workload.clip is not None:
        return load_towers(workload.clip).config
    return arch_config(bundle.manifest.clip)


if __name__ == "__main__":
    main()
