"""OpenTimelineIO: a timeline of the moments of a video, one after another, in the video's order.

The JSON is written here, since the library is large and only tests read it back. Schemas are those
that every version since 0.15 reads.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec

from r2rt.files import as_text
from r2rt.outputs.answers import Answers, Found
from r2rt.outputs.source import SourceFacts
from r2rt.printable import escape_controls
from r2rt.timecode import parse_timecode

__all__ = ["render"]


def render(answers: Answers) -> str:
    """Return the timeline of a video's moments.

    A clip is a moment: its name is query and score, its marker the query, and its metadata `r2rt`
    has query, qid, rank, score and exact seconds. Source times are on the video's own timecode.

    Raises:
        R2rtError: the video cannot be read; see `Answers.source`.
    """
    source = answers.source
    found = answers.found
    kinds = ["Video", "Audio"] if source.sound_channels else ["Video"]
    begin, _ = parse_timecode("01:00:00;00" if source.drop else "01:00:00:00", source.rate)
    timeline = {
        "OTIO_SCHEMA": "Timeline.1",
        "metadata": {"r2rt": _facts(answers)},
        "name": f"{as_text(answers.path.stem)} moments",
        "global_start_time": _time(begin, source.rate),
        "tracks": {
            "OTIO_SCHEMA": "Stack.1",
            "metadata": {},
            "name": "tracks",
            "source_range": None,
            "effects": [],
            "markers": [],
            "enabled": True,
            "children": [_track(kind, found, source) for kind in kinds],
        },
    }
    text = msgspec.json.format(msgspec.json.encode(timeline), indent=2).decode()
    return escape_controls(text) + "\n"


def _facts(answers: Answers) -> dict[str, Any]:
    source = answers.source
    return {
        "video": as_text(answers.path),
        "model": answers.predictions[0].model if answers.predictions else None,
        "frame_rate": str(source.rate),
        "variable_frame_rate": source.variable,
        "drop_frame": source.drop,
    }


def _track(kind: str, found: list[Found], source: SourceFacts) -> dict[str, Any]:
    return {
        "OTIO_SCHEMA": "Track.1",
        "metadata": {},
        "name": "moments",
        "kind": kind,
        "source_range": None,
        "effects": [],
        "markers": [],
        "enabled": True,
        "children": [_clip(item, source, marked=kind == "Video") for item in found],
    }


def _clip(found: Found, source: SourceFacts, *, marked: bool) -> dict[str, Any]:
    first, end = source.span(found.moment.start_s, found.moment.end_s)
    span = _range(source.start_frame + first, end - first, source.rate)
    metadata = {
        "r2rt": {
            "query": found.query,
            "qid": found.qid,
            "rank": found.rank,
            "score": found.moment.score,
            "start_s": found.moment.start_s,
            "end_s": found.moment.end_s,
        }
    }
    marker = {
        "OTIO_SCHEMA": "Marker.2",
        "metadata": metadata,
        "name": found.query,
        "color": "GREEN",
        "comment": f"score {found.moment.score:.4f}",
        "marked_range": span,
    }
    return {
        "OTIO_SCHEMA": "Clip.2",
        "metadata": metadata,
        "name": found.title,
        "source_range": span,
        "effects": [],
        "markers": [marker] if marked else [],
        "enabled": True,
        "active_media_reference_key": "DEFAULT_MEDIA",
        "media_references": {"DEFAULT_MEDIA": _media(source)},
    }


def _media(source: SourceFacts) -> dict[str, Any]:
    return {
        "OTIO_SCHEMA": "ExternalReference.1",
        "metadata": {},
        "name": as_text(source.path.name),
        "available_range": _range(source.start_frame, source.frames, source.rate),
        "available_image_bounds": None,
        "target_url": source.uri,
    }


def _range(first: int, count: int, rate: Fraction) -> dict[str, Any]:
    return {
        "OTIO_SCHEMA": "TimeRange.1",
        "start_time": _time(first, rate),
        "duration": _time(count, rate),
    }


def _time(frame: int, rate: Fraction) -> dict[str, Any]:
    return {"OTIO_SCHEMA": "RationalTime.1", "rate": float(rate), "value": float(frame)}
