"""The checks of one record: it becomes an `Annotation`, or problems that name each field."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.annotation import SAME_CLIPS, Annotation, Labels, Problem
from training.data.records import Record
from training.data.videos import is_safe_name, video_id

__all__ = ["RecordCheck"]

_READ = (
    *("qid", "vid", "video", "query", "duration", "relevant_windows", "relevant_clip_ids"),
    *("saliency_scores", "saliency", "label", "match", "domain", "clip", "frames", "fps"),
)
# Whatever else the known files hold.
_LEFT_ALONE = {"title", "info", "anno", "split", "class", "video_fps", "mask", "desc"}
_TVSUM_FPS = Fraction(1, 2)
_TVSUM_RATING = (1, 5)
# QVHighlights' ratings, and the clips a second that its clips are counted in.
_QV_RATING = (0, 4)
_QV_FPS = Fraction(1, 2)
# CLIP reads 77 tokens, two of them its own, and no word is less than a token.
_MAX_WORDS = 75
# What rounding may do to seconds in a file.
_SLACK_S = 0.01


class RecordCheck:
    """The checks of one record.

    Args:
        path: the file, as problems name it.
        record: what it says.
        fps: clips a second; None where unknown.
        min_video_s: shorter videos are not trained on, in seconds.
        need_labels: whether a record without anything to learn is an error.
        length_s: length of a video in seconds by its id, where the record does not say; None where
            unknown.
        more_s: by how much that length may be too short, in seconds.
    """

    def __init__(
        self,
        path: str,
        record: Record,
        fps: Fraction | None,
        min_video_s: float,
        need_labels: bool,
        length_s: Callable[[str], float | None] = lambda _vid: None,
        more_s: float = 0.0,
    ) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._record = record
        self._fields = record.fields
        self._fps = fps
        self._min_video_s = min_video_s
        self._need_labels = need_labels
        self._length_s = length_s
        self._more_s = more_s

    def annotation(self) -> Annotation | None:
        """Return what the record says; None where it has problems beyond repair."""
        self._check_names()
        vid = self._vid()
        qid = self._qid()
        query = self._query()
        labels = self._labels()
        domain = self._text("domain")
        duration_s = self._duration(labels)
        # What the record does not say of its video, the video may.
        end_s = duration_s
        if duration_s is None and vid is not None:
            length_s = self._length_s(vid)
            if length_s is not None:
                self._check_short(length_s, "video")
                end_s = length_s + self._more_s
        moments = self._moments(end_s)
        saliency, fps = self._saliency(labels, duration_s, end_s)
        if self._need_labels and moments is None and saliency is None:
            self._missing_labels()
        if any(p.severity == "error" and p.repair is None for p in self.problems):
            return None
        if vid is None or qid is None or query is None:
            return None
        return Annotation(
            qid=qid,
            vid=vid,
            query=query,
            duration_s=duration_s,
            moments_s=moments,
            saliency=saliency,
            labels=labels,
            fps=fps,
            domain=domain,
            place=self._record.place,
        )

    def _add(
        self,
        kind: str,
        field: str | None,
        message: str,
        *,
        repair: str | None = None,
        warning: bool = False,
    ) -> None:
        self.problems.append(
            Problem(
                kind=kind,
                path=self._path,
                place=self._record.place,
                field=field,
                message=message,
                severity="warning" if warning else "error",
                repair=repair,
            )
        )

    def _check_names(self) -> None:
        for name in self._fields:
            if name in _READ or name in _LEFT_ALONE:
                continue
            close = difflib.get_close_matches(name, _READ, n=1, cutoff=0.8)
            if close and close[0] not in self._fields:
                self._add(
                    "misspelt-field",
                    name,
                    f"is not read; rename it if `{close[0]}` is meant",
                    warning=True,
                )

    def _text(self, field: str) -> str | None:
        value = self._fields.get(field)
        if value is None or isinstance(value, str):
            return value
        self._add("wrong-type", field, f"{_shown(value)} is not text; write it in quotes")
        return None

    def _vid(self) -> str | None:
        field = "vid" if self._fields.get("vid") is not None else "video"
        if self._fields.get(field) is None:
            self._add("missing-field", "vid", "missing; name the video by `vid` or `video`")
            return None
        value = self._text(field)
        if value is None:
            return None
        vid = video_id(value)
        if not is_safe_name(vid):
            self._add(
                "unsafe-name",
                field,
                f"{value[:60]!r} must be a path inside the folder of videos; make it relative to "
                "that folder, without `..`",
            )
            return None
        return vid

    def _qid(self) -> int | str | None:
        value = self._fields.get("qid")
        if value is None:
            return self._record.number
        if isinstance(value, bool) or not isinstance(value, int | str):
            self._add("wrong-type", "qid", f"{_shown(value)} is neither a whole number nor text")
            return None
        if isinstance(value, str) and not is_safe_name(value):
            self._add(
                "unsafe-name",
                "qid",
                f"{value[:60]!r} must do as a file's name; write letters, digits, `-` and `_`",
            )
            return None
        return value

    def _query(self) -> str | None:
        if self._fields.get("query") is None:
            self._add("missing-field", "query", "missing; write the sentence to look for")
            return None
        query = self._text("query")
        if query is None:
            return None
        if not query.strip():
            self._add("empty-query", "query", "has no words; write the sentence to look for")
            return None
        words = len(query.split())
        if words > _MAX_WORDS:
            self._add(
                "long-query",
                "query",
                f"{words} words; at most {_MAX_WORDS} are read, the rest is cut off: shorten it",
                warning=True,
            )
        return query

    def _labels(self) -> Labels:
        if "match" in self._fields:
            return "youtube"
        rows = self._fields.get("label")
        if not isinstance(rows, list) or not rows:
            return "grounding"
        several = any(isinstance(row, list) and len(row) > 1 for row in rows)
        return "tvsum" if several else "youtube"

    def _number(self, field: str, value: Any) -> float | None:
        """The value as a finite number, or None and a problem."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._add("wrong-type", field, f"{_shown(value)} is not a number")
            return None
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self._add("not-finite", field, f"is {number}; write a finite number")
            return None
        return number

    def _list(self, field: str) -> list[Any] | None:
        value = self._fields.get(field)
        if value is None or isinstance(value, list):
            return value
        self._add("wrong-type", field, f"{_shown(value)} is not a list")
        return None

    def _duration(self, labels: Labels) -> float | None:
        if labels == "tvsum":
            # What TVSum's files call duration counts clips.
            rows = self._fields["label"]
            return len(rows) / float(_TVSUM_FPS)
        if self._fields.get("duration") is None:
            return None
        duration = self._number("duration", self._fields["duration"])
        if duration is None:
            return None
        if duration <= 0:
            self._add("duration-not-positive", "duration", f"{duration:g} s; expected more than 0")
            return None
        self._check_short(duration, "duration")
        return duration

    def _check_short(self, length_s: float, field: str) -> None:
        if length_s < self._min_video_s:
            self._add(
                "short-video",
                field,
                f"{length_s:g} s; videos under {self._min_video_s:g} s are not trained on",
                warning=True,
            )

    def _moments(self, duration_s: float | None) -> tuple[tuple[float, float], ...] | None:
        windows = self._list("relevant_windows")
        if windows is None:
            return None
        if not windows:
            self._add(
                "no-moments",
                "relevant_windows",
                "is empty; give [[start, end], ...] in seconds, or remove the line",
            )
            return None
        moments = []
        for index, window in enumerate(windows):
            moment = self._moment(f"relevant_windows[{index}]", window, duration_s)
            if moment is not None:
                moments.append(moment)
        ordered = sorted(moments)
        for (start, end), (later, _) in itertools.pairwise(ordered):
            if later < end - _SLACK_S:
                self._add(
                    "overlapping-moments",
                    "relevant_windows",
                    f"[{start:g}, {end:g}] and one from {later:g} s overlap; join them unless two "
                    "moments are meant",
                    warning=True,
                )
        return tuple(moments)

    def _moment(
        self, field: str, window: Any, duration_s: float | None
    ) -> tuple[float, float] | None:
        if not isinstance(window, list) or len(window) != 2:
            self._add("not-a-window", field, f"{_shown(window)} is not [start, end] in seconds")
            return None
        ends = [self._number(f"{field}[{index}]", value) for index, value in enumerate(window)]
        start, end = ends
        if start is None or end is None:
            return None
        self._check_order(field, start, end)
        if start < 0:
            self._add(
                "start-before-zero",
                field,
                f"starts at {start:g} s; expected 0 or more",
                repair="it is cut where the video begins",
            )
        if duration_s is None:
            return start, end
        if start >= duration_s:
            self._add(
                "outside-video",
                field,
                f"starts at {start:g} s, the video ends at {duration_s:g} s; correct either",
                repair="the video's last clip stands for it",
            )
        elif end > duration_s + _SLACK_S:
            self._add(
                "beyond-duration",
                field,
                f"ends at {end:g} s, the video ends at {duration_s:g} s; correct either",
                repair="it is cut where the video ends",
            )
        return start, end

    def _check_order(self, field: str, start: float, end: float) -> None:
        if end < start:
            self._add(
                "end-before-start",
                field,
                f"ends at {end:g} s, before it starts at {start:g} s; swap them",
                repair="they are swapped",
            )
        elif end == start:
            self._add(
                "end-before-start",
                field,
                f"starts and ends at {start:g} s; give it a length",
                repair="it is widened to a clip",
            )
        elif self._fps is not None and end - start < 1 / self._fps - _SLACK_S:
            self._add(
                "short-moment",
                field,
                f"{end - start:g} s, shorter than a clip of {float(1 / self._fps):g} s; it is "
                "widened to one",
                warning=True,
            )

    def _saliency(
        self, labels: Labels, duration_s: float | None, end_s: float | None
    ) -> tuple[NDArray[np.float32] | None, Fraction | None]:
        """Labels of the clips, 0..1, and clips a second where the labels fix it."""
        if labels == "tvsum":
            return self._ratings_by_many("label", *_TVSUM_RATING), _TVSUM_FPS
        if labels == "youtube":
            return self._youtube(duration_s)
        if self._fields.get("saliency_scores") is not None:
            return self._scores_of_clips(end_s), None
        if self._fields.get("saliency") is None:
            return None, None
        values = self._list("saliency")
        if values is None:
            return None, None
        numbers = self._rated("saliency", values, 0, 1)
        self._check_count("saliency", len(values), end_s)
        return numbers, None

    def _youtube(
        self, duration_s: float | None
    ) -> tuple[NDArray[np.float32] | None, Fraction | None]:
        saliency: NDArray[np.float32] | None
        if self._fields.get("match") is not None:
            values = self._list("match")
            ratings = None if values is None else self._rated("match", values, -1, 1)
            saliency = None if ratings is None else (ratings + 1) * np.float32(0.5)
        else:
            values = self._list("label")
            saliency = self._ratings_by_many("label", 0, 1)
        clips = self._fields.get("clip")
        if values is not None and isinstance(clips, list) and len(clips) != len(values):
            self._add(
                "saliency-length",
                "match",
                f"{len(values)} ratings for {len(clips)} entries of `clip`; give one for each",
            )
        if not values or duration_s is None:
            return saliency, None
        return saliency, len(values) / Fraction(duration_s).limit_denominator(1_000_000)

    def _ratings_by_many(self, field: str, low: int, high: int) -> NDArray[np.float32] | None:
        """Mean rating of each clip by several people, mapped from low..high to 0..1."""
        rows = self._list(field)
        if rows is None:
            return None
        width = next((len(row) for row in rows if isinstance(row, list)), 0)
        means = []
        for index, row in enumerate(rows):
            name = f"{field}[{index}]"
            if not isinstance(row, list) or len(row) != width or not row:
                self._add(
                    "saliency-length",
                    name,
                    f"{_shown(row)} has not as many ratings as the first clip, {width}",
                )
                return None
            ratings = self._rated(name, row, low, high)
            if ratings is None:
                return None
            # (sum - 20) / 80 for twenty people and ratings of 1..5
            means.append((ratings.sum() - width * low) / (width * (high - low)))
        return np.array(means, np.float32)

    def _scores_of_clips(self, duration_s: float | None) -> NDArray[np.float32] | None:
        """QVHighlights': three ratings of 0..4 for each relevant clip."""
        scores, clips = self._list("saliency_scores"), self._list("relevant_clip_ids")
        if scores is None:
            return None
        if clips is None:
            self._add(
                "missing-field",
                "relevant_clip_ids",
                "missing; list the clip of each of the saliency_scores",
            )
            return None
        if len(scores) != len(clips):
            self._add(
                "saliency-length",
                "saliency_scores",
                f"{len(scores)} entries for {len(clips)} relevant_clip_ids; give one for each",
            )
            return None
        if not self._clips_are_sound(clips, duration_s):
            return None
        saliency = np.zeros(max(clips, default=-1) + 1, np.float32)
        for index, (clip, row) in enumerate(zip(clips, scores, strict=True)):
            values = row if isinstance(row, list) else [row]
            ratings = self._rated(f"saliency_scores[{index}]", values, *_QV_RATING)
            if ratings is None or not len(ratings):
                return None
            # sum / 12 for three people
            saliency[clip] = ratings.sum() / (len(ratings) * _QV_RATING[1])
        return saliency

    def _clips_are_sound(self, clips: list[Any], duration_s: float | None) -> bool:
        count = None
        if duration_s is not None:
            count = math.ceil(duration_s * (self._fps or _QV_FPS))
        before = len(self.problems)
        seen = set()
        for index, clip in enumerate(clips):
            field = f"relevant_clip_ids[{index}]"
            if isinstance(clip, bool) or not isinstance(clip, int):
                self._add("wrong-type", field, f"{_shown(clip)} is not a whole number")
                continue
            if clip in seen:
                self._add("duplicate-clip", field, f"clip {clip} is listed twice; remove one")
            seen.add(clip)
            if clip < 0 or (count is not None and clip >= count) or clip > 10_000_000:
                clips_of = "" if count is None else f"; the video has clips 0 to {count - 1}"
                self._add("clip-outside-video", field, f"clip {clip} does not exist{clips_of}")
        return len(self.problems) == before

    def _rated(
        self, field: str, values: list[Any], low: float, high: float
    ) -> NDArray[np.float32] | None:
        numbers = []
        for index, value in enumerate(values):
            number = self._number(f"{field}[{index}]", value)
            if number is None:
                return None
            if not low <= number <= high:
                self._add(
                    "outside-range",
                    f"{field}[{index}]",
                    f"{number:g}; expected {low:g} to {high:g}",
                )
                return None
            numbers.append(number)
        return np.array(numbers, np.float32)

    def _check_count(self, field: str, count: int, duration_s: float | None) -> None:
        if duration_s is None or self._fps is None:
            return
        expected = duration_s * float(self._fps)
        if abs(count - expected) > SAME_CLIPS + 2 * self._more_s * self._fps:
            self._add(
                "saliency-length",
                field,
                f"{count} values for {duration_s:g} s; expected {round(expected)}, one for every "
                f"{float(1 / self._fps):g} s",
            )

    def _missing_labels(self) -> None:
        if not any(problem.severity == "error" for problem in self.problems):
            self._add(
                "missing-field",
                "relevant_windows",
                "missing; give [[start, end], ...] in seconds",
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
