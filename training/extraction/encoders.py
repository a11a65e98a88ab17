"""What turns a video or a query into a file of features: CLIP in PyTorch, or a bundle's graphs.

Features do not depend on what else is extracted, in which order or by how many workers: queries are
encoded one at a time, and the frames of a video in batches of its own.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from r2rt.errors import NoFramesError, QueryError
from r2rt.files import replacing
from r2rt.grounding.grounder import Grounder
from r2rt.grounding.tokenizer import Tokenizer
from r2rt.model.bundle import Bundle
from r2rt.model.contract import TEXT_ENCODER
from r2rt.model.installed import resolve
from r2rt.video import Sampling, open_source
from training.clip import load_clip
from training.clip_config import ClipConfig, TextKind, VisionKind
from training.clip_tokenizer import tokenizer_json
from training.extraction.errors import ExtractionError
from training.extraction.store import FeatureManifest, save_npy

__all__ = ["Encoder", "Settings", "make_encoder", "make_manifest"]

_CLIP_VOCABULARY = 49_408
# Of OpenAI's vision towers, by their width.
_LETTERS = {768: "b", 1024: "l"}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What features are made with; workers are started from it.

    Attributes:
        format: see `FeatureManifest`.
        model: a bundle, for `tokens`; a CLIP as `training.clip.load_clip` names it, for `authors`.
        clip_arch: open_clip's name of the architecture of a file of CLIP weights.
        tokenizer: the tokenizer.json of a CLIP that has another than OpenAI's; None looks for it on
            disk, else fetches it.
        layers: CLIP layers K; a bundle has its own.
        fps: clips a second, as a fraction.
        sampling: see `r2rt.video`.
        batch: frames that CLIP takes at once.
        threads: processor threads of a worker.
        device: where PyTorch or the engine runs, `cpu` or `cuda`.
    """

    format: Literal["tokens", "authors"]
    model: str
    clip_arch: str | None = None
    tokenizer: str | None = None
    layers: int = 4
    fps: str = "1/2"
    sampling: Sampling = "exact"
    batch: int = 32
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"


class Encoder(Protocol):
    """Makes files of features."""

    def video(self, source: Path, name: str, fps: Fraction, destination: Path) -> None:
        """Encode a video and write its features, whole or not at all."""

    def query(self, text: str, destination: Path) -> None:
        """Encode a sentence and write its features, whole or not at all."""


def make_manifest(settings: Settings) -> FeatureManifest:
    """Return what a folder of features says about them.

    Raises:
        R2rtError: the model cannot be read.
    """
    if settings.format == "tokens":
        bundle = Bundle.open(resolve(settings.model))
        model, fingerprint, prefix = bundle.manifest.name, bundle.fingerprint, "tokens"
        layers = bundle.dims.layers
    else:
        config = load_clip(settings.model, arch=settings.clip_arch).config
        model, layers = f"{config.name} ({config.weights_source})", settings.layers
        fingerprint, prefix = _clip_fingerprint(config, settings.tokenizer), _clip_prefix(config)
    return FeatureManifest(
        format=settings.format,
        model=model,
        fingerprint=fingerprint,
        prefix=prefix,
        layers=layers,
        fps=settings.fps,
        sampling=settings.sampling,
    )


def make_encoder(settings: Settings) -> Encoder:
    """Load the model and return what encodes with it.

    Raises:
        R2rtError: the model cannot be loaded.
    """
    return _TokenEncoder(settings) if settings.format == "tokens" else _HiddenEncoder(settings)


class _HiddenEncoder:
    """Hidden states of CLIP's last K layers in fp16, as the R²-Tuning authors keep them."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._towers = load_clip(settings.model, arch=settings.clip_arch).to(settings.device)
        config = self._towers.config
        if config.text.tokenizer is None and config.vocab_size < _CLIP_VOCABULARY:
            raise ExtractionError(
                f"{settings.model}: a vocabulary of {config.vocab_size} tokens; expected CLIP's "
                f"{_CLIP_VOCABULARY}"
            )
        self._ids = _token_ids(config, settings.tokenizer)

    def video(self, source: Path, name: str, fps: Fraction, destination: Path) -> None:
        hidden = [self._frames(batch) for batch in self._batches(source, fps)]
        if not hidden:
            raise NoFramesError(f"{name}: not one frame could be decoded")
        save_npy(destination, np.concatenate(hidden))  # (T, K, P, Cv)

    def query(self, text: str, destination: Path) -> None:
        if not text.strip():
            raise QueryError("the query has no words; describe what to look for")
        ids = self._ids(text)[None]
        with torch.inference_mode():
            hidden = self._towers.encode_text(ids.to(self._settings.device), self._settings.layers)
        # (K, L, Ct) to (L, K, Ct)
        save_npy(destination, _half(hidden[0].transpose(0, 1), text))

    def _batches(self, source: Path, fps: Fraction) -> Iterator[NDArray[np.uint8]]:
        """Frames of consecutive clips, (B, S, S, 3)."""
        waiting: list[NDArray[np.uint8]] = []
        with open_source(
            source,
            fps=fps,
            image_size=self._towers.config.image_size,
            sampling=self._settings.sampling,
            threads=self._settings.threads,
        ) as frames:
            for frame in frames:
                for _ in range(frame.count):
                    waiting.append(frame.pixels)
                    if len(waiting) == self._settings.batch:
                        yield np.stack(waiting)
                        waiting.clear()
        if waiting:
            yield np.stack(waiting)

    def _frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        with torch.inference_mode():
            frames = torch.from_numpy(pixels).to(self._settings.device)
            return _half(self._towers.encode_video(frames, self._settings.layers), "frames")


class _TokenEncoder:
    """What a bundle's encoders put out: encoded videos as `r2rt encode` writes them, and queries.

    A video's file is what `EncodedVideo.load` reads; how long encoding took is left out of it, so
    that the same video makes the same file. A query's is a safetensors file of `q`, `q_key`
    (K, L, D) and `pooled` (D,), float32.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._grounder = Grounder.load(
            settings.model, device=settings.device, threads=settings.threads
        )
        bundle = self._grounder.bundle
        self._tokenizer = Tokenizer.of(bundle)

    def video(self, source: Path, name: str, fps: Fraction, destination: Path) -> None:
        bundle = self._grounder.bundle
        if fps != bundle.fps:
            raise ExtractionError(
                f"{name}: {fps} clips a second asked for, the bundle has {bundle.fps}; choose a "
                "bundle of that rate, or --format authors"
            )
        encoded = self._grounder.encode(str(source), sampling=self._settings.sampling)
        destination.parent.mkdir(parents=True, exist_ok=True)
        replace(encoded, source=name, encode_s=0.0).save(destination)

    def query(self, text: str, destination: Path) -> None:
        from safetensors.numpy import save

        ids, mask = self._tokenizer.encode_batch([text])
        out = self._grounder.engine.run(TEXT_ENCODER, {"token_ids": ids, "query_mask": mask})
        tensors = {
            name: np.ascontiguousarray(out[name][0], dtype=np.float32)
            for name in ("q", "q_key", "pooled")
        }
        fingerprint = self._grounder.bundle.fingerprint
        destination.parent.mkdir(parents=True, exist_ok=True)
        with replacing(destination) as temporary:
            temporary.write_bytes(save(tensors, metadata={"model_fingerprint": fingerprint}))


def _half(hidden: torch.Tensor, what: str) -> NDArray[np.float16]:
    half = hidden.to(torch.float16).cpu()
    if not half.isfinite().all():
        raise ExtractionError(f"{what[:40]!r}: hidden states do not fit fp16")
    array: NDArray[np.float16] = half.contiguous().numpy()
    return array


def _token_ids(config: ClipConfig, tokenizer: str | None) -> Callable[[str], torch.Tensor]:
    """Return what turns a sentence into its real tokens (L,), int64."""
    if config.text.tokenizer is None:
        from open_clip.tokenizer import SimpleTokenizer

        clip = SimpleTokenizer(context_length=config.context_length)

        def clip_ids(text: str) -> torch.Tensor:
            ids: torch.Tensor = clip([text])[0]
            return ids[: int((ids == clip.eot_token_id).nonzero()[0, 0]) + 1]

        return clip_ids
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(tokenizer_json(config, tokenizer), encoding="utf-8")
        other = Tokenizer.load(path, config.query_length, cleaning=config.text.cleaning)
    return lambda text: torch.from_numpy(other.encode(text).ids)


def _clip_fingerprint(config: ClipConfig, tokenizer: str | None) -> str:
    values = asdict(config)
    # Two files of the same weights make the same features.
    if config.weights_sha256 is not None:
        del values["weights_source"]
    # Features of plain CLIPs keep the fingerprint that they have always had.
    if config.vision == VisionKind() and config.text == TextKind():
        del values["vision"], values["text"]
    if config.text.tokenizer is not None:
        values["tokenizer"] = hashlib.sha256(tokenizer_json(config, tokenizer).encode()).hexdigest()
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()


def _clip_prefix(config: ClipConfig) -> str:
    """`clip_b32` for ViT-B/32, as the authors call it; sizes for others."""
    letter = _LETTERS.get(config.vision_width)
    size = f"{letter}{config.patch_size}" if letter else f"w{config.vision_width}"
    if not letter:
        size += f"_p{config.patch_size}"
    return f"clip_{size}" + ("" if config.image_size == 224 else f"_{config.image_size}px")
