from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from r2rt.errors import SourceNotFoundError, exit_codes
from training.checkpoint import CheckpointError, build_model, first_line, load_checkpoint
from training.clip_config import ClipError
from training.clip_weights import read_weights


class _Bomb:
    """Unpickled without care, it creates a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_published_layout_is_read(golden_dir: Path) -> None:
    path = golden_dir / "moment.pth"
    state_dict, meta, sha256 = load_checkpoint(path)
    assert len(state_dict) == 83
    assert "nncore_version" in meta
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_bare_state_dict_and_safetensors_are_the_same_model(
    golden_dir: Path, tmp_path: Path
) -> None:
    state_dict = load_checkpoint(golden_dir / "highlight.pth").state_dict
    torch.save(state_dict, tmp_path / "bare.pth")
    # The suffix says nothing; the content does.
    save_file(state_dict, tmp_path / "weights.bin", metadata={"trained_by": "r2rt"})
    for name, meta in (("bare.pth", {}), ("weights.bin", {"trained_by": "r2rt"})):
        loaded = load_checkpoint(tmp_path / name)
        assert loaded.meta == meta
        model = build_model(tmp_path / name)
        assert not model.training
        for key, value in model.state_dict().items():
            assert torch.equal(value, state_dict[key]), key


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "proof"
    hostile = {"meta": {}, "state_dict": {"coef": _Bomb(proof)}}
    torch.save(hostile, tmp_path / "zip.pth", pickle_protocol=protocol)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(hostile, protocol=protocol))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match="get the file from its source"):
            load_checkpoint(tmp_path / name)
        assert not proof.exists()
    # The bomb is live: a careless reader would have set it off.
    pickle.loads((tmp_path / "plain.pth").read_bytes())
    assert proof.is_dir()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(golden_dir: Path, tmp_path: Path, share: float) -> None:
    whole = (golden_dir / "highlight.pth").read_bytes()
    save_file(load_checkpoint(golden_dir / "highlight.pth").state_dict, tmp_path / "whole")
    for name, data in (("a.pth", whole), ("b.safetensors", (tmp_path / "whole").read_bytes())):
        path = tmp_path / name
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(CheckpointError, match="source again"):
            load_checkpoint(path)


@given(data=st.binary(max_size=300))
@settings(max_examples=60)
def test_bytes_that_are_no_checkpoint_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.pth"
    for content in (data, b"\x80\x02" + data, b"\x20" + bytes(7) + b"{" + data):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match=path.name):
            load_checkpoint(path)


@pytest.mark.parametrize("start", [b"<!DOCTYPE html><html>", b"\xef\xbb\xbf\n <html lang=en>"])
def test_a_web_page_is_called_one(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(start + b"<body>Please log in</body></html>")
    with pytest.raises(CheckpointError, match="is a web page"):
        load_checkpoint(path)
    with pytest.raises(ClipError, match="web page"):
        read_weights(path)


def test_messages_have_no_escape_sequences(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).isprintable()
    assert first_line(ValueError("\x1b[31mred\x1b[0m \x07bell\nmore")) == "red �bell"


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="No such file"):
        load_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("key", ["pooling.att.weight", "adapter.scale", "loss._loss_sal.scale"])
def test_a_missing_key_is_named(golden_dir: Path, key: str) -> None:
    state_dict = load_checkpoint(golden_dir / "moment.pth").state_dict
    del state_dict[key]
    with pytest.raises(CheckpointError, match=rf"{key}"):
        build_model(state_dict)


def test_an_unexpected_key_is_named(golden_dir: Path) -> None:
    state_dict = load_checkpoint(golden_dir / "moment.pth").state_dict
    state_dict["adapter.extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"unexpected: adapter\.extra"):
        build_model(state_dict)


def test_a_wrong_shape_is_named_with_what_was_expected(golden_dir: Path) -> None:
    state_dict = load_checkpoint(golden_dir / "moment.pth").state_dict
    state_dict["adapter.v_map.weight"] = torch.zeros(64, 32)
    with pytest.raises(CheckpointError, match=r"v_map\.weight has shape \(64, 32\).*\(64, 64\)"):
        build_model(state_dict)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coef", torch.zeros(2, 2)),
        ("coef", torch.zeros(0)),
        ("adapter.scale", torch.zeros(0)),
        ("adapter.v_map.bias", torch.zeros(64, dtype=torch.int64)),
        # A tensor that claims a size that it does not hold.
        ("adapter.video_map.2.weight", torch.zeros(1).expand(2**24, 66)),
    ],
)
def test_senseless_tensors_are_refused(golden_dir: Path, key: str, value: torch.Tensor) -> None:
    state_dict = load_checkpoint(golden_dir / "moment.pth").state_dict
    state_dict[key] = value
    with pytest.raises(CheckpointError):
        build_model(state_dict)


def test_another_model_is_not_taken_for_ours() -> None:
    with pytest.raises(CheckpointError, match=r"adapter\..* is missing; found bias, weight"):
        build_model(torch.nn.Linear(3, 4).state_dict())


def test_use_tef_can_be_distinguished_from_the_coordinate_head(golden_dir: Path) -> None:
    model = build_model(golden_dir / "moment.pth", use_tef=False)
    assert model.config.vision_width == 66
    model = build_model(golden_dir / "highlight.pth", use_tef=True)
    assert model.config.vision_width == 62


def test_the_exit_code_is_its_own() -> None:
    assert CheckpointError.exit_code not in exit_codes()
