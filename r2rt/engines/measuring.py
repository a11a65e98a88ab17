"""Which backend is fastest for a bundle on this machine, and right: measured once and remembered.

Each candidate and the CPU run in a process of their own, because a driver that crashes ends its
process: batches of frames through `video_encoder`, then queries through the other graphs, as a
session runs them. A candidate is refused if it ends without an answer, takes longer than
`_LIMIT_S`, or gives numbers that are not the CPU's (see `TOLERANCE`); the fastest encoder of the
others is chosen, the CPU's included. One that takes longer hangs or compiles slowly: it gets
`_LIMIT_AGAIN_S` when a user measures again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.cache.folder import cache_dir
from r2rt.engines.base import PipelinedEngine
from r2rt.engines.choice import Choice, open_way
from r2rt.engines.tensorrt.plans import RMS_TOLERANCES
from r2rt.files import replacing
from r2rt.model.bundle import Bundle
from r2rt.model.contract import (
    GROUNDER,
    PATCH_BIAS,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    VIDEO_FINALIZER,
    ModelDims,
    query_inputs,
)

if TYPE_CHECKING:
    from r2rt.engines.base import Engine, Placed
    from r2rt.engines.choice import _Way

__all__ = ["TOLERANCE", "Measurement", "fastest", "forms_on_cpu", "measure"]

# The most by which an output may differ from the CPU's, as the RMS of the difference over the RMS
# of the CPU's output; an engine's may by as much as its precision was allowed when it was built.
TOLERANCE = 0.02
# Compiling for a device takes up to a minute on most machines.
_LIMIT_S, _LIMIT_AGAIN_S = 180.0, 1800.0
_LATE = "did not end within"
_FRAMES, _REPEATS = 8, 5
# The first run is direct, the second is captured, the third a replay; a pipeline has two of each.
_RUNS, _PIPELINE_WARM = 3, 4
_CPU: _Way = ("cpu", "onnxruntime")
_log = logging.getLogger(__name__)


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one backend took and gave.

    Attributes:
        device: as in `Choice`.
        backend: as in `Choice`.
        frame_s: seconds a frame of `video_encoder`, the median; None if it was refused.
        error: the largest difference of an output from the CPU's, see `TOLERANCE`.
        problem: why it was refused; None if it was not.
    """

    device: str
    backend: str
    frame_s: float | None = None
    error: float | None = None
    problem: str | None = None


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    measurements: tuple[Measurement, ...]


def fastest(
    bundle: Bundle, ways: Sequence[_Way], *, threads: int | None = None, again: bool = False
) -> Choice:
    """Return the fastest right backend among `ways` and the CPU.

    Args:
        bundle: the bundle that it is to run.
        ways: usable devices and backends, beside the CPU.
        threads: processor threads an operator may use.
        again: measure even if it was measured before, and wait longer for each.
    """
    # With engines and kernels, which are no part of the fingerprint.
    files = sorted((name, entry.sha256) for name, entry in bundle.manifest.files.items())
    path = cache_dir() / "devices" / f"{_key(bundle, (*ways, *files), threads)}.json"
    found = None if again else _remembered(path)
    how = "measured before"
    if found is None:
        found = measure(bundle, ways, threads=threads, again=again)
        how = "measured now"
        if found[0].problem is None:  # else nothing was compared; the next process tries again
            _remember(path, found)
    for one in found:
        if one.problem is not None:
            # Engines were built to be used, and more time may help others.
            matters = one.backend == "tensorrt" or one.problem.startswith(_LATE)
            level = logging.WARNING if matters and how == "measured now" else logging.INFO
            _log.log(level, "%s by %s is not used: %s", one.device, one.backend, one.problem)
    right = [one for one in found if one.frame_s is not None]
    cpu = next((one for one in right if one.device == "cpu"), None)
    if cpu is None or cpu.frame_s is None:
        return Choice(device="cpu", backend="onnxruntime", reason="the CPU could not be measured")
    best = min(right, key=lambda one: one.frame_s or 0.0)
    assert best.frame_s is not None
    if best is cpu:
        others = "; ".join(
            f"{one.device} {one.problem or f'took {1e3 * (one.frame_s or 0):.1f} ms'}"
            for one in found
            if one is not cpu
        )
        reason = f"{how}: {1e3 * cpu.frame_s:.1f} ms a frame, the fastest; {others}"
    else:
        reason = (
            f"{how}: {1e3 * best.frame_s:.1f} ms a frame, the CPU takes {1e3 * cpu.frame_s:.1f}"
        )
    way = next(way for way in (_CPU, *ways) if way == (best.device, best.backend))
    return Choice(device=way[0], backend=way[1], reason=reason)


def forms_on_cpu(
    fp32: Bundle, int8: Bundle, *, threads: int | None = None
) -> tuple[tuple[Measurement, Measurement], bool]:
    """Measure two forms of a model on the CPU, or remember what was measured.

    Args:
        fp32: the one form.
        int8: the other.
        threads: processor threads an operator may use.

    Returns:
        Both measurements, and whether they were measured just now.
    """
    path = cache_dir() / "devices" / f"{_key(fp32, (int8.fingerprint,), threads)}.json"
    found = _remembered(path)
    fresh = found is None or len(found) != 2
    if found is None or fresh:
        found = [measure(bundle, (), threads=threads)[0] for bundle in (fp32, int8)]
        if all(one.problem is None for one in found):
            _remember(path, found)
    return (found[0], found[1]), fresh


def measure(
    bundle: Bundle, ways: Sequence[_Way], *, threads: int | None = None, again: bool = False
) -> list[Measurement]:
    """Measure the CPU and other backends on one bundle, one after another.

    Args:
        bundle: the bundle.
        ways: devices and backends beside the CPU.
        threads: processor threads an operator may use.
        again: wait longer for each.

    Returns:
        The CPU's measurement, then the others' in order; they are refused if the CPU was not
        measured, since there is nothing to compare them with.
    """
    with tempfile.TemporaryDirectory(prefix="r2rt-") as folder:
        results = []
        want: dict[str, NDArray[Any]] = {}
        for number, (device, backend) in enumerate((_CPU, *ways)):
            place = Path(folder) / f"{number}.npz"
            if number and not want:
                problem: str | None = "not measured, since the CPU could not be"
            else:
                problem = _run(bundle, device, backend, threads, place, again=again)
            if problem is not None:
                results.append(Measurement(device=device, backend=backend, problem=problem))
                continue
            with np.load(place, allow_pickle=False) as found:
                got = dict(found)
            frame_s, tolerance = float(got.pop("frame_s")), float(got.pop("tolerance"))
            want = want or got
            error = max(_difference(got[name], want[name]) for name in want)
            right = error <= tolerance
            results.append(
                Measurement(
                    device=device,
                    backend=backend,
                    frame_s=frame_s if right else None,
                    error=error,
                    problem=None
                    if right
                    else f"differs from the CPU by {error:.2g} (RMS; at most {tolerance:.2g})",
                )
            )
        return results


def _run(
    bundle: Bundle, device: str, backend: str, threads: int | None, place: Path, *, again: bool
) -> str | None:
    """Measure one backend in a process of its own; return why there is no result, or None."""
    job = msgspec.json.encode([str(bundle.path), device, backend, threads, str(place)]).decode()
    # -P: nothing is imported from the folder in which the command happens to run.
    command = [sys.executable, "-P", "-m", "r2rt.engines.measuring", job]
    limit_s = _LIMIT_AGAIN_S if again else _LIMIT_S
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        late = f"{_LATE} {limit_s:.0f} s"
        if again or device == "cpu":
            return late
        wait = f"waits {_LIMIT_AGAIN_S / 60:.0f} minutes for it"
        return f"{late}; `r2rt doctor --measure {bundle.path}` {wait}"
    if done.returncode == 0 and place.is_file():
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode < 0:
        return f"its process ended by signal {-done.returncode}"
    # The last line of a traceback: the error's class and its message.
    if lines:
        return lines[-1].rpartition("Error: ")[2]
    return f"its process ended with exit code {done.returncode}"


def _difference(got: NDArray[Any], want: NDArray[Any]) -> float:
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    rms = float(np.sqrt(np.mean(np.square(want, dtype=np.float64))))
    off = float(np.sqrt(np.mean(np.square(got.astype(np.float64) - want))))
    return off / max(rms, 1e-12)


def _key(bundle: Bundle, ways: Sequence[object], threads: int | None) -> str:
    """Return a name for what a measurement depends on."""
    import onnxruntime

    from r2rt.engines.gpu import find_gpu
    from r2rt.errors import BackendUnavailableError

    try:
        gpu = str(find_gpu())
    except BackendUnavailableError:
        gpu = ""
    parts = (bundle.fingerprint, onnxruntime.__version__, platform.platform(), _processor(), gpu)
    return hashlib.sha256(repr((parts, tuple(ways), threads)).encode()).hexdigest()[:32]


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("model name", "flags")):
                return line
    return platform.processor()


def _remember(path: Path, found: Sequence[Measurement]) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(msgspec.json.encode(_Record(measurements=tuple(found))))


def _remembered(path: Path) -> list[Measurement] | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return list(msgspec.json.decode(path.read_bytes(), type=_Record).measurements)
    return None


def _work(bundle_path: str, device: str, backend: str, threads: int | None, place: str) -> None:
    """Run every graph of a bundle on one backend; write what came out and the encoder's time.

    What comes out is that of later runs than the first, when engines replay what they captured, and
    of other inputs than before, so that an output which nothing writes any more is seen.
    """
    bundle = Bundle.open(Path(bundle_path), verify="never")
    engine = open_way(bundle, device, backend, threads=threads)  # type: ignore[arg-type]
    dims = bundle.dims
    rng = np.random.default_rng(0)
    size, at_once = dims.image_size, engine.frame_batch
    frames = rng.integers(0, 256, (_FRAMES, size, size, 3), np.uint8)
    # Whole batches, the last one filled up, since every size of a batch is captured by itself.
    batches = np.resize(frames, (-(-_FRAMES // at_once), at_once, size, size, 3))
    times = []
    warm = _PIPELINE_WARM if isinstance(engine, PipelinedEngine) else 1
    for _ in range(warm + _REPEATS):
        began = time.perf_counter()
        _encode(engine, dims, ~batches[0])
        times.append(time.perf_counter() - began)
    parts = [_encode(engine, dims, batch) for batch in batches]
    results = {name: np.concatenate([part[name] for part in parts])[:_FRAMES] for name in parts[0]}
    ends = np.arange(_FRAMES + 1, dtype=np.float32) / _FRAMES
    endpoints = np.stack([ends[:-1], ends[1:]], axis=1)
    mask = np.ones((1, 6), np.float32)
    for turn in reversed(range(_RUNS)):
        tokens = np.roll(results["tokens"], turn, axis=0)
        video: dict[str, Placed] = {"v": tokens}
        if dims.use_tef:
            video["v"] = engine.empty((*tokens.shape[:-1], dims.width))
            engine.run(VIDEO_FINALIZER, {"tokens": tokens, "endpoints": endpoints}, video)
        if engine.merges:
            video[PATCH_BIAS] = np.zeros(tokens.shape[:-1], np.float32)
        token_ids = rng.integers(300, 4_000, (1, 6))
        query = engine.run(TEXT_ENCODER, {"token_ids": token_ids, "query_mask": mask})
        found = engine.run(GROUNDER, {**video, **query_inputs(query), "query_mask": mask})
    results |= found
    measured: dict[str, Any] = {
        **results,
        "frame_s": np.float64(statistics.median(times[warm:]) / at_once),
        "tolerance": np.float64(_tolerance(engine)),
    }
    engine.close()
    with Path(place).open("wb") as file:
        np.savez(file, **measured)


def _encode(
    engine: Engine, dims: ModelDims, frames: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """Encode frames as a session does: through the pipeline where there is one."""
    if not isinstance(engine, PipelinedEngine):
        return engine.run(VIDEO_ENCODER, {"frames": frames})
    shapes: dict[str, tuple[int, ...]] = {"tokens": (dims.layers, dims.patches, dims.token_width)}
    if dims.embedding_width is not None:
        shapes["embedding"] = (dims.embedding_width,)
    places = {name: np.empty((len(frames), *shape), np.float32) for name, shape in shapes.items()}
    engine.submit(frames, places)
    engine.finish()
    return places


def _tolerance(engine: Engine) -> float:
    """Return by how much an engine's outputs may differ from the CPU's; see `TOLERANCE`."""
    from r2rt.engines.tensorrt.engine import TensorRTEngine

    if isinstance(engine, TensorRTEngine):
        return max(TOLERANCE, RMS_TOLERANCES[engine.manifest.precision])
    return TOLERANCE


if __name__ == "__main__":
    _work(*msgspec.json.decode(sys.argv[1]))
