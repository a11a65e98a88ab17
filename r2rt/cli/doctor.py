"""`r2rt doctor`: what is installed, what the machine has, and which backend would run and why."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from r2rt.cli.console import print_table, write_text
from r2rt.errors import R2rtError
from r2rt.files import as_text
from r2rt.portable import usable_cores

__all__ = ["doctor"]

_PACKAGES = (
    "av",
    "click",
    "cuda-bindings",
    "httpx2",
    "msgspec",
    "numpy",
    "onnxruntime",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "onnxruntime-gpu",
    "platformdirs",
    "rich",
    "safetensors",
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "tokenizers",
)
_OPTIONAL_PACKAGES = {
    "cuda-bindings",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-rtx",
}
# Extras of the runtime without a GPU; `_PACKAGES` shows those for one.
_EXTRAS = ("media", "remote", "archive", "speech", "ray", "serve", "ray-serve")
# FFmpeg's decoder named av1 only drives hardware; software decoding needs one of these libraries.
_DECODERS = {
    "h264": ("h264",),
    "hevc": ("hevc",),
    "vp9": ("vp9", "libvpx-vp9"),
    "av1": ("libdav1d", "libaom-av1"),
}
# Neither was timed on a GPU yet.
_R2_BLOCK = (
    "by TensorRT's engine; models built with `to_trt.py --kernels` use compiled kernels instead, "
    "which were not yet measured on a GPU"
)
# Instruction sets that decide how fast ONNX Runtime's kernels and libswscale are.
_RELEVANT_FLAGS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        section: `system`, `packages`, `extras`, `video`, `backend`, `gpu`, `models` or `folders`.
        name: what was looked at.
        value: what was found, for a person.
        problem: whether r2rt cannot work as it should because of it.
    """

    section: str
    name: str
    value: str
    problem: bool = False


@click.command()
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or for programs.",
)
@click.option(
    "--measure",
    "measured",
    metavar="MODEL",
    help="Measure again which device is fastest for a model and agrees with the CPU; --device auto "
    "then uses it.",
)
def doctor(format_: str, measured: str | None) -> None:
    """Report what is installed, what the machine has, and which backend would run and why."""
    findings = [
        *_system(),
        *_packages(),
        *(_extras() if _is_installed() else ()),
        *_video(),
        *_backend(measured),
        *_gpu(),
        *_models(),
        *_folders(),
    ]
    if format_ == "json":
        write_text(None, _as_json(findings))
        return
    rows = []
    for index, item in enumerate(findings):
        begins = index == 0 or findings[index - 1].section != item.section
        section = item.section if begins else ""
        rows.append((section, "!" if item.problem else "", item.name, item.value))
    print_table(("", "", "", "found (! is a problem)"), rows)


def _as_json(findings: list[Finding]) -> str:
    import msgspec

    document: dict[str, Any] = {}
    for item in findings:
        document.setdefault(item.section, {})[item.name] = {
            "value": as_text(item.value),
            "problem": item.problem,
        }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _system() -> list[Finding]:
    model, flags = _processor()
    usable = usable_cores()
    return [
        Finding(section="system", name="python", value=f"{platform.python_version()} {sys.prefix}"),
        Finding(section="system", name="platform", value=platform.platform()),
        Finding(section="system", name="processor", value=model),
        Finding(section="system", name="instructions", value=" ".join(flags) or "none of note"),
        Finding(section="system", name="cores", value=f"{usable} usable of {os.cpu_count()}"),
        Finding(section="system", name="memory", value=_memory_text()),
    ]


def _packages() -> list[Finding]:
    found = [Finding(section="packages", name="r2rt", value=_own_version())]
    for name in _PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name not in _OPTIONAL_PACKAGES:
                found.append(
                    Finding(section="packages", name=name, value="not installed", problem=True)
                )
            continue
        found.append(Finding(section="packages", name=name, value=version))
    names = {item.name for item in found if not item.problem}
    if "onnxruntime-gpu" not in names:
        return found
    # Both write the module onnxruntime: the one installed last replaced files of the other.
    both = Finding(
        section="packages",
        name="onnxruntime",
        value="installed together with onnxruntime-gpu, as one module; uninstall both, then "
        "install one of them",
        problem=True,
    )
    others = [item for item in found if item.name != "onnxruntime"]
    return [*others, both] if "onnxruntime" in names else others


def _extras() -> list[Finding]:
    """Say of each extra whether it is installed, and what lacks."""
    found = []
    for extra in _EXTRAS:
        lacking = sorted(set(_lacking("r2rt", extra)))
        value = f"not installed ({', '.join(lacking)}); pip install 'r2rt[{extra}]'"
        found.append(Finding(section="extras", name=extra, value=value if lacking else "installed"))
    return found


def _lacking(package: str, extra: str) -> Iterator[str]:
    """Yield the packages that an extra of an installed package needs and that are not there."""
    for line in importlib.metadata.requires(package) or []:
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"""extra == ['"]([\w-]+)['"]""", marker)
        # What only some systems need makes r2rt faster there, no more.
        if wanted is None or wanted[1] != extra or "platform" in marker:
            continue
        name, *extras = re.findall(r"[\w.-]+", re.split(r"[<>=!~ ]", requirement.strip())[0])
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name
        else:
            for further in extras:
                yield from _lacking(name, further)


def _video() -> list[Finding]:
    try:
        import av
    except ImportError as error:
        return [Finding(section="video", name="PyAV", value=str(error), problem=True)]
    libraries = (
        f"{name} {'.'.join(map(str, version))}"
        for name, version in sorted(av.library_versions.items())
    )
    findings = [
        Finding(section="video", name="ffmpeg", value=getattr(av, "ffmpeg_version_info", "?")),
        Finding(section="video", name="libraries", value=", ".join(libraries)),
    ]
    for name, decoders in _DECODERS.items():
        there = [decoder for decoder in decoders if decoder in av.codecs_available]
        value = there[0] if there else f"no decoder ({' or '.join(decoders)})"
        findings.append(Finding(section="video", name=name, value=value, problem=not there))
    return findings


def _backend(measured: str | None = None) -> list[Finding]:
    from r2rt.engines.choice import choose, obstacles

    findings = []
    bundle = None
    if measured is not None:
        from r2rt.model.bundle import Bundle
        from r2rt.model.installed import resolve

        bundle = Bundle.open(resolve(measured))  # its error ends the command
    try:
        choice = choose("auto", bundle, measure_again=True)
        value = f"{choice.backend} on {choice.device} ({choice.reason})"
        findings.append(Finding(section="backend", name="chosen", value=value))
    except R2rtError as error:
        findings.append(Finding(section="backend", name="chosen", value=str(error), problem=True))
    ways = obstacles()
    if len(set(ways.values())) > 1:  # else all lack the driver, which is reported below
        findings += [
            Finding(section="backend", name=name, value=lack or "usable")
            for name, lack in ways.items()
        ]
    try:
        import onnxruntime

        # The list of a GPU build names CUDA whether or not the machine has a GPU.
        providers = ", ".join(onnxruntime.get_available_providers())
        findings.append(Finding(section="backend", name="providers", value=providers))
    except ImportError as error:
        findings.append(
            Finding(section="backend", name="providers", value=str(error), problem=True)
        )
    return findings


def _gpu() -> list[Finding]:
    """Ask the driver itself, which needs no toolkit and makes no context on any GPU."""
    from r2rt.engines.gpu import driver_name

    try:
        driver = ctypes.CDLL(driver_name())
    except OSError:
        value = f"none ({driver_name()} is not on this machine)"
        return [Finding(section="gpu", name="driver", value=value)]
    status = driver.cuInit(0)
    if status:
        value = f"there, but it finds no GPU (cuInit returned {status})"
        return [Finding(section="gpu", name="driver", value=value)]
    number, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    driver.cuDeviceGetCount(ctypes.byref(count))
    version = f"for CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    findings = [Finding(section="gpu", name="driver", value=version)]
    for index in range(count.value):
        name = ctypes.create_string_buffer(256)
        memory = ctypes.c_size_t()
        major, minor = ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGetName(name, len(name), index)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), index)
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, index)  # compute capability
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, index)
        value = (
            f"{name.value.decode(errors='replace')}, {memory.value / 2**30:.0f} GiB, "
            f"compute capability {major.value}.{minor.value}"
        )
        findings.append(Finding(section="gpu", name=f"device {index}", value=value))
    if count.value:
        findings.append(Finding(section="gpu", name="R² block", value=_R2_BLOCK))
    return findings


def _models() -> list[Finding]:
    from r2rt.model.installed import choose_default, installed

    findings: list[Finding] = []
    try:
        findings += [
            Finding(
                section="models",
                name=model.name,
                value=model.problem or f"{(model.size_bytes or 0) / 1e6:.1f} MB",
                problem=model.problem is not None,
            )
            for model in installed()
        ]
        default = choose_default()
        findings.append(
            Finding(section="models", name="default", value=f"{default.name}: {default.reason}")
        )
    except R2rtError as error:
        findings.append(Finding(section="models", name="default", value=str(error), problem=True))
    return findings


def _folders() -> list[Finding]:
    from r2rt.model.installed import models_dir
    from r2rt.model.registry import hub_endpoint

    models = models_dir()
    there = next(path for path in (models, *models.parents) if os.path.isdir(path))  # noqa: PTH112  never raises
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    state = "" if os.path.isdir(models) else ", not made yet"  # noqa: PTH112
    space = f"{free / 1e9:.1f} GB free"
    models_value = f"{models}{state}" + ("" if writable else ", not writable: set R2RT_HOME")
    return [
        Finding(section="folders", name="models", value=models_value, problem=not writable),
        Finding(section="folders", name="unfinished downloads", value=_unfinished(models)),
        Finding(section="folders", name="disk", value=space),
        Finding(section="folders", name="hub", value=hub_endpoint()),
    ]


def _unfinished(models: Path) -> str:
    folder = models / ".partial"
    size = 0
    for parent, _, names in os.walk(folder):  # skips what may not be read
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(Path(parent) / name).st_size
    return f"{size / 1e6:.1f} MB in {folder}" if size else "none"


def _own_version() -> str:
    if _is_installed():
        return importlib.metadata.version("r2rt")
    return f"not installed, run from {Path(__file__).parents[2]}"


def _is_installed() -> bool:
    try:
        importlib.metadata.version("r2rt")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> tuple[str, list[str]]:
    """Return the processor's name and those of its instruction sets that matter here."""
    fields: dict[str, str] = {}
    try:
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine(), []
    there = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, [flag for flag in _RELEVANT_FLAGS if flag in there]


def _memory_text() -> str:
    """Return how much memory there is, and how much is available where the system says."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return "unknown"
    text = f"{total / 2**30:.1f} GiB"
    available = None
    with contextlib.suppress(OSError, ValueError):  # macOS
        available = page * os.sysconf("SC_AVPHYS_PAGES")
    with contextlib.suppress(OSError, ValueError, IndexError):
        # What can be had without swapping; free pages alone leave out what caches hold.
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    if available is not None:
        text += f", {available / 2**30:.1f} GiB available"
    limit = _memory_limit_bytes()
    return (
        text if limit is None or limit >= total else f"{text}, limited to {limit / 2**30:.1f} GiB"
    )


def _memory_limit_bytes() -> int | None:
    """Return the memory limit of this process's control group, where there is one."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None
