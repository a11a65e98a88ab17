"""Limits of what a manifest may say, far beyond every model.

A wrong manifest is refused in one line, and not found out by a lack of memory.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from r2rt.model.contract import graph_specs, parse_clip_rate
from r2rt.model.manifest import MANIFEST_NAME, TOKENIZER_NAME, Manifest, Presence

__all__ = ["impossible"]

_MAX_SIZES = {
    "image_size": 2048,
    "patches": 1 << 14,
    "layers": 128,
    "width": 1 << 14,
    "context_length": 1 << 13,
}
_MAX_TOKEN_BYTES = 256 << 20  # of one clip
_MAX_STRIDES, _MAX_STRIDE = 16, 1 << 16
_MAX_HEADS, _MAX_MOMENTS, _MAX_TOWER_WIDTH = 1024, 100_000, 1 << 16
_MAX_SECONDS = 86_400.0
_MAX_NAME, _MAX_FILES, _MAX_FILE_NAME = 200, 10_000, 255

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def impossible(manifest: Manifest) -> str | None:
    """Return what in a manifest cannot be; None where all can."""
    problem = (
        _impossible_sizes(manifest) or _impossible_values(manifest) or _impossible_files(manifest)
    )
    if problem:
        return problem
    wanted = {f"{graph}.onnx" for graph in graph_specs(manifest.dims)} | {TOKENIZER_NAME}
    missing = sorted(wanted - manifest.files.keys())
    return f"the files {', '.join(missing)} are not listed" if missing else None


def _impossible_sizes(manifest: Manifest) -> str | None:
    dims = manifest.dims
    sizes = {name: (getattr(dims, name), most) for name, most in _MAX_SIZES.items()}
    sizes |= {
        "max_moments": (manifest.max_moments, _MAX_MOMENTS),
        "heads": (manifest.heads, _MAX_HEADS),
        "vision_width": (manifest.vision_width, _MAX_TOWER_WIDTH),
        "text_width": (manifest.text_width, _MAX_TOWER_WIDTH),
    }
    for name, (size, most) in sizes.items():
        if not 1 <= size <= most:
            return f"sizes must be positive and {name} at most {most}, got {size}"
    read = dims.read_layers
    if read is not None and [x for x in read if -_MAX_SIZES["layers"] <= x <= -1] != list(read):
        return f"read_layers must be null or numbers from -{_MAX_SIZES['layers']} to -1, got {read}"
    if read is not None and len(read) != dims.layers:
        return f"read_layers must be null or {dims.layers} numbers, got {len(read)}"
    embedding_width = dims.embedding_width
    if embedding_width is not None and not 1 <= embedding_width <= _MAX_TOWER_WIDTH:
        return f"embedding_width must be 1 to {_MAX_TOWER_WIDTH} or null, got {embedding_width}"
    token_bytes = 4 * dims.layers * dims.patches * dims.token_width
    if token_bytes > _MAX_TOKEN_BYTES:
        return f"a clip of {dims} takes {token_bytes} bytes, expected at most {_MAX_TOKEN_BYTES}"
    strides = dims.strides
    if not strides or strides[0] != 1 or list(strides) != sorted(set(strides)):
        return f"strides must ascend from 1, got {strides[:_MAX_STRIDES]}"
    if len(strides) > _MAX_STRIDES or strides[-1] > _MAX_STRIDE:
        return f"strides must be at most {_MAX_STRIDES}, none above {_MAX_STRIDE}"
    return None


def _impossible_values(manifest: Manifest) -> str | None:
    if not 1 <= len(manifest.name) <= _MAX_NAME or not manifest.name.isprintable():
        return f"name must be 1 to {_MAX_NAME} printable characters, got {manifest.name[:40]!r}"
    try:
        parse_clip_rate(manifest.fps)
    except ValueError as error:
        return str(error)
    for field in ("unit_s", "window_s"):
        value = getattr(manifest, field)
        if value is not None and not 0 < value <= _MAX_SECONDS:
            return f"{field} must be positive, at most {_MAX_SECONDS:g}, or null, got {value}"
    mean, std = manifest.preprocessing.mean, manifest.preprocessing.std
    if not all(0 < value <= 1e3 for value in std) or not all(abs(value) <= 1e3 for value in mean):
        return f"std must be positive, and mean and std at most 1000, got {mean} and {std}"
    if not 0 <= manifest.nms.iou_threshold <= 1 or not 0 < manifest.nms.sigma <= 1e6:
        return f"nms needs an iou_threshold in 0..1 and a positive sigma, got {manifest.nms}"
    if manifest.presence is not None and not _is_sound(manifest.presence):
        return (
            "presence needs 20 ascending quantiles, a false alarm in 0..1 and a tail of 0 or more"
        )
    return None


def _impossible_files(manifest: Manifest) -> str | None:
    if len(manifest.files) > _MAX_FILES:
        return f"lists {len(manifest.files)} files, expected at most {_MAX_FILES}"
    for name, entry in manifest.files.items():
        if len(name) > _MAX_FILE_NAME or not _SAFE_NAME.fullmatch(name) or name == MANIFEST_NAME:
            return f"{name[:80]!r} is not a file name that a bundle may list"
        if not _SHA256.fullmatch(entry.sha256) or entry.size < 0:
            return f"size or sha256 of {name} is malformed"
        if any(str(parent) in manifest.files for parent in PurePosixPath(name).parents):
            return f"{name} lies in what is listed as a file"
    return None


def _is_sound(presence: Presence) -> bool:
    quantiles = presence.quantiles
    return (
        len(quantiles) == 20
        and list(quantiles) == sorted(quantiles)
        and 0 < presence.false_alarm < 1
        and presence.tail >= 0
    )
