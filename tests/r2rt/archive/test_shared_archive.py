"""One `Archive` in several threads, and searches while it is indexed."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from r2rt.archive.library import Archive
from tests.r2rt.archive.colours import colour_grounder, make_colours, write_colours


def found(archive: Archive, colour: str) -> list[tuple[str, float, float, float]]:
    hits = archive.search(colour, where="path not like '%new%'").hits
    return [(hit.path, hit.start_s, hit.end_s, round(hit.score, 5)) for hit in hits]


def test_threads_find_what_one_thread_finds(tmp_path: Path) -> None:
    make_colours(tmp_path / "videos")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(tmp_path / "videos")
    colours = ["red", "green", "blue", "yellow", "pink", "cyan", "white"]
    expected = {colour: found(archive, colour) for colour in colours}
    assert all(expected.values())
    shared = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    start = threading.Barrier(8)

    def search(number: int) -> list[bool]:
        start.wait(timeout=30)
        order = colours[number % len(colours) :] + colours[: number % len(colours)]
        return [found(shared, colour) == expected[colour] for colour in order]

    with ThreadPoolExecutor(8) as pool:
        assert all(all(right) for right in pool.map(search, range(8)))


def test_what_is_added_meanwhile_is_found_and_nothing_else_changes(tmp_path: Path) -> None:
    make_colours(tmp_path / "videos")
    archive = Archive.open(tmp_path / "library", model=colour_grounder(tmp_path))
    archive.add(tmp_path / "videos")
    names = [f"new-{number}.mp4" for number in range(4)]
    for name in names:
        write_colours(tmp_path / "later" / name, ["red", "cyan"])
    done = threading.Event()

    def search(colour: str) -> list[set[str]]:
        """Return the new videos that each search found, the last one after all were added."""
        seen = []
        is_last = False
        while not is_last:
            is_last = done.is_set()
            hits = archive.search(colour, top=50).hits
            found = {Path(path).name for hit in hits for path in (hit.path, *hit.also)}
            assert found & {"garden.mp4", "night.mp4"}
            seen.append(found & set(names))
        return seen

    with ThreadPoolExecutor(2) as pool:
        searching = [pool.submit(search, colour) for colour in ("red", "cyan")]
        try:
            for name in names:
                archive.add(tmp_path / "later" / name)
        finally:
            done.set()
        for future in searching:
            seen = future.result(timeout=60)
            assert all(before <= after for before, after in itertools.pairwise(seen))
            assert seen[-1] == set(names)
    hits = archive.search("red", top=50).hits
    copies = {path for hit in hits for path in (hit.path, *hit.also)}
    assert {Path(path).name for path in copies} == {"garden.mp4", *names}
