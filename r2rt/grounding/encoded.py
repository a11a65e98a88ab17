"""A video as the model sees it: encoded once, kept, asked many times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from r2rt.errors import EncodedVideoError, QueryError, SourceNotFoundError
from r2rt.files import as_text, replacing
from r2rt.grounding.compact import CompactTokens
from r2rt.grounding.growing_array import forget, read_mapped
from r2rt.model.contract import parse_clip_rate
from r2rt.video import Departures, Sampling

if TYPE_CHECKING:
    from r2rt.model.contract import ModelDims

__all__ = ["EncodedVideo", "is_encoded_video"]

# Schema 1 had no checksum, 2 no embeddings; files of 2 and 3 are read. Optional parts of a record
# need no new schema.
_SCHEMA, _OLDEST_SCHEMA = 3, 2
_KEY = "r2rt_encoded_video"
_TOKENS, _EMBEDDINGS = "tokens", "embeddings"
# What safetensors calls the types of our tensors, and how many dimensions these have.
_DTYPES = {"float32": "F32", "float16": "F16", "uint16": "U16", "uint8": "U8"}
_TENSORS: dict[str, tuple[str, int]] = {
    _TOKENS: ("F32", 4),
    _EMBEDDINGS: ("F32", 2),
    "scales": ("F16", 4),
    "moments": ("F16", 4),
    "counts": ("U16", 3),
    "codes": ("U8", 4),
}
# Without temporal endpoint features, rows have no moments.
_COMPACT = {"scales", "counts", "codes"}
_FORMS = ({_TOKENS}, _COMPACT, _COMPACT | {"moments"})
_AGAIN = "encode the video again with `r2rt encode`"
# Clips written at once: bounds what is in memory of tokens that are not.
_CLIPS_AT_ONCE = 64
# Layers, patches and numbers of a token, far beyond every model.
_MAX_TOKEN_SIZE = 1 << 16
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
        tokens: (T, K, P, C) float32; see `r2rt.model.contract`. None of them, (0, K, P, C), where
            they are compact.
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
        compact: merged and rounded tokens in place of `tokens`; None where those are there.
        video_track: which video track was asked for, from 1; None if the default one was read.
        source_fingerprint: hex key of the source's content, see `r2rt.video.fingerprint`; None if
            it is not known, as in files of older versions.
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
    compact: CompactTokens | None = None
    video_track: int | None = None
    source_fingerprint: str | None = None

    @property
    def num_clips(self) -> int:
        """Clips T."""
        return len(self.tokens) if self.compact is None else len(self.compact)

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens and embeddings."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    @property
    def token_shape(self) -> tuple[int, int, int]:
        """(K, P, C) of a clip's tokens before any were merged."""
        layers, patches, channels = self.tokens.shape[1:]
        return layers, patches, channels

    def compacted(self, dims: ModelDims) -> EncodedVideo:
        """Return the same video with its tokens merged and rounded; see `r2rt.grounding.compact`.

        Args:
            dims: sizes of the model that encoded it.
        """
        if self.compact is not None:
            return self
        compact = CompactTokens.of(self.tokens, width=dims.width)
        return dataclasses.replace(self, tokens=self.tokens[:0].copy(), compact=compact)

    def full_tokens(self, start_clip: int, end_clip: int) -> NDArray[np.float32]:
        """Return tokens (T, K, P, C) of some clips; merged patches have the mean of theirs."""
        if self.compact is None:
            return self.tokens[start_clip:end_clip]
        return self.compact.part(start_clip, end_clip).repeated()

    @property
    def _tensors(self) -> dict[str, NDArray[Any]]:
        """What a file holds, by name, the widest types first, so that all are aligned."""
        found: dict[str, NDArray[Any]] = {} if self.compact is not None else {_TOKENS: self.tokens}
        if self.embeddings is not None:
            found[_EMBEDDINGS] = self.embeddings
        if self.compact is not None:
            found |= self.compact.arrays
        return {name: tensor for name, tensor in found.items() if tensor.size or name != "moments"}

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
            compact=None if self.compact is None else self.compact.part(start_clip, end_clip),
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
            token_shape=None if self.compact is None else self.token_shape,
            video_track=self.video_track,
            source_fingerprint=self.source_fingerprint,
            xxh3_128=_NO_CHECKSUM,
        )
        tensors = self._tensors
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
            file.write(_with_checksum(header, _NO_CHECKSUM, digest))

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
                if _KEY not in metadata or names - {_EMBEDDINGS} not in _FORMS:
                    raise EncodedVideoError(f"{path}: not an encoded video; {_AGAIN}")
                shapes = {name: _shape(file.get_slice(name), name, path) for name in names}
            clips = {shape[0] for shape in shapes.values()}
            if len(clips) != 1:
                raise ValueError(f"tensors of {clips} clips")
            record = _read_record(metadata[_KEY], clips.pop(), path)
            header = _check_checksum(Path(path), record.xxh3_128)
            tensors = _read_tensors(Path(path), header, shapes)
            embeddings = tensors.pop(_EMBEDDINGS, None)
            content: dict[str, Any] = dict(tensors)
            if _TOKENS not in tensors:
                content = _compact_tokens(tensors, record.token_shape)
        except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
            if isinstance(error, EncodedVideoError):
                raise
            raise EncodedVideoError(f"{path}: damaged ({error}); {_AGAIN}") from error
        values = msgspec.structs.asdict(record)
        del values["schema"], values["xxh3_128"], values["token_shape"]
        values |= {"fps": parse_clip_rate(record.fps), "embeddings": embeddings}
        return cls(**(values | content))


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


def _header(tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """Return the header of a safetensors file of tensors that follow one another."""
    content: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        dtype = _DTYPES[tensor.dtype.name]
        content[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": (start, end)}
    text = msgspec.json.encode(content)
    return text + b" " * (-len(text) % 8)  # what follows is aligned


def _shape(found: Any, name: str, path: str | Path) -> tuple[int, ...]:
    """Return the shape of a tensor in a file; raise `EncodedVideoError` if it cannot be."""
    dtype, shape = str(found.get_dtype()), tuple(found.get_shape())
    wanted, ndim = _TENSORS[name]
    if len(shape) != ndim or dtype != wanted or not math.prod(shape):
        raise EncodedVideoError(
            f"{path}: {name} are {dtype} {shape}, expected {wanted} of {ndim} dimensions; {_AGAIN}"
        )
    return shape


def _read_tensors(
    path: Path, header: bytes, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Map the tensors of a file whose header was read."""
    content = msgspec.json.decode(header)
    dtypes = {theirs: ours for ours, theirs in _DTYPES.items()}
    return {
        name: read_mapped(
            path,
            shape,
            8 + len(header) + content[name]["data_offsets"][0],
            np.dtype(dtypes[content[name]["dtype"]]),
        )
        for name, shape in shapes.items()
    }


def _compact_tokens(
    tensors: Mapping[str, NDArray[Any]], token_shape: tuple[int, int, int] | None
) -> dict[str, Any]:
    """Return `tokens` and `compact` of a file; `ValueError` if its tensors do not fit."""
    if token_shape is None or not all(0 < size <= _MAX_TOKEN_SIZE for size in token_shape):
        raise ValueError(f"tokens of shape {token_shape}")
    codes = tensors["codes"]
    moments = tensors.get("moments", np.zeros((*codes.shape[:-1], 0), np.float16))
    compact = CompactTokens(
        codes=codes,
        scales=tensors["scales"],
        moments=moments,
        counts=tensors["counts"],
        width=token_shape[2] - moments.shape[-1],
    )
    problem = compact.problem(token_shape)
    if problem:
        raise ValueError(problem)
    return {"tokens": np.empty((0, *token_shape), np.float32), "compact": compact}


def _header_bytes(file: IO[bytes]) -> int:
    return int.from_bytes(file.read(8), "little")


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    # Before the checksum, whose text is the last of its kind; see `_with_checksum`.
    source_fingerprint: str | None = None
    video_track: int | None = None
    xxh3_128: str
    token_shape: tuple[int, int, int] | None = None


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
    if _checksum(path, _with_checksum(header, want, _NO_CHECKSUM)) != want:
        raise ValueError("its checksum is of other content")
    return header


def _with_checksum(header: bytes, old: str, new: str) -> bytes:
    """Return a header with another checksum in the place of one of the same length.

    The last such text is meant: names of sources and models, which may contain it, come before.
    """
    before, found, after = header.rpartition(old.encode())
    return before + new.encode() + after if found else header


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
