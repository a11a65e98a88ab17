"""`r2rt encode`: encode a video once and query it many times."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from r2rt.cli.options import Encoding, encoding_options, model_options, quiet_option, verbose_option
from r2rt.cli.session import encode_source, note, open_model
from r2rt.cli.spool import spooled
from r2rt.errors import OutputError, QueryError
from r2rt.files import check_destinations
from r2rt.video.missing import require_source

if TYPE_CHECKING:
    from r2rt.engines import Device

__all__ = ["encode"]


@click.command()
@click.argument("video")
@click.argument("output", type=click.Path())
@model_options
@encoding_options
@quiet_option
@verbose_option
def encode(
    video: str,
    output: str,
    model: str | None,
    device: Device,
    quiet: bool,
    encoding: Encoding,
) -> None:
    """Encode VIDEO into the file OUTPUT, such as talk.r2rt.

    `r2rt ground OUTPUT QUERY` then answers without decoding the video again. VIDEO is a video
    file, a folder of images, an address, a pipe, or - for standard input.
    """
    if not video:
        raise QueryError("the name of the video is empty; give a file or a folder of images")
    ((video, name),) = spooled([video], quiet=quiet)
    require_source(video)
    check_destinations([output], [video])
    _check_is_no_video(Path(output))
    with open_model(model, device, quiet=quiet) as grounder:
        encoded = encode_source(grounder, video, encoding.options_for(video), quiet=quiet)
    if name != video:
        encoded = dataclasses.replace(encoded, source=name)
    encoded.save(output)
    note(f"{output}: {encoded.nbytes / 1e6:.1f} MB", quiet=quiet)


def _check_is_no_video(output: Path) -> None:
    """Refuse to replace a file of another kind: `r2rt encode *.mp4` may name two videos."""
    from r2rt.grounding.encoded import is_encoded_video

    is_ours = output.suffix == ".r2rt" or is_encoded_video(output)
    if not is_ours and output.is_file() and output.stat().st_size:
        raise OutputError(
            f"{output}: a file that is no encoded video is there; name a new one, such as "
            f"{output.stem}.r2rt"
        )
