"""Sentences: each its own features whatever it is encoded with, kept, and forgotten in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from r2rt import Grounder
from r2rt.errors import QueryError
from r2rt.grounding.texts import TextEncoder, batches
from r2rt.model.contract import TEXT_ENCODER
from tests.r2rt.fakes import FakeEngine, fake_grounder


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def texts(tmp_path: Path, tokenizer_file: Path, engine: FakeEngine) -> TextEncoder:
    return TextEncoder(fake_grounder(tmp_path, tokenizer_file, engine).bundle, engine)


def test_every_sentence_gets_its_own_features_in_the_order_asked(
    texts: TextEncoder, engine: FakeEngine
) -> None:
    queries = [f"{'very ' * (index % 7)}long number {index}" for index in range(300)]
    together = texts.features(queries)
    assert engine.runs[TEXT_ENCODER] == 3  # 128 at once
    for query, item in zip(queries, together, strict=True):
        assert item.query == query
        texts.forget(query)
        (alone,) = texts.features([query])
        np.testing.assert_array_equal(alone.q, item.q)
        np.testing.assert_array_equal(alone.pooled, item.pooled)


def test_features_are_kept_while_there_are_not_too_many(
    texts: TextEncoder, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = texts.features(["a", "b", "a"])
    monkeypatch.setattr("r2rt.grounding.texts._KEPT_BYTES", 3 * first[0].nbytes)
    assert first[0] is first[2]
    texts.features(["b", "c"])
    assert engine.runs[TEXT_ENCODER] == 2
    # More than are kept are answered all the same; the oldest go.
    assert [item.query for item in texts.features(["d", "a", "e", "f"])] == ["d", "a", "e", "f"]
    runs = engine.runs[TEXT_ENCODER]
    texts.features(["d", "e", "f"])
    assert engine.runs[TEXT_ENCODER] == runs
    texts.features(["a"])
    assert engine.runs[TEXT_ENCODER] == runs + 1


def test_batches_hold_every_text_and_mask_what_is_padded(texts: TextEncoder) -> None:
    items = texts.features(["a", "a b c", "a b", "a b c d e", "b"])
    found = batches(items, 2)
    assert [len(batch["pooled"]) for batch in found] == [2, 2, 1]
    rows = [
        (batch["q"][index], batch["query_mask"][index])
        for batch in found
        for index in range(len(batch["pooled"]))
    ]
    for item, (q, mask) in zip(items, rows, strict=True):
        length = item.q.shape[1]
        np.testing.assert_array_equal(mask, np.arange(len(mask)) < length)
        np.testing.assert_array_equal(q[:, :length], item.q)
        assert not q[:, length:].any()


def test_a_real_model_reads_a_sentence_the_same_beside_a_longer_one(
    tiny_grounder: Grounder,
) -> None:
    encoder = TextEncoder(tiny_grounder.bundle, tiny_grounder.engine)
    short, _ = encoder.features(["a dog", "a dog that catches a red ball on the grass"])
    encoder.forget("a dog")
    (alone,) = encoder.features(["a dog"])
    np.testing.assert_allclose(short.q, alone.q, atol=1e-5)
    np.testing.assert_allclose(short.pooled, alone.pooled, atol=1e-5)


def test_nothing_to_encode_is_refused(texts: TextEncoder) -> None:
    with pytest.raises(QueryError, match="no query"):
        texts.features([])
    with pytest.raises(QueryError, match="has no words"):
        texts.features(["a dog", " "])
