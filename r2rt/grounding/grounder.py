"""`Grounder`: a model on a device, which encodes videos and finds moments for sentences."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from r2rt.engines import Choice, Device, Engine, Precision, choose_form, open_engine
from r2rt.engines.exclusive import for_threads
from r2rt.errors import ModelMismatchError, NoFramesError, QueryError, SourceNotFoundError
from r2rt.files import as_text
from r2rt.grounding.ask import ask
from r2rt.grounding.embeddings import embed_image, embed_text
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.finalizer import Finalizer
from r2rt.grounding.options import EncodeOptions, GroundOptions, check_names
from r2rt.grounding.prediction import Prediction, Timings
from r2rt.grounding.prefetch import prefetch
from r2rt.grounding.texts import TextEncoder
from r2rt.grounding.tokens import TokenBuffer
from r2rt.grounding.vocabulary import knows_any, unknown_words
from r2rt.grounding.windows import (
    WindowLength,
    WindowSize,
    plan_windows,
    window_size,
)
from r2rt.model.bundle import Bundle
from r2rt.model.manifest import Nms
from r2rt.video import Decoder, Sampling, open_source
from r2rt.video.remote import is_remote

if TYPE_CHECKING:
    from r2rt.grounding.stream import Stream
    from r2rt.video import FrameSource

__all__ = ["Grounder", "Progress", "Source"]

Source: TypeAlias = str | os.PathLike[str] | NDArray[np.uint8]
# Called with the clips encoded so far and the clips expected in all.
Progress: TypeAlias = Callable[[int, int], None]
Floats: TypeAlias = NDArray[np.float32]

_log = logging.getLogger(__name__)

# Frames decoded ahead of the encoder: a batch is in the engine while the next is decoded.
_FRAMES_AHEAD = 16


class Grounder:
    """Grounds sentences in videos with one model on one device.

    Threads may share a grounder. With ONNX Runtime their calls run at the same time; with TensorRT
    and DirectML the calls of the engine take turns. For the video that it asked about last, each
    thread keeps up to 64 MiB, with TensorRT up to a quarter of the GPU memory that was free when
    the first video was asked about. Example:

        with Grounder.load("qvhighlights") as grounder:
            video = grounder.encode("video.mp4")
            prediction = grounder.ground(video, "a dog catches a frisbee")
            best = prediction.moments[0]
            print(best.start_s, best.end_s, best.score)
    """

    def __init__(self, bundle: Bundle, engine: Engine, *, choice: Choice) -> None:
        self.bundle = bundle
        self.choice = choice
        self._engine = for_threads(engine)
        self._texts = TextEncoder(bundle, self._engine)
        self._of_thread = threading.local()
        self._closed = False

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: Device = "auto",
        precision: Precision | None = "auto",
        threads: int | None = None,
        verify: Literal["always", "change", "never"] = "change",
    ) -> Grounder:
        """Open an installed model by name, or a bundle by its folder.

        Args:
            name_or_path: a name of `r2rt models list`, or a folder that holds `bundle.json`.
            device: `auto` takes the fastest that is there.
            precision: `auto` takes the int8 form of an installed model where it is installed, too,
                and faster on this CPU, None the bundle as it is; see `r2rt.engines.precision`.
            threads: processor threads an operator may use; None takes every usable core.
            verify: when to compare the bundle's files with their hashes; see `Bundle.open`.

        Raises:
            ModelNotFoundError, BundleDamagedError, BundleSchemaError, HashMismatchError: see there.
            BackendUnavailableError: the device cannot be used on this machine.
        """
        from r2rt.model.installed import resolve

        folder = choose_form(
            resolve(os.fspath(name_or_path)),
            precision,
            device,
            threads=threads,
            verify="never" if verify == "never" else "change",
        )
        bundle = Bundle.open(folder, verify=verify)
        if bundle.outdated:
            _log.warning("%s", bundle.outdated)
        engine, choice = open_engine(bundle, device, threads=threads)
        return cls(bundle, engine, choice=choice)

    @property
    def engine(self) -> Engine:
        """The engine that runs the graphs; threads may share it."""
        return self._engine

    def close(self) -> None:
        """Free the model; later calls raise `QueryError`, a second `close` does nothing.

        Call it when no other thread is in a call.
        """
        self._closed = True
        self._of_thread = threading.local()
        self._engine.close()

    def __enter__(self) -> Self:
        """Return the grounder, which is closed at the end of the `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the grounder."""
        self.close()

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
        skip_similar: float = 0.0,
        video_track: int | None = None,
        decoder: Decoder = "auto",
        compact: bool = False,
    ) -> EncodedVideo:
        """Encode a video, so that any number of queries can be asked without decoding it again.

        Args:
            source: a video file or one at an address (`https://…`, `s3://…`, with [remote]), a
                folder of images in natural order, or frames (T, H, W, 3) uint8.
            progress: called with clips done and clips expected.
            sampling: `exact` or `nearest`; see `r2rt.video`.
            tolerance_s: how far a `nearest` frame may be; half a clip by default.
            start_s: where the part to read starts, in seconds on the source's clock.
            end_s: where it ends.
            source_fps: frames a second of an array or of a folder of images.
            skip_similar: a frame no farther than this from the last one encoded takes that one's
                tokens, in levels of 255; see `r2rt.grounding.tokens.difference`. 0 skips equal
                frames alone, which changes nothing; more departs from the exact answer, and
                `EncodedVideo.departures` counts the clips.
            video_track: which video track of a file, from 1; None takes the default one.
            decoder: what decodes a video; `auto` takes hardware where it is measured to be faster.
            compact: merge and round tokens to a twentieth of their bytes, which departs a little
                from the exact answer; see `r2rt.grounding.compact`.

        Raises:
            BackendUnavailableError: this machine has no such decoder.
            SourceNotFoundError, NotAVideoError, NoVideoStreamError, NoFramesError: see there.
            QueryError: `skip_similar` is outside 0 to 255.
        """
        self._check_open()
        if not isinstance(source, np.ndarray):
            _check_name(source)
        if not 0 <= skip_similar <= 255:
            raise QueryError(f"skip_similar must be from 0 to 255 levels, got {skip_similar:g}")
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
            video_track=video_track,
            decoder=decoder,
        ) as frames:
            _log_plan(frames)
            buffer = self._encode_frames(frames, progress, skip_similar)
            info, report = frames.info, frames.report
        _log.info("%s", report)
        encoded = EncodedVideo(
            tokens=buffer.tokens(),
            embeddings=buffer.embeddings(),
            model=self.bundle.manifest.name,
            model_fingerprint=self.bundle.fingerprint,
            source=info.name,
            duration_s=info.duration_s,
            start_s=info.start_s,
            fps=self.bundle.fps,
            sampling=sampling,
            departures=dataclasses.replace(report.departures, clips_similar=buffer.clips_similar),
            encode_s=time.perf_counter() - began,
            video_track=video_track,
            source_fingerprint=info.fingerprint,
        )
        return encoded.compacted(self.bundle.dims) if compact else encoded

    def encode_frames(
        self,
        frames: NDArray[np.uint8],
        fps: Fraction | float,
        progress: Progress | None = None,
    ) -> EncodedVideo:
        """Encode frames (T, H, W, 3) uint8 RGB that follow one another at `fps` a second."""
        return self.encode(frames, progress, source_fps=fps)

    @overload  # a str is a Sequence[str] too, but the first overload that fits is taken
    def ground(  # type: ignore[overload-overlap]
        self, video: EncodedVideo | Source, query: str, **options: Unpack[GroundOptions]
    ) -> Prediction: ...

    @overload
    def ground(
        self, video: EncodedVideo | Source, query: Sequence[str], **options: Unpack[GroundOptions]
    ) -> list[Prediction]: ...

    def ground(
        self,
        video: EncodedVideo | Source,
        query: str | Sequence[str],
        *,
        top_k: int | None = None,
        min_score: float = 0.0,
        nms: Nms | Literal["model", "none"] = "model",
        window: WindowLength = "auto",
        overlap: float | None = None,
        **encoding: Unpack[EncodeOptions],
    ) -> Prediction | list[Prediction]:
        """Find the moments that fit a sentence, or each of several sentences in one batch.

        A video longer than the model was trained on is grounded in overlapping windows whose
        answers are merged (see `r2rt.grounding.windows`), in memory that does not grow with its
        length.

        Args:
            video: an encoded video, or a source, which is then encoded first.
            query: a sentence, or several.
            top_k: how many moments are kept at most; None keeps all that survive suppression.
            min_score: moments below this score are dropped.
            nms: suppression of overlapping moments: the model's own, another, or none.
            window: length of windows in seconds, rounded to clips; `auto` for that which the model
                was trained on; None to ground the video as a whole, however long it is.
            overlap: seconds that two windows have in common, half a window by default. A moment no
                longer than this is whole in one of them.
            encoding: keyword arguments of `encode`, if `video` is a source.

        Returns:
            One prediction for a sentence, a list in order for several.

        Raises:
            QueryError: a query is empty, or an option has a value that it cannot have.
            ModelMismatchError: the video was encoded by another model.
            TypeError: an option has no such name.
        """
        self._check_open()
        check_names("Grounder.ground", encoding, EncodeOptions)
        if top_k is not None and top_k < 1:
            raise QueryError(f"top_k must be 1 or more, got {top_k}")
        if not math.isfinite(min_score):
            raise QueryError(f"min_score must be a number, got {min_score}")
        if isinstance(nms, str) and nms not in ("model", "none"):
            raise QueryError(f"nms must be an Nms, 'model' or 'none', got {nms!r}")
        size = self.window_size(window, overlap)
        began = time.perf_counter()
        texts = self._texts.features([query] if isinstance(query, str) else list(query))
        text_s = time.perf_counter() - began
        if isinstance(video, EncodedVideo):
            if encoding:
                names = ", ".join(sorted(encoding))
                raise QueryError(f"{names}: cannot be used with a video that is already encoded")
            encoded, encode_s = video, 0.0
        else:
            encoded = self.encode(video, **encoding)
            encode_s = encoded.encode_s
        self.check_encoded(encoded)
        began = time.perf_counter()
        windows = plan_windows(encoded.num_clips, size)
        plural = "s" if len(windows) > 1 else ""
        _log.info("%d window%s of %d clips", len(windows), plural, windows[0].num_clips)
        answers = ask(self.bundle, self._engine, self._finalizer, encoded, windows, texts)
        timings = Timings(encode_s=encode_s, text_s=text_s, ground_s=time.perf_counter() - began)
        suppression = self.bundle.manifest.nms if nms == "model" else None if nms == "none" else nms
        predictions = [
            answer.prediction(self.bundle, encoded, windows, suppression, timings).best(
                top_k, min_score
            )
            for answer in answers
        ]
        return predictions[0] if isinstance(query, str) else predictions

    def embed_text(self, queries: Sequence[str]) -> Floats:
        """Return CLIP's embeddings (N, E) float32 of sentences, not normalised.

        They are comparable by their cosine with `EncodedVideo.embeddings` and `embed_image`.

        Raises:
            QueryError: there is no sentence, or one is empty.
            BundleSchemaError: the model gives no embeddings.
        """
        self._check_open()
        return embed_text(self.bundle, self._texts, queries)

    def embed_image(self, image: str | os.PathLike[str] | NDArray[np.uint8]) -> Floats:
        """Return CLIP's embedding (E,) float32 of an image, not normalised.

        Args:
            image: an image file, or RGB pixels (H, W, 3) uint8. Like a frame, it is resized and its
                centre is cut out.

        Raises:
            SourceNotFoundError, NotAVideoError: the file cannot be read, or is no image.
            BundleSchemaError: the model gives no embeddings.
        """
        self._check_open()
        return embed_image(self.bundle, self._engine, image)

    def encode_queries(self, queries: Sequence[str]) -> list[str]:
        """Encode sentences in advance, so that a bad one raises before a video is read.

        Returns:
            The queries that are longer than the model reads, each once; of them only the beginning
            counts.

        Raises:
            QueryError: there is none, or one is empty.
        """
        self._check_open()
        texts = self._texts.features(queries)
        return list(dict.fromkeys(text.query for text in texts if text.truncated))

    def window_size(
        self, window: WindowLength = "auto", overlap: float | None = None
    ) -> WindowSize | None:
        """Return the windows that `ground` would split longer videos into, None for no windows.

        Raises:
            QueryError: windows of such a length or overlap make no sense.
        """
        return window_size(
            window,
            overlap,
            model_window_s=self.bundle.manifest.window_s,
            fps=self.bundle.fps,
        )

    def unknown_words(self, query: str) -> tuple[str, ...]:
        """Return the words of a query that were not in the model's training data.

        Only a model of few words, such as the demo model, lists its words; others return none.
        """
        return unknown_words(query, self.bundle.manifest.known_words)

    def knows(self, query: str) -> bool:
        """Return whether the model has read a word of a query that names something.

        False only for a model of few words, such as the demo model.
        """
        return knows_any(query, self.bundle.manifest.known_words)

    def stream(
        self,
        *,
        name: str = "<stream>",
        start_s: Fraction | float | None = None,
        window_s: Fraction | float | None = None,
    ) -> Stream:
        """Open a stream: push frames as they come, ask at any time; see `Stream`."""
        from r2rt.grounding.stream import Stream

        return Stream(self, name=name, start_s=start_s, window_s=window_s)

    def warm_up(self, text: str = "warm up") -> None:
        """Open every graph and run it once, so that the next call is as fast as any later one."""
        size = self.bundle.dims.image_size
        frames = np.zeros((1, size, size, 3), dtype=np.uint8)
        self.ground(self.encode_frames(frames, self.bundle.fps), text)
        self._texts.forget(text)

    def _encode_frames(
        self, frames: FrameSource, progress: Progress | None, skip_similar: float
    ) -> TokenBuffer:
        """Return the buffer with all clips."""
        buffer = TokenBuffer(
            self._engine,
            self.bundle.dims,
            expected_clips=frames.num_clips,
            skip_similar=skip_similar,
        )
        ahead = prefetch(frames, depth=_FRAMES_AHEAD)
        try:
            for frame in ahead:
                buffer.add(frame.pixels, frame.count)
                if progress is not None:
                    progress(buffer.num_clips, max(frames.num_clips, buffer.num_clips))
        finally:
            ahead.close()
        if not buffer.num_clips:
            raise NoFramesError(f"{frames.info.name}: not one frame could be decoded")
        return buffer

    def check_encoded(self, encoded: EncodedVideo) -> None:
        """Raise `ModelMismatchError` if another model encoded this video."""
        dims = self.bundle.dims
        shape = (dims.layers, dims.patches, dims.token_width)
        if encoded.model_fingerprint != self.bundle.fingerprint or encoded.token_shape != shape:
            raise ModelMismatchError(
                f"{encoded.source} was encoded by {encoded.model} "
                f"({encoded.model_fingerprint[:8]}), this model is {self.bundle.manifest.name} "
                f"({self.bundle.fingerprint[:8]}); encode the video again, "
                "or name that model or --precision"
            )

    def finalize_tokens(self, tokens: Floats) -> Floats:
        """Return v (T, K, P, D) float32 from tokens (T, K, P, C) of a whole video."""
        return self._finalizer.whole(tokens)

    @property
    def _finalizer(self) -> Finalizer:
        """The calling thread's own: a finalizer overwrites what its last call returned."""
        found: Finalizer | None = getattr(self._of_thread, "finalizer", None)
        if found is None:
            found = self._of_thread.finalizer = Finalizer(self.bundle.dims, self._engine)
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise QueryError("the grounder is closed; load the model again")


def _check_name(source: str | os.PathLike[str]) -> None:
    """Raise `SourceNotFoundError` for a name that cannot be that of a video."""
    if not os.fspath(source):
        # As a path it would be the current folder.
        raise SourceNotFoundError("the name of the video is empty; give a file or a folder")
    if is_remote(os.fspath(source)):
        return
    try:
        os.stat(source)  # noqa: PTH116
    except FileNotFoundError:
        pass  # reading it says more
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceNotFoundError(f"{as_text(source)[:200]}: {reason}") from error


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
