"""A model's graphs, and their templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from export.errors import ExportError
from export.graphs import Grounder, TextEncoder, VideoEncoder, VideoFinalizer
from export.template_cache import kept_template
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

__all__ = ["build_graphs", "graph_templates", "model_dims", "template_of"]

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
    dims = model_dims(model, towers)
    return {
        graph: template_of(graph, module, dims)
        for graph, module in build_graphs(model, towers).items()
    }


def template_of(graph: str, module: nn.Module, dims: ModelDims) -> bytes:
    """Return a graph's template; see `export.template_cache` for how often it is traced."""
    return kept_template(
        module, graph_specs(dims)[graph], context_length=dims.context_length, doc=_DOCS[graph]
    )
