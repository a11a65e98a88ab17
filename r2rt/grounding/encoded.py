"""A video as the model sees it: encoded once, kept, asked many times."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import EncodedVideoError, QueryError, SourceNotFoundError
from r2rt.files import as_text, replacing
from r2rt.grounding.growing_array import forget, read_mapped
from r2rt.video import Sampling

__all__ = ["EncodedVideo", "is_encoded_video"]

_SCHEMA = 1
_KEY = "r2rt_encoded_video"
_TENSOR = "tokens"
_FLOAT32 = "F32"
# Clips written at once: bounds what is in memory of tokens that are not.
_CLIPS_AT_ONCE = 64
# A safetensors file begins with the length of its header; ours have short ones.
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedVideo:
    """The tokens of a video's clips, and what made them.

    Attributes:
        tokens: (T, K, P, C) float32; see `r2rt.model.contract`.
        model: name of the bundle that encoded it.
        model_fingerprint: `Bundle.fingerprint` of that bundle; another model refuses the tokens.
        source: name of the source as it was given.
        source_fingerprint: content key of the source.
        duration_s: length of the part that was read, in seconds.
        start_s: where that part starts on the source's clock, in seconds.
        fps: clips a second.
        sampling: how frames were chosen.
        packets_lost: packets of the file that could not be decoded.
        encode_s: wall-clock seconds that decoding and encoding took.
    """

    tokens: NDArray[np.float32] = field(repr=False)
    model: str
    model_fingerprint: str
    source: str
    source_fingerprint: str
    duration_s: float
    start_s: float
    fps: Fraction
    sampling: Sampling
    packets_lost: int
    encode_s: float

    @property
    def num_clips(self) -> int:
        """Clips T."""
        return int(self.tokens.shape[0])

    @property
    def clip_starts_s(self) -> NDArray[np.float64]:
        """(T,) where each clip starts on the source's clock, in seconds."""
        return self.start_s + np.arange(self.num_clips) / float(self.fps)

    def part(self, start_clip: int, end_clip: int) -> EncodedVideo:
        """Return the clips from `start_clip` up to `end_clip` as a video of their own.

        It is what encoding that cut of the source alone would give: its clips keep their times on
        the source's clock. The tokens are a view, nothing is copied.

        Raises:
            QueryError: the part is empty or reaches outside the video.
        """
        if not 0 <= start_clip < end_clip <= self.num_clips:
            raise QueryError(
                f"clips {start_clip} to {end_clip}: not a part of {self.num_clips} clips"
            )
        start_s = float(start_clip / self.fps)
        # A video's last clip may be longer or shorter than the others.
        end_s = self.duration_s if end_clip == self.num_clips else float(end_clip / self.fps)
        return dataclasses.replace(
            self,
            tokens=self.tokens[start_clip:end_clip],
            start_s=self.start_s + start_s,
            duration_s=end_s - start_s,
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        record = _Record(
            schema=_SCHEMA,
            model=self.model,
            model_fingerprint=self.model_fingerprint,
            source=as_text(self.source),
            source_fingerprint=self.source_fingerprint,
            duration_s=self.duration_s,
            start_s=self.start_s,
            fps=str(self.fps),
            sampling=self.sampling,
            packets_lost=self.packets_lost,
            encode_s=self.encode_s,
        )
        header = _header(self.tokens, {_KEY: msgspec.json.encode(record).decode()})
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            # Not by the library, which copies all tokens first.
            file.write(len(header).to_bytes(8, "little") + header)
            for start in range(0, self.num_clips, _CLIPS_AT_ONCE):
                part = np.ascontiguousarray(self.tokens[start : start + _CLIPS_AT_ONCE])
                file.write(part.data)
                forget(part)

    @classmethod
    def load(cls, path: str | Path) -> EncodedVideo:
        """Open what `save` wrote; tokens are read from the file when they are used.

        Raises:
            SourceNotFoundError: there is no such file.
            EncodedVideoError: the file is damaged, or no encoded video, or of another schema.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise SourceNotFoundError(f"{path}: no such file")
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if _KEY not in metadata or list(file.keys()) != [_TENSOR]:
                    raise EncodedVideoError(f"{path}: not an encoded video; encode the video again")
                found = file.get_slice(_TENSOR)
                dtype, shape = str(found.get_dtype()), tuple(found.get_shape())
            record = _read_record(metadata[_KEY], path)
            fps = Fraction(record.fps)
            if len(shape) != 4 or dtype != _FLOAT32 or not math.prod(shape) or fps <= 0:
                raise EncodedVideoError(
                    f"{path}: tokens are {dtype} {shape} at {fps} fps, "
                    f"expected {_FLOAT32} (T, K, P, C); encode the video again"
                )
            with Path(path).open("rb") as file:
                tokens = read_mapped(Path(path), shape, 8 + _header_bytes(file))
        except (SafetensorError, OSError, ValueError, ZeroDivisionError, TypeError) as error:
            if isinstance(error, EncodedVideoError):
                raise
            raise EncodedVideoError(f"{path}: damaged ({error}); encode the video again") from error
        values = msgspec.structs.asdict(record) | {"fps": fps, "tokens": tokens}
        del values["schema"]
        return cls(**values)


def is_encoded_video(path: str | Path) -> bool:
    """Return whether the file begins as one that `EncodedVideo.save` wrote, by content alone."""
    try:
        with Path(path).open("rb") as file:
            length = _header_bytes(file)
            if not 2 <= length <= _MAX_HEADER_BYTES:
                return False
            return _KEY.encode() in file.read(length)
    except OSError:
        return False


def _header(tokens: NDArray[np.float32], metadata: dict[str, str]) -> bytes:
    """Return the header of a safetensors file of one tensor, as the library would write it."""
    entry = {"dtype": _FLOAT32, "shape": tokens.shape, "data_offsets": (0, 4 * tokens.size)}
    text = msgspec.json.encode({"__metadata__": metadata, _TENSOR: entry})
    return text + b" " * (-len(text) % 8)  # what follows is aligned


def _header_bytes(file: IO[bytes]) -> int:
    return int.from_bytes(file.read(8), "little")


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    model: str
    model_fingerprint: str
    source: str
    source_fingerprint: str
    duration_s: float
    start_s: float
    fps: str
    sampling: Sampling
    packets_lost: int
    encode_s: float


def _read_record(text: str, path: str | Path) -> _Record:
    record = msgspec.json.decode(text, type=_Record)
    if record.schema != _SCHEMA:
        raise EncodedVideoError(
            f"{path}: schema {record.schema}, this r2rt reads {_SCHEMA}; encode the video again"
        )
    return record
