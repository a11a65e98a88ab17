"""A library's search at scale: recall, ranking, latency, size and memory, and what others do.

    python benchmarks/archive.py --bundle r2rt/demo --art art --corpus corpus --library library

The corpus is the one of `benchmarks.archive_material`. Rows of the same distribution are added
until the library is as long as each of `--grow`. Compared with, on the same vectors and queries:
grounding every window, cosine over frames, and cosine over chunks of 30 s.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.archive_material import Corpus, CorpusQuery, Plan, distractors
from benchmarks.harness import Options, Report, common_options
from benchmarks.results import Row
from r2rt.archive.index import IndexOptions, Writer
from r2rt.archive.indices import update_indices
from r2rt.archive.library import Archive
from r2rt.archive.piece import Piece, _clips_table, _tokens_table, new_id
from r2rt.archive.scan import READY
from r2rt.archive.settings import Settings
from r2rt.archive.tables import Tables, is_library
from r2rt.archive.vectors import normalized, pooled
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.grounder import Grounder
from training.world.sprites import Sprites

if TYPE_CHECKING:
    from r2rt.archive.result import SearchResult

__all__ = ["main"]

Floats = NDArray[np.float32]
Span = tuple[str, float, float]

_TOPS = (1, 5, 10)
_WINDOWS = 20
_EVERY_WINDOW = 10**6
_CHUNK_S = 30.0


@click.command()
@common_options
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--art", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--corpus", "folder", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--library", type=click.Path(path_type=Path), required=True)
@click.option("--hours", type=float, default=20.0, show_default=True, help="Of the corpus.")
@click.option("--grow", default="200,2000", show_default=True, help="Hours, comma-separated.")
@click.option("--queries", "count", type=int, default=200, show_default=True)
@click.option("--exhaustive", type=int, default=40, show_default=True, help="Queries of these.")
def main(
    options: Options,
    bundle: Path,
    art: Path,
    folder: Path,
    library: Path,
    hours: float,
    grow: str,
    count: int,
    exhaustive: int,
) -> None:
    """Measure searches of a library."""
    report = Report("archive", options, hours=hours, grow=grow, queries=count)
    corpus = Corpus(folder, Plan.of(hours), Sprites(art / "sprites.npz"))
    queries = corpus.queries(count)
    grounder = Grounder.load(bundle.resolve(), device="cpu")
    tables = _open(library, grounder)
    began, cpu = time.perf_counter(), time.process_time()
    added_s = _add(tables, grounder, (_named(corpus, name) for name in corpus.plan.names()))
    report.say(f"{added_s / 3600:.1f} h in {time.perf_counter() - began:.0f} s")
    values = {"seconds": round(time.perf_counter() - began, 1), "CPU s": time.process_time() - cpu}
    report.add(Row(group="writing rows", name=f"{hours:g} h", values=values))
    found = _searches(report, library, grounder, queries, hours, _WINDOWS)
    _compare_all(report, library, grounder, queries[:exhaustive], found)
    _baselines(report, corpus, grounder, queries)
    for target in [float(x) for x in grow.split(",") if x]:
        _grow(tables, grounder, corpus, target)
        _searches(report, library, grounder, queries, target, _WINDOWS)
    report.finish()


def _open(library: Path, grounder: Grounder) -> Tables:
    if is_library(str(library)):
        return Tables.open(str(library))
    width = grounder.bundle.dims.embedding_width
    assert width is not None
    settings = Settings.of(grounder.bundle, model=str(grounder.bundle.path), width=width)
    return Tables.create(str(library), settings)


def _named(corpus: Corpus, name: str) -> EncodedVideo:
    return EncodedVideo.load(corpus.path(name))


def _add(tables: Tables, grounder: Grounder, videos: Iterable[EncodedVideo]) -> float:
    """Write the rows of encoded videos that are not there yet; return the seconds of all videos."""
    there = set(tables.videos.rows(["path"]).column("path").to_pylist())
    writer = Writer(tables, {}, IndexOptions())
    length_s = 0.0
    for video in videos:
        length_s += video.duration_s
        if video.source not in there:
            writer.take(_piece(tables.settings, grounder, video))
    writer.flush()
    update_indices(tables, thorough=True)
    return length_s


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
        clips=_clips_table(entry, pooled(video.embeddings, settings.clips_per_vector)),
        tokens=_tokens_table(entry, video, grounder.bundle.dims),
    )


def _grow(tables: Tables, grounder: Grounder, corpus: Corpus, hours: float) -> None:
    """Add distractors until the library is so long."""
    there_s = sum(tables.videos.rows(["duration_s"]).column("duration_s").to_pylist())
    missing = hours - there_s / 3600
    if missing > 0:
        _add(tables, grounder, distractors(corpus, missing, seed=round(hours)))


def _searches(
    report: Report,
    library: Path,
    grounder: Grounder,
    queries: Sequence[CorpusQuery],
    hours: float,
    windows: int,
) -> list[list[Span]]:
    """Search everything, and report recall, latency, size and memory."""
    began = time.perf_counter()
    with Archive.open(library, model=grounder) as archive:
        archive.search(queries[0].text, windows=windows)
        cold_s = time.perf_counter() - began
        times, cpu, stages, found = [], [], [], []
        for query in queries:
            began, busy = time.perf_counter(), time.process_time()
            result = archive.search(query.text, top=max(_TOPS), windows=windows)
            times.append(time.perf_counter() - began)
            cpu.append(time.process_time() - busy)
            stages.append((result.timings.first_s, result.timings.second_s))
            found.append(_spans(result))
    first_s, second_s = np.median(np.array(stages), axis=0)
    values: dict[str, float | int | str] = {
        "hours": hours,
        "queries": len(queries),
        **_recall(queries, found),
        "p50 s": round(statistics.median(times), 3),
        "p95 s": round(float(np.quantile(times, 0.95)), 3),
        "CPU p50 s": round(statistics.median(cpu), 3),
        "first stage s": round(float(first_s), 3),
        "second stage s": round(float(second_s), 3),
        "cold s": round(cold_s, 2),
        **{f"{name} MB": round(size / 1e6, 1) for name, size in _sizes(library).items()},
        "resident MB": round(_resident_bytes() / 1e6),
    }
    report.say(f"{values}")
    report.add(Row(group="search", name=f"{hours:g} h, {windows} windows", values=values))
    report.target(f"p95 of a search of {hours:g} h, s", float(values["p95 s"]), "<=", 1.0)
    report.target(f"first search of {hours:g} h, s", cold_s, "<=", 3.0)
    return found


def _compare_all(
    report: Report,
    library: Path,
    grounder: Grounder,
    queries: Sequence[CorpusQuery],
    fast: Sequence[list[Span]],
) -> None:
    """Ground every window for some queries, and compare recall and time."""
    with Archive.open(library, model=grounder) as archive:
        times, found = [], []
        for query in queries:
            began = time.perf_counter()
            result = archive.search(query.text, top=max(_TOPS), windows=_EVERY_WINDOW)
            times.append(time.perf_counter() - began)
            found.append(_spans(result))
    every, some = _recall(queries, found), _recall(queries, fast[: len(queries)])
    values: dict[str, float | int | str] = {
        "queries": len(queries),
        **every,
        "seconds": round(statistics.median(times), 2),
        **{f"{name}, 20 windows": value for name, value in some.items()},
    }
    report.say(f"every window: {values}")
    report.add(Row(group="search", name="every window", values=values))
    if every["R@1"]:
        report.target(
            "R@1, relative to grounding every window", some["R@1"] / every["R@1"], ">=", 0.98
        )


def _baselines(
    report: Report, corpus: Corpus, grounder: Grounder, queries: Sequence[CorpusQuery]
) -> None:
    """Rank frames and chunks of 30 s by their cosine, on the same vectors."""
    fps = float(grounder.bundle.fps)
    names = corpus.plan.names()
    vectors = {name: normalized(_embeddings(_named(corpus, name))) for name in names}
    length = round(_CHUNK_S * fps)
    for what in ("frames", "chunks of 30 s"):
        found = []
        for query in queries:
            text = normalized(grounder.embed_text([query.text]))[0]
            ranked: list[tuple[float, Span]] = []
            for name, rows in vectors.items():
                scores = rows @ text
                spans = _peaks(scores) if what == "frames" else _chunks(scores, length)
                ranked += [(score, (name, start / fps, end / fps)) for score, start, end in spans]
            ranked.sort(key=lambda item: -item[0])
            found.append([span for _, span in ranked[: max(_TOPS)]])
        values: dict[str, float | int | str] = {"queries": len(queries), **_recall(queries, found)}
        report.say(f"cosine over {what}: {values}")
        report.add(Row(group="search", name=f"cosine over {what}", values=values))


def _embeddings(video: EncodedVideo) -> Floats:
    assert video.embeddings is not None
    return np.asarray(video.embeddings)


def _peaks(scores: Floats) -> list[tuple[float, int, int]]:
    """Return the best frame of a video, with the frames around it above half of its height."""
    best = int(scores.argmax())
    above = scores > (scores[best] + scores.mean()) / 2
    start, end = best, best + 1
    while start and above[start - 1]:
        start -= 1
    while end < len(scores) and above[end]:
        end += 1
    return [(float(scores[best]), start, end)]


def _chunks(scores: Floats, length: int) -> list[tuple[float, int, int]]:
    """Return every chunk of a video with the mean of its scores."""
    starts = range(0, len(scores), length)
    ends = [min(start + length, len(scores)) for start in starts]
    return [(float(scores[a:b].mean()), a, b) for a, b in zip(starts, ends, strict=True)]


def _spans(result: SearchResult) -> list[Span]:
    return [(hit.path, hit.start_s, hit.end_s) for hit in result]


def _recall(queries: Sequence[CorpusQuery], found: Sequence[list[Span]]) -> dict[str, float]:
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
        for table in sorted(library.iterdir())
        if table.is_dir()
    }


def _resident_bytes() -> int:
    """Return what the process holds in memory now (Linux; 0 elsewhere)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
