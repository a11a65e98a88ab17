"""Which shapes graphs are run with."""

from __future__ import annotations

import pytest

from r2rt.engines.tensorrt.buckets import bucketed
from r2rt.engines.tensorrt.plans import Range
from r2rt.errors import BackendUnavailableError
from r2rt.model.contract import GraphSpec


@pytest.mark.parametrize(
    ("name", "sizes", "padded"),
    [
        ("B", Range(least=8, usual=8, most=8), 8),
        ("B", Range(least=1, usual=8, most=16), 4),
        ("N", Range(least=4, usual=4, most=4), 4),
        ("L", Range(least=16, usual=16, most=77), 16),
        ("T", Range(least=1, usual=75, most=1024), 3),
    ],
)
def test_what_is_less_than_an_engine_takes_is_padded(name: str, sizes: Range, padded: int) -> None:
    spec = GraphSpec(name="graph", inputs=(), outputs=())
    assert bucketed(spec, {name: 3}, {name: sizes}) == {name: padded}


@pytest.mark.parametrize(("name", "size"), [("B", 9), ("L", 78), ("T", 3), ("T", 1025)])
def test_what_cannot_be_padded_is_refused(name: str, size: int) -> None:
    """More never fits; and a video of fewer clips is another video."""
    ranges = {
        "B": Range(least=8, usual=8, most=8),
        "L": Range(least=16, usual=16, most=77),
        "T": Range(least=75, usual=75, most=1024),
    }
    spec = GraphSpec(name="graph", inputs=(), outputs=())
    with pytest.raises(BackendUnavailableError, match=f"{name} is {size}"):
        bucketed(spec, {name: size}, {name: ranges[name]})
