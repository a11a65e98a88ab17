"""The frozen CLIP towers whose hidden states the R² block reads.

Both towers are pre-LN transformers (Radford et al., "Learning Transferable Visual Models From
Natural Language Supervision", 2021). The modules here are written for export: attention is one
`scaled_dot_product_attention` on (B, heads, tokens, head_dim) between plain `Linear` layers. Their
weights come from open_clip or OpenAI state dicts, matched by name and shape, all of them or none.

The projections to CLIP's embedding (ln_post and proj, ln_final and text_projection) are kept where
the weights have them; the logit scale is not.
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
from torch import Tensor, nn
from torch.nn import functional as F

from training.clip_config import (
    DEFAULT_ARCH,
    OPENAI_MEAN,
    OPENAI_STD,
    ClipConfig,
    ClipError,
    arch_config,
    infer_config,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEFAULT_ARCH",
    "OPENAI_MEAN",
    "OPENAI_STD",
    "ClipConfig",
    "ClipError",
    "ClipTowers",
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
_PROJECTIONS = {
    "vision_projection.norm.": "visual.ln_post.",
    "vision_projection.weight": "visual.proj",
    "text_projection.norm.": "ln_final.",
    "text_projection.weight": "text_projection",
}


class ClipTowers(nn.Module):
    """The vision and the text tower: frozen, in eval mode, fp32."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config)
        self.text = TextTower(config)
        if config.embed_width is not None:
            self.vision_projection = Projection(config.vision_width, config.embed_width)
            self.text_projection = Projection(config.text_width, config.embed_width)
        self.requires_grad_(False)
        self.eval()

    def encode_video(self, frames: Tensor, layers: int) -> Tensor:
        """Return what the last blocks of the vision tower put out, without ln_post.

        Args:
            frames: (B, S, S, 3) RGB; uint8 is normalised here, float is taken as normalised.
            layers: number K of last blocks whose outputs are returned.

        Returns:
            (B, K, P, Cv) fp32 in the order of the blocks: the last entry is the last block's.
        """
        _check_layers(layers, self.config.vision_layers, "vision")
        return self.vision(frames, layers)  # type: ignore[no-any-return]

    def encode_text(self, token_ids: Tensor, layers: int) -> Tensor:
        """Return what the last blocks of the causal text tower put out, without ln_final.

        Args:
            token_ids: (N, L) int64, 1 <= L <= context_length, from the start token on. The tower is
                causal: what stands behind the end token changes nothing before it.
            layers: number K of last blocks whose outputs are returned.

        Returns:
            (N, K, L, Ct) fp32 in the order of the blocks: the last entry is the last block's.
        """
        _check_layers(layers, self.config.text_layers, "text")
        return self.text(token_ids, layers)  # type: ignore[no-any-return]

    def embed_frames(self, hidden: Tensor) -> Tensor:
        """Return CLIP's embedding of frames (B, E), not normalised, of what `encode_video` returns.

        Raises:
            ClipError: the weights have no projection.
        """
        self._check_projected()
        return self.vision_projection(hidden[:, -1, 0])  # type: ignore[no-any-return]

    def embed_texts(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return CLIP's embedding of texts (N, E), not normalised, of what `encode_text` returns.

        Args:
            hidden: (N, K, L, Ct).
            lengths: (N,) int64, tokens of each text; the last one is the end token.

        Raises:
            ClipError: the weights have no projection.
        """
        self._check_projected()
        ends = hidden[torch.arange(len(hidden)), -1, lengths - 1]
        return self.text_projection(ends)  # type: ignore[no-any-return]

    def _check_projected(self) -> None:
        if self.config.embed_width is None:
            raise ClipError(f"the weights of {self.config.name} have no projection to an embedding")


class Projection(nn.Module):
    """LN(x)·W, from a tower's last state to the embedding that images and texts share."""

    def __init__(self, width: int, embed_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.zeros(width, embed_width))

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.norm(x) @ self.weight
        return embedding


class VisionTower(nn.Module):
    """A vision transformer up to its last block."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, patch = config.vision_width, config.patch_size
        self.image_size = config.image_size
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(config.patches, width))
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=config.vision_heads,
                mlp_width=config.vision_mlp_width,
                quick_gelu=config.quick_gelu,
                causal=False,
            )
            for _ in range(config.vision_layers)
        )
        # In units of a byte, so that uint8 frames need no division first.
        self.register_buffer("mean", torch.tensor(config.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std) * 255, persistent=False)

    def forward(self, frames: Tensor, layers: int) -> Tensor:
        size = self.image_size
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (size, size, 3):
            raise ClipError(f"frames have shape {tuple(frames.shape)}, not (B, {size}, {size}, 3)")
        if frames.dtype == torch.uint8:
            frames = (frames.to(self.mean.dtype) - self.mean) / self.std
        x = self.conv1(frames.permute(0, 3, 1, 2))  # (B, Cv, S/patch, S/patch)
        x = x.flatten(2).transpose(1, 2)  # (B, P - 1, Cv)
        cls = self.class_embedding.expand(x.shape[0], 1, -1)
        x = torch.cat([cls, x], dim=1) + self.positional_embedding  # (B, P, Cv)
        return _last_outputs(self.ln_pre(x), self.blocks, layers)


class TextTower(nn.Module):
    """A causal text transformer up to its last block."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.context_length, width))
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=config.text_heads,
                mlp_width=config.text_mlp_width,
                quick_gelu=config.quick_gelu,
                causal=True,
            )
            for _ in range(config.text_layers)
        )

    def forward(self, token_ids: Tensor, layers: int) -> Tensor:
        most = self.positional_embedding.shape[0]
        if token_ids.shape[1] > most:
            raise ClipError(
                f"a query of {token_ids.shape[1]} tokens; the tower takes at most {most}"
            )
        positions = self.positional_embedding[: token_ids.shape[1]]  # (L, Ct)
        return _last_outputs(self.token_embedding(token_ids) + positions, self.blocks, layers)


class Block(nn.Module):
    """A pre-LN transformer block: x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(
        self, *, width: int, heads: int, mlp_width: int, quick_gelu: bool, causal: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.ln_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.fc = nn.Linear(width, mlp_width)
        self.act = QuickGELU() if quick_gelu else nn.GELU()
        self.proj = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self._attend(self.ln_1(x)))
        return x + self.proj(self.act(self.fc(self.ln_2(x))))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, head_dim)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        return (
            F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            .transpose(1, 2)
            .flatten(2)
        )


class QuickGELU(nn.Module):
    """x·σ(1.702x), OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


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
    """Build towers from a state dict in OpenAI's key names, every tensor of it accounted for.

    Weights without any of the projections make towers without an embedding.

    Raises:
        ClipError: tensors are missing, of another shape, not floats, or belong nowhere; named.
    """
    if not any(key.startswith(tuple(_PROJECTIONS.values())) for key in tensors):
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
    towers.vision.mean = torch.tensor(config.mean) * 255
    towers.vision.std = torch.tensor(config.std) * 255
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


def _last_outputs(x: Tensor, blocks: nn.ModuleList, layers: int) -> Tensor:
    """Run all blocks on x (B, tokens, C); return (B, K, tokens, C) of the last K."""
    outputs = []
    for index, block in enumerate(blocks):
        x = block(x)
        if index >= len(blocks) - layers:
            outputs.append(x)
    return torch.stack(outputs, dim=1)


def _check_layers(layers: int, depth: int, tower: str) -> None:
    if not 1 <= layers <= depth:
        raise ClipError(f"{layers} layers asked of a {tower} tower that has {depth}")


_TO_OPENAI = {
    "qkv.weight": "attn.in_proj_weight",
    "qkv.bias": "attn.in_proj_bias",
    "out.": "attn.out_proj.",
    "fc.": "mlp.c_fc.",
    "proj.": "mlp.c_proj.",
}


def openai_name(name: str) -> str:
    """The key in OpenAI's state dicts of a parameter of `ClipTowers`."""
    for ours, theirs in _PROJECTIONS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    name = name.removeprefix("text.")
    name = re.sub(r"^vision\.", "visual.", name)
    block = re.fullmatch(r"(visual\.)?blocks\.(\d+)\.(.+)", name)
    if block is None:
        return name
    part = block[3]
    for ours, theirs in _TO_OPENAI.items():
        if part.startswith(ours):
            part = theirs + part.removeprefix(ours)
            break
    return f"{block[1] or ''}transformer.resblocks.{block[2]}.{part}"


def _some(keys: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest
