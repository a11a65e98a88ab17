"""One JPEG a moment: the frame of its most salient clip."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from r2rt.files import StrPath, check_destinations, replacing
from r2rt.grounding.prediction import Prediction
from r2rt.media.drawing import require_pillow
from r2rt.media.indexed_video import Video, indexed
from r2rt.media.names import make_folder, moment_names
from r2rt.media.peaks import peak_s
from r2rt.media.stills import stills
from r2rt.progress import Update

__all__ = ["write_thumbnails"]


def write_thumbnails(
    video: Video,
    predictions: Sequence[Prediction],
    folder: StrPath,
    *,
    label: str | None = None,
    size: int = 640,
    update: Update | None = None,
) -> list[Path]:
    """Write a JPEG of every moment, upright: the middle frame of its most salient clip.

    Either all files are written or none.

    Args:
        video: the file that was grounded, or its path.
        predictions: the answers, with their moments.
        folder: where files go; made if it is not there.
        label: name of the video in the files' names; its own by default.
        size: longer side in pixels.
        update: called with frames decoded and their total.

    Returns:
        What was written, queries in order, best moments first.

    Raises:
        MissingExtraError: Pillow is not installed.
        OutputError: disk full, no permission.
        R2rtError: the video cannot be read.
    """
    require_pillow()
    folder = Path(folder)
    times_s = [peak_s(item, moment) for item in predictions for moment in item.moments]
    with indexed(video) as source:
        make_folder(folder)
        names = moment_names(label or source.path.stem, predictions)
        paths = [folder / f"{name}.jpg" for name, _ in names]
        check_destinations(paths, [source.path])
        with contextlib.ExitStack() as files:
            # Each is written at once: the images of thousands of moments are gigabytes.
            for number, image in stills(source, times_s, (size, size), update=update):
                image.save(files.enter_context(replacing(paths[number])), "JPEG", quality=90)
    return paths
