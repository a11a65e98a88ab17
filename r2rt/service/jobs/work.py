"""What jobs of each kind do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from r2rt.errors import R2rtError
from r2rt.files import as_text, temporary_beside
from r2rt.portable import replace
from r2rt.retry import TransientError
from r2rt.service.computing import NotEncodedError
from r2rt.service.exports import as_predictions, export
from r2rt.service.jobs.runner import Progress
from r2rt.service.jobs.store import Job
from r2rt.service.problems import ProblemError
from r2rt.service.videos import Video

if TYPE_CHECKING:
    from r2rt.grounding.prediction import Prediction
    from r2rt.progress import Update
    from r2rt.selection.highlights import HighlightLength
    from r2rt.service.service import Service

__all__ = ["as_document", "do_job"]

# Of all answers of a job. They are in memory several times as large, and SQLite holds no more than
# a gigabyte.
_MOST_RESULT_BYTES = 256 << 20


def do_job(service: Service, job: Job, progress: Progress) -> Any:
    """Do a job and return its result as plain types.

    Raises:
        R2rtError, ProblemError: it cannot be done.
        TransientError: it may work the next time.
    """
    try:
        return _KINDS[job.kind](service, job, progress)
    except NotEncodedError:
        raise TransientError("the cache made room for others; encode it again") from None


def as_document(
    prediction: Any, *, top_k: int | None, threshold: float, saliency: bool
) -> dict[str, Any]:
    """Return a prediction as the interface has it."""
    best = prediction.best(top_k, threshold)
    starts = best.clip_starts_s
    return {
        "query": best.query,
        "query_truncated": best.query_truncated,
        "unknown_words": list(best.unknown_words),
        "present": best.present,
        "presence_score": best.presence_score,
        "moments": [
            {"start_s": moment.start_s, "end_s": moment.end_s, "score": moment.score}
            for moment in best.moments
        ],
        "saliency": {
            "start_s": float(starts[0]) if len(starts) else 0.0,
            "fps": float(best.fps),
            "values": best.saliency.round(5).tolist(),
        }
        if saliency
        else None,
    }


def _encode(service: Service, job: Job, progress: Progress) -> Any:
    video = service.videos.get(job.request["video"])
    was = video.state
    _set_state(service, job, video, "encoding")
    try:
        if not video.path.exists() and video.url is not None:
            service.fetch(video, progress)
        video = service.videos.known(video.id)
        if not job.request.get("encode", True):  # it was to be fetched, and no more
            _set_state(service, job, video, "ready" if was == "ready" else "new")
            return {"clips": 0, "duration_s": video.facts["duration_s"]}
        clips, duration_s = service.computing.encode(video.path, job.request.get("model"), progress)
    except R2rtError as error:
        _set_state(service, job, video, "failed", as_text(str(error)))
        raise
    except ProblemError as problem:
        _set_state(service, job, video, "failed", problem.detail)
        raise
    except TransientError as error:
        if job.attempts < service.settings.max_attempts:
            _set_state(service, job, video, "new")
        else:  # it is not tried again
            _set_state(service, job, video, "failed", as_text(str(error)))
        raise
    except Exception as error:
        _set_state(service, job, video, "failed", ProblemError.fault(error).detail)
        raise
    except BaseException:  # it was cancelled, or the service closes
        _set_state(service, job, video, "new")
        raise
    _set_state(service, job, video, "ready")
    return {"clips": clips, "duration_s": duration_s}


def _ground(service: Service, job: Job, progress: Progress) -> Any:
    request = job.request
    videos = [service.videos.there(id_) for id_ in request["videos"]]
    results, size = [], 0
    for number, video in enumerate(videos):
        part = _Part(progress, number, len(videos))
        asked = _encoded(service, job, video, part)
        predictions = service.computing.answer(*asked, request["queries"])
        documents = [
            as_document(
                prediction,
                top_k=request.get("top_k"),
                threshold=request["threshold"],
                saliency=request["saliency"],
            )
            for prediction in predictions
        ]
        size += len(msgspec.json.encode(documents))
        if size > _MOST_RESULT_BYTES:
            raise ProblemError(
                413,
                "too-large",
                f"the answers take more than {_MOST_RESULT_BYTES >> 20} MB; ask with "
                '"saliency": false, or about fewer videos at once',
            )
        model = predictions[0].model
        results.append({"video": video.id, "model": model, "predictions": documents})
    progress(1, 1)
    return {"videos": results}


def _highlights(service: Service, job: Job, progress: Progress) -> Any:
    request = job.request
    video = service.videos.there(request["video"])
    asked = *_encoded(service, job, video, progress), request.get("query")
    length: HighlightLength = request.get("length_s") or "auto"
    return _selected(video, service.computing.highlights(*asked, request["top"], length))


def _summarize(service: Service, job: Job, progress: Progress) -> Any:
    from r2rt.selection.summary import parse_length

    request = job.request
    parse_length(request["length"])
    video = service.videos.there(request["video"])
    asked = *_encoded(service, job, video, progress), request.get("query")
    return _selected(video, service.computing.summarize(*asked, request["length"]))


def _selected(video: Video, prediction: Prediction) -> dict[str, Any]:
    document = as_document(prediction, top_k=None, threshold=0.0, saliency=True)
    return {"video": video.id, "model": prediction.model, "predictions": [document]}


def _clips(service: Service, job: Job, progress: Progress) -> Any:
    from r2rt.media.cut import cut_clips
    from r2rt.media.reel import write_reel

    request = job.request
    video = service.videos.there(request["video"])
    predictions = as_predictions(video, request["moments"])
    label = Path(video.name).stem

    def update(done: int, total: int | None) -> None:
        progress(done, total)

    def write(folder: Path) -> None:
        progress(0, 1)
        if request["reel"]:
            path = folder / "reel.mp4"
            pairs = [(video.path, predictions)]
            write_reel(pairs, path, padding_s=request["padding_s"], update=update)
        else:
            cut_clips(
                video.path,
                predictions,
                folder,
                label=label,
                copy=request["copy_packets"],
                padding_s=request["padding_s"],
                update=update,
            )

    return _files(service, job, write)


def _export(service: Service, job: Job, progress: Progress) -> Any:
    request = job.request
    video = service.videos.known(request["video"])
    name, text = export(video, request["format"], request["moments"])
    progress(1, 1)
    return _files(
        service, job, lambda folder: (folder / name).write_text(text, "utf-8", newline="")
    )


def _index(service: Service, job: Job, progress: Progress) -> Any:
    video = service.videos.there(job.request["video"])
    reason = service.computing.index(video.path, progress)
    if reason is not None:
        raise ProblemError(422, "not-indexed", reason)
    return {"video": video.id, "indexed": True}


def _files(service: Service, job: Job, write: Any) -> Any:
    """Let `write` make files in a folder, which becomes the job's as a whole."""
    folder = service.results / job.id
    temporary = temporary_beside(folder)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        if folder.exists():  # of an attempt that ended after this and before it was noted
            shutil.rmtree(folder)
        replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {
        "files": [
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "url": f"/api/v1/jobs/{job.id}/files/{path.name}",
            }
            for path in sorted(folder.iterdir())
        ]
    }


def _encoded(service: Service, job: Job, video: Video, progress: Update) -> tuple[Path, str | None]:
    """Encode a video if it is not encoded, and return what asks about it."""
    model = job.request.get("model")
    service.computing.encode(video.path, model, progress)
    if video.state != "ready":
        _set_state(service, job, video, "ready")
    return video.path, model


def _set_state(
    service: Service, job: Job, video: Video, state: Any, error: str | None = None
) -> None:
    """Note how far a video is for the default model."""
    if job.request.get("model") is None:
        service.videos.set_state(video.id, state, error)
        service.hub.publish("videos", video.id)


class _Part:
    """The progress of one of several equal parts."""

    def __init__(self, progress: Progress, number: int, count: int) -> None:
        self._progress, self._number, self._count = progress, number, count

    def __call__(self, done: int, total: int | None) -> None:
        if total:
            self._progress(self._number * total + done, self._count * total)


_KINDS: dict[str, Any] = {
    "encode": _encode,
    "ground": _ground,
    "highlights": _highlights,
    "summarize": _summarize,
    "clips": _clips,
    "export": _export,
    "index": _index,
}
