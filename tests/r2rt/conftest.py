"""What the runtime's tests share: the small bundle of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from r2rt import Grounder
from tests.conftest import CHECKOUT

DEMO_BUNDLE = CHECKOUT / "demo" / "random-tiny"
DEMO_VIDEO = CHECKOUT / "demo" / "shapes.mp4"


@pytest.fixture(scope="session")
def tokenizer_file() -> Path:
    return DEMO_BUNDLE / "tokenizer.json"


@pytest.fixture(scope="session")
def tiny_grounder() -> Grounder:
    """A real engine over real graphs of random weights."""
    return Grounder.load(DEMO_BUNDLE, device="cpu", threads=2)
