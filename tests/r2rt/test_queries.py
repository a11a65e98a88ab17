"""Queries from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from r2rt.errors import QueryError, SourceNotFoundError
from r2rt.queries import Query, free_qids, read_queries


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


@pytest.mark.parametrize("ids", [("1", "1"), ("1", '"1"'), ('"a"', '"a"')])
def test_two_queries_with_one_id_are_refused(tmp_path: Path, ids: tuple[str, str]) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(f'{{"query": "a panda", "qid": {qid}}}\n\n' for qid in ids))
    with pytest.raises(QueryError, match=r"q\.jsonl:3: qid .* is that of line 1 too"):
        read_queries(path)


def test_a_query_without_an_id_gets_one_that_no_other_query_has(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "a"}\n{"query": "b"}\n{"query": "c", "qid": 1}\n{"query": "d"}\n')
    assert [query.qid for query in read_queries(path)] == [2, 3, 1, 4]
    assert free_qids(3, read_queries(path)) == [5, 6, 7]


def test_a_byte_order_mark_and_a_line_separator(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('\ufeff{"query": "a panda\u2028next", "qid": 1}\r\n{"query": "a", "qid": 2}')
    assert read_queries(path) == [Query(text="a panda\u2028next", qid=1), Query(text="a", qid=2)]
