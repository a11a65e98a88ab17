"""Random small cases for the metrics."""

from __future__ import annotations

from hypothesis import strategies as st

from training.metrics import Annotation, Prediction

# Few places and few scores, so that equal IoUs and equal scores are common.
_PLACES = st.integers(0, 40)
_SCORES = st.integers(0, 8).map(lambda score: score / 8)


@st.composite
def spans(draw: st.DrawFn) -> tuple[float, float]:
    start, end = sorted(draw(st.lists(_PLACES, min_size=2, max_size=2, unique=True)))
    return float(start), float(end)


@st.composite
def moment_cases(draw: st.DrawFn) -> tuple[list[Prediction], list[Annotation]]:
    count = draw(st.integers(1, 5))
    predictions, annotations = [], []
    for qid in range(count):
        windows = draw(st.lists(st.tuples(spans(), _SCORES), max_size=12))
        predictions.append(
            Prediction(
                qid=qid,
                pred_relevant_windows=[(start, end, score) for (start, end), score in windows],
            )
        )
        truths = draw(st.lists(spans(), min_size=1, max_size=4))
        annotations.append(Annotation(qid=qid, duration=40.0, relevant_windows=truths))
    return predictions, annotations


@st.composite
def saliency_cases(draw: st.DrawFn) -> tuple[list[Prediction], list[Annotation]]:
    predictions, annotations = [], []
    for qid in range(draw(st.integers(1, 4))):
        clips = draw(st.integers(1, 9))
        given = draw(st.integers(max(clips - 1, 1), clips + 1))
        relevant = sorted(draw(st.sets(st.integers(0, clips - 1), min_size=1)))
        rows = st.lists(st.integers(0, 4).map(float), min_size=3, max_size=3)
        saliency = draw(st.lists(st.integers(-3, 3).map(float), min_size=given, max_size=given))
        predictions.append(Prediction(qid=qid, pred_saliency_scores=saliency))
        annotations.append(
            Annotation(
                qid=qid,
                duration=2.0 * clips,
                relevant_clip_ids=relevant,
                saliency_scores=[draw(rows) for _ in relevant],
            )
        )
    return predictions, annotations


@st.composite
def label_cases(draw: st.DrawFn, *, annotators: int) -> tuple[list[Prediction], list[Annotation]]:
    predictions, annotations = [], []
    for qid in range(draw(st.integers(1, 4))):
        clips = draw(st.integers(1, 9))
        saliency = draw(st.permutations([float(value) for value in range(clips)]))
        rows = st.lists(st.integers(-1, 4).map(float), min_size=annotators, max_size=annotators)
        predictions.append(Prediction(qid=qid, pred_saliency_scores=list(saliency)))
        annotations.append(
            Annotation(
                qid=qid,
                label=[draw(rows) for _ in range(clips)],
                domain=draw(st.sampled_from(["dog", "cat"])),
            )
        )
    return predictions, annotations
