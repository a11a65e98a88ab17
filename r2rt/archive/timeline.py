"""An OpenTimelineIO timeline of the hits of a search, of all videos one after another.

Each hit is a clip as in `r2rt.outputs.otio_format`. Its times count frames of its own video; the
timeline counts at the rate of the best hit's video, as editing programs expect it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from r2rt.archive.media import predictions_of
from r2rt.archive.result import SearchResult
from r2rt.errors import R2rtError, SourceNotFoundError
from r2rt.grounding.many import attempt
from r2rt.outputs.answers import Answers
from r2rt.outputs.formats import render
from r2rt.printable import escape_controls
from r2rt.video.remote import video_path

if TYPE_CHECKING:
    from r2rt.grounding.prediction import Prediction

__all__ = ["render_timeline"]


def render_timeline(found: SearchResult, failed: Callable[[str, str], None]) -> str:
    """Return the timeline of all hits, best first.

    Args:
        found: the hits.
        failed: called with the path of a video that cannot be read, and the reason; its hits are
            left out.
    """
    ranks = {(hit.path, hit.start_s, hit.end_s): rank for rank, hit in enumerate(found, start=1)}
    tracks: dict[str, list[tuple[int, dict[str, Any]]]] = {"Video": [], "Audio": []}
    whole: dict[str, Any] = {}
    for path, prediction in predictions_of(found).items():
        one = attempt(path, functools.partial(_timeline_of, prediction))
        if isinstance(one, R2rtError):
            failed(path, str(one))
            continue
        whole = whole or one
        for track in one["tracks"]["children"]:
            for clip in track["children"]:
                facts = clip["metadata"]["r2rt"]
                rank = ranks[path, facts["start_s"], facts["end_s"]]
                facts["rank"] = rank
                tracks[track["kind"]].append((rank, clip))
    if not whole:
        return '{"OTIO_SCHEMA": "Timeline.1", "name": "r2rt search"}\n'
    template = whole["tracks"]["children"][0]
    whole["tracks"]["children"] = [
        {**template, "kind": kind, "children": _in_order(clips, len(found))}
        for kind, clips in tracks.items()
        if clips
    ]
    whole["name"] = "r2rt search"
    whole["metadata"] = {"r2rt": {"query": found.query, "model": found.model}}
    return (
        escape_controls(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode()) + "\n"
    )


def _timeline_of(prediction: Prediction, path: str) -> dict[str, Any]:
    """Return the timeline of one video."""
    video = video_path(path)
    if isinstance(video, Path) and not video.is_file():
        raise SourceNotFoundError(f"{path}: no video file there, in whose frames a timeline counts")
    answers = dataclasses.replace(Answers.of(prediction), spool=video)
    timeline: dict[str, Any] = msgspec.json.decode(render("otio", answers))
    return timeline


def _in_order(clips: list[tuple[int, dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    """Return clips by rank; a track that lacks one, such as sound of a silent video, has a gap."""
    of_rank = dict(clips)
    return [of_rank[rank] for rank in range(1, count + 1) if rank in of_rank]
