"""What the commands share that answer about videos: their options, and the way to the outputs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import msgspec

from r2rt.cli.asked import AskedRecord
from r2rt.cli.media import (
    MediaOptions,
    check_media,
    check_reel,
    deliver_media,
    deliver_reel,
    media_options,
    media_paths,
    media_places,
)
from r2rt.cli.options import (
    Encoding,
    encoding_options,
    model_options,
    quiet_option,
    verbose_option,
    window_options,
)
from r2rt.cli.outputs import Delivery, OutputOptions, output_options
from r2rt.cli.presence import Verdict, presence_option
from r2rt.cli.session import open_model, read_video, warn, warn_of_unknown_words
from r2rt.cli.videos import Sources, Videos, answer_videos, videos_options
from r2rt.errors import QueryError, R2rtError, SomeVideosFailedError
from r2rt.files import check_destinations
from r2rt.portable import usable_cores
from r2rt.video.missing import require_source
from r2rt.video.remote import is_remote, video_path

if TYPE_CHECKING:
    from r2rt.engines import Device
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction
    from r2rt.grounding.windows import WindowLength
    from r2rt.video.remote import VideoPath

__all__ = ["Question", "Request", "request_options"]

F = TypeVar("F", bound=Callable[..., Any])

# Options that do not change an answer, or whose files `--skip-existing` looks for itself.
_NOT_ASKED = frozenset(
    (
        *("arguments", "named_videos", "videos_from", "null", "queries_file"),
        *("device", "cache", "jobs", "quiet", "skip_existing"),
        *("formats", "outputs", "output_dir", "json_"),
        *("clips", "reel", "thumbnails", "contact_sheet", "plot", "report"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every video.

    Attributes:
        sentences: all that the model is asked; none if it is asked nothing.
        qids: the id of each answer.
        answer: returns one prediction for each id; called in threads.
        top_k: how many moments a query are written; `usual` leaves it to each format.
        has_moments: whether answers have moments; None for whether the model predicts them.
        best: chooses the moments that clips, pages and images are made of.
    """

    sentences: tuple[str, ...]
    qids: tuple[int | str, ...]
    answer: Callable[[Grounder, EncodedVideo], list[Prediction]]
    top_k: int | Literal["usual"] | None = None
    has_moments: bool | None = None
    best: Callable[[list[Prediction]], list[Prediction]] = list


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for, beside the question.

    Attributes:
        sources: how the user named videos.
        model: name or folder of the model; None takes the default one.
        device: what to run on.
        window: see `Grounder.ground`.
        overlap: see `Grounder.ground`.
        anyway: report the moments of queries that are not in the video, too.
        encoding: how videos are encoded.
        outputs: formats, and where they are written.
        media: what to make of the moments.
        cache: whether to keep encoded videos.
        jobs: how many videos are encoded at the same time.
        quiet: print no progress and no notes.
    """

    sources: Sources
    model: str | None
    device: Device
    window: WindowLength
    overlap: float | None
    anyway: bool
    encoding: Encoding
    outputs: OutputOptions
    media: MediaOptions
    cache: bool
    jobs: int
    quiet: bool

    def check_inputs(self, *files: str | None) -> None:
        """Raise `OutputError` if a single output would overwrite a file that is read.

        `run` checks those in a folder, once it is known which there are.
        """
        outputs, media = self.outputs, self.media
        written = (outputs.output, media.reel, media.contact_sheet, media.plot, media.report)
        check_destinations(
            [path for path in written if path is not None],
            [file for file in files if file is not None and file != "-"],
            made=[] if outputs.folder is None else [outputs.folder],
        )

    def run(self, videos: Videos, question: Question, *, queries_file: str | None = None) -> None:
        """Answer a question about every video, and write what was asked for.

        Args:
            videos: what to answer about.
            question: the same for every video.
            queries_file: where its queries were read from; no output replaces it.

        Raises:
            NotInVideoError: nothing that is asked for is in any of the videos.
            R2rtError: see `answer_videos`.
        """
        quiet = self.quiet
        named = (self.sources.list_file, queries_file)
        lists = [file for file in named if file is not None and file != "-"]
        self.check_inputs(*lists, *videos.paths)
        check_reel(self.media, skips=self.outputs.skip_existing)
        delivery = Delivery(
            self.outputs,
            videos.paths,
            several=videos.several,
            top_k=question.top_k,
            inputs=lists,
            exports=self.media.wanted,
            quiet=quiet,
        )
        only = None if videos.several else video_path(videos.paths[0])
        check_media(only, self.media, output=self.outputs.output, folder=self.outputs.folder)
        if not videos.several:
            require_source(videos.paths[0])
        with open_model(self.model, self.device, quiet=quiet) as grounder:
            grounder.window_size(self.window, self.overlap)  # a bad one fails before encoding
            record = self._record(grounder, question)
            waiting = self._waiting(videos, delivery, record)
            if not waiting:
                return
            if question.sentences:
                self._encode_queries(grounder, question)
            run = _Run(self, videos, delivery, question, grounder, record)
            with run.finished():
                jobs = min(self.jobs, len(waiting))
                answer_videos(
                    videos, waiting, run.answer, run.deliver, run.failed, jobs=jobs, quiet=quiet
                )
            run.verdict.conclude()

    def _waiting(self, videos: Videos, delivery: Delivery, record: AskedRecord | None) -> list[str]:
        def also(video: str) -> list[Path]:
            return media_paths(video_path(video), self.media, delivery.label(video))

        def is_same(video: str) -> bool:
            return record is None or record.is_same(video, self.outputs_of(video, delivery))

        return delivery.waiting(videos.paths, also=also, is_same=is_same)

    def outputs_of(self, video: str, delivery: Delivery) -> list[str]:
        """Return what the record calls the outputs that are written about one video."""
        places = media_places(video_path(video), self.media, delivery.label(video))
        return [
            *(path.name for path in delivery.paths(video)),
            *(f"{option} {path.absolute()}" for option, path in places.items()),
        ]

    def _record(self, grounder: Grounder, question: Question) -> AskedRecord | None:
        if self.outputs.folder is None:
            return None
        context = click.get_current_context()
        options = {name: value for name, value in context.params.items() if name not in _NOT_ASKED}
        manifest = grounder.bundle.manifest
        asked = {
            "command": context.info_name,
            "model": grounder.bundle.fingerprint,
            # What decides which queries are absent is no part of the fingerprint.
            "presence": msgspec.to_builtins((manifest.presence, manifest.known_words)),
            "queries": [question.sentences, question.qids],
            "options": options,
        }
        return AskedRecord(self.outputs.folder, asked)

    @staticmethod
    def _encode_queries(grounder: Grounder, question: Question) -> None:
        context_length = grounder.bundle.dims.context_length
        for query in grounder.encode_queries(question.sentences):
            warn(f"query over {context_length} tokens, only its beginning is used: {query[:60]!r}…")
        warn_of_unknown_words(grounder, question.sentences)


class _Run:
    """One run over the videos: what is answered, delivered and found."""

    def __init__(
        self,
        request: Request,
        videos: Videos,
        delivery: Delivery,
        question: Question,
        grounder: Grounder,
        record: AskedRecord | None,
    ) -> None:
        self._request = request
        self._videos = videos
        self._delivery = delivery
        self._question = question
        self._grounder = grounder
        self._record = record
        # A thousand videos have one progress bar, and no notes of their own.
        self._quiet = request.quiet or videos.several
        moments = question.has_moments
        if moments is None:
            moments = grounder.bundle.dims.has_offsets
        self.verdict = Verdict(anyway=request.anyway, moments=moments)
        self.shown: list[tuple[VideoPath, list[Prediction]]] = []
        self.tracks: list[int | None] = []

    @contextlib.contextmanager
    def finished(self) -> Iterator[None]:
        """Write what was answered, even if something else failed, and join the reel of all."""
        try:
            yield
        except SomeVideosFailedError:
            self._finish()
            raise
        except R2rtError:
            self._delivery.finish()
            raise
        self._finish()

    def answer(self, video: str) -> tuple[EncodedVideo, list[Prediction]]:
        request = self._request
        if self._record is not None:
            self._record.begin(video)
        encoded = read_video(
            self._grounder, video, request.encoding, cache=request.cache, quiet=self._quiet
        )
        answers = self._question.answer(self._grounder, encoded)
        return encoded, [_encoded_in(prediction, encoded.encode_s) for prediction in answers]

    def deliver(self, video: str, answer: tuple[EncodedVideo, list[Prediction]]) -> None:
        request, delivery = self._request, self._delivery
        encoded, predictions = answer
        name = self._videos.names.get(video, video)
        track = encoded.video_track
        # An encoded video may come from anywhere: what it names is no address to fetch from.
        source = video_path(video) if is_remote(video) else Path(encoded.source)
        if isinstance(source, Path) and source != Path(video):
            self._check_source(video, encoded)
        outputs = request.outputs_of(video, delivery)
        if self._record is not None:
            self._record.forget(outputs)
        delivery.add(
            request.outputs.answers(
                video,
                predictions=tuple(
                    predictions
                    if name == video
                    else [dataclasses.replace(prediction, video=name) for prediction in predictions]
                ),
                spool=video_path(video) if name != video or is_remote(video) else None,
                qids=self._question.qids,
                name=name,
                anyway=request.anyway,
                video_track=track,
            )
        )
        best = self._question.best(self.verdict.take(predictions))
        deliver_media(
            source,
            best,
            request.media,
            self._quiet,
            label=delivery.label(video),
            video_track=track,
        )
        if request.media.reel is not None:
            self.shown.append((source, best))
            self.tracks.append(track)
        if self._record is not None:
            self._record.add(video, outputs)

    def _check_source(self, video: str, encoded: EncodedVideo) -> None:
        """Raise `QueryError` if outputs need an encoding's video and its name is another file's."""
        formats, media = self._request.outputs.formats, self._request.media
        if not media.wanted and not any(item.counts_frames for item in formats):
            return
        from r2rt.video.fingerprint import fingerprint_file

        source, known = Path(encoded.source), encoded.source_fingerprint
        with contextlib.suppress(OSError):  # reading it says why
            if known is not None and source.is_file() and fingerprint_file(source) != known:
                raise QueryError(
                    f"{source}: not the file that {video} was encoded from; run r2rt in the "
                    "folder where that one is, or ask about the video itself"
                )

    def _finish(self) -> None:
        self._delivery.finish()
        if self._videos.several:
            request = self._request
            deliver_reel(self.shown, request.media, request.quiet, video_tracks=self.tracks)

    def failed(self, video: str, error: R2rtError) -> None:
        name = self._videos.names.get(video)
        self._delivery.add(self._request.outputs.answers(video, name=name, error=error))


def _encoded_in(prediction: Prediction, encode_s: float) -> Prediction:
    timings = dataclasses.replace(prediction.timings, encode_s=encode_s)
    return dataclasses.replace(prediction, timings=timings)


def request_options(command: F) -> F:
    """Add all options but the command's own; the command gets them as one `request: Request`."""

    @functools.wraps(command)
    def with_request(
        *,
        sources: Sources,
        model: str | None,
        device: Device,
        window: WindowLength,
        overlap: float | None,
        anyway: bool,
        encoding: Encoding,
        outputs: OutputOptions,
        media: MediaOptions,
        cache: bool,
        jobs: int,
        quiet: bool,
        **others: Any,
    ) -> Any:
        request = Request(
            sources=sources,
            model=model,
            device=device,
            window=window,
            overlap=overlap,
            anyway=anyway,
            encoding=encoding,
            outputs=outputs,
            media=media,
            cache=cache,
            jobs=jobs,
            quiet=quiet,
        )
        return command(request=request, **others)

    options: tuple[Callable[[Any], Any], ...] = (
        verbose_option,
        quiet_option,
        click.option(
            "--jobs",
            "-j",
            type=click.IntRange(min=1),
            default=_default_jobs,
            help="How many videos are encoded at the same time.  [default: 2, or 1 on one core]",
        ),
        click.option(
            "--cache/--no-cache",
            default=True,
            show_default=True,
            help="Keep encoded videos, so that a later query decodes nothing; see r2rt cache.",
        ),
        media_options,
        output_options,
        encoding_options,
        window_options,
        presence_option,
        model_options,
        videos_options,
    )
    for option in options:
        with_request = option(with_request)
    return with_request  # type: ignore[return-value]


def _default_jobs() -> int:
    return min(2, usable_cores())
