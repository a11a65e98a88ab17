"""Text files that people write: marks, line ends, and characters that only look like line ends."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.errors import QueryError, SourceNotFoundError
from r2rt.textfiles import UTF8_MARK, numbered_lines, read_json_lines

EXAMPLE = '{"query": "a dog"}'
# Characters that end a line for str.splitlines.
BREAKS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


class Line(msgspec.Struct):
    query: str


def read(path: Path) -> list[tuple[int, str]]:
    return [(number, line.query) for number, line in read_json_lines(path, Line, example=EXAMPLE)]


sentences = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(lambda x: x + BREAKS)


@given(st.lists(sentences, min_size=1, max_size=5), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_sentences_come_back_whole_whatever_is_in_them(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], mark: bool, end: str
) -> None:
    path = tmp_path_factory.mktemp("lines") / "q.jsonl"
    lines = [json.dumps({"query": text}, ensure_ascii=False) for text in texts]
    content = (end + end.join(lines)).encode()
    path.write_bytes((UTF8_MARK if mark else b"") + content)
    assert read(path) == list(enumerate(texts, start=2))


def test_lines_are_those_of_the_file_and_blank_ones_count_but_are_left_out() -> None:
    content = b"a\r\n\n  \n b \rc\nlast"
    assert list(numbered_lines(content)) == [(1, b"a"), (4, b" b \rc"), (5, b"last")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EXAMPLE.encode("utf-16"), "UTF-16 text"),
        (EXAMPLE.encode("utf-16-le"), "UTF-16 or binary text"),
        (b'{"query": "a"}\n{"query": "\xe9"}', r":2: not UTF-8 text"),
        (b"[" * 100_000, ":1: "),
        (b'{"x": ' + b"[" * 100_000, ":1: brackets are nested too deep"),
        (b"", "is empty"),
        (UTF8_MARK, "is empty"),
        (b'{"query": 5}', r":1: .*expected an object such as"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(QueryError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "q.jsonl" in str(caught.value)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(EXAMPLE,))
    writer.start()
    assert read(path) == [(1, "a dog")]
    writer.join()


def test_a_name_too_long_is_one_line() -> None:
    with pytest.raises(SourceNotFoundError, match="File name too long"):
        read_json_lines("x" * 5000, Line, example=EXAMPLE)
