"""`r2rt serve`: the HTTP service."""

from __future__ import annotations

import contextlib
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from r2rt.cli.console import note
from r2rt.cli.first_run import choose_model
from r2rt.cli.options import (
    asked_precision,
    check_has_use,
    is_given,
    is_yes_given,
    model_options,
    quiet_option,
)
from r2rt.errors import MissingExtraError, QueryError, ServiceStateError
from r2rt.memory import parse_bytes
from r2rt.portable import usable_cores
from r2rt.service.settings import Settings, default_folder, is_loopback

if TYPE_CHECKING:
    from r2rt.engines import Device
    from r2rt.service.logs import LogFormat

__all__ = ["require_serve", "roots_option", "serve", "state_option"]

_FOLDER = click.Path(file_okay=False, path_type=Path)
state_option = click.option(
    "--state",
    "folder",
    type=_FOLDER,
    help="Where the service keeps its database, uploads and results.  [default: service in "
    "R2RT_HOME]",
)
roots_option = click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder whose videos may be added by path; repeatable.  [default: the current folder]",
)


@click.command()
@click.argument("library", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@roots_option
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A host name by which clients may call the service; repeatable.",
)
@state_option
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=lambda: max(2, min(usable_cores(), 8)),
    help="Jobs at the same time.  [default: one a core, 2 to 8]",
)
@click.option(
    "--ray",
    metavar="ADDRESS|local",
    help="Run on Ray Serve, on a cluster or on this machine.",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="With --ray: processes that encode, and as many that answer.",
)
@click.option(
    "--unload-after",
    "model_idle_s",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    help="Unload models that were not used for so many seconds.",
)
@click.option(
    "--batch",
    "batch_most",
    type=click.IntRange(1, 256),
    default=64,
    show_default=True,
    help="The most queries that one call of the model answers; 1 answers each request alone.",
)
@click.option(
    "--allow-private",
    "private_addresses",
    is_flag=True,
    help="Fetch videos from private networks, and send webhooks there.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=100.0,
    show_default=True,
    help="Requests a second of one client; 0 for no limit.",
)
@click.option(
    "--max-upload",
    default="20G",
    show_default=True,
    metavar="SIZE",
    help="The largest video that is accepted or fetched.",
)
@click.option(
    "--keep-results",
    "results_days",
    type=click.FloatRange(0.001),
    default=7.0,
    show_default=True,
    help="Days that finished jobs and ended watches are kept.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines of the log, on stderr; with --ray, Ray keeps the log.",
)
@model_options
@quiet_option
def serve(
    library: str | None,
    host: str,
    port: int,
    roots: tuple[Path, ...],
    allowed_hosts: tuple[str, ...],
    folder: Path | None,
    workers: int,
    ray: str | None,
    replicas: int,
    model_idle_s: float,
    batch_most: int,
    private_addresses: bool,
    rate: float,
    max_upload: str,
    results_days: float,
    log_format: LogFormat,
    model: str | None,
    device: Device,
    quiet: bool,
) -> None:
    """Serve an HTTP API and a page over videos, and over LIBRARY if one is given.

    Beyond this machine it listens only where there is a token: r2rt tokens add NAME.
    """
    check_has_use("replicas", "--ray", given=ray is not None)
    if ray is not None and is_given("log_format"):
        raise QueryError("--log-format does nothing with --ray, which keeps the log; leave it out")
    most_bytes = parse_bytes(max_upload, what="--max-upload")
    require_serve()  # before a model is offered or fetched
    settings = Settings(
        folder=folder or default_folder(),
        roots=roots or (Path(),),
        library=library,
        model=str(choose_model(model, yes=is_yes_given(), quiet=quiet)),
        device=device,
        precision=asked_precision(),
        host=host,
        port=port,
        allowed_hosts=allowed_hosts,
        workers=workers,
        encoders=max(1, usable_cores() // 2) if ray is None else replicas,
        answerers=1 if ray is None else replicas,
        model_idle_s=model_idle_s,
        batch_most=batch_most,
        private_addresses=private_addresses,
        rate=rate,
        max_upload_bytes=most_bytes,
        results_expiry_s=results_days * 86400,
    )
    _check_tokens(settings)
    if ray is not None:
        try:
            from r2rt.service.ray_serve import run as run_on_ray
        except ImportError as error:
            raise MissingExtraError(
                f"--ray needs {error.name}; pip install 'r2rt[ray-serve]'"
            ) from error
        run_on_ray(settings, ray, on_ready=functools.partial(note, quiet=quiet))
        return
    from r2rt.service.app import create_app
    from r2rt.service.logs import start_logging
    from r2rt.service.server import run

    app = create_app(settings)
    start_logging(log_format, logging.WARNING if quiet else logging.INFO)
    # The service has ended in order when a signal comes out of it.
    with contextlib.suppress(KeyboardInterrupt):
        run(app, on_ready=functools.partial(note, quiet=quiet))


def _check_tokens(settings: Settings) -> None:
    """Raise `ServiceStateError` if strangers could ask."""
    if is_loopback(settings.host):
        return
    from r2rt.service.database import Database
    from r2rt.service.tokens import Tokens

    database = Database(settings.folder / "service.db")
    try:
        if Tokens(database).any():
            return
    finally:
        database.close()
    raise ServiceStateError(
        f"{settings.host} is reached from other machines, and there is no token; "
        "r2rt tokens add NAME makes one"
    )


def require_serve() -> None:
    """Raise `MissingExtraError` if the packages of the extra `serve` are not installed."""
    try:
        import fastapi
        import mcp
        import prometheus_client
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(f"serving needs {error.name}; pip install 'r2rt[serve]'") from error
    del fastapi, mcp, prometheus_client, uvicorn
