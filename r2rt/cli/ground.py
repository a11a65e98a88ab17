"""`r2rt ground`: find the moments of a video that fit a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r2rt.cli.media import (
    MediaOptions,
    best_of,
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
from r2rt.cli.sequences import Asked, sequence_options
from r2rt.cli.session import open_model, read_video, warn, warn_of_unknown_words
from r2rt.cli.videos import answer_videos, choose_videos, videos_options
from r2rt.queries import Query, read_queries

if TYPE_CHECKING:
    from r2rt.engines import Device
    from r2rt.grounding.prediction import Prediction
    from r2rt.grounding.windows import WindowLength

__all__ = ["ground"]


@click.command()
@click.argument("arguments", nargs=-1, metavar="VIDEO QUERY...")
@videos_options
@click.option("--query", "-q", "more_queries", multiple=True, help="A query; repeatable.")
@click.option(
    "--queries",
    "queries_file",
    type=click.Path(),
    help='Queries from a jsonl file: {"query": ..., "qid": ...} a line.',
)
@model_options
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="The most moments a query.  [default: all in json, jsonl and csv, else 5]",
)
@click.option(
    "--min-score", type=click.FloatRange(0, 1), default=0.0, help="Drop moments below this score."
)
@presence_option
@sequence_options
@window_options
@encoding_options
@output_options
@media_options
@click.option(
    "--cache/--no-cache",
    default=True,
    show_default=True,
    help="Keep the encoded video, so that asking again decodes nothing; see `r2rt cache`.",
)
@quiet_option
@verbose_option
def ground(
    arguments: tuple[str, ...],
    named_videos: tuple[str, ...],
    videos_from: str | None,
    more_queries: tuple[str, ...],
    queries_file: str | None,
    model: str | None,
    device: Device,
    top_k: int | None,
    min_score: float,
    anyway: bool,
    then: tuple[str, ...],
    within_s: float | None,
    sequences: tuple[str, ...],
    window: WindowLength,
    overlap: float | None,
    outputs: OutputOptions,
    cache: bool,
    quiet: bool,
    media: MediaOptions,
    **encoding: Any,
) -> None:
    """Find the moments of VIDEO that fit each QUERY.

    VIDEO is a video file, a folder of images in order, what `r2rt encode` wrote, a folder of
    videos, or a glob in quotes. Several videos may be given where queries are given by -q; or name
    videos by --video and --videos-from. A video that fails does not stop the others.

    The result goes to stdout (or --output, --output-dir), everything else to stderr. The exit code
    is 3 if nothing that was asked for is in any of the videos, or no moment reaches --min-score.
    """
    videos, texts = choose_videos(
        arguments,
        named=named_videos,
        list_file=videos_from,
        queries_given=bool(more_queries or queries_file or sequences),
    )
    queries = _queries([*texts, *more_queries], queries_file)
    asked = Asked.of(queries, then=then, within_s=within_s, sequences=sequences)
    check_reel(media, skips=outputs.skip_existing)
    delivery = Delivery(
        outputs, videos.paths, several=videos.several, top_k=top_k or "usual", quiet=quiet
    )
    waiting = delivery.waiting(
        videos.paths, also=lambda video: media_paths(Path(video), media, delivery.label(video))
    )
    if not waiting:
        return
    check_media(None if videos.several else Path(videos.paths[0]), media)
    grounder = open_model(model, device, quiet=quiet)
    grounder.window_size(window, overlap)  # a bad one is told before a video is read
    sentences = asked.sentences
    grounder.encode_queries(sentences)
    warn_of_unknown_words(grounder, sentences)
    verdict = Verdict(anyway=anyway, moments=grounder.bundle.dims.has_offsets)
    told: set[str] = set()
    shown: list[tuple[Path, list[Prediction]]] = []

    def answer(video: str) -> None:
        label = videos.label(video, "encoding")
        encoded = read_video(grounder, video, encoding, cache=cache, quiet=quiet, label=label)
        whole = grounder.ground(encoded, sentences, window=window, overlap=overlap)
        _warn_of_cut_queries(whole, told, grounder.bundle.dims.context_length)
        predictions = asked.answers(whole, top_k=top_k, min_score=min_score)
        delivery.add(
            outputs.answers(
                video,
                predictions=tuple(predictions),
                qids=asked.qids,
                anyway=anyway,
            )
        )
        present = verdict.take(predictions)
        best = best_of(present, 5) if top_k is None else present
        source = Path(encoded.source)
        deliver_media(source, best, media, quiet, label=delivery.label(video))
        if media.reel is not None:
            shown.append((source, best))

    answer_videos(
        videos,
        waiting,
        delivery,
        outputs,
        answer,
        then=lambda: deliver_reel(shown, media, quiet),
        quiet=quiet,
    )
    verdict.conclude()


def _queries(texts: Sequence[str], queries_file: str | None) -> list[Query]:
    queries = [Query(text=text, qid=number) for number, text in enumerate(texts, start=1)]
    if queries_file is not None:
        queries += read_queries(queries_file)
    return queries


def _warn_of_cut_queries(
    predictions: Sequence[Prediction], told: set[str], context_length: int
) -> None:
    for prediction in predictions:
        if prediction.query_truncated and prediction.query not in told:
            told.add(prediction.query)
            text = f"{prediction.query[:60]!r}…"
            warn(f"query over {context_length} tokens, cut to its beginning: {text}")
