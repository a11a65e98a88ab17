"""Evaluate predictions or a model: `python -m training.evaluate qvhighlights --annotations FILE`.

Exit codes: 0 done, 2 wrong usage, 10 to 14 a video or its encoding cannot be used, 20 to 25 the
model cannot be used, 30 and 31 the device or Matplotlib is missing, 40 a result could not be
written, 61 annotations or predictions cannot be evaluated, 130 interrupted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from r2rt.cli.console import note, print_table, progress, write_text
from r2rt.cli.options import is_model_named, model_options, quiet_option
from r2rt.files import check_destinations
from training._command import run
from training.evaluation.benchmarks import BENCHMARKS, Benchmark, Evaluation
from training.evaluation.benchmarks import evaluate as evaluate_lines
from training.evaluation.reading import (
    AnnotationFile,
    PredictionFile,
    matched,
    ratings_fault,
    read_annotations,
    read_predictions,
)
from training.metrics import Annotation, EvaluationInputError, Prediction

if TYPE_CHECKING:
    from r2rt.engines import Device

__all__ = ["evaluate", "main"]

_FILE = click.Path(path_type=Path)


@click.command(epilog=(__doc__ or "").split("\n\n", 1)[1])
@click.argument("benchmark", type=click.Choice(list(BENCHMARKS)))
@click.option(
    "--annotations",
    "annotations_path",
    type=_FILE,
    required=True,
    help="jsonl of QVHighlights' fields; TVSum and YouTube Highlights: `label`, `domain`.",
)
@click.option(
    "--predictions",
    "predictions_paths",
    type=_FILE,
    multiple=True,
    help="jsonl as a QVHighlights submission; several stand side by side.  [may be repeated]",
)
@model_options
@click.option("--videos", type=_FILE, help="Ask the model over this folder's videos, named by vid.")
@click.option(
    "--features", type=_FILE, help="Ask the model over this folder's encoded videos, VID.r2rt."
)
@click.option("--submission", type=_FILE, help="Write the model's answers as submission lines.")
@click.option("--json", "json_path", type=_FILE, help="Write every figure.")
@click.option("--plots", type=_FILE, help="Draw into this folder.")
@click.option(
    "--shared-only", is_flag=True, help="Leave out queries that one of the files does not have."
)
@quiet_option
def evaluate(
    benchmark: str,
    annotations_path: Path,
    predictions_paths: tuple[Path, ...],
    model: str | None,
    device: Device,
    videos: Path | None,
    features: Path | None,
    submission: Path | None,
    json_path: Path | None,
    plots: Path | None,
    shared_only: bool,
    quiet: bool,
) -> None:
    """Evaluate predictions of BENCHMARK, or a model's answers, as the benchmark's authors do.

    The result, in percent (TVSum and YouTube Highlights: fractions), goes to stdout as a table.
    """
    if videos is not None and features is not None:
        raise click.UsageError("--videos and --features: give one of them")
    folder = videos or features
    if folder is None and (is_model_named() or submission is not None):
        raise click.UsageError("--model and --submission need --videos DIR or --features DIR")
    if folder is None and not predictions_paths:
        raise click.UsageError("give --predictions FILE, or --videos DIR or --features DIR")
    written = [path for path in (submission, json_path) if path is not None]
    if len({path.resolve() for path in written}) < len(written):
        raise click.UsageError("--submission and --json: name two files")
    chosen = BENCHMARKS[benchmark]
    # The moments of a test split may be secret: its answers are evaluated elsewhere.
    answers_alone = submission is not None and not (predictions_paths or json_path or plots)
    annotations = read_annotations(annotations_path, chosen, queries_suffice=answers_alone)
    files = {
        name: read_predictions(path, chosen)
        for name, path in zip(_names(predictions_paths), predictions_paths, strict=True)
    }
    sources: dict[str, Path] = {}
    if folder is not None:
        from training.evaluation.answering import find_sources

        sources = find_sources(folder, annotations, encoded=videos is None)
    # All answers would be lost with what is found out after them.
    check_destinations(written, [annotations_path, *predictions_paths, *sources.values()])
    if plots is not None:
        from training.evaluation.plots import check_drawable

        check_drawable(plots)
    if folder is not None:
        name, answers = _ask(chosen, annotations, model, device, sources, quiet=quiet)
        if submission is not None:
            from training.evaluation.answering import write_submission

            write_submission(submission, answers.lines)
        if not annotations.labelled:
            note(
                f"{annotations_path} has no annotations; {submission} has the answers to its "
                f"{len(answers.lines)} queries, and nothing was evaluated",
                quiet=quiet,
            )
            return
        files[name if name not in files else f"{name} (model)"] = answers
    began = time.perf_counter()
    results = _results(chosen, annotations, files, shared_only=shared_only, quiet=quiet)
    note(f"evaluated in {time.perf_counter() - began:.2f} s", quiet=quiet)
    if json_path is not None:
        write_text(json_path, _as_json(chosen, annotations_path, results))
    if plots is not None:
        _draw(plots, results, quiet=quiet)
    _print(results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    return run(evaluate, "python -m training.evaluate", arguments, cut="nothing was evaluated.")


@dataclass(frozen=True, kw_only=True)
class _Result:
    predictions: list[Prediction]
    annotations: list[Annotation]
    evaluation: Evaluation


def _results(
    benchmark: Benchmark,
    annotations: AnnotationFile,
    files: dict[str, PredictionFile],
    *,
    shared_only: bool,
    quiet: bool,
) -> dict[str, _Result]:
    results = {}
    for name, file in files.items():
        lines, truths = matched(file, annotations, benchmark, shared_only=shared_only)
        if len(truths) < max(len(annotations.lines), len(file.lines)):
            note(
                f"{name}: {len(truths)} queries are in both files, of {len(annotations.lines)} "
                f"annotated and {len(file.lines)} predicted ones",
                quiet=quiet,
            )
        if benchmark.ratings_optional and (fault := ratings_fault(lines, truths, benchmark)):
            note(f"{name}: moments alone are evaluated, no highlights ({fault})", quiet=quiet)
            truths = [msgspec.structs.replace(line, saliency_scores=None) for line in truths]
        try:
            evaluation = evaluate_lines(benchmark, lines, truths)
        except EvaluationInputError as error:
            raise EvaluationInputError(f"{file.path}: {error}") from error
        results[name] = _Result(predictions=lines, annotations=truths, evaluation=evaluation)
    return results


def _ask(
    benchmark: Benchmark,
    annotations: AnnotationFile,
    model: str | None,
    device: Device,
    sources: dict[str, Path],
    *,
    quiet: bool,
) -> tuple[str, PredictionFile]:
    from r2rt.cli.session import open_model
    from training.evaluation.answering import answer

    for line in annotations.lines:
        if not line.query.strip():
            raise EvaluationInputError(f"{annotations.at(line.qid)}: no `query` to ask")
    grounder = open_model(model, device, quiet=quiet)
    with progress("answering", total=len(sources), unit="videos", quiet=quiet) as update:
        lines = answer(grounder, benchmark, annotations.lines, sources, progress=update)
    # An answer is reported by the line of its query.
    numbers = {line.qid: annotations.numbers[line.qid] for line in lines}
    file = PredictionFile(path=annotations.path, lines=lines, numbers=numbers)
    return grounder.bundle.manifest.name, file


def _names(paths: Sequence[Path]) -> list[str]:
    stems = [path.stem for path in paths]
    names = [str(path) if stems.count(path.stem) > 1 else path.stem for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"--predictions {name}: given twice")
    return names


def _print(results: dict[str, _Result]) -> None:
    headlines = {name: result.evaluation.headline() for name, result in results.items()}
    rows = list(dict.fromkeys(key for headline in headlines.values() for key in headline))
    decimals = 5 if next(iter(results.values())).evaluation.domains else 2
    table = [
        [row, *(_cell(headline.get(row), decimals) for headline in headlines.values())]
        for row in rows
    ]
    counts = [str(result.evaluation.num_queries) for result in results.values()]
    print_table(["metric", *headlines], [*table, ["queries", *counts]])


def _cell(value: object, decimals: int) -> str:
    return f"{value:.{decimals}f}" if isinstance(value, float) else "-"


def _as_json(benchmark: Benchmark, annotations: Path, results: dict[str, _Result]) -> str:
    document = {
        "benchmark": benchmark.name,
        "annotations": annotations.name,
        "results": [
            {
                "name": name,
                "queries": result.evaluation.num_queries,
                "metrics": result.evaluation.figures(),
            }
            for name, result in results.items()
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _draw(folder: Path, results: dict[str, _Result], *, quiet: bool) -> None:
    from training.evaluation.plots import draw

    written = draw(
        folder,
        {name: result.evaluation for name, result in results.items()},
        {name: result.predictions for name, result in results.items()},
        {name: result.annotations for name, result in results.items()},
    )
    note(f"drew {', '.join(str(path) for path in written)}", quiet=quiet)


if __name__ == "__main__":
    sys.exit(main())
