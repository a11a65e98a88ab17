"""Reads, changes and writes ONNX graphs: nodes and constants; all else stays as it was.

The package onnx does more and takes 70 MB. Constants are read where they are used: they are views
of the file, which is mapped into memory.
"""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from r2rt.model.protobuf import Buffer, Field, fields, frame, head, number_field, numbers

__all__ = ["Node", "OnnxGraph", "int_attribute", "of_domain"]

Array = NDArray[Any]

# Numbers of fields in onnx.proto, by message.
_GRAPH, _OPSET = 7, 8  # ModelProto
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2  # OperatorSetIdProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # GraphProto
_IN, _OUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7  # NodeProto
_DIMS, _TYPE, _NAME, _RAW_DATA, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14  # TensorProto
_VALUE_NAME, _VALUE_TYPE, _TENSOR_TYPE, _ELEMENT = 1, 2, 1, 1  # ValueInfoProto and below
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TYPE, _IS_INT = 1, 3, 20, 2  # AttributeProto

_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
}
_KINDS = {dtype: kind for kind, dtype in _DTYPES.items()}
_UINT8 = 2
# Smaller constants may be shapes, which ONNX Runtime reads before it takes outer ones.
_OUTER_BYTES = 4096


@dataclass(kw_only=True)
class Node:
    """An operator.

    Attributes:
        op_type: its name.
        inputs: names of what it reads.
        outputs: names of what it makes.
        rest: its other fields, encoded: attributes, and the domain that defines the operator.
    """

    op_type: str
    inputs: list[str]
    outputs: list[str]
    rest: bytes = b""


@dataclass(kw_only=True)
class OnnxGraph:
    """A graph whose nodes and constants can be changed.

    Attributes:
        nodes: in the order that they run.
        constants: arrays by name, which may be read-only.
        byte_inputs: names of the inputs that are uint8.
        outputs: names of the outputs.
        model_fields: the model's other fields, encoded, with their numbers.
        graph_fields: the same of the graph.
    """

    nodes: list[Node]
    constants: dict[str, Array]
    byte_inputs: frozenset[str]
    outputs: tuple[str, ...]
    model_fields: list[tuple[int, bytes]] = field(repr=False)
    graph_fields: list[tuple[int, bytes]] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> OnnxGraph:
        """Read a file, and the one beside it that holds a large graph's numbers.

        Raises:
            ValueError: it is no ONNX model, or one with constants of other kinds than arrays of
                numbers in the file itself or in `NAME.onnx.data`.
            OSError: it cannot be read.
        """
        beside = path.with_name(f"{path.name}.data")
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if not beside.is_file():
            return cls.parse(data)
        with beside.open("rb") as file:
            outside = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls.parse(data, outside=(beside.name, outside))

    @classmethod
    def parse(cls, data: Buffer, *, outside: tuple[str, Buffer] | None = None) -> OnnxGraph:
        """Read a model that is in memory, and the file that it refers to by name; see `read`."""
        model, graph_at = [], None
        for part in fields(data):
            if part.number == _GRAPH:
                graph_at = part
            else:
                model.append((part.number, bytes(data[part.first : part.end])))
        if graph_at is None:
            raise ValueError("no ONNX model: it holds no graph")
        graph = cls(
            nodes=[],
            constants={},
            byte_inputs=frozenset(),
            outputs=(),
            model_fields=model,
            graph_fields=[],
        )
        outputs, byte_inputs = [], []
        for part in fields(data, graph_at.start, graph_at.end):
            if part.number == _NODE:
                graph.nodes.append(_node(data, part))
                continue
            if part.number == _INITIALIZER:
                name, array = _constant(data, part, outside)
                graph.constants[name] = array
                continue
            if part.number == _OUTPUT:
                outputs.append(_value(data, part)[0])
            elif part.number == _INPUT:
                name, kind = _value(data, part)
                byte_inputs += [name] if kind == _UINT8 else []
            graph.graph_fields.append((part.number, bytes(data[part.first : part.end])))
        graph.outputs, graph.byte_inputs = tuple(outputs), frozenset(byte_inputs)
        return graph

    def use_domain(self, name: str, version: int) -> None:
        """Say that there are operators of a domain other than ONNX's own; once is enough."""
        opset = frame(_OPSET_DOMAIN, name.encode()) + number_field(_OPSET_VERSION, version)
        entry = (_OPSET, frame(_OPSET, opset))
        if entry not in self.model_fields:
            self.model_fields.append(entry)

    def copy(self) -> OnnxGraph:
        """Return a copy that can be changed; the arrays are shared."""
        nodes = [
            Node(
                op_type=node.op_type,
                inputs=list(node.inputs),
                outputs=list(node.outputs),
                rest=node.rest,
            )
            for node in self.nodes
        ]
        return OnnxGraph(
            nodes=nodes,
            constants=dict(self.constants),
            byte_inputs=self.byte_inputs,
            outputs=self.outputs,
            model_fields=list(self.model_fields),
            graph_fields=self.graph_fields,
        )

    def write(self, path: Path) -> None:
        """Write the model to a file.

        Raises:
            OSError: it cannot be written.
        """
        with path.open("wb") as file:
            self._write(file, set(), ())

    def runner(
        self, outputs: Iterable[str], options: Any = None
    ) -> Callable[[Mapping[str, Array]], list[Array]]:
        """Open the graph in ONNX Runtime on the CPU; return a function from inputs to outputs.

        Large constants are not copied.

        Args:
            outputs: names of the results: outputs of the graph or of any of its nodes.
            options: `onnxruntime.SessionOptions`, which are changed.
        """
        import onnxruntime

        options = options or onnxruntime.SessionOptions()
        wanted = list(outputs)
        outer = {name for name, array in self.constants.items() if array.nbytes >= _OUTER_BYTES}
        names = list(outer)
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(_contiguous(self.constants[name]))
            for name in names
        ]
        options.add_external_initializers(names, values)
        file = io.BytesIO()
        self._write(file, outer, [name for name in wanted if name not in self.outputs])
        session = onnxruntime.InferenceSession(
            file.getvalue(), options, providers=["CPUExecutionProvider"]
        )

        def run(inputs: Mapping[str, Array], _kept: object = values) -> list[Array]:
            found: list[Array] = session.run(wanted, dict(inputs))
            return found

        return run

    def _write(self, file: BinaryIO, outer: set[str], more_outputs: Iterable[str]) -> None:
        """Write the model, the constants in `outer` without their numbers."""
        parts = [frame(_NODE, _encoded_node(node)) for node in self.nodes]
        parts += [data for number, data in self.graph_fields if number < _INITIALIZER]
        after = [data for number, data in self.graph_fields if number > _INITIALIZER]
        after += [frame(_OUTPUT, frame(_VALUE_NAME, name.encode())) for name in more_outputs]
        tensors = [
            (_encoded_head(name, array, outer=name in outer), None if name in outer else array)
            for name, array in self.constants.items()
        ]
        lengths = [len(text) + (0 if array is None else array.nbytes) for text, array in tensors]
        graph = sum(map(len, parts)) + sum(map(len, after))
        graph += sum(len(head(_INITIALIZER, length)) + length for length in lengths)
        for number, data in self.model_fields:
            if number < _GRAPH:
                file.write(data)
        file.write(head(_GRAPH, graph) + b"".join(parts))
        for (text, array), length in zip(tensors, lengths, strict=True):
            file.write(head(_INITIALIZER, length) + text)
            if array is not None:
                file.write(_contiguous(array).data)
        file.write(b"".join(after))
        for number, data in self.model_fields:
            if number > _GRAPH:
                file.write(data)


def of_domain(name: str) -> bytes:
    """Return for `Node.rest` the domain that defines an operator."""
    return frame(_DOMAIN, name.encode())


def int_attribute(name: str, value: int) -> bytes:
    """Return an attribute for `Node.rest`."""
    return frame(
        _ATTRIBUTE,
        frame(_ATTRIBUTE_NAME, name.encode())
        + number_field(_ATTRIBUTE_INT, value)
        + number_field(_ATTRIBUTE_TYPE, _IS_INT),
    )


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(array.shape)  # a scalar stays one


def _text(data: Buffer, part: Field) -> str:
    return bytes(data[part.start : part.end]).decode()


def _node(data: Buffer, at: Field) -> Node:
    node = Node(op_type="", inputs=[], outputs=[])
    for part in fields(data, at.start, at.end):
        if part.number == _IN:
            node.inputs.append(_text(data, part))
        elif part.number == _OUT:
            node.outputs.append(_text(data, part))
        elif part.number == _OP_TYPE:
            node.op_type = _text(data, part)
        else:
            node.rest += bytes(data[part.first : part.end])
    return node


def _encoded_node(node: Node) -> bytes:
    names = [frame(_IN, name.encode()) for name in node.inputs]
    names += [frame(_OUT, name.encode()) for name in node.outputs]
    return b"".join([*names, frame(_OP_TYPE, node.op_type.encode()), node.rest])


def _constant(data: Buffer, at: Field, outside: tuple[str, Buffer] | None) -> tuple[str, Array]:
    shape: list[int] = []
    name, kind, raw = "", 0, None
    place: dict[str, str] = {}
    for part in fields(data, at.start, at.end):
        if part.number == _DIMS:
            shape += numbers(data, part)
        elif part.number == _TYPE:
            (kind,) = numbers(data, part)
        elif part.number == _NAME:
            name = _text(data, part)
        elif part.number == _RAW_DATA:
            raw = part
        elif part.number == _EXTERNAL:
            key, value = fields(data, part.start, part.end)
            place[_text(data, key)] = _text(data, value)
    dtype, source = _DTYPES.get(kind), data
    first, length = (0, -1) if raw is None else (raw.start, raw.end - raw.start)
    if dtype is not None and outside is not None and place.get("location") == outside[0]:
        whole = math.prod(shape) * dtype.itemsize
        source, first = outside[1], int(place.get("offset", 0))
        length = int(place.get("length", whole))
    if dtype is None or length != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"constant {name}: expected numbers in the file itself (raw_data)")
    if not math.prod(shape):
        return name, np.empty(shape, dtype)
    return name, np.frombuffer(source, dtype, math.prod(shape), first).reshape(shape)


def _encoded_head(name: str, array: Array, *, outer: bool) -> bytes:
    """Return a tensor's fields, up to its numbers."""
    text = b"".join(number_field(_DIMS, size) for size in array.shape)
    text += number_field(_TYPE, _KINDS[array.dtype.newbyteorder("<")])
    text += frame(_NAME, name.encode())
    if outer:
        entry = frame(1, b"location") + frame(2, name.encode())
        return text + frame(_EXTERNAL, entry) + number_field(_LOCATION, 1)
    return text + head(_RAW_DATA, array.nbytes)


def _value(data: Buffer, at: Field) -> tuple[str, int]:
    """Return the name of an input or output, and the kind of its elements."""
    name, kind = "", 0
    for part in fields(data, at.start, at.end):
        if part.number == _VALUE_NAME:
            name = _text(data, part)
        elif part.number == _VALUE_TYPE:
            kind = next(_element_kinds(data, part), 0)
    return name, kind


def _element_kinds(data: Buffer, at: Field) -> Iterator[int]:
    for tensor in fields(data, at.start, at.end):
        if tensor.number == _TENSOR_TYPE:
            for part in fields(data, tensor.start, tensor.end):
                if part.number == _ELEMENT:
                    yield from numbers(data, part)
