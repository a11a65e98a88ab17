"""A report as tables for a person."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import Results, Row

__all__ = ["format_seconds", "print_report"]


def print_report(report: Results, record: dict[str, Any]) -> None:
    """Print every group's table, the promises, and what they were measured with."""
    console = Console(width=118, highlight=False)
    for group in dict.fromkeys(row.group for row in report.rows):
        rows = [row for row in report.rows if row.group == group]
        console.print(_table(group, rows))
    if report.targets:
        table = Table(
            "promise", "measured", "limit", "", title="It must show", title_justify="left"
        )
        for target in report.targets:
            limit = f"{'at least' if target.sense == '>=' else 'at most'} {target.limit:g}"
            table.add_row(
                target.what, f"{target.value:.3g}", limit, "met" if target.met else "NOT MET"
            )
        console.print(table)
    for skip in report.skips:
        console.print(f"skipped {skip.group}, {skip.name}: {skip.reason}", markup=False)
    machine = record["machine"]
    memory = (machine["memory_bytes"] or 0) / 2**30
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {memory:.0f} GiB, load {machine['load_1min']}"
        f" at the start; commit {record['commit']}; "
        + ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        markup=False,
    )


def format_seconds(seconds: float) -> str:
    """Return a time with three digits and a unit that suits it."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _table(group: str, rows: list[Row]) -> Table:
    timed = any(row.seconds for row in rows)
    compared = any(row.speedup for row in rows)
    headings = list(dict.fromkeys(name for row in rows for name in row.values))
    table = Table(title=group, title_justify="left")
    table.add_column("", overflow="fold")
    for heading in (
        *(("p50", "p95") if timed else ()),
        *(("times as fast",) if compared else ()),
        *headings,
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [row.name]
        if timed:
            cells += _times(row)
        if compared:
            cells.append("" if row.speedup is None else f"{row.speedup:.3g}")
        cells += [_cell(row.values.get(heading, "")) for heading in headings]
        table.add_row(*cells)
    return table


def _times(row: Row) -> list[str]:
    if row.seconds is None:
        return ["", ""]
    return [format_seconds(row.seconds.p50_s), format_seconds(row.seconds.p95_s)]


def _cell(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
