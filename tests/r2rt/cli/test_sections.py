"""Help in sections: every option once, below the title of what it is about."""

from __future__ import annotations

import re

import click
import pytest

from r2rt.cli.main import cli
from r2rt.cli.sections import SectionedCommand

OWN = {
    "ground": {
        "--query",
        "--queries",
        "--top-k",
        "--min-score",
        "--then",
        "--within",
        "--sequence",
    },
    "highlights": {"--top", "--length", "--query"},
    "summarize": {"--length", "--query"},
    "watch": {"--query", "--queries", "--min-score", "--top-k"},
}


@pytest.mark.parametrize("name", OWN)
def test_every_option_is_listed_once_below_its_title(name: str) -> None:
    with click.Context(cli) as root:
        command = cli.get_command(root, name)
        assert isinstance(command, SectionedCommand)
        with click.Context(command, parent=root, info_name=name) as context:
            text = command.get_help(context)
            parameters = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    sections = re.split(r"(?m)^(\S.*):$", text)
    listed: dict[str, list[str]] = {
        title: re.findall(r"(?m)^  (?:-\w, |    )?(--[\w-]+)", body)
        for title, body in zip(sections[1::2], sections[2::2], strict=True)
    }
    long_names = [next(o for o in p.opts if o.startswith("--")) for p in parameters]
    assert sorted(option for options in listed.values() for option in options) == sorted(long_names)
    assert set(listed["Options"]) == OWN[name]
    assert text.split("\nOptions:\n")[1].lstrip().startswith("-")  # no row for an argument
    assert "--model" in listed["Model"]
    assert "--output" in listed["Results"]
    assert "--quiet" in listed["Other"]
