"""Defaults for options from a TOML file: `$R2RT_CONFIG`, or config.toml in the user's folder.

A table is a command and a key is an option; `[defaults]` holds for every command that has the
option and can read its value::

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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
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

    Returns:
        Without those of `[defaults]` that this command cannot read and another one can.

    Raises:
        QueryError: the file names an option that there is not.
    """
    shared, own = config.get(_SHARED, {}), config.get(name, {})
    for title, table in ((_SHARED, shared), (name, own)):
        if not isinstance(table, dict):
            raise QueryError(f"{as_text(config_path())}: {title}: expected a table, [{title}]")

    def options(key: str) -> Iterator[click.Option]:
        yield from _options(command, key)  # first: the others may have to be imported
        for other in all_commands():
            yield from _options(other, key)

    mistaken: set[str] = set()  # values that no command can read; the one that runs says why
    for key, value in shared.items():
        if next(options(key), None) is None:
            raise _no_option(_SHARED, key, list(all_commands()))
        if not any(_reads(option, value) for option in options(key)):
            mistaken.add(key)
    given = _translated(own, command, name)
    if isinstance(command, click.Group):  # a table for each of its commands
        return {
            sub: _usable(shared, child, mistaken) | given.get(sub, {})
            for sub, child in command.commands.items()
        }
    return _usable(shared, command, mistaken) | given


def _usable(
    shared: Mapping[str, Any], command: click.Command, mistaken: Container[str]
) -> dict[str, Any]:
    """Return what holds for all, by click's names, without what only other commands can read."""
    return {
        option.name: _value(option, value)
        for key, value in shared.items()
        for option in _options(command, key)
        if option.name is not None and (key in mistaken or _reads(option, value))
    }


def _translated(table: Mapping[str, Any], command: click.Command, title: str) -> dict[str, Any]:
    """Return a command's own table by the names that click gives to options."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(command, click.Group):
            sub = command.commands.get(key)
            if sub is None or not isinstance(value, dict):
                raise _no_option(title, key, [command])
            found[key] = _translated(value, sub, f"{title}.{key}")
            continue
        option = next(_options(command, key), None)
        if option is None or option.name is None:
            raise _no_option(title, key, [command])
        found[option.name] = _value(option, value)
    return found


def _value(option: click.Option, value: Any) -> Any:
    """Return a value as click converts it: text, or a list of text for a repeatable option."""
    values = value if isinstance(value, list) else [value]
    texts = [item if isinstance(item, bool) and option.is_flag else str(item) for item in values]
    return texts if option.multiple else texts[0] if texts else None


def _reads(option: click.Option, value: Any) -> bool:
    """Return whether an option's type takes a value."""
    given = _value(option, value)
    try:
        for item in given if isinstance(given, list) else [given]:
            option.type(item, option)
    except click.BadParameter:
        return False
    return True


def _options(command: click.Command, key: str) -> Iterator[click.Option]:
    """Yield the option of a command, or of each command of a group, that a key names."""
    flag = f"--{key.replace('_', '-')}"
    children = command.commands.values() if isinstance(command, click.Group) else (command,)
    for child in children:
        for parameter in child.params:
            if isinstance(parameter, click.Option) and flag in parameter.opts:
                yield parameter


def _no_option(title: str, key: str, commands: Iterable[click.Command]) -> QueryError:
    names: set[str] = set()
    for command in commands:
        children = command.commands.values() if isinstance(command, click.Group) else (command,)
        for child in children:
            names.update(name[2:] for p in child.params for name in p.opts if name[:2] == "--")
    close = difflib.get_close_matches(key.replace("_", "-"), sorted(names), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return QueryError(f"{as_text(config_path())}: [{title}] {key}: there is no such option{hint}")
