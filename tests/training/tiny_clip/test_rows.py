from __future__ import annotations

import numpy as np
import pytest
import torch

from training.tiny_clip.rows import (
    END,
    START,
    UNKNOWN_ROW,
    VOCABULARY,
    compact,
    encode,
    expand,
    known_words,
    row_count,
    row_map,
)


def test_every_known_word_has_rows_of_its_own() -> None:
    rows = row_map()
    assert rows.shape == (VOCABULARY,)
    assert rows.dtype == np.int32
    known = rows[rows != UNKNOWN_ROW]
    assert sorted(known) == list(range(1, row_count()))
    ids = encode(known_words())
    assert (rows[ids[ids > 0]] != UNKNOWN_ROW).all()
    assert rows[START] != UNKNOWN_ROW != rows[END]


def test_unknown_words_share_a_row() -> None:
    ids = encode(["a quantum harpsichord"])[0].tolist()
    rows = row_map()[ids]
    assert rows[2] == UNKNOWN_ROW
    assert row_map()[encode(["a dog"])[0, 2]] != UNKNOWN_ROW


def test_compact_undoes_expand() -> None:
    table = torch.randn(row_count(), 8, generator=torch.Generator().manual_seed(0))
    full = expand(table)
    assert full.shape == (VOCABULARY, 8)
    torch.testing.assert_close(compact(full), table, rtol=0, atol=0)
    torch.testing.assert_close(full[END], table[row_map()[END]], rtol=0, atol=0)
    torch.testing.assert_close(full[0], table[UNKNOWN_ROW], rtol=0, atol=0)


@pytest.mark.parametrize(
    "text",
    [
        "a dog",
        "the red car driving to the left",
        "a t-rex next to a jack-o-lantern",
        "an elephant and a four leaf clover at the same time",
    ],
)
def test_ids_are_those_of_open_clips_tokenizer(text: str) -> None:
    import open_clip

    expected = open_clip.get_tokenizer("ViT-B-32")([text])
    ids = encode([text])
    assert (expected[:, : ids.shape[1]] == ids).all()
    assert not expected[:, ids.shape[1] :].any()
    assert ids[0, -1] == END
