"""A small bundle, one with made-up engines in it, and TensorRT-RTX."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export import engines
from export.engines import build_engines
from export.exporter import export_bundle
from export.trt_builder import (
    Flavour,
    choose_flavour,
)
from r2rt.model.bundle import Bundle
from tests.export.engine_bundle import (
    fake_build,
    rtx,
    save_checkpoint,
    towers,
)
from tests.once import made_once


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> Path:
        checkpoint = save_checkpoint(folder / "model.pth")
        return export_bundle(
            checkpoint, folder / "bundle", clip=towers(), recipe="qvhighlights", name="small"
        ).path

    return made_once(tmp_path_factory, "export-engines", make)


@pytest.fixture(scope="session")
def exported_and_faked(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> Path:
        path = shutil.copytree(exported, folder / "bundle")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engines, "build_plan", fake_build)
            build_engines(Bundle.open(path), rtx())
        return path

    return made_once(tmp_path_factory, "export-engines-faked", make)


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture
def faked(exported_and_faked: Path, tmp_path: Path) -> Bundle:
    """A bundle into which engines of made-up plans were put."""
    return Bundle.open(shutil.copytree(exported_and_faked, tmp_path / "faked"))


@pytest.fixture(scope="module")
def builder() -> Flavour:
    pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'r2rt[rtx]'"
    )
    return choose_flavour("rtx", ["portable"], gpu=lambda: None)
