"""Names of files that are made of moments: they sort, and are safe whatever the query says."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from r2rt.errors import OutputError
from r2rt.grounding.prediction import Moment, Prediction

__all__ = ["make_folder", "moment_names", "moment_stem", "slug"]

# A name has 255 bytes at most in every usual file system; times, rank and ending need 60.
_STEM_BYTES, _QUERY_BYTES = 80, 80


def slug(text: str, max_bytes: int = _QUERY_BYTES, *, empty: str = "query") -> str:
    """Return letters and digits of a text in any language, joined by hyphens.

    Args:
        text: anything, trusted or not.
        max_bytes: length in UTF-8 at most; a word is cut only where it is the first.
        empty: the name of a text without letters and digits.
    """
    normal = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).casefold())
    joined = "-".join(re.findall(r"[^\W_]+", normal))
    if len(joined.encode()) > max_bytes:
        cut = joined.encode()[: max_bytes + 1].decode(errors="ignore")
        joined = cut.rpartition("-")[0] or cut.encode()[:max_bytes].decode(errors="ignore")
    return joined or empty


def moment_names(
    label: str, predictions: Sequence[Prediction]
) -> list[tuple[str, tuple[Prediction, int, Moment]]]:
    """Return a name without ending for every moment, and the moment, best first a query.

    `video.a-dog-runs.02.00h01m15s500-00h01m23s000` is the second moment of a query, and `label`
    is the video's name. Queries with the same words get a number.
    """
    stem = moment_stem(label)
    slugs = _distinct([slug(prediction.query) for prediction in predictions])
    most = max((len(prediction.moments) for prediction in predictions), default=0)
    digits = max(2, len(str(most)))
    named = []
    for prediction, words in zip(predictions, slugs, strict=True):
        for rank, moment in enumerate(prediction.moments, start=1):
            times = f"{_file_time(moment.start_s)}-{_file_time(moment.end_s)}"
            name = f"{stem}.{words}.{rank:0{digits}d}.{times}"
            named.append((name, (prediction, rank, moment)))
    return named


def moment_stem(label: str) -> str:
    """Return what the names of a video's moments have before the first dot."""
    return slug(label, _STEM_BYTES, empty="video")


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, if it is not there.

    Raises:
        OutputError: it cannot be made, or something else has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made a folder ({error.strerror}); choose another place"
        ) from error


def _distinct(slugs: Sequence[str]) -> list[str]:
    names: list[str] = []
    used: set[str] = set()
    for words in slugs:
        name, number = words, 2
        while name in used:
            name, number = f"{words}-{number}", number + 1
        used.add(name)
        names.append(name)
    return names


def _file_time(seconds: float) -> str:
    """Return `00h01m15s500`, which sorts and has no character that any file system refuses."""
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}h{minutes:02d}m{rest // 1000:02d}s{rest % 1000:03d}"
