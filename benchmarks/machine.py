"""What a measurement depends on: the machine, the versions and the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from r2rt.portable import usable_cores

__all__ = ["CHECKOUT", "describe_commit", "describe_machine", "describe_versions"]

CHECKOUT = Path(__file__).resolve().parents[1]

# Instruction sets that matrix products, scalers and decoders choose their code by.
_ISA = re.compile(
    r"(sse4_2|avx|avx2|fma|f16c|avx_vnni(_int8)?|avx512\w*|amx_\w+|asimd(dp|hp)?|i8mm|bf16|sve2?|sme2?)"
)
_PACKAGES = (
    "numpy",
    "av",
    "onnxruntime",
    "torch",
    "decord",
    "torchcodec",
    "opencv-python-headless",
    "matplotlib",
)


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, instruction sets, memory, and how busy the machine is already."""
    info = _read("/proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info, re.MULTILINE)
    model = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", info, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "isa": sorted(flag for flag in flags[1].split() if _ISA.fullmatch(flag)) if flags else [],
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of every package that is measured and installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    import av

    versions["libavcodec"] = ".".join(map(str, av.library_versions["libavcodec"]))
    return versions


def describe_commit() -> str:
    """Return the commit that is measured, with `+` behind it where files differ from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
