"""Sentences to what the grounder reads of them: encoded together, kept, put into batches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import QueryError
from r2rt.model.contract import TEXT_ENCODER

if TYPE_CHECKING:
    from r2rt.engines import Engine
    from r2rt.grounding.tokenizer import EncodedQuery, Tokenizer
    from r2rt.model.bundle import Bundle

__all__ = ["TextEncoder", "TextFeatures", "batches"]

Floats = NDArray[np.float32]

# Sentences encoded in one call: more are no faster each, and take memory.
_AT_ONCE = 128
# Bytes of features that are kept: about 100 KB for a short sentence, 600 KB for the longest.
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TextFeatures:
    """One query as the model sees it.

    Attributes:
        query: the sentence.
        truncated: whether it was longer than the model reads.
        q: query tokens (K, L, D) float32.
        q_key: what patches are compared with (K, L, D) float32.
        pooled: the whole query (D,) float32.
        embedding: CLIP's embedding (E,) float32, not normalised; None if the model gives none.
    """

    query: str
    truncated: bool
    q: Floats
    q_key: Floats
    pooled: Floats
    embedding: Floats | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the features together."""
        embedding = 0 if self.embedding is None else self.embedding.nbytes
        return self.q.nbytes + self.q_key.nbytes + self.pooled.nbytes + embedding


class TextEncoder:
    """Encodes sentences and keeps the features of the last ones; threads may share it."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle = bundle
        self._engine = engine
        self._kept: dict[str, TextFeatures] = {}
        self._lock = threading.Lock()  # of `_kept`; encoding runs outside of it

    def features(self, queries: Sequence[str]) -> list[TextFeatures]:
        """Return every query's features in order, encoding those that are not kept yet.

        Raises:
            QueryError: there is no query, or one is empty.
        """
        if not queries:
            raise QueryError("no query: give at least one sentence")
        with self._lock:
            found = {query: self._kept[query] for query in queries if query in self._kept}
        new = [query for query in dict.fromkeys(queries) if query not in found]
        encodings = [self._tokenizer.encode(query) for query in new]
        # Those of like length together, since shorter ones are padded.
        order = sorted(range(len(new)), key=lambda index: len(encodings[index].ids))
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            for index, item in zip(
                part, self._encode([(new[i], encodings[i]) for i in part]), strict=True
            ):
                found[new[index]] = item
        with self._lock:
            self._kept.update((query, found[query]) for query in new)
            size = sum(text.nbytes for text in self._kept.values()) if new else 0
            while size > _KEPT_BYTES:
                size -= self._kept.pop(next(iter(self._kept))).nbytes
        return [found[query] for query in queries]

    def forget(self, query: str) -> None:
        """Drop the features of a sentence."""
        with self._lock:
            self._kept.pop(query, None)

    def _encode(self, items: Sequence[tuple[str, EncodedQuery]]) -> list[TextFeatures]:
        lengths = [len(encoding.ids) for _, encoding in items]
        ids = np.zeros((len(items), max(lengths)), dtype=np.int64)
        for row, (_, encoding) in zip(ids, items, strict=True):
            row[: len(encoding.ids)] = encoding.ids
        out = self._engine.run(TEXT_ENCODER, {"token_ids": ids, "query_mask": _mask(lengths)})
        return [
            TextFeatures(
                query=query,
                truncated=encoding.truncated,
                # Copies, so that keeping one does not keep the whole batch.
                q=np.array(out["q"][index, :, :length], dtype=np.float32),
                q_key=np.array(out["q_key"][index, :, :length], dtype=np.float32),
                pooled=np.array(out["pooled"][index], dtype=np.float32),
                embedding=(
                    np.array(out["embedding"][index], dtype=np.float32)
                    if "embedding" in out
                    else None
                ),
            )
            for index, ((query, encoding), length) in enumerate(zip(items, lengths, strict=True))
        ]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from r2rt.grounding.tokenizer import Tokenizer

        return Tokenizer.of(self._bundle)


def batches(texts: Sequence[TextFeatures], at_once: int) -> list[dict[str, Floats]]:
    """Return the grounder's text inputs for all texts in order, at most `at_once` in one batch."""
    return [_batch(texts[start : start + at_once]) for start in range(0, len(texts), at_once)]


def _batch(texts: Sequence[TextFeatures]) -> dict[str, Floats]:
    lengths = [text.q.shape[1] for text in texts]
    layers, _, width = texts[0].q.shape
    q = np.zeros((len(texts), layers, max(lengths), width), dtype=np.float32)
    q_key = np.zeros_like(q)
    for index, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        q[index, :, :length] = text.q
        q_key[index, :, :length] = text.q_key
    return {
        "q": q,
        "q_key": q_key,
        "pooled": np.stack([text.pooled for text in texts]),
        "query_mask": _mask(lengths),
    }


def _mask(lengths: Sequence[int]) -> Floats:
    """Return (N, L) float32, 1 where a query has a real token."""
    return (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.float32)
