"""Build the documentation site: `python docs/build.py`, or `make docs`.

The pages are the Markdown files of this folder and one that is generated, the command line
reference, from the commands themselves. Everything is put together in `build/docs`, where Zensical
builds `build/docs/site`. A warning, such as a link to a page or heading that does not exist, fails
the build.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

DOCS = Path(__file__).resolve().parent
CHECKOUT = DOCS.parent
_COPIED = {".md", ".svg", ".png", ".css", ".json"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the site and return Zensical's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build" / "docs")
    folder = parser.parse_args(arguments).output.resolve()
    write_sources(folder)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(
        [*command, "--config-file", str(folder / "zensical.toml")], cwd=folder, check=False
    ).returncode


def write_sources(folder: Path) -> None:
    """Write configuration and pages into `folder`, replacing those of an earlier build."""
    pages = folder / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    for path in sorted(DOCS.rglob("*")):
        if path.is_file() and path.suffix in _COPIED:
            target = pages / path.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for name in ("timeline.png", "contact-sheet.png", "report.png"):
        shutil.copyfile(CHECKOUT / "demo" / "examples" / name, pages / "images" / name)
    for schema in sorted((CHECKOUT / "r2rt" / "outputs").rglob("schema/*.json")):
        shutil.copyfile(schema, pages / "reference" / schema.name)
    (pages / "reference" / "cli.md").write_text(cli_page(), encoding="utf-8")
    config = (DOCS / "zensical.toml").read_text(encoding="utf-8")
    config = config.replace('paths = ["../.."]', f"paths = [{str(CHECKOUT)!r}]")
    (folder / "zensical.toml").write_text(config, encoding="utf-8")


def cli_page() -> str:
    """Return the command line reference, one section for each command."""
    sys.path.insert(0, str(CHECKOUT))
    cli: click.Group = importlib.import_module("r2rt.cli.main").cli
    parts = [
        "# Command line\n",
        "Results go to stdout; messages and a progress bar go to stderr. Every command has",
        "`--help`. [Errors and exit codes](errors.md) lists the exit codes.\n",
    ]
    parts += map(_section, _commands(click.Context(cli, info_name="r2rt")))
    return "\n".join(parts)


def _commands(context: click.Context) -> Iterator[click.Context]:
    """Yield a context for every command below `context` that is not a group, in order."""
    command = context.command
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from _commands(click.Context(below, info_name=name, parent=context))


def _section(context: click.Context) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"## {context.command_path}\n", _paragraphs(command.help or "")]
    lines += ["```text", usage, "```\n"]
    for parameter in command.get_params(context):
        option, meaning = parameter.get_help_record(context) or ("", "")
        if meaning:
            lines.append(f"`{option}`\n:   {_escaped(' '.join(meaning.split()))}\n")
    return "\n".join([*lines, ""])


def _paragraphs(text: str) -> str:
    text = text.replace("\b\n", "").partition("\f")[0]
    blocks = (" ".join(block.split()) for block in text.strip().split("\n\n"))
    return "\n\n".join(_escaped(block) for block in blocks) + "\n"


def _escaped(text: str) -> str:
    """Return text in which Markdown finds no HTML and no emphasis outside of code spans."""
    parts = text.split("`")
    parts[::2] = [
        part.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")
        for part in parts[::2]
    ]
    return "`".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
