"""Reads the tensors of a TorchScript archive without running anything that is in it.

OpenAI publishes CLIP as TorchScript: a zip of pickled module objects (`data.pkl`), raw storages
(`data/0`, ...) and code. Only the first two are read. The pickle is interpreted by an unpickler
that knows five kinds of globals: tensor rebuilders, storage types, `OrderedDict`, TorchScript's
list builders, and module classes, which become inert records. Anything else is refused by name.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["ArchiveError", "is_torchscript_archive", "read_torchscript_tensors"]

# Module objects of the largest CLIP take under 1 MiB; storages are not in the pickle.
_LARGEST_PICKLE_BYTES = 64 << 20
_MOST_MODULES = 10_000

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class ArchiveError(ValueError):
    """The archive is damaged, or holds what no TorchScript module needs."""


def is_torchscript_archive(path: Path) -> bool:
    """Whether the file is a zip with the parts that `torch.jit.save` writes."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Return the parameters and buffers of the archive's module by their dotted names.

    Raises:
        ArchiveError: the archive is damaged or asks for anything but tensors and plain records.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ArchiveError(f"{len(pickles)} entries named data.pkl, expected one")
        root = pickles[0].removesuffix("data.pkl")
        _check_byte_order(archive, root)
        if archive.getinfo(pickles[0]).file_size > _LARGEST_PICKLE_BYTES:
            raise ArchiveError(f"data.pkl has more than {_LARGEST_PICKLE_BYTES} bytes")
        unpickler = _RecordUnpickler(archive, root, archive.read(pickles[0]))
        try:
            module = unpickler.load()
        except ArchiveError:
            raise
        except Exception as error:  # a damaged pickle raises nearly anything
            raise ArchiveError(f"data.pkl is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(module, _Record):
        raise ArchiveError(f"data.pkl holds a {type(module).__name__}, not a module")
    return dict(_named_tensors(module))


class _Sealed:
    """What the unpickler hands out: no pickle can set anything of it."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise ArchiveError(
            f"the pickle sets the state of a {type(self).__name__.strip('_').lower()}"
        )


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


class _Storage(_Sealed):
    """A one-dimensional tensor of all numbers of a storage."""

    __slots__ = ("flat",)

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat


class _Leaf(_Sealed):
    """A tensor of a module."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Function(_Sealed):
    """A callable that the pickle may call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)


class _RecordUnpickler(pickle.Unpickler):
    """Interprets a module's pickle with the globals listed in this file's docstring, no others."""

    def __init__(self, archive: zipfile.ZipFile, root: str, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._archive = archive
        self._root = root
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Record
        found = _GLOBALS.get((module, name))
        if found is None:
            raise ArchiveError(
                f"the pickle asks for {module}.{name}, which no module's tensors need"
            )
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that `('storage', type, key, location, numel)` names."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise ArchiveError("a persistent id is not that of a storage")
        _, dtype, key, _, numel = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or type(numel) is not int:
            raise ArchiveError("a storage's id has parts of wrong types")
        if key not in self._storages:
            self._storages[key] = _Storage(self._read_storage(key, dtype, numel))
        storage = self._storages[key]
        if storage.flat.dtype != dtype or storage.flat.numel() != numel:
            raise ArchiveError(f"storage {key} is used under two descriptions")
        return storage

    def _read_storage(self, key: str, dtype: torch.dtype, numel: int) -> Tensor:
        try:
            entry = self._archive.getinfo(f"{self._root}data/{key}")
        except KeyError:
            raise ArchiveError(f"storage {key} is missing") from None
        # Storages are never compressed, so that the size on disk bounds the memory taken.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != numel * dtype.itemsize:
            raise ArchiveError(
                f"storage {key} has {entry.file_size} bytes, not {numel} numbers of {dtype}"
            )
        if numel == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self._archive.read(entry)), dtype=dtype)


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, *_: object
) -> _Leaf:
    """A view of a storage, in bounds, for `torch._utils._rebuild_tensor_v2`."""
    if not isinstance(storage, _Storage):
        raise ArchiveError("a tensor is rebuilt from something that is no storage")
    sizes, strides, (start,) = _naturals(size), _naturals(stride), _naturals((offset,))
    if len(sizes) != len(strides):
        raise ArchiveError(f"a tensor has {len(sizes)} sizes and {len(strides)} strides")
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if math.prod(sizes) > 0 and last >= storage.flat.numel():
        raise ArchiveError("a tensor reaches beyond its storage")
    return _Leaf(storage.flat.as_strided(sizes, strides, start))


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
    ("collections", "OrderedDict"): _Function(dict),
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
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


def _named_tensors(root: _Record) -> Iterator[tuple[str, Tensor]]:
    """Walk the modules depth first; bounded, since a hostile record may hold itself."""
    pending = [("", root)]
    for _ in range(_MOST_MODULES):
        if not pending:
            return
        prefix, module = pending.pop()
        for name, value in module.attributes.items():
            if isinstance(value, _Leaf):
                yield prefix + name, value.tensor
            elif isinstance(value, _Record):
                pending.append((f"{prefix}{name}.", value))
    raise ArchiveError(f"more than {_MOST_MODULES} modules, or one that contains itself")


def _check_byte_order(archive: zipfile.ZipFile, root: str) -> None:
    if f"{root}byteorder" in archive.namelist():
        order = archive.read(f"{root}byteorder")
        if order != b"little":
            raise ArchiveError(f"the storages' byte order is {order[:16]!r}, expected little")
