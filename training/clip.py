"""Loads the frozen towers of an image-text encoder, `training.clip_towers`.

Their weights come from open_clip or OpenAI state dicts, matched by name and shape, all of them or
none.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from training.clip_arch import arch_config, infer_config
from training.clip_config import DEFAULT_ARCH, OPENAI_MEAN, OPENAI_STD, ClipConfig, ClipError
from training.clip_names import PROJECTIONS, openai_name, openai_tensors
from training.clip_towers import Block, ClipTowers, TextTower, VisionTower

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEFAULT_ARCH",
    "OPENAI_MEAN",
    "OPENAI_STD",
    "Block",
    "ClipConfig",
    "ClipError",
    "ClipTowers",
    "TextTower",
    "VisionTower",
    "arch_config",
    "infer_config",
    "load_clip",
    "openai_name",
    "random_towers",
    "towers_from_state_dict",
]

# The demo model's CLIP, which is part of this checkout.
_PACKAGED = "r2rt-tiny"
_PACKAGED_WEIGHTS = Path(__file__).parent / "demo" / "weights" / f"{_PACKAGED}.safetensors"
# Tensors of a CLIP that no output depends on (the projections where the sizes name none), and sizes
# that OpenAI's archives store as tensors.
_NOT_READ = re.compile(
    r"visual\.(ln_post\.(weight|bias)|proj|input_resolution)|ln_final\.(weight|bias)|text_projection"
    r"|logit_scale|logit_bias|attn_mask|input_resolution|context_length|vocab_size"
)


def load_clip(
    spec: str | Path,
    *,
    arch: str | None = None,
    mirror: str | Path | None = None,
    cache_dir: Path | None = None,
) -> ClipTowers:
    """Build the towers that `spec` names.

    Args:
        spec: one of
            an open_clip architecture (`ViT-B-32-quickgelu`), with OpenAI's weights, or with those
            of another of its tags (`NAME@TAG`); looked for on disk, else fetched;
            `r2rt-tiny`, the CLIP of the demo model, or a bundle's folder that stands on it;
            a file of weights in OpenAI's key names: `.safetensors`, a plain state dict, or OpenAI's
            TorchScript archive, of which no code is run;
            `random:SEED` or `random:SEED:ARCH`, random weights of full size.
        arch: open_clip's name of a file's architecture; inferred from the shapes when None.
        mirror: URL or folder that holds the weights' file, in place of its origin.
        cache_dir: folder where fetched weights are kept.

    Raises:
        ClipError: no such architecture, or weights that are damaged or do not fit it.
        r2rt.errors.DownloadError: the weights could not be fetched.
        r2rt.errors.HashMismatchError: the weights are not the published ones.
    """
    from training import clip_weights

    if (seeded := re.fullmatch(r"random:(\d+)(?::(.+))?", str(spec))) is not None:
        seed, name = int(seeded[1]), seeded[2] or DEFAULT_ARCH
        return random_towers(arch_config(name), seed)
    path = Path(spec)
    if str(spec) == _PACKAGED or (path / "bundle.json").is_file():
        return _packaged_towers(path)
    if path.is_file():
        tensors, sha256 = clip_weights.read_weights(path)
        if len(tensors.get("token_embedding.weight", ())) == _packaged_rows():
            return _packaged_towers(path)
        config = infer_config(tensors) if arch is None else arch_config(arch)
        source = path.name
    elif path.suffix in clip_weights.SUFFIXES or len(path.parts) > 1:
        raise ClipError(f"{path} is no file; give CLIP weights or an architecture's name")
    elif arch is not None:
        raise ClipError(f"an architecture ({arch}) goes with a file of weights, not with {spec}")
    else:
        name, _, tag = str(spec).partition("@")
        config = arch_config(name)
        path = clip_weights.fetch_clip(str(spec), mirror=mirror, cache_dir=cache_dir)
        tensors, sha256 = clip_weights.read_weights(path)
        mean, std = clip_weights.pixel_statistics(name, tag or clip_weights.DEFAULT_TAG)
        config = replace(config, mean=mean, std=std)
        source = f"open_clip {name} / {tag or clip_weights.DEFAULT_TAG} ({path.name})"
    config = replace(config, weights_source=source, weights_sha256=sha256)
    return towers_from_state_dict(config, tensors)


def _packaged_towers(path: Path) -> ClipTowers:
    """Return the demo model's CLIP: by its name, by a bundle on it, or from a file.

    Raises:
        ClipError: the bundle stands on another CLIP, which it does not hold.
    """
    from r2rt.model.bundle import Bundle
    from training.demo.clip import load_tiny_clip

    if path.is_file():
        return load_tiny_clip(path)
    towers = load_tiny_clip(_PACKAGED_WEIGHTS)
    if path.is_dir():
        made_with = Bundle.open(path).manifest.provenance
        if made_with.clip_sha256 != towers.config.weights_sha256:
            raise ClipError(
                f"{path}: a bundle does not give the hidden states of its CLIP; name the CLIP that "
                f"it was made with: {made_with.clip}"
            )
    return towers


def _packaged_rows() -> int:
    from training.tiny_clip.rows import row_count

    return row_count()


def towers_from_state_dict(config: ClipConfig, tensors: Mapping[str, Tensor]) -> ClipTowers:
    """Build towers from a state dict of open_clip or OpenAI, every tensor of it accounted for.

    Weights without any of the projections make towers without an embedding.

    Raises:
        ClipError: tensors are missing, of another shape, not floats, or belong nowhere; named.
    """
    tensors = openai_tensors(tensors)
    if not any(key.startswith(tuple(PROJECTIONS.values())) for key in tensors):
        config = replace(config, embed_width=None)
    with torch.device("meta"):
        towers = ClipTowers(config)
    wanted = {openai_name(name): name for name in towers.state_dict()}
    expected = towers.state_dict()
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted and not _NOT_READ.fullmatch(key)]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(expected[name].shape)}"
        for key, name in wanted.items()
        if key in tensors and tensors[key].shape != expected[name].shape
    ]
    not_float = [key for key in wanted if key in tensors and not tensors[key].is_floating_point()]
    faults = [
        f"{what} {_some(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
            ("not floating point", not_float),
        )
        if keys
    ]
    if faults:
        raise ClipError(f"CLIP weights do not fit {config.name}: {'; '.join(faults)}")
    # A copy, so that the towers share no memory with the state dict nor with a mapped file.
    state = {
        name: tensors[key].detach().to(torch.float32, copy=True) for key, name in wanted.items()
    }
    towers.load_state_dict(state, strict=True, assign=True)
    # Buffers stay on the meta device when only parameters are assigned.
    towers.vision.set_constants(config)
    towers.requires_grad_(False)
    return towers.eval()


def random_towers(config: ClipConfig, seed: int) -> ClipTowers:
    """Build towers with random weights: the same for the same seed, in any process.

    Scales keep the hidden states of order one at any depth; LayerNorms and biases are random as
    well, so that a wrong or forgotten one shows.
    """
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in ClipTowers(config).state_dict().items()}
    tensors = {}
    for name, shape in names.items():
        mean, std = _random_scale(name, shape, config)
        key = openai_name(name)
        # By name, so that no parameter's numbers depend on which others there are.
        generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
        values = generator.standard_normal(tuple(shape), np.float32)
        values *= std
        values += mean
        tensors[key] = torch.from_numpy(values)
    config = replace(config, weights_source=f"random:{seed}:{config.name}", weights_sha256=None)
    return towers_from_state_dict(config, tensors)


def _random_scale(name: str, shape: Sequence[int], config: ClipConfig) -> tuple[float, float]:
    """Mean and standard deviation of a random parameter."""
    if name.endswith("embedding") or "token_embedding" in name:
        return 0.0, 0.5
    if ".ln_" in name or ".norm." in name:
        return (1.0 if name.endswith("weight") else 0.0), 0.1
    if name.endswith("bias"):
        return 0.0, 0.1
    std = float(np.prod(shape[1:])) ** -0.5
    if name.endswith(("out.weight", "proj.weight")):
        # Each block adds two branches to the residual stream, whose variances add up.
        layers = config.vision_layers if name.startswith("vision.") else config.text_layers
        std *= (2 * layers) ** -0.5
    return 0.0, std


def _some(keys: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest
