"""`r2rt encode`: encode a video once, to ask it many times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from r2rt.cli.options import encoding_options, model_options, quiet_option, verbose_option
from r2rt.cli.session import encode_source, note, open_model

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
    **encoding: Any,
) -> None:
    """Encode VIDEO and write what the model sees of it to OUTPUT.

    `r2rt ground OUTPUT QUERY` then answers without the video.
    """
    grounder = open_model(model, device, quiet=quiet)
    encoded = encode_source(grounder, video, encoding, quiet=quiet)
    encoded.save(output)
    note(f"{output}: {encoded.tokens.nbytes / 1e6:.1f} MB", quiet=quiet)
