"""Kernels run in Triton's interpreter here, which must be chosen before triton is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.golden_data import one_thread

_CHOSEN_TOO_LATE = "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1"
os.environ["TRITON_INTERPRET"] = "1"

if _CHOSEN_TOO_LATE:
    pytest.skip(
        "triton was imported before its interpreter could be chosen; run `pytest tests/kernels`",
        allow_module_level=True,
    )
pytest.importorskip("triton", reason="triton cannot be imported; it comes with the extra `train`")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield
