"""`r2rt ground`: find the moments of a video that fit a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r2rt.cli.media import MediaOptions, best_of, check_media, deliver_media, media_options
from r2rt.cli.options import (
    encoding_options,
    model_options,
    quiet_option,
    verbose_option,
    window_options,
)
from r2rt.cli.outputs import Delivery, OutputOptions, output_options
from r2rt.cli.session import encode_source, open_model, warn, warn_of_unknown_words
from r2rt.errors import QueryError
from r2rt.queries import Query, read_queries

if TYPE_CHECKING:
    from r2rt.encoded import EncodedVideo
    from r2rt.engines import Device
    from r2rt.grounder import Grounder
    from r2rt.windows import WindowLength

__all__ = ["ground"]


@click.command()
@click.argument("video")
@click.argument("query", nargs=-1)
@click.option("--query", "-q", "more_queries", multiple=True, help="A further query; repeatable.")
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
    help="Moments a query.  [default: all in json, jsonl and csv, else 5]",
)
@click.option(
    "--min-score", type=click.FloatRange(0, 1), default=0.0, help="Drop moments below this score."
)
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
    video: str,
    query: tuple[str, ...],
    more_queries: tuple[str, ...],
    queries_file: str | None,
    model: str | None,
    device: Device,
    top_k: int | None,
    min_score: float,
    window: WindowLength,
    overlap: float | None,
    outputs: OutputOptions,
    cache: bool,
    quiet: bool,
    media: MediaOptions,
    **encoding: Any,
) -> None:
    """Find the moments of VIDEO that fit each QUERY.

    VIDEO is a video file, a folder of images in order, or what `r2rt encode` wrote. The result goes
    to stdout (or --output), everything else to stderr.
    """
    queries = [
        Query(text=text, qid=number) for number, text in enumerate((*query, *more_queries), start=1)
    ]
    if queries_file is not None:
        queries += read_queries(queries_file)
    if not queries:
        raise QueryError("no query: give a sentence, -q SENTENCE or --queries FILE.jsonl")
    for item in queries:
        if not item.text.strip():
            raise QueryError(f"query {item.qid!r} is empty; write a sentence")
    delivery = Delivery(outputs, [video], top_k=top_k or "usual", quiet=quiet)
    check_media(Path(video), media)
    grounder = open_model(model, device, quiet=quiet)
    grounder.window_size(window, overlap)  # a bad one is told before the video is read
    grounder.encode_queries([item.text for item in queries])
    warn_of_unknown_words(grounder, [item.text for item in queries])
    encoded = _encoded(grounder, video, encoding, cache=cache, quiet=quiet)
    predictions = grounder.ground(
        encoded,
        [item.text for item in queries],
        top_k=top_k,
        min_score=min_score,
        window=window,
        overlap=overlap,
    )
    for prediction in predictions:
        if prediction.query_truncated:
            limit = grounder.bundle.dims.context_length
            warn(f"query over {limit} tokens, cut to its beginning: {prediction.query[:60]!r}…")
    delivery.add(
        outputs.answers(
            video,
            predictions=tuple(predictions),
            qids=tuple(item.qid for item in queries),
        )
    )
    delivery.finish()
    shown = best_of(predictions, 5) if top_k is None else predictions
    deliver_media(Path(encoded.source), shown, media, quiet)


def _encoded(
    grounder: Grounder, video: str, encoding: dict[str, Any], *, cache: bool, quiet: bool
) -> EncodedVideo:
    from r2rt.encoded import EncodedVideo, is_encoded_video

    if not is_encoded_video(video):
        from r2rt.cache import EncodingCache

        kept = EncodingCache() if cache else None
        return encode_source(grounder, video, encoding, cache=kept, quiet=quiet)
    context = click.get_current_context()
    given = [
        name
        for name in encoding
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        raise QueryError(f"{', '.join(given)}: of no use with {video}, which is encoded already")
    return EncodedVideo.load(video)
