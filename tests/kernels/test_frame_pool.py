from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import kernels.blocks
from kernels import frame_pool as kernel
from kernels.reference.frame_pool import frame_pool as reference
from kernels.tolerances import assert_close
from tests.kernels.mutants import load_mutant

pytestmark = pytest.mark.slow

# B, T, P, N, L, D
SHAPES = {
    "ones": (1, 1, 1, 1, 1, 32),
    "clip-b32": (1, 2, 50, 1, 11, 256),
    "several videos and queries": (2, 3, 50, 3, 5, 32),
    "vit-b16, long query": (1, 1, 197, 2, 33, 64),
    "vit-l14-336": (1, 1, 577, 1, 7, 64),
    "longest query": (1, 1, 50, 1, 77, 32),
    "odd width": (1, 2, 19, 2, 3, 40),
    "wide": (1, 1, 50, 2, 17, 512),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
GRADIENTS = ("v", "q", "q_key", "scale", "gate", "last")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    v: Tensor
    q: Tensor
    q_key: Tensor
    scale: Tensor
    query_mask: Tensor | None
    clip_mask: Tensor | None
    gate: Tensor | None
    last: Tensor | None

    def run(self, pool: Callable[..., Tensor]) -> Tensor:
        return pool(
            self.v,
            self.q,
            self.q_key,
            self.scale,
            query_mask=self.query_mask,
            clip_mask=self.clip_mask,
            gate=self.gate,
            last=self.last,
        )

    def as_leaves(self, dtype: torch.dtype | None = None) -> Inputs:
        """Copies that record gradients, in `dtype` where it is given."""
        leaves = {
            name: None if x is None else x.detach().to(dtype or x.dtype).requires_grad_()
            for name in GRADIENTS
            for x in (getattr(self, name),)
        }
        return replace(self, **leaves)  # type: ignore[arg-type]  # None where it was None

    def leaves(self) -> dict[str, Tensor]:
        return {n: getattr(self, n) for n in GRADIENTS if getattr(self, n) is not None}


def make(
    shape: tuple[int, int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    *,
    masked: bool = True,
    gated: bool = True,
    seed: int = 0,
) -> Inputs:
    b, t, p, n, length, d = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    q = normal(b, n, length, d)
    if dtype is not torch.float32:
        # Tokens stand so far apart that rounding does not change which of them is the largest.
        order = torch.rand(b, n, length, d, generator=generator).argsort(dim=2)
        q = order * 3.0
    query_mask = clip_mask = None
    if masked:
        query_mask = torch.rand(b, n, length, generator=generator) < 0.7
        query_mask[..., 0] = False
        query_mask[..., length // 2] = True
        clip_mask = torch.arange(t) < torch.tensor([t, max(1, t - 1)])[:b, None]
    return Inputs(
        v=normal(b, t, p, d).to(dtype),
        q=q.to(dtype),
        q_key=(2 * normal(b, n, length, d) / d**0.5).to(dtype),
        scale=torch.tensor(0.7),
        query_mask=query_mask,
        clip_mask=clip_mask,
        gate=torch.tensor(0.3) if gated else None,
        last=normal(b, n, t, d) if gated else None,
    )


def check(inputs: Inputs, pool: Callable[..., Tensor]) -> None:
    """Compare output and gradients with fp64 autograd."""
    dtype = inputs.v.dtype
    actual, expected = inputs.as_leaves(), inputs.as_leaves(torch.float64)
    out, reference_out = actual.run(pool), expected.run(reference)
    assert_close(out, reference_out, dtype, "out")
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    names = list(actual.leaves())
    gradients = torch.autograd.grad(out, list(actual.leaves().values()), grad)
    references = torch.autograd.grad(reference_out, list(expected.leaves().values()), grad.double())
    for name, got, wanted in zip(names, gradients, references, strict=True):
        assert got.dtype == getattr(inputs, name).dtype
        # One patch has weight 1 whatever its score: what is left is rounding of terms that cancel.
        terms = {"scale", "gate"} | ({"q_key"} if inputs.v.shape[2] == 1 else set())
        magnitude = float(grad.abs().sum()) if name in terms else None
        assert_close(got, wanted, dtype, f"gradient of {name}", magnitude=magnitude)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_output_and_gradients_equal_fp64(
    shape: tuple[int, int, int, int, int, int], dtype: torch.dtype
) -> None:
    check(make(shape, dtype), kernel.frame_pool)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_masks_and_gate_are_optional(masked: bool, gated: bool) -> None:
    check(make((2, 2, 20, 2, 5, 32), masked=masked, gated=gated), kernel.frame_pool)


def test_a_view_of_one_layer_is_taken_as_it_is() -> None:
    inputs = make((2, 2, 20, 1, 3, 32))
    layers = torch.stack([inputs.v, inputs.v + 1, inputs.v - 1], dim=2)
    check(replace(inputs, v=layers[:, :, 1]), kernel.frame_pool)


def test_large_scores_do_not_overflow() -> None:
    _check_all(kernel.frame_pool)


def test_a_query_without_tokens_leaves_the_cls_token_and_no_gradient() -> None:
    inputs = make((1, 2, 20, 2, 4, 32), gated=False)
    mask = torch.ones(1, 2, 4, dtype=torch.bool)
    mask[0, 1] = False
    inputs = replace(inputs, query_mask=mask, clip_mask=None).as_leaves()
    out = inputs.run(kernel.frame_pool)
    assert torch.equal(out[0, 1], inputs.v[0, :, 0])
    _, d_q, d_key = torch.autograd.grad(out.sum(), [inputs.v, inputs.q, inputs.q_key])
    assert d_q.isfinite().all()
    assert d_key.isfinite().all()
    assert not d_q[0, 1].any()
    assert not d_key[0, 1].any()


def test_padded_clips_are_zeros_and_reach_no_gradient() -> None:
    inputs = make((1, 3, 20, 1, 4, 32)).as_leaves()
    inputs = replace(inputs, clip_mask=torch.tensor([[True, False, True]]))
    assert inputs.last is not None
    out = inputs.run(kernel.frame_pool)
    assert not out[0, 0, 1].any()
    d_v, d_last = torch.autograd.grad(out.sum(), [inputs.v, inputs.last])
    assert not d_v[0, 1].any()
    assert not d_last[0, 0, 1].any()
    assert d_v[0, 0].any()


def test_gradients_are_the_same_bits_every_time() -> None:
    inputs = make((2, 3, 50, 2, 5, 32)).as_leaves()
    runs = [
        torch.autograd.grad(inputs.run(kernel.frame_pool).sum(), list(inputs.leaves().values()))
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_first_of_equal_tokens_has_the_gradient() -> None:
    inputs = make((1, 1, 5, 1, 3, 32), masked=False, gated=False)
    same = replace(
        inputs,
        q=inputs.q[:, :, :1].expand_as(inputs.q).clone(),
        q_key=inputs.q_key[:, :, :1].expand_as(inputs.q_key).clone(),
    ).as_leaves()
    (d_q,) = torch.autograd.grad(same.run(kernel.frame_pool).sum(), [same.q])
    assert d_q[0, 0, 0].all()
    assert not d_q[0, 0, 1:].any()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("gated", [False, True])
def test_the_operator_is_a_good_citizen_of_torch(gated: bool) -> None:
    inputs = make((1, 2, 5, 2, 3, 32), gated=gated).as_leaves()
    arguments = (
        inputs.v,
        inputs.q,
        inputs.q_key,
        inputs.scale,
        inputs.query_mask,
        inputs.clip_mask,
        inputs.gate,
        inputs.last,
    )
    torch.library.opcheck(torch.ops.r2rt.frame_pool.default, arguments)


def test_wrong_shapes_and_types_are_refused_by_name() -> None:
    inputs = make((1, 2, 5, 2, 3, 32))
    with pytest.raises(ValueError, match=r"q_key \(1, 2, 3, 32\), got \(1, 2, 2, 32\)"):
        replace(inputs, q_key=inputs.q_key[:, :, :2]).run(kernel.frame_pool)
    with pytest.raises(ValueError, match="`gate` and `last` together"):
        replace(inputs, gate=None).run(kernel.frame_pool)
    with pytest.raises(ValueError, match=r"fp32, fp16 or bf16, got torch\.float64"):
        replace(inputs, v=inputs.v.double()).run(kernel.frame_pool)
    with pytest.raises(ValueError, match="none of them empty"):
        replace(inputs, v=inputs.v[:, :0]).run(kernel.frame_pool)


MUTANTS = {
    "no maximum subtracted": (
        "kernels.blocks",
        'shift = tl.where(new_top == -float("inf"), 0.0, new_top)',
        "shift = new_top * 0.0",
    ),
    "padded patches take part": (
        "kernels.blocks",
        'scores = tl.where((tl.arange(0, BLOCK_P) < P)[None, :], scores, -float("inf"))',
        "scores = scores + 0.0",
    ),
    "earlier blocks are not rescaled": (
        "kernels.blocks",
        "attended = attended * keep[:, None] + matmul(weights, v)",
        "attended = attended + matmul(weights, v)",
    ),
    "query mask dropped": (
        "kernels.frame_pool",
        "real = tl.load(query_mask_ptr + query * length + token, mask=real, other=0) != 0",
        "real = token < length",
    ),
    "gate the wrong way round": (
        "kernels.frame_pool",
        "f = gate * f + (1.0 - gate) * last",
        "f = (1.0 - gate) * f + gate * last",
    ),
    "gate missing from the gradient": (
        "kernels.frame_pool_backward",
        "grad = grad * tl.load(gate_ptr).to(tl.float32)",
        "grad = grad * 1.0",
    ),
    "softmax's own gradient missing": (
        "kernels.frame_pool_backward",
        "weights * (d_weights - delta[:, None])",
        "weights * d_weights",
    ),
}


@pytest.mark.parametrize(("module", "old", "new"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_broken_kernel_is_caught(
    module: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = load_mutant(tmp_path, module, old, new)
    pool = _pool_of(mutant, monkeypatch)
    # The interpreter computes with numpy, which warns of the overflow that it finds.
    with pytest.raises((AssertionError, RuntimeWarning)):
        _check_all(pool)


def _check_all(pool: Callable[..., Tensor]) -> None:
    """One block of patches, several blocks, scores beyond what exp can take."""
    check(make((1, 2, 20, 1, 5, 32)), pool)
    several = make((1, 2, 70, 1, 5, 32))
    check(several, pool)
    # A channel that all patches share moves every score by 95 and changes no weight.
    v, q_key = several.v.clone(), several.q_key.clone()
    v[..., 0], q_key[..., 0] = 10.0, 9.5
    large = replace(several, v=v, q_key=q_key)
    expected = large.as_leaves(torch.float64).run(reference)
    assert_close(large.run(pool), expected, torch.float32, "out")


def _pool_of(mutant: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    if hasattr(mutant, "frame_pool"):
        pool: Callable[..., Tensor] = mutant.frame_pool
        return pool
    if hasattr(mutant, "backward_v"):
        for name in ("backward_stats", "backward_v", "backward_q"):
            monkeypatch.setattr(kernel, name, getattr(mutant, name))
        return kernel.frame_pool
    monkeypatch.setattr(kernels.blocks, "softmax_step", mutant.softmax_step)
    monkeypatch.setattr(kernel, "attend_patches", mutant.attend_patches)
    return kernel.frame_pool
