"""Searches a library in a process of its own, so that time and memory are those of searches alone.

    python benchmarks/archive_searcher.py BUNDLE LIBRARY

It answers requests on stdin, see `benchmarks.process.serve`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.process import serve

if TYPE_CHECKING:
    from r2rt.archive.library import Archive

__all__ = ["forget_files"]


def forget_files(folder: Path) -> None:
    """Drop the files below a folder from the system's cache, as far as it lets us (Linux)."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _search(archive: Archive, text: str, **options: Any) -> dict[str, Any]:
    began, busy_s = time.perf_counter(), time.process_time()
    result = archive.search(text, **options)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - busy_s,
        "first_s": result.timings.first_s,
        "second_s": result.timings.second_s,
        "spans": [(hit.path, hit.start_s, hit.end_s) for hit in result],
        "present": result.present,
    }


def _memory_bytes() -> dict[str, Any]:
    """Return what the process holds in memory, and how much of it are pages of files (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found = dict(line.partition(":")[::2] for line in lines)
    return {
        name: int(found[key].split()[0]) << 10
        for name, key in (("resident", "VmRSS"), ("peak", "VmHWM"), ("files", "RssFile"))
    }


def main() -> None:
    """Open the library and answer."""
    from r2rt.archive.library import Archive
    from r2rt.grounding.grounder import Grounder

    bundle, library = sys.argv[1:]
    with (
        Grounder.load(bundle, device="cpu") as grounder,
        Archive.open(library, model=grounder) as archive,
    ):
        serve(
            {},
            {
                "search": lambda **options: _search(archive, **options),
                "memory": _memory_bytes,
            },
        )


if __name__ == "__main__":
    main()
