"""Which vector index the first stage should have: size, time to build, time and recall of a search.

    python benchmarks/archive_indices.py --bundle r2rt/demo --art art --corpus corpus \
        --library library

The vectors are those of a library that `benchmarks/archive.py` made. Recall is the share of the 20
windows that comparing with every vector finds.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.archive_material import Corpus, Plan, corpus_options
from benchmarks.harness import Options, Report, common_options
from benchmarks.results import Row, Value
from r2rt.archive.candidates import FirstStage
from r2rt.archive.indices import ROWS_A_PARTITION, VECTOR_INDEX
from r2rt.archive.tables import Tables
from r2rt.archive.vectors import Floats
from r2rt.grounding.grounder import Grounder
from training.world.sprites import Sprites

__all__ = ["main"]

_WINDOWS = 20
_KINDS: dict[str, dict[str, Any]] = {
    "none, every vector": {},
    "IVF_RQ, 1 bit": {"index_type": "IVF_RQ", "num_bits": 1},
    "IVF_RQ, 5 bits": {"index_type": "IVF_RQ", "num_bits": 5},
    "IVF_PQ, 16 parts": {"index_type": "IVF_PQ", "num_sub_vectors": 16},
    "IVF_PQ, 32 parts": {"index_type": "IVF_PQ", "num_sub_vectors": 32},
    "IVF_SQ": {"index_type": "IVF_SQ"},
}


@click.command()
@common_options
@corpus_options
@click.option("--library", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--queries", "count", type=int, default=50, show_default=True)
@click.option("--kind", "kinds", multiple=True, help="Of the kinds, besides comparing with all.")
def main(
    options: Options,
    bundle: Path,
    art: Path,
    folder: Path,
    library: Path,
    hours: float,
    count: int,
    kinds: tuple[str, ...],
) -> None:
    """Compare vector indices on a copy of a library's vectors."""
    report = Report("archive_indices", options, queries=count)
    corpus = Corpus(folder, Plan.of(hours), Sprites(art / "sprites.npz"))
    with Grounder.load(bundle.resolve(), device="cpu") as grounder:
        queries = grounder.embed_text([query.text for query in corpus.queries(count)])
    tables = Tables.open(str(library))
    videos = tables.videos.rows(["entry", "clips"])
    clips = dict(zip(videos["entry"].to_pylist(), videos["clips"].to_pylist(), strict=True))
    exact: list[set[tuple[str, int]]] = []
    for name, kind in _KINDS.items():
        if kind and kinds and name not in kinds:
            continue
        with tempfile.TemporaryDirectory(dir=library.parent) as copy:
            values, found = _measure(tables, Path(copy, "library"), kind, queries, clips)
        exact = exact or found
        shares = [len(mine & best) / len(best) for mine, best in zip(found, exact, strict=True)]
        values["recall of 20 windows"] = round(float(np.mean(shares)), 4)
        report.say(f"{name}: {values}")
        rows = tables.clips.latest().count_rows()
        report.add(Row(group=f"{rows} vectors", name=name, values=values))
    report.finish()


def _measure(
    tables: Tables, copy: Path, kind: dict[str, Any], queries: Floats, clips: dict[str, int]
) -> tuple[dict[str, Value], list[set[tuple[str, int]]]]:
    """Return what an index takes, and the windows that are found for each query."""
    shutil.copytree(Path(tables.root, "clips.lance"), copy / "clips.lance")
    for name in ("videos", "tokens", "subtitles"):
        empty = getattr(tables, name).latest().schema.empty_table()
        _write(copy / f"{name}.lance", empty)
    made = Tables.open(str(copy))
    for index in made.clips.latest().describe_indices():
        if index.name == VECTOR_INDEX:
            made.clips.commit(lambda dataset: dataset.drop_index(VECTOR_INDEX))
    rows = made.clips.latest().count_rows()
    began, before = time.perf_counter(), _index_bytes(copy)
    if kind:
        partitions = max(1, 2 ** round(math.log2(rows / ROWS_A_PARTITION)))
        options = {"name": VECTOR_INDEX, "metric": "cosine", "num_partitions": partitions, **kind}
        made.clips.commit(lambda dataset: dataset.create_index("vector", **options))
    built_s = time.perf_counter() - began
    stage = FirstStage(made)
    times: list[float] = []
    found: list[set[tuple[str, int]]] = []
    for turn in range(2):  # the first round fills the caches
        found, times = [], []
        for query in queries[: len(queries) if turn else 5]:
            began = time.perf_counter()
            best = stage.candidates(query[None], clips, windows=_WINDOWS, filtered=False)
            times.append(time.perf_counter() - began)
            found.append({(item.entry, item.window.start_clip) for item in best})
    values: dict[str, Value] = {
        "built s": round(built_s, 1),
        "index MB": round((_index_bytes(copy) - before) / 1e6, 1),
        "p50 ms": round(1000 * float(np.median(times)), 1),
        "p95 ms": round(1000 * float(np.quantile(times, 0.95)), 1),
    }
    return values, found


def _write(path: Path, table: Any) -> None:
    import lance

    lance.write_dataset(table, str(path))


def _index_bytes(library: Path) -> int:
    folder = library / "clips.lance" / "_indices"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
