"""Builds one engine in a process of its own: `export.trt_builder.build_plan` starts it.

The ONNX graph comes in on standard input and the plan goes out on standard output, both files.
The argument is a JSON object; standard error carries JSON objects, one a line: `{"say": ...}`
for messages, `{"step": ...}` for progress and last `{"error": [...]}` if nothing was built.

TensorRT-RTX orders some tables of a plan by the addresses of what they list, so plans are only the
same twice if every allocation before was: nothing else is imported, one thread builds, on one core.
On other systems than Linux addresses and core are left to the system.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

__all__: list[str] = []


def _main() -> int:
    if sys.platform == "linux" and len(sys.argv) == 2:
        _start_at_fixed_addresses()
    job = json.loads(sys.argv[1])
    if sys.platform == "linux" and job["reproducible"]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    trt = importlib.import_module(job["module"])
    logger = _logger(trt)
    builder = trt.Builder(logger)
    if job["reproducible"]:
        builder.max_threads = 1
    # TensorRT 11 has no other kind of network, and no flag for it.
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strong is None else 1 << int(strong))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(sys.stdin.buffer.read())
    messages = [_parser_message(parser.get_error(i)) for i in range(parser.num_errors)]
    if not parsed:
        return _fail([*messages, *logger.errors])
    for message in messages:
        _send("say", message)
    config = builder.create_builder_config()
    # An engine that allocates while it runs cannot be captured in a CUDA graph.
    lent = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if lent is not None:
        config.set_flag(lent)
    if not job["reproducible"]:
        # It is called by other threads, whose memory comes between the builder's.
        config.progress_monitor = _monitor(trt)
    if job["capabilities"]:
        config.num_compute_capabilities = len(job["capabilities"])
        for index, name in enumerate(job["capabilities"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    profile = builder.create_optimization_profile()
    for name, sizes in job["profile"].items():
        profile.set_shape(name, *sizes)
    config.add_optimization_profile(profile)
    cache = Path(job["timing_cache"]) if job["timing_cache"] else None
    if cache is not None:
        _use_timings(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return _fail(logger.errors)
    sys.stdout.buffer.write(plan)
    sys.stdout.buffer.flush()
    if cache is not None:
        _keep_timings(config, cache)
    return 0


def _use_timings(config: Any, path: Path) -> None:
    """Give the builder what it measured before; a file that it refuses is left out and reported."""
    known = b""
    with contextlib.suppress(OSError):
        known = path.read_bytes()
    for content in dict.fromkeys((known, b"")):
        timings = config.create_timing_cache(content)
        # False: timings of another GPU are not taken.
        if timings is not None and config.set_timing_cache(timings, False):
            return
        _send("say", f"{path}: not a timing cache of this GPU and version; measuring again")


def _keep_timings(config: Any, path: Path) -> None:
    timings = config.get_timing_cache()
    if timings is None:
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(timings.serialize())
        partial.replace(path)
    except OSError as error:  # the plan is whole; only the next one takes as long
        _send("say", f"{path}: what was measured is not kept ({error.strerror})")


def _start_at_fixed_addresses() -> None:
    """Start this program again, at fixed addresses; where that is forbidden, nothing changes."""
    import ctypes

    personality = getattr(ctypes.CDLL(None), "personality", None)
    if personality is not None:
        personality(_ADDR_NO_RANDOMIZE)
    os.execv(sys.executable, [sys.executable, "-B", *sys.argv, "again"])


_ADDR_NO_RANDOMIZE = 0x0040000


def _send(kind: str, what: object) -> None:
    sys.stderr.write(json.dumps({kind: what}) + "\n")
    sys.stderr.flush()


def _fail(messages: list[str]) -> int:
    _send("error", messages)
    return 1


def _parser_message(error: Any) -> str:
    where = f" at {error.node_operator()} {error.node_name()}" if error.node_operator() else ""
    return f"{error.code()}{where}: {' '.join(str(error.desc()).split())}"


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            text = " ".join(message.split())
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(text)
            elif severity == trt.ILogger.Severity.WARNING:
                _send("say", text)

    return Logger()


def _monitor(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, index: int) -> bool:
            _send("step", f"{phase} {index + 1}/{self.steps.get(phase, 0)}")
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


if __name__ == "__main__":
    sys.exit(_main())
