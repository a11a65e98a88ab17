"""Random models and inputs for the kernels of inference."""

from __future__ import annotations

import torch

from benchmarks.gpu_checks.samples import BlockInputs
from training.model import R2Config, R2Tuning


def random_model(width: int, *, heads: int = 8, seed: int = 0) -> R2Tuning:
    """A model none of whose parameters is 0 or 1, so that leaving one out shows."""
    torch.manual_seed(seed)
    config = R2Config(width=width, heads=heads, vision_width=24, text_width=24)
    model = R2Tuning(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "att" in name:
                parameter.mul_(2)
    return model


def random_inputs(
    *, clips: int, patches: int, queries: int, length: int, width: int, layers: int = 4
) -> BlockInputs:
    """Queries of `length` tokens, all but the first of them cut to about half."""
    torch.manual_seed(clips)
    mask = torch.ones(queries, length)
    mask[1:, (length + 1) // 2 :] = 0
    return BlockInputs(
        v=torch.randn(clips, layers, patches, width),
        q=torch.randn(queries, layers, length, width),
        q_key=2 * torch.randn(queries, layers, length, width) / width**0.5,
        query_mask=mask,
    )
