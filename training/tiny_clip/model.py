"""The tiny CLIP in training: the towers of `training.clip`, and the heads that training needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.clip import Block, ClipConfig, TextTower, VisionTower, openai_name
from training.tiny_clip.rows import END, expand, row_count, row_map
from training.world.colours import COLOURS
from training.world.concepts import CONCEPTS

__all__ = ["CONFIG_PATH", "Seen", "TinyClip", "tiny_config"]

CONFIG_PATH = Path(__file__).parent / "r2rt-tiny.json"
# Layers, counted from the last, that must encode a patch's position: those that the R² block reads.
# What a frame is called does not depend on that, so nothing else would keep it; motion needs it.
_PLACED = 4


def tiny_config() -> ClipConfig:
    """Return the sizes that r2rt-tiny.json, a configuration of open_clip, gives."""
    found = json.loads(CONFIG_PATH.read_text())
    vision, text = found["vision_cfg"], found["text_cfg"]
    return ClipConfig(
        name=CONFIG_PATH.stem,
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        vision_width=vision["width"],
        vision_layers=vision["layers"],
        vision_heads=vision["width"] // 64,
        vision_mlp_width=4 * vision["width"],
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        text_mlp_width=4 * text["width"],
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        quick_gelu=found["quick_gelu"],
        embed_width=found["embed_dim"],
    )


class Seen(NamedTuple):
    """What the vision tower makes of B frames of P patches.

    Attributes:
        image: (B, D) unit vectors, of CLS.
        patches: (B, P, D) unit vectors.
        colours: (B, P, 9) logits of named colours.
        places: (4, B, P, 2), where each of the last layers says that a patch is: x and y, -1 to 1.
    """

    image: Tensor
    patches: Tensor
    colours: Tensor
    places: Tensor


class TinyClip(nn.Module):
    """Both towers, their projections, and a free matrix of classes.

    The class matrix replaces the text tower while that one is untrained; its last row is
    the background's. It and the heads of colours and places are not part of what is exported.
    """

    rows: Tensor

    def __init__(self, config: ClipConfig | None = None) -> None:
        super().__init__()
        self.config = config or tiny_config()
        width, text_width = self.config.vision_width, self.config.text_width
        self.vision = VisionTower(self.config)
        self.text = TextTower(replace(self.config, vocab_size=row_count()))
        self.ln_post = nn.LayerNorm(width)
        self.ln_final = nn.LayerNorm(text_width)
        self.proj = nn.Parameter(torch.empty(width, text_width))
        self.text_projection = nn.Parameter(torch.empty(text_width, text_width))
        self.logit_scale = nn.Parameter(torch.tensor(2.66))
        self.class_scale = nn.Parameter(torch.tensor(2.66))
        self.patch_scale = nn.Parameter(torch.tensor(2.66))
        self.classes = nn.Parameter(torch.randn(len(CONCEPTS) + 1, text_width))
        self.colour_head = nn.Linear(width, len(COLOURS))
        self.place_heads = nn.ModuleList(nn.Linear(width, 2) for _ in range(_PLACED))
        self.register_buffer("rows", torch.from_numpy(row_map()).long(), persistent=False)
        self._initialise()

    def see(self, frames: Tensor, looked_at: Tensor | None = None) -> Seen:
        """Look at (B, S, S, 3) uint8 frames, S any multiple of the patch size.

        Args:
            frames: whole frames.
            looked_at: (B, P) int64, the patches of each frame that the tower is given, counted row
                by row; all where it is None.
        """
        vision = self.vision
        assert vision.class_embedding is not None
        assert vision.ln_pre is not None
        pixels = (frames.float() - vision.mean) / vision.std
        x = vision.conv1(pixels.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)  # (B, P, C)
        cls = vision.class_embedding.expand(len(x), 1, -1).to(x.dtype)
        x = torch.cat([cls, x], dim=1) + self._positions(x.shape[1])
        if looked_at is not None:
            chosen = 1 + looked_at[..., None].expand(-1, -1, x.shape[-1])
            x = torch.cat([x[:, :1], x.gather(1, chosen)], dim=1)
        x = vision.ln_pre(x)
        layers = []
        for block in vision.blocks:
            x = block(x)
            layers.append(x)
        places = torch.stack(
            [
                head(F.layer_norm(layer[:, 1:], layer.shape[-1:])).float()
                for head, layer in zip(self.place_heads, layers[-_PLACED:], strict=True)
            ]
        )
        x = self.ln_post(x)
        embedded = F.normalize((x @ self.proj).float(), dim=-1)
        return Seen(embedded[:, 0], embedded[:, 1:], self.colour_head(x[:, 1:]), places)

    def read(self, ids: Tensor) -> Tensor:
        """Read (N, L) CLIP token ids; return (N, D) unit vectors."""
        text = self.text
        x = text.token_embedding(self.rows[ids]) + text.positional_embedding[: ids.shape[1]]
        for block in text.blocks:
            x = block(x)
        ends = (ids == END).int().argmax(dim=1)
        x = self.ln_final(x[torch.arange(len(x)), ends])
        return F.normalize((x @ self.text_projection).float(), dim=-1)

    def open_clip_state(self) -> dict[str, Tensor]:
        """Return the weights under OpenAI's and open_clip's names, the embedding in full."""
        state: dict[str, Tensor] = {}
        for prefix, tower in (("vision.", self.vision), ("text.", self.text)):
            for name, tensor in tower.state_dict().items():
                state[openai_name(prefix + name)] = tensor
        state["token_embedding.weight"] = expand(state["token_embedding.weight"])
        for norm in ("weight", "bias"):
            state[f"visual.ln_post.{norm}"] = getattr(self.ln_post, norm)
            state[f"ln_final.{norm}"] = getattr(self.ln_final, norm)
        state["visual.proj"] = self.proj
        state["text_projection"] = self.text_projection
        state["logit_scale"] = self.logit_scale
        return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}

    def _positions(self, patches: int) -> Tensor:
        """The position embedding of CLS and `patches` patches, interpolated where they differ."""
        table = self.vision.positional_embedding
        if table.shape[0] == patches + 1:
            return table
        old, new = round((table.shape[0] - 1) ** 0.5), round(patches**0.5)
        grid = table[1:].T.reshape(1, -1, old, old)
        grid = F.interpolate(grid, (new, new), mode="bilinear", align_corners=False)
        return torch.cat([table[:1], grid.flatten(2)[0].T])

    def _initialise(self) -> None:
        """CLIP's own scales (open_clip's `init_parameters`)."""
        for tower, width, layers in (
            (self.vision, self.config.vision_width, self.config.vision_layers),
            (self.text, self.config.text_width, self.config.text_layers),
        ):
            for block in tower.blocks:
                assert isinstance(block, Block)
                nn.init.normal_(block.qkv.weight, std=width**-0.5)
                nn.init.normal_(block.out.weight, std=width**-0.5 * (2 * layers) ** -0.5)
                nn.init.normal_(block.fc.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(block.proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
                for linear in (block.qkv, block.out, block.fc, block.proj):
                    nn.init.zeros_(linear.bias)
        nn.init.normal_(self.vision.conv1.weight, std=(3 * self.config.patch_size**2) ** -0.5)
        assert self.vision.class_embedding is not None
        nn.init.normal_(self.vision.class_embedding, std=self.config.vision_width**-0.5)
        nn.init.normal_(self.vision.positional_embedding, std=0.1)
        nn.init.normal_(self.text.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text.positional_embedding, std=0.01)
        nn.init.normal_(self.proj, std=self.config.vision_width**-0.5)
        nn.init.normal_(self.text_projection, std=self.config.text_width**-0.5)
