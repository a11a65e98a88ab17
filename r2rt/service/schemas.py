"""What requests and responses look like; OpenAPI documents these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from r2rt.outputs.formats import FormatName
from r2rt.service.jobs.store import JobKind, JobState
from r2rt.service.videos import Origin, State

__all__ = [
    "AddVideo",
    "AnswerBody",
    "ClipsJob",
    "EncodeJob",
    "ExportBody",
    "GroundBody",
    "GroundJob",
    "HighlightsJob",
    "Id",
    "IndexJob",
    "JobBody",
    "JobDocument",
    "ModelDocument",
    "MomentBody",
    "PeaksDocument",
    "PredictionDocument",
    "ProblemDocument",
    "Query",
    "Seconds",
    "SummarizeJob",
    "UnknownWords",
    "Version",
    "VideoDetails",
    "VideoDocument",
]

Query = Annotated[str, Field(min_length=1, max_length=2000, examples=["a dog catches a frisbee"])]
Queries = Annotated[list[Query], Field(min_length=1, max_length=64)]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", examples=["3f2a9c0d1b7e4a56"])]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=0, le=1)]
Version = Annotated[
    str | None,
    Field(
        description="Changes when the file is replaced; null while there is none. Addresses of "
        "media take it as `v`, so that no cache answers with what was made of another file."
    ),
]
UnknownWords = Annotated[
    list[str],
    Field(
        description="Words of the query that the model does not know; what they mean does not "
        "count. Empty if it does not list its words."
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no video has this id; GET /api/v1/videos lists all"])
    code: str = Field(examples=["no-such-video"])


class ModelDocument(BaseModel):
    """A model that is installed."""

    name: str = Field(examples=["qvhighlights"])
    precision: str
    origin: str = Field(description="The checkpoint that it was made of.")
    licence: str | None
    loaded: bool
    is_demo: bool
    is_default: bool
    problem: str | None = Field(description="Why it cannot be used; null if it can.")


class AddVideo(_Body):
    """A video by its path on the server or by its address; one of the two."""

    path: str | None = Field(None, max_length=4096, examples=["/videos/talk.mp4"])
    url: str | None = Field(None, max_length=4096, examples=["https://example.com/talk.mp4"])
    encode: bool = Field(True, description="Encode it at once, so that it can be asked about.")


class VideoDocument(BaseModel):
    """A video."""

    id: Id
    name: str = Field(examples=["talk.mp4"])
    origin: Origin
    state: State
    error: str | None
    added_at: float = Field(description="Seconds since 1970.")
    job: str | None = Field(description="The job that encodes it, if one does.")
    version: Version
    duration_s: float | None
    width: int | None
    height: int | None
    frame_rate: float | None


class AudioDocument(BaseModel):
    """An audio stream."""

    model_config = ConfigDict(extra="allow")

    codec: str | None
    sample_rate: int
    channels: int


class VideoDetails(VideoDocument):
    """A video and its streams."""

    size_bytes: int | None
    container: str | None
    codec: str | None
    frame_rate_exact: str | None = Field(examples=["30000/1001"])
    audio: list[AudioDocument]
    playable: bool = Field(description="Whether browsers play the file.")
    not_playable_reason: str | None


class GroundBody(_Body):
    """Sentences to find in an encoded video."""

    queries: Queries
    model: str | None = Field(None, max_length=100)
    top_k: int | None = Field(None, ge=1, le=1000, description="Moments a query at most.")
    threshold: float = Field(0.0, ge=0, le=1, description="The lowest score of a moment.")
    saliency: bool = Field(True, description="Whether the curve over the whole video is wanted.")


class MomentDocument(BaseModel):
    """A span of the video in seconds, half open, and how well the query fits it."""

    start_s: float
    end_s: float
    score: float


class SaliencyDocument(BaseModel):
    """One value a clip: clip number i begins at start_s + i / fps."""

    start_s: float
    fps: float
    values: list[float]


class PredictionDocument(BaseModel):
    """The answer to one query; moments best first."""

    query: str
    query_truncated: bool = Field(description="Whether it is longer than the model reads.")
    unknown_words: UnknownWords
    present: bool | None = Field(
        description="Whether it is in the video at all; null if the model cannot say."
    )
    presence_score: float | None
    moments: list[MomentDocument]
    saliency: SaliencyDocument | None


class AnswerBody(BaseModel):
    """The answers about one video, in the order of the queries."""

    video: Id
    model: str
    predictions: list[PredictionDocument]


class MomentBody(_Body):
    """A moment that somebody picked."""

    query: Query
    start_s: Seconds
    end_s: Seconds
    score: Score = 1.0


Moments = Annotated[list[MomentBody], Field(min_length=1, max_length=10_000)]


class ExportBody(_Body):
    """Moments of one video as a file for other programs."""

    video: Id
    format: FormatName
    moments: Moments


class EncodeJob(_Body):
    """Encode a video, so that it is answered about at once."""

    kind: Literal["encode"]
    video: Id
    model: str | None = Field(None, max_length=100)
    encode: bool = Field(True, description="False fetches one at an address, and no more.")


class GroundJob(GroundBody):
    """Find sentences in videos, encoding them where needed."""

    kind: Literal["ground"]
    videos: Annotated[list[Id], Field(min_length=1, max_length=1000)]


class HighlightsJob(_Body):
    """The spans of a video that stand out."""

    kind: Literal["highlights"]
    video: Id
    query: Query | None = None
    model: str | None = Field(None, max_length=100)
    top: int = Field(5, ge=1, le=100)
    length_s: float | None = Field(None, gt=0, le=86400)


class SummarizeJob(_Body):
    """The shots that summarise a video."""

    kind: Literal["summarize"]
    video: Id
    query: Query | None = None
    model: str | None = Field(None, max_length=100)
    length: str = Field("10%", max_length=20, examples=["60s", "10%"])


class ClipsJob(_Body):
    """Moments as files of their own, or joined in one reel."""

    kind: Literal["clips"]
    video: Id
    moments: Annotated[list[MomentBody], Field(min_length=1, max_length=500)]
    reel: bool = False
    copy_packets: bool = Field(False, description="Lossless and fast, but cut at keyframes.")
    padding_s: float = Field(0.0, ge=0, le=60)


class ExportJob(ExportBody):
    """As POST /export, as a job."""

    kind: Literal["export"]


class IndexJob(_Body):
    """Add a video to the library that is served, so that it can be searched."""

    kind: Literal["index"]
    video: Id


JobBody = Annotated[
    EncodeJob | GroundJob | HighlightsJob | SummarizeJob | ClipsJob | ExportJob | IndexJob,
    Field(discriminator="kind"),
]


class JobDocument(BaseModel):
    """A job."""

    id: Id
    kind: JobKind
    video: str | None
    state: JobState
    progress: float = Field(ge=0, le=1)
    remaining_s: float | None
    attempts: int
    result: Any = Field(description="Once it is done; always null in the list of jobs.")
    error: dict[str, Any] | None
    created_at: float
    started_at: float | None
    finished_at: float | None


class PeaksDocument(BaseModel):
    """The loudest samples of `count` equal parts of a span, -1 to 1."""

    start_s: float
    end_s: float
    min: list[float]
    max: list[float]
