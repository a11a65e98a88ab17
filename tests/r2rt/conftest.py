"""What the runtime's tests share: the small bundle of the demo, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from r2rt import Grounder
from tests.conftest import CHECKOUT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DEMO_BUNDLE = CHECKOUT / "demo" / "random-tiny"
DEMO_VIDEO = CHECKOUT / "demo" / "shapes.mp4"
# Milliseconds that a step in a browser may take; a loaded machine is slow.
PATIENCE_MS = 30_000


@pytest.fixture(scope="session")
def tokenizer_file() -> Path:
    return DEMO_BUNDLE / "tokenizer.json"


@pytest.fixture(scope="session")
def tiny_grounder() -> Grounder:
    """A real engine over real graphs of random weights."""
    return Grounder.load(DEMO_BUNDLE, device="cpu", threads=2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium without a window.

    Until it ends, an event loop runs in this thread, where other tests run loops of their own.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
