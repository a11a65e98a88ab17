"""`r2rt tokens`: who may use the service."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from r2rt.cli.console import note, print_table, write_text
from r2rt.cli.serve import state_option
from r2rt.service.settings import default_folder

if TYPE_CHECKING:
    from r2rt.service.database import Database
    from r2rt.service.tokens import Scope

__all__ = ["tokens"]


@click.group()
def tokens() -> None:
    """Make, list and remove the tokens that let clients use r2rt serve."""


@tokens.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    default="write",
    show_default=True,
    help="read: ask and look; write: also add videos and submit jobs; admin: also watch.",
)
@state_option
def add(name: str, scope: str, folder: Path | None) -> None:
    """Make a token called NAME and print it, this once."""
    from r2rt.service.tokens import Tokens

    database = _open(folder)
    try:
        token = Tokens(database).add(name, (cast("Scope", scope),))
    finally:
        database.close()
    write_text(None, f"{token}\n")
    note("send it as Authorization: Bearer TOKEN; it is not shown again", quiet=False)


@tokens.command("list")
@state_option
def list_tokens(folder: Path | None) -> None:
    """List the names of all tokens and what they allow."""
    from r2rt.service.tokens import Tokens

    database = _open(folder)
    try:
        found = Tokens(database).all()
    finally:
        database.close()
    rows = [
        (item.name, " ".join(item.scopes), f"{datetime.fromtimestamp(item.created_at):%Y-%m-%d}")
        for item in found
    ]
    print_table(("name", "scope", "made on"), rows)


@tokens.command()
@click.argument("name")
@state_option
def remove(name: str, folder: Path | None) -> None:
    """Remove the token NAME; it is refused from now on."""
    from r2rt.service.tokens import Tokens

    database = _open(folder)
    try:
        Tokens(database).remove(name)
    finally:
        database.close()


def _open(folder: Path | None) -> Database:
    from r2rt.service.database import Database

    return Database((folder or default_folder()) / "service.db")
