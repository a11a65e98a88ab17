"""Peak memory of whole processes, against the video's length and its resolution.

python benchmarks/memory.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from benchmarks.harness import Options, Report, common_options
from benchmarks.machine import CHECKOUT
from benchmarks.material import VideoSpec, find_source, make_video
from benchmarks.plots import grouped_lines
from benchmarks.process import NOTHING_KEPT, Child, python, run_child
from benchmarks.results import Row, Summary, summarize
from benchmarks.workload import ModelChoice, Workload, model_options, prepare, queries
from r2rt.model.bundle import Bundle
from r2rt.model.manifest import read_manifest

__all__ = ["main", "token_bytes"]

_MB = 1e6
_SIZES = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))


@click.command()
@common_options
@model_options
@click.option(
    "--minutes",
    default="1,5,20,60",
    show_default=True,
    help="Lengths of the videos, comma-separated.",
)
def main(options: Options, model: ModelChoice, minutes: str) -> None:
    """Measure peak memory of `r2rt ground` and of the baseline."""
    workload = prepare(model, options)
    lengths = [float(length) for length in minutes.split(",")]
    report = Report("memory", options, bundle=workload.bundle, minutes=lengths)
    if workload.without_baseline is not None:
        report.skip("all", "baseline", workload.without_baseline)
    _against_resolution(report, workload)
    _against_length(report, workload, [0.2, 0.5] if options.quick else lengths)
    report.finish(grouped_lines({"resolution": "megapixels", "length": "minutes"}, "peak MB"))


def token_bytes(bundle: Path, seconds: float) -> int:
    """Return the size in fp32 of the tokens of so many seconds of video."""
    manifest = read_manifest(bundle)
    dims = manifest.dims
    clips = round(seconds * Bundle(bundle, manifest).fps)
    return 4 * clips * dims.layers * dims.patches * dims.token_width


def _against_resolution(report: Report, workload: Workload) -> None:
    source = find_source()
    sizes = _SIZES[:1] if report.options.quick else _SIZES
    for width, height in sizes:
        # Two GOPs of the largest frames, else ten seconds: memory does not depend on the length.
        seconds = 4 if height > 1080 else 10
        spec = VideoSpec(seconds=seconds, width=width, height=height, keyint=50)
        video = make_video(spec, report.options.media, source)
        values: dict[str, float | int | str] = {
            "resolution": f"{width}x{height}",
            "megapixels": width * height / 1e6,
        }
        for precision, bundle in workload.bundles.items():
            peak = _measure(report, "resolution", precision, _ours(bundle, video), values)
            if precision == "int8" and (width, height) == (1280, 720):
                report.target(f"peak of a short 720p video, {precision}, MB", peak, "<=", 450)
        if workload.without_baseline is None and height <= 1080:
            command = python("baseline.py", video, queries(1)[0], *workload.baseline_arguments())
            _measure(report, "resolution", "baseline", command, values)


def _against_length(report: Report, workload: Workload, minutes: list[float]) -> None:
    source = find_source()
    for precision, bundle in workload.bundles.items():
        found = []
        for length in minutes:
            spec = VideoSpec(seconds=60 * length, width=640, height=360, keyint=50)
            video = make_video(spec, report.options.media, source)
            tokens = token_bytes(bundle, spec.seconds) / _MB
            peak = _measure(
                report,
                "length",
                precision,
                [*_ours(bundle, video), "--sampling", "nearest"],
                {"minutes": length, "tokens in fp32, MB": tokens},
            )
            found.append((peak, tokens))
        if len(minutes) > 1:
            span = minutes[-1] - minutes[0]
            grown, tokens = (
                (last - first) / span for first, last in zip(*found[:: len(found) - 1], strict=True)
            )
            # Tokens may be kept in half the bytes; a tenth is for all else.
            what = f"growth a minute, {precision}, MB"
            report.target(what, grown, "<=", 1.1 * tokens / 2)


def _measure(
    report: Report,
    group: str,
    name: str,
    command: Sequence[str | Path],
    values: dict[str, float | int | str],
) -> float:
    """Run a command; add a row; return the most memory that one of its runs took, in MB."""
    children = [_run(command) for _ in range(report.options.rounds(1))]
    peak = max(child.peak_rss_bytes for child in children) / _MB
    seconds: Summary = summarize([child.wall_s for child in children])
    report.add(Row(group=group, name=name, seconds=seconds, values={**values, "peak MB": peak}))
    report.say(f"{group}, {name}: {peak:.0f} MB, {values}")
    return peak


def _run(command: Sequence[str | Path]) -> Child:
    return run_child(command, env={"PYTHONPATH": str(CHECKOUT), **NOTHING_KEPT})


def _ours(bundle: Path, video: Path) -> list[str | Path]:
    return [
        *(sys.executable, "-m", "r2rt", "ground", video, queries(1)[0]),
        *("--model", bundle, "--format", "jsonl", "--quiet", "--device", "cpu"),
        *("--precision", read_manifest(bundle).precision),
    ]


if __name__ == "__main__":
    main()
