"""How long an answer takes: cold process, warm process, warm query, and every stage.

python benchmarks/latency.py
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import numpy as np

from benchmarks.agreement import same_answers, same_images, similar_images
from benchmarks.harness import Case, Options, Report, common_options
from benchmarks.machine import CHECKOUT
from benchmarks.material import VideoSpec, find_source, make_video
from benchmarks.process import NOTHING_KEPT, Child, Worker, python, run_child
from benchmarks.workload import ModelChoice, Workload, model_options, prepare, queries
from r2rt.model.manifest import read_manifest

__all__ = ["main"]

_BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class _Videos:
    """Videos that are measured: few keyframes, keyframes every 2 s, and a short one."""

    sparse: Path
    dense: Path
    short: Path


@dataclass(frozen=True, kw_only=True)
class _Workers:
    """Processes that hold a loaded model: ours by precision, and the baseline if it can be had."""

    ours: dict[str, Worker]
    baseline: Worker | None


@click.command()
@common_options
@model_options
@click.option("--seconds", type=float, default=158.0, show_default=True, help="Video's length.")
@click.option("--video", type=click.Path(path_type=Path, exists=True), help="Video of one's own.")
def main(options: Options, model: ModelChoice, seconds: float, video: Path | None) -> None:
    """Measure latency, cold and warm, against the baseline."""
    workload = prepare(model, options)
    videos = _make_videos(options, seconds, video)
    names = [path.name for path in (videos.sparse, videos.dense, videos.short)]
    report = Report("latency", options, bundle=workload.bundle, videos=names)
    with _workers(workload) as workers:
        if workers.baseline is None:
            report.skip("all", _BASELINE, workload.without_baseline or "")
        _loaded(report, workers, videos)
        _further_query(report, workers, videos)
        _stages(report, workers, videos)
    with tempfile.TemporaryDirectory() as cache:
        _processes(report, workload, videos, cache)
        _second_run(report, workload, videos, cache)
    report.finish()


def _make_videos(options: Options, seconds: float, video: Path | None) -> _Videos:
    source = find_source()
    width, height = (320, 180) if options.quick else (1280, 720)
    length = 20.0 if options.quick else seconds

    def make(seconds: float, keyint: int) -> Path:
        spec = VideoSpec(seconds=seconds, width=width, height=height, keyint=keyint)
        return make_video(spec, options.media, source)

    if video is not None:
        return _Videos(sparse=video, dense=video, short=make(10, 250))
    return _Videos(sparse=make(length, 250), dense=make(length, 50), short=make(10, 250))


@contextlib.contextmanager
def _workers(workload: Workload) -> Iterator[_Workers]:
    with contextlib.ExitStack() as stack:
        ours = {
            precision: stack.enter_context(
                Worker(python("ours.py", "--bundle", path), env=NOTHING_KEPT)
            )
            for precision, path in workload.bundles.items()
        }
        baseline = None
        if workload.without_baseline is None:
            command = python("baseline.py", *workload.baseline_arguments(), "--serve")
            baseline = stack.enter_context(Worker(command))
        yield _Workers(ours=ours, baseline=baseline)


def _asked(worker: Worker, operation: str, **request: Any) -> Callable[[], float]:
    def measure() -> float:
        return float(worker.ask(operation, **request)["seconds"])

    return measure


def _asked_anew(
    worker: Worker, *, video: str, numbers: Iterator[int], **request: Any
) -> Callable[[], float]:
    """Ask another sentence each time: those that were asked are not encoded again."""

    def measure() -> float:
        sentence = queries(1, start=next(numbers))
        return float(worker.ask("ground", video=video, queries=sentence, **request)["seconds"])

    return measure


def _loaded(report: Report, workers: _Workers, videos: _Videos) -> None:
    """Ground a video that was never seen, the model being loaded."""
    rounds = report.options.rounds(3)
    for label, video in (("few keyframes", videos.sparse), ("keyframes every 2 s", videos.dense)):
        group = f"ground, model loaded, {label}"
        request: dict[str, Any] = {"video": str(video), "queries": queries(1)}
        asked = partial(_asked_anew, video=str(video), numbers=count(10_000))
        cases = []
        if workers.baseline is not None:
            cases.append(Case(name=_BASELINE, measure=asked(workers.baseline, frames="ours")))
        cases += [
            Case(name=f"{sampling} {precision}", measure=asked(worker, sampling=sampling))
            for precision, worker in workers.ours.items()
            for sampling in ("exact", "nearest")
        ]
        rows = report.time(
            group,
            cases,
            agree=lambda request=request: _same(workers, request),  # type: ignore[misc]
            repeats=rounds,
            baseline=cases[0].name if workers.baseline else None,
        )
        if workers.baseline is not None:
            sampling, limit = ("exact", 3) if video is videos.sparse else ("nearest", 8)
            speedup = rows[f"{sampling} fp32"].speedup or 0.0
            report.target(f"{sampling} fp32 over the baseline, {label}", speedup, ">=", limit)


def _same(workers: _Workers, request: dict[str, Any]) -> str:
    """Compare with the baseline on the same images, and those with the baseline's own."""
    if workers.baseline is None:
        return "no baseline to compare with"
    ours = workers.ours["fp32"].ask("ground", **request)
    theirs = workers.baseline.ask("ground", frames="ours", pixels="ours", **request)
    details = [same_answers(ours["answers"], theirs["answers"])]
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{name}.npy")) for name in ("ours", "same", "theirs")]
        video = request["video"]
        workers.ours["fp32"].ask("images", video=video, path=paths[0])
        for path, pixels in zip(paths[1:], ("ours", "torch"), strict=True):
            workers.baseline.ask("images", video=video, frames="ours", pixels=pixels, path=path)
        images = [np.load(path) for path in paths]
    details.append(same_images(images[0], images[1]))
    details.append(f"the baseline as timed: {similar_images(images[0], images[2])}")
    return "; ".join(details)


def _further_query(report: Report, workers: _Workers, videos: _Videos) -> None:
    """Ask another query about a video that is encoded already."""
    video = str(videos.sparse)
    numbers = count(1000)

    def fresh(worker: Worker) -> Callable[[], float]:
        def measure() -> float:
            asked = queries(1, start=next(numbers))
            return float(worker.ask("query", video=video, queries=asked)["seconds"])

        return measure

    def agree() -> str:
        if workers.baseline is None:
            return "no baseline to compare with"
        asked = queries(3)
        ours = workers.ours["fp32"].ask("query", video=video, queries=asked)
        theirs = workers.baseline.ask("query", video=video, queries=asked)
        return same_answers(ours["answers"], theirs["answers"])

    cases = [
        Case(name=f"ours {precision}", measure=fresh(worker))
        for precision, worker in workers.ours.items()
    ]
    if workers.baseline is not None:
        cases.insert(0, Case(name=_BASELINE, measure=fresh(workers.baseline)))
    rows = report.time(
        "a further query, features kept",
        cases,
        agree=agree,
        repeats=report.options.rounds(15),
        warmup=3,
        baseline=_BASELINE if workers.baseline else None,
    )
    row = rows["ours fp32"]
    assert row.seconds is not None
    report.target("a further query, ms", row.seconds.p50_s * 1e3, "<=", 15)
    if row.speedup is not None:
        report.target("a further query over the baseline", row.speedup, ">=", 10)


def _stages(report: Report, workers: _Workers, videos: _Videos) -> None:
    """Time each stage alone, for the video with few keyframes."""
    video = str(videos.sparse)
    rounds = report.options.rounds(3)
    numbers = count(5000)

    def part(worker: Worker, member: str) -> Callable[[], float]:
        def measure() -> float:
            asked = queries(1, start=next(numbers))
            return float(worker.ask("query", video=video, queries=asked)[member])

        return measure

    for stage in ("decode", "encode", "text", "finalize", "ground"):
        cases = []
        for name, worker in ((_BASELINE, workers.baseline), *workers.ours.items()):
            if worker is None or (stage == "finalize" and name == _BASELINE):
                continue
            if stage == "decode" and name not in {_BASELINE, "fp32"}:
                continue
            if stage in {"text", "ground"}:
                measure = part(worker, f"{stage}_s")
            else:
                measure = _asked(worker, stage, video=video)
            cases.append(Case(name=name, measure=measure))
        report.time(
            f"stage {stage}",
            cases,
            agree=lambda: "outputs compared above",
            repeats=rounds,
            baseline=_BASELINE if cases[0].name == _BASELINE else None,
        )


def _processes(report: Report, workload: Workload, videos: _Videos, cache: str) -> None:
    """Start a process, answer one query about a short video, end.

    Prepared graphs are in the cache since the warm-up, encoded videos never.
    """
    query = queries(1)[0]
    parts: dict[str, float] = {}

    def start_ours(bundle: Path) -> float:
        return _run(bundle, videos.short, cache, keep=False).wall_s

    def start_baseline() -> float:
        command = python("baseline.py", str(videos.short), query, *workload.baseline_arguments())
        child = run_child([*command, "--frames", "ours"])
        answer = json.loads(child.stdout.splitlines()[-1])
        parts.update({f"{part[:-2]} s": answer[part] for part in ("import_s", "load_s")})
        return child.wall_s

    cases = [
        Case(name=f"r2rt ground {precision}", measure=lambda path=path: start_ours(path))  # type: ignore[misc]
        for precision, path in workload.bundles.items()
    ]
    has_baseline = workload.without_baseline is None
    if has_baseline:
        cases.insert(0, Case(name=_BASELINE, measure=start_baseline))
    rows = report.time(
        "process start to result, 10 s video",
        cases,
        agree=lambda: "the same pipelines as above",
        repeats=report.options.rounds(3),
        baseline=_BASELINE if has_baseline else None,
        values={_BASELINE: parts},
    )
    for precision, limit in (("fp32", 2.5), ("int8", 1.5)):
        row = rows.get(f"r2rt ground {precision}")
        if row is not None and row.seconds is not None:
            what = f"process start to result, {precision}, s"
            report.target(what, row.seconds.p50_s, "<=", limit)


def _second_run(report: Report, workload: Workload, videos: _Videos, cache: str) -> None:
    """Run the same command twice, the second time with what the first has left in the cache."""
    precision, bundle = list(workload.bundles.items())[-1]
    video = videos.sparse

    def agree() -> str:
        first, kept, again = (
            _run(bundle, video, cache, keep=keep).stdout for keep in (False, True, True)
        )
        assert first == kept == again, "the second run says something else"
        return "both runs print the same"

    rows = report.time(
        f"the same command again, {precision}",
        [
            Case(name="first run", measure=lambda: _run(bundle, video, cache, keep=False).wall_s),
            Case(name="again", measure=lambda: _run(bundle, video, cache, keep=True).wall_s),
        ],
        agree=agree,
        repeats=report.options.rounds(3),
        warmup=0,
        baseline="first run",
    )
    report.target("second run over the first", rows["again"].speedup or 0.0, ">=", 5)


def _run(bundle: Path, video: Path, cache: str, *, keep: bool) -> Child:
    """Run `r2rt ground`, its cache being in `cache`, used for encoded videos if `keep`."""
    return run_child(
        [
            *(sys.executable, "-m", "r2rt", "ground", video, queries(1)[0]),
            *("--model", bundle, "--format", "jsonl", "--quiet", "--device", "cpu"),
            *("--precision", read_manifest(bundle).precision),
        ],
        env={
            "PYTHONPATH": str(CHECKOUT),
            "R2RT_CACHE": cache,
            **({} if keep else NOTHING_KEPT),
        },
    )


if __name__ == "__main__":
    main()
