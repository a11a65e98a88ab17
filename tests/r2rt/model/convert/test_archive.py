"""Archives of PyTorch are read for their tensors alone; hostile ones are refused."""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from r2rt.model.convert.archive import ArchiveError, read_archive, read_module_tensors
from tests.training.test_clip import TINY, open_clip_model
from training.clip import ClipError, load_clip, towers_from_state_dict


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.fp16 = nn.Parameter(torch.randn(2, 5).half())
        self.tied = self.linear.weight
        self.register_buffer("shared", torch.arange(6).reshape(2, 3).t())
        self.inner = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3, bias=False))
        self.sizes = [1, 2, 3]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.inner(x)) + self.sizes[0]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "small.pt"
    save_torchscript(Small(), path)
    return path


def save_torchscript(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():  # PyTorch deprecates what OpenAI's files were made with
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(module), path)


def rewritten(archive: Path, folder: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of the archive whose entries went through `change`; None drops one."""
    path = folder / "changed.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change(name.split("/", 1)[1], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def with_pickle(archive: Path, folder: Path, data: bytes) -> Path:
    return rewritten(archive, folder, lambda name, old: data if name == "data.pkl" else old)


def module_tensors(path: Path) -> dict[str, NDArray[Any]]:
    tensors = read_module_tensors(path)
    assert tensors is not None
    return tensors


def test_tensors_are_those_of_the_module(archive: Path) -> None:
    tensors = module_tensors(archive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        expected = torch.jit.load(archive).state_dict()  # type: ignore[no-untyped-call]
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.numpy().dtype
        assert np.array_equal(tensors[name], tensor.numpy())
        assert not tensors[name].flags.writeable


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_saves_is_read(tmp_path: Path, protocol: int) -> None:
    saved: dict[str, Any] = {
        "meta": {"epoch": 3, "rate": 0.5, "big": 2**40, "names": ["a", ("b", None, True)]},
        "state_dict": Small().state_dict(),
        "view": torch.arange(24).reshape(2, 3, 4)[:, 1:, ::2],
        "parameter": nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(3, dtype=torch.uint8),
    }
    torch.save(saved, tmp_path / "saved.pth", pickle_protocol=protocol)
    read = read_archive(tmp_path / "saved.pth")
    assert isinstance(read, dict)
    assert read["meta"] == saved["meta"]
    assert list(read["state_dict"]) == list(Small().state_dict())
    for key in ("view", "parameter", "empty", "scalar", "flags", "bytes"):
        expected = saved[key].detach().numpy()
        assert read[key].dtype == expected.dtype
        assert np.array_equal(read[key], expected)


def test_bfloat16_becomes_float32_exactly(tmp_path: Path) -> None:
    tensor = torch.tensor([1.0, -3.1415, 1e30, 0.0]).bfloat16()
    torch.save({"x": tensor}, tmp_path / "saved.pth")
    read = read_archive(tmp_path / "saved.pth")
    assert isinstance(read, dict)
    assert read["x"].dtype == np.float32
    assert np.array_equal(read["x"], tensor.float().numpy())


def test_the_two_kinds_of_archives_are_distinguished(archive: Path, tmp_path: Path) -> None:
    torch.save(Small().state_dict(), tmp_path / "state.pt")
    assert read_module_tensors(tmp_path / "state.pt") is None
    with pytest.raises(ArchiveError, match="holds a module"):
        read_archive(archive)


def test_clip_is_loaded_from_an_archive_as_openai_publishes_it(tmp_path: Path) -> None:
    model = open_clip_model(TINY).half()
    # OpenAI's archives hold sizes as tensors, which are no weights.
    model.register_buffer("input_resolution", torch.tensor(32))
    model.visual.register_buffer("input_resolution", torch.tensor(32))  # type: ignore[union-attr]
    path = tmp_path / "ViT-tiny.pt"
    holder = Holder()
    for name, child in model.named_children():
        setattr(holder, name, child)
    for name, parameter in model.named_parameters(recurse=False):
        holder.register_parameter(name, parameter)
    save_torchscript(holder, path)
    towers = load_clip(path)
    expected = towers_from_state_dict(TINY, model.state_dict())
    assert towers.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in towers.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name])


class Holder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Hostile:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    archive: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    for hostile in (
        Hostile(exec, f"open({str(trace)!r}, 'w')"),
        Hostile(Path.touch, trace),
        Hostile(getattr, "", "join"),
        {"state": Hostile(eval, "1")},
    ):
        path = with_pickle(archive, tmp_path, pickle.dumps(hostile))
        with pytest.raises(ArchiveError, match=r"asks for (builtins\.|pathlib|posix)"):
            read_module_tensors(path)
        with pytest.raises(ClipError, match="asks for"):
            load_clip(path)
    assert not trace.exists()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, numel: int) -> bytes:
    return (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text(key)
        + text("cpu")
        + (number(numel) + b"tQ")
    )


def module_of(value: bytes) -> bytes:
    """A module whose one attribute is what these opcodes leave on the stack."""
    return RECORD + b")\x81}" + text("a") + value + b"sb."


RECORD = b"c__torch__\nSmall\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cposix\nsystem\n" + text("true") + b"\x85R.", "asks for posix.system"),
        (b"ctorch\nload\n.", "asks for torch.load"),
        (b"ctorch._utils\n__builtins__\n.", "asks for torch._utils.__builtins__"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "asks for"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "asks for builtins.eval"),
        (b"(S'true'\niposix\nsystem\n.", "uses STRING"),
        (b"(X\x01\0\0\0aiposix\nsystem\n.", "uses INST"),
        (b"(cposix\nsystem\no.", "uses OBJ"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"P0\n.", "uses PERSID"),
        (b"\x8b\xff\xff\xff\x7f.", "data.pkl is damaged"),
        (b"\x80\x05\x96" + bytes(8) + b".", "uses BYTEARRAY8"),
        (b"\x97.", "uses NEXT_BUFFER"),
        (b"N" + b"r\xff\xff\xff\x7f.", "remembers a value in place 2147483647"),
        (RECORD + b"}" + text("__setstate__") + b"Nsb.", "data.pkl is damaged"),
        (REBUILD + b"}" + text("_call") + b"Nsb.", "sets the state of a function"),
        (b"ctorch\nFloatStorage\n}" + text("name") + b"K\1sb.", "state of a storagetype"),
        (RECORD + b")\x81(NK\1tb.", "state is not a mapping"),
        (RECORD + b")\x81}K\1Nsb.", "state is not a mapping"),
        (b"]K\1a.", "holds a list, not a module"),
        (b"", "data.pkl is damaged"),
        (b"\x80\x02", "data.pkl is damaged"),
        (module_of(text("x") + b"Q"), "persistent id is not that of a storage"),
        (module_of(storage("../version", 1)), "storage ../version is missing"),
        (module_of(storage("0", 10**9)), "not 1000000000 numbers"),
        (module_of(storage("0", -1)), "parts of wrong types"),
        (module_of(storage("99", 1)), "storage 99 is missing"),
        (
            module_of(REBUILD + b"(K\0K\0" + numbers() + numbers() + b"\x89}tR"),
            "something that is no storage",
        ),
    ],
)
def test_hostile_opcodes_are_refused(
    data: bytes, message: str, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_module_tensors(with_pickle(archive, tmp_path, data))


@pytest.mark.parametrize(
    ("offset", "size", "stride", "message"),
    [
        (0, numbers(7), numbers(1), "beyond its storage"),
        (5, numbers(2), numbers(1), "beyond its storage"),
        (0, numbers(2, 3), numbers(6, 1), "beyond its storage"),
        (-1, numbers(1), numbers(1), "not natural numbers"),
        (0, numbers(2), numbers(-1), "not natural numbers"),
        (0, numbers(2), numbers(), "1 sizes and 0 strides"),
        (0, b"](K\2e", numbers(1), "not natural numbers"),
        (0, b"G\x40" + bytes(7) + b"\x85", numbers(1), "not natural numbers"),
        (0, numbers(2**30, 2**30), numbers(0, 0), "a tensor has 1152921504606846976 numbers"),
    ],
)
def test_a_tensor_stays_within_its_storage(
    offset: int, size: bytes, stride: bytes, message: str, archive: Path, tmp_path: Path
) -> None:
    arguments = b"(" + storage("0", 6) + number(offset) + size + stride + b"\x89}tR"

    def change(name: str, old: bytes) -> bytes:
        if name == "data.pkl":
            return module_of(REBUILD + arguments)
        return bytes(24) if name == "data/0" else old

    with pytest.raises(ArchiveError, match=message):
        read_module_tensors(rewritten(archive, tmp_path, change))


def test_a_module_that_contains_itself_is_refused(archive: Path, tmp_path: Path) -> None:
    itself = RECORD + b")\x81q\1}" + text("a") + b"h\1sb."
    with pytest.raises(ArchiveError, match="contains itself"):
        read_module_tensors(with_pickle(archive, tmp_path, itself))
    # Each module holds the next one twice: 2^60 paths.
    doubling = RECORD + b")\x81q\0000"
    for level in range(60):
        inner = b"h" + bytes([level])
        pair = text("a") + inner + b"s" + text("b") + inner + b"s"
        doubling += RECORD + b")\x81}" + pair + b"bq" + bytes([level + 1]) + b"0"
    with pytest.raises(ArchiveError, match="more than 10000 modules"):
        read_module_tensors(with_pickle(archive, tmp_path, doubling + b"h\x3c."))


def test_containers_that_repeat_each_other_are_refused(archive: Path, tmp_path: Path) -> None:
    """Each list holds the next one ten times, 10^18 in all, and each module all tensors."""
    lists: list[object] = []
    for _ in range(18):
        lists = [lists] * 10
    data = pickle.dumps(lists, protocol=2)
    with pytest.raises(ArchiveError, match="repeat each other"):
        read_archive(with_pickle(archive, tmp_path, data))
    one = b"".join(text(str(number_)) + b"]s" for number_ in range(2000))
    many = b"".join(text(str(number_)) + b"h\0s" for number_ in range(2000))
    modules = RECORD + b")\x81}" + one + b"bq\0000" + RECORD + b")\x81}" + many + b"b."
    with pytest.raises(ArchiveError, match="more than"):
        read_module_tensors(with_pickle(archive, tmp_path, modules))


def test_a_tensor_that_repeats_one_number_is_refused(archive: Path, tmp_path: Path) -> None:
    """As a module's as well as a state dict's: it would take terabytes when it is used."""
    size = b"(" + 3 * number(10_000) + b"t"
    tensor = REBUILD + b"(" + storage("0", 5) + number(0) + size + numbers(0, 0, 0) + b"tR"
    with pytest.raises(ArchiveError, match="more numbers than the file has bytes"):
        read_module_tensors(with_pickle(archive, tmp_path, module_of(tensor)))


@pytest.mark.parametrize(("at", "value"), [(6, 99), (46, 0xFF)])
def test_a_directory_that_zip_does_not_know_is_refused(
    archive: Path, tmp_path: Path, at: int, value: int
) -> None:
    """A version to come, and a name that is no UTF-8 though its flag says so."""
    data = bytearray(archive.read_bytes())
    start = data.index(b"PK\1\2")
    data[start + 9] |= 8
    data[start + at] = value
    path = tmp_path / "changed.pt"
    path.write_bytes(data)
    with pytest.raises(ArchiveError):
        read_module_tensors(path)


def test_a_list_that_contains_itself_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="contains itself"):
        read_archive(with_pickle(archive, tmp_path, b"]q\1h\1a."))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, old: None if name == "data.pkl" else old, "0 entries named data.pkl"),
        (lambda name, old: None if name == "data/0" else old, "storage 0 is missing"),
        (lambda name, old: old[:-1] if name == "data/0" else old, "storage 0 has"),
        (lambda name, old: b"big" if name == "byteorder" else old, "byte order is b'big'"),
        (lambda name, old: old[:-9] if name == "data.pkl" else old, "data.pkl is damaged"),
        (lambda name, old: b"." * (65 << 20) if name == "data.pkl" else old, "data.pkl has more"),
    ],
)
def test_archives_with_parts_missing_or_wrong_are_refused(
    change: Callable[[str, bytes], bytes | None], message: str, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_module_tensors(rewritten(archive, tmp_path, change))


def test_a_compressed_storage_is_refused(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ArchiveError, match="storage 0 has"):
        read_module_tensors(path)


def patched(archive: Path, folder: Path, change: Callable[[bytearray, int], None]) -> Path:
    """A copy of the archive; `change` gets its bytes and the place of data/0 in the directory."""
    data = bytearray(archive.read_bytes())
    name = next(x for x in zipfile.ZipFile(archive).namelist() if x.endswith("/data/0"))
    change(data, data.rindex(name.encode()) - 46)
    path = folder / "patched.pt"
    path.write_bytes(data)
    return path


def overlap(data: bytearray, entry: int) -> None:
    """Let the storage begin where the pickle does."""
    other = data.rindex(b"/data.pkl") - len("small") - 46
    data[entry + 42 : entry + 46] = data[other + 42 : other + 46]


def beyond(data: bytearray, entry: int) -> None:
    """Let the storage be larger than the file."""
    for at in (20, 24):
        data[entry + at : entry + at + 4] = (2**31).to_bytes(4, "little")


def corrupt(data: bytearray, entry: int) -> None:
    """Change the checksum that the directory promises."""
    data[entry + 16] ^= 1


def elsewhere(data: bytearray, entry: int) -> None:
    """Let the storage begin where no entry does."""
    data[entry + 42] ^= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overlap, "overlaps another entry or leaves the file"),
        (beyond, "overlaps another entry or leaves the file"),
        (corrupt, "storage 0 is damaged: its checksum"),
        (elsewhere, "no header where the zip promises one"),
    ],
)
def test_a_directory_that_lies_is_refused(
    change: Callable[[bytearray, int], None], message: str, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_module_tensors(patched(archive, tmp_path, change))


def test_two_entries_of_one_name_are_refused(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.pt"
    path.write_bytes(archive.read_bytes())
    with zipfile.ZipFile(path, "a") as changed:
        name = changed.namelist()[0]
        with pytest.warns(UserWarning, match="Duplicate name"):
            changed.writestr(name, b"another")
    with pytest.raises(ArchiveError, match="two entries have the same name"):
        read_module_tensors(path)


@given(data=st.data())
def test_a_damaged_pickle_is_read_or_refused(
    data: st.DataObject, archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with zipfile.ZipFile(archive) as old:
        entry = next(name for name in old.namelist() if name.endswith("/data.pkl"))
        pickled = bytearray(old.read(entry))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(pickled) - 1))
        pickled[position] = data.draw(st.integers(0, 255))
    path = with_pickle(archive, tmp_path_factory.getbasetemp(), bytes(pickled))
    try:
        tensors = module_tensors(path)
    except ArchiveError:
        return
    assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())


def test_what_torch_saves_needs_only_the_globals_that_are_known(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        entry = next(name for name in opened.namelist() if name.endswith("/data.pkl"))
        operations = list(pickletools.genops(opened.read(entry)))
    modules = {
        str(argument).split(" ")[0] for code, argument, _ in operations if code.name == "GLOBAL"
    }
    assert any(module.startswith("__torch__") for module in modules)
    assert {"torch", "torch._utils"} <= modules
