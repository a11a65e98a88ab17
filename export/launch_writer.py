"""A bundle's graphs as launches of its compiled kernels, for the native TensorRT backend.

`video_finalizer` is one launch. `grounder` is the R² block in 3 + 3·K launches, behind those that
round its inputs to fp16, and an engine of its own for the pyramid and the heads, `grounder_heads`.

What is written follows from the checkpoint alone. It stands beside the kernels of each target,
`kernels/sm_NN/GRAPH.launches.json` with the weights, packed as the kernels take them. Where v stays
on the device from the finalizer to the grounder, `GRAPH.resident.launches.json` is launched, in
which v is fp16: it is rounded once a video and not once a query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor

from kernels.splitting import PARTS_EXPRESSION
from r2rt.engines.tensorrt.cubins import (
    SCHEMA_VERSION,
    Call,
    Extent,
    Launch,
    LaunchSequence,
    Pointer,
    ScratchBuffer,
    sequence_file,
)
from r2rt.engines.tensorrt.plans import GROUNDER_HEADS, heads_spec
from r2rt.model.contract import GROUNDER, VIDEO_FINALIZER

if TYPE_CHECKING:
    from kernels.variants import KernelDims, Variant
    from r2rt.model.contract import ModelDims

__all__ = ["launch_files", "launched_variants"]

_WEIGHTS_NAME = "weights.safetensors"
_HALF_BYTES = 2


def launched_variants(dims: KernelDims) -> tuple[dict[str, Variant], tuple[Variant, ...]]:
    """Return the kernels that sequences may launch, by stem, and those that no other bundle has.

    Raises:
        ValueError: the sizes are none that the kernels take.
    """
    from kernels.variants import kernel_variants

    compiled = {variant.stem: variant for variant in kernel_variants(dims, "fp16")}
    own = [_cast_variant()]
    if dims.channels is not None:
        own.append(_single_finalize(compiled["finalize-fp16"]))
    return {**compiled, **{x.stem: x for x in own}}, tuple(own)


def launch_files(
    dims: ModelDims, heads: int, state: Mapping[str, Tensor], variants: Mapping[str, Variant]
) -> dict[str, bytes]:
    """Return the content of every file by its name: sequences and packed weights.

    Args:
        dims: sizes of the model.
        heads: attention heads of the R² block.
        state: the model's state dict.
        variants: the kernels by stem, as `launched_variants` has them.
    """
    writer = _Writer(dims, heads, variants)
    writer.write_grounder(state)
    if dims.use_tef:
        writer.write_finalizer(state)
    return writer.files()


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

    def __init__(self, dims: ModelDims, heads: int, variants: Mapping[str, Variant]) -> None:
        self._dims = dims
        self._heads = heads
        self._variants = variants
        self._weights: dict[str, Tensor] = {}
        self._sequences: dict[str, LaunchSequence] = {}  # by the name of the file

    def files(self) -> dict[str, bytes]:
        """Return the content of every file by its name."""
        from safetensors.torch import save

        texts = {
            name: msgspec.json.format(msgspec.json.encode(sequence, order="deterministic")) + b"\n"
            for name, sequence in self._sequences.items()
        }
        return {**texts, _WEIGHTS_NAME: save(self._weights)}

    def write_finalizer(self, state: Mapping[str, Tensor]) -> None:
        from kernels.weights import pack_finalize

        self._add_weights("map", pack_finalize(state, dtype=torch.float16, device="cpu"))
        per_clip = self._dims.layers * self._dims.patches
        pointers = {
            "tokens_ptr": "tokens",
            "endpoints_ptr": "endpoints",
            "rows_ptr": "map.rows",
            "norm_weight_ptr": "map.norm_weight",
            "norm_bias_ptr": "map.norm_bias",
            "linear_ptr": "map.linear",
            "linear_bias_ptr": "map.linear_bias",
            "v_ptr": "v",
        }
        for resident in (False, True):
            stem = "finalize-fp16" if resident else "finalize-fp16-fp32"
            grid: Extent = f"cdiv * T {per_clip} {self._constant(stem, 'ROWS')}"
            total = f"* T {per_clip}"
            launch = self._launch(stem, (grid, 1, 1), pointers, total=total, per_clip=per_clip)
            self._add(VIDEO_FINALIZER, {}, [launch], resident=resident)

    def write_grounder(self, state: Mapping[str, Tensor]) -> None:
        from kernels.weights import pack_r2_block

        dims = self._dims
        k, p, d = dims.layers, dims.patches, dims.width
        block = pack_r2_block(state, heads=self._heads, dtype=torch.float16, device="cpu")
        self._weights["scales"] = block.scales
        self._add_weights("query", block.query)
        self._add_weights("frame", block.frame)
        self._add_weights("time", block.time)
        inputs: dict[str, tuple[Extent, ...]] = {
            "v": ("T", k, p, d),
            "q": ("N", k, "L", d),
            "q_key": ("N", k, "L", d),
        }
        maps = ("N", k, self._heads, "L")
        scratch = {
            "pooled_frames": ScratchBuffer(dtype="float32", shape=(k, "N", "T", d)),
            "keys": ScratchBuffer(dtype="float16", shape=(*maps, d)),
            "values": ScratchBuffer(dtype="float16", shape=(*maps, d)),
            "biases": ScratchBuffer(dtype="float32", shape=maps),
            "mixed": ScratchBuffer(dtype="float32", shape=("N", "T", d)),
            "qkv": ScratchBuffer(dtype="float16", shape=("N", "T", 3 * d)),
            "attended": ScratchBuffer(dtype="float16", shape=("N", "T", d)),
            "sums": ScratchBuffer(dtype="float32", shape=(PARTS_EXPRESSION, "N", "T", d)),
            "last": ScratchBuffer(dtype="float32", shape=("N", "T", d)),
        }
        chain: list[Launch | Call] = []
        for layer in reversed(range(k)):
            chain += [
                self._frame_step(layer, first=layer == k - 1, gate=block.gates[layer]),
                self._time_attention(),
                self._time_step(),
            ]
        chain.append(self._settle())
        spec = heads_spec(dims)
        tensors = {tensor.name: tensor.name for tensor in (*spec.inputs, *spec.outputs)}
        chain.append(Call(engine=GROUNDER_HEADS, tensors={**tensors, "clips": "last"}))
        for resident in (False, True) if dims.use_tef else (False,):
            rounded = {n: shape for n, shape in inputs.items() if n != "v" or not resident}
            buffers = {
                f"{name}.fp16": ScratchBuffer(dtype="float16", shape=shape)
                for name, shape in rounded.items()
            }
            casts = [self._cast(name, shape) for name, shape in rounded.items()]
            pool = self._layer_pool("v" if resident else "v.fp16")
            steps = [*casts, self._query_maps(), pool, *chain]
            self._add(GROUNDER, {**buffers, **scratch}, steps, resident=resident)

    def _cast(self, name: str, shape: tuple[Extent, ...]) -> Launch:
        count = _product(shape)
        return self._launch(
            "cast-fp16",
            (f"cdiv {count} {self._constant('cast-fp16', 'BLOCK')}", 1, 1),
            {"source_ptr": name, "target_ptr": f"{name}.fp16"},
            count=count,
        )

    def _layer_pool(self, v: str) -> Launch:
        return self._launch(
            "layer_pool-fp16",
            ("N", "T", self._dims.layers),
            {
                "v_ptr": v,
                "q_ptr": "q.fp16",
                "key_ptr": "q_key.fp16",
                "query_mask_ptr": "query_mask",
                "scales_ptr": "scales",
                "pooled_ptr": "pooled_frames",
            },
            length="L",
        )

    def _query_maps(self) -> Launch:
        return self._launch(
            "query_maps-fp16",
            ("N", self._dims.layers, self._heads),
            {
                "q_ptr": "q.fp16",
                "query_mask_ptr": "query_mask",
                "cross_q_ptr": "query.cross_q",
                "cross_q_bias_ptr": "query.cross_q_bias",
                "cross_k_ptr": "query.cross_k",
                "cross_v_ptr": "query.cross_v",
                "cross_out_ptr": "query.cross_out",
                "keys_ptr": "keys",
                "values_ptr": "values",
                "biases_ptr": "biases",
            },
            length="L",
        )

    def _frame_step(self, layer: int, *, first: bool, gate: float) -> Launch:
        k, d, heads = self._dims.layers, self._dims.width, self._heads
        stem = f"frame_step-{'first' if first else 'next'}-fp16"
        single = 4  # bytes
        maps = layer * heads * d * _HALF_BYTES
        pointers: dict[str, str | Pointer] = {
            "pooled_ptr": Pointer(
                buffer="pooled_frames", offset_bytes=f"* {layer * single} {_product(('N', 'T', d))}"
            ),
            "keys_ptr": Pointer(buffer="keys", offset_bytes=f"* L {maps}"),
            "values_ptr": Pointer(buffer="values", offset_bytes=f"* L {maps}"),
            "biases_ptr": Pointer(buffer="biases", offset_bytes=f"* L {layer * heads * single}"),
            "cross_out_bias_ptr": "frame.cross_out_bias",
            "norm_weight_ptr": "frame.norm_weight",
            "norm_bias_ptr": "frame.norm_bias",
            "qkv_weight_ptr": "frame.qkv",
            "qkv_bias_ptr": "frame.qkv_bias",
            "mixed_ptr": "mixed",
            "qkv_ptr": "qkv",
        }
        if not first:
            pointers |= {
                "sums_ptr": "sums",
                "last_norm_weight_ptr": "time.last_norm_weight",
                "last_norm_bias_ptr": "time.last_norm_bias",
            }
        return self._launch(
            stem,
            ("N", f"cdiv T {self._constant(stem, 'ROWS')}", PARTS_EXPRESSION),
            pointers,
            gate=gate,
            clips="T",
            length="L",
            query_tokens=f"* L {k * heads}",
        )

    def _time_attention(self) -> Launch:
        stem = "time_attention-fp16"
        return self._launch(
            stem,
            ("N", f"cdiv T {self._constant(stem, 'ROWS')}", self._heads),
            {"qkv_ptr": "qkv", "attended_ptr": "attended"},
            clips="T",
        )

    def _time_step(self) -> Launch:
        stem = "time_step-fp16"
        return self._launch(
            stem,
            ("N", f"cdiv T {self._constant(stem, 'ROWS')}", PARTS_EXPRESSION),
            {
                "mixed_ptr": "mixed",
                "attended_ptr": "attended",
                "out_weight_ptr": "time.out",
                "out_bias_ptr": "time.out_bias",
                "norm_weight_ptr": "time.norm_weight",
                "norm_bias_ptr": "time.norm_bias",
                "hidden_ptr": "time.hidden",
                "hidden_bias_ptr": "time.hidden_bias",
                "back_ptr": "time.back",
                "back_bias_ptr": "time.back_bias",
                "sums_ptr": "sums",
            },
            clips="T",
        )

    def _settle(self) -> Launch:
        stem = "settle-fp16"
        return self._launch(
            stem,
            ("N", f"cdiv T {self._constant(stem, 'ROWS')}", 1),
            {
                "sums_ptr": "sums",
                "norm_weight_ptr": "time.last_norm_weight",
                "norm_bias_ptr": "time.last_norm_bias",
                "last_ptr": "last",
            },
            clips="T",
            parts=PARTS_EXPRESSION,
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
        self,
        graph: str,
        buffers: dict[str, ScratchBuffer],
        steps: Iterable[Launch | Call],
        *,
        resident: bool,
    ) -> None:
        self._sequences[sequence_file(graph, resident=resident)] = LaunchSequence(
            schema=SCHEMA_VERSION,
            graph=graph,
            dtypes={"v": "float16"} if resident else {},
            buffers=buffers,
            weights=_WEIGHTS_NAME,
            steps=tuple(steps),
        )


_TYPES = {torch.float16: "*fp16", torch.float32: "*fp32"}


def _product(shape: tuple[Extent, ...]) -> str:
    return " ".join(["*"] * (len(shape) - 1) + [str(size) for size in shape])
