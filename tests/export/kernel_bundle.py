"""Bundles with compiled kernels, by processes of their own: those of tests interpret kernels."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from r2rt.model.bundle import Bundle
from tests.conftest import CHECKOUT
from tests.r2rt.bundles import DIMS, write_bundle

PUBLISHED = dataclasses.replace(DIMS, patches=50, width=256, layers=4)


def compiling(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    # What Triton has compiled is compiled once for all processes and runs.
    variables["R2RT_CACHE"] = str(CHECKOUT / "build" / "cache")
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**variables, **environment},
    )


def compile_kernels(
    bundle: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    script = str(CHECKOUT / "export" / "compile_kernels.py")
    return compiling([script, str(bundle), *arguments], **environment)


def compiled(folder: Path, targets: tuple[int, ...], *arguments: str) -> Bundle:
    write_bundle(folder, dims=PUBLISHED)
    options = [x for t in targets for x in ("--target", f"{t / 10:.1f}")]
    run = compile_kernels(folder, *options, *arguments)
    assert run.returncode == 0, run.stderr
    return Bundle.open(folder, verify="always")
