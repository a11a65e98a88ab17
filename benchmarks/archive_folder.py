"""A folder of short videos, as a user has one: indexed, searched, changed, and indexed again.

    python benchmarks/archive_folder.py --bundle r2rt/demo --art art --folder folder --videos 1000

Every step is a command of its own, `r2rt index` or `r2rt search`. Videos are drawn from the emoji
world, each from its own seed, and kept in `--folder`; the library is made anew.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path

import click

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.harness import Options, Report, common_options
from benchmarks.process import Child, run_child
from benchmarks.results import Row, Value
from r2rt.archive.library import Archive
from r2rt.archive.tables import folder_bytes
from training.demo.testset import AskedVideo, sample_test_videos
from training.world.claims import spans_of
from training.world.sprites import Sprites
from training.world.videos import Query, write_video

__all__ = ["main"]

_SEED = 8_000_000
_STYLE = "twemoji"
_LENGTHS_S = (6.0, 10.0)
_SIZE, _FPS = 64, 2
_QUERIES, _TOP = 10, 10


@click.command()
@common_options
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--art", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--videos", "count", type=click.IntRange(min=20), default=1000, show_default=True)
def main(options: Options, bundle: Path, art: Path, folder: Path, count: int) -> None:
    """Measure what a folder of short videos takes to index, search, and bring up to date."""
    report = Report("archive_folder", options, videos=count)
    sprites = Sprites(art / "sprites.npz")
    asked = [_described(number, sprites) for number in range(count + 1)]
    videos, library = folder / "videos", folder / "library"
    shutil.rmtree(videos, ignore_errors=True)
    shutil.rmtree(library, ignore_errors=True)
    videos.mkdir(parents=True)
    for number, video in enumerate(asked[:count]):
        _write(folder, number, video, sprites, videos / f"{number:05d}.mp4")
    index: list[str | Path] = ["index", library, videos, "--model", bundle.resolve(), "--quiet"]
    index += ["--device", "cpu"]
    _add(report, "index all", _r2rt(*index), library)
    _search(report, library, asked[:count], 1 if options.quick else _QUERIES)
    _write(folder, count, asked[count], sprites, videos / "00000.mp4")
    (videos / "moved").mkdir()
    (videos / "00001.mp4").rename(videos / "moved" / "renamed.mp4")
    (videos / "00002.mp4").unlink()
    _add(report, "one changed, one moved, one deleted", _r2rt(*index), library)
    _add(report, "nothing changed", _r2rt(*index), library)
    _add(report, "compact", _r2rt("library", "compact", library), library)
    report.finish()


def _described(number: int, sprites: Sprites) -> AskedVideo:
    (video,) = sample_test_videos(_STYLE, 1, sprites, seed=_SEED + number, lengths_s=_LENGTHS_S)
    return video


def _write(folder: Path, number: int, video: AskedVideo, sprites: Sprites, path: Path) -> None:
    """Put a video where it belongs; it is drawn once and kept."""
    kept = folder / "drawn" / f"{number:05d}.mp4"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        write_video(kept, video.video, sprites, size=_SIZE, fps=_FPS)
    shutil.copy2(kept, path)


def _r2rt(*arguments: str | Path) -> Child:
    return run_child([sys.executable, "-m", "r2rt", *arguments])


def _add(report: Report, name: str, child: Child, library: Path) -> None:
    """Report what a command took, and the rows that there are after it."""
    archive = Archive.open(library)
    rows = list(archive.videos())
    states = {state: sum(row["state"] == state for row in rows) for state in ("ready", "missing")}
    values: dict[str, Value] = {
        "seconds": round(child.wall_s, 2),
        "CPU s": round(child.cpu_s, 2),
        "peak MB": round(child.peak_rss_bytes / 1e6),
        **states,
        **{f"{name} rows": table.latest().count_rows() for name, table in archive.tables.all()},
        "library MB": round(folder_bytes(archive.tables.root) / 1e6, 2),
    }
    report.say(f"{name}: {values}")
    report.add(Row(group="commands", name=name, values=values))


def _search(report: Report, library: Path, asked: list[AskedVideo], most: int) -> None:
    """Ask some sentences, each true in few videos, in a process each."""
    chosen = _queries(asked, most)
    seconds, ranks = [], []
    for query, truth in chosen:
        child = _r2rt(
            *("search", library, query.text, "--top", str(_TOP), "--json", "--anyway", "--quiet"),
            *("--device", "cpu"),
        )
        seconds.append(child.wall_s)
        names = [Path(hit["path"]).stem for hit in json.loads(child.stdout)["hits"]]
        ranks.append(next((rank for rank, name in enumerate(names, 1) if name in truth), _TOP + 1))
    values: dict[str, Value] = {
        "queries": len(chosen),
        "seconds": round(statistics.median(seconds), 2),
        "slowest s": round(max(seconds), 2),
        "right first": sum(rank == 1 for rank in ranks),
        f"among {_TOP}": sum(rank <= _TOP for rank in ranks),
    }
    report.say(f"searches: {values}")
    report.add(Row(group="searches", name="a process each", values=values))


def _queries(asked: list[AskedVideo], most: int) -> list[tuple[Query, set[str]]]:
    """Return sentences and the names of all videos that they are true in, few each."""
    found: list[tuple[Query, set[str]]] = []
    for video in asked[3:]:  # the first three are changed, moved and deleted
        for query in video.queries[:1]:
            truth = {
                f"{number:05d}"
                for number, other in enumerate(asked)
                if spans_of(query.claim, other.video.timed)
            }
            if len(truth) <= max(3, len(asked) // 100):
                found.append((query, truth))
        if len(found) == most:
            break
    return found


if __name__ == "__main__":
    main()
