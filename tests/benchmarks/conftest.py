from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.harness import Options
from benchmarks.workload import ModelChoice, Workload, prepare, save_towers
from training.clip import random_towers

_DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the tiny model already: the demo's bundle, and its weights."""
    spec = importlib.util.spec_from_file_location("demo", _DEMO / "make_random_bundle.py")
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # The script puts the checkout first on the path.
        patch.setattr("sys.path", [str(_DEMO), *sys.path])
        spec.loader.exec_module(demo)
    folder = tmp_path_factory.mktemp("media")
    home = folder / "model-tiny"
    shutil.copytree(_DEMO / "random-tiny", home / "bundle")
    torch.save({"meta": {}, "state_dict": demo.random_model().state_dict()}, home / "r2.pth")
    save_towers(random_towers(demo.CLIP, demo.SEED), home / "clip.safetensors")
    return folder


@pytest.fixture(scope="session")
def workload(media: Path) -> Workload:
    """The tiny model as a quick run prepares it."""
    options = Options(quick=True, repeats=None, out=media, media=media, plot=False)
    unnamed = ModelChoice(bundle=None, int8=None, checkpoint=None, clip=None)
    return prepare(unnamed, options)
