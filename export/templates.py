"""A model's graphs, and their templates, which take long to trace."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from torch import nn

from export._checkout import CHECKOUT
from export.errors import ExportError
from export.graphs import Grounder, TextEncoder, VideoEncoder, VideoFinalizer
from export.onnx_writer import graph_template
from r2rt.files import replacing
from r2rt.model.contract import (
    GROUNDER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    ModelDims,
    graph_specs,
)
from training.clip import ClipTowers

if TYPE_CHECKING:
    from training.model import R2Tuning

__all__ = ["TEMPLATES_VARIABLE", "build_graphs", "graph_templates", "model_dims", "template_of"]

# Names a folder in which templates are kept, so that the next process does not trace them again.
TEMPLATES_VARIABLE = "R2RT_TEMPLATES"

# What a template depends on beside the model's architecture.
_CODE = (
    "export/graphs",
    "export/onnx_writer.py",
    "export/templates.py",
    "kernels",
    "r2rt/model/contract.py",
    "r2rt/model/convert",
    "training/clip*.py",
    "training/model",
)
_PACKAGES = ("numpy", "onnx", "onnxscript", "torch")

_templates: dict[str, bytes] = {}

_DOCS = {
    VIDEO_ENCODER: "Frames, RGB, to stored tokens: CLIP's vision tower and the frame's half of the "
    "video map (p, mean, M2 with temporal endpoint features, else v); and CLIP's embedding.",
    VIDEO_FINALIZER: "Stored tokens and each clip's start and end, as shares of the video, to v.",
    TEXT_ENCODER: "Token ids to q, q_key (with 1/sqrt(D)), the pooled query and CLIP's embedding; "
    "the tower is causal, what stands behind a query's end changes nothing.",
    GROUNDER: "v, the bias of its rows and encoded queries to the logits and offsets (in strides) "
    "of every pyramid level's points, and each clip's saliency.",
}


def build_graphs(model: R2Tuning, clip: ClipTowers) -> dict[str, nn.Module]:
    """Return the modules of all graphs that the model has, by name."""
    graphs: dict[str, nn.Module] = {
        VIDEO_ENCODER: VideoEncoder(model, clip),
        TEXT_ENCODER: TextEncoder(model, clip),
        GROUNDER: Grounder(model),
    }
    if model.config.use_tef:
        graphs[VIDEO_FINALIZER] = VideoFinalizer(model)
    return {graph: module.eval() for graph, module in graphs.items()}


def model_dims(model: R2Tuning, clip: ClipTowers) -> ModelDims:
    """Return the sizes of the graphs.

    Raises:
        ExportError: the checkpoint reads other widths, or more blocks, than the towers have.
    """
    config, towers = model.config, clip.config
    for what, wanted, found in (
        ("vision", config.vision_width, towers.vision_width),
        ("text", config.text_width, towers.text_width),
    ):
        if wanted != found:
            raise ExportError(
                f"the checkpoint reads {what} states {wanted} wide, {towers.name} has {found}; "
                "name the CLIP that it was trained on with --clip"
            )
    depth = -min(config.read)
    if depth > min(towers.vision_layers, towers.text_layers):
        raise ExportError(
            f"the checkpoint reads {depth} CLIP layers, {towers.name} has "
            f"{towers.vision_layers} and {towers.text_layers}; name another --clip"
        )
    return ModelDims(
        image_size=towers.image_size,
        patches=towers.patches,
        layers=config.layers,
        width=config.width,
        context_length=towers.query_length,
        strides=config.strides,
        use_tef=config.use_tef,
        has_offsets=config.has_offsets,
        embedding_width=towers.embed_width,
        patch_bias=True,
        read_layers=config.read_layers,
    )


def graph_templates(model: R2Tuning, towers: ClipTowers) -> dict[str, bytes]:
    """Return the templates of all graphs that the model has, by name; weights do not matter."""
    return {
        graph: template_of(graph, module, model, towers)
        for graph, module in build_graphs(model, towers).items()
    }


def template_of(graph: str, module: nn.Module, model: R2Tuning, towers: ClipTowers) -> bytes:
    """Return a graph's template, which is traced once a process and architecture.

    Where `R2RT_TEMPLATES` names a folder, it is traced once for all processes, until the code or
    the packages that trace it change.
    """
    dims = model_dims(model, towers)
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())
    config, clip = model.config, towers.config
    heads = (config.heads, clip.vision_heads, clip.text_heads)
    kinds = (clip.quick_gelu, clip.patch_size, clip.vision, clip.text, config.read)
    key = repr((graph, dims, heads, config.merge_cls_sal, kinds, shapes))
    if key not in _templates:
        folder = os.environ.get(TEMPLATES_VARIABLE)
        _templates[key] = (
            _kept(Path(folder), graph, key, module, dims)
            if folder
            else _traced(graph, module, dims)
        )
    return _templates[key]


def _traced(graph: str, module: nn.Module, dims: ModelDims) -> bytes:
    return graph_template(
        module, graph_specs(dims)[graph], context_length=dims.context_length, doc=_DOCS[graph]
    )


def _kept(folder: Path, graph: str, key: str, module: nn.Module, dims: ModelDims) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(f"{_code_sha256()} {key}".encode()).hexdigest()
    path = folder / f"{graph}-{digest[:32]}.onnx"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            with replacing(path) as file:
                file.write_bytes(_traced(graph, module, dims))
        return path.read_bytes()


@cache
def _code_sha256() -> str:
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in _PACKAGES).encode())
    files = {
        path
        for pattern in _CODE
        for place in CHECKOUT.glob(pattern)
        for path in (place.rglob("*.py") if place.is_dir() else [place])
    }
    for path in sorted(files):
        digest.update(str(path.relative_to(CHECKOUT)).encode() + path.read_bytes())
    return digest.hexdigest()
