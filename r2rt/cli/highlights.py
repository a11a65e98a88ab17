"""`r2rt highlights`: the few spans of a video that stand out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from r2rt.cli.options import TIME
from r2rt.cli.sections import SectionedCommand
from r2rt.cli.selection import Selection, selection_options

if TYPE_CHECKING:
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction
    from r2rt.selection.highlights import HighlightLength

__all__ = ["highlights"]


class _Length(click.ParamType["HighlightLength"]):
    name = "SECONDS|auto"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> HighlightLength:
        if value == "auto":
            return "auto"
        seconds = TIME.convert(value, param, ctx)
        if seconds == 0:
            self.fail("give a length above 0, or auto", param, ctx)
        return seconds


@click.command(cls=SectionedCommand)
@click.argument("arguments", nargs=-1, metavar="VIDEO [QUERY]")
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, help="The most highlights."
)
@click.option(
    "--length",
    "length_s",
    type=_Length(),
    default="auto",
    show_default=True,
    help="The length of each; auto: while saliency is at least halfway from the median to the "
    "peak, within the shot.",
)
@selection_options
def highlights(selection: Selection, top: int, length_s: HighlightLength) -> None:
    """Find the highlights of VIDEO: the spans whose saliency stands out, best first.

    QUERY says what they show. Without it, models of one domain (TVSum, YouTube) use a query of
    their training data; for others a clip's score is how typical it is of the video.
    """

    def choose(grounder: Grounder, video: EncodedVideo, answer: Prediction) -> Prediction:
        from r2rt.selection.highlights import choose_highlights

        return choose_highlights(grounder, video, answer, top=top, length_s=length_s)

    selection.run(choose)
