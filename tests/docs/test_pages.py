"""The pages name every exit code, environment variable and runnable example that exists."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
import runpy
from collections.abc import Iterator
from typing import get_args

import click
import jsonschema
import pytest

from r2rt.errors import R2rtError, exit_codes
from r2rt.outputs import FORMATS, Answers, render
from r2rt.outputs.csv_format import COLUMNS
from r2rt.video import Departures
from tests.conftest import CHECKOUT
from tests.r2rt.answers import moments, prediction

DOCS = CHECKOUT / "docs"
RUNTIME = CHECKOUT / "r2rt"
TOOLS = ("training", "export", "kernels")


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_every_exit_code_of_the_runtime_has_a_section() -> None:
    sections = dict(re.findall(r"^### (\d+) (\w+)$", page("reference/errors.md"), re.MULTILINE))
    assert {int(code) for code in sections} == set(exit_codes())
    errors = importlib.import_module("r2rt.errors")
    for code, name in sections.items():
        error: object = getattr(errors, name, None)
        if code not in ("0", "130"):
            assert isinstance(error, type)
            assert issubclass(error, R2rtError)
            assert error.exit_code == int(code)


def test_every_failure_has_a_cause_and_a_remedy() -> None:
    _, *sections = page("reference/errors.md").partition("## Development")[0].split("\n### ")
    for section in sections:
        if not section.startswith(("0 ", "130 ")):
            title, cause, remedy = filter(None, section.split("\n"))
            assert cause.endswith("."), title
            assert remedy.startswith("*What to do:* "), title


def test_every_exit_code_of_the_development_tools_is_in_the_table() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page("reference/errors.md"), re.MULTILINE)
    assert {(name, int(code)) for code, name in rows} == set(tool_errors())


def tool_errors() -> Iterator[tuple[str, int]]:
    """Yield the class and code of every error that the development tools define."""
    for path in (path for folder in TOOLS for path in (CHECKOUT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for line in node.body if isinstance(node, ast.ClassDef) else ():
                match line:
                    case (
                        ast.Assign(targets=[ast.Name("exit_code")], value=ast.Constant(code))
                        | ast.AnnAssign(target=ast.Name("exit_code"), value=ast.Constant(code))
                    ):
                        assert isinstance(node, ast.ClassDef)
                        assert isinstance(code, int)
                        yield node.name, code


def test_every_environment_variable_of_the_package_is_listed() -> None:
    listed = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", page("reference/environment.md")))
    sources = [path.read_text(encoding="utf-8") for path in RUNTIME.rglob("*.py")]
    read = {name for text in sources for name in re.findall(r"\b(?:R2RT|HF)_[A-Z_]+\b", text)}
    assert read <= listed
    ours = {name for name in listed if name.startswith("R2RT_")}
    tools = [path.read_text(encoding="utf-8") for path in CHECKOUT.glob("[b-t]*/**/*.py")]
    assert all(any(name in text for text in (*sources, *tools)) for name in ours)


def test_the_command_line_page_has_every_command_and_option() -> None:
    text = runpy.run_path(str(DOCS / "build.py"))["cli_page"]()
    for path, command in commands():
        assert f"## r2rt {path}\n" in text
        section = text.split(f"## r2rt {path}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert max(parameter.opts, key=len) in section, f"{path}: {parameter.opts}"


def commands() -> Iterator[tuple[str, click.Command]]:
    from r2rt.cli.main import cli

    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", item) for below, item in command.commands.items())
        else:
            yield name, command


def test_the_python_page_has_every_public_name() -> None:
    import r2rt

    documented = set(re.findall(r"^::: r2rt\.(\w+)$", page("reference/python.md"), re.MULTILINE))
    assert documented == set(r2rt.__all__)


def test_every_format_is_on_a_page() -> None:
    for_editors = page("guides/editor.md")
    others = page("reference/json.md") + page("guides/engineer.md")
    for name in FORMATS.keys() - {"table", "json"}:
        assert f"`-f {name}`" in for_editors or f"`{name}`" in others, name


def test_the_bundle_page_has_every_field_and_limit_of_a_manifest() -> None:
    from r2rt.model import contract, manifest, manifest_limits

    text = page("reference/bundle.md")
    kinds = (manifest.Manifest, contract.ModelDims, manifest.Nms, manifest.Preprocessing)
    for struct in kinds:
        for field in struct.__annotations__:
            assert f"`{field}`" in text, f"{struct.__name__}.{field}"
    numbers = {int(number.replace(",", "")) for number in re.findall(r"\b[\d,]*\d\b", text)}
    values = vars(manifest) | vars(manifest_limits)
    limits = {name: value for name, value in values.items() if "MAX_" in name}
    for name, value in limits.items():
        for limit in value.values() if isinstance(value, dict) else (value,):
            assert int(limit) in numbers, name


def test_the_json_page_has_every_field() -> None:
    found = moments((1.0, 2.0, 0.5))
    document = json.loads(render("json", Answers.of([prediction(moments=found)])))
    fields = {name for name, _ in walk(document)}
    text = page("reference/json.md")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.S)
    assert {name for name, _ in walk(json.loads(example))} == fields
    schema = RUNTIME / "outputs" / "schema" / "answers.schema.json"
    jsonschema.validate(json.loads(example), json.loads(schema.read_text(encoding="utf-8")))
    assert {name for name in fields if f"`{name}`" not in text.split("```")[-1]} <= {
        *("encode_s", "text_s", "ground_s", "score"),  # described with the object they belong to
    }


def test_the_json_page_has_every_column_of_csv() -> None:
    text = page("reference/json.md").split("## The other formats")[1]
    assert re.findall(r"`(\w+)`", text.split("`csv`")[1])[: len(COLUMNS)] == list(COLUMNS)


def test_the_json_page_has_every_departure() -> None:
    text = page("reference/json.md").split("## Departures")[1]
    for field in dataclasses.fields(Departures):
        assert f"`{field.name}`" in text, field.name


def test_the_live_page_has_every_field_of_an_event() -> None:
    from r2rt.live import events

    text = page("guides/live.md")
    for kind in get_args(events.Event):
        assert kind.kind in text
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in text, f"{kind.kind}: {field.name}"
    assert all(f"`{reason}`" in text for reason in get_args(events.CloseReason))
    assert all(f"`{what}`" in text for what in get_args(events.DroppedKind))


def walk(value: object) -> Iterator[tuple[str, object]]:
    """Yield every field of a JSON document, at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name, item
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_the_readme_code_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(CHECKOUT)
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    first = capsys.readouterr().out.splitlines()[0]
    found = re.match(r"([\d.]+) to ([\d.]+) s, score [\d.]+$", first)
    assert found is not None, first
    queries = json.loads((CHECKOUT / "demo" / "emoji.json").read_text(encoding="utf-8"))["queries"]
    ((start_s, end_s),) = next(q["true_s"] for q in queries if q["query"] == "a panda")
    assert float(found[1]) == pytest.approx(start_s, abs=1.5)
    assert float(found[2]) == pytest.approx(end_s, abs=1.5)


def test_the_examples_are_listed_where_they_are_looked_for() -> None:
    scripts = {path.name for path in (CHECKOUT / "examples").glob("*.py")}
    for text in (
        page("guides/engineer.md"),
        (CHECKOUT / "examples" / "README.md").read_text(encoding="utf-8"),
    ):
        assert set(re.findall(r"`(?:examples/)?(\w+\.py)`", text)) == scripts


def test_no_page_has_a_relative_link_that_leaves_the_site() -> None:
    """Links into the repository would be dead on the site."""
    for path in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).resolve().is_relative_to(DOCS), f"{path}: {target}"


def test_every_relative_link_of_the_other_texts_leads_somewhere() -> None:
    texts = [
        *CHECKOUT.glob("*.md"),
        *(
            path
            for folder in ("training", "kernels", "benchmarks", "examples", "r2rt", "containers")
            for path in (CHECKOUT / folder).rglob("*.md")
        ),
    ]
    for path in texts:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.relative_to(CHECKOUT)}: {target}"
