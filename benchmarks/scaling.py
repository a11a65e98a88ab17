"""How cost grows with the video's length and with the number of queries.

python benchmarks/scaling.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from benchmarks.agreement import same_answers
from benchmarks.harness import Case, Options, Report, common_options
from benchmarks.material import VideoSpec, find_source, make_video
from benchmarks.plots import grouped_lines
from benchmarks.process import NOTHING_KEPT, Worker, python
from benchmarks.results import Row, summarize
from benchmarks.workload import ModelChoice, Workload, model_options, prepare, queries

__all__ = ["main"]

_LENGTH, _QUERIES = "length", "queries"
_ONE_BY_ONE, _BATCH, _BASELINE = "one by one", "one batch", "baseline"
# One by one, more than this many would only repeat the same.
_MOST_ONE_BY_ONE = 100
_MOST_BASELINE = 10


@click.command()
@common_options
@model_options
@click.option("--minutes", default="1,5,20,60", show_default=True, help="Lengths, comma-separated.")
@click.option(
    "--queries", "counts", default="1,10,100,1000", show_default=True, help="Numbers of queries."
)
def main(options: Options, model: ModelChoice, minutes: str, counts: str) -> None:
    """Measure encoding and grounding against length, and grounding against queries."""
    workload = prepare(model, options)
    lengths = [0.2, 0.5] if options.quick else [float(length) for length in minutes.split(",")]
    numbers = [1, 4] if options.quick else [int(number) for number in counts.split(",")]
    report = Report("scaling", options, bundle=workload.bundle, minutes=lengths, queries=numbers)
    for precision, bundle in workload.bundles.items():
        with Worker(python("ours.py", "--bundle", bundle), env=NOTHING_KEPT) as worker:
            worker.ask("warm_up")
            _against_length(report, worker, precision, lengths)
            _against_queries(report, workload, worker, precision, numbers)
    report.finish(grouped_lines({_LENGTH: "minutes", _QUERIES: "queries"}, "seconds", log=True))


def _against_length(report: Report, worker: Worker, precision: str, minutes: list[float]) -> None:
    """Encode videos of growing length, then ask each a few queries."""
    numbers = count(1)
    rates = []
    for length in minutes:
        spec = VideoSpec(seconds=60 * length, width=640, height=360, keyint=50)
        video = str(make_video(spec, report.options.media, find_source()))
        # A run of many minutes of video is its own average.
        rounds = report.options.rounds(3 if length <= 5 else 1)
        runs = [worker.ask("encode_file", video=video, sampling="nearest") for _ in range(rounds)]
        clips = int(runs[0]["clips"])
        values = {"minutes": length, "clips": clips}
        assert clips == round(spec.seconds / 2), f"{clips} clips of {spec.seconds} s"
        seconds = summarize([float(run["seconds"]) for run in runs])
        rates.append(clips / seconds.p50_s)
        report.add(
            Row(
                group=_LENGTH,
                name=f"encode (nearest) {precision}",
                seconds=seconds,
                values={**values, "seconds": seconds.p50_s, "clips/s": clips / seconds.p50_s},
            )
        )
        asked = [
            worker.ask(
                "query",
                video=video,
                sampling="nearest",
                window="auto",
                queries=queries(1, start=next(numbers)),
            )
            for _ in range(1 + report.options.rounds(5))
        ]
        # The first one also finalises the windows that are kept.
        for name, samples in (("first query", asked[:1]), ("further query", asked[1:])):
            answered = summarize([float(answer["seconds"]) for answer in samples])
            report.add(
                Row(
                    group=_LENGTH,
                    name=f"{name} {precision}",
                    seconds=answered,
                    values={**values, "seconds": answered.p50_s},
                )
            )
        report.say(f"{length:g} min, {precision}: {seconds.p50_s:.2f} s, {clips} clips")
    ratio = rates[-1] / max(rates)
    report.target(f"clips a second at the longest over the best, {precision}", ratio, ">=", 0.8)


def _against_queries(
    report: Report, workload: Workload, worker: Worker, precision: str, counts: list[int]
) -> None:
    """Ask about 150 s of video: in one batch, one by one, and the baseline."""
    seconds = 20 if report.options.quick else 150
    spec = VideoSpec(seconds=seconds, width=640, height=360, keyint=50)
    video = str(make_video(spec, report.options.media, find_source()))
    numbers = count(10_000, 10_000)

    def batch(size: int) -> Callable[[], float]:
        def measure() -> float:
            asked = queries(size, start=next(numbers))
            return float(worker.ask("query", video=video, queries=asked)["seconds"])

        return measure

    def one_by_one(asker: Worker, size: int) -> Callable[[], float]:
        def measure() -> float:
            asked = queries(size, start=next(numbers))
            return sum(
                float(asker.ask("query", video=video, queries=[query])["seconds"])
                for query in asked
            )

        return measure

    def agree() -> str:
        asked = queries(min(20, max(counts)))
        together = worker.ask("query", video=video, queries=asked)["answers"]
        alone = [
            answer
            for query in asked
            for answer in worker.ask("query", video=video, queries=[query])["answers"]
        ]
        found = f"batch and one by one: {same_answers(together, alone)}"
        if baseline is not None:
            theirs = baseline.ask("query", video=video, queries=asked[:3])["answers"]
            found += f"; baseline: {same_answers(together[:3], theirs)}"
        return found

    baseline = None
    if workload.without_baseline is not None:
        report.skip(_QUERIES, _BASELINE, workload.without_baseline)
    elif precision == "fp32":
        baseline = Worker(python("baseline.py", *workload.baseline_arguments(), "--serve"))
    try:
        for size in counts:
            cases = [Case(name=_BATCH, measure=batch(size))]
            if size <= _MOST_ONE_BY_ONE:
                cases.insert(0, Case(name=_ONE_BY_ONE, measure=one_by_one(worker, size)))
            if baseline is not None and size <= _MOST_BASELINE:
                cases.insert(0, Case(name=_BASELINE, measure=one_by_one(baseline, size)))
            columns = {case.name: {"queries": size} for case in cases}
            rows = report.time(
                f"{size} queries, {precision}",
                cases,
                agree=agree,
                repeats=report.options.rounds(3),
                baseline=cases[0].name if len(cases) > 1 else None,
                values=columns,
            )
            for name, row in rows.items():
                assert row.seconds is not None
                report.add(
                    Row(
                        group=_QUERIES,
                        name=name if name == _BASELINE else f"{name} {precision}",
                        values={
                            "queries": size,
                            "seconds": row.seconds.p50_s,
                            "queries/s": size / row.seconds.p50_s,
                        },
                    )
                )
            if size == 100:
                gain = (rows[_BATCH].speedup or 0.0) / (rows[_ONE_BY_ONE].speedup or 1.0)
                report.target(f"100 queries, batch over one by one, {precision}", gain, ">=", 5)
    finally:
        if baseline is not None:
            baseline.close()


if __name__ == "__main__":
    main()
