"""Compiled GPU kernels of a bundle: what is written beside each, and how a launch is spelled out.

`kernels/<target>/` holds `NAME.cubin` with its record `NAME.json` for one compute capability, and
may hold `GRAPH.launches.json`: one of the contract's graphs as a sequence of kernel launches and
engine calls. `GRAPH.resident.launches.json` is the same for v that stays on the device. All of them
are listed, with size and sha256, in the bundle's manifest. Reading them needs no GPU and runs
nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import msgspec

from r2rt.errors import BundleDamagedError, HashMismatchError

if TYPE_CHECKING:
    from r2rt.model.bundle import Bundle

__all__ = [
    "ALIGNMENT_BYTES",
    "SCHEMA_VERSION",
    "ArgumentType",
    "Call",
    "Cubin",
    "CubinArgument",
    "CubinRecord",
    "Extent",
    "Launch",
    "LaunchSequence",
    "Pointer",
    "ScratchBuffer",
    "extent",
    "kernels_folder",
    "read_cubins",
    "read_sequence",
    "sequence_file",
]

SCHEMA_VERSION = 4
# Kernels are compiled to load 16 bytes at once.
ALIGNMENT_BYTES = 16

# Pointers as Triton writes them, `*` before the type of what they point to; the rest by value.
ArgumentType: TypeAlias = Literal[
    "*fp32", "*fp16", "*bf16", "*i8", "*u8", "*i16", "*i32", "*i64",
    "i32", "i64", "u32", "u64", "fp32",
]  # fmt: skip
# A number, or an expression in prefix notation over the contract's symbols and MULTIPROCESSORS, the
# GPU's: "T", "cdiv T 16".
Extent: TypeAlias = int | str

_TARGET = re.compile(r"sm_[0-9]{2,3}[af]?")
_T = TypeVar("_T")
_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "cdiv": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
}


class CubinArgument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One argument of a kernel, in order.

    Attributes:
        name: its name in the kernel's source.
        type: pointer or scalar type.
        divisible_by: what the kernel was compiled to assume of its value: bytes for a pointer.
    """

    name: str
    type: ArgumentType
    divisible_by: int = 1


class CubinRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it takes to launch a cubin; `NAME.json` beside `NAME.cubin`.

    Attributes:
        schema: version of this layout.
        kernel: the kernel's name in r2rt, such as `frame_step`.
        entry: name of the function in the cubin.
        target: compute capability it was compiled for, such as `sm_90a`.
        shared_bytes: dynamic shared memory of a block.
        num_warps: warps a block, 32 threads each.
        num_ctas: blocks a cluster.
        launch_pdl: whether it is launched with programmatic dependent launch.
        launch_cooperative_grid: whether all of its blocks must be resident at once.
        global_scratch_bytes: scratch a block, whose pointer follows the arguments.
        global_scratch_align: alignment of that scratch, in bytes.
        profile_scratch_bytes: scratch a block of the profiler, whose pointer comes last.
        profile_scratch_align: alignment of that scratch, in bytes.
        arguments: what is passed, in order, without the two scratch pointers.
        constexprs: what is compiled in, by name; null is an argument left out.
        triton: version of the compiler.
        sha256: of the cubin.
    """

    schema: int
    kernel: str
    entry: str
    target: str
    shared_bytes: int
    num_warps: int
    num_ctas: int = 1
    launch_pdl: bool = False
    launch_cooperative_grid: bool = False
    global_scratch_bytes: int = 0
    global_scratch_align: int = 1
    profile_scratch_bytes: int = 0
    profile_scratch_align: int = 1
    arguments: tuple[CubinArgument, ...]
    constexprs: dict[str, bool | int | float | str | None]
    triton: str
    sha256: str


class Pointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place in a named buffer: one of the graph's inputs or outputs, scratch, or a weight."""

    buffer: str
    offset_bytes: Extent = 0


class ScratchBuffer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory that only the steps of a sequence see."""

    dtype: Literal["float32", "float16", "bfloat16", "int32", "int16", "uint8"]
    shape: tuple[Extent, ...]


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="launch"):
    """One launch of a kernel.

    Attributes:
        cubin: stem of the kernel's files.
        grid: blocks in x, y and z.
        arguments: a place, a number or an expression for every argument of the kernel, by name.
    """

    cubin: str
    grid: tuple[Extent, Extent, Extent]
    arguments: dict[str, Pointer | int | float | str]


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="engine"):
    """One run of an engine, whose tensors are the buffers of these names."""

    engine: str
    tensors: dict[str, str]


class LaunchSequence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A graph of the contract as launches and engine calls, one after another on one stream.

    Attributes:
        schema: version of this layout.
        graph: the graph that it computes; its inputs and outputs are buffers by their names.
        dtypes: of the inputs and outputs that are not in the contract's type.
        buffers: scratch by name.
        weights: safetensors file in the same folder whose tensors are buffers by their names.
        steps: what is done, in order.
    """

    schema: int
    graph: str
    dtypes: dict[str, Literal["float16"]] = {}
    buffers: dict[str, ScratchBuffer]
    weights: str | None
    steps: tuple[Launch | Call, ...]


class Cubin(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel's record and its code."""

    record: CubinRecord
    image: bytes


def kernels_folder(target: str) -> str:
    """Return the folder of a bundle that holds the kernels for a target such as `sm_90`."""
    return f"kernels/{target}"


def read_cubins(bundle: Bundle, target: str) -> dict[str, Cubin]:
    """Read the kernels that a bundle has for a compute capability, by the stem of their files.

    Args:
        bundle: an opened bundle.
        target: compute capability as in `sm_90`, which `sm_90a` code runs on as well.

    Raises:
        BundleDamagedError: a record is malformed, or what it describes is not there.
        HashMismatchError: a cubin is not what its record promises.
    """
    folder = kernels_folder(target)
    cubins = {}
    for name in sorted(bundle.manifest.files):
        stem, dot, _ = name.removeprefix(folder + "/").rpartition(".json")
        if not name.startswith(folder + "/") or not dot or stem.endswith(".launches"):
            continue
        record = _decode(bundle, name, CubinRecord)
        problem = _problem(record, target)
        if problem:
            raise BundleDamagedError(
                f"{bundle.path / name}: {problem}; compile the kernels of this bundle again"
            )
        path = bundle.file(f"{folder}/{stem}.cubin")
        image = _read(bundle, f"{folder}/{stem}.cubin")
        digest = hashlib.sha256(image).hexdigest()
        if digest != record.sha256:
            raise HashMismatchError(
                f"{path}: sha256 is {digest[:16]}…, its record says {record.sha256[:16]}…; "
                "compile the kernels of this bundle again"
            )
        cubins[stem] = Cubin(record=record, image=image)
    return cubins


def sequence_file(graph: str, *, resident: bool) -> str:
    """Return the name of the file of a graph's launches; `resident` if v stays on the device."""
    return f"{graph}.resident.launches.json" if resident else f"{graph}.launches.json"


def read_sequence(
    bundle: Bundle, target: str, graph: str, *, resident: bool = False
) -> LaunchSequence | None:
    """Read a graph's launches for a compute capability; None where the bundle has none.

    Raises:
        BundleDamagedError: the sequence is malformed.
    """
    name = f"{kernels_folder(target)}/{sequence_file(graph, resident=resident)}"
    if name not in bundle.manifest.files:
        return None
    sequence = _decode(bundle, name, LaunchSequence)
    if sequence.graph != graph or sequence.graph not in bundle.graphs:
        raise BundleDamagedError(
            f"{bundle.path / name}: computes {sequence.graph!r}, expected {graph!r}; "
            "compile the kernels of this bundle again"
        )
    return sequence


def extent(expression: Extent, symbols: Mapping[str, int]) -> int:
    """Return the value of an expression.

    Args:
        expression: a number, or words in prefix notation: numbers, symbols, and the operators
            + - * // min max cdiv (// rounded up), each before its two operands.
        symbols: values of the contract's symbols.

    Raises:
        ValueError: an unknown word, a missing or surplus operand, or a division by zero.
    """
    if isinstance(expression, int):
        return expression
    words = expression.split()
    stack: list[int] = []
    for word in reversed(words):
        if word in _OPERATORS:
            if len(stack) < 2:
                raise ValueError(f"{expression!r}: {word} lacks an operand")
            left, right = stack.pop(), stack.pop()
            if word in {"//", "cdiv"} and not right:
                raise ValueError(f"{expression!r} divides by zero")
            stack.append(_OPERATORS[word](left, right))
        elif word in symbols:
            stack.append(symbols[word])
        elif word.isascii() and word.isdigit() and len(word) < 20:
            stack.append(int(word))
        else:
            raise ValueError(f"{expression!r}: no {word!r}; there are {', '.join(sorted(symbols))}")
    if len(stack) != 1:
        raise ValueError(f"{expression!r}: {len(stack)} values where one is expected")
    return stack[0]


def _problem(record: CubinRecord, target: str) -> str | None:
    if not _TARGET.fullmatch(record.target) or record.target.rstrip("af") != target:
        return f"compiled for {record.target!r}, expected {target}"
    if not 1 <= record.num_warps <= 32 or not 1 <= record.num_ctas <= 16:
        return f"{record.num_warps} warps and {record.num_ctas} blocks a cluster cannot be launched"
    sizes = (record.shared_bytes, record.global_scratch_bytes, record.profile_scratch_bytes)
    if min(sizes) < 0 or max(sizes) > 1 << 30:
        return f"shared memory and scratch of {sizes} bytes are impossible"
    aligns = (
        record.global_scratch_align,
        record.profile_scratch_align,
        *(argument.divisible_by for argument in record.arguments),
    )
    if any(align < 1 or align & (align - 1) for align in aligns):
        return "alignments must be powers of two"
    names = [argument.name for argument in record.arguments]
    if len(set(names)) < len(names):
        return f"arguments of the same name among {', '.join(names)}"
    return None


def _decode(bundle: Bundle, name: str, kind: type[_T]) -> _T:
    text = _read(bundle, name)
    try:
        version = msgspec.json.decode(text, type=_Version).schema
        if version != SCHEMA_VERSION:
            raise BundleDamagedError(
                f"{bundle.path / name}: schema {version}, this r2rt reads {SCHEMA_VERSION}; "
                "compile the kernels of this bundle with this version"
            )
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BundleDamagedError(
            f"{bundle.path / name}: {error}; compile the kernels of this bundle again"
        ) from error


class _Version(msgspec.Struct):
    schema: int


def _read(bundle: Bundle, name: str) -> bytes:
    path = bundle.file(name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleDamagedError(f"{path}: cannot be read ({error.strerror})") from error
