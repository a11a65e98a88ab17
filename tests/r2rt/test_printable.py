"""What a terminal is sent of names and queries."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from r2rt.printable import printable


@given(st.text())
def test_nothing_that_drives_a_terminal_is_left(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    # Cc are control characters, ESC and CSI among them; Cs cannot be encoded.
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(c) for c in shown}
    assert "\u202e" not in shown


def test_what_can_be_printed_stays() -> None:
    for text in ("a dog", "ein Hündchen", "犬", "👩\u200d🚀", "می\u200cخواهم", "50 %"):
        assert printable(text) == text
    assert printable("a\x1b[31mb\nc\u202ed\udc80") == "a�[31mb�c�d�"
