"""From an annotation file, in whichever of the known forms, to plain records.

The formats are recognised by their content: JSON lines (QVHighlights, Moment-DETR, lighthouse,
one's own), Charades-STA's `VID START END##SENTENCE`, Ego4D-NLQ's and TACoS's official JSON, and the
R²-Tuning authors' JSON of TVSum and YouTube Highlights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2rt.textfiles import UTF8_MARK, numbered_lines, other_encoding, read_bytes
from training.data.annotation import Problem

__all__ = ["Record", "read_records"]

_CHARADES = re.compile(r"(?P<vid>\S+)\s+(?P<start>\S+)\s+(?P<end>[^\s#]+)\s*##(?P<query>.*)")


@dataclass(frozen=True, kw_only=True)
class Record:
    """The fields of one annotation.

    Attributes:
        place: the line's number, or the key, where it stands.
        number: the line's number, or the place in the document, from 1.
        fields: by the names of the JSON lines form.
    """

    place: str
    number: int
    fields: dict[str, Any]


def read_records(path: Path) -> tuple[list[Record], list[Problem]]:
    """Read a file's records, and what in it is no record.

    Raises:
        SourceNotFoundError: the file cannot be read.
    """
    content = read_bytes(path)
    problems = _Problems(str(path))
    records = list(_read(path, content, problems))
    if not records and all(problem.severity == "warning" for problem in problems.found):
        problems.add("empty-file", None, "no annotations in it; write one JSON object a line")
    return records, problems.found


class _Problems:
    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[Problem] = []

    def add(self, kind: str, place: str | None, message: str, *, warning: bool = False) -> None:
        severity = "warning" if warning else "error"
        self.found.append(
            Problem(
                kind=kind,
                path=self.path,
                place=place,
                field=None,
                message=message,
                severity=severity,  # type: ignore[arg-type]
            )
        )


def _read(path: Path, content: bytes, problems: _Problems) -> Iterator[Record]:
    encoding = other_encoding(content)
    if encoding is not None:
        problems.add("not-utf8", None, f"{encoding} text; save the file as UTF-8")
        return
    if content.startswith(UTF8_MARK):
        content = content.removeprefix(UTF8_MARK)
        problems.add(
            "byte-order-mark",
            "1",
            "begins with a byte order mark, which is left out; save as UTF-8 without BOM",
            warning=True,
        )
    if path.suffix.lower() == ".txt":
        yield from _read_charades(content, problems)
    elif path.suffix.lower() == ".json" or content.lstrip()[:1] == b"[":
        yield from _read_document(content, problems)
    else:
        yield from _read_lines(content, problems)


def _lines(content: bytes, problems: _Problems) -> Iterator[tuple[int, str]]:
    """The lines that hold anything, with their numbers."""
    for number, raw in numbered_lines(content):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError as error:
            problems.add(
                "not-utf8",
                str(number),
                f"byte {error.start + 1} of the line, 0x{raw[error.start]:02x}, is not UTF-8; "
                "save the file as UTF-8",
            )
            continue
        if line:
            yield number, line


def _read_lines(content: bytes, problems: _Problems) -> Iterator[Record]:
    for number, line in _lines(content, problems):
        value = _decode(line, str(number), problems)
        if isinstance(value, _Unreadable):
            continue
        if isinstance(value, dict):
            yield Record(place=str(number), number=number, fields=value)
        else:
            problems.add(
                "not-an-object",
                str(number),
                f"a JSON {_json_type(value)}; expected an object such as "
                '{"vid": "a", "query": "a dog runs", "relevant_windows": [[2, 6]]}',
            )


def _read_charades(content: bytes, problems: _Problems) -> Iterator[Record]:
    for number, line in _lines(content, problems):
        match = _CHARADES.fullmatch(line)
        if match is None:
            problems.add(
                "not-charades",
                str(number),
                f"{line[:60]!r} is not of the form `VID START END##SENTENCE`; "
                "correct the line, or name the file .jsonl",
            )
            continue
        fields: dict[str, Any] = {"vid": match["vid"], "query": match["query"]}
        fields["relevant_windows"] = [[_number(match["start"]), _number(match["end"])]]
        yield Record(place=str(number), number=number, fields=fields)


def _read_document(content: bytes, problems: _Problems) -> Iterator[Record]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.add("not-utf8", str(line), "not UTF-8 text; save the file as UTF-8")
        return
    if not text.strip():
        return
    if "\n" in text.strip() and text.lstrip()[0] == "{" and not _is_one_value(text):
        # JSON lines that are called .json.
        yield from _read_lines(content, problems)
        return
    value = _decode(text, None, problems)
    if isinstance(value, _Unreadable):
        return
    yield from _read_value(value, problems)


def _read_value(value: Any, problems: _Problems) -> Iterator[Record]:
    if isinstance(value, list):
        items = [(f"[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, dict) and isinstance(value.get("videos"), list):
        items = list(_ego4d(value["videos"], problems))
    elif isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
        items = [pair for vid, fields in value.items() for pair in _by_video(vid, fields)]
    elif isinstance(value, dict) and ("query" in value or "relevant_windows" in value):
        items = [("1", value)]
    else:
        problems.add(
            "unknown-form",
            None,
            f"a JSON {_json_type(value)} of none of the known forms; write one JSON object a line "
            "with vid, query and relevant_windows",
        )
        return
    for number, (place, fields) in enumerate(items, start=1):
        if isinstance(fields, dict):
            yield Record(place=place, number=number, fields=fields)
        else:
            problems.add("not-an-object", place, f"a JSON {_json_type(fields)}; expected an object")


def _by_video(vid: str, fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Records of a file that maps videos to what is known of each."""
    if "timestamps" in fields:  # TACoS: frame numbers and sentences, side by side
        name = re.sub(r"\.(avi|mp4)$", "", vid)
        frames, fps = fields.get("num_frames"), fields.get("fps")
        duration = _quotient(frames, fps)
        windows, sentences = fields["timestamps"], fields.get("sentences")
        if not isinstance(windows, list) or not isinstance(sentences, list):
            yield vid, {"vid": name, "query": None}
            return
        for index, window in enumerate(windows):
            ends = window if isinstance(window, list) else [None]
            yield (
                f"{vid}[{index}]",
                {
                    "qid": f"{name}_{index}",
                    "vid": name,
                    "query": sentences[index] if index < len(sentences) else None,
                    "duration": duration,
                    "relevant_windows": [[_quotient(frame, fps) for frame in ends]],
                },
            )
        return
    known = {"qid": vid, "vid": vid} | fields
    info = fields.get("info")
    if "match" in fields:  # YouTube Highlights: the sixth entry of info is the domain
        if isinstance(info, list) and len(info) > 5:
            known = {"domain": info[5]} | known
        known.setdefault("query", known.get("domain"))
        if "duration" not in known:
            known["duration"] = _quotient(fields.get("frames"), fields.get("fps"))
    elif "anno" in fields:  # TVSum
        known.setdefault("query", fields.get("title"))
        known["label"] = known.pop("anno")
    yield vid, known


def _ego4d(videos: list[Any], problems: _Problems) -> Iterator[tuple[str, Any]]:
    """Ego4D-NLQ: queries of annotators of clips of videos; a clip is what is grounded in.

    The official files have some queries without a sentence, which are left out.
    """
    left_out = []
    for video in videos:
        for clip in _list(video, "clips"):
            duration = _difference(clip, "video_start_sec", "video_end_sec")
            for annotation in _list(clip, "annotations"):
                uid = annotation.get("annotation_uid")
                for index, query in enumerate(_list(annotation, "language_queries")):
                    qid, text = f"{uid}_{index}", query.get("query")
                    if text is None or (isinstance(text, str) and not text.strip()):
                        left_out.append(qid)
                        continue
                    fields = {
                        "qid": qid,
                        "vid": clip.get("clip_uid"),
                        "query": text,
                        "duration": duration,
                    }
                    if "clip_start_sec" in query:
                        window = [query["clip_start_sec"], query.get("clip_end_sec")]
                        fields["relevant_windows"] = [window]
                    yield qid, fields
    if left_out:
        problems.add(
            "query-left-out",
            None,
            f"{len(left_out)} queries without a sentence are left out; the first: {left_out[0]}",
            warning=True,
        )


def _list(owner: Any, key: str) -> list[dict[str, Any]]:
    found = owner.get(key) if isinstance(owner, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _difference(owner: dict[str, Any], start: str, end: str) -> float | None:
    try:
        return float(owner[end]) - float(owner[start])
    except (KeyError, TypeError, ValueError):
        return None


def _quotient(value: Any, by: Any) -> Any:
    """Divide by `by`; the value itself where either is no number, for the checks to find."""
    try:
        return float(value) / float(by)
    except (TypeError, ValueError, ZeroDivisionError):
        return value


def _number(text: str) -> float | str:
    """The number that the text is, or the text, for the checks to find."""
    try:
        return float(text)
    except ValueError:
        return text


class _Unreadable:
    """The replacement for a value that JSON lacks."""


class _DuplicateKeyError(ValueError):
    """An object names a field twice."""


def _decode(text: str, place: str | None, problems: _Problems) -> Any:
    try:
        # NaN and Infinity are no JSON but many writers make them; the checks find the numbers.
        return json.loads(text, object_pairs_hook=_object)
    except _DuplicateKeyError as error:
        problems.add("duplicate-field", place, f"{error} stands twice in one object; keep one")
    except json.JSONDecodeError as error:
        where = place or str(error.lineno)
        problems.add(
            "not-json",
            where,
            f"not JSON: {error.msg} at column {error.colno}, {_around(error)}; correct the line",
        )
    except RecursionError:
        problems.add("not-json", place, "brackets are nested too deep; expected one flat object")
    except ValueError as error:  # such as an integer of thousands of digits
        problems.add("not-json", place, f"not JSON that can be read: {error}")
    return _Unreadable()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return fields


def _around(error: json.JSONDecodeError) -> str:
    if error.pos >= len(error.doc):
        return "where the text ends: it was cut off"
    return f"before {error.doc[error.pos : error.pos + 20]!r}"


def _is_one_value(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.msg != "Extra data"
    except (ValueError, RecursionError):
        return True
    return True


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "object", list: "array", str: "string", bool: "boolean"}
    return names.get(type(value), "number")
