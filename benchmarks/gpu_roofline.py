"""The least time that the R² block's kernels can take on four GPUs, on paper, beside eager PyTorch.

    python benchmarks/gpu_roofline.py

Needs no GPU and measures nothing. A launch takes at least its matrix products at the published
dense fp16 rate of the tensor cores, or its traffic at the published bandwidth, whichever is longer.
That leaves out what a launch itself costs, which is microseconds: at 75 clips the number
of launches says more than the bound.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import torch

from benchmarks import kernel_counts
from benchmarks.eager_counts import Shape, count_calls, maps, recurrence
from benchmarks.harness import Options, Report
from benchmarks.kernel_counts import Launch
from benchmarks.machine import CHECKOUT
from benchmarks.results import Row
from benchmarks.tables import format_seconds

__all__ = ["GPUS", "Gpu", "main"]

_CLIPS = (75, 1_000, 100_000)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as its maker describes it.

    Attributes:
        name: as in the table.
        flops_per_s: fp16 on tensor cores, accumulated in fp32, without sparsity.
        bytes_per_s: of its memory.
        source: where both figures stand; halved there where they are given with sparsity.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    source: str


GPUS = (
    Gpu(
        name="A100",
        flops_per_s=312e12,
        bytes_per_s=2039e9,
        source="NVIDIA A100 datasheet, 80GB SXM: 312 TFLOPS, 2,039 GB/s",
    ),
    Gpu(
        name="L4",
        flops_per_s=121e12,
        bytes_per_s=300e9,
        source="NVIDIA L4 datasheet: 242 TFLOPS with sparsity, 300 GB/s",
    ),
    Gpu(
        name="H100",
        flops_per_s=989.5e12,
        bytes_per_s=3350e9,
        source="NVIDIA H100 datasheet, SXM: 1,979 TFLOPS with sparsity, 3.35 TB/s",
    ),
    Gpu(
        name="B200",
        flops_per_s=2250e12,
        bytes_per_s=8000e9,
        source="NVIDIA Blackwell architecture brief, HGX B200: 4.5 PFLOPS with sparsity, 8 TB/s",
    ),
)


@click.command(epilog=(__doc__ or "").split("\n\n", 2)[2])
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=CHECKOUT / "benchmarks" / "results",
    help="Folder for JSON.  [default: benchmarks/results]",
)
@click.option(
    "--tokens", type=click.IntRange(1, 77), default=12, show_default=True, help="Query tokens L."
)
def main(out: Path, tokens: int) -> None:
    """Count, and print lower bounds."""
    out.mkdir(parents=True, exist_ok=True)
    options = Options(
        quick=False, repeats=None, out=out, media=Path(tempfile.gettempdir()), plot=False
    )
    shapes = [Shape(clips=clips, length=tokens) for clips in _CLIPS]
    report = Report(
        "gpu_roofline",
        options,
        shapes=[vars(shape) for shape in shapes],
        gpus=[vars(gpu) for gpu in GPUS],
    )
    for shape in shapes:
        _add_bounds(report, shape)
    for shape in shapes:
        _add_eager(report, shape)
    for gpu in GPUS:
        report.say(gpu.source)
    report.finish()


def _add_bounds(report: Report, shape: Shape) -> None:
    """Add each kernel, once a launch, and the whole."""
    query = kernel_counts.recurrence(shape)
    rows: dict[str, list[Launch]] = {
        "finalize (once a video)": [kernel_counts.finalize(shape)],
        "query_maps": query[:1],
        "layer_pool": query[1:2],
        "frame_step, first": query[2:3],
        "frame_step, next": query[5:6],
        "time_attention": query[3:4],
        "time_step": query[4:5],
        "settle": query[-1:],
        f"a query: {len(query)} launches": query,
        "frame_pool (training)": [kernel_counts.frame_pool(shape)],
    }
    for name, launches in rows.items():
        report.add(
            Row(
                group=f"at least, {shape.clips:,} clips, fp16",
                name=name,
                values={
                    "GFLOP": sum(launch.flops for launch in launches) / 1e9,
                    "MB": sum(launch.nbytes for launch in launches) / 1e6,
                    **{gpu.name: format_seconds(_bound_s(gpu, launches)) for gpu in GPUS},
                },
            )
        )


def _add_eager(report: Report, shape: Shape) -> None:
    """Add the launches and the traffic of both, for a query and for a video."""
    group = f"launches and traffic, {shape.clips:,} clips, fp16"
    for name, run, ours, launches in (
        (
            "a query's recurrence",
            recurrence,
            "a query's recurrence",
            kernel_counts.recurrence(shape),
        ),
        # The map's first product is part of the video encoder, once a video.
        ("the video map", maps, "its second half, finalize", [kernel_counts.finalize(shape)]),
    ):
        eager = count_calls(run(shape, torch.float16))
        least = {gpu.name: format_seconds(eager.nbytes / gpu.bytes_per_s) for gpu in GPUS}
        report.add(
            Row(
                group=group,
                name=f"{name}, eager",
                values={
                    "launches": eager.launches.total(),
                    "MB": eager.nbytes / 1e6,
                    "largest MB": eager.largest / 1e6,
                    **least,
                },
            )
        )
        report.add(
            Row(
                group=group,
                name=f"{ours}, kernels",
                values={
                    "launches": len(launches),
                    "MB": sum(launch.nbytes for launch in launches) / 1e6,
                    "largest MB": "",
                    **{gpu.name: format_seconds(_bound_s(gpu, launches)) for gpu in GPUS},
                },
            )
        )


def _bound_s(gpu: Gpu, launches: list[Launch]) -> float:
    return sum(
        launch.bound_s(flops_per_s=gpu.flops_per_s, bytes_per_s=gpu.bytes_per_s)
        for launch in launches
    )


if __name__ == "__main__":
    main()
