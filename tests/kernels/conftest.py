"""Kernels run in Triton's interpreter here, which tests/conftest.py chooses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.golden_data import one_thread

triton = pytest.importorskip(
    "triton", reason="the kernels need triton, which comes with torch on Linux: pip install triton"
)
if not isinstance(triton.language.zeros, triton.runtime.interpreter.InterpretedFunction):
    pytest.skip(
        "triton was imported without its interpreter before tests/conftest.py: TRITON_INTERPRET=1 "
        "in the environment of pytest chooses it for certain",
        allow_module_level=True,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield
