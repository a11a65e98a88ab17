"""What is in a compiled kernel, read without a GPU by the disassemblers that come with Triton."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton

__all__ = ["Contents", "read_contents"]

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_USAGE = re.compile(r"\bREG:(\d+) STACK:(\d+)\b")
_INSTRUCTION = re.compile(
    r"^\s+(?:/\*[0-9a-f]+\*/\s+)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)\b", re.M
)
# Loads of 16 bytes a thread, through registers or straight to shared memory, and bulk copies.
_WIDE_LOADS = ("LDG", "LDGSTS")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Resources and instructions of one kernel.

    Attributes:
        registers: of a thread.
        stack_bytes: of a thread, in local memory.
        spills: instructions that write or read local memory.
        tensor_cores: instructions that multiply matrices on tensor cores, by their name.
        wide_loads: instructions that load 16 bytes a thread from global memory.
        loads: all that load from global memory.
    """

    registers: int
    stack_bytes: int
    spills: int
    tensor_cores: dict[str, int]
    wide_loads: int
    loads: int


def read_contents(cubin: bytes) -> Contents:
    """Disassemble a cubin that holds one kernel.

    Raises:
        ValueError: it is none.
        OSError: the disassemblers are not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _USAGE.findall(_run("cuobjdump", "-res-usage", str(path)))
        code = _run("nvdisasm", "-c", str(path))
    if len(usage) != 1:
        raise ValueError(f"{len(usage)} kernels in a cubin, expected 1")
    registers, stack = usage[0]
    counts: Counter[str] = Counter()
    wide = 0
    for name in _INSTRUCTION.findall(code):
        stem, *modifiers = name.split(".")
        counts[stem] += 1
        wide += stem in _WIDE_LOADS and "128" in modifiers
    return Contents(
        registers=int(registers),
        stack_bytes=int(stack),
        spills=counts["LDL"] + counts["STL"],
        tensor_cores={
            name: counts[name] for name in sorted(counts) if name.endswith(("HMMA", "HGMMA"))
        },
        wide_loads=wide,
        loads=sum(counts[name] for name in _WIDE_LOADS),
    )


def _run(tool: str, *arguments: str) -> str:
    run = subprocess.run(
        [_TOOLS / tool, *arguments], capture_output=True, text=True, check=False, errors="replace"
    )
    if run.returncode:
        raise ValueError(f"{tool}: {run.stderr.strip() or run.stdout.strip()}")
    return run.stdout
