"""`r2rt summarize`: a video in less time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from r2rt.cli.sections import SectionedCommand
from r2rt.cli.selection import Selection, selection_options

if TYPE_CHECKING:
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction

__all__ = ["summarize"]


@click.command(cls=SectionedCommand)
@click.argument("arguments", nargs=-1, metavar="VIDEO [QUERY]")
@click.option(
    "--length",
    metavar="TIME|PERCENT",
    default="10%",
    show_default=True,
    help="The greatest length of the summary, such as 60s, 1:30 or 10%.",
)
@selection_options
def summarize(selection: Selection, length: str) -> None:
    """Choose the shots that summarise VIDEO in no more than --length; --reel FILE joins them.

    QUERY says what the summary is about. Without it, models of one domain (TVSum, YouTube) use a
    query of their training data; for others a clip's score is how typical it is of the video.
    """
    from r2rt.selection.summary import choose_summary, parse_length

    parse_length(length)  # a bad one fails before a video is read

    def choose(grounder: Grounder, video: EncodedVideo, answer: Prediction) -> Prediction:
        return choose_summary(grounder, video, answer, length=length)

    selection.run(choose)
