"""A CLIP small enough to export in seconds, of the widths and patches of the golden models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from export.graphs import FrameTokens, QueryTokens
from export.template_cache import graph_to_onnx
from r2rt.model.contract import GraphSpec, TensorSpec
from tests.golden_data import GOLDEN
from training.clip import ClipTowers, random_towers
from training.clip_config import ClipConfig
from training.model import R2Tuning

MOMENT = GOLDEN / "moment.pth"
HIGHLIGHT = GOLDEN / "highlight.pth"

CONFIG = ClipConfig(
    name="tiny",
    image_size=56,
    patch_size=8,
    vision_width=64,
    vision_layers=4,
    vision_heads=1,
    vision_mlp_width=256,
    text_width=64,
    text_layers=4,
    text_heads=1,
    text_mlp_width=256,
    embed_width=40,
    vocab_size=49408,  # CLIP's own, so that real queries can be read
)


def tiny_towers(config: ClipConfig = CONFIG) -> ClipTowers:
    return random_towers(config, 0)


Arrays = Mapping[str, NDArray[Any]]


def session(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, inputs: Arrays) -> dict[str, NDArray[Any]]:
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(names, dict(inputs)), strict=True))


def endpoints(clips: int) -> NDArray[np.float32]:
    index = np.arange(clips, dtype=np.float32)
    return np.stack([index / clips, (index + 1) / clips], axis=1)


def feature_graphs(model: R2Tuning, patches: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Export what the encoders do behind CLIP: from hidden states to tokens and to queries."""
    config = model.config
    k, d = config.layers, config.width
    c = d + 2 if config.use_tef else d

    def spec(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=shape)

    frame = GraphSpec(
        name="frame_tokens",
        inputs=(spec("hidden", "T", k, patches, config.vision_width),),
        outputs=(spec("tokens", "T", k, patches, c),),
    )
    query = GraphSpec(
        name="query_tokens",
        inputs=(spec("hidden", "N", k, "L", config.text_width), spec("query_mask", "N", "L")),
        outputs=(
            spec("q", "N", k, "L", d),
            spec("q_key", "N", k, "L", d),
            spec("pooled", "N", d),
        ),
    )
    modules: list[tuple[nn.Module, GraphSpec]] = [
        (FrameTokens(model), frame),
        (QueryTokens(model), query),
    ]
    frame_graph, query_graph = (
        graph_to_onnx(module, graph, context_length=77) for module, graph in modules
    )
    return frame_graph, query_graph


def to_numpy(x: torch.Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(x.detach().numpy())
