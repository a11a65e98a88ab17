from __future__ import annotations

import pytest
import torch

from kernels.cast import BLOCK, cast


# Triton's interpreter rounds to bf16 toward zero, compiled code to the nearest.
@pytest.mark.parametrize(("dtype", "off"), [(torch.float16, 0), (torch.bfloat16, 2**-7)], ids=str)
@pytest.mark.parametrize("count", [1, BLOCK, 2 * BLOCK + 16])
def test_numbers_are_rounded_as_pytorch_rounds_them(
    count: int, dtype: torch.dtype, off: float
) -> None:
    source = torch.randn(count, generator=torch.Generator().manual_seed(0))
    target = torch.full((count + 8,), 7, dtype=dtype)
    cast(source, target[:count])
    torch.testing.assert_close(target[:count], source.to(dtype), rtol=off, atol=0)
    assert (target[count:] == 7).all()
