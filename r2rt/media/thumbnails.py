"""One picture a moment: its most salient clip's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from r2rt.files import StrPath, replacing
from r2rt.grounding.prediction import Prediction
from r2rt.media.drawing import require_pillow
from r2rt.media.material import Material
from r2rt.media.names import make_folder, moment_names
from r2rt.media.peaks import peak_s
from r2rt.media.stills import stills

__all__ = ["write_thumbnails"]

Update = Callable[[int, int | None], None]


def write_thumbnails(
    video: StrPath,
    predictions: Sequence[Prediction],
    folder: StrPath,
    *,
    label: str | None = None,
    size: int = 640,
    update: Update | None = None,
) -> list[Path]:
    """Write a JPEG of every moment, upright, of the picture that stands for its best clip.

    The files are there all or none.

    Args:
        video: the file that was grounded.
        predictions: what it was asked, and its moments.
        folder: where files go; made if it is not there.
        label: what stands for the video in the files' names; its own name by default.
        size: longer side in pixels.
        update: is told pictures decoded of all.

    Returns:
        What was written, queries in order, best moments first.

    Raises:
        MissingExtraError: Pillow is not installed.
        OutputError: disk full, no permission.
        R2rtError: the video cannot be read.
    """
    require_pillow()
    video, folder = Path(video), Path(folder)
    material = Material(video)
    make_folder(folder)
    names = moment_names(label or video.stem, predictions)
    times_s = [peak_s(prediction, moment) for _, (prediction, _, moment) in names]
    paths = [folder / f"{name}.jpg" for name, _ in names]
    pictures = stills(material, times_s, (size, size), update=update)
    with contextlib.ExitStack() as files:
        for path, picture in zip(paths, pictures, strict=True):
            picture.save(files.enter_context(replacing(path)), "JPEG", quality=90)
    return paths
