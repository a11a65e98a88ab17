"""What was answered about one video: what every format is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from r2rt.errors import QueryError, R2rtError
from r2rt.grounding.prediction import Moment, Prediction
from r2rt.outputs.source import SourceFacts, assumed_source_facts, read_source_facts
from r2rt.printable import one_line
from r2rt.selection.worthwhile import worthwhile
from r2rt.video.remote import RemoteVideo, VideoPath, shown_address

__all__ = ["Answers", "Found"]


@dataclass(frozen=True)
class Found:
    """One moment in its context.

    Attributes:
        moment: the moment.
        rank: its place among those of its query, 1 for the best.
        query: the sentence.
        qid: the query's id.
    """

    moment: Moment
    rank: int
    query: str
    qid: int | str

    @property
    def title(self) -> str:
        """The query on one line, and the score: `a dog runs (0.83)`."""
        return f"{one_line(self.query)} ({self.moment.score:.2f})"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers to all queries about one video, or why there is none.

    Attributes:
        video: the source as it was given.
        predictions: one a query; empty if `error` is set.
        qids: the id of each prediction's query.
        error: why the video could not be answered about.
        frame_rate: frames a second that timecodes count; None counts at the video's own rate.
        drop_frame: whether to use drop-frame timecode where there is such; None does, unless the
            video's own timecode does not.
        anyway: whether to write the moments of queries that the model says are not in the video.
        csv_raw: whether CSV leaves cells alone that spreadsheets would take for formulas.
        video_track: which video track was read, from 1; None is the default one.
        spool: where the video can be read, if not by the name that the predictions give: a copy of
            a pipe, or a video at an address.
        name: what the user called the video, if not `video`, as where that is a copy of a pipe.
    """

    video: str
    predictions: tuple[Prediction, ...] = ()
    qids: tuple[int | str, ...] = ()
    error: R2rtError | None = None
    frame_rate: Fraction | None = None
    drop_frame: bool | None = None
    anyway: bool = False
    csv_raw: bool = False
    video_track: int | None = None
    spool: VideoPath | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if len(self.predictions) != len(self.qids):
            raise ValueError(f"{len(self.predictions)} predictions, {len(self.qids)} ids")

    @classmethod
    def of(
        cls,
        predictions: Prediction | Sequence[Prediction],
        *,
        frame_rate: Fraction | None = None,
        drop_frame: bool | None = None,
    ) -> Answers:
        """Return the answers about one video, their ids counted from 1.

        Raises:
            QueryError: there is no prediction, or they are about several videos.
        """
        several = (predictions,) if isinstance(predictions, Prediction) else tuple(predictions)
        videos = {prediction.video for prediction in several}
        if len(videos) != 1:
            raise QueryError(f"answers about {len(videos)} videos; expected those about one")
        return cls(
            video=videos.pop(),
            predictions=several,
            qids=tuple(range(1, len(several) + 1)),
            frame_rate=frame_rate,
            drop_frame=drop_frame,
        )

    @property
    def shown(self) -> str:
        """The source as the user called it, without what an address keeps secret."""
        return shown_address(self.video if self.name is None else self.name)

    @property
    def path(self) -> VideoPath:
        """The video itself, also where `video` is an encoded one."""
        if isinstance(self.spool, RemoteVideo):
            return self.spool
        return Path(self.predictions[0].video if self.predictions else self.video)

    @cached_property
    def source(self) -> SourceFacts:
        """The video's rate, timecode and size, read from the file when they are first needed.

        Raises:
            R2rtError: the video is not there or cannot be read, and no `frame_rate` was given.
        """
        path = self.path
        readable = self.spool or path
        if isinstance(readable, RemoteVideo) or readable.is_file():
            facts = read_source_facts(
                readable,
                frame_rate=self.frame_rate,
                drop_frame=self.drop_frame,
                video_track=self.video_track,
            )
            return dataclasses.replace(facts, path=path)
        if self.frame_rate is None:
            raise QueryError(
                f"{path}: timecodes count frames, and there is no video file by that name "
                "to count in; put it there, or give --frame-rate"
            )
        ends = [p.clip_starts_s[0] + p.duration_s for p in self.predictions]
        return assumed_source_facts(
            path, self.frame_rate, duration_s=max(ends, default=0.0), drop_frame=self.drop_frame
        )

    @property
    def found(self) -> list[Found]:
        """Every moment, in the order of the video; of those that start together the best first."""
        items = [
            Found(moment, rank, prediction.query, qid)
            for prediction, qid in zip(self.predictions, self.qids, strict=True)
            for rank, moment in enumerate(prediction.moments, start=1)
        ]
        return sorted(items, key=lambda x: (x.moment.start_s, -x.moment.score, x.moment.end_s))

    def best(self, count: int | None) -> Answers:
        """Return the answers with at most `count` moments a query; all of them if None."""
        if count is None:
            return self
        return self._with(
            dataclasses.replace(prediction, moments=prediction.moments[:count])
            for prediction in self.predictions
        )

    @property
    def worthwhile(self) -> Answers:
        """The answers with the moments that are worth exporting."""
        return self._with(map(worthwhile, self.predictions))

    @property
    def reported(self) -> Answers:
        """The answers, without moments of queries that are not in the video unless `anyway`."""
        if self.anyway or all(prediction.present is not False for prediction in self.predictions):
            return self
        return self._with(
            dataclasses.replace(prediction, moments=())
            if prediction.present is False
            else prediction
            for prediction in self.predictions
        )

    def _with(self, predictions: Iterable[Prediction]) -> Answers:
        answers = dataclasses.replace(self, predictions=tuple(predictions))
        if "source" in self.__dict__:  # read once, not once a format
            answers.__dict__["source"] = self.source
        return answers
