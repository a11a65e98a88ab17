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

from export._checkout import r2rt_version
from export.errors import ExportError, VerificationError
from export.onnx_writer import module_weights
from export.settings import Settings, choose_settings
from export.templates import build_graphs, model_dims, template_of
from export.tokenizer import write_tokenizer
from export.verify import verify_graphs
from r2rt.errors import NoFramesError
from r2rt.model.bundle_writer import check_destination, list_files, staged_folder, write_manifest
from r2rt.model.contract import ModelDims
from r2rt.model.convert.template import write_graph
from r2rt.model.installed import checked_name, models_dir
from r2rt.model.manifest import (
    GRAPH_REVISION,
    SCHEMA_VERSION,
    TOKENIZER_NAME,
    FileEntry,
    Manifest,
    Preprocessing,
    Provenance,
    Verification,
)
from r2rt.model.registry import CLIP_ARCHITECTURE
from training.checkpoint import Checkpoint, build_model, load_checkpoint
from training.clip import ClipTowers, load_clip
from training.config import RunConfig, recorded_config
from training.recipes import Recipe, recipe_for_sha256

if TYPE_CHECKING:
    from training.model import R2Tuning

__all__ = [
    "MAX_MOMENTS",
    "Exported",
    "default_name",
    "export_bundle",
]

MAX_MOMENTS = 50

_VIDEO_FRAMES = 16
# CLIPs by the widths (vision, text) of their hidden states; the first one of each pair of widths.
_CLIP_BY_WIDTHS = {
    (768, 512): CLIP_ARCHITECTURE,
    (1024, 768): "ViT-L-14-quickgelu",
}


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
    tokenizer: str | Path | None = None,
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
        tokenizer: the tokenizer.json of a CLIP that has another than OpenAI's; by default it is
            looked for on disk, else fetched.
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
    trained = recorded_config(weights.meta)
    settings = _settings(checkpoint, weights, trained, recipe, fps=fps, unit_s=unit_s)
    name = checked_name(name or default_name(checkpoint, weights.sha256))
    destination = models_dir() / name if output is None else Path(output)
    check_destination(destination, force=force)
    say(f"recipe {settings.recipe}: {settings.reason}")

    model = build_model(
        weights.state_dict,
        heads=8 if trained is None else trained.model.heads,
        use_tef=settings.use_tef,
        merge_cls_sal=settings.merge_cls_sal,
        read_layers=None if trained is None else trained.model.read,
    ).requires_grad_(False)
    towers = clip if isinstance(clip, ClipTowers) else _load_clip(clip, clip_arch, model, say)
    known_words = _known_words(towers) if known_words is None else known_words
    dims = model_dims(model, towers)
    video = None if verify_video is None else _read_frames(verify_video, dims, settings.fps)

    with staged_folder(destination, force=force) as folder:
        files = _write_graphs(folder, model, towers, dims, say)
        write_tokenizer(folder / TOKENIZER_NAME, towers.config, tokenizer)
        say("comparing with PyTorch")
        verification = _verified(files, model, towers, dims, video)
        manifest = _manifest(
            name,
            settings,
            model,
            towers,
            dims=dims,
            files=list_files(folder),
            provenance=_provenance(checkpoint, weights, settings, towers),
            verification=verification,
            known_words=known_words,
        )
        write_manifest(folder, manifest)
    say(f"wrote {destination}")
    return Exported(path=destination, manifest=manifest, settings=settings)


def _manifest(
    name: str,
    settings: Settings,
    model: R2Tuning,
    towers: ClipTowers,
    *,
    dims: ModelDims,
    files: dict[str, FileEntry],
    provenance: Provenance,
    verification: Verification,
    known_words: Sequence[str] | None,
) -> Manifest:
    return Manifest(
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
        text_cleaning=towers.config.text.cleaning,
        precision="fp32",
        files=files,
        provenance=provenance,
        verification=verification,
        known_words=None if known_words is None else tuple(sorted(known_words)),
    )


def _settings(
    checkpoint: Path,
    weights: Checkpoint,
    trained: RunConfig | None,
    recipe: str | Recipe | None,
    *,
    fps: Fraction | None,
    unit_s: float | None,
) -> Settings:
    """Choose the settings: those the checkpoint was trained by, unless another recipe is named."""
    has_offsets = any(key.startswith("coord_head.") for key in weights.state_dict)
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
    return settings


def _load_clip(
    clip: str | Path | None, arch: str | None, model: R2Tuning, say: Callable[[str], None]
) -> ClipTowers:
    source = str(clip) if clip is not None else _default_clip(model)
    say(f"loading CLIP {source}")
    return load_clip(source, arch=arch)


def _provenance(
    checkpoint: Path, weights: Checkpoint, settings: Settings, towers: ClipTowers
) -> Provenance:
    return Provenance(
        recipe=settings.recipe,
        checkpoint=checkpoint.name,
        checkpoint_sha256=weights.sha256,
        clip=towers.config.weights_source or "unknown",
        clip_sha256=towers.config.weights_sha256 or _tensors_sha256(towers),
        exporter=f"r2rt {r2rt_version()}",
        random_weights=towers.config.weights_source.startswith("random"),
    )


def _write_graphs(
    folder: Path,
    model: R2Tuning,
    towers: ClipTowers,
    dims: ModelDims,
    say: Callable[[str], None],
) -> dict[str, Path]:
    files = {}
    for graph, module in build_graphs(model, towers).items():
        say(f"exporting {graph}")
        files[graph] = folder / f"{graph}.onnx"
        write_graph(template_of(graph, module, dims), module_weights(module), files[graph])
    return files


def default_name(checkpoint: Path, sha256: str) -> str:
    """Return a bundle's name: the publication's, else the file's, else a run folder's."""
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


def _verified(
    files: dict[str, Path],
    model: R2Tuning,
    towers: ClipTowers,
    dims: ModelDims,
    video: NDArray[np.uint8] | None,
) -> Verification:
    """Compare the files with PyTorch; raises VerificationError where they differ."""
    verification = verify_graphs(files, model, towers, dims, video=video)
    if verification.passed:
        return verification
    failed = [check for check in verification.checks if not check.passed]
    worst = ", ".join(f"{check.name} {check.error:.3g}" for check in failed)
    raise VerificationError(
        f"the exported graphs differ from PyTorch, errors in units of their tolerance: {worst}; "
        "no bundle was written, please report it with the versions of torch and onnxruntime",
        verification.checks,
    )


def _known_words(towers: ClipTowers) -> Sequence[str] | None:
    if towers.config.name != "r2rt-tiny":
        return None
    from training.tiny_clip.rows import known_words

    return known_words()


def _tensors_sha256(towers: ClipTowers) -> str:
    """Hash of the weights themselves, where they came from no file."""
    digest = hashlib.sha256()
    for key, tensor in sorted(towers.state_dict().items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
