"""From a checkpoint and a CLIP to a verified bundle."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export._checkout import r2rt_version
from export.graphs import Grounder, TextEncoder, VideoEncoder, VideoFinalizer
from export.onnx_writer import graph_template, module_weights
from export.settings import Settings, choose_settings
from export.tokenizer import write_tokenizer
from export.verify import verify_graphs
from r2rt.errors import NoFramesError, R2rtError
from r2rt.model.bundle_writer import check_destination, list_files, staged_folder, write_manifest
from r2rt.model.contract import (
    GROUNDER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    ModelDims,
    graph_specs,
)
from r2rt.model.convert.template import write_graph
from r2rt.model.installed import checked_name, models_dir
from r2rt.model.manifest import (
    GRAPH_REVISION,
    SCHEMA_VERSION,
    TOKENIZER_NAME,
    Check,
    Manifest,
    Preprocessing,
    Provenance,
    Verification,
)
from r2rt.model.registry import CLIP_ARCHITECTURE
from training.checkpoint import build_model, load_checkpoint
from training.clip import ClipTowers, load_clip
from training.config import recorded_config
from training.recipes import Recipe, recipe_for_sha256

if TYPE_CHECKING:
    from training.model import R2Tuning

__all__ = [
    "MAX_MOMENTS",
    "ExportError",
    "Exported",
    "VerificationError",
    "build_graphs",
    "default_name",
    "export_bundle",
    "graph_templates",
    "model_dims",
]

MAX_MOMENTS = 50

_VIDEO_FRAMES = 16
_TEMPLATES: dict[object, bytes] = {}
# CLIPs by the widths (vision, text) of their hidden states; the first one of each pair of widths.
_CLIP_BY_WIDTHS = {
    (768, 512): CLIP_ARCHITECTURE,
    (1024, 768): "ViT-L-14-quickgelu",
}

_DOCS = {
    VIDEO_ENCODER: "Frames, RGB, to stored tokens: CLIP's vision tower and the frame's half of the "
    "video map (p, mean, M2 with temporal endpoint features, else v); and CLIP's embedding.",
    VIDEO_FINALIZER: "Stored tokens and each clip's start and end, as shares of the video, to v.",
    TEXT_ENCODER: "Token ids to q, q_key (with 1/sqrt(D)), the pooled query and CLIP's embedding; "
    "the tower is causal, what stands behind a query's end changes nothing.",
    GROUNDER: "v and encoded queries to the logits and offsets (in strides) of every pyramid "
    "level's points, and each clip's saliency.",
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


def _silent(_: str) -> None:
    """Say nothing."""


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
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    clip: str | Path | ClipTowers | None = None,
    clip_arch: str | None = None,
    name: str | None = None,
    recipe: str | Recipe | None = None,
    fps: Fraction | None = None,
    unit_s: float | None = None,
    known_words: Sequence[str] | None = None,
    verify_video: str | Path | None = None,
    force: bool = False,
    say: Callable[[str], None] = _silent,
) -> Exported:
    """Convert a checkpoint and the CLIP it was trained on to a verified bundle.

    If anything fails, nothing is written and `output` stays as it was.

    Args:
        checkpoint: the R² block's weights; see `training.checkpoint.load_checkpoint`.
        output: the bundle's folder; by default the one of model `name` in the models folder.
        clip: the towers, or what `training.clip.load_clip` takes; by default the CLIP with the
            checkpoint's widths.
        clip_arch: architecture of a file of CLIP weights, if its shapes are ambiguous.
        name: the bundle's name; by default the published name, else the file's.
        recipe: see `export.settings.choose_settings`; by default, and where it has the same name,
            what the checkpoint says that it was trained by, with all its changed settings.
        fps: clips a second, in place of the recipe's.
        unit_s: rounding in seconds, in place of the recipe's.
        known_words: the words that this CLIP was trained on, if they are few; the runtime warns of
            others. By default those of the demo model's CLIP, and all of any other.
        verify_video: a video whose first frames are checked besides generated ones.
        force: replace an existing bundle at `output`.
        say: called with one line for each step.

    Raises:
        R2rtError: one of its classes, with what was got and what to do; `VerificationError` if a
            graph's numbers are not PyTorch's.
    """
    checkpoint = Path(checkpoint)
    weights = load_checkpoint(checkpoint)
    has_offsets = any(key.startswith("coord_head.") for key in weights.state_dict)
    trained = recorded_config(weights.meta)
    own = trained is not None and recipe in (None, trained.recipe.name)
    settings = choose_settings(
        weights.sha256,
        has_offsets=has_offsets,
        recipe=trained.recipe if trained is not None and own else recipe,
        fps=fps,
        unit_s=unit_s,
    )
    if own:
        settings = replace(settings, reason="the checkpoint was trained by it")
    if settings.has_offsets != has_offsets:
        raise ExportError(
            f"{checkpoint.name} has {'a' if has_offsets else 'no'} coordinate head, models of "
            f"recipe {settings.recipe} have {'one' if settings.has_offsets else 'none'}; "
            "name another --recipe"
        )
    name = checked_name(name or default_name(checkpoint, weights.sha256))
    destination = models_dir() / name if output is None else Path(output)
    check_destination(destination, force=force)
    say(f"recipe {settings.recipe}: {settings.reason}")

    model = build_model(
        weights.state_dict,
        heads=8 if trained is None else trained.model.heads,
        use_tef=settings.use_tef,
        merge_cls_sal=settings.merge_cls_sal,
    ).requires_grad_(False)
    if isinstance(clip, ClipTowers):
        towers = clip
    else:
        source = str(clip) if clip is not None else _default_clip(model)
        say(f"loading CLIP {source}")
        towers = load_clip(source, arch=clip_arch)
    if known_words is None and towers.config.name == "r2rt-tiny":
        from training.tiny_clip.rows import known_words as words_of_demo

        known_words = words_of_demo()
    dims = model_dims(model, towers)
    video = None if verify_video is None else _read_frames(verify_video, dims, settings.fps)

    with staged_folder(destination, force=force) as folder:
        files = _write_graphs(folder, model, towers, say)
        write_tokenizer(folder / TOKENIZER_NAME)
        say("comparing with PyTorch")
        verification = verify_graphs(files, model, towers, dims, video=video)
        if not verification.passed:
            raise _failed(verification)
        manifest = Manifest(
            schema=SCHEMA_VERSION,
            graph_revision=GRAPH_REVISION,
            name=name,
            dims=dims,
            clip=towers.config.name,
            vision_width=model.config.vision_width,
            text_width=model.config.text_width,
            heads=model.config.heads,
            merge_cls_sal=model.config.merge_cls_sal,
            fps=str(settings.fps),
            unit_s=settings.unit_s,
            window_s=settings.window_s,
            max_moments=MAX_MOMENTS,
            nms=settings.nms,
            preprocessing=Preprocessing(mean=towers.config.mean, std=towers.config.std),
            precision="fp32",
            files=list_files(folder),
            provenance=Provenance(
                recipe=settings.recipe,
                checkpoint=checkpoint.name,
                checkpoint_sha256=weights.sha256,
                clip=towers.config.weights_source or "unknown",
                clip_sha256=towers.config.weights_sha256 or _tensors_sha256(towers),
                exporter=f"r2rt {r2rt_version()}",
                random_weights=towers.config.weights_source.startswith("random"),
            ),
            verification=verification,
            known_words=None if known_words is None else tuple(sorted(known_words)),
        )
        write_manifest(folder, manifest)
    say(f"wrote {destination}")
    return Exported(path=destination, manifest=manifest, settings=settings)


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
        embedding_width=towers.embed_width,
    )


def graph_templates(model: R2Tuning, towers: ClipTowers) -> dict[str, bytes]:
    """Return the templates of all graphs that the model has, by name; weights do not matter."""
    return {
        graph: _template(graph, module, model, towers)
        for graph, module in build_graphs(model, towers).items()
    }


def _template(graph: str, module: nn.Module, model: R2Tuning, towers: ClipTowers) -> bytes:
    """Return a graph's template, which takes long to make, once a process and architecture."""
    dims = model_dims(model, towers)
    shapes = tuple((name, tensor.shape) for name, tensor in module.state_dict().items())
    config, clip = model.config, towers.config
    heads = (config.heads, clip.vision_heads, clip.text_heads)
    key = (graph, dims, heads, config.merge_cls_sal, clip.quick_gelu, clip.patch_size, shapes)
    if key not in _TEMPLATES:
        _TEMPLATES[key] = graph_template(
            module, graph_specs(dims)[graph], context_length=dims.context_length, doc=_DOCS[graph]
        )
    return _TEMPLATES[key]


def _write_graphs(
    folder: Path, model: R2Tuning, towers: ClipTowers, say: Callable[[str], None]
) -> dict[str, Path]:
    files = {}
    for graph, module in build_graphs(model, towers).items():
        say(f"exporting {graph}")
        files[graph] = folder / f"{graph}.onnx"
        template = _template(graph, module, model, towers)
        write_graph(template, module_weights(module), files[graph])
    return files


def default_name(checkpoint: Path, sha256: str) -> str:
    """Return a bundle's name: that of the publication, else of the file, else of a run's folder."""
    stem = checkpoint.stem
    if stem in ("best", "last"):
        # Every run calls its checkpoints so.
        folder = re.sub(r"[^A-Za-z0-9_.-]+", "-", checkpoint.resolve().parent.name)
        stem = folder.strip(".-") or stem
    return recipe_for_sha256(sha256) or re.sub(r"-[0-9a-f]{8}$", "", stem)


def _default_clip(model: R2Tuning) -> str:
    widths = model.config.vision_width, model.config.text_width
    if widths not in _CLIP_BY_WIDTHS:
        raise ExportError(
            f"the checkpoint reads a CLIP {widths[0]} (vision) and {widths[1]} (text) wide, as no "
            "published one is; name it with --clip"
        )
    return _CLIP_BY_WIDTHS[widths]


def _read_frames(video: str | Path, dims: ModelDims, fps: Fraction) -> NDArray[np.uint8]:
    """Return the first frames (T, S, S, 3) that the runtime would take of a video."""
    from r2rt.video import open_source

    with open_source(str(video), fps=fps, image_size=dims.image_size) as source:
        pixels = [frame.pixels for frame in itertools.islice(source, _VIDEO_FRAMES)]
    if not pixels:
        raise NoFramesError(f"{video}: not one frame could be decoded; name another --verify-video")
    return np.stack(pixels)


def _failed(verification: Verification) -> VerificationError:
    failed = [check for check in verification.checks if not check.passed]
    worst = ", ".join(f"{check.name} {check.error:.3g}" for check in failed)
    return VerificationError(
        f"the exported graphs differ from PyTorch, errors in units of their tolerance: {worst}; "
        "no bundle was written, please report it with the versions of torch and onnxruntime",
        verification.checks,
    )


def _tensors_sha256(towers: ClipTowers) -> str:
    """Hash of the weights themselves, where they came from no file."""
    digest = hashlib.sha256()
    for key, tensor in sorted(towers.state_dict().items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
