"""FFmpeg for torchcodec, which brings none: the one inside PyAV's wheel.

Both then decode with the very same library, which makes the comparison the fairer.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path

__all__ = ["lend_ffmpeg"]

_MARK = "R2RT_BENCH_LENT_FFMPEG"
_LIBRARY = re.compile(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+\.so\.(\d+)[\d.]*")


def lend_ffmpeg(folder: Path) -> None:
    """Start this script anew with PyAV's libraries on the loader's path, if torchcodec needs it.

    Args:
        folder: where links with the names that the loader looks for are put.
    """
    if os.environ.get(_MARK) or not _lacks_ffmpeg():
        return
    spec = importlib.util.find_spec("av")
    if spec is None or spec.origin is None:
        return
    libraries = Path(spec.origin).parents[1] / "av.libs"
    found = [(path, name) for path in libraries.glob("*.so.*") if (name := _plain_name(path))]
    if not found:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path, name in found:
        link = folder / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(path)
    search = os.pathsep.join(filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH"))))
    environment = {**os.environ, _MARK: "1", "LD_LIBRARY_PATH": search}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _plain_name(path: Path) -> str | None:
    match = _LIBRARY.fullmatch(path.name)
    return f"{match[1]}.so.{match[2]}" if match else None


def _lacks_ffmpeg() -> bool:
    """Whether torchcodec is installed and finds no FFmpeg."""
    if importlib.util.find_spec("torchcodec") is None:
        return False
    try:
        # Its libraries are loaded when they are first needed.
        decoders = importlib.import_module("torchcodec.decoders")
        decoders.VideoDecoder(b"no video")
    except Exception as error:
        return "libtorchcodec" in str(error)
    return False
