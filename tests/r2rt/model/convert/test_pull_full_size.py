"""Pull of a model of the true sizes, random weights, from a hub on 127.0.0.1."""

from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from r2rt.grounding.grounder import Grounder
from r2rt.model import registry
from r2rt.model.bundle import Bundle
from r2rt.model.installed import int8_form
from r2rt.model.pull import pull
from r2rt.model.registry import ClipSource, PublishedModel
from tests.conftest import CHECKOUT
from tests.r2rt.local_server import local_server
from training.clip import arch_config, openai_name, random_towers
from training.model import R2Config, R2Tuning

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub with a checkpoint and CLIP; its folder."""
    towers = random_towers(arch_config(registry.CLIP_ARCHITECTURE), 1)
    tensors = {
        openai_name(name): np.ascontiguousarray(tensor.numpy())
        for name, tensor in towers.state_dict().items()
    }
    save_file(tensors, tmp_path / "clip.safetensors")
    torch.manual_seed(0)
    state = R2Tuning(R2Config()).state_dict()
    folder = tmp_path / registry.REPOSITORY / "resolve" / "main" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "model.pth")
    model = PublishedModel(
        name="qvhighlights", hash8=sha256(tmp_path / "model.pth")[:8], summary="", window_s=150.0
    )
    (tmp_path / "model.pth").rename(folder / model.filename)
    source = ClipSource(
        filename="clip.safetensors",
        urls=("{hub}/clip.safetensors",),
        sha256=sha256(tmp_path / "clip.safetensors"),
    )
    monkeypatch.setitem(registry.PUBLISHED, "qvhighlights", model)
    monkeypatch.setattr(registry, "CLIP_SOURCES", (source,))
    monkeypatch.setenv("R2RT_HOME", str(tmp_path / "home"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "R2RT_CLIP"):
        monkeypatch.delenv(name, raising=False)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with local_server(handler) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield tmp_path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_published_model_is_fetched_converted_checked_and_answers(hub: Path) -> None:
    said: list[str] = []
    folder = pull("qvhighlights", say=said.append)
    bundle = Bundle.open(folder, verify="always")
    assert bundle.manifest.verification.passed
    assert bundle.manifest.verification.reference == "numpy"
    assert bundle.outdated is None
    assert bundle.manifest.dims.use_tef
    assert bundle.manifest.clip == registry.CLIP_ARCHITECTURE
    assert len(said) == 4, said
    grounder = Grounder.load(folder, device="cpu")
    prediction = grounder.ground(str(CHECKOUT / "demo" / "shapes.mp4"), "a red circle")
    assert len(prediction.saliency) > 0
    assert np.isfinite(prediction.saliency).all()
    assert not list((folder.parent / ".partial").rglob("*.pth")), "the checkpoint is not kept"
    _check_int8_form(folder)


def _check_int8_form(folder: Path) -> None:
    """Making the int8 form of an installed model takes no more than 1.5 GB."""
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from r2rt.cli.main import run\n"
        "from r2rt.quality.agreement import Limits\n"
        "from r2rt.quality.quantizer import quantize_bundle\n"
        # Random weights hardly prefer one moment to another.
        "quantize_bundle.__kwdefaults__['limits'] = Limits(first_moment_iou=0.5)\n"
        "status = run(sys.argv[1:])\n"
        # Not getrusage: its peak begins at the parent process's.
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "sys.exit(status)"
    )
    arguments = ["models", "quantize", folder.name, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert int(done.stdout) < 1.5e6, "kilobytes"
    form = int8_form(folder)
    assert form is not None
    manifest = Bundle.open(form, verify="always").manifest
    assert sum(entry.size for entry in manifest.files.values()) < 0.3 * sum(
        entry.size for entry in Bundle.open(folder).manifest.files.values()
    )
    with Grounder.load(folder, precision="int8", device="cpu") as grounder:
        assert grounder.bundle.path == form
