"""A bundle's graphs as launches of its compiled kernels, for the native TensorRT backend.

`video_finalizer` is one launch. `grounder` is the R² block in 2·K launches, behind three that round
its inputs to fp16, and an engine of its own for the pyramid and the heads, `grounder_heads`.

What is written follows from the checkpoint alone. It stands beside the kernels of each target,
`kernels/sm_NN/GRAPH.launches.json` with the weights, packed as the kernels take them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnx
import torch
from torch import Tensor

from export.errors import ExportError
from export.graphs.grounder import GrounderHeads
from export.onnx_writer import graph_to_onnx
from r2rt.engines.tensorrt.cubins import (
    MULTIPROCESSORS,
    SCHEMA_VERSION,
    Call,
    Extent,
    Launch,
    LaunchSequence,
    Pointer,
    ScratchBuffer,
)
from r2rt.engines.tensorrt.plans import GROUNDER_HEADS, heads_spec
from r2rt.model.contract import GROUNDER, VIDEO_FINALIZER
from training.checkpoint import build_model, load_checkpoint

if TYPE_CHECKING:
    from kernels.variants import Variant
    from r2rt.model.bundle import Bundle

__all__ = ["KernelGraphs", "kernel_graphs"]

_WEIGHTS_NAME = "weights.safetensors"
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
    from kernels.variants import kernel_variants

    weights = load_checkpoint(checkpoint)
    provenance = bundle.manifest.provenance
    if weights.sha256 != provenance.checkpoint_sha256:
        raise ExportError(
            f"{checkpoint} has sha256 {weights.sha256[:16]}…, {bundle.path} was made of "
            f"{provenance.checkpoint} with {provenance.checkpoint_sha256[:16]}…; name that one"
        )
    try:
        variants = kernel_variants(kernel_dims(bundle), "fp16")
    except ValueError as error:
        raise KernelBuildError(f"{bundle.path}: {error}") from error
    compiled = {variant.stem: variant for variant in variants}
    own = [_cast_variant()]
    if bundle.dims.use_tef:
        own.append(_single_finalize(compiled["finalize-fp16"]))
    writer = _Writer(bundle, {**compiled, **{x.stem: x for x in own}})
    writer.write_grounder(weights.state_dict)
    if bundle.dims.use_tef:
        writer.write_finalizer(weights.state_dict)
    return KernelGraphs(
        heads=_heads(bundle, weights.state_dict), variants=tuple(own), files=writer.files()
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


def _cast_variant() -> Variant:
    from kernels import cast
    from kernels.variants import Variant

    return Variant(
        stem="cast-fp16",
        kernel="cast",
        function=cast._cast,
        types={"source_ptr": "*fp32", "target_ptr": "*fp16", "count": "i64"},
        # All that is cast is rows of a width that the kernels take.
        divisible_by={"source_ptr": 16, "target_ptr": 16, "count": 16},
        constexprs={"BLOCK": cast.BLOCK},
        num_warps=4,
        num_stages=1,
    )


def _single_finalize(variant: Variant) -> Variant:
    """Return the kernel that writes v as the contract has it, fp32."""
    return replace(variant, stem=f"{variant.stem}-fp32", types={**variant.types, "v_ptr": "*fp32"})


class _Writer:
    """Sequences over a bundle's kernels, which share one file of weights."""

    def __init__(self, bundle: Bundle, variants: Mapping[str, Variant]) -> None:
        self._dims = bundle.dims
        self._heads = bundle.manifest.heads
        self._variants = variants
        self._weights: dict[str, Tensor] = {}
        self._sequences: dict[str, LaunchSequence] = {}

    def files(self) -> dict[str, bytes]:
        """Return the content of every file by its name."""
        from safetensors.torch import save

        texts = {
            f"{graph}.launches.json": msgspec.json.format(
                msgspec.json.encode(sequence, order="deterministic")
            )
            + b"\n"
            for graph, sequence in self._sequences.items()
        }
        return {**texts, _WEIGHTS_NAME: save(self._weights)}

    def write_finalizer(self, state: Mapping[str, Tensor]) -> None:
        from kernels.weights import pack_finalize

        self._add_weights("map", pack_finalize(state, dtype=torch.float16, device="cpu"))
        per_clip = self._dims.layers * self._dims.patches
        stem = "finalize-fp16-fp32"
        launch = self._launch(
            stem,
            (f"cdiv * T {per_clip} {self._constant(stem, 'ROWS')}", 1, 1),
            {
                "tokens_ptr": "tokens",
                "endpoints_ptr": "endpoints",
                "rows_ptr": "map.rows",
                "norm_weight_ptr": "map.norm_weight",
                "norm_bias_ptr": "map.norm_bias",
                "linear_ptr": "map.linear",
                "linear_bias_ptr": "map.linear_bias",
                "v_ptr": "v",
            },
            total=f"* T {per_clip}",
            per_clip=per_clip,
        )
        self._add(VIDEO_FINALIZER, {}, [launch])

    def write_grounder(self, state: Mapping[str, Tensor]) -> None:
        from kernels.weights import pack_r2_block

        dims = self._dims
        k, p, d = dims.layers, dims.patches, dims.width
        block = pack_r2_block(state, heads=self._heads, dtype=torch.float16, device="cpu")
        self._add_weights("frame", block.frame)
        self._add_weights("time", block.time)
        shapes: dict[str, tuple[Extent, ...]] = {
            "v": ("T", k, p, d),
            "q": ("N", k, "L", d),
            "q_key": ("N", k, "L", d),
        }
        buffers = {
            f"{name}.fp16": ScratchBuffer(dtype="float16", shape=shape)
            for name, shape in shapes.items()
        }
        buffers["mixed"] = ScratchBuffer(dtype="float32", shape=("N", "T", d))
        buffers["qkv"] = ScratchBuffer(dtype="float16", shape=("N", "T", 3 * d))
        buffers["last"] = ScratchBuffer(dtype="float32", shape=("N", "T", d))
        steps: list[Launch | Call] = [self._cast(name, shape) for name, shape in shapes.items()]
        for layer in reversed(range(k)):
            first = layer == k - 1
            steps.append(
                self._frame_step(layer, first, scale=block.scales[layer], gate=block.gates[layer])
            )
            steps.append(self._time_step())
        spec = heads_spec(dims)
        tensors = {tensor.name: tensor.name for tensor in (*spec.inputs, *spec.outputs)}
        steps.append(Call(engine=GROUNDER_HEADS, tensors={**tensors, "clips": "last"}))
        self._add(GROUNDER, buffers, steps)

    def _cast(self, name: str, shape: tuple[Extent, ...]) -> Launch:
        count = _product(shape)
        return self._launch(
            "cast-fp16",
            (f"cdiv {count} {self._constant('cast-fp16', 'BLOCK')}", 1, 1),
            {"source_ptr": name, "target_ptr": f"{name}.fp16"},
            count=count,
        )

    def _frame_step(self, layer: int, first: bool, *, scale: float, gate: float) -> Launch:
        k, p, d = self._dims.layers, self._dims.patches, self._dims.width
        stem = f"frame_step-{'first' if first else 'next'}-fp16"
        # As `kernels.frame_step.frame_step_tiling` has it.
        span = f"max 1 min {self._constant(stem, 'ROWS')} min T cdiv * T N {MULTIPROCESSORS}"
        half = 2  # bytes
        query_offset: Extent = f"* L {layer * d * half}"
        pointers: dict[str, str | Pointer] = {
            "v_ptr": Pointer(buffer="v.fp16", offset_bytes=layer * p * d * half),
            "q_ptr": Pointer(buffer="q.fp16", offset_bytes=query_offset),
            "key_ptr": Pointer(buffer="q_key.fp16", offset_bytes=query_offset),
            "query_mask_ptr": "query_mask",
            "cross_q_ptr": "frame.cross_q",
            "cross_q_bias_ptr": "frame.cross_q_bias",
            "cross_k_ptr": "frame.cross_k",
            "cross_v_ptr": "frame.cross_v",
            "cross_v_bias_ptr": "frame.cross_v_bias",
            "cross_out_ptr": "frame.cross_out",
            "cross_out_bias_ptr": "frame.cross_out_bias",
            "norm_weight_ptr": "frame.norm_weight",
            "norm_bias_ptr": "frame.norm_bias",
            "qkv_weight_ptr": "frame.qkv",
            "qkv_bias_ptr": "frame.qkv_bias",
            "mixed_ptr": "mixed",
            "qkv_ptr": "qkv",
        }
        if not first:
            pointers["last_ptr"] = "last"
        return self._launch(
            stem,
            ("N", f"cdiv T {span}", 1),
            pointers,
            scale=scale,
            gate=gate,
            clips="T",
            length="L",
            span=span,
            stride_clip=k * p * d,
            stride_query=f"* L {k * d}",
        )

    def _time_step(self) -> Launch:
        # The variant for many clips gives the same; engines take too few for it to be faster.
        stem = "time_step-few-fp16"
        return self._launch(
            stem,
            ("N", f"cdiv T {self._constant(stem, 'ROWS')}", 1),
            {
                "mixed_ptr": "mixed",
                "qkv_ptr": "qkv",
                "out_weight_ptr": "time.out",
                "out_bias_ptr": "time.out_bias",
                "norm_weight_ptr": "time.norm_weight",
                "norm_bias_ptr": "time.norm_bias",
                "hidden_ptr": "time.hidden",
                "hidden_bias_ptr": "time.hidden_bias",
                "back_ptr": "time.back",
                "back_bias_ptr": "time.back_bias",
                "last_norm_weight_ptr": "time.last_norm_weight",
                "last_norm_bias_ptr": "time.last_norm_bias",
                "last_ptr": "last",
            },
            clips="T",
        )

    def _launch(
        self,
        stem: str,
        grid: tuple[Extent, Extent, Extent],
        pointers: Mapping[str, str | Pointer],
        **scalars: Extent | float,
    ) -> Launch:
        arguments: dict[str, Any] = {
            name: Pointer(buffer=x) if isinstance(x, str) else x for name, x in pointers.items()
        }
        arguments |= scalars
        types = self._variants[stem].types
        assert arguments.keys() == types.keys(), f"{stem} takes {', '.join(types)}"
        for name, kind in types.items():
            buffer = getattr(arguments[name], "buffer", None)
            weight = self._weights.get(buffer or "")
            assert weight is None or kind == _TYPES[weight.dtype], f"{stem}: {name} is {kind}"
        return Launch(cubin=stem, grid=grid, arguments=arguments)

    def _constant(self, stem: str, name: str) -> int:
        value = self._variants[stem].constexprs[name]
        assert isinstance(value, int)
        return value

    def _add_weights(self, prefix: str, packed: Any) -> None:
        for field in fields(packed):
            value = getattr(packed, field.name)
            if isinstance(value, Tensor):
                self._weights[f"{prefix}.{field.name}"] = value

    def _add(
        self, graph: str, buffers: dict[str, ScratchBuffer], steps: Iterable[Launch | Call]
    ) -> None:
        self._sequences[graph] = LaunchSequence(
            schema=SCHEMA_VERSION,
            graph=graph,
            buffers=buffers,
            weights=_WEIGHTS_NAME,
            steps=tuple(steps),
        )


_TYPES = {torch.float16: "*fp16", torch.float32: "*fp32"}


def _product(shape: tuple[Extent, ...]) -> str:
    return " ".join(["*"] * (len(shape) - 1) + [str(size) for size in shape])
