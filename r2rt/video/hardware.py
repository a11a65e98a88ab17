"""Hardware decoders: which of them this machine has, and whether one is faster than the CPU.

`auto` measures where there is a device, once for every kind of video: the CPU and each decoder
decode the beginning of the file, in a process of their own, because a driver that crashes ends its
process. A decoder is refused if it fails, falls back to the CPU, or gives other pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.cache.folder import cache_dir
from r2rt.errors import BackendUnavailableError, QueryError
from r2rt.files import replacing
from r2rt.video.decoders import DECODERS, Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.video.frame import VideoFrame

    from r2rt.video.demux import Demuxer

__all__ = ["choose_decoder", "decoder_problem"]

_HARDWARE = DECODERS[2:]
# Frames that are decoded, and their size; a mean difference of more levels than this is an error.
_FRAMES, _SIZE, _LARGEST_DIFFERENCE = 64, 64, 1.0
_LIMIT_S = 60.0
# What a copy to the host costs at other times may be more.
_LEAST_GAIN = 1.1
_log = logging.getLogger(__name__)


def decoder_problem(name: Decoder) -> str | None:
    """Return why a hardware decoder cannot be used on this machine; None if it may be."""
    import av
    from av.codec.hwaccel import hwdevices_available

    from r2rt.video import container

    if name not in (built := hwdevices_available()):
        return f"this PyAV has no {name} (it has {', '.join(built) or 'none'})"
    if not _has_device(name):
        return "this machine has no such device"
    if container.LOSES_HARDWARE_COLOURS:
        return f"PyAV {av.__version__} loses the colours of its frames; install PyAV 18 or newer"
    return None


def choose_decoder(
    decoder: Decoder, path: Path, *, video_track: int | None = None, threads: int | None = None
) -> Decoder:
    """Return the decoder for a file: the one that was asked for, or for `auto` the fastest.

    Raises:
        BackendUnavailableError: the one that was asked for cannot be used on this machine.
        QueryError: there is none of that name.
    """
    if decoder not in DECODERS:
        raise QueryError(f"no decoder {decoder!r}; expected one of {', '.join(DECODERS)}")
    if decoder == "cpu":
        return decoder
    if decoder != "auto":
        if (problem := decoder_problem(decoder)) is not None:
            raise BackendUnavailableError(
                f"decoder {decoder} cannot be used: {problem}; --decoder auto takes a usable one"
            )
        return decoder
    usable = [name for name in _HARDWARE if decoder_problem(name) is None]
    if not usable:
        return "cpu"
    times = _times(usable, path, video_track, threads)
    best = min(times, key=times.__getitem__, default="cpu")
    if "cpu" not in times or times["cpu"] < _LEAST_GAIN * times[best]:
        best = "cpu"
    shown = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in times.items())
    _log.info("decoding by %s: a frame takes %s", best, shown)
    return best  # type: ignore[return-value]


def _has_device(name: str) -> bool:
    if name == "videotoolbox":
        return sys.platform == "darwin"
    if name == "d3d11va":
        return sys.platform == "win32"
    if name == "cuda":
        if sys.platform == "win32":
            return (Path(os.environ.get("SYSTEMROOT", "")) / "System32" / "nvcuda.dll").exists()
        return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
    return sys.platform == "win32" or any(Path("/dev/dri").glob("renderD*"))


def _times(
    names: list[Decoder], path: Path, video_track: int | None, threads: int | None
) -> dict[str, float]:
    """Return seconds a frame of the CPU and of the decoders that are right; they are remembered."""
    record = cache_dir() / "decoders" / f"{_key(names, path, video_track, threads)}.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(record.read_bytes(), type=dict[str, float])
    times: dict[str, float] = {}
    want: NDArray[np.uint8] | None = None
    with tempfile.TemporaryDirectory(prefix="r2rt-") as folder:
        for name in ("cpu", *names):
            place = Path(folder) / f"{name}.npz"
            job = json.dumps([str(path), name, video_track, threads, str(place)])
            # -P: nothing is imported from the folder in which the command happens to run.
            command = [sys.executable, "-P", "-m", "r2rt.video.hardware", job]
            with contextlib.suppress(subprocess.TimeoutExpired, OSError, ValueError):
                subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
                with np.load(place, allow_pickle=False) as found:
                    pixels, seconds = found["pixels"], float(found["seconds"])
                want = pixels if want is None else want
                if pixels.shape == want.shape and _difference(pixels, want) <= _LARGEST_DIFFERENCE:
                    times[name] = seconds
                    continue
            _log.info("%s does not decode %s rightly", name, path)
            if name == "cpu":
                return {}
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        with replacing(record) as temporary:
            temporary.write_bytes(msgspec.json.encode(times))
    return times


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def _key(names: list[Decoder], path: Path, video_track: int | None, threads: int | None) -> str:
    """Return a name for the kind of video on this machine."""
    import av

    from r2rt.video.demux import Demuxer

    demuxer = Demuxer(path, video_track=video_track)
    try:
        context = demuxer.stream.codec_context
        colours = (context.colorspace, context.color_range)
        size = (context.width, context.height)
        video = (context.codec.canonical_name, context.pix_fmt, *size, *colours)
    finally:
        demuxer.close()
    parts = (video, names, threads, av.__version__, platform.platform(), platform.node())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _work(path: str, name: Decoder, video_track: int | None, threads: int | None, to: str) -> None:
    """Decode the beginning of a file; write the pixels and the time a frame."""
    from r2rt.video.demux import Demuxer
    from r2rt.video.pixels import FramePreparer, Orientation

    prepare = FramePreparer(_SIZE)
    demuxer = Demuxer(Path(path), threads=threads, decoder=name, video_track=video_track)
    pixels: list[NDArray[np.uint8]] = []
    began = time.perf_counter()
    for frame in _frames(demuxer):
        if not pixels:  # what a driver and threads take to start is not a frame's
            began = time.perf_counter()
        # As stored: a frame from a device may not say how it is turned, and is not asked.
        pixels.append(prepare(frame, turn=Orientation()))
        if len(pixels) == _FRAMES:
            break
    seconds = (time.perf_counter() - began) / max(1, len(pixels) - 1)
    if demuxer.decoder == name:
        with Path(to).open("wb") as file:
            np.savez(file, allow_pickle=False, pixels=np.array(pixels), seconds=seconds)
    demuxer.close()


def _frames(demuxer: Demuxer) -> Iterator[VideoFrame]:
    for packet in demuxer.packets():
        yield from demuxer.decode(packet)
    yield from demuxer.decode(None)


if __name__ == "__main__":
    _work(*json.loads(sys.argv[1]))
