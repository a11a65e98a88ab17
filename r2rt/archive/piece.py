"""One video as rows of the tables: what a process, a thread or a worker makes of a file."""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from r2rt.archive.packed import pack
from r2rt.archive.scan import FAILED, READY, File
from r2rt.archive.subtitles import Line, lines_of
from r2rt.archive.tables import Row
from r2rt.archive.vectors import Floats, as_column, pooled
from r2rt.errors import BundleSchemaError, R2rtError
from r2rt.video.remote import is_remote, video_path

if TYPE_CHECKING:
    import pyarrow as pa

    from r2rt.archive.settings import Settings
    from r2rt.grounding.encoded import EncodedVideo
    from r2rt.grounding.grounder import Grounder, Progress
    from r2rt.model.contract import ModelDims
    from r2rt.video import Sampling

__all__ = [
    "Keep",
    "Piece",
    "clips_table",
    "copied_piece",
    "failed_piece",
    "make_piece",
    "new_id",
    "tokens_table",
    "words_of",
    "words_table",
]

# `tokens` keeps both stages, `vectors` the first alone; windows are then encoded again when asked.
Keep: TypeAlias = Literal["tokens", "vectors"]

_MOST_ERROR_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The rows of one file.

    Attributes:
        row: of `videos`.
        clips: of `clips`; None where the video failed or its content is known.
        tokens: of `tokens`; None likewise, and where vectors alone are kept.
        lines: of `subtitles`.
        clip_fragments: in place of `clips`, descriptions of fragments that a worker wrote.
        token_fragments: likewise for `tokens`.
    """

    row: Row
    clips: pa.Table | None = None
    tokens: pa.Table | None = None
    lines: list[Line] = field(default_factory=list)
    clip_fragments: tuple[str, ...] = ()
    token_fragments: tuple[str, ...] = ()

    @property
    def num_clips(self) -> int:
        """How many clips were encoded for it."""
        return self.row["clips"] if self.clips is not None or self.clip_fragments else 0


def new_id() -> str:
    """Return an id that no other entry of any library has."""
    return secrets.token_hex(12)


def make_piece(
    grounder: Grounder,
    settings: Settings,
    file: File,
    content: str,
    *,
    keep: Keep,
    sampling: Sampling,
    tags: Sequence[str],
    speech: str | None = None,
    progress: Progress | None = None,
) -> Piece:
    """Encode a video and return its rows.

    Where it has no subtitles, `speech` transcribes it; see `words_of`.

    Raises:
        R2rtError: it cannot be read; see `Grounder.encode`.
    """
    encoded = grounder.encode(video_path(file.path), progress, sampling=sampling)
    if encoded.embeddings is None:
        raise BundleSchemaError(
            f"{encoded.model} gives no embeddings, since it was exported by an older r2rt; "
            "pull or export the model again"
        )
    entry = new_id()
    vectors = pooled(encoded.embeddings, settings.clips_per_vector)
    lines = words_of(file.path, speech)
    row: Row = {
        **_row_of(file, content, tags),
        **_facts(file.path),
        "entry": entry,
        "words": new_id() if lines else None,
        "state": READY,
        "error": None,
        "duration_s": encoded.duration_s,
        "start_s": encoded.start_s,
        "clips": encoded.num_clips,
        "keep": keep,
    }
    return Piece(
        row=row,
        clips=clips_table(entry, vectors),
        tokens=tokens_table(entry, encoded, grounder.bundle.dims) if keep == "tokens" else None,
        lines=lines,
    )


def copied_piece(file: File, known: Row, *, tags: Sequence[str]) -> Piece:
    """Return the rows of a file whose content is in the library already, under another path.

    Args:
        file: the file.
        known: the row of the same content, with all columns.
        tags: given to the file; without any it has those of the other one.
    """
    lines, words = [], known["words"]
    if known["words_key"] or file.words_key:  # else its words are inside of it
        lines = list(lines_of(Path(file.path)))
        words = new_id() if lines else None
    row = {
        **known,
        **_row_of(file, known["content"], tags or known["tags"] or ()),
        "words": words,
        "state": READY,
        "error": None,
    }
    return Piece(row=row, lines=lines)


def failed_piece(
    file: File, content: str | None, error: R2rtError, *, tags: Sequence[str]
) -> Piece:
    """Return the row of a file that could not be indexed, with the reason."""
    text = str(error)[:_MOST_ERROR_CHARACTERS]
    return Piece(row={**_row_of(file, content, tags), "state": FAILED, "error": text})


def words_of(path: str, speech: str | None) -> list[Line]:
    """Return a video's subtitles, or its spoken lines where it has none.

    Args:
        path: the video.
        speech: the model that transcribes it; None leaves it without words.

    Raises:
        MissingExtraError, ModelNotFoundError: see `r2rt.archive.speech`.
    """
    if is_remote(path):
        return []
    lines = list(lines_of(Path(path)))
    if not lines and speech is not None and Path(path).is_file():
        from r2rt.archive.speech import spoken_lines

        lines = list(spoken_lines(Path(path), speech))
    return lines


def words_table(pieces: Sequence[Piece]) -> list[Row]:
    """Return the rows of `subtitles` of several videos."""
    return [
        {
            "words": piece.row["words"],
            "start_s": line.start_s,
            "end_s": line.end_s,
            "text": line.text,
            "language": line.language,
        }
        for piece in pieces
        for line in piece.lines
    ]


def _row_of(file: File, content: str | None, tags: Sequence[str]) -> Row:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "path": file.path,
        "content": content,
        "words_key": file.words_key,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "tags": list(tags),
        "indexed": now.isoformat(timespec="seconds"),
    }


def _facts(path: str) -> Row:
    """Return size, rate, codec and date of a video; the date is when it was recorded, if known."""
    video = video_path(path)
    if isinstance(video, Path) and video.is_dir():
        return {"date": _date_of(path)}
    from r2rt.video.container import metadata_text, open_input
    from r2rt.video.inspection import inspect_file

    facts = inspect_file(video)
    recorded = ""
    if isinstance(video, Path):
        with open_input(path) as container:
            recorded = metadata_text(container.metadata.get("creation_time", ""))
    width, height = facts.display_size
    return {
        "date": recorded[:19] if recorded[:4].isdigit() else _date_of(path),
        "rate": None if facts.average_rate is None else float(facts.average_rate),
        "codec": facts.codec,
        "width": width,
        "height": height,
    }


def _date_of(path: str) -> str | None:
    try:
        changed_s = os.stat(path).st_mtime  # noqa: PTH116  may be an address
        changed = datetime.datetime.fromtimestamp(changed_s, datetime.UTC)
    except (OSError, ValueError, OverflowError):  # the last two of a year beyond 9999
        return None
    return changed.isoformat(timespec="seconds")[:19]


def clips_table(entry: str, vectors: Floats) -> pa.Table:
    """Return the rows of `clips` of an entry with vectors (N, E)."""
    import pyarrow as pa

    count = len(vectors)
    return pa.table(
        {
            "entry": pa.array([entry] * count, pa.string()),
            "row": pa.array(range(count), pa.int32()),
            "vector": as_column(vectors),
        }
    )


def tokens_table(entry: str, encoded: EncodedVideo, dims: ModelDims) -> pa.Table:
    """Return the rows of `tokens` of an entry."""
    import pyarrow as pa

    packs = list(pack(encoded, dims))
    return pa.table(
        {
            "entry": pa.array([entry] * len(packs), pa.string()),
            "first": pa.array([item.first for item in packs], pa.int32()),
            "clips": pa.array([item.clips for item in packs], pa.int32()),
            "data": pa.array([item.data for item in packs], pa.large_binary()),
        }
    )
