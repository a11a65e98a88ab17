"""From a checkpoint and a CLIP to a verified bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from export._checkout import r2rt_version
from export.bundle_writer import check_destination, list_files, staged_folder, write_manifest
from export.graphs import Grounder, TextEncoder, VideoEncoder, VideoFinalizer
from export.onnx_writer import graph_to_onnx
from export.settings import Settings, choose_settings
from export.tokenizer import write_tokenizer
from export.verify import verify_graphs
from r2rt.bundle import (
    SCHEMA_VERSION,
    TOKENIZER_NAME,
    Check,
    Manifest,
    Preprocessing,
    Provenance,
    Verification,
    file_entry,
)
from r2rt.contract import (
    GROUNDER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    ModelDims,
    graph_specs,
)
from r2rt.errors import R2rtError
from training.checkpoint import load_model
from training.clip import load_clip

if TYPE_CHECKING:
    from training.clip import ClipTowers
    from training.model import R2Tuning

__all__ = [
    "MAX_MOMENTS",
    "ExportError",
    "Exported",
    "VerificationError",
    "build_graphs",
    "export_bundle",
    "model_dims",
]

MAX_MOMENTS = 50

_DOCS = {
    VIDEO_ENCODER: "Frames, RGB, to stored tokens: CLIP's vision tower and the frame's half of the "
    "video map (p, mean, M2 with temporal endpoint features, else v).",
    VIDEO_FINALIZER: "Stored tokens and each clip's start and end, as shares of the video, to v.",
    TEXT_ENCODER: "Token ids to q, q_key (with 1/sqrt(D)) and the pooled query; the tower is causal, "
    "what stands behind a query's end changes nothing.",
    GROUNDER: "v and encoded queries to the logits and offsets (in strides) of every pyramid level's "
    "points, and each clip's saliency.",
}


class ExportError(R2rtError, ValueError):
    """A checkpoint and a CLIP that do not fit each other, or cannot become a bundle."""

    exit_code = 50


class VerificationError(R2rtError, RuntimeError):
    """An exported graph that computes something else than PyTorch; no bundle was written."""

    exit_code = 51

    def __init__(self, message: str, checks: tuple[Check, ...] = ()) -> None:
        super().__init__(message)
        self.checks = checks


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle that was written.

    Attributes:
        path: its folder.
        manifest: its manifest.
        settings: how its clip rate and post-processing were chosen.
    """

    path: Path
    manifest: Manifest
    settings: Settings


def export_bundle(
    checkpoint: Path,
    destination: Path,
    *,
    clip: str = "",
    clip_arch: str | None = None,
    name: str | None = None,
    recipe: str | None = None,
    fps: str | None = None,
    unit_s: float | None = None,
    video: Callable[[ModelDims, str], NDArray[np.uint8]] | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    raise NotImplementedError


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
    if config.layers > min(towers.vision_layers, towers.text_layers):
        raise ExportError(
            f"the checkpoint reads {config.layers} CLIP layers, {towers.name} has "
            f"{towers.vision_layers} and {towers.text_layers}; name another --clip"
        )
    return ModelDims(
        image_size=towers.image_size,
        patches=towers.patches,
        layers=config.layers,
        width=config.width,
        context_length=towers.context_length,
        strides=config.strides,
        use_tef=config.use_tef,
        has_offsets=config.has_offsets,
    )
