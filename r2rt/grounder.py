"""The session: a bundle, an engine, and the way from a source and a sentence to moments."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from r2rt.bundle import TOKENIZER_NAME, Bundle, Nms
from r2rt.contract import GROUNDER, TEXT_ENCODER, VIDEO_FINALIZER
from r2rt.encoded import EncodedVideo
from r2rt.engines import Choice, Device, Engine, open_engine
from r2rt.engines.base import Placed
from r2rt.errors import ModelMismatchError, NoFramesError, QueryError
from r2rt.moments import boundaries_from_points, postprocess
from r2rt.prediction import Moment, Prediction, Timings
from r2rt.prefetch import prefetch
from r2rt.tokens import TokenBuffer
from r2rt.video import Sampling, open_source

if TYPE_CHECKING:
    from r2rt.stream import Stream
    from r2rt.tokenizer import Tokenizer
    from r2rt.video import FrameSource

__all__ = ["Grounder", "Progress", "Source"]

Source: TypeAlias = str | os.PathLike[str] | NDArray[np.uint8]
# Called with the clips encoded so far and the clips expected in all.
Progress: TypeAlias = Callable[[int, int], None]
Floats: TypeAlias = NDArray[np.float32]

_log = logging.getLogger(__name__)

# Frames decoded ahead of the encoder: a batch is in the engine while the next is decoded.
_FRAMES_AHEAD = 16
# Clips finalised in one call, and scratch one call of the grounder may take: both bound memory.
_FINALIZER_CLIPS = 64
_GROUNDER_SCRATCH_BYTES = 256 << 20
_TEXTS_KEPT = 4096


class Grounder:
    """Grounds sentences in videos with one model on one device.

    Use one grounder a thread. Example::

        grounder = Grounder.load("qvhighlights")
        video = grounder.encode("video.mp4")
        prediction = grounder.ground(video, "a dog catches a frisbee")
        best = prediction.moments[0]
        print(best.start_s, best.end_s, best.score)
    """

    def __init__(self, bundle: Bundle, engine: Engine, *, choice: Choice) -> None:
        self.bundle = bundle
        self.choice = choice
        self._engine = engine
        self._loaded_tokenizer: Tokenizer | None = None
        self._texts: dict[str, _Text] = {}
        self._finalized: tuple[weakref.ref[EncodedVideo], Placed] | None = None

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: Device = "auto",
        threads: int | None = None,
        verify: Literal["always", "change", "never"] = "change",
    ) -> Grounder:
        """Open an installed model by name, or a bundle by its folder.

        Args:
            name_or_path: a name of `r2rt models list`, or a folder that holds `bundle.json`.
            device: `auto` takes the fastest that is there.
            threads: processor threads an operator may use; None takes every usable core.
            verify: when to compare the bundle's files with their hashes; see `Bundle.open`.

        Raises:
            ModelNotFoundError, BundleDamagedError, BundleSchemaError, HashMismatchError: see there.
            BackendUnavailableError: the device cannot be used on this machine.
        """
        from r2rt.models import resolve

        bundle = Bundle.open(resolve(os.fspath(name_or_path)), verify=verify)
        engine, choice = open_engine(bundle, device, threads=threads)
        return cls(bundle, engine, choice=choice)

    @property
    def engine(self) -> Engine:
        """The engine that runs the graphs."""
        return self._engine

    def encode(
        self,
        source: Source,
        progress: Progress | None = None,
        *,
        sampling: Sampling = "exact",
        tolerance_s: float | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        source_fps: Fraction | float | None = None,
    ) -> EncodedVideo:
        """Encode a video, so that any number of queries can be asked without decoding it again.

        Args:
            source: a video file, a folder of images in natural order, or frames (T, H, W, 3) uint8.
            progress: called with clips done and clips expected.
            sampling: `exact` or `nearest`; see `r2rt.video`.
            tolerance_s: how far a `nearest` frame may be; half a clip by default.
            start_s: where the part to read starts, in seconds on the source's clock.
            end_s: where it ends.
            source_fps: frames a second of an array or of a folder of images.

        Raises:
            SourceNotFoundError, NotAVideoError, NoVideoStreamError, NoFramesError: see there.
        """
        began = time.perf_counter()
        with open_source(
            source,
            fps=self.bundle.fps,
            image_size=self.bundle.dims.image_size,
            sampling=sampling,
            tolerance_s=tolerance_s,
            start_s=start_s,
            end_s=end_s,
            source_fps=source_fps,
            gpu=self.choice.device != "cpu",
        ) as frames:
            _log_plan(frames)
            tokens = self._encode_frames(frames, progress)
            info, report = frames.info, frames.report
        _log.info("%s", report)
        return EncodedVideo(
            tokens=tokens,
            model=self.bundle.manifest.name,
            model_fingerprint=self.bundle.fingerprint,
            source=info.name,
            source_fingerprint=info.fingerprint,
            duration_s=info.duration_s,
            start_s=info.start_s,
            fps=self.bundle.fps,
            sampling=sampling,
            packets_lost=report.packets_lost,
            encode_s=time.perf_counter() - began,
        )

    def encode_frames(
        self,
        frames: NDArray[np.uint8],
        fps: Fraction | float,
        progress: Progress | None = None,
    ) -> EncodedVideo:
        """Encode frames (T, H, W, 3) uint8 RGB that follow one another at `fps` a second."""
        return self.encode(frames, progress, source_fps=fps)

    @overload
    def ground(self, video: EncodedVideo | Source, query: str, **options: Any) -> Prediction: ...

    @overload
    def ground(
        self, video: EncodedVideo | Source, query: Sequence[str], **options: Any
    ) -> list[Prediction]: ...

    def ground(
        self,
        video: EncodedVideo | Source,
        query: str | Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float = 0.0,
        nms: Nms | Literal["model", "none"] = "model",
        **encoding: Any,
    ) -> Prediction | list[Prediction]:
        """Find the moments that fit a sentence, or each of several sentences in one batch.

        Args:
            video: an encoded video, or a source, which is then encoded first.
            query: a sentence, or several.
            top_k: how many moments are kept at most; None keeps all that survive suppression.
            min_score: moments below this score are dropped.
            nms: suppression of overlapping moments: the model's own, another, or none.
            encoding: keyword arguments of `encode`, if `video` is a source.

        Returns:
            One prediction for a sentence, a list in order for several.

        Raises:
            QueryError: a query is empty, or `top_k` is not positive.
            ModelMismatchError: the video was encoded by another model.
        """
        if top_k is not None and top_k < 1:
            raise QueryError(f"top_k must be 1 or more, got {top_k}")
        queries = [query] if isinstance(query, str) else list(query)
        texts, text_s = self._encode_texts(queries)
        if isinstance(video, EncodedVideo):
            if encoding:
                names = ", ".join(sorted(encoding))
                raise QueryError(f"{names}: of no use with a video that is encoded already")
            encoded, encode_s = video, 0.0
        else:
            encoded = self.encode(video, **encoding)
            encode_s = encoded.encode_s
        self._check_model(encoded)
        began = time.perf_counter()
        answers = list(self._ground(self._finalize(encoded), texts))
        timings = Timings(encode_s=encode_s, text_s=text_s, ground_s=time.perf_counter() - began)
        suppression = self.bundle.manifest.nms if nms == "model" else nms
        predictions = [
            self._prediction(encoded, text, answer, top_k, min_score, suppression, timings)
            for text, answer in zip(texts, answers, strict=True)
        ]
        return predictions[0] if isinstance(query, str) else predictions

    def encode_queries(self, queries: Sequence[str]) -> None:
        """Encode sentences ahead of being asked, so that a bad one is told before a video is read.

        Raises:
            QueryError: there is none, or one is empty.
        """
        self._encode_texts(queries)

    def stream(self, *, name: str = "<stream>", start_s: Fraction | float | None = None) -> Stream:
        """Open a stream: push frames as they come, ask at any time; see `r2rt.stream.Stream`."""
        from r2rt.stream import Stream

        return Stream(self, name=name, start_s=start_s)

    def warm_up(self, text: str = "warm up") -> None:
        """Open every graph and run it once, so that the next call is as fast as any later one."""
        size = self.bundle.dims.image_size
        frames = np.zeros((1, size, size, 3), dtype=np.uint8)
        self.ground(self.encode_frames(frames, self.bundle.fps), text)
        self._texts.pop(text, None)

    def _encode_frames(self, frames: FrameSource, progress: Progress | None) -> Floats:
        buffer = TokenBuffer(self._engine, self.bundle.dims, expected_clips=frames.num_clips)
        ahead = prefetch(frames, depth=_FRAMES_AHEAD)
        try:
            for frame in ahead:
                buffer.add(frame.pixels, frame.count)
                if progress is not None:
                    progress(buffer.num_clips, max(frames.num_clips, buffer.num_clips))
        finally:
            ahead.close()
        tokens = buffer.tokens()
        if not len(tokens):
            raise NoFramesError(f"{frames.info.name}: not one frame could be decoded")
        return tokens

    def _check_model(self, encoded: EncodedVideo) -> None:
        dims = self.bundle.dims
        shape = (dims.layers, dims.patches, dims.token_width)
        if (
            encoded.model_fingerprint != self.bundle.fingerprint
            or encoded.tokens.shape[1:] != shape
        ):
            raise ModelMismatchError(
                f"{encoded.source} was encoded by {encoded.model} "
                f"({encoded.model_fingerprint[:8]}), this model is {self.bundle.manifest.name} "
                f"({self.bundle.fingerprint[:8]}); encode the video again"
            )

    def _finalize(self, encoded: EncodedVideo) -> Placed:
        """Return v (T, K, P, D) where the engine runs, kept for the video asked about last."""
        if not self.bundle.dims.use_tef:
            return encoded.tokens
        if self._finalized is not None and self._finalized[0]() is encoded:
            return self._finalized[1]
        self._finalized = None  # frees the last video's memory before this one's is taken
        v = self._engine.empty((*encoded.tokens.shape[:-1], self.bundle.dims.width))
        self._finalize_into(v, encoded.tokens)
        self._finalized = (weakref.ref(encoded), v)
        return v

    def finalize_tokens(self, tokens: Floats) -> Floats:
        """Return v (T, K, P, D) float32 from tokens (T, K, P, C) of a whole video."""
        if not self.bundle.dims.use_tef:
            return tokens
        v = np.empty((*tokens.shape[:-1], self.bundle.dims.width), dtype=np.float32)
        self._finalize_into(v, tokens)
        return v

    def _finalize_into(self, v: Placed, tokens: Floats) -> None:
        clips = len(tokens)
        # Temporal endpoint features of clip t: t / T and (t + 1) / T.
        index = np.arange(clips + 1, dtype=np.float32) / np.float32(clips)
        endpoints = np.stack([index[:-1], index[1:]], axis=1)
        for start in range(0, clips, _FINALIZER_CLIPS):
            part = slice(start, start + _FINALIZER_CLIPS)
            self._engine.run(
                VIDEO_FINALIZER,
                {"tokens": tokens[part], "endpoints": endpoints[part]},
                {"v": v[part]},
            )

    def _encode_texts(self, queries: Sequence[str]) -> tuple[list[_Text], float]:
        """Return every query's text features, encoding together those that are not kept yet."""
        if not queries:
            raise QueryError("no query: give at least one sentence")
        began = time.perf_counter()
        new = [query for query in dict.fromkeys(queries) if query not in self._texts]
        if new:
            while len(self._texts) + len(new) > _TEXTS_KEPT and self._texts:
                del self._texts[next(iter(self._texts))]
            encoded = [self._tokenizer.encode(query) for query in new]
            lengths = [len(item.ids) for item in encoded]
            ids = np.zeros((len(new), max(lengths)), dtype=np.int64)
            for row, item in zip(ids, encoded, strict=True):
                row[: len(item.ids)] = item.ids
            mask = _mask(lengths)
            out = self._engine.run(TEXT_ENCODER, {"token_ids": ids, "query_mask": mask})
            for index, (query, item) in enumerate(zip(new, encoded, strict=True)):
                part = np.s_[index, :, : lengths[index]]
                self._texts[query] = _Text(
                    query=query,
                    truncated=item.truncated,
                    q=np.ascontiguousarray(out["q"][part], dtype=np.float32),
                    q_key=np.ascontiguousarray(out["q_key"][part], dtype=np.float32),
                    pooled=np.asarray(out["pooled"][index], dtype=np.float32),
                )
        return [self._texts[query] for query in queries], time.perf_counter() - began

    @property
    def _tokenizer(self) -> Tokenizer:
        if self._loaded_tokenizer is None:
            from r2rt.tokenizer import Tokenizer

            self._loaded_tokenizer = Tokenizer.load(
                self.bundle.file(TOKENIZER_NAME), self.bundle.dims.context_length
            )
        return self._loaded_tokenizer

    def _ground(self, v: Placed, texts: Sequence[_Text]) -> Iterator[dict[str, Floats]]:
        """Yield the grounder's outputs for each text, in batches of bounded memory."""
        clips, layers, patches, width = v.shape
        longest = max(len(text.q[0]) for text in texts)
        # Attention weights and pooled rows, both also once transposed or masked.
        scratch = 2 * 4 * clips * layers * longest * (patches + width)
        at_once = max(1, _GROUNDER_SCRATCH_BYTES // scratch)
        for start in range(0, len(texts), at_once):
            batch = texts[start : start + at_once]
            lengths = [text.q.shape[1] for text in batch]
            q = np.zeros((len(batch), layers, max(lengths), width), dtype=np.float32)
            q_key = np.zeros_like(q)
            for index, text in enumerate(batch):
                q[index, :, : lengths[index]] = text.q
                q_key[index, :, : lengths[index]] = text.q_key
            out = self._engine.run(
                GROUNDER,
                {
                    "v": v,
                    "q": q,
                    "q_key": q_key,
                    "pooled": np.stack([text.pooled for text in batch]),
                    "query_mask": _mask(lengths),
                },
            )
            for index in range(len(batch)):
                yield {name: cast("Floats", array[index]) for name, array in out.items()}

    def _prediction(
        self,
        encoded: EncodedVideo,
        text: _Text,
        answer: dict[str, Floats],
        top_k: int | None,
        min_score: float,
        nms: Nms | Literal["none"],
        timings: Timings,
    ) -> Prediction:
        manifest = self.bundle.manifest
        boundaries = np.empty((0, 3))
        if self.bundle.dims.has_offsets:
            boundaries = boundaries_from_points(
                answer["class_logits"],
                answer["offsets"],
                num_clips=encoded.num_clips,
                strides=self.bundle.dims.strides,
                fps=encoded.fps,
                max_moments=manifest.max_moments,
            )
        rows = postprocess(
            boundaries,
            duration_s=encoded.duration_s,
            unit_s=manifest.unit_s,
            nms=None if nms == "none" else nms,
        )
        shift = np.array([encoded.start_s, encoded.start_s, 0.0])
        moments = tuple(
            Moment(start_s=start, end_s=end, score=score)
            for start, end, score in (rows + shift).tolist()
            if score >= min_score
        )
        return Prediction(
            query=text.query,
            moments=moments[:top_k],
            saliency=answer["saliency"],
            clip_starts_s=encoded.clip_starts_s,
            boundaries=boundaries + shift,
            query_truncated=text.truncated,
            video=encoded.source,
            duration_s=encoded.duration_s,
            fps=encoded.fps,
            sampling=encoded.sampling,
            model=manifest.name,
            timings=timings,
        )


def _log_plan(frames: FrameSource) -> None:
    info, cost = frames.info, frames.cost
    _log.info(
        "%s: %s %dx%d, %.2f s, %d clips at %s a second",
        *(info.name, info.codec, info.width, info.height, info.duration_s),
        *(frames.num_clips, frames.fps),
    )
    if cost is None:
        _log.info("plan: everything is decoded")
    else:
        share = 100 * cost.planned_frames / max(cost.total_frames, 1)
        _log.info(
            "plan: %d of %d frames decoded (%.0f %%), %d groups of pictures skipped",
            *(cost.planned_frames, cost.total_frames, share, cost.skipped_gops),
        )


class _Text:
    """Text features of one query: q, q_key (K, L, D) and pooled (D,), all float32."""

    __slots__ = ("pooled", "q", "q_key", "query", "truncated")

    def __init__(
        self, *, query: str, truncated: bool, q: Floats, q_key: Floats, pooled: Floats
    ) -> None:
        self.query = query
        self.truncated = truncated
        self.q = q
        self.q_key = q_key
        self.pooled = pooled


def _mask(lengths: Sequence[int]) -> Floats:
    """Return (N, L) float32, 1 where a query has a real token."""
    return (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.float32)
