"""A start for the R² block that knows what CLIP knows: its maps as CLIP's own projections.

The block's two maps must come to speak of the same things before anything else can be learned.
CLIP has learned that already, and says it by the projections behind its last layers, which the
block does not read. So the maps are first fitted to them: a patch of any layer is mapped to where
CLIP projects that patch of the last layer, a sentence's tokens to where it projects the sentence.
The attention between them starts as their plain product. It takes seconds, and needs no labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional as F

from training.clip import ClipTowers
from training.demo.scenes import Pool
from training.demo.settings import LAYERS
from training.model import R2Tuning
from training.tiny_clip.rows import END, encode
from training.world.claims import Timed, claims_of
from training.world.sentences import say

__all__ = ["project_image", "project_text", "warm_start"]

_CLIPS, _SENTENCES = 600, 3000
_STEPS, _BATCH, _LR = 600, 1024, 2e-3
# Patches read from the beginning, at this share of what they say: tanh of it.
_FIRST_SCALE = 0.5
# The branches of the temporal layer that mix time start this small: at this share of what a Linear
# starts at.
_FIRST_CHANGE = 0.2
# Gain of the products between clips and words.
_FIRST_SHARPNESS = 1.2


def project_image(states: Tensor, clip: Mapping[str, Tensor]) -> Tensor:
    """Return CLIP's own embedding (..., D) of states of the last vision layer, not normalised."""
    return _project(states, clip, "visual.ln_post", "visual.proj")


def project_text(states: Tensor, clip: Mapping[str, Tensor]) -> Tensor:
    """Return CLIP's own embedding (..., D) of the end token's last states, not normalised."""
    return _project(states, clip, "ln_final", "text_projection")


def warm_start(
    model: R2Tuning,
    pool: Pool,
    towers: ClipTowers,
    clip: Mapping[str, Tensor],
    *,
    seed: int,
) -> tuple[float, float]:
    """Fit the maps of a fresh model, in place.

    Args:
        model: of CLIP's embedding's width.
        pool: scenes to look at and to speak of.
        towers: the CLIP.
        clip: its tensors in open_clip's names, the projections among them.
        seed: of everything.

    Returns:
        The mean cosine of what the maps give with CLIP's projections, of patches and of sentences.
    """
    rng = np.random.default_rng([seed, 77])
    torch.manual_seed(seed)
    block = model.adapter
    nn.init.constant_(block.scale, _FIRST_SCALE)
    for linear in (block.q_map, block.v_map):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)

    # A clip attends to the words that it is like: both turned the same way, so that each head sees
    # a sample of all directions. What is read is handed on nearly as it is at first.
    cross = block.tem.cross_att
    nn.init.orthogonal_(cross.q.weight, gain=_FIRST_SHARPNESS)
    cross.k.weight.data.copy_(cross.q.weight.data)
    for out in (block.tem.self_att.m, block.tem.ffn.mapping[-1]):
        assert isinstance(out, nn.Linear)
        bound = _FIRST_CHANGE / math.sqrt(out.in_features)
        nn.init.uniform_(out.weight, -bound, bound)
        nn.init.zeros_(out.bias)

    patches, where = _patches(rng, pool, clip)
    if block.use_tef:
        start = torch.rand(len(patches), 1)
        length = torch.rand(len(patches), 1) / 15
        ends = torch.cat((start, start + length), dim=1)[:, None].expand(-1, patches.shape[1], -1)
        patches = torch.cat((patches, ends), dim=-1)
    words, said = _words(rng, pool, towers, clip)
    # A layer that is read several times is fitted once, and no order changes the fit.
    each = sorted(set(model.config.read))
    seen = _fit(block.video_map, patches[:, each], where)
    heard = _fit(block.query_map, words[:, each], said)
    return seen, heard


def _fit(mapping: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Fit a map from (N, K, C) to directions (N, D) of length √D; return the mean cosine."""
    mapping.train()
    optimizer = torch.optim.AdamW(mapping.parameters(), lr=_LR, weight_decay=1e-4)
    cosine = torch.zeros(())
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _LR * min(1.0, (step + 1) / 50) * (1 - step / _STEPS)
        rows = torch.randint(len(inputs), (_BATCH,))
        mapped = mapping(inputs[rows])
        cosine = F.cosine_similarity(mapped, targets[rows][:, None], dim=-1).mean()
        size = mapped.norm(dim=-1) / math.sqrt(mapped.shape[-1])
        loss = 1 - cosine + 0.1 * (size - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(cosine.detach())


def _patches(rng: Generator, pool: Pool, clip: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return states (N, K, C) of patches of random clips, CLS among them, and their directions."""
    clips = np.sort(rng.choice(len(pool.hidden), min(_CLIPS, len(pool.hidden)), replace=False))
    states = torch.from_numpy(np.array(pool.hidden[clips])).float()  # (N, K, P, C)
    # CLS is one of 65 tokens, and the most informative.
    whole = states[:, :, :1].repeat(1, 1, states.shape[2] // 4, 1)
    tokens = torch.cat((whole, states), dim=2).transpose(1, 2).flatten(0, 1)  # (N·P, K, C)
    return tokens, _directions(project_image(tokens[:, -1], clip))


def _words(
    rng: Generator, pool: Pool, towers: ClipTowers, clip: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return states (N, K, C) of tokens of random sentences, and the sentences' directions."""
    texts: list[str] = []
    while len(texts) < _SENTENCES:
        scene = pool.scenes[rng.integers(len(pool.scenes))]
        claims = claims_of([Timed(start_s=0.0, scene=scene)])
        if claims:
            texts.append(say(rng, claims[rng.integers(len(claims))]))
    ids = encode(texts)
    with torch.no_grad():
        states = towers.encode_text(ids, LAYERS).transpose(1, 2)  # (N, L, K, C)
    last = (ids == END).int().argmax(dim=1)
    directions = _directions(project_text(states[torch.arange(len(ids)), last, -1], clip))
    real = torch.arange(ids.shape[1]) <= last[:, None]
    return states[real], directions[:, None].expand(-1, ids.shape[1], -1)[real]


def _directions(embedded: Tensor) -> Tensor:
    """Unit vectors after subtracting the mean, which distinguishes nothing."""
    unit = F.normalize(embedded, dim=-1)
    return F.normalize(unit - unit.mean(dim=0), dim=-1)


def _project(states: Tensor, clip: Mapping[str, Tensor], norm: str, projection: str) -> Tensor:
    x = F.layer_norm(
        states.float(), states.shape[-1:], clip[f"{norm}.weight"], clip[f"{norm}.bias"]
    )
    return x @ clip[projection]
