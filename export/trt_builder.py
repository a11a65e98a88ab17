"""One ONNX graph to one TensorRT or TensorRT-RTX plan, with one code path for both.

TensorRT-RTX builds without a GPU, for compute capabilities 7.5 to 8.9 and 12.x. TensorRT proper
builds on the GPU that it builds for, whichever it is, 9.0 and 10.0 included. Both take precision
from the graph.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r2rt.engines.gpu import find_gpu
from r2rt.engines.tensorrt.plans import FlavourName, Range
from r2rt.errors import BackendUnavailableError, R2rtError
from r2rt.model.contract import GraphSpec

__all__ = [
    "PORTABLE",
    "RTX_TARGETS",
    "EngineBuildError",
    "Flavour",
    "TargetError",
    "build_plan",
    "choose_flavour",
    "gpu_capability",
    "plan_kernels",
]

PORTABLE = "portable"
# What one portable plan serves: it is no larger than the plan for one of them.
_PORTABLE_TARGETS = ("8.0", "8.6", "8.9", "12.0", "12.1")
RTX_TARGETS = ("7.5", *_PORTABLE_TARGETS)
_RTX_REQUIREMENT = "tensorrt-rtx==1.7.1.*"


class TargetError(R2rtError, ValueError):
    """A GPU that no engine can be built for here."""

    exit_code = 52


class EngineBuildError(R2rtError, RuntimeError):
    """The engine builder refused a graph, or built it otherwise than expected."""

    exit_code = 53


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """An imported engine builder.

    Attributes:
        name: `tensorrt` or `rtx`.
        module: the Python module.
        version: its version, which plans are tied to.
        targets: what engines are built for, each a compute capability or `portable`.
        reason: one clause that says why it was chosen.
    """

    name: FlavourName
    module: Any
    version: str
    targets: tuple[str, ...]
    reason: str

    def capabilities(self, target: str) -> tuple[str, ...]:
        """Return the compute capabilities that the engines of a target serve."""
        return _PORTABLE_TARGETS if target == PORTABLE else (target,)


def choose_flavour(
    name: Literal["auto", "tensorrt", "rtx"] = "auto",
    targets: Sequence[str] = (),
    *,
    gpu: Callable[[], str | None] | None = None,
    load: Callable[[str], Any] = importlib.import_module,
) -> Flavour:
    """Choose the builder, and what it builds for.

    Args:
        name: `auto` takes TensorRT proper where it can be imported, the targets are this machine's
            GPU, and TensorRT-RTX otherwise.
        targets: compute capabilities such as "8.9", or "portable"; without any, this machine's GPU,
            and without one `portable`.
        gpu: returns the compute capability of this machine's GPU, or None.
        load: imports a module by its name.

    Raises:
        TargetError: no builder here can build for one of the targets.
        BackendUnavailableError: the builder is not installed.
    """
    for target in targets:
        if target != PORTABLE and not re.fullmatch(r"[0-9]{1,2}\.[0-9]", target):
            raise TargetError(
                f"no target {target!r}; expected a compute capability such as 8.9, or {PORTABLE}"
            )
    found = (gpu or gpu_capability)()
    if name == "tensorrt" or (name == "auto" and found is not None):
        problem = _why_not_tensorrt(found, targets)
        module = None
        if problem is None:
            module = _try_import("tensorrt", load)
            problem = "the package tensorrt is not installed" if module is None else None
        if module is not None and found is not None:
            reason = "asked for" if name == "tensorrt" else f"a GPU ({found}) and tensorrt are here"
            return Flavour(
                name="tensorrt",
                module=module,
                version=str(module.__version__),
                targets=(found,),
                reason=reason,
            )
        if name == "tensorrt":
            kind = BackendUnavailableError if not targets or found in targets else TargetError
            raise kind(f"no engines by TensorRT: {problem}; --flavour rtx needs no GPU")
        reason = f"no TensorRT: {problem}"
    else:
        reason = "asked for" if name == "rtx" else "no GPU here, and TensorRT-RTX needs none"
    served = _rtx_targets(targets, found, reason)
    module = _try_import("tensorrt_rtx", load)
    if module is None:
        raise BackendUnavailableError(
            "TensorRT-RTX is not installed; pip install 'r2rt[rtx]' "
            f"(or {_RTX_REQUIREMENT}, 0.23 GB)"
        )
    return Flavour(
        name="rtx", module=module, version=str(module.__version__), targets=served, reason=reason
    )


def gpu_capability() -> str | None:
    """Return the compute capability of the first GPU, such as "9.0"; None without one."""
    try:
        return "{}.{}".format(*find_gpu().capability)
    except BackendUnavailableError:
        return None


def build_plan(
    flavour: Flavour,
    onnx: bytes,
    spec: GraphSpec,
    target: str,
    ranges: Mapping[str, Range],
    *,
    timing_cache: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Build the plan of one graph.

    Args:
        flavour: the builder.
        onnx: the graph, in the precision that it is to run in.
        spec: its definition.
        target: one of the flavour's targets.
        ranges: least, usual and largest size of every dynamic dimension.
        timing_cache: where TensorRT proper keeps what it has measured on this GPU.
        say: called with every message of the parser and every warning of the builder.
        step: called with what the builder is at.

    Raises:
        EngineBuildError: with every message of the parser or the builder.
    """
    capabilities: list[str] = []
    if flavour.name == "rtx":
        capabilities = [f"SM{x.replace('.', '')}" for x in flavour.capabilities(target)]
        # TensorRT-RTX chooses on the user's machine, and asks for a GPU if a cache is set.
        timing_cache = None
    job = {
        "module": flavour.module.__name__,
        "capabilities": capabilities,
        "profile": _profile(spec, ranges),
        # TensorRT proper measures, and builds as fast as it can.
        "reproducible": flavour.name == "rtx",
        "timing_cache": str(timing_cache.absolute()) if timing_cache else "",
    }
    plan = _build_once(flavour, onnx, spec.name, job, say, step)
    if flavour.name == "tensorrt" or len(spec.outputs) == 1:
        return plan
    # Of a graph with several outputs about two plans of three are the same, and each other one has
    # a table in an order of its own. Three that are equal are the usual one.
    built = Counter([plan])
    while built[plan] < _EQUAL_BUILDS and built.total() < _MOST_BUILDS:
        plan = _build_once(flavour, onnx, spec.name, job, lambda _: None, step)
        built[plan] += 1
    if built[plan] < _EQUAL_BUILDS:
        say(f"{spec.name}: {_MOST_BUILDS} builds, no {_EQUAL_BUILDS} equal; not reproducible")
    return plan


def plan_kernels(plan: bytes) -> dict[str, int]:
    """Count what a plan consists of, by kind.

    A plan holds a readable description of its kernels; generated ones are named after what they
    compute, such as `__myl_AddRelu`.

    Returns:
        `attention`: fused attention kernels; `softmax`: kernels that compute a softmax of their
        own, as attention that is not fused needs them; `other`: kernels beside these and products;
        `products`: matrix products; `int8_products`: those whose second factor is int8.
    """
    kinds = Counter(_kind(name.decode(errors="replace")) for name in _KERNEL.findall(plan))
    products = [_OPERANDS.findall(found[1]) for found in _PRODUCT.finditer(plan)]
    factors = {factor for operands in products for factor in operands[1:2]}
    int8 = {found[1] for found in _INT8.finditer(plan)} & factors
    return {
        **{kind: kinds.get(kind, 0) for kind in ("attention", "softmax", "other")},
        "products": len(products),
        "int8_products": sum(operands[1] in int8 for operands in products),
    }


_KERNEL = re.compile(rb"function=\{ name=([^\s,}]{1,200})")
_PRODUCT = re.compile(
    rb"fully_connected=\{ [^{}]{0,999}output=\{[^{}]{0,999}\} input=\{([^{}]{1,999})"
)
_OPERANDS = re.compile(rb'"([^"^]+)[^"]*"')
_INT8 = re.compile(rb'tensor=\{ [^"]{0,500}name="([^"]+)"[^"]{0,500} type=int8 ')


def _kind(name: str) -> str:
    if "_mha" in name:
        return "attention"
    return "softmax" if "SubExpSum" in name else "other"


def _why_not_tensorrt(found: str | None, targets: Sequence[str]) -> str | None:
    if found is None:
        return "it builds on the GPU it builds for, and this machine has none"
    others = [target for target in targets if target != found]
    if others:
        return f"it builds for this machine's GPU ({found}) alone, not for {', '.join(others)}"
    return None


def _rtx_targets(targets: Sequence[str], found: str | None, reason: str) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(targets)) or ((found,) if found else (PORTABLE,))
    unserved = [target for target in wanted if target not in (*RTX_TARGETS, PORTABLE)]
    if unserved:
        raise TargetError(
            f"no engine for compute capability {', '.join(unserved)}: TensorRT-RTX serves "
            f"{', '.join(RTX_TARGETS)}; others are TensorRT proper's, which builds on the very GPU "
            f"({reason}); run this where that GPU and tensorrt are"
        )
    return wanted


def _try_import(name: str, load: Callable[[str], Any]) -> Any | None:
    try:
        return load(name)
    except (ImportError, OSError):
        return None


_EQUAL_BUILDS = 3
_MOST_BUILDS = 12


def _build_once(
    flavour: Flavour,
    onnx: bytes,
    graph: str,
    job: Mapping[str, object],
    say: Callable[[str], None],
    step: Callable[[str], None],
) -> bytes:
    """Run the worker; its plan is returned whole or not at all."""
    errors: list[str] = []
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as sink:
        source.write(onnx)
        source.seek(0)
        with subprocess.Popen(
            [sys.executable, "-B", str(_WORKER), json.dumps(job)],
            stdin=source,
            stdout=sink,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            cwd="/",
        ) as worker:
            try:
                assert worker.stderr is not None
                for line in worker.stderr:
                    _pass_on(line, graph, errors, say, step)
            except BaseException:
                worker.kill()
                raise
        if worker.returncode:
            if worker.returncode < 0:
                errors.append(f"it ended by signal {-worker.returncode}")
            reasons = "; ".join(dict.fromkeys(errors)) or "it gave no reason"
            raise EngineBuildError(
                f"{flavour.name} {flavour.version} could not build {graph}: {reasons}"
            )
        sink.seek(0)
        return sink.read()


_WORKER = Path(__file__).with_name("trt_worker.py")
# Which GPU is meant, what a CUDA library may need to be found, what no process of Windows starts
# without, and nothing that differs from call to call.
_PASSED_ON = (
    *("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"),
    *("LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR"),
)
# Tables of a plan are ordered by addresses. With an arena a thread, and no cache of freed blocks
# a thread, the main thread gets the same ones every time, whatever others are doing.
_MALLOC = {
    "arena_max": 64,
    "arena_test": 64,
    "mmap_threshold": 32 << 20,
    "mxfast": 0,
    "tcache_count": 0,
    "top_pad": 64 << 20,
    "trim_threshold": 4 << 30,
}


def _environment() -> dict[str, str]:
    tunables = ":".join(f"glibc.malloc.{name}={value}" for name, value in _MALLOC.items())
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed_on, "GLIBC_TUNABLES": tunables, "PYTHONHASHSEED": "0"}


def _pass_on(
    line: str,
    graph: str,
    errors: list[str],
    say: Callable[[str], None],
    step: Callable[[str], None],
) -> None:
    """Pass on one line of the worker; lines that are not its messages come from a library."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        if line.strip():
            errors.append(line.strip())
        return
    errors += message.get("error", ())
    if "say" in message:
        say(f"{graph}: {message['say']}")
    if "step" in message:
        step(f"building {graph}: {message['step']}")


def _profile(spec: GraphSpec, ranges: Mapping[str, Range]) -> dict[str, list[list[int]]]:
    """Return least, usual and largest shape of every input."""
    return {
        tensor.name: [
            [
                ranges[size].bounds()[index] if isinstance(size, str) else size
                for size in tensor.shape
            ]
            for index in range(3)
        ]
        for tensor in spec.inputs
    }
