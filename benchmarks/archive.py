"""A library's search at scale: recall, ranking, latency, size and memory, and what others do.

    python benchmarks/archive.py --bundle r2rt/demo --art art --corpus corpus --library library

The corpus is the one of `benchmarks.archive_material`. Rows of the same distribution are added
until the library is as long as each of `--grow`. Compared with, on the same queries and vectors:
grounding every window, cosine over frames, and cosine over chunks of 30 s. Searches run in a
process of their own; a cold one is new and reads files that the system does not have in memory.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import click
import numpy as np
from numpy.typing import NDArray

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.archive_cosine import Span, Unit, best_spans, rows_of
from benchmarks.archive_material import (
    DISTRACTOR,
    Corpus,
    CorpusQuery,
    Plan,
    corpus_options,
    distractors,
)
from benchmarks.archive_presence import calibrated_on_others, measure_presence
from benchmarks.archive_searcher import forget_files
from benchmarks.harness import Options, Report, common_options
from benchmarks.process import Worker, python
from benchmarks.results import Row, Value
from r2rt.archive import writer
from r2rt.archive.indices import update_indices
from r2rt.archive.library import Archive
from r2rt.archive.piece import Piece, clips_table, new_id, tokens_table
from r2rt.archive.scan import READY
from r2rt.archive.settings import Settings
from r2rt.archive.tables import Tables
from r2rt.archive.vectors import pooled
from r2rt.archive.writer import IndexOptions, Writer
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.grounder import Grounder
from training.world.sprites import Sprites

if TYPE_CHECKING:
    from r2rt.grounding.prediction import Prediction

__all__ = ["main"]

Floats = NDArray[np.float32]

_TOPS = (1, 5, 10)
_UNITS: tuple[Unit, ...] = ("frames", "chunks")
_WINDOWS = 20
_EVERY_WINDOW = 10**6
# Numbers of windows whose recall and time are compared.
_CURVE, _QUICK_CURVE = (1, 2, 5, 10, 20, 50, 100), (20, 100)
# Queries that the time of a number of windows is measured on.
_TIMED, _TIMED_EVERY = 20, 2
_COLD = 5
# Videos of a commit: 8,200 rows of tokens, 1.1 GB.
_BATCH_VIDEOS = 684


@click.command()
@common_options
@corpus_options
@click.option("--library", type=click.Path(path_type=Path), required=True)
@click.option("--grow", default="200,2000", show_default=True, help="Hours, comma-separated.")
@click.option("--queries", "count", type=int, default=100, show_default=True)
@click.option("--only", type=float, help="Measure the library as it is, of so many hours.")
def main(
    options: Options,
    bundle: Path,
    art: Path,
    folder: Path,
    library: Path,
    hours: float,
    grow: str,
    count: int,
    only: float | None,
) -> None:
    """Measure searches of a library while it grows; rows that are there are not written again."""
    report = Report("archive", options, hours=hours, grow=grow, queries=count)
    sprites = Sprites(art / "sprites.npz")
    corpus = Corpus(folder, Plan.of(hours), sprites)
    queries = corpus.queries(count)
    grounder = Grounder.load(bundle.resolve(), device="cpu")
    tables = _open(library, grounder)
    presence = calibrated_on_others(grounder, sprites, videos=5 if options.quick else 30)
    curve = _QUICK_CURVE if options.quick else _CURVE
    sizes = [hours, *(float(x) for x in grow.split(",") if x)] if only is None else [only]
    for size in sizes:
        videos: Iterable[EncodedVideo]
        if size == hours:
            videos = (EncodedVideo.load(corpus.path(name)) for name in corpus.plan.names())
            counts = [*curve, _EVERY_WINDOW]
        else:
            videos = _more(tables, corpus, size - _hours(tables))
            counts = list(curve)
        if only is None:
            _add(report, tables, grounder, videos, size)
        _cold_searches(report, library, grounder, queries, size)
        with _searcher(grounder, library) as searcher:
            _searches(report, searcher, library, queries, size)
            best = _curve(report, searcher, library, grounder, queries, counts, size)
        for unit in _UNITS:
            recall = _cosine_alone(report, tables, grounder, queries, unit, size)
            report.target(f"R@1 above cosine over {unit}, {size:g} h", best - recall, ">=", 10)
        measure_presence(
            report,
            library,
            grounder.bundle.path,
            presence,
            corpus,
            [query.text for query in queries],
            windows=_WINDOWS,
            hours=size,
        )
    report.finish()


def _open(library: Path, grounder: Grounder) -> Tables:
    if (tables := Tables.find(str(library))) is not None:
        return tables
    width = grounder.bundle.dims.embedding_width
    assert width is not None
    settings = Settings.of(grounder.bundle, model=str(grounder.bundle.path), width=width)
    return Tables.create(str(library), settings)


def _hours(tables: Tables) -> float:
    lengths_s: list[float] = tables.videos.rows(["duration_s"])["duration_s"].to_pylist()
    return sum(lengths_s) / 3600


def _more(tables: Tables, corpus: Corpus, hours: float) -> Iterable[EncodedVideo]:
    """Return distractors that come after those that are there."""
    first = len(tables.videos.rows(["path"], f"starts_with(path, '{DISTRACTOR}')"))
    return distractors(corpus, hours, first=first) if hours > 0 else ()


def _add(
    report: Report,
    tables: Tables,
    grounder: Grounder,
    videos: Iterable[EncodedVideo],
    hours: float,
) -> None:
    """Write the rows of encoded videos that are not there yet."""
    began, busy_s = time.perf_counter(), time.process_time()
    before = _hours(tables)
    there = set(tables.videos.rows(["path"])["path"].to_pylist())
    into = Writer(tables, {}, IndexOptions())
    # Files that need not be joined: those that are, remain on disk for some time.
    with (
        mock.patch.object(writer, "_BATCH_VIDEOS", _BATCH_VIDEOS),
        mock.patch.object(writer, "_BATCH_CLIPS", _EVERY_WINDOW),
        mock.patch.object(writer, "_BATCH_S", math.inf),
    ):
        for video in videos:
            if video.source not in there:
                into.take(_piece(tables.settings, grounder, video))
        into.flush()
    rows_s = time.perf_counter() - began
    update_indices(tables, thorough=True)
    values: dict[str, Value] = {
        "hours added": round(_hours(tables) - before, 1),
        "rows s": round(rows_s, 1),
        "indices s": round(time.perf_counter() - began - rows_s, 1),
        "CPU s": round(time.process_time() - busy_s, 1),
    }
    report.say(f"{hours:g} h: {values}")
    report.add(Row(group="writing rows", name=f"{hours:g} h", values=values))


def _piece(settings: Settings, grounder: Grounder, video: EncodedVideo) -> Piece:
    """Return the rows of an encoded video, as of a file of that name."""
    entry = new_id()
    assert video.embeddings is not None
    row = {
        "path": video.source,
        "content": entry,
        "words_key": "",
        "size": 0,
        "mtime_ns": 0,
        "tags": [],
        "indexed": "",
        "entry": entry,
        "words": None,
        "state": READY,
        "error": None,
        "duration_s": video.duration_s,
        "start_s": video.start_s,
        "clips": video.num_clips,
        "keep": "tokens",
        "date": None,
    }
    return Piece(
        row=row,
        clips=clips_table(entry, pooled(video.embeddings, settings.clips_per_vector)),
        tokens=tokens_table(entry, video, grounder.bundle.dims),
    )


def _searcher(grounder: Grounder, library: Path) -> Worker:
    return Worker(python("archive_searcher.py", grounder.bundle.path, library))


def _cold_searches(
    report: Report,
    library: Path,
    grounder: Grounder,
    queries: Sequence[CorpusQuery],
    hours: float,
) -> None:
    """Search once in each of a few new processes, of files that the system has to read."""
    seconds = []
    for query in queries[: 1 if report.options.quick else _COLD]:
        forget_files(library)
        began = time.perf_counter()
        with _searcher(grounder, library) as searcher:
            searcher.ask("search", text=query.text, windows=_WINDOWS)
            seconds.append(time.perf_counter() - began)
    values: dict[str, Value] = {
        "processes": len(seconds),
        "p50 s": round(statistics.median(seconds), 2),
        "slowest s": round(max(seconds), 2),
    }
    report.say(f"{hours:g} h, from the start of a process: {values}")
    report.add(Row(group="cold searches", name=f"{hours:g} h", values=values))
    report.target(f"first search of a new process, {hours:g} h, s", max(seconds), "<=", 3.0)


def _searches(
    report: Report,
    searcher: Worker,
    library: Path,
    queries: Sequence[CorpusQuery],
    hours: float,
) -> None:
    """Search everything, and report recall, latency, size and memory."""
    for query in queries[:_COLD]:
        searcher.ask("search", text=f"the {query.text}", windows=_WINDOWS)
    answers = [
        searcher.ask("search", text=query.text, top=max(_TOPS), windows=_WINDOWS)
        for query in queries
    ]
    memory = searcher.ask("memory")

    def quantile(name: str, share: float) -> float:
        return round(float(np.quantile([answer[name] for answer in answers], share)), 3)

    p95_s, resident = quantile("seconds", 0.95), memory.get("resident", 0) / 1e6
    sizes = _sizes(library)
    values: dict[str, Value] = {
        "queries": len(queries),
        **_recall(queries, [answer["spans"] for answer in answers]),
        "p50 s": quantile("seconds", 0.5),
        "p95 s": p95_s,
        "CPU p50 s": quantile("cpu_s", 0.5),
        "first stage p50 s": quantile("first_s", 0.5),
        "first stage p95 s": quantile("first_s", 0.95),
        "second stage p50 s": quantile("second_s", 0.5),
        **{f"{name} MB": round(size / 1e6, 1) for name, size in sizes.items()},
        **{f"{name} memory MB": round(size / 1e6) for name, size in memory.items()},
    }
    report.say(f"{hours:g} h: {values}")
    report.add(Row(group="search", name=f"{hours:g} h, {_WINDOWS} windows", values=values))
    report.target(f"p95 of a search, {hours:g} h, s", p95_s, "<=", 1.0)
    report.target(f"first stage on disk, {hours:g} h, MB", sizes["clips"] / 1e6, "<=", 4000)
    report.target(f"resident memory, {hours:g} h, MB", resident, "<=", 500)


def _curve(
    report: Report,
    searcher: Worker,
    library: Path,
    grounder: Grounder,
    queries: Sequence[CorpusQuery],
    counts: Sequence[int],
    hours: float,
) -> float:
    """Report recall and time by the number of windows that are grounded; return R@1 of the usual.

    What was grounded once is not grounded again; times are measured without that.
    """
    texts = [query.text for query in queries] if _EVERY_WINDOW in counts else []
    remembering = _Remembering(grounder, texts)
    recalls: dict[int, dict[str, float]] = {}
    times: dict[int, float] = {}
    with Archive.open(library, model=cast("Grounder", remembering)) as archive:
        for windows in sorted(counts, reverse=True):
            found = []
            for query in queries:
                result = archive.search(query.text, top=max(_TOPS), windows=windows)
                found.append([(hit.path, hit.start_s, hit.end_s) for hit in result])
            recalls[windows] = _recall(queries, found)
            report.say(f"{windows} windows: {recalls[windows]}")
    for windows in counts:
        some = queries[: _TIMED_EVERY if windows == _EVERY_WINDOW else _TIMED]
        asked = [searcher.ask("search", text=x.text, windows=windows)["seconds"] for x in some]
        times[windows] = statistics.median(asked)
        name = "every window" if windows == _EVERY_WINDOW else f"{windows} windows"
        values: dict[str, Value] = {**recalls[windows], "p50 s": round(times[windows], 3)}
        report.say(f"{name}: {values}")
        report.add(Row(group=f"windows grounded, {hours:g} h", name=name, values=values))
    if _EVERY_WINDOW in counts and recalls[_EVERY_WINDOW]["R@1"]:
        share = recalls[_WINDOWS]["R@1"] / recalls[_EVERY_WINDOW]["R@1"]
        report.target(f"R@1 of every window's, {hours:g} h", share, ">=", 0.98)
    return recalls[_WINDOWS]["R@1"]


class _Remembering:
    """A grounder that grounds a window once for each text, or once for all of some texts."""

    def __init__(self, grounder: Grounder, texts: Sequence[str]) -> None:
        self._grounder, self._texts = grounder, list(texts)
        self._known: dict[tuple[str, float, str], Prediction] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grounder, name)

    def ground(self, video: EncodedVideo, query: str, **options: Any) -> Prediction:
        key = video.source, video.start_s, query
        if key not in self._known:
            texts = self._texts or [query]
            for found in self._grounder.ground(video, texts, **options):
                # Searches use moments and evidence alone; the rest takes gigabytes.
                small = dataclasses.replace(
                    found, saliency=np.empty(0, np.float32), boundaries=np.empty((0, 3))
                )
                self._known[video.source, video.start_s, found.query] = small
        return self._known[key]


def _cosine_alone(
    report: Report,
    tables: Tables,
    grounder: Grounder,
    queries: Sequence[CorpusQuery],
    unit: Unit,
    hours: float,
) -> float:
    """Rank frames or chunks by their cosine, on the library's own vectors; return R@1."""
    row_s = tables.settings.clips_per_vector / float(grounder.bundle.fps)
    vectors = grounder.embed_text([query.text for query in queries])
    found = best_spans(rows_of(tables), vectors, unit=unit, row_s=row_s, top=max(_TOPS))
    values: dict[str, Value] = {"queries": len(queries), **_recall(queries, found)}
    report.say(f"{hours:g} h, cosine over {unit}: {values}")
    report.add(Row(group="search", name=f"{hours:g} h, cosine over {unit}", values=values))
    return float(values["R@1"])


def _recall(queries: Sequence[CorpusQuery], found: Sequence[Sequence[Span]]) -> dict[str, float]:
    """Return the percentage of queries with a right moment among the first ones, IoU 0.5."""
    ranks = [
        next((rank for rank, span in enumerate(spans) if _is_right(query, span)), max(_TOPS))
        for query, spans in zip(queries, found, strict=True)
    ]
    return {f"R@{top}": round(100 * float(np.mean(np.array(ranks) < top)), 2) for top in _TOPS}


def _is_right(query: CorpusQuery, span: Span) -> bool:
    name, start_s, end_s = span
    for first_s, last_s in query.spans_s.get(name, ()):
        common = min(end_s, last_s) - max(start_s, first_s)
        if common > 0 and common / (max(end_s, last_s) - min(start_s, first_s)) >= 0.5:
            return True
    return False


def _sizes(library: Path) -> Mapping[str, int]:
    """Return the bytes of each table."""
    return {
        table.name.removesuffix(".lance"): sum(
            file.stat().st_size for file in table.rglob("*") if file.is_file()
        )
        for table in sorted(library.glob("*.lance"))
    }


if __name__ == "__main__":
    main()
