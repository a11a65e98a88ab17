"""The names that users may rely on, pinned."""

from __future__ import annotations

import pytest

import r2rt


def test_the_public_names() -> None:
    assert r2rt.__all__ == [
        "Archive",
        "Bundle",
        "EncodedVideo",
        "Grounder",
        "Hit",
        "Moment",
        "Nms",
        "Prediction",
        "R2rtError",
        "SearchResult",
        "Stream",
        "Timings",
        "find_highlights",
        "find_sequences",
        "find_videos",
        "ground_many",
        "summarize",
    ]
    for name in r2rt.__all__:
        assert getattr(r2rt, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_such"):
        r2rt.nothing_such  # noqa: B018
