"""Every figure that the authors' evaluation gives for known predictions, exactly as printed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from training.evaluation.benchmarks import BENCHMARKS, evaluate
from training.evaluation.reading import matched, read_annotations, read_predictions


@pytest.mark.shared("annotations")
@pytest.mark.parametrize(
    ("benchmark", "annotations", "predictions", "metrics", "count"),
    [
        (
            "qvhighlights",
            "qvhighlights_val",
            "qvhighlights_val_preds_moment_detr",
            "qvhighlights_val_preds_moment_detr_metrics",
            188,
        ),
        ("charades", "charades_test", "charades_test_preds", "charades_test_metrics", 176),
        ("tacos", "tacos_test", "tacos_test_preds", "tacos_test_metrics", 176),
        ("tvsum", "tvsum_val", "tvsum_val_preds", "tvsum_val_metrics", 11),
        ("youtube", "youtube_val", "youtube_val_preds", "youtube_val_metrics", 7),
    ],
)
def test_every_figure_is_the_published_one(
    shared: Path, benchmark: str, annotations: str, predictions: str, metrics: str, count: int
) -> None:
    chosen = BENCHMARKS[benchmark]
    lines, truths = matched(
        read_predictions(shared / f"{predictions}.jsonl", chosen),
        read_annotations(shared / f"{annotations}.jsonl", chosen),
        chosen,
    )
    expected = _flat(json.loads((shared / f"{metrics}.json").read_text()))
    assert len(expected) == count
    assert _flat(evaluate(chosen, lines, truths).figures()) == expected


@pytest.mark.shared("annotations/qvhighlights_val.jsonl")
def test_qvhighlights_val_takes_less_than_three_seconds(shared: Path) -> None:
    chosen = BENCHMARKS["qvhighlights"]
    began = time.process_time()
    predictions = shared.with_name("qvhighlights_val_preds_moment_detr.jsonl")
    lines, truths = matched(
        read_predictions(predictions, chosen), read_annotations(shared, chosen), chosen
    )
    evaluate(chosen, lines, truths)
    assert time.process_time() - began < 3


def _flat(figures: Any, name: str = "") -> dict[str, float]:
    if not isinstance(figures, dict):
        return {name: figures}
    return {
        key: value
        for part, inner in figures.items()
        for key, value in _flat(inner, f"{name}/{part}").items()
    }
