from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import Options
from benchmarks.workload import ModelChoice, Workload, prepare


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the tiny model already."""
    folder = tmp_path_factory.mktemp("media")
    _prepared(folder)
    return folder


@pytest.fixture(scope="session")
def workload(media: Path) -> Workload:
    """The tiny model as a quick run prepares it."""
    return _prepared(media)


def _prepared(folder: Path) -> Workload:
    options = Options(quick=True, repeats=None, out=folder, media=folder, plot=False)
    return prepare(ModelChoice(bundle=None, int8=None, checkpoint=None, clip=None), options)
