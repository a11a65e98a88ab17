"""Reads the tensors of PyTorch's zip archives without PyTorch, and without running what they hold.

`torch.save` writes a zip of one pickle (`data.pkl`) and raw storages (`data/0`, ...);
`torch.jit.save`, which OpenAI published CLIP with, adds code that is never read here. The pickle is
interpreted by Python's unpickler, within two lists: the opcodes that PyTorch writes, and the
globals below. Tensors, containers, numbers and text come out; module objects become records without
behaviour. Anything else is refused by name. Storages are mapped into memory, not read.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArchiveError", "is_archive", "read_archive", "read_module_tensors"]

Array = NDArray[Any]

# The module objects of the largest CLIP take under 1 MiB; storages are not in the pickle.
_LARGEST_PICKLE_BYTES = 64 << 20
_MOST_MODULES = 10_000
# A container may be in others many times, so that walking it is not bounded by the file either.
_MOST_VALUES = 200_000
# Views may repeat numbers, so that their size is not bounded by the file's.
_MOST_NUMBERS = 1 << 40
_LOCAL_HEADER = struct.Struct("<4s22xHH")

_DTYPES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# NumPy has no bfloat16: its numbers become float32, which holds all of them.
_BFLOAT16 = "BFloat16Storage"

# What PyTorch's pickles are made of: protocol 2, and 4 where it was asked for.
_PYTORCH_WRITES = """
    PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET POP
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
    EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    APPEND APPENDS SETITEM SETITEMS GLOBAL STACK_GLOBAL BINPERSID REDUCE NEWOBJ BUILD
"""
_OPCODES = frozenset(_PYTORCH_WRITES.split())


class ArchiveError(ValueError):
    """The archive is damaged, or holds what no weights need."""


def is_archive(path: Path) -> bool:
    """Whether the file is a zip, as `torch.save` and `torch.jit.save` write it."""
    return zipfile.is_zipfile(path)


def read_archive(path: Path) -> object:
    """Return what `torch.save` or `torch.jit.save` put into the file.

    Returns:
        Dictionaries, lists, tuples, numbers and text, with a read-only array in place of every
        tensor; see `read_module_tensors` for an archive of `torch.jit.save`.

    Raises:
        ArchiveError: the archive is damaged or asks for more than tensors and plain containers.
        OSError: the file cannot be read.
    """
    value = _load(path)
    if isinstance(value, _Record):
        raise ArchiveError("data.pkl holds a module, not a dictionary of tensors")
    return _plain(value, depth=0, left=iter(range(_MOST_VALUES)))


def read_module_tensors(path: Path) -> dict[str, Array] | None:
    """Return the parameters and buffers of a `torch.jit.save` archive by their dotted names.

    Returns:
        The tensors; None where the archive is none of `torch.jit.save`.

    Raises:
        ArchiveError: the archive is damaged or asks for more than tensors and plain records.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return None
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ArchiveError(f"no zip archive that can be read: {error}") from error
    module = _load(path)
    if not isinstance(module, _Record):
        raise ArchiveError(f"data.pkl holds a {type(module).__name__}, not a module")
    size = path.stat().st_size
    tensors: dict[str, Array] = {}
    for name, array in _named_tensors(module):
        if array.size > size:
            raise ArchiveError(f"{name[:60]!r} has more numbers than the file has bytes")
        tensors[name] = array
    return tensors


def _load(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _Entries(path, archive)
            data = entries.pickle()
            _check_opcodes(data)
            return _Unpickler(entries, data).load()
    except (ArchiveError, OSError):
        raise
    except Exception as error:  # damaged bytes make zip and pickle fail in ways no list covers
        raise ArchiveError(f"data.pkl is damaged: {type(error).__name__}: {error}") from error


class _Entries:
    """The entries of an archive, each mapped where it lies in the file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
        infos = archive.infolist()
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) < len(infos):
            raise ArchiveError("two entries have the same name")
        pickles = [name for name in self._infos if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ArchiveError(f"{len(pickles)} entries named data.pkl, expected one")
        self._root = pickles[0].removesuffix("data.pkl")
        self._check_spans()
        order = self._infos.get(f"{self._root}byteorder")
        if order is not None and (text := self._read(order, 16)) != b"little":
            raise ArchiveError(f"the storages' byte order is {text[:16]!r}, expected little")

    def pickle(self) -> bytes:
        return self._read(self._infos[f"{self._root}data.pkl"], _LARGEST_PICKLE_BYTES)

    def storage(self, key: str, numel: int, itemsize: int) -> NDArray[np.uint8]:
        """Return a storage's bytes, mapped, after comparing their checksum."""
        info = self._infos.get(f"{self._root}data/{key}")
        if info is None:
            raise ArchiveError(f"storage {key} is missing")
        # Storages are never compressed, so that the size on disk bounds the memory taken.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != numel * itemsize:
            raise ArchiveError(
                f"storage {key} has {info.file_size} bytes, not {numel} numbers of {itemsize}"
            )
        start = self._start(info)
        data = self._bytes[start : start + info.file_size]
        if zlib.crc32(data.data) != info.CRC:
            raise ArchiveError(f"storage {key} is damaged: its checksum is not the zip's")
        return data

    def _read(self, info: zipfile.ZipInfo, most: int) -> bytes:
        """Read a small entry, never more bytes than `most`, whatever the zip promises."""
        name = info.filename.removeprefix(self._root)
        if info.file_size > most:
            raise ArchiveError(f"{name} has more than {most} bytes")
        with self._archive.open(info) as file:
            return file.read(most + 1)

    def _check_spans(self) -> None:
        """Refuse entries that overlap or leave the file: a zip's way of being larger than it is."""
        end, size = 0, len(self._bytes)
        for info in sorted(self._infos.values(), key=lambda x: x.header_offset):
            start = self._start(info)
            if info.header_offset < end or start + info.compress_size > size:
                raise ArchiveError(f"{info.filename!r} overlaps another entry or leaves the file")
            end = start + info.compress_size

    def _start(self, info: zipfile.ZipInfo) -> int:
        header = self._bytes[info.header_offset : info.header_offset + 30].tobytes()
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
            raise ArchiveError(f"{info.filename!r} has no header where the zip promises one")
        _, name, extra = _LOCAL_HEADER.unpack(header)
        return int(info.header_offset + _LOCAL_HEADER.size + name + extra)


def _check_opcodes(data: bytes) -> None:
    """Refuse what PyTorch does not write, before any of it is run."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise ArchiveError(f"the pickle uses {opcode.name}, which no weights need")
        # The unpickler takes memory for all places below the one that is written to.
        if opcode.name in {"BINPUT", "LONG_BINPUT"} and int(argument or 0) > len(data):
            raise ArchiveError(f"the pickle remembers a value in place {argument}")


class _Sealed:
    """What the unpickler hands out: no pickle can set anything of it."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        kind = type(self).__name__.strip("_").lower()
        raise ArchiveError(f"the pickle sets the state of a {kind}")


class _Record(_Sealed):
    """A module object: its attributes, and no behaviour."""

    __slots__ = ("attributes",)

    attributes: dict[str, object]

    def __new__(cls) -> _Record:
        record = super().__new__(cls)
        record.attributes = {}
        return record

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise ArchiveError("a module's state is not a mapping of names")
        self.attributes = state


class _Dict(dict[Any, Any]):
    """An `OrderedDict`, as state dicts are; the attributes that PyTorch gives it are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drop `_metadata`, the versions of the modules that a state dict came from."""


class _Storage(_Sealed):
    """All numbers of a storage, one after another."""

    __slots__ = ("flat", "kind")

    def __init__(self, kind: str, flat: Array) -> None:
        self.kind = kind
        self.flat = flat


class _StorageType(_Sealed):
    """The type of a storage, by its name in PyTorch."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Leaf(_Sealed):
    """A tensor."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array


class _Function(_Sealed):
    """A callable that the pickle may call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)


class _Unpickler(pickle.Unpickler):
    """Python's unpickler with the globals of `_GLOBALS`, and no others."""

    def __init__(self, entries: _Entries, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._entries = entries
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Record
        found = _GLOBALS.get((module, name))
        if found is None:
            raise ArchiveError(f"the pickle asks for {module}.{name}, which no weights need")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that `('storage', type, key, location, numel)` names."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise ArchiveError("a persistent id is not that of a storage")
        _, kind, key, _, numel = pid
        if (
            not isinstance(kind, _StorageType)
            or not isinstance(key, str)
            or type(numel) is not int
            or numel < 0
        ):
            raise ArchiveError("a storage's id has parts of wrong types")
        if key not in self._storages:
            self._storages[key] = _Storage(kind.name, self._read(key, kind.name, numel))
        storage = self._storages[key]
        if storage.kind != kind.name or len(storage.flat) != numel:
            raise ArchiveError(f"storage {key} is used under two descriptions")
        return storage

    def _read(self, key: str, kind: str, numel: int) -> Array:
        if kind == _BFLOAT16:
            halves = self._entries.storage(key, numel, 2).view("<u2")
            return (halves.astype("<u4") << 16).view("<f4")
        dtype = _DTYPES[kind]
        data = self._entries.storage(key, numel, dtype.itemsize)
        if dtype == np.bool_ and data.size and data.max() > 1:
            raise ArchiveError(f"storage {key} has truth values that are neither 0 nor 1")
        return data.view(dtype)


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, *_: object
) -> _Leaf:
    """A view of a storage, in bounds, for `torch._utils._rebuild_tensor_v2`."""
    if not isinstance(storage, _Storage):
        raise ArchiveError("a tensor is rebuilt from something that is no storage")
    sizes, strides, (start,) = _naturals(size), _naturals(stride), _naturals((offset,))
    if len(sizes) != len(strides):
        raise ArchiveError(f"a tensor has {len(sizes)} sizes and {len(strides)} strides")
    if math.prod(sizes) > _MOST_NUMBERS:
        raise ArchiveError(f"a tensor has {math.prod(sizes)} numbers")
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if math.prod(sizes) > 0 and last >= len(storage.flat):
        raise ArchiveError("a tensor reaches beyond its storage")
    if math.prod(sizes) == 0:
        return _Leaf(np.zeros(sizes, storage.flat.dtype))
    steps = [step * storage.flat.itemsize for step in strides]
    view = np.lib.stride_tricks.as_strided(storage.flat[start:], sizes, steps, writeable=False)
    return _Leaf(view)


def _rebuild_parameter(data: object, *_: object) -> _Leaf:
    if not isinstance(data, _Leaf):
        raise ArchiveError("a parameter is rebuilt from something that is no tensor")
    return data


def _naturals(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(n) is int and n >= 0 for n in values):
        raise ArchiveError("a tensor's offset, sizes or strides are not natural numbers")
    return values


def _first(value: object, *_: object) -> object:
    return value


_GLOBALS: dict[tuple[str, str], object] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("collections", "OrderedDict"): _Function(_Dict),
    **{("torch", name): _StorageType(name) for name in (*_DTYPES, _BFLOAT16)},
    **{
        ("torch.jit._pickle", name): _Function(_first)
        for name in (
            "build_boollist",
            "build_doublelist",
            "build_intlist",
            "build_tensorlist",
            "restore_type_tag",
        )
    },
}


def _plain(value: object, *, depth: int, left: Iterator[int]) -> object:
    """Return a value with arrays in place of tensors; bounded, since a list may hold itself."""
    if depth > 20:
        raise ArchiveError("containers nested more than 20 deep, or one that contains itself")
    if next(left, None) is None:
        raise ArchiveError(f"more than {_MOST_VALUES} values, or containers that repeat each other")
    if isinstance(value, _Leaf):
        return value.array
    if isinstance(value, Mapping):
        return {key: _plain(item, depth=depth + 1, left=left) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, depth=depth + 1, left=left) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise ArchiveError(f"data.pkl holds a {type(value).__name__.strip('_').lower()} by itself")


def _named_tensors(root: _Record) -> Iterator[tuple[str, Array]]:
    """Walk the modules depth first; bounded, since a hostile record may hold itself."""
    pending = [("", root)]
    left = _MOST_VALUES
    for _ in range(_MOST_MODULES):
        if not pending:
            return
        prefix, module = pending.pop()
        left -= len(module.attributes)
        if left < 0:
            break
        for name, value in module.attributes.items():
            if isinstance(value, _Leaf):
                yield prefix + name, value.array
            elif isinstance(value, _Record):
                pending.append((f"{prefix}{name}.", value))
    raise ArchiveError(f"more than {_MOST_MODULES} modules, or one that contains itself")
