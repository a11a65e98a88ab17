"""From a sentence to the token ids that CLIP's text tower takes.

The vocabulary, the merges and the splitting into words are in the bundle's `tokenizer.json`. The
cleaning that comes before them in CLIP (Unicode repair by ftfy, HTML entities, white space, lower
case) is not something that file can say, so it stands here.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import BundleDamagedError, QueryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tokenizers

__all__ = ["END_TOKEN", "START_TOKEN", "EncodedQuery", "Tokenizer", "clean"]

START_TOKEN = "<start_of_text>"
END_TOKEN = "<end_of_text>"

# Printable ASCII and the white space among its controls: nothing in it is for ftfy to repair, and
# without `&` there is no HTML entity.
_PLAIN = re.compile(r"[\t\n\f\r -%'-~]*")


# Of a regular expression: an escaped character or property, and a class of characters.
_ESCAPE = r"\\(?:x\{[0-9a-fA-F]+\}|[pP]\{\^?\w+\}|[^0-9gk])"
_UNIT = re.compile(rf"{_ESCAPE}|\[(?:{_ESCAPE}|[^\[\]\\])*\]")
_REPEATED_ONCE = re.compile(r"[^()*+?{}\[\]\\]*[*+?]?")


@dataclass(frozen=True, kw_only=True)
class EncodedQuery:
    """A query as token ids.

    Attributes:
        ids: (L,) int64, from the start token to the end token.
        truncated: whether words were dropped because the query was too long.
    """

    ids: NDArray[np.int64]
    truncated: bool


class Tokenizer:
    """CLIP's byte-pair encoding of queries."""

    def __init__(
        self, inner: tokenizers.Tokenizer, special: dict[str, int], context_length: int
    ) -> None:
        self.context_length = context_length
        self._inner = inner
        self._special = special

    @classmethod
    def load(cls, path: Path, context_length: int) -> Tokenizer:
        """Read a `tokenizer.json`.

        Args:
            path: the file.
            context_length: the most tokens of a query, start and end included.

        Raises:
            BundleDamagedError: the file is missing, or is not a CLIP tokenizer.
        """
        import tokenizers

        if not path.is_file():
            raise BundleDamagedError(f"{path} is missing; fetch or export the bundle again")
        try:
            _check_patterns(path)
            inner = tokenizers.Tokenizer.from_file(str(path))
        except BaseException as error:
            # The library raises bare Exceptions, and where it panics a class above Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleDamagedError(
                f"{path} is not a tokenizer ({str(error)[:200]}); fetch or export the bundle again"
            ) from error
        ids = {token: inner.token_to_id(token) for token in (START_TOKEN, END_TOKEN)}
        special = {token: id_ for token, id_ in ids.items() if id_ is not None}
        if len(special) < len(ids) or inner.pre_tokenizer is None:
            what = " and ".join(ids.keys() - special.keys()) or "a pre-tokenizer"
            raise BundleDamagedError(f"{path} is not a CLIP tokenizer: it lacks {what}")
        # `clean` has done it all, by this Python's Unicode; limits and padding are set below.
        inner.normalizer = None
        inner.no_truncation()
        inner.no_padding()
        return cls(inner, special, context_length)

    def encode(self, text: str) -> EncodedQuery:
        """Tokenize a query: start token, words, end token; at most `context_length` in all.

        A query that is too long keeps its beginning, and the end token stands last. A written-out
        `<end_of_text>` ends the query, since the model finds the end by that token.

        Raises:
            QueryError: the query is empty, or nothing of it is left after cleaning.
        """
        words = self._encode_words(clean(text))
        end = self._special[END_TOKEN]
        if end in words:
            words = words[: words.index(end)]
        if not words:
            raise QueryError(f"the query {text[:40]!r} has no words; describe what to look for")
        room = self.context_length - 2
        ids = [self._special[START_TOKEN], *words[:room], end]
        return EncodedQuery(ids=np.array(ids, np.int64), truncated=len(words) > room)

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Tokenize N queries and pad them to the longest.

        Returns:
            `token_ids` (N, L) int64, 0 behind the end token (an id like any other, `!`), and
            `query_mask` (N, L) float32, 1 on real tokens and 0 on padding.

        Raises:
            QueryError: there are no queries, or one is empty.
        """
        if not texts:
            raise QueryError("no query was given; expected one sentence or more")
        encoded = [self.encode(text).ids for text in texts]
        length = max(len(ids) for ids in encoded)
        token_ids = np.zeros((len(encoded), length), np.int64)
        query_mask = np.zeros((len(encoded), length), np.float32)
        for row, ids in enumerate(encoded):
            token_ids[row, : len(ids)] = ids
            query_mask[row, : len(ids)] = 1
        return token_ids, query_mask

    def _encode_words(self, text: str) -> list[int]:
        """Token ids of cleaned text, without start and end."""
        if START_TOKEN not in text and END_TOKEN not in text:
            ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
            return ids
        # CLIP takes a special token that is a word of its own for what it names.
        ids = []
        for piece, _ in self._inner.pre_tokenizer.pre_tokenize_str(text):
            if piece in self._special:
                ids.append(self._special[piece])
            else:
                ids.extend(token.id for token in self._inner.model.tokenize(piece))
        return ids


def _check_patterns(path: Path) -> None:
    """Raise `ValueError` if a regular expression that splits words could take for ever.

    A pattern without groups, each alternative of which repeats at most its end, is matched in
    linear time. CLIP's is one: literals, classes of characters, and repeated classes.
    """
    pending = [msgspec.json.decode(path.read_bytes(), type=_File).pre_tokenizer]
    while pending:
        value = pending.pop()
        pattern = value.get("Regex") if isinstance(value, dict) else None
        if isinstance(pattern, str):
            for alternative in _UNIT.sub(".", pattern).split("|"):
                if not _REPEATED_ONCE.fullmatch(alternative):
                    raise ValueError(
                        f"its pattern has {alternative[:40]!r}, expected literals and classes, "
                        "of which the last may be repeated"
                    )
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


class _File(msgspec.Struct):
    pre_tokenizer: Any = None


def clean(text: str) -> str:
    """Return the text as CLIP's vocabulary was made for it.

    Unicode is repaired by ftfy (broken encodings, curly quotes, ligatures, full-width letters,
    control characters, NFC), HTML entities are resolved twice, white space becomes single spaces,
    and letters become lower case.
    """
    if not _PLAIN.fullmatch(text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
