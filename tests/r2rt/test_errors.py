"""Every foreseen error has a documented exit code of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2rt import errors
from r2rt.errors import QueryError, R2rtError, error_class, exit_codes
from tests.conftest import CHECKOUT

# Scripts rely on these numbers: one may be added, none may change.
CODES = {
    "R2rtError": 1,
    "QueryError": 2,
    "NotInVideoError": 3,
    "SomeVideosFailedError": 4,
    "SourceNotFoundError": 10,
    "NotAVideoError": 11,
    "NoVideoStreamError": 12,
    "NoFramesError": 13,
    "EncodedVideoError": 14,
    "SourceLostError": 15,
    "LibraryError": 16,
    "ModelNotFoundError": 20,
    "BundleDamagedError": 21,
    "BundleSchemaError": 22,
    "HashMismatchError": 23,
    "DownloadError": 24,
    "ModelMismatchError": 25,
    "ConversionError": 26,
    "AccuracyError": 27,
    "BackendUnavailableError": 30,
    "GpuError": 31,
    "MemoryLimitError": 32,
    "OutputError": 40,
    "MissingExtraError": 41,
    "LibraryFullError": 42,
    "ServiceStateError": 45,
}


def public_errors() -> dict[str, type[R2rtError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, R2rtError)
    }


def test_the_codes_are_those_that_were_promised() -> None:
    assert {name: error.exit_code for name, error in public_errors().items()} == CODES


def test_all_of_them_are_public() -> None:
    assert set(errors.__all__) == {*CODES, "error_class", "exit_codes"}


def test_an_exit_code_leads_back_to_its_error() -> None:
    for error in public_errors().values():
        assert error_class(error.exit_code) is error
    assert error_class(0) is error_class(99) is None


def test_no_two_share_a_code() -> None:
    codes = [error.exit_code for error in public_errors().values()]
    assert len(set(codes)) == len(codes)


def test_no_code_collides_with_what_shells_and_signals_use() -> None:
    assert all(0 < code < 126 for code in CODES.values())


@pytest.mark.parametrize("error", public_errors().values(), ids=lambda error: error.__name__)
def test_every_error_is_documented(error: type[R2rtError]) -> None:
    text = (error.__doc__ or "").strip()
    assert text.endswith(".")
    if error is not R2rtError:
        assert "exit_code" in vars(error), "it would inherit the code of another error"
        documented = exit_codes()[error.exit_code]
        assert error is QueryError or documented == text.splitlines()[0]


def test_the_table_of_codes_is_complete_and_ascends() -> None:
    table = exit_codes()
    assert list(table) == sorted({0, 130, *CODES.values()})
    assert all(text.endswith(".") and "\n" not in text for text in table.values())


@pytest.mark.parametrize("error", public_errors().values(), ids=lambda error: error.__name__)
def test_the_message_is_what_was_said(error: type[R2rtError]) -> None:
    """Errors that are also `OSError` must not print an error number."""
    assert str(error("x.mp4: no such file; check the path")) == (
        "x.mp4: no such file; check the path"
    )


def test_the_runtime_raises_no_message_of_several_lines() -> None:
    """A message that a literal newline breaks would not be one line on the terminal."""
    offenders = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno}"
        for path in sorted((CHECKOUT / "r2rt").rglob("*.py"))
        for node in raised_with_newline(path)
    ]
    assert not offenders


def raised_with_newline(path: Path) -> Iterator[ast.Raise]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            texts = [
                part.value
                for part in ast.walk(node.exc)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            if any("\n" in text for text in texts):
                yield node
