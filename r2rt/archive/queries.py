"""What is searched, as vectors: a sentence, images, moments of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from r2rt.archive.vectors import Floats
from r2rt.errors import QueryError
from r2rt.files import as_text
from r2rt.grounding.many import kind_of
from r2rt.timecode import parse_time
from r2rt.video.remote import is_remote, shown_address

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder

__all__ = ["Like", "vectors_of"]


@dataclass(frozen=True)
class Like:
    """A moment of a video, `video.mp4@1:23`: the clip that begins at `time_s`."""

    video: str
    time_s: float

    @classmethod
    def parse(cls, text: str) -> Like:
        """Return what a text names.

        Raises:
            QueryError: it has no time, or there is no such file.
        """
        video, at, time = text.rpartition("@")
        if not at or not (is_remote(video) or kind_of(video)):
            raise QueryError(f"--like {text!r}: expected a video and a time, such as talk.mp4@1:23")
        return cls(video, parse_time(time))

    def __str__(self) -> str:
        return f"{shown_address(self.video)}@{self.time_s:g}"


def vectors_of(
    grounder: Grounder, text: str | None, images: Sequence[Any], likes: Sequence[str | Like]
) -> tuple[Floats, tuple[str, ...]]:
    """Return the vectors (Q, E) of the query, and the names of its images and moments.

    Args:
        grounder: the model.
        text: a sentence, or None.
        images: files, or pixels (H, W, 3) uint8.
        likes: moments of videos.

    Raises:
        QueryError: there is nothing to search.
        R2rtError: an image or a video cannot be read.
    """
    vectors: list[Floats] = []
    names: list[str] = []
    if text is not None:
        vectors.append(grounder.embed_text([text])[0])
    for image in images:
        vectors.append(grounder.embed_image(image))
        names.append("<image>" if isinstance(image, np.ndarray) else as_text(str(image)))
    for like in likes:
        moment = Like.parse(like) if isinstance(like, str) else like
        vectors.append(_embedding(grounder, moment))
        names.append(as_text(str(moment)))
    if not vectors:
        raise QueryError("nothing to search: give a sentence, an image, or a moment of a video")
    return np.stack(vectors), tuple(names)


def _embedding(grounder: Grounder, moment: Like) -> Floats:
    clip_s = float(1 / grounder.bundle.fps)
    encoded = grounder.encode(moment.video, start_s=moment.time_s, end_s=moment.time_s + clip_s)
    if encoded.embeddings is None:
        return np.zeros(0, np.float32)
    return np.array(encoded.embeddings[0])
