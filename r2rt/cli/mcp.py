"""`r2rt mcp`: tools for an agent that starts r2rt itself."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from r2rt.cli.first_run import choose_model
from r2rt.cli.options import asked_precision, is_yes_given, model_options, quiet_option
from r2rt.cli.serve import require_serve, roots_option
from r2rt.service.settings import Settings

if TYPE_CHECKING:
    from r2rt.engines import Device

__all__ = ["mcp"]

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("library", required=False)
@roots_option
@click.option(
    "--output-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Save clips and exports in this folder as well.",
)
@click.option(
    "--state", "folder", type=_FOLDER, help="Keep the list of videos here.  [default: nowhere]"
)
@model_options
@quiet_option
def mcp(
    library: str | None,
    roots: tuple[Path, ...],
    output_dir: Path | None,
    folder: Path | None,
    model: str | None,
    device: Device,
    quiet: bool,
) -> None:
    """Give an agent tools over videos by the Model Context Protocol, and over LIBRARY if given.

    Messages go through stdin and stdout. A service has the same tools at /mcp; see r2rt serve.
    """
    require_serve()  # before a model is offered or fetched
    chosen = str(choose_model(model, yes=is_yes_given(), quiet=quiet))
    with tempfile.TemporaryDirectory(prefix="r2rt-mcp-", ignore_cleanup_errors=True) as temporary:
        settings = Settings(
            folder=folder or Path(temporary),
            roots=roots or (Path(),),
            library=library,
            model=chosen,
            device=device,
            precision=asked_precision(),
            rate=0,
        )
        asyncio.run(_serve(settings, output_dir))


async def _serve(settings: Settings, output: Path | None) -> None:
    from r2rt.service.app import create_app
    from r2rt.service.mcp.server import mcp_server

    app = create_app(settings)
    async with app.router.lifespan_context(app):
        await mcp_server(app, output).run_stdio_async()
