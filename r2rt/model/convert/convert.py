"""Makes a bundle of a published checkpoint and CLIP's weights, without PyTorch."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.errors import ConversionError, OutputError
from r2rt.model.bundle import file_entry
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, VIDEO_FINALIZER, graph_specs
from r2rt.model.convert import folds
from r2rt.model.convert.architecture import Architecture, published_architecture
from r2rt.model.convert.check import check_graphs
from r2rt.model.convert.template import write_graph
from r2rt.model.convert.weights import read_checkpoint, read_clip
from r2rt.model.manifest import (
    GRAPH_REVISION,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    TOKENIZER_NAME,
    Manifest,
    Nms,
    Preprocessing,
    Provenance,
    Verification,
    manifest_bytes,
)

if TYPE_CHECKING:
    from r2rt.model.convert.folds import Array, Weights
    from r2rt.model.registry import PublishedModel

__all__ = ["convert", "fill_graphs", "published_templates"]

_MAX_MOMENTS = 50


def convert(
    model: PublishedModel,
    checkpoint: Path,
    clip: Path,
    folder: Path,
    *,
    say: Callable[[str], None],
) -> Manifest:
    """Write the bundle of a published model.

    Args:
        model: which one.
        checkpoint: its file, whose hash was compared.
        clip: a file of CLIP ViT-B/32, whose hash was compared or that the user named.
        folder: where the bundle is written; it is there, and empty.
        say: called with one line for each step.

    Raises:
        ConversionError: a file cannot be used, or a graph does not compute what it should.
        OutputError: the bundle cannot be written.
    """
    architecture = published_architecture(model.family)
    tensors, towers = read_checkpoint(checkpoint), read_clip(clip)
    try:
        files = fill_graphs(
            folder, published_templates(model.family), tensors, towers, architecture
        )
        shutil.copyfile(_package_file("demo", TOKENIZER_NAME), folder / TOKENIZER_NAME)
        say("comparing with the model in NumPy")
        verification = check_graphs(files, tensors, towers, architecture)
        if not verification.passed:
            raise _failed(verification)
        manifest = _manifest(model, architecture, checkpoint, clip, folder, verification)
        (folder / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "make room, or set R2RT_HOME to a folder on another disk"
        ) from error
    return manifest


def published_templates(family: str) -> dict[str, bytes]:
    """Return the templates of a family of published models, by the graph's name."""
    return {
        graph: _package_file("model", "convert", "templates", family, f"{graph}.onnx").read_bytes()
        for graph in graph_specs(published_architecture(family).dims)
    }


def fill_graphs(
    folder: Path,
    templates: Mapping[str, bytes],
    checkpoint: Weights,
    clip: Weights,
    architecture: Architecture,
) -> dict[str, Path]:
    """Write each graph's file into a folder; return them by the graph's name.

    Raises:
        ConversionError: the tensors are not those of the architecture.
        OSError: a file cannot be written.
    """
    files = {}
    for graph, template in templates.items():
        files[graph] = folder / f"{graph}.onnx"
        try:
            weights = _folded(graph, checkpoint, clip, architecture)
        except KeyError as error:
            raise ConversionError(f"the weights lack {error}: they are of another model") from error
        except (ValueError, TypeError, IndexError) as error:
            raise ConversionError(f"the weights are of another model: {error}") from error
        write_graph(template, weights, files[graph])
    return files


def _folded(
    graph: str, checkpoint: Weights, clip: Weights, architecture: Architecture
) -> dict[str, Array]:
    if graph == VIDEO_ENCODER:
        return folds.video_encoder(
            checkpoint,
            clip,
            heads=architecture.vision_heads,
            use_tef=architecture.use_tef,
            mean=architecture.mean,
            std=architecture.std,
        )
    if graph == VIDEO_FINALIZER:
        return folds.video_finalizer(checkpoint)
    if graph == TEXT_ENCODER:
        return folds.text_encoder(checkpoint, clip, heads=architecture.text_heads)
    assert graph == GROUNDER, graph
    return folds.grounder(checkpoint, heads=architecture.heads)


def _manifest(
    model: PublishedModel,
    architecture: Architecture,
    checkpoint: Path,
    clip: Path,
    folder: Path,
    verification: Verification,
) -> Manifest:
    from importlib.metadata import version

    return Manifest(
        schema=SCHEMA_VERSION,
        graph_revision=GRAPH_REVISION,
        name=model.name,
        dims=architecture.dims,
        clip=architecture.clip,
        vision_width=architecture.vision_width,
        text_width=architecture.text_width,
        heads=architecture.heads,
        merge_cls_sal=architecture.merge_cls_sal,
        fps=model.fps,
        unit_s=model.unit_s,
        window_s=model.window_s,
        max_moments=_MAX_MOMENTS,
        nms=Nms(kind=model.nms),
        preprocessing=Preprocessing(mean=architecture.mean, std=architecture.std),
        precision="fp32",
        files={path.name: file_entry(path) for path in sorted(folder.iterdir())},
        provenance=Provenance(
            recipe=model.name,
            checkpoint=model.filename,
            checkpoint_sha256=_sha256(checkpoint),
            clip=f"OpenAI {architecture.clip} ({clip.name})",
            clip_sha256=_sha256(clip),
            exporter=f"r2rt {version('r2rt')}",
        ),
        verification=verification,
    )


def _failed(verification: Verification) -> ConversionError:
    failed = [f"{x.name} {x.error:.3g}" for x in verification.checks if not x.passed]
    return ConversionError(
        "the graphs do not compute what the model does, errors in units of their tolerance: "
        f"{', '.join(failed)}; nothing was installed, please report it with the version of "
        "onnxruntime"
    )


def _package_file(*parts: str) -> Path:
    return Path(str(resources.files("r2rt").joinpath(*parts)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
