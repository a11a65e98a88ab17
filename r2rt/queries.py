"""Queries from a file: one JSON object a line, as in QVHighlights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from r2rt.errors import QueryError
from r2rt.files import StrPath
from r2rt.textfiles import read_json_lines

__all__ = ["Query", "free_qids", "read_queries"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A sentence, and the id that its answer carries.

    Attributes:
        text: the sentence.
        qid: id of the answer; a number or a string, as in the file.
    """

    text: str
    qid: int | str


class _Line(msgspec.Struct):
    query: str
    qid: int | str | None = None


def read_queries(path: StrPath) -> list[Query]:
    """Return the queries of a JSON-lines file: `query`, and `qid` if there is one.

    A query without a `qid` gets its line's number, from 1, or the next number that is free. Other
    fields and blank lines are ignored.

    Args:
        path: the file; `-` is standard input.

    Raises:
        SourceNotFoundError: the file cannot be read.
        QueryError: a line is not such an object, two queries have one `qid`, or there is no query.
    """
    lines = read_json_lines(path, _Line, example='{"query": "a dog runs"}')
    places: dict[str, int] = {}
    for number, line in lines:
        if line.qid is None:
            continue
        # As text, since a table or a CSV file does not show which is a number.
        first = places.setdefault(str(line.qid), number)
        if first != number:
            raise QueryError(
                f"{path}:{number}: qid {line.qid!r} is that of line {first} too; "
                "give each query its own"
            )
    queries = []
    for number, line in lines:
        qid = line.qid
        if qid is None:
            qid = next(free for free in itertools.count(number) if str(free) not in places)
            places[str(qid)] = number
        queries.append(Query(text=line.query, qid=qid))
    return queries


def free_qids(count: int, taken: Sequence[Query], *, first: int = 1) -> list[int]:
    """Return the next `count` numbers, from `first`, that are the ids of none of the queries."""
    used = {str(query.qid) for query in taken}
    free = (number for number in itertools.count(first) if str(number) not in used)
    return list(itertools.islice(free, count))
