"""Queries from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from r2rt.errors import QueryError, SourceNotFoundError
from r2rt.queries import Query, read_queries


def test_ids_are_the_files_own_or_the_lines_number(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"query": "a dog", "qid": 7, "vid": "x"}\n'
        '\n{"query": "a cat"}\n{"query": "ü", "qid": "b"}\n'
    )
    assert read_queries(path) == [
        Query(text="a dog", qid=7),
        Query(text="a cat", qid=3),
        Query(text="ü", qid="b"),
    ]


@pytest.mark.parametrize(
    "content",
    [b"not json\n", b'{"query": 5}\n', b'{"text": "a"}\n', b"[1]\n", b"", b"\n\n", b"\xff\xfe\n"],
)
def test_what_is_no_query_file_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(QueryError, match=r"q\.jsonl"):
        read_queries(path)


def test_the_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "fine"}\n{"query": }\n')
    with pytest.raises(QueryError, match=r"q\.jsonl:2: "):
        read_queries(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        read_queries(tmp_path / "none.jsonl")
