"""What `highlights` and `summarize` share: reading each video, saliency, and delivering the choice.

Both answer about one query or none, with moments chosen by saliency.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r2rt.cli.media import (
    MediaOptions,
    check_media,
    check_reel,
    deliver_media,
    deliver_reel,
    media_options,
    media_paths,
)
from r2rt.cli.options import (
    encoding_options,
    model_options,
    quiet_option,
    verbose_option,
    window_options,
)
from r2rt.cli.outputs import Delivery, OutputOptions, output_options
from r2rt.cli.presence import Verdict, presence_option
from r2rt.cli.session import note, open_model, read_video, warn_of_unknown_words
from r2rt.cli.videos import Videos, answer_videos, choose_videos, videos_options
from r2rt.errors import QueryError

if TYPE_CHECKING:
    from r2rt.engines import Device
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction
    from r2rt.grounding.windows import WindowLength

__all__ = ["Choose", "Selection", "selection_options"]

F = TypeVar("F", bound=Callable[..., Any])
Choose = Callable[["Grounder", "EncodedVideo", "Prediction"], "Prediction"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the user asked for.

    Attributes:
        videos: what it is about.
        query: the sentence; None lets something stand in for it.
        model: name or folder of the model; None takes the default one.
        device: what to run on.
        window: see `Grounder.ground`.
        overlap: see `Grounder.ground`.
        anyway: tell also what is of something that is not in the video.
        outputs: formats and where to.
        media: what to make of the moments.
        cache: whether to keep encoded videos.
        quiet: no progress and no notes.
        encoding: keyword arguments of `Grounder.encode`.
    """

    videos: Videos
    query: str | None
    model: str | None
    device: Device
    window: WindowLength
    overlap: float | None
    anyway: bool
    outputs: OutputOptions
    media: MediaOptions
    cache: bool
    quiet: bool
    encoding: dict[str, Any] = field(default_factory=dict)

    def run(self, choose: Choose) -> None:
        """Answer about every video with the moments that `choose` makes of its saliency.

        Raises:
            NotInVideoError: what is asked for is in none of the videos.
            R2rtError: see `answer_videos`.
        """
        videos, quiet = self.videos, self.quiet
        check_reel(self.media, skips=self.outputs.skip_existing)
        delivery = Delivery(self.outputs, videos.paths, several=videos.several, quiet=quiet)
        waiting = delivery.waiting(
            videos.paths,
            also=lambda video: media_paths(Path(video), self.media, delivery.label(video)),
        )
        if not waiting:
            return
        check_media(None if videos.several else Path(videos.paths[0]), self.media)
        grounder = open_model(self.model, self.device, quiet=quiet)
        grounder.window_size(self.window, self.overlap)
        if self.query is not None:
            grounder.encode_queries([self.query])
            warn_of_unknown_words(grounder, [self.query])
        verdict = Verdict(anyway=self.anyway, moments=True)
        shown: list[tuple[Path, list[Prediction]]] = []

        def answer(video: str) -> None:
            encoded, chosen = self._chosen(grounder, video, choose)
            fields = {"predictions": (chosen,), "qids": (1,), "anyway": self.anyway}
            delivery.add(self.outputs.answers(video, **fields))
            present = verdict.take([chosen])
            source = Path(encoded.source)
            deliver_media(source, present, self.media, quiet, label=delivery.label(video))
            if self.media.reel is not None:
                shown.append((source, present))

        answer_videos(
            videos,
            waiting,
            delivery,
            self.outputs,
            answer,
            then=lambda: deliver_reel(shown, self.media, quiet),
            quiet=quiet,
        )
        verdict.conclude()

    def _chosen(
        self, grounder: Grounder, video: str, choose: Choose
    ) -> tuple[EncodedVideo, Prediction]:
        from r2rt.selection.saliency import saliency_of

        label = self.videos.label(video, "encoding")
        encoded = read_video(
            grounder, video, self.encoding, cache=self.cache, quiet=self.quiet, label=label
        )
        answer, instead = saliency_of(
            grounder, encoded, self.query, window=self.window, overlap=self.overlap
        )
        if instead is not None:
            note(f"no query, so {instead.reason}", quiet=self.quiet)
        return encoded, choose(grounder, encoded, answer)


def selection_options(command: F) -> F:
    """Add all options but the command's own, which gets them as one `selection`."""

    @functools.wraps(command)
    def with_selection(
        *,
        arguments: tuple[str, ...],
        named_videos: tuple[str, ...],
        videos_from: str | None,
        query: str | None,
        model: str | None,
        device: Device,
        window: WindowLength,
        overlap: float | None,
        anyway: bool,
        outputs: OutputOptions,
        media: MediaOptions,
        cache: bool,
        quiet: bool,
        **others: Any,
    ) -> Any:
        videos, texts = choose_videos(
            arguments, named=named_videos, list_file=videos_from, queries_given=query is not None
        )
        texts += [] if query is None else [query]
        if len(texts) > 1:
            raise QueryError(f"{len(texts)} queries; give one or none, or name videos by --video")
        names = ("sampling", "tolerance_s", "source_fps", "start_s", "end_s")
        selection = Selection(
            videos=videos,
            query=texts[0] if texts else None,
            model=model,
            device=device,
            window=window,
            overlap=overlap,
            anyway=anyway,
            outputs=outputs,
            media=media,
            cache=cache,
            quiet=quiet,
            encoding={name: others.pop(name) for name in names},
        )
        return command(selection=selection, **others)

    options: tuple[Callable[[Any], Any], ...] = (
        verbose_option,
        quiet_option,
        click.option(
            "--cache/--no-cache",
            default=True,
            show_default=True,
            help="Keep the encoded video, so that asking again decodes nothing; see `r2rt cache`.",
        ),
        media_options,
        output_options,
        encoding_options,
        window_options,
        presence_option,
        model_options,
        click.option("--query", "-q", help="The query, where several videos are given."),
        videos_options,
    )
    for option in options:
        with_selection = option(with_selection)
    return with_selection  # type: ignore[return-value]
