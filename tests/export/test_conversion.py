"""What the runtime makes of templates and files is what the exporter makes with PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from export.exporter import Exported
from export.graphs.layers import clip_tensors, model_tensors
from export.make_templates import family_templates
from export.templates import graph_templates, model_dims
from export.verify import verify_graphs
from r2rt.model.convert.architecture import Architecture
from r2rt.model.convert.check import check_graphs
from r2rt.model.convert.convert import fill_graphs, published_templates
from r2rt.model.convert.weights import read_checkpoint, read_clip
from r2rt.model.registry import FAMILIES
from tests.export.tiny import CONFIG, HIGHLIGHT, MOMENT, tiny_towers
from training.checkpoint import build_model
from training.clip import ClipTowers
from training.model import R2Config, R2Tuning


def architecture_of(model: R2Tuning, towers: ClipTowers) -> Architecture:
    clip, config = towers.config, model.config
    return Architecture(
        clip=clip.name,
        image_size=clip.image_size,
        patch_size=clip.patch_size,
        vision_width=clip.vision_width,
        vision_blocks=clip.vision_layers,
        vision_heads=clip.vision_heads,
        text_width=clip.text_width,
        text_blocks=clip.text_layers,
        text_heads=clip.text_heads,
        context_length=clip.context_length,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        strides=config.strides,
        use_tef=config.use_tef,
        has_offsets=config.has_offsets,
        merge_cls_sal=config.merge_cls_sal,
        embedding_width=clip.embed_width,
    )


def random_model(config: R2Config) -> R2Tuning:
    """A model in which no weight is 0 or 1."""
    torch.manual_seed(3)
    model = R2Tuning(config).requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("fixture", "path"), [("moment", MOMENT), ("highlight", HIGHLIGHT)])
def test_files_make_the_graphs_that_pytorch_exports(
    fixture: str, path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Byte for byte, from files read without PyTorch; the check without PyTorch passes."""
    exported: Exported = request.getfixturevalue(f"{fixture}_bundle")
    config = exported.manifest
    model = build_model(
        path, use_tef=config.dims.use_tef, merge_cls_sal=config.merge_cls_sal
    ).requires_grad_(False)
    towers = tiny_towers()
    # safetensors takes no views.
    tensors = {name: np.ascontiguousarray(x) for name, x in clip_tensors(towers).items()}
    save_file(tensors, tmp_path / "clip.safetensors")
    checkpoint, clip = read_checkpoint(path), read_clip(tmp_path / "clip.safetensors")
    architecture = architecture_of(model, towers)
    assert architecture.dims == config.dims
    files = fill_graphs(tmp_path, graph_templates(model, towers), checkpoint, clip, architecture)
    for graph, file in files.items():
        assert file.read_bytes() == (exported.path / f"{graph}.onnx").read_bytes(), graph
    verification = check_graphs(files, checkpoint, clip, architecture)
    assert verification.passed
    assert verification.reference == "numpy"
    # The measured errors are far from the limit: nothing passes by luck.
    assert max(check.error for check in verification.checks) < 0.5


@pytest.mark.parametrize(
    ("tensor", "check"),
    [
        ("visual.transformer.resblocks.1.mlp.c_fc.bias", "video"),
        ("visual.positional_embedding", "video"),
        ("transformer.resblocks.0.attn.in_proj_bias", "text"),
        ("adapter.gate", "bundle"),
        ("adapter.video_map.0.bias", "video"),
        ("pyramid.blocks.3.11.weight", "bundle"),
        ("pyramid.blocks.2.6.bias", "bundle"),
        ("coef", "bundle"),
        ("coord_head.module.3.bias", "bundle"),
        ("pooling.att.weight", "bundle"),
        ("adapter.q_map.weight", "text_encoder q_key"),
    ],
)
def test_the_check_notices_a_wrong_tensor(tensor: str, check: str, moment_bundle: Exported) -> None:
    """The graphs were made of other weights than the reference has: one differs."""
    model, towers = build_model(MOMENT).requires_grad_(False), tiny_towers()
    files = {
        graph: moment_bundle.path / f"{graph}.onnx" for graph in graph_templates(model, towers)
    }
    checkpoint, clip = model_tensors(model), clip_tensors(towers)
    for tensors in (checkpoint, clip):
        if tensor in tensors:
            tensors[tensor] = tensors[tensor] * 1.05 + 0.02
    verification = check_graphs(files, checkpoint, clip, architecture_of(model, towers))
    failed = [x.name for x in verification.checks if not x.passed]
    assert any(name.startswith(check) for name in failed), verification.checks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clip", "model"),
    [
        # As ViT-B/16: many patches. Offsets without endpoint features.
        ({"image_size": 112}, {"use_tef": False}),
        # As ViT-L/14: patches that do not divide the side, wide, several heads. Endpoint features
        # without offsets.
        (
            {
                "image_size": 60,
                "patch_size": 14,
                "vision_width": 128,
                "vision_heads": 2,
                "text_width": 128,
                "text_heads": 2,
            },
            {"vision_width": 128, "text_width": 128, "has_offsets": False},
        ),
        ({}, {"use_tef": False, "has_offsets": False, "strides": (1, 2)}),
    ],
)
def test_other_shapes_are_checked_alike_by_numpy_and_pytorch(
    clip: dict[str, Any], model: dict[str, Any], tmp_path: Path
) -> None:
    # More blocks than are read.
    towers = tiny_towers(replace(CONFIG, vision_layers=3, text_layers=3, **clip))
    sizes: dict[str, Any] = {
        "layers": 2,
        "width": 64,
        "vision_width": 64,
        "text_width": 64,
        **model,
    }
    made = random_model(R2Config(**sizes))
    architecture = architecture_of(made, towers)
    weights = model_tensors(made), clip_tensors(towers)
    files = fill_graphs(tmp_path, graph_templates(made, towers), *weights, architecture)
    assert check_graphs(files, *weights, architecture).passed
    assert verify_graphs(files, made, towers, model_dims(made, towers)).passed


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_shipped_templates_are_what_the_exporter_writes(family: str) -> None:
    """If this fails, run export/make_templates.py."""
    assert family_templates(family) == published_templates(family)
