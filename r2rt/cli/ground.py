"""`r2rt ground`: find the moments of a video that match a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from r2rt.cli.console import note
from r2rt.cli.media import best_of
from r2rt.cli.options import is_given
from r2rt.cli.request import Question, Request, request_options
from r2rt.cli.sections import SectionedCommand
from r2rt.cli.sequences import Asked, sequence_options
from r2rt.errors import QueryError
from r2rt.queries import Query, free_qids, read_queries

if TYPE_CHECKING:
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction

__all__ = ["ground"]

_EXAMPLES = """Examples:

\b
  r2rt ground talk.mp4 "a man writes on the board"
  r2rt ground *.mp4 -q "a dog" --rank
  r2rt ground talk.mp4 "a dog" --start 1:15 --end 5m --json
  r2rt ground talk.mp4 "the goal" --clips goals/ --reel goals.mp4
  find . -name '*.mkv' -print0 | r2rt ground -0 --videos-from - "a dog"
"""


@click.command(cls=SectionedCommand, epilog=_EXAMPLES)
@click.argument("arguments", nargs=-1, metavar="VIDEO QUERY...")
@click.option("--query", "-q", "more_queries", multiple=True, help="A query; repeatable.")
@click.option(
    "--queries",
    "queries_file",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help='Queries from a JSON-lines file, {"query": ..., "qid": ...} a line; - is standard input.',
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="The most moments for each query.  [default: all in json, jsonl and csv; 5 in tables; "
    "elsewhere, up to 20 that score half the best or more and do not overlap]",
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Leave out moments below this score.",
)
@sequence_options
@request_options
def ground(
    request: Request,
    more_queries: tuple[str, ...],
    queries_file: str | None,
    top_k: int | None,
    min_score: float,
    then: tuple[str, ...],
    within_s: float | None,
    sequences: tuple[str, ...],
) -> None:
    """Find the moments of VIDEO that match each QUERY.

    VIDEO is a video file, a folder of images, a file that `r2rt encode` wrote, a folder of videos,
    a glob in quotes, an address such as https://… (extra [remote]), a pipe, or - for standard
    input. To query several videos, give queries by -q, or name videos by --video or --videos-from.
    A video that fails does not stop the others.

    The result goes to stdout (or --output, --output-dir), everything else to stderr. The exit code
    is 3 if nothing that is asked for is in any of the videos, or no moment reaches --min-score.
    """
    request.check_inputs(queries_file)
    sources = request.sources
    if queries_file == "-" and "-" in (*sources.arguments, *sources.named, sources.list_file):
        raise QueryError("-: standard input is the queries or the videos, not both")
    given = bool(more_queries or queries_file or sequences)
    arguments, texts = request.sources.split(queries_given=given)
    queries = _queries([*texts, *more_queries], queries_file)
    if len(texts) > 1 and not any(" " in text for text in texts):
        note(
            f"{len(texts)} queries of one word each; if they are one sentence, quote it: "
            f'"{" ".join(texts)}"',
            quiet=request.quiet,
        )
    if not then and not is_given("within_s"):
        within_s = None  # a default of the user's file has no use here
    asked = Asked.of(queries, then=then, within_s=within_s, sequences=sequences)
    videos = request.sources.find(arguments, quiet=request.quiet)

    def answer(grounder: Grounder, video: EncodedVideo) -> list[Prediction]:
        whole = grounder.ground(
            video, asked.sentences, window=request.window, overlap=request.overlap
        )
        return asked.answers(whole, top_k=top_k, min_score=min_score)

    request.run(
        videos,
        Question(
            sentences=tuple(asked.sentences),
            qids=asked.qids,
            answer=answer,
            top_k=top_k or "usual",
            best=best_of if top_k is None else list,
        ),
        queries_file=queries_file,
    )


def _queries(texts: Sequence[str], queries_file: str | None) -> list[Query]:
    read = [] if queries_file is None else read_queries(queries_file)
    numbers = free_qids(len(texts), read)
    return [Query(text=text, qid=qid) for text, qid in zip(texts, numbers, strict=True)] + read
