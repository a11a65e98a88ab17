"""Queries from a file: one JSON object a line, as in QVHighlights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from r2rt.errors import QueryError, SourceNotFoundError

__all__ = ["Query", "read_queries"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A sentence, and the id that its answer carries.

    Attributes:
        text: the sentence.
        qid: id of the answer; a number or a string, as it stood in the file.
    """

    text: str
    qid: int | str


class _Line(msgspec.Struct):
    query: str
    qid: int | str | None = None


def read_queries(path: str | Path) -> list[Query]:
    """Return the queries of a jsonl file: `query`, and `qid` or else the line's number from 1.

    Other fields are left alone, and so are blank lines.

    Raises:
        SourceNotFoundError: the file cannot be read.
        QueryError: a line is no such object, with the line's number; or there is no line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SourceNotFoundError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise QueryError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    queries = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            raise QueryError(
                f'{path}:{number}: {error}; expected an object such as {{"query": "a dog runs"}}'
            ) from error
        queries.append(Query(text=record.query, qid=number if record.qid is None else record.qid))
    if not queries:
        raise QueryError(f"{path}: no queries in it; write one JSON object a line")
    return queries
