"""Annotations and predictions from jsonl files, each line checked before anything is computed.

JSON has no number that is not finite, and the decoder refuses one that a double cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from r2rt.textfiles import UTF8_MARK
from training.evaluation.benchmarks import Benchmark
from training.metrics import Annotation, EvaluationInputError, Prediction, Qid
from training.metrics.highlights import num_clips

__all__ = [
    "AnnotationFile",
    "PredictionFile",
    "matched",
    "ratings_fault",
    "read_annotations",
    "read_predictions",
]

Line = TypeVar("Line", Annotation, Prediction)
# A rounded length more or less is no fault: published predictions have 74 clips for 75.
_MOST_CLIPS_OFF = 1


@dataclass(frozen=True, kw_only=True)
class _File(Generic[Line]):
    path: Path
    lines: list[Line]
    numbers: dict[Qid, int] = field(repr=False)

    @property
    def labelled(self) -> bool:
        """Whether any line has an annotation, and not its query alone."""
        names = ("relevant_windows", "saliency_scores", "label")
        return any(getattr(line, name, None) for line in self.lines for name in names)

    def at(self, qid: Qid) -> str:
        """Return `file:line` of a query."""
        return f"{self.path}:{self.numbers[qid]}"


AnnotationFile = _File[Annotation]
PredictionFile = _File[Prediction]


def read_annotations(
    path: Path, benchmark: Benchmark, *, queries_suffice: bool = False
) -> AnnotationFile:
    """Read annotations, and check that they have what the benchmark needs.

    A line without `qid` is given its number in the file, from 1.

    Args:
        path: the file.
        benchmark: what is to be evaluated.
        queries_suffice: take a file without any annotation too, such as a test split whose
            moments are kept secret; `labelled` says so.

    Raises:
        EvaluationInputError: a line is malformed, repeats a qid, or cannot be evaluated; the
            message names file and line.
    """
    file = _read(path, Annotation)
    if queries_suffice and not file.labelled:
        return file
    for line in file.lines:
        if fault := _annotation_fault(line, benchmark):
            raise EvaluationInputError(f"{file.at(line.qid)}: {fault}")
    return file


def read_predictions(path: Path, benchmark: Benchmark) -> PredictionFile:
    """Read predictions: lines of a QVHighlights submission.

    Raises:
        EvaluationInputError: as `read_annotations`.
    """
    file = _read(path, Prediction)
    for line in file.lines:
        if fault := _prediction_fault(line, benchmark):
            raise EvaluationInputError(f"{file.at(line.qid)}: {fault}")
    return file


def matched(
    predictions: PredictionFile,
    annotations: AnnotationFile,
    benchmark: Benchmark,
    *,
    shared_only: bool = False,
) -> tuple[list[Prediction], list[Annotation]]:
    """Return the lines of both that can be compared: one prediction for every annotated query.

    Args:
        predictions: what was predicted.
        annotations: what was annotated.
        benchmark: what is to be evaluated.
        shared_only: leave out queries that one of the two lacks instead of refusing them.

    Raises:
        EvaluationInputError: a query has no prediction, a prediction no query, or its saliency is
            not as long as the video.
    """
    shared = annotations.numbers.keys() & predictions.numbers.keys()
    if not shared:
        raise EvaluationInputError(
            f"{predictions.path}: not one qid is in {annotations.path}; numbers and strings differ "
            "as qids, so compare how both files write them"
        )
    if not shared_only:
        _check_same(predictions, annotations)
    by_qid = {line.qid: line for line in predictions.lines}
    kept = [line for line in annotations.lines if line.qid in shared]
    for line in kept:
        fault = _length_fault(by_qid[line.qid], line, benchmark)
        if fault and not benchmark.ratings_optional:
            raise EvaluationInputError(f"{predictions.at(line.qid)}: {fault}")
    return [by_qid[line.qid] for line in kept], kept


def ratings_fault(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation], benchmark: Benchmark
) -> str | None:
    """Return why highlights cannot be evaluated; None where they can, or where none are rated.

    Args:
        predictions: one for each annotation, in their order.
        annotations: what was annotated.
        benchmark: the benchmark by whose rules they are evaluated.
    """
    unrated = [line.qid for line in annotations if line.saliency_scores is None]
    if len(unrated) == len(annotations):
        return None
    if unrated:
        return f"qid {unrated[0]!r}{_more(unrated)}: no `saliency_scores`"
    for prediction, line in zip(predictions, annotations, strict=True):
        fault = _ratings_fault(line) or _length_fault(prediction, line, benchmark)
        if fault or not line.duration:
            return f"qid {line.qid!r}: {fault if line.duration else 'no `duration`'}"
    widths = {len(values) for line in annotations for values in line.saliency_scores or ()}
    if len(widths) != 1:
        return f"`saliency_scores` has {sorted(widths)} values a clip; expected one an annotator"
    return None


def _check_same(predictions: PredictionFile, annotations: AnnotationFile) -> None:
    missing = [qid for qid in annotations.numbers if qid not in predictions.numbers]
    if missing:
        raise EvaluationInputError(
            f"{predictions.path}: no prediction for qid {missing[0]!r} "
            f"({annotations.at(missing[0])}){_more(missing)}; "
            "--shared-only evaluates the queries that both files have"
        )
    extra = [qid for qid in predictions.numbers if qid not in annotations.numbers]
    if extra:
        raise EvaluationInputError(
            f"{predictions.at(extra[0])}: qid {extra[0]!r} is not in {annotations.path}"
            f"{_more(extra)}; --shared-only evaluates the queries that both files have"
        )


def _read(path: Path, kind: type[Line]) -> _File[Line]:
    lines: list[Line] = []
    numbers: dict[Qid, int] = {}
    for number, raw in _raw_lines(path):
        try:
            line = _decode(raw, kind, number)
        except msgspec.DecodeError as error:
            raise EvaluationInputError(f"{path}:{number}: {_reason(error, raw)}") from error
        if line.qid in numbers:
            raise EvaluationInputError(
                f"{path}:{number}: qid {line.qid!r} again, first in line {numbers[line.qid]}; "
                "give every query one line"
            )
        numbers[line.qid] = number
        lines.append(line)
    if not lines:
        raise EvaluationInputError(f"{path}: no lines in it; expected one JSON object a line")
    return _File(path=path, lines=lines, numbers=numbers)


def _decode(raw: bytes, kind: type[Line], number: int) -> Line:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError:
        if kind is not Annotation:
            raise
    record = msgspec.json.decode(raw, type=dict[str, object])
    # A field that is null is one that is not there, as in training.
    given = {name: value for name, value in record.items() if value is not None}
    return msgspec.convert({"qid": number} | given, kind)


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.removeprefix(UTF8_MARK) if number == 1 else raw
                if line.strip():
                    yield number, line
    except OSError as error:
        raise EvaluationInputError(f"{path}: {error.strerror}") from error


def _reason(error: msgspec.DecodeError, raw: bytes) -> str:
    if not isinstance(error, msgspec.ValidationError) and (b"NaN" in raw or b"Infinity" in raw):
        return "NaN or Infinity in it, which JSON has not; write finite numbers"
    if "pred_relevant_windows" in str(error):
        return f"{error}; a predicted moment is [start s, end s, score]"
    if "relevant_windows" in str(error):
        return f"{error}; a moment is [start s, end s]"
    return str(error)


def _annotation_fault(line: Annotation, benchmark: Benchmark) -> str | None:
    if benchmark.labels:
        return _label_fault(line)
    if not line.relevant_windows:
        return "no `relevant_windows`; such a query cannot be evaluated"
    for window in line.relevant_windows:
        if not window[0] < window[1]:
            return f"moment {list(window)}; expected its start before its end, in seconds"
    return None if benchmark.ratings_optional else _ratings_fault(line)


def _ratings_fault(line: Annotation) -> str | None:
    if line.saliency_scores is None:
        return "no `saliency_scores`" if line.relevant_clip_ids else None
    clips, scores = line.relevant_clip_ids or [], line.saliency_scores
    if len(clips) != len(scores):
        return (
            f"{len(clips)} `relevant_clip_ids`, {len(scores)} `saliency_scores`; expected as many"
        )
    if len(widths := {len(values) for values in scores}) > 1:
        return f"`saliency_scores` has {sorted(widths)} values a clip; expected one an annotator"
    if clips and not 0 <= min(clips) <= max(clips) < num_clips(line):
        return (
            f"clips {min(clips)} to {max(clips)} are annotated, and a `duration` of "
            f"{line.duration:g} s has {num_clips(line)}"
        )
    return None


def _label_fault(line: Annotation) -> str | None:
    if not line.label:
        return "no `label`: one list of values a clip"
    widths = {len(values) for values in line.label}
    if len(widths) > 1 or 0 in widths:
        return f"`label` has {sorted(widths)} values a clip; expected as many in every clip"
    return None


def _prediction_fault(line: Prediction, benchmark: Benchmark) -> str | None:
    saliency = line.pred_saliency_scores
    if benchmark.labels and not saliency:
        return "no `pred_saliency_scores`"
    if not benchmark.labels and line.pred_relevant_windows is None:
        return "no `pred_relevant_windows`; write [] where a model finds no moment"
    for window in line.pred_relevant_windows or ():
        if window[1] < window[0]:
            return f"predicted moment {list(window)} ends before it starts"
    return None


def _length_fault(line: Prediction, annotation: Annotation, benchmark: Benchmark) -> str | None:
    if line.pred_saliency_scores is None:
        return None
    if benchmark.labels:
        expected = len(annotation.label or ())
    elif annotation.saliency_scores is not None:
        expected = num_clips(annotation)
    else:
        return None
    got = len(line.pred_saliency_scores)
    if abs(got - expected) <= _MOST_CLIPS_OFF:
        return None
    return f"{got} `pred_saliency_scores`, the video has {expected} clips; expected as many"


def _more(qids: Sequence[Qid]) -> str:
    return f" and {len(qids) - 1} more" if len(qids) > 1 else ""
