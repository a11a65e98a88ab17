"""A small model whose attention an engine fuses, and plans that look built."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from export.trt_builder import Flavour
from r2rt.engines.tensorrt.plans import Range
from r2rt.model.contract import GROUNDER, TEXT_ENCODER, VIDEO_ENCODER, VIDEO_FINALIZER, GraphSpec
from training.clip import ClipConfig, ClipTowers, random_towers
from training.model import R2Config, R2Tuning

# Fused attention kernels: blocks of the towers; one for pooling and two a step for two layers.
FUSED = {VIDEO_ENCODER: 3, VIDEO_FINALIZER: 0, TEXT_ENCODER: 3, GROUNDER: 5}
INT8_PRODUCTS = {VIDEO_ENCODER: 12, VIDEO_FINALIZER: 0, TEXT_ENCODER: 12, GROUNDER: 0}
VERSION = "1.7.1.116"
FOLDER = "engines/rtx-portable-fp16"

_CLIP = ClipConfig(
    name="engine-tiny",
    image_size=64,
    patch_size=16,
    vision_width=64,
    vision_layers=3,
    vision_heads=2,
    vision_mlp_width=128,
    text_width=64,
    text_layers=3,
    text_heads=2,
    text_mlp_width=128,
    embed_width=32,
)


def towers() -> ClipTowers:
    return random_towers(_CLIP, 0)


def save_checkpoint(path: Path) -> Path:
    """Write a model with heads 16 wide, the narrowest that fuse."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = R2Tuning(
            R2Config(width=128, vision_width=64, text_width=64, layers=2, strides=(1, 2))
        )
        with torch.no_grad():
            for parameter in (model.adapter.gate, model.adapter.scale, model.coef):
                parameter.add_(torch.rand_like(parameter) - 0.5)
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def rtx(*targets: str, version: str = VERSION) -> Flavour:
    return Flavour(
        name="rtx", module=None, version=version, targets=targets or ("portable",), reason="asked"
    )


def fake_plan(
    attention: int, softmax: int, *, mask: int = 0x3E, version: str = VERSION, int8: int = 0
) -> bytes:
    """Bytes that are a plan as far as header and description go."""
    kernels = ["_gemm_mha_v2_0x1"] * attention + ["__myl_MaxrSubExpSumDiv_0x2"] * softmax
    text = "".join(f"function={{ name={name} }}\n" for name in [*kernels, "__myl_AddRelu_0x3"])
    text += "".join(
        f'  tensor={{ alignment=128 dims={{ 8 8 }} name="w{index}" offset=5 type=int8 }}\n'
        f'  fully_connected={{ name="p" output={{"o" }} input={{"x" "w{index}" "a" }} }}\n'
        for index in range(int8)
    )
    body = text.encode()
    numbers = bytes(int(part) for part in version.split("."))
    header = struct.pack("<4s12xQ4s4xI28x", b"vtrt", 64 + len(body), numbers, mask)
    return header + body


def fake_build(
    _flavour: Flavour,
    _onnx: bytes,
    spec: GraphSpec,
    _target: str,
    _ranges: Mapping[str, Range],
    **_: Any,
) -> bytes:
    return fake_plan(FUSED[spec.name], int(spec.name == TEXT_ENCODER))


def modules(*names: str) -> Callable[[str], Any]:
    """Return an import function that finds the named modules alone."""

    def load(name: str) -> Any:
        if name not in names:
            raise ImportError(name)
        return SimpleNamespace(__version__=VERSION, __name__=name)

    return load


def listing(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files of a folder by name; empty ones for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    } | {str(path.relative_to(folder)): b"" for path in folder.rglob("*") if path.is_dir()}
