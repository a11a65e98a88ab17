"""What the tools return; agents get these as JSON schemas."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Answer",
    "Answers",
    "ClipMade",
    "Event",
    "Exported",
    "Found",
    "JobStatus",
    "LibraryAnswer",
    "Moment",
    "PickedMoment",
    "VideoItem",
    "VideoList",
    "Watched",
]


UnknownWords = Annotated[
    list[str],
    Field(description="Words that the model does not know and ignores: ask with other words."),
]


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore")


class VideoItem(_Document):
    """A video of the service."""

    id: str = Field(description="What the other tools take as `video`; the name does too.")
    name: str
    state: str = Field(description="`ready` videos are answered about at once.")
    duration_s: float | None = None
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    error: str | None = None
    job: str | None = Field(None, description="The job that encodes it now; ask job_status.")


class VideoList(_Document):
    """The videos of the service."""

    videos: list[VideoItem]


class Moment(_Document):
    """A span in seconds, half open, and how well the query fits it."""

    start_s: float
    end_s: float
    score: float = Field(description="0 to 1; comparable within one model.")


class Answer(_Document):
    """The answer to one query, best moments first."""

    query: str
    present: bool | None = Field(
        None, description="False: it is probably not in the video; null: the model cannot say."
    )
    unknown_words: UnknownWords = []
    moments: list[Moment]


class Answers(_Document):
    """The answers about one video."""

    video: str
    name: str
    duration_s: float | None
    answers: list[Answer]


class Found(_Document):
    """A moment of the library."""

    video: str
    name: str
    start_s: float
    end_s: float
    score: float


class LibraryAnswer(_Document):
    """The best moments of all videos, best first."""

    query: str
    unknown_words: UnknownWords = []
    results: list[Found]


class ClipMade(_Document):
    """A clip that was cut."""

    video: str
    start_s: float
    end_s: float
    size_bytes: int
    uri: str = Field(description="A resource: the clip as an mp4.")
    path: str | None = Field(None, description="Where it was saved, if the server saves files.")


class PickedMoment(BaseModel):
    """A moment to export."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=2000)
    start_s: float = Field(ge=0)
    end_s: float = Field(gt=0)
    score: float = Field(1.0, ge=0, le=1)


class Exported(_Document):
    """Moments as a file of another program."""

    name: str
    text: str
    path: str | None = Field(None, description="Where it was saved, if the server saves files.")


class Event(_Document):
    """Something that was seen in live video; seconds on the stream's clock."""

    event: str = Field(description="opened, changed, closed, dropped, retrying or reconnected.")
    query: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    score: float | None = None


class Watched(_Document):
    """What was seen while a source was watched."""

    source: str
    watched_s: float
    ended: bool = Field(description="Whether the source ended by itself.")
    events: list[Event]


class JobStatus(_Document):
    """A job; `done`, `failed` and `cancelled` ones are finished."""

    id: str
    kind: str
    state: str
    progress: float
    remaining_s: float | None = None
    video: str | None = None
    error: str | None = None
    result: Any = None
