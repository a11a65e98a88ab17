"""A video as the model sees it: encoded once, kept, asked many times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import EncodedVideoError, QueryError, SourceNotFoundError
from r2rt.files import as_text, replacing
from r2rt.grounding.growing_array import forget, read_mapped
from r2rt.model.contract import parse_clip_rate
from r2rt.video import Departures, Sampling

__all__ = ["EncodedVideo", "is_encoded_video"]

# Schema 1 had no checksum, 2 no embeddings; files of 2 and 3 are read.
_SCHEMA, _OLDEST_SCHEMA = 3, 2
_KEY = "r2rt_encoded_video"
_TOKENS, _EMBEDDINGS = "tokens", "embeddings"
_FLOAT32 = "F32"
_AGAIN = "encode the video again with `r2rt encode`"
# Clips written at once: bounds what is in memory of tokens that are not.
_CLIPS_AT_ONCE = 64
# A safetensors file begins with the length of its header; ours have short ones.
_MAX_HEADER_BYTES = 1 << 20
# The record has this in place of the checksum while the checksum is computed.
_NO_CHECKSUM = "0" * 32
_HASHED_AT_ONCE_BYTES = 1 << 20
# 30,000 years: start times may be dates.
_MAX_TIME_S = 1e12
# By how many clips a duration may differ from the number of clips: the last one is not whole.
_SLACK_CLIPS = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedVideo:
    """The tokens of a video's clips, and what made them.

    Attributes:
        tokens: (T, K, P, C) float32; see `r2rt.model.contract`.
        model: name of the bundle that encoded it.
        model_fingerprint: `Bundle.fingerprint` of that bundle; another model refuses the tokens.
        source: name of the source as it was given.
        duration_s: length of the part that was read, in seconds.
        start_s: where that part starts on the source's clock, in seconds.
        fps: clips a second.
        sampling: how frames were chosen.
        departures: how reading the frames departed from exact.
        encode_s: wall-clock seconds that decoding and encoding took.
        embeddings: (T, E) float32, CLIP's embedding of each clip's frame, not normalised; None if
            the model gives none, or the file was written by an older r2rt.
    """

    tokens: NDArray[np.float32] = field(repr=False)
    model: str
    model_fingerprint: str
    source: str
    duration_s: float
    start_s: float
    fps: Fraction
    sampling: Sampling
    departures: Departures
    encode_s: float
    embeddings: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def num_clips(self) -> int:
        """Clips T."""
        return int(self.tokens.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens and embeddings."""
        more = 0 if self.embeddings is None else self.embeddings.nbytes
        return self.tokens.nbytes + more

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
            embeddings=None if self.embeddings is None else self.embeddings[start_clip:end_clip],
            start_s=self.start_s + start_s,
            duration_s=end_s - start_s,
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        with replacing(Path(path)) as temporary:
            self.write(temporary)

    def write(self, path: Path) -> None:
        """Write the file of `save` where half a file does no harm; raise `OSError` if it fails."""
        record = _Record(
            schema=_SCHEMA,
            model=self.model,
            model_fingerprint=self.model_fingerprint,
            source=as_text(self.source),
            duration_s=self.duration_s,
            start_s=self.start_s,
            fps=str(self.fps),
            sampling=self.sampling,
            departures=self.departures,
            encode_s=self.encode_s,
            xxh3_128=_NO_CHECKSUM,
        )
        tensors = {_TOKENS: self.tokens}
        if self.embeddings is not None:
            tensors[_EMBEDDINGS] = self.embeddings
        header = _header(tensors, {_KEY: msgspec.json.encode(record).decode()})
        with path.open("wb") as file:
            # Not by the library, which copies all tokens first.
            file.write(len(header).to_bytes(8, "little") + header)
            for tensor in tensors.values():
                for start in range(0, self.num_clips, _CLIPS_AT_ONCE):
                    part = np.ascontiguousarray(tensor[start : start + _CLIPS_AT_ONCE])
                    file.write(part.data)
                    forget(part)
            file.flush()
            digest = _checksum(path, header)
            file.seek(8)
            file.write(header.replace(_NO_CHECKSUM.encode(), digest.encode(), 1))

    @classmethod
    def load(cls, path: str | Path) -> EncodedVideo:
        """Check what `save` wrote and open it; tokens are read again when they are used.

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
                names = set(file.keys())
                if _KEY not in metadata or not {_TOKENS} <= names <= {_TOKENS, _EMBEDDINGS}:
                    raise EncodedVideoError(f"{path}: not an encoded video; {_AGAIN}")
                shapes = {name: _shape(file.get_slice(name), name, path) for name in names}
            record = _read_record(metadata[_KEY], shapes[_TOKENS][0], path)
            header = _check_checksum(Path(path), record.xxh3_128)
            tensors = _read_tensors(Path(path), header, shapes)
        except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
            if isinstance(error, EncodedVideoError):
                raise
            raise EncodedVideoError(f"{path}: damaged ({error}); {_AGAIN}") from error
        values = msgspec.structs.asdict(record)
        del values["schema"], values["xxh3_128"]
        return cls(**(values | {"fps": parse_clip_rate(record.fps)} | tensors))


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


def _header(tensors: Mapping[str, NDArray[np.float32]], metadata: dict[str, str]) -> bytes:
    """Return the header of a safetensors file of tensors that follow one another."""
    content: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.size
        content[name] = {"dtype": _FLOAT32, "shape": tensor.shape, "data_offsets": (start, end)}
    text = msgspec.json.encode(content)
    return text + b" " * (-len(text) % 8)  # what follows is aligned


def _shape(found: Any, name: str, path: str | Path) -> tuple[int, ...]:
    """Return the shape of a tensor in a file; raise `EncodedVideoError` if it cannot be."""
    dtype, shape = str(found.get_dtype()), tuple(found.get_shape())
    wanted = "(T, K, P, C)" if name == _TOKENS else "(T, E)"
    if len(shape) != (4 if name == _TOKENS else 2) or dtype != _FLOAT32 or not math.prod(shape):
        raise EncodedVideoError(
            f"{path}: {name} are {dtype} {shape}, expected {_FLOAT32} {wanted}; {_AGAIN}"
        )
    return shape


def _read_tensors(
    path: Path, header: bytes, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """Map the tensors of a file whose header was read; `ValueError` if their sizes differ."""
    clips = {shape[0] for shape in shapes.values()}
    if len(clips) > 1:
        raise ValueError(f"tensors of {clips} clips")
    content = msgspec.json.decode(header)
    return {
        name: read_mapped(path, shape, 8 + len(header) + content[name]["data_offsets"][0])
        for name, shape in shapes.items()
    }


def _header_bytes(file: IO[bytes]) -> int:
    return int.from_bytes(file.read(8), "little")


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    model: str
    model_fingerprint: str
    source: str
    duration_s: float
    start_s: float
    fps: str
    sampling: Sampling
    departures: Departures
    encode_s: float
    xxh3_128: str


class _Version(msgspec.Struct):
    schema: int


def _read_record(text: str, clips: int, path: str | Path) -> _Record:
    """Return the record of a file of so many clips; its values are possible ones."""
    schema = msgspec.json.decode(text, type=_Version).schema
    if not _OLDEST_SCHEMA <= schema <= _SCHEMA:
        raise EncodedVideoError(
            f"{path}: schema {schema}, this r2rt reads {_OLDEST_SCHEMA} to {_SCHEMA}; {_AGAIN}"
        )
    record = msgspec.json.decode(text, type=_Record)
    fps = float(parse_clip_rate(record.fps))
    if record.duration_s <= 0 or abs(record.duration_s * fps - clips) > _SLACK_CLIPS:
        raise ValueError(f"{clips} clips at {record.fps} fps cannot last {record.duration_s:g} s")
    if abs(record.start_s) > _MAX_TIME_S:
        raise ValueError(f"cannot start at {record.start_s:g} s")
    departures = record.departures.as_dict().values()
    counts = [item for item in departures if not isinstance(item, str)]
    if not all(0 <= count < 1 << 53 for count in counts) or record.encode_s < 0:
        raise ValueError("impossible counts")
    return record


def _check_checksum(path: Path, want: str) -> bytes:
    """Compare a file with its record's checksum and return the header; `ValueError` if it differs.

    The checksum finds damage, not malice: whoever changes tokens can compute it again.
    """
    with path.open("rb") as file:
        header = file.read(_header_bytes(file))
    if _checksum(path, header.replace(want.encode(), _NO_CHECKSUM.encode(), 1)) != want:
        raise ValueError("its checksum is of other content")
    return header


def _checksum(path: Path, header: bytes) -> str:
    """Return the xxh3_128 of a header and of what follows the header in a file.

    The file is read rather than mapped, so that it takes no memory afterwards.
    """
    import xxhash

    digest = xxhash.xxh3_128(header)
    with path.open("rb", buffering=0) as file:
        file.seek(8 + len(header))
        while block := file.read(_HASHED_AT_ONCE_BYTES):
            digest.update(block)
    return digest.hexdigest()
