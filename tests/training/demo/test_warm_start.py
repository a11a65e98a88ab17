from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from training.clip import ClipTowers
from training.demo.clip import clip_tensors
from training.demo.scenes import Pool
from training.demo.settings import model_config
from training.demo.warm_start import warm_start
from training.model import R2Tuning


@pytest.mark.slow
def test_what_is_read_is_handed_on_nearly_as_it_is(
    pool: Pool, towers: ClipTowers, clip_file: Path
) -> None:
    torch.manual_seed(0)
    model = R2Tuning(model_config(towers))
    tensors = clip_tensors(clip_file)[0]
    seen, heard = warm_start(model, pool, towers, tensors, seed=0)
    assert min(seen, heard) > 0.3  # of a CLIP of random weights; unrelated ones are at 0
    clips = F.layer_norm(torch.randn(2, 20, model.config.width), (model.config.width,))
    with torch.no_grad():
        mixed = model.eval().adapter.tem.mix_time(clips, torch.zeros(()))
    assert (mixed - clips).norm() < 0.15 * clips.norm()
