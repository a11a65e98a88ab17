from __future__ import annotations

import pytest
import torch

from kernels.cast import BLOCK, cast


@pytest.mark.parametrize("count", [1, BLOCK, 2 * BLOCK + 16])
def test_numbers_are_rounded_as_pytorch_rounds_them(count: int) -> None:
    source = torch.randn(count, generator=torch.Generator().manual_seed(0))
    target = torch.full((count + 8,), 7, dtype=torch.float16)
    cast(source, target[:count])
    torch.testing.assert_close(target[:count], source.half(), rtol=0, atol=0)
    assert (target[count:] == 7).all()
