"""TorchScript archives are read for their tensors alone; hostile ones are refused."""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.training.test_clip import TINY, open_clip_model
from training.clip import ClipError, load_clip, towers_from_state_dict
from training.torchscript_archive import (
    ArchiveError,
    is_torchscript_archive,
    read_torchscript_tensors,
)


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


def test_tensors_are_those_of_the_module(archive: Path) -> None:
    assert is_torchscript_archive(archive)
    tensors = read_torchscript_tensors(archive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        expected = torch.jit.load(archive).state_dict()  # type: ignore[no-untyped-call]
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_a_plain_state_dict_is_no_torchscript_archive(tmp_path: Path) -> None:
    torch.save(Small().state_dict(), tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("constants.pkl")
    assert not is_torchscript_archive(tmp_path / "state.pt")
    assert not is_torchscript_archive(tmp_path / "text.pt")


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
            read_torchscript_tensors(path)
        with pytest.raises(ClipError, match="asks for"):
            load_clip(path)
    assert not trace.exists()


SYSTEM = b"cposix\nsystem\n(S'true'\ntR."
RECORD = b"c__torch__\nSmall\n"
STORAGE = b"(S'storage'\nctorch\nFloatStorage\nS'%s'\nS'cpu'\nI%d\ntQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def module_of(value: bytes) -> bytes:
    """A module whose one attribute is what these opcodes leave on the stack."""
    return RECORD + b")\x81}S'a'\n" + value + b"sb."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SYSTEM, "asks for posix.system"),
        (b"ctorch\nload\n.", "asks for torch.load"),
        (b"ctorch._utils\n__builtins__\n.", "asks for torch._utils.__builtins__"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "asks for"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "asks for builtins.eval"),
        (b"(S'true'\niposix\nsystem\n.", "asks for posix.system"),
        (RECORD + b"}S'__setstate__'\nNsb.", "data.pkl is damaged"),
        (REBUILD + b"}S'_call'\nNsb.", "sets the state of a function"),
        (RECORD + b")\x81(NI1\ntb.", "state is not a mapping"),
        (RECORD + b")\x81}I1\nNsb.", "state is not a mapping"),
        (b"ctorch\nFloatStorage\n}S'itemsize'\nI1\nsb.", "data.pkl is damaged"),
        (b"(lI1\na.", "holds a list, not a module"),
        (b"", "data.pkl is damaged"),
        (b"\x80\x02", "data.pkl is damaged"),
        (module_of(b"P0\n"), "data.pkl is damaged|persistent id"),
        (module_of(b"S'x'\nQ"), "persistent id is not that of a storage"),
        (module_of(STORAGE % (b"../version", 1)), "storage ../version is missing"),
        (module_of(STORAGE % (b"0", 10**9)), "not 1000000000 numbers"),
        (module_of(STORAGE % (b"0", -1)), "not -1 numbers"),
        (module_of(STORAGE % (b"99", 1)), "storage 99 is missing"),
        (module_of(REBUILD + b"(I1\nI0\n(t(tI00\n}tR"), "something that is no storage"),
    ],
)
def test_hostile_opcodes_are_refused(
    data: bytes, message: str, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_torchscript_tensors(with_pickle(archive, tmp_path, data))


@pytest.mark.parametrize(
    ("offset", "size", "stride", "message"),
    [
        (0, b"(I7\nt", b"(I1\nt", "beyond its storage"),
        (5, b"(I2\nt", b"(I1\nt", "beyond its storage"),
        (0, b"(I2\nI3\nt", b"(I6\nI1\nt", "beyond its storage"),
        (-1, b"(I1\nt", b"(I1\nt", "not natural numbers"),
        (0, b"(I2\nt", b"(I-1\nt", "not natural numbers"),
        (0, b"(I2\nt", b"(t", "1 sizes and 0 strides"),
        (0, b"(lI2\na", b"(I1\nt", "not natural numbers"),
        (0, b"(F2.0\nt", b"(I1\nt", "not natural numbers"),
    ],
)
def test_a_tensor_stays_within_its_storage(
    offset: int, size: bytes, stride: bytes, message: str, archive: Path, tmp_path: Path
) -> None:
    storage = STORAGE % (b"0", 6)
    arguments = b"(" + storage + b"I%d\n" % offset + size + stride + b"I00\n}tR"

    def change(name: str, old: bytes) -> bytes:
        if name == "data.pkl":
            return module_of(REBUILD + arguments)
        return bytes(24) if name == "data/0" else old

    with pytest.raises(ArchiveError, match=message):
        read_torchscript_tensors(rewritten(archive, tmp_path, change))


def test_a_module_that_contains_itself_is_refused(archive: Path, tmp_path: Path) -> None:
    itself = RECORD + b")\x81p1\n}S'a'\ng1\nsb."
    with pytest.raises(ArchiveError, match="contains itself"):
        read_torchscript_tensors(with_pickle(archive, tmp_path, itself))
    # Each module holds the next one twice: 2^60 paths.
    doubling = RECORD + b")\x81p0\n0"
    for level in range(60):
        doubling += RECORD + b")\x81}S'a'\ng%d\nsS'b'\ng%d\nsbp%d\n0" % (level, level, level + 1)
    with pytest.raises(ArchiveError, match="more than 10000 modules"):
        read_torchscript_tensors(with_pickle(archive, tmp_path, doubling + b"g60\n."))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, old: None if name == "data.pkl" else old, "0 entries named data.pkl"),
        (lambda name, old: None if name == "data/0" else old, "storage 0 is missing"),
        (lambda name, old: old[:-1] if name == "data/0" else old, "storage 0 has"),
        (lambda name, old: b"big" if name == "byteorder" else old, "byte order is b'big'"),
        (lambda name, old: old[:-9] if name == "data.pkl" else old, "data.pkl is damaged"),
    ],
)
def test_archives_with_parts_missing_or_wrong_are_refused(
    change: Callable[[str, bytes], bytes | None], message: str, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_torchscript_tensors(rewritten(archive, tmp_path, change))


def test_a_compressed_storage_is_refused(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ArchiveError, match="storage 0 has"):
        read_torchscript_tensors(path)


@settings(max_examples=150, deadline=None)
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
        tensors = read_torchscript_tensors(path)
    except ArchiveError:
        return
    assert all(isinstance(tensor, Tensor) for tensor in tensors.values())


def test_what_torch_saves_needs_only_the_globals_that_are_known(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        entry = next(name for name in opened.namelist() if name.endswith("/data.pkl"))
        operations = list(pickletools.genops(opened.read(entry)))
    modules = {
        str(argument).split(" ")[0] for code, argument, _ in operations if code.name == "GLOBAL"
    }
    assert any(module.startswith("__torch__") for module in modules)
    assert {"torch", "torch._utils"} <= modules
