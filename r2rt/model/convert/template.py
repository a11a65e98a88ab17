"""Fills a graph that was exported without its weights: the operators of an ONNX file stay as is.

A template is an ONNX model in which some initializers have a name, a type and sizes, but no
numbers. Which operators a graph has does not depend on the weights, so one template serves every
checkpoint of an architecture. Of the file's format (protocol buffers) no more is read here than
where the graph and its initializers begin and end; the numbers are written straight to the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from r2rt.errors import ConversionError
from r2rt.model.protobuf import fields, frame, head, number_field, numbers

__all__ = ["Slot", "slots", "write_graph"]

Array = NDArray[Any]

# Numbers of fields in onnx.proto: ModelProto, GraphProto, TensorProto.
_GRAPH = 7
_INITIALIZER = 5
_DIMS, _TYPE, _NAME, _RAW_DATA, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
}
# Protocol buffers' limit.
_LARGEST_FILE = 2**31 - 1
# Arrays from this size on are written beside a graph that would exceed it.
_OUTER_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Slot:
    """An initializer without numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def slots(template: bytes) -> dict[str, Slot]:
    """Return the initializers that a template has no numbers for, by name."""
    return {part.name: part for _, part in _parts(template)[1] if part is not None}


def write_graph(template: bytes, weights: Mapping[str, Array], path: Path) -> None:
    """Write the ONNX file that a template and its weights make.

    Where it would exceed the 2 GB of one file, the arrays are ONNX's external data, in a file
    beside it, `NAME.onnx.data`.

    Args:
        template: the model without numbers.
        weights: an array for each of its slots, of the slot's shape and type, and no others.
        path: the file, which is written in one pass.

    Raises:
        ConversionError: the weights do not fit the template.
        OSError: a file cannot be written.
    """
    before, parts, after = _parts(template)
    _check(weights, {slot.name: slot for _, slot in parts if slot is not None})
    lengths = [_framed_length(data, slot) for data, slot in parts]
    graph = sum(lengths)
    if len(before) + graph + len(after) > _LARGEST_FILE:
        parts = _written_outside(parts, weights, path.with_name(f"{path.name}.data"))
        lengths = [_framed_length(data, slot) for data, slot in parts]
        graph = sum(lengths)
    with path.open("wb") as file:
        file.write(before + head(_GRAPH, graph))
        for data, slot in parts:
            if slot is None:
                file.write(data)
            else:
                _write_tensor(file, data, slot, weights[slot.name])
        file.write(after)


def _written_outside(
    parts: list[tuple[bytes, Slot | None]], weights: Mapping[str, Array], path: Path
) -> list[tuple[bytes, Slot | None]]:
    """Write the large arrays to a file; return the graph's fields, which say where they are."""
    found: list[tuple[bytes, Slot | None]] = []
    offset = 0
    with path.open("wb") as file:
        for data, slot in parts:
            if slot is None or slot.size < _OUTER_BYTES:
                found.append((data, slot))
                continue
            file.write(np.ascontiguousarray(weights[slot.name]).data)
            place = {"location": path.name, "offset": str(offset), "length": str(slot.size)}
            offset += slot.size
            entries = [
                frame(_EXTERNAL, frame(1, key.encode()) + frame(2, value.encode()))
                for key, value in place.items()
            ]
            tensor = data + b"".join(entries) + number_field(_LOCATION, 1)
            found.append((frame(_INITIALIZER, tensor), None))
    return found


def _check(weights: Mapping[str, Array], wanted: Mapping[str, Slot]) -> None:
    if weights.keys() != wanted.keys():
        odd = sorted(weights.keys() ^ wanted.keys())
        raise ConversionError(f"the weights are not those of the graph: {', '.join(odd[:6])}")
    for name, slot in wanted.items():
        found = weights[name]
        if found.shape != slot.shape or found.dtype != slot.dtype:
            raise ConversionError(
                f"{name} has shape {found.shape} and type {found.dtype}, the graph takes "
                f"{slot.shape} and {slot.dtype}"
            )


def _parts(template: bytes) -> tuple[bytes, list[tuple[bytes, Slot | None]], bytes]:
    """Split a model: what is before the graph, the graph's fields, what is behind it.

    A slot's part is its TensorProto without the head; any other is a field with its head.
    """
    for field in fields(template):
        if field.number != _GRAPH:
            continue
        parts: list[tuple[bytes, Slot | None]] = []
        for part in fields(template, field.start, field.end):
            tensor = template[part.start : part.end]
            slot = _slot(tensor) if part.number == _INITIALIZER else None
            parts.append((template[part.first : part.end] if slot is None else tensor, slot))
        return template[: field.first], parts, template[field.end :]
    raise ConversionError("a template of the package holds no graph; install r2rt again")


def _slot(tensor: bytes) -> Slot | None:
    """Return the slot that a TensorProto is; None where it has numbers of its own."""
    shape: list[int] = []
    kind, name = 0, ""
    for field in fields(tensor):
        if field.number == _DIMS:
            shape += numbers(tensor, field)
        elif field.number == _TYPE:
            (kind,) = numbers(tensor, field)
        elif field.number == _NAME:
            name = tensor[field.start : field.end].decode()
        else:
            return None
    return Slot(name=name, shape=tuple(shape), dtype=_TYPES[kind])


def _framed_length(data: bytes, slot: Slot | None) -> int:
    if slot is None:
        return len(data)
    length = len(data) + len(head(_RAW_DATA, slot.size)) + slot.size
    return len(head(_INITIALIZER, length)) + length


def _write_tensor(file: BinaryIO, data: bytes, slot: Slot, array: Array) -> None:
    raw = head(_RAW_DATA, slot.size)
    file.write(head(_INITIALIZER, len(data) + len(raw) + slot.size) + data + raw)
    file.write(np.ascontiguousarray(array).data)
