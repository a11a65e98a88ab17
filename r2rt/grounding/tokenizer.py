"""From a sentence to the token ids that a text tower takes.

The vocabulary, the merges and the splitting into words are in the bundle's `tokenizer.json`. The
cleaning that comes before them (Unicode repair by ftfy, HTML entities, white space, lower case,
punctuation) is not something that file can say, so it stands here, and the bundle names it:

| cleaning | of | what |
|---|---|---|
| `clip` | CLIP | repair, white space, lower case; start and end token are CLIP's |
| `canonicalize` | SigLIP | repair, no ASCII punctuation, lower case, white space |
| `whitespace` | BERT, XLM-R | repair, white space |
"""

from __future__ import annotations

import html
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import BundleDamagedError, QueryError
from r2rt.model.manifest import TOKENIZER_NAME, TextCleaning

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tokenizers

    from r2rt.model.bundle import Bundle

__all__ = ["END_TOKEN", "START_TOKEN", "EncodedQuery", "Tokenizer", "clean"]

START_TOKEN = "<start_of_text>"
END_TOKEN = "<end_of_text>"

# Printable ASCII and the white space among its controls: nothing in it is for ftfy to repair, and
# without `&` there is no HTML entity.
_PLAIN = re.compile(r"[\t\n\f\r -%'-~]*")


# Of a regular expression: an escaped character or property, and a class of characters.
_ESCAPE = r"\\(?:x\{[0-9a-fA-F]+\}|[pP]\{\^?\w+\}|[^0-9gk])"
_UNIT = re.compile(rf"{_ESCAPE}|\[(?:{_ESCAPE}|[^\[\]\\])*\]")
_REPEATED_ONCE = re.compile(r"[^()*+?{}\[\]\\]*([*+?]|\{\d,\})?")
# big_vision's canonical text: these are removed, but for the underscore, which becomes a space.
_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


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
    """Sentences to token ids, by CLIP's byte-pair encoding or any other tokenizer's file."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        special: dict[str, int],
        context_length: int,
        cleaning: TextCleaning,
    ) -> None:
        self.context_length = context_length
        self._inner = inner
        self._special = special
        self._cleaning: TextCleaning = cleaning

    @classmethod
    def of(cls, bundle: Bundle) -> Tokenizer:
        """Read a bundle's tokenizer; see `load` for the errors."""
        return cls.load(
            bundle.file(TOKENIZER_NAME),
            bundle.dims.context_length,
            cleaning=bundle.manifest.text_cleaning,
        )

    @classmethod
    def load(cls, path: Path, context_length: int, *, cleaning: TextCleaning = "clip") -> Tokenizer:
        """Read a `tokenizer.json`.

        Args:
            path: the file.
            context_length: the most tokens of a query, those that the tokenizer adds included.
            cleaning: how a text is cleaned first; with `clip` this class adds start and end token.

        Raises:
            BundleDamagedError: the file is missing, or is not a tokenizer of that kind.
        """
        import tokenizers

        if not path.is_file():
            raise BundleDamagedError(f"{path} is missing; fetch or export the bundle again")
        try:
            _check_patterns(path, normalizer=cleaning != "clip")
            inner = tokenizers.Tokenizer.from_file(str(path))
        except BaseException as error:
            # The library raises bare Exceptions, and where it panics a class above Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleDamagedError(
                f"{path} is not a tokenizer ({str(error)[:200]}); fetch or export the bundle again"
            ) from error
        inner.no_padding()
        if cleaning != "clip":
            inner.enable_truncation(context_length)
            added = inner.get_added_tokens_decoder().items()
            special = {token.content: id_ for id_, token in added if token.special}
            return cls(inner, special, context_length, cleaning)
        ids = {token: inner.token_to_id(token) for token in (START_TOKEN, END_TOKEN)}
        special = {token: id_ for token, id_ in ids.items() if id_ is not None}
        if len(special) < len(ids) or inner.pre_tokenizer is None:
            what = " and ".join(ids.keys() - special.keys()) or "a pre-tokenizer"
            raise BundleDamagedError(f"{path} is not a CLIP tokenizer: it lacks {what}")
        # `clean` has done it all, by this Python's Unicode; limits and padding are set below.
        inner.normalizer = None
        inner.no_truncation()
        return cls(inner, special, context_length, cleaning)

    def encode(self, text: str) -> EncodedQuery:
        """Tokenize a query: start token, words, end token; at most `context_length` in all.

        Tokenizers other than CLIP's add what their file says. A query that is too long keeps its
        beginning, and the end token stands last. A written-out `<end_of_text>` ends CLIP's query,
        since the model finds the end by that token.

        Raises:
            QueryError: the query is empty or not Unicode, or nothing is left of it after cleaning.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # No answer about it could be written as JSON.
            raise QueryError(
                f"the query {text[:40]!a} is not UTF-8 text; check the encoding of the terminal "
                "or the script"
            ) from error
        cleaned = clean(text, self._cleaning)
        if self._cleaning != "clip":
            # A special token that is written out is no word, and would end the text early.
            for token in self._special:
                cleaned = " ".join(cleaned.replace(token, " ").split())
            if not cleaned:
                raise _no_words(text)
            found = self._inner.encode(cleaned)
            return EncodedQuery(
                ids=np.array(found.ids, np.int64), truncated=bool(found.overflowing)
            )
        words = self._encode_words(cleaned)
        end = self._special[END_TOKEN]
        if end in words:
            words = words[: words.index(end)]
        if not words:
            raise _no_words(text)
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


def _no_words(text: str) -> QueryError:
    return QueryError(f"the query {text[:40]!r} has no words; describe what to look for")


def _check_patterns(path: Path, *, normalizer: bool) -> None:
    """Raise `ValueError` if a regular expression of the tokenizer could take for ever.

    A pattern without groups, each alternative of which repeats at most its end, is matched in
    linear time. CLIP's is one: literals, classes of characters, and repeated classes.
    """
    file = msgspec.json.decode(path.read_bytes(), type=_File)
    pending = [file.pre_tokenizer, *([file.normalizer] if normalizer else [])]
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
    normalizer: Any = None


def clean(text: str, cleaning: TextCleaning = "clip") -> str:
    """Return the text as the model's vocabulary was made for it.

    Unicode is repaired by ftfy (broken encodings, curly quotes, ligatures, full-width letters,
    control characters, NFC), HTML entities are resolved twice, white space becomes single spaces.
    But for `whitespace`, letters become lower case; `canonicalize` removes ASCII punctuation.
    """
    if not _PLAIN.fullmatch(text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if cleaning == "canonicalize":
        text = text.translate(_NO_PUNCTUATION)
    text = " ".join(text.split())
    return text if cleaning == "whitespace" else text.lower()
