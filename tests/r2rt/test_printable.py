"""What a terminal is sent of names and queries."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from r2rt.printable import escape_controls, one_line, printable


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


def test_a_line_for_a_file_has_spaces_between_its_words() -> None:
    assert one_line(" a\r\n\x1b[31m  b\u202e ") == "a [31m b"


@given(
    st.dictionaries(st.text(), st.text(st.characters(codec="utf-8"))), st.sampled_from([None, 2])
)
def test_json_that_cannot_drive_a_terminal_means_the_same(
    record: dict[str, str], indent: int | None
) -> None:
    text = escape_controls(json.dumps(record, ensure_ascii=False, indent=indent))
    assert json.loads(text) == record
    assert text.replace("\n", "").replace("\u200c", "").replace("\u200d", "").isprintable()


def test_json_keeps_letters_of_all_languages() -> None:
    assert escape_controls('{"q": "ü 犬 👩\u200d🚀"}') == '{"q": "ü 犬 👩\u200d🚀"}'
    assert escape_controls('"\x9b2J \u2028 \u202e"') == r'"\u009b2J \u2028 \u202e"'
