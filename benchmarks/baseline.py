"""The yardstick: what the authors' single-video script does, without any of our identities.

    python benchmarks/baseline.py VIDEO QUERY... --bundle B --checkpoint C --clip W

It decodes every sampled frame at full size (decord, or PyAV where that is not installed), resizes,
crops and normalises with PyTorch, runs CLIP in eager fp32 and the whole R² model once a query. The
last line of stdout is JSON, with the seconds of import, load and compute apart.

The script takes the frame at n / fps, one second before ours. `--frames ours` takes the same frames
as ours, at the same cost; `--pixels ours` also resizes as ours does, straight from the decoder's
pixel format, which is less work and makes the outputs comparable to the last digits.
"""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import json
import sys
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import av
import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.process import serve
from benchmarks.workload import load_towers
from r2rt.grounding.moments import postprocess
from r2rt.grounding.tokenizer import Tokenizer
from r2rt.model.bundle import Bundle
from r2rt.model.manifest import read_manifest
from r2rt.video import ClipClock, ClipSelector, prepare_frame
from training.checkpoint import load_checkpoint
from training.model import R2Config, R2Tuning, decode_boundaries

__all__ = ["Baseline", "Frames", "Pixels"]

_IMPORT_S = time.perf_counter() - _BEGAN

Frames = Literal["script", "ours"]
Pixels = Literal["torch", "ours"]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says to one query; see `r2rt.Prediction` for its members."""

    boundaries: NDArray[np.float64]
    moments: NDArray[np.float64]
    saliency: NDArray[np.float32]


class Baseline:
    """The plain pipeline. What it keeps between calls is kept on request alone."""

    def __init__(self, bundle: Path, checkpoint: Path, clip: Path) -> None:
        began = time.perf_counter()
        # The bundle gives the clip rate and the tokenizer; none of its graphs is used.
        self._bundle = Bundle(bundle, read_manifest(bundle))
        dims = self._bundle.dims
        weights = load_checkpoint(checkpoint).state_dict
        manifest = self._bundle.manifest
        config = R2Config.from_state_dict(
            weights,
            heads=manifest.heads,
            use_tef=dims.use_tef,
            merge_cls_sal=manifest.merge_cls_sal,
            read_layers=dims.read_layers,
        )
        self._model = R2Tuning(config).eval()
        self._model.load_state_dict(weights)
        self._towers = load_towers(clip)
        self._tokenizer = Tokenizer.of(self._bundle)
        self._hidden: dict[str, tuple[Tensor, float]] = {}
        self._pictures: dict[str, Tensor] = {}
        self.load_s = time.perf_counter() - began

    @torch.inference_mode()
    def ground(
        self, video: str, queries: list[str], *, frames: Frames = "script", pixels: Pixels = "torch"
    ) -> dict[str, Any]:
        """Do everything, once; return the seconds of the stages and the answers."""
        began = time.perf_counter()
        images, duration_s = self._decode(video, frames, pixels)
        decoded = time.perf_counter()
        hidden = self._encode(images)
        encoded = time.perf_counter()
        answers = [self._ask(hidden, query, duration_s) for query in queries]
        ended = time.perf_counter()
        return {
            "seconds": ended - began,
            "decode_s": decoded - began,
            "encode_s": encoded - decoded,
            "ground_s": ended - encoded,
            "clips": len(images),
            "answers": [_plain(answer) for answer in answers],
        }

    @torch.inference_mode()
    def decode(self, video: str, *, frames: Frames = "ours") -> dict[str, Any]:
        """Decode, resize and normalise alone."""
        began = time.perf_counter()
        images, _ = self._decode(video, frames, "torch")
        return {"seconds": time.perf_counter() - began, "clips": len(images)}

    @torch.inference_mode()
    def encode(self, video: str) -> dict[str, Any]:
        """Run CLIP alone on images that are kept from the first call."""
        if video not in self._pictures:
            self._pictures = {video: self._decode(video, "ours", "torch")[0]}
        began = time.perf_counter()
        self._encode(self._pictures[video])
        return {"seconds": time.perf_counter() - began}

    @torch.inference_mode()
    def query(self, video: str, queries: list[str]) -> dict[str, Any]:
        """Ask about features that are kept from the first call."""
        if video not in self._hidden:
            images, duration_s = self._decode(video, "ours", "ours")
            self._hidden = {video: (self._encode(images), duration_s)}
        hidden, duration_s = self._hidden[video]
        began = time.perf_counter()
        text_s = 0.0
        answers = []
        for query in queries:
            asked = time.perf_counter()
            states = self._text(query)
            text_s += time.perf_counter() - asked
            answers.append(self._ground(hidden, states, duration_s))
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "text_s": text_s,
            "ground_s": seconds - text_s,
            "answers": [_plain(answer) for answer in answers],
        }

    def images(self, video: str, *, frames: Frames, pixels: Pixels, path: str) -> dict[str, Any]:
        """Write what enters CLIP, before normalisation, as an array (T, S, S, 3) uint8."""
        images, _ = self._decode(video, frames, pixels)
        if images.dtype != torch.uint8:
            vision = self._towers.vision
            images = (images * vision.std + vision.mean).round().clamp(0, 255).to(torch.uint8)
        np.save(path, images.numpy())
        return {}

    def _decode(self, video: str, frames: Frames, pixels: Pixels) -> tuple[Tensor, float]:
        """Return images (T, S, S, 3), normalised unless decoded by r2rt, and the video's length."""
        fps, size = self._bundle.fps, self._bundle.dims.image_size
        if pixels == "ours":
            prepare = partial(prepare_frame, image_size=size)
            small, duration_s = _read_pyav(video, fps, frames, prepare)
            return torch.from_numpy(np.stack(small)), duration_s
        try:
            import decord  # noqa: F401
        except ImportError:
            whole, duration_s = _read_pyav(video, fps, frames, _full_size)
            batch = np.stack(whole)
        else:
            batch, duration_s = _read_decord(video, fps, frames)
        return self._resize(torch.from_numpy(batch)), duration_s

    def _resize(self, batch: Tensor) -> Tensor:
        vision = self._towers.vision
        size = vision.image_size
        x = batch.permute(0, 3, 1, 2).float()  # (T, 3, H, W)
        height, width = x.shape[-2:]
        scaled = (
            (size, round(size * width / height))
            if width >= height
            else (round(size * height / width), size)
        )
        x = F.interpolate(x, scaled, mode="bicubic", antialias=True).clamp(0, 255)
        top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        x = x[..., top : top + size, left : left + size].permute(0, 2, 3, 1)
        return (x - vision.mean) / vision.std

    def _encode(self, images: Tensor) -> Tensor:
        return self._towers.encode_video(images, self._model.config.read)  # (T, K, P, Cv)

    def _text(self, query: str) -> Tensor:
        """Return (L, K, Ct); the tower runs on all positions, as the script has it."""
        ids = self._tokenizer.encode(query).ids
        padded = np.zeros((1, self._bundle.dims.context_length), np.int64)
        padded[0, : len(ids)] = ids
        states = self._towers.encode_text(torch.from_numpy(padded), self._model.config.read)
        return states[0, :, : len(ids)].transpose(0, 1)

    def _ask(self, hidden: Tensor, query: str, duration_s: float) -> Answer:
        return self._ground(hidden, self._text(query), duration_s)

    def _ground(self, hidden: Tensor, text: Tensor, duration_s: float) -> Answer:
        manifest = self._bundle.manifest
        output = self._model(hidden[None], text[None])
        boundaries = np.empty((0, 3))
        if output.offsets is not None:
            found = decode_boundaries(
                output, fps=float(self._bundle.fps), limit=manifest.max_moments
            )
            boundaries = found[0].numpy().astype(np.float64)
        moments = postprocess(
            boundaries, duration_s=duration_s, unit_s=manifest.unit_s, nms=manifest.nms
        )
        return Answer(boundaries=boundaries, moments=moments, saliency=output.saliency[0].numpy())


def _read_decord(video: str, fps: Fraction, frames: Frames) -> tuple[Bytes, float]:
    """Return the sampled frames (T, H, W, 3) at full size, and the video's length."""
    import decord

    reader = decord.VideoReader(video)
    times = reader.get_frame_timestamp(range(len(reader)))  # (F, 2) start and end, in seconds
    duration_s = float(times[-1, 1] - times[0, 0])
    chosen = _choose(times[:, 0] - times[0, 0], duration_s, fps, frames)
    return reader.get_batch(chosen.tolist()).asnumpy(), duration_s


def _choose(
    times_s: NDArray[np.floating[Any]], duration_s: float, fps: Fraction, frames: Frames
) -> NDArray[np.int64]:
    """Return the number of each clip's frame."""
    clips = max(1, int(duration_s * float(fps) + 0.5))
    # Ours is the last frame before the middle of the clip; one that lies on it is the next clip's.
    before_s = 0.0 if frames == "script" else 0.5 / float(fps) - 1e-4
    # Times are floats, a little off their fractions.
    wanted = np.arange(clips) / float(fps) + before_s + 1e-6
    return np.maximum(np.searchsorted(times_s, wanted, side="right") - 1, 0)


def _read_pyav(
    video: str, fps: Fraction, frames: Frames, prepare: Any
) -> tuple[list[Bytes], float]:
    """Decode every frame; return the sampled ones as `prepare` makes them, and the length."""
    images: list[Bytes] = []
    with av.open(video) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        assert stream.time_base is not None
        origin = stream.start_time or 0
        # The script's frame is the last one not behind n / fps: ours, the clock being put forward
        # by half a clip, but for the one that lies on the boundary.
        half_clip = int(Fraction(1, 2) / fps / stream.time_base)
        ahead = half_clip - 1 if frames == "script" else 0
        clock = ClipClock(fps=fps, time_base=stream.time_base, origin_pts=origin)
        selector: ClipSelector[av.VideoFrame] = ClipSelector(clock)
        end = origin
        for frame in container.decode(stream):
            assert frame.pts is not None
            selection = selector.push(frame, frame.pts + ahead, frame.duration or 0)
            end = max(end, frame.pts + (frame.duration or 0))
            if selection is not None:
                images += [prepare(selection.frame)] * selection.count
        selection = selector.finish(end)
        if selection is not None:
            images += [prepare(selection.frame)] * selection.count
        duration_s = float((end - origin) * stream.time_base)
    return images[: clock.num_clips(end)], duration_s


def _full_size(frame: av.VideoFrame) -> Bytes:
    return cast("Bytes", frame.to_ndarray(format="rgb24"))


def _plain(answer: Answer) -> dict[str, Any]:
    return {
        "boundaries": answer.boundaries.tolist(),
        "moments": answer.moments.tolist(),
        "saliency": answer.saliency.tolist(),
    }


@click.command()
@click.argument("video", required=False)
@click.argument("query", nargs=-1)
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--clip", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--frames", type=click.Choice(["script", "ours"]), default="script")
@click.option("--pixels", type=click.Choice(["torch", "ours"]), default="torch")
@click.option("--serve", "serving", is_flag=True, help="Answer requests on stdin instead.")
def main(
    video: str | None,
    query: tuple[str, ...],
    bundle: Path,
    checkpoint: Path,
    clip: Path,
    frames: Frames,
    pixels: Pixels,
    serving: bool,
) -> None:
    """Ground each QUERY in VIDEO the plain way."""
    baseline = Baseline(bundle, checkpoint, clip)
    spent = {"import_s": _IMPORT_S, "load_s": baseline.load_s}
    if serving:
        operations = ("ground", "decode", "encode", "query", "images")
        serve(spent, {name: getattr(baseline, name) for name in operations})
        return
    if video is None or not query:
        raise click.UsageError("name a video and at least one query")
    print(json.dumps(spent | baseline.ground(video, list(query), frames=frames, pixels=pixels)))


if __name__ == "__main__":
    main()
