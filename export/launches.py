"""A checkpoint's part of what puts a bundle's compiled kernels to use: see `export.launch_writer`.

The grounder's pyramid and heads, which no kernel computes, are an engine of their own,
`grounder_heads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from torch import Tensor

from export.errors import ExportError
from export.graphs.grounder import GrounderHeads
from export.launch_writer import launch_files, launched_variants
from export.template_cache import graph_to_onnx
from r2rt.engines.tensorrt.plans import heads_spec
from training.checkpoint import build_model, load_checkpoint

if TYPE_CHECKING:
    from kernels.variants import Variant
    from r2rt.model.bundle import Bundle

__all__ = ["KernelGraphs", "kernel_graphs"]

_DOC = "Clips behind the R² block and pooled queries to what the grounder answers."


@dataclass(frozen=True, kw_only=True)
class KernelGraphs:
    """What puts the kernels of a bundle to use.

    Attributes:
        heads: the part of the grounder behind the kernels, fp32; see `r2rt.engines.tensorrt.plans`.
        variants: kernels that the sequences launch beside those that every bundle has.
        files: sequences and weights, by name, to stand beside the kernels of every target.
    """

    heads: onnx.ModelProto
    variants: tuple[Variant, ...]
    files: dict[str, bytes]


def kernel_graphs(bundle: Bundle, checkpoint: Path) -> KernelGraphs:
    """Spell out the launches of a bundle's graphs and pack the weights that they take.

    Args:
        bundle: an fp32 bundle.
        checkpoint: the file that it was made of.

    Raises:
        ExportError: the bundle was made of another checkpoint.
        R2rtError: the checkpoint cannot be used; see `training.checkpoint.load_checkpoint`.
        KernelBuildError: the model's sizes are none that the kernels take.
    """
    from export.kernel_writer import kernel_dims
    from kernels.aot import KernelBuildError

    weights = load_checkpoint(checkpoint)
    provenance = bundle.manifest.provenance
    if weights.sha256 != provenance.checkpoint_sha256:
        raise ExportError(
            f"{checkpoint} has sha256 {weights.sha256[:16]}…, {bundle.path} was made of "
            f"{provenance.checkpoint} with {provenance.checkpoint_sha256[:16]}…; name that one"
        )
    try:
        variants, own = launched_variants(kernel_dims(bundle))
    except ValueError as error:
        raise KernelBuildError(f"{bundle.path}: {error}") from error
    state = weights.state_dict
    return KernelGraphs(
        heads=_heads(bundle, state),
        variants=own,
        files=launch_files(bundle.dims, bundle.manifest.heads, state, variants),
    )


def _heads(bundle: Bundle, state: Mapping[str, Tensor]) -> onnx.ModelProto:
    model = build_model(
        state, use_tef=bundle.dims.use_tef, merge_cls_sal=bundle.manifest.merge_cls_sal
    ).requires_grad_(False)
    return graph_to_onnx(
        GrounderHeads(model).eval(),
        heads_spec(bundle.dims),
        context_length=bundle.dims.context_length,
        doc=_DOC,
    )
