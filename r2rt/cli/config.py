"""Defaults for options from a TOML file: `$R2RT_CONFIG`, or config.toml in the user's folder.

A table is a command and a key is an option; `[defaults]` holds for every command that has the
option::

    [defaults]
    model = "qvhighlights"

    [ground]
    top-k = 3
    format = ["json"]
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from r2rt.errors import QueryError
from r2rt.files import as_text
from r2rt.user_folders import user_config, user_path

__all__ = ["VARIABLE", "config_path", "defaults_of", "read_config"]

VARIABLE = "R2RT_CONFIG"
_SHARED = "defaults"


def config_path() -> Path:
    """Return where the file is, whether it is there or not."""
    named = os.environ.get(VARIABLE)
    if named:
        return user_path(named)
    return user_config() / "config.toml"


def read_config() -> dict[str, Any]:
    """Return the content of the file; empty if there is none, unless `$R2RT_CONFIG` names it.

    Raises:
        QueryError: it cannot be read, or is not TOML.
    """
    path = config_path()
    try:
        content = path.read_bytes()
    except OSError as error:
        if os.environ.get(VARIABLE):
            raise QueryError(
                f"{VARIABLE}={as_text(path)}: cannot be read ({error.strerror})"
            ) from error
        return {}
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise QueryError(f"{as_text(path)}: not TOML: {error}") from error


def defaults_of(
    config: Mapping[str, Any],
    name: str,
    command: click.Command,
    all_commands: Callable[[], Iterable[click.Command]],
) -> dict[str, Any]:
    """Return the defaults of a command, as click's `default_map` of it.

    Args:
        config: the file's content.
        name: the command's name.
        command: the command.
        all_commands: returns every command, to check a default that this one has no option for.

    Raises:
        QueryError: the file names an option that there is not.
    """
    shared, own = config.get(_SHARED, {}), config.get(name, {})
    for title, table in ((_SHARED, shared), (name, own)):
        if not isinstance(table, dict):
            raise QueryError(f"{as_text(config_path())}: {title}: expected a table, [{title}]")
    found = _translated(shared, command, None)
    unknown = [key for key in shared if not _has_option(command, key)]
    if unknown:
        commands = list(all_commands())
        for key in unknown:
            if not any(_has_option(other, key) for other in commands):
                raise _no_option(_SHARED, key, commands)
    given = _translated(own, command, name)
    if isinstance(command, click.Group):  # a table for each of its commands
        return found | {sub: {**found.get(sub, {}), **table} for sub, table in given.items()}
    return found | given


def _translated(
    table: Mapping[str, Any], command: click.Command, title: str | None
) -> dict[str, Any]:
    """Return a table by the names that click gives to options; `title` None skips unknown keys."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(command, click.Group):
            sub = command.commands.get(key)
            if sub is not None and isinstance(value, dict):
                found[key] = _translated(value, sub, f"{title}.{key}")
            elif title is None:
                for other, child in command.commands.items():
                    if _has_option(child, key):
                        found.setdefault(other, {}).update(_translated({key: value}, child, None))
            else:
                raise _no_option(title, key, [command])
            continue
        option = _option(command, key)
        if option is not None and option.name is not None:
            found[option.name] = _value(option, value)
        elif title is not None:
            raise _no_option(title, key, [command])
    return found


def _value(option: click.Option, value: Any) -> Any:
    """Return a value as click converts it: text, or a list of text for a repeatable option."""
    values = value if isinstance(value, list) else [value]
    texts = [item if isinstance(item, bool) else str(item) for item in values]
    return texts if option.multiple else texts[0] if texts else None


def _option(command: click.Command, key: str) -> click.Option | None:
    flag = f"--{key.replace('_', '-')}"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and flag in parameter.opts:
            return parameter
    return None


def _has_option(command: click.Command, key: str) -> bool:
    if isinstance(command, click.Group):
        return any(_has_option(child, key) for child in command.commands.values())
    return _option(command, key) is not None


def _no_option(title: str, key: str, commands: Iterable[click.Command]) -> QueryError:
    names: set[str] = set()
    for command in commands:
        children = command.commands.values() if isinstance(command, click.Group) else (command,)
        for child in children:
            names.update(name[2:] for p in child.params for name in p.opts if name[:2] == "--")
    close = difflib.get_close_matches(key.replace("_", "-"), sorted(names), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return QueryError(f"{as_text(config_path())}: [{title}] {key}: there is no such option{hint}")
