"""Which other files an ONNX graph reads: the locations of its tensors' external data.

ONNX Runtime opens whatever a graph names, so a bundle must list (and hash) all of it. The graph is
walked without the onnx package and without reading the weights: a protobuf message is a sequence of
fields, each with its number and its length, and only the few messages that can hold a tensor are
entered.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from r2rt.model.protobuf import fields

__all__ = ["external_locations"]

# Field numbers of onnx.proto, by message: which fields are messages that lead to a tensor.
_CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        10: "TensorProto",
        6: "GraphProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
    "StringStringEntryProto": {},
}
# The demo's graphs have up to 10,000, those of a ViT-L some 50,000; more would only take time.
_MAX_FIELDS = 500_000
# What ONNX Runtime's own format has in place of protobuf.
_ORT_MAGIC = b"ORTM"


def external_locations(path: Path) -> set[str]:
    """Return every location of external data that the graph in a file names.

    Raises:
        ValueError: the file is not a protobuf message, or has an unreasonable number of fields.
        OSError: it cannot be read.
    """
    if not path.stat().st_size:
        return set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:8] == _ORT_MAGIC:
            raise ValueError("ONNX Runtime's own format, expected ONNX")
        return _locations(data)


def _locations(data: mmap.mmap) -> set[str]:
    locations = set()
    pending = [("ModelProto", 0, len(data))]
    budget = _MAX_FIELDS
    while pending:
        message, start, end = pending.pop()
        children = _CHILDREN[message]
        texts = {}
        for field in fields(data, start, end):
            budget -= 1
            if budget < 0:
                raise ValueError(f"more than {_MAX_FIELDS} fields")
            if field.framed and field.number in children:
                pending.append((children[field.number], field.start, field.end))
            elif field.framed and message == "StringStringEntryProto":
                texts[field.number] = data[field.start : field.end]
        if texts.get(1) == b"location":
            locations.add(texts.get(2, b"").decode())
    return locations
