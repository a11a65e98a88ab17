"""Queries become token ids; what cannot be tokenized is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2rt.errors import BundleDamagedError, QueryError
from r2rt.grounding.tokenizer import Tokenizer, clean

START, END = 49406, 49407


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("open_clip", reason="open_clip writes the tokenizer's file")
    from export.tokenizer import write_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(file: Path) -> Tokenizer:
    return Tokenizer.load(file, 77)


def test_a_sentence_has_the_ids_of_clip(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode("A red car drives past two people talking.")
    expected = [START, 320, 736, 1615, 11441, 2729, 1237, 1047, 2578, 269, END]
    assert encoded.ids.tolist() == expected
    assert encoded.ids.dtype == np.int64
    assert not encoded.truncated


def test_an_exclamation_mark_is_a_real_token_of_id_zero(tokenizer: Tokenizer) -> None:
    # `!` at a word's end has another id; followed by more punctuation it has its own.
    ids = tokenizer.encode("wow !\u0305").ids.tolist()
    assert ids[0] == START
    assert ids[-1] == END
    assert 0 in ids


def test_case_and_white_space_do_not_matter(tokenizer: Tokenizer) -> None:
    plain = tokenizer.encode("two dogs run").ids.tolist()
    assert tokenizer.encode(" Two\tDOGS\n\u3000run\u00a0").ids.tolist() == plain
    assert tokenizer.encode("two&nbsp;dogs&#32;run").ids.tolist() == plain
    assert tokenizer.encode("ｔｗｏ dogs run").ids.tolist() == plain


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u3000", "&nbsp;", "\x00\x1b", "\ufeff"])
def test_a_query_without_words_is_refused(text: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(QueryError, match="no words"):
        tokenizer.encode(text)


@pytest.mark.parametrize(
    ("words", "truncated"), [(74, False), (75, False), (76, True), (500, True)]
)
def test_a_long_query_keeps_its_beginning_and_its_end_token(
    words: int, truncated: bool, tokenizer: Tokenizer
) -> None:
    encoded = tokenizer.encode("dog " * words)
    assert len(encoded.ids) == min(words + 2, 77)
    assert encoded.ids[-1] == END
    assert encoded.truncated is truncated


def test_the_context_length_is_the_models(file: Path) -> None:
    encoded = Tokenizer.load(file, 5).encode("one two three four")
    assert len(encoded.ids) == 5
    assert encoded.ids[-1] == END
    assert encoded.truncated


def test_a_written_out_end_token_ends_the_query(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode("a dog <end_of_text> a cat")
    assert encoded.ids.tolist() == tokenizer.encode("a dog").ids.tolist()
    with pytest.raises(QueryError):
        tokenizer.encode("<end_of_text>")


def test_a_batch_is_padded_and_masked(tokenizer: Tokenizer) -> None:
    texts = ["a dog", "Two people talk on a boat", "!"]
    token_ids, mask = tokenizer.encode_batch(texts)
    assert token_ids.dtype == np.int64
    assert mask.dtype == np.float32
    assert token_ids.shape == mask.shape == (3, 8)
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text).ids
        assert token_ids[row, : len(ids)].tolist() == ids.tolist()
        assert mask[row].tolist() == [1.0] * len(ids) + [0.0] * (8 - len(ids))
        assert not token_ids[row, len(ids) :].any()


def test_an_empty_batch_and_an_empty_query_in_a_batch_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(QueryError, match="no query"):
        tokenizer.encode_batch([])
    with pytest.raises(QueryError, match="no words"):
        tokenizer.encode_batch(["a dog", " "])


@given(text=st.text())
def test_any_text_gives_one_start_and_one_end_or_is_refused(
    text: str, tokenizer: Tokenizer
) -> None:
    try:
        ids = tokenizer.encode(text).ids.tolist()
    except QueryError:
        return
    assert ids[0] == START
    assert ids.index(END) == len(ids) - 1
    assert 3 <= len(ids) <= 77
    assert all(0 <= token <= END for token in ids)


PLAIN = [chr(code) for code in range(0x20, 0x7F) if chr(code) != "&"] + list("\t\n\f\r")


@given(text=st.text(alphabet=PLAIN))
def test_ftfy_changes_nothing_of_plain_ascii(text: str) -> None:
    import ftfy

    assert clean(text) == " ".join(ftfy.fix_text(text).split()).lower()


def test_plain_ascii_does_not_import_ftfy() -> None:
    code = (
        "import sys; from r2rt.grounding.tokenizer import clean; clean('A dog?')\n"
        "assert not {'ftfy', 'tokenizers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def damage(content: dict[str, Any]) -> None:
        for key in keys:
            del content["model"]["vocab"][key]

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("<end_of_text>"), "lacks <end_of_text>"),
        (lambda content: content.update(pre_tokenizer=None), "lacks a pre-tokenizer"),
        (lambda content: content.update(model={"type": "Unheard"}), "not a tokenizer"),
        (lambda content: content["model"]["merges"].append(["zzzz", "qqqq"]), "not a tokenizer"),
        (lambda content: content.clear(), "not a tokenizer"),
    ],
)
def test_a_damaged_file_is_refused(
    damage: Callable[[dict[str, Any]], object], message: str, file: Path, tmp_path: Path
) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content["post_processor"] = None
    damage(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleDamagedError, match=message):
        Tokenizer.load(path, 77)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{" * 100_000, b"null"])
def test_what_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleDamagedError, match="not a tokenizer"):
        Tokenizer.load(path, 77)


def test_half_a_file_and_a_missing_file_are_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(BundleDamagedError, match="missing"):
        Tokenizer.load(path, 77)
    path.write_bytes(file.read_bytes()[:500_000])
    with pytest.raises(BundleDamagedError, match="not a tokenizer"):
        Tokenizer.load(path, 77)


def test_a_limit_or_padding_saved_in_the_file_has_no_effect(
    file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import tokenizers

    other = tokenizers.Tokenizer.from_file(str(file))
    other.enable_truncation(3)
    other.enable_padding(length=20)
    path = tmp_path / "tokenizer.json"
    other.save(str(path))
    text = "Two people talk on a boat"
    assert Tokenizer.load(path, 77).encode(text).ids.tolist() == tokenizer.encode(text).ids.tolist()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a|a)*b",
        r"(?:a+)+",
        r"a*a*a*a*b",
        r"[a-z]+[a-z]+[a-z]+!",
        r"(.)\1+",
        r"a{1,100000}",
        r"\p{L}+\p{L}+",
        r"\s+(?!\S)|\s+",
        r"[a[b]]+",
        r"\g<0>",
    ],
)
def test_a_pattern_that_may_take_for_ever_is_refused(
    file: Path, tmp_path: Path, pattern: str
) -> None:
    document = json.loads(file.read_bytes())
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(BundleDamagedError, match="is not a tokenizer"):
        Tokenizer.load(path, 77)


@pytest.mark.parametrize("pattern", [r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", r"'s|\x{41}+|[\]\[]?"])
def test_a_pattern_of_classes_is_accepted(file: Path, tmp_path: Path, pattern: str) -> None:
    document = json.loads(file.read_bytes())
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    Tokenizer.load(path, 77)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"pre_tokenizer": 1}'])
def test_deep_or_wrong_json_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleDamagedError, match="is not a tokenizer"):
        Tokenizer.load(path, 77)
