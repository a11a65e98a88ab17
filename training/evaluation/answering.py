"""Asking a model: the queries of a benchmark, over its videos or over saved encodings of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from r2rt.cli.console import write_text
from r2rt.grounding.encoded import EncodedVideo
from training.data.videos import VideoFolder, composed, video_id
from training.evaluation.benchmarks import Benchmark
from training.evaluation.reading import AnnotationFile
from training.metrics import Annotation, EvaluationInputError, Prediction

if TYPE_CHECKING:
    import r2rt
    from r2rt.grounding.grounder import Grounder

__all__ = ["answer", "find_sources", "write_submission"]

# Called with the videos done and the videos there are.
Progress = Callable[[int, int], None]

ENCODED_SUFFIX = ".r2rt"
_TIME_DECIMALS, _SCORE_DECIMALS = 4, 6


def find_sources(folder: Path, annotations: AnnotationFile, *, encoded: bool) -> dict[str, Path]:
    """Return the file of every annotated video, by the name that annotations call it.

    It is `folder/NAME`, a file or a folder of images, or else the one file `folder/NAME.*`, or else
    what training takes for it (see `VideoFolder`); an encoded video is `folder/NAME.r2rt`, with or
    without the suffix that NAME has. Accents may be written either way (NFC, NFD).

    Raises:
        EvaluationInputError: a video is not there, or two files go by its name, with the line that
            wants it; or a line names no video.
    """
    if not folder.is_dir():
        raise EvaluationInputError(f"{folder}: no such folder")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix == ENCODED_SUFFIX) == encoded:
            by_stem.setdefault(composed(str(path.with_suffix(""))), []).append(path)
        elif path.is_dir() and not encoded:
            by_stem.setdefault(composed(str(path)), []).append(path)
    videos = VideoFolder(folder)
    sources: dict[str, Path] = {}
    for line in annotations.lines:
        name = _video_name(line)
        if name in sources:
            continue
        where = annotations.at(line.qid)
        if not name:
            raise EvaluationInputError(f"{where}: neither `vid` nor `video` names its video")
        sources[name] = _source(videos, name, by_stem, where, encoded=encoded)
    return sources


def answer(
    grounder: Grounder,
    benchmark: Benchmark,
    annotations: Sequence[Annotation],
    sources: dict[str, Path],
    *,
    progress: Progress = lambda _done, _total: None,
) -> list[Prediction]:
    """Ask all queries of each video in one batch and return the answers in the annotations' order.

    Args:
        grounder: the model.
        benchmark: says how saliency meets labels.
        annotations: the queries.
        sources: of every video; see `find_sources`.
        progress: called after each video.

    Raises:
        R2rtError: a video cannot be read or encoded, or was encoded by another model.
    """
    by_video: dict[str, list[Annotation]] = {}
    for line in annotations:
        by_video.setdefault(_video_name(line), []).append(line)
    answers: dict[int | str, Prediction] = {}
    for done, (name, lines) in enumerate(by_video.items(), start=1):
        path = sources[name]
        if path.suffix == ENCODED_SUFFIX:
            video = EncodedVideo.load(path)
        else:
            video = grounder.encode(str(path))
        predictions = grounder.ground(video, [line.query for line in lines])
        for line, prediction in zip(lines, predictions, strict=True):
            answers[line.qid] = _as_line(prediction, line, video, benchmark)
        progress(done, len(by_video))
    return [answers[line.qid] for line in annotations]


def write_submission(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions as QVHighlights submission lines; see `r2rt.cli.console.write_text`.

    Raises:
        OutputError: the file cannot be written.
    """
    lines = (msgspec.json.encode(prediction).decode() + "\n" for prediction in predictions)
    write_text(path, "".join(lines))


def _video_name(line: Annotation) -> str:
    return line.vid or line.video


def _source(
    videos: VideoFolder,
    name: str,
    by_stem: dict[str, list[Path]],
    where: str,
    *,
    encoded: bool,
) -> Path:
    folder = videos.folder
    exact = folder / name
    if not encoded and exact.exists():
        return exact
    # A name may hold dots without having a suffix, such as `NUsG9BgSes0_210.0_360.0`.
    found = _called(exact, by_stem)
    if not found and encoded and not exact.suffix[1:].isdecimal():
        found = _called(exact.with_suffix(""), by_stem)
    if len(found) != 1 and not encoded:
        # As training finds it, whatever subtitles or images lie beside it.
        found = videos.candidates(video_id(name)) or found
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise EvaluationInputError(f"{where}: {folder} holds {names}; leave one")
    if not found:
        wanted = f"{name}{ENCODED_SUFFIX}" if encoded else name
        raise EvaluationInputError(f"{where}: {wanted} is not in {folder}")
    return found[0]


def _called(stem: Path, by_stem: dict[str, list[Path]]) -> list[Path]:
    """Return the files that are called so, or else those whose accents are written otherwise."""
    found = by_stem.get(composed(str(stem)), [])
    return [path for path in found if path.with_suffix("") == stem] or found


def _as_line(
    prediction: r2rt.Prediction, line: Annotation, video: EncodedVideo, benchmark: Benchmark
) -> Prediction:
    # Annotations count from the video's start, predictions on its own clock.
    windows = [
        (
            round(moment.start_s - video.start_s, _TIME_DECIMALS),
            round(moment.end_s - video.start_s, _TIME_DECIMALS),
            round(moment.score, _SCORE_DECIMALS),
        )
        for moment in prediction.moments
    ]
    saliency = np.asarray(prediction.saliency, dtype=np.float64)
    if benchmark.clips_vary and line.label:
        saliency = saliency[_clips_at_middles(len(line.label), len(saliency))]
    return Prediction(
        qid=line.qid,
        query=line.query,
        vid=_video_name(line),
        pred_relevant_windows=windows,
        pred_saliency_scores=saliency.round(_SCORE_DECIMALS).tolist(),
    )


def _clips_at_middles(labelled: int, predicted: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return for each of the labelled clips the predicted clip in which its middle lies."""
    return (2 * np.arange(labelled) + 1) * predicted // (2 * labelled)
