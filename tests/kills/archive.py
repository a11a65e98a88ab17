"""Writers of one library that are killed while others write and search it.

    python -m tests.kills.archive --kills 200

Videos are of the world of colours (`tests/r2rt/archive/colours.py`). All writers index one folder,
in which the parent adds, changes and moves videos meanwhile. At the end one run must bring every
row into order, without a repair: no row lost, doubled or wrong. Readers check every hit of videos
that do not change against the colours that these were made of.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from r2rt.archive import writer
from r2rt.archive.library import Archive
from r2rt.archive.maintenance import check_tables, compact_tables
from r2rt.archive.vectors import as_vectors, normalized
from tests.r2rt.archive.colours import COLOURS, colour_grounder, write_colours

__all__ = ["run_kills"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_NAMES = list(COLOURS)
_SECONDS = 4  # a colour
_LONGEST_S = 1800.0
# A pause, since processes that only search again would leave the others no time.
_PAUSE_S = 0.3
_FIXED = 12  # videos that do not change, by which readers check hits


def run_kills(
    folder: Path, *, kills: int, seed: int = 0, writers: int = 4, readers: int = 2
) -> list[str]:
    """Kill writers so many times, and return everything that is wrong at the end.

    Args:
        folder: an empty one.
        kills: how often.
        seed: decides the videos, who is killed, and when.
        writers: processes that index, each started again when it is killed.
        readers: processes that search.
    """
    rng = random.Random(seed)
    videos, library = folder / "videos", folder / "library"
    colours = _fixed_colours()
    for name, shown in colours.items():
        write_colours(videos / name, shown)
    _archive(library).add(videos / "fixed-0.mp4")  # the library is there when readers open it
    faults: list[str] = []
    with contextlib.ExitStack() as stack:
        searching = [stack.enter_context(_process("read", library, videos)) for _ in range(readers)]
        writing = [stack.enter_context(_process("write", library, videos)) for _ in range(writers)]
        for process in searching:
            _wait_until_ready(process)
        ends = time.monotonic() + _LONGEST_S
        for number in range(kills):
            _change(rng, videos, colours, number)
            victim = rng.randrange(writers)
            _wait_until_ready(writing[victim])
            time.sleep(rng.uniform(0.0, 0.7))
            writing[victim].send_signal(signal.SIGKILL)
            writing[victim].wait()
            writing[victim] = stack.enter_context(_process("write", library, videos))
            if time.monotonic() > ends:
                faults.append(f"only {number} kills in {_LONGEST_S:.0f} s")
                break
        for process in writing:
            process.terminate()
            process.wait()
        (folder / "stop").touch()
        for process in searching:
            assert process.stderr is not None
            errors = process.stderr.read().decode()
            faults += errors.splitlines()[-3:] if process.wait() else []
    return faults + _faults(library, videos, colours)


def _faults(library: Path, videos: Path, colours: dict[str, list[str]]) -> list[str]:
    """Return the faults after one more run, before and after the library is compacted."""
    archive = _archive(library)
    archive.add(videos)
    faults = _wrong(archive, videos, colours)
    compact_tables(archive.tables)
    faults += _wrong(archive, videos, colours)
    leftover = check_tables(archive.tables).leftover
    return [*faults, f"{leftover} rows left over"] if leftover else faults


def _wrong(archive: Archive, videos: Path, colours: dict[str, list[str]]) -> list[str]:
    faults = list(check_tables(archive.tables).faults)
    ready = {row["path"]: row for row in archive.videos("state = 'ready'")}
    expected = {str(videos / name) for name in colours}
    faults += [f"lost: {path}" for path in expected - set(ready)]
    faults += [f"too many: {path}" for path in set(ready) - expected]
    for name, shown in colours.items():
        row = ready.get(str(videos / name))
        if row is None:
            continue
        found = archive.tables.clips.rows(["row", "vector"], f"entry = '{row['entry']}'")
        vectors = as_vectors(found.sort_by("row")["vector"], 3)
        # Two clips of 2 s each show one colour, so a vector is a colour.
        truth = normalized(np.array([COLOURS[colour] for colour in shown]) - 100.0)
        if vectors.shape != truth.shape or np.abs(vectors - truth).max() > 0.1:
            faults.append(f"wrong: {name}")
    return faults


def _change(rng: random.Random, videos: Path, colours: dict[str, list[str]], number: int) -> None:
    """Add, change or move a video, each time another one."""
    others = [name for name in colours if not name.startswith("fixed")]
    if number % 3 == 0 or not others:
        name = f"new-{number}.mp4"
        colours[name] = _some(rng)
        _write(videos / name, colours[name])
    elif number % 3 == 1:
        name = rng.choice(others)
        colours[name] = _some(rng)
        _write(videos / name, colours[name])
    else:
        name = rng.choice(others)
        colours[f"moved-{number}.mp4"] = colours.pop(name)
        (videos / name).rename(videos / f"moved-{number}.mp4")


def _write(path: Path, shown: list[str]) -> None:
    """Write a video beside its place and move it there, as careful programs do."""
    write_colours(path.parent.parent / path.name, shown).rename(path)


def _some(rng: random.Random) -> list[str]:
    return [rng.choice(_NAMES) for _ in range(rng.randrange(2, 6))]


def _fixed_colours() -> dict[str, list[str]]:
    """Return the colours of the videos that do not change; the same in every process."""
    rng = random.Random("fixed")
    return {f"fixed-{number}.mp4": _some(rng) for number in range(_FIXED)}


def _archive(library: Path) -> Archive:
    return Archive.open(library, model=colour_grounder(library.parent))


@contextlib.contextmanager
def _process(kind: str, library: Path, videos: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.kills.archive", f"--{kind}", str(library), str(videos)]
    process = subprocess.Popen(
        command, cwd=_CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    """Wait for the line that a process prints once it has started; later calls return at once."""
    assert process.stdout is not None
    process.stdout.readline()


def _keep_writing(library: Path, videos: Path) -> None:
    writer._BATCH_VIDEOS = 2  # many commits, so that many kills are between two of them
    archive = _archive(library)
    print("ready", flush=True)
    while True:
        archive.add(videos)
        time.sleep(_PAUSE_S)


def _keep_reading(library: Path, videos: Path) -> None:
    """Search until there is a file `stop`; a wrong hit ends the process with an error.

    A hit of a video that does not change must lie in a run of clips of the colour.
    """
    archive = _archive(library)
    rng = random.Random(1)
    archive.search("red")
    print("ready", flush=True)
    while not (library.parent / "stop").exists():
        colour = rng.choice(_NAMES)
        found = archive.search(colour, where="path like '%/fixed-%'", top=100)
        for hit in found:
            shown = _fixed_colours()[Path(hit.path).name]
            inside = shown[int(hit.start_s / _SECONDS) : math.ceil(hit.end_s / _SECONDS)]
            if set(inside) != {colour}:
                raise SystemExit(f"{colour}: {hit} shows {inside}")
        if found.skipped:
            raise SystemExit(f"skipped: {found.skipped}")
        time.sleep(_PAUSE_S)


def main() -> int:
    """Run the command and return its exit code: 1 where anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills.archive", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="decides who is killed, and when")
    for kind in ("write", "read"):
        parser.add_argument(f"--{kind}", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write or arguments.read:
        (_keep_writing if arguments.write else _keep_reading)(*(arguments.write or arguments.read))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        faults = run_kills(Path(folder), kills=arguments.kills, seed=arguments.seed)
        print(f"{arguments.kills} kills in {time.monotonic() - began:.0f} s, {len(faults)} faults")
        print("\n".join(faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
