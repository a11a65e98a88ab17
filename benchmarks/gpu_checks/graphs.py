"""Every graph on every device against ONNX Runtime on the CPU, and its time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_checks.rows import attempt, put

if TYPE_CHECKING:
    from r2rt.engines import Device, Engine
    from r2rt.model.bundle import Bundle

__all__ = ["check_graphs", "make_bundle"]

_DEVICES: tuple[Device, ...] = ("cuda", "tensorrt", "rtx")
# Share of the largest number by which a device may be off. Engines compute in fp16.
_LIMITS: dict[Device, float] = {"cuda": 1e-3, "tensorrt": 2e-2, "rtx": 2e-2}
_RUNS, _BATCHES = 30, (1, 16, 64, 128)


def make_bundle(folder: str) -> None:
    """Export a model of the published sizes with random weights, unless it is there."""
    attempt("bundle with random weights", partial(_make, Path(folder)))


def _make(folder: Path) -> dict[str, str]:
    from benchmarks.harness import Options
    from benchmarks.workload import ModelChoice, prepare

    options = Options(quick=False, repeats=None, out=folder, media=folder, plot=False)
    choice = ModelChoice(bundle=None, int8=None, checkpoint=None, clip=None)
    return {"path": str(prepare(choice, options).bundle)}


def check_graphs(path: str) -> None:
    """Check and time a bundle's graphs.

    Args:
        path: of the bundle, or of the folder that `make_bundle` was given.
    """
    from r2rt.engines.choice import obstacles, open_engine
    from r2rt.errors import R2rtError
    from r2rt.model.bundle import Bundle

    folder = Path(path) / "model-full" / "bundle"
    bundle = Bundle.open(folder if folder.exists() else path)
    for way, obstacle in obstacles(bundle).items():
        put(way, "skipped" if obstacle else "ok", reason=obstacle or "usable")
    cpu, _ = open_engine(bundle, "cpu")
    inputs = dict(_inputs(bundle, cpu))
    expected = {graph: cpu.run(graph, given) for graph, given in inputs.items()}
    for device in _DEVICES:
        try:
            engine, _ = open_engine(bundle, device)
        except R2rtError as error:
            put(f"graphs on {device}", "skipped", reason=str(error))
            continue
        for graph, given in inputs.items():
            work = partial(_check, engine, graph, given, expected[graph], _LIMITS[device])
            attempt(f"{graph} on {device}", work)
        _time_batches(engine, device, bundle.dims.image_size)
        engine.close()


def _check(
    engine: Engine,
    graph: str,
    inputs: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    limit: float,
) -> dict[str, float]:
    from r2rt.model.contract import PATCH_BIAS

    # Engines are built for patches that are not merged, and take no bias of them.
    inputs = {name: x for name, x in inputs.items() if name != PATCH_BIAS or engine.merges}
    ms = _median_ms(engine, graph, inputs)
    worst = 0.0
    # Only now, when engines replay what they captured in their second run.
    for name, got in engine.run(graph, inputs).items():
        largest = max(float(np.abs(expected[name]).max()), 1e-6)
        error = float(np.abs(got - expected[name]).max()) / largest
        assert error <= limit, f"{name} is off by {error:.2g} of its largest number"
        worst = max(worst, error)
    return {"error": worst, "ms": ms}


def _time_batches(engine: Engine, device: Device, size: int) -> None:
    from r2rt.model.contract import VIDEO_ENCODER

    # An engine of TensorRT's own takes no more frames than it was built for.
    manifest = getattr(engine, "manifest", None)
    most = manifest.plans[VIDEO_ENCODER].ranges["B"].most if manifest else max(_BATCHES)
    for batch in _BATCHES:
        name = f"video_encoder on {device}, {batch} frames"
        if batch > most:
            put(name, "skipped", reason=f"the engine was built for at most {most}")
        else:
            attempt(name, partial(_time_frames, engine, size, batch))


def _time_frames(engine: Engine, size: int, batch: int) -> dict[str, float]:
    from r2rt.model.contract import VIDEO_ENCODER

    frames = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    ms = _median_ms(engine, VIDEO_ENCODER, {"frames": frames})
    return {"ms": ms, "frames_per_s": round(1e3 * batch / ms, 1)}


def _median_ms(engine: Engine, graph: str, inputs: Mapping[str, NDArray[Any]]) -> float:
    """Return milliseconds from the host's arrays to the host's arrays."""
    import time

    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        engine.run(graph, inputs)
        times.append(time.perf_counter() - began)
    return round(1e3 * sorted(times)[_RUNS // 2], 3)


def _inputs(bundle: Bundle, cpu: Engine) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield inputs like those of a session: the outputs of one graph go into the next."""
    from r2rt.model.contract import (
        GROUNDER,
        PATCH_BIAS,
        TEXT_ENCODER,
        VIDEO_ENCODER,
        VIDEO_FINALIZER,
    )

    dims, random, clips, length = bundle.dims, np.random.default_rng(0), 75, 12
    size = dims.image_size
    frames = random.integers(0, 256, (16, size, size, 3), np.uint8)
    yield VIDEO_ENCODER, {"frames": frames}
    tokens = cpu.run(VIDEO_ENCODER, {"frames": frames})["tokens"]
    v = tokens = np.resize(tokens, (clips, *tokens.shape[1:]))
    if dims.use_tef:
        index = np.arange(clips + 1, dtype=np.float32) / clips
        endpoints = np.stack([index[:-1], index[1:]], axis=1)
        finalizer: dict[str, NDArray[Any]] = {"tokens": tokens, "endpoints": endpoints}
        yield VIDEO_FINALIZER, finalizer
        v = cpu.run(VIDEO_FINALIZER, finalizer)["v"]
    texts: dict[str, NDArray[Any]] = {
        "token_ids": random.integers(300, 40_000, (1, length)),
        "query_mask": np.ones((1, length), np.float32),
    }
    yield TEXT_ENCODER, texts
    given = {"v": v, **cpu.run(TEXT_ENCODER, texts), "query_mask": texts["query_mask"]}
    given[PATCH_BIAS] = np.zeros(v.shape[:-1], np.float32)
    yield GROUNDER, {tensor.name: given[tensor.name] for tensor in bundle.graphs[GROUNDER].inputs}
