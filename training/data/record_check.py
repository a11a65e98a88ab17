"""The checks of one record: it becomes an `Annotation`, or problems that name each field."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from training.data.annotation import Annotation, Labels, Problem
from training.data.fields import Fields, shown
from training.data.records import Record
from training.data.saliency import TVSUM_FPS, SaliencyCheck
from training.data.videos import is_safe_name, video_id

__all__ = ["RecordCheck"]

_READ = (
    *("qid", "vid", "video", "query", "duration", "relevant_windows", "relevant_clip_ids"),
    *("saliency_scores", "saliency", "label", "match", "domain", "clip", "frames", "fps"),
)
# Whatever else the known files hold.
_LEFT_ALONE = {"title", "info", "anno", "split", "class", "video_fps", "mask", "desc"}
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
        self._record = record
        self._fields = Fields(path, record)
        self._saliency = SaliencyCheck(self._fields, fps, more_s)
        self._fps = fps
        self._min_video_s = min_video_s
        self._need_labels = need_labels
        self._length_s = length_s
        self._more_s = more_s

    @property
    def problems(self) -> list[Problem]:
        """What was found so far."""
        return self._fields.problems

    def annotation(self) -> Annotation | None:
        """Return what the record says; None where it has problems beyond repair."""
        self._check_names()
        vid = self._vid()
        qid = self._qid()
        query = self._query()
        labels = self._labels()
        domain = self._fields.text("domain")
        duration_s = self._duration(labels)
        # What the record does not say of its video, the video may.
        end_s = duration_s
        if duration_s is None and vid is not None:
            length_s = self._length_s(vid)
            if length_s is not None:
                self._check_short(length_s, "video")
                end_s = length_s + self._more_s
        moments = self._moments(end_s)
        saliency, fps = self._saliency.read(labels, duration_s, end_s)
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
            has_id=self._fields.value("qid") is not None,
        )

    def _check_names(self) -> None:
        for name in self._fields.names():
            if name in _READ or name in _LEFT_ALONE:
                continue
            close = difflib.get_close_matches(name, _READ, n=1, cutoff=0.8)
            if close and close[0] not in self._fields:
                self._fields.add(
                    "misspelt-field",
                    name,
                    f"is not read; rename it if `{close[0]}` is meant",
                    warning=True,
                )

    def _vid(self) -> str | None:
        field = "vid" if self._fields.value("vid") is not None else "video"
        if self._fields.value(field) is None:
            self._fields.add("missing-field", "vid", "missing; name the video by `vid` or `video`")
            return None
        value = self._fields.text(field)
        if value is None:
            return None
        vid = video_id(value)
        if not is_safe_name(vid):
            self._fields.add(
                "unsafe-name",
                field,
                f"{value[:60]!r} must be a path inside the folder of videos; make it relative to "
                "that folder, without `..`",
            )
            return None
        return vid

    def _qid(self) -> int | str | None:
        value = self._fields.value("qid")
        if value is None:
            return self._record.number
        if isinstance(value, bool) or not isinstance(value, int | str):
            self._fields.add(
                "wrong-type", "qid", f"{shown(value)} is neither a whole number nor text"
            )
            return None
        if isinstance(value, str) and not is_safe_name(value):
            self._fields.add(
                "unsafe-name",
                "qid",
                f"{value[:60]!r} must do as a file's name; write letters, digits, `-` and `_`",
            )
            return None
        return value

    def _query(self) -> str | None:
        if self._fields.value("query") is None:
            self._fields.add("missing-field", "query", "missing; write the sentence to look for")
            return None
        query = self._fields.text("query")
        if query is None:
            return None
        if not query.strip():
            self._fields.add("empty-query", "query", "has no words; write the sentence to look for")
            return None
        # What tools write that cut a sentence in the middle of an emoji.
        half = re.search("[\ud800-\udfff]", query)
        if half is not None:
            self._fields.add(
                "not-utf8",
                "query",
                f"character {half.start() + 1}, {half[0]!r}, is half of one; write it whole",
            )
            return None
        words = len(query.split())
        if words > _MAX_WORDS:
            self._fields.add(
                "long-query",
                "query",
                f"{words} words; at most {_MAX_WORDS} are read, the rest is cut off: shorten it",
                warning=True,
            )
        return query

    def _labels(self) -> Labels:
        if "match" in self._fields:
            return "youtube"
        rows = self._fields.value("label")
        if not isinstance(rows, list) or not rows:
            return "grounding"
        several = any(isinstance(row, list) and len(row) > 1 for row in rows)
        return "tvsum" if several else "youtube"

    def _duration(self, labels: Labels) -> float | None:
        if labels == "tvsum":
            # What TVSum's files call duration counts clips.
            rows = self._fields.value("label")
            return len(rows) / float(TVSUM_FPS)
        if self._fields.value("duration") is None:
            return None
        duration = self._fields.number("duration", self._fields.value("duration"))
        if duration is None:
            return None
        if duration <= 0:
            self._fields.add(
                "duration-not-positive", "duration", f"{duration:g} s; expected more than 0"
            )
            return None
        self._check_short(duration, "duration")
        return duration

    def _check_short(self, length_s: float, field: str) -> None:
        if length_s < self._min_video_s:
            self._fields.add(
                "short-video",
                field,
                f"{length_s:g} s; videos under {self._min_video_s:g} s are not trained on",
                warning=True,
            )

    def _moments(self, duration_s: float | None) -> tuple[tuple[float, float], ...] | None:
        windows = self._fields.items("relevant_windows")
        if windows is None:
            return None
        if not windows:
            self._fields.add(
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
                self._fields.add(
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
            self._fields.add(
                "not-a-window", field, f"{shown(window)} is not [start, end] in seconds"
            )
            return None
        ends = [
            self._fields.number(f"{field}[{index}]", value) for index, value in enumerate(window)
        ]
        start, end = ends
        if start is None or end is None:
            return None
        self._check_order(field, start, end)
        if start < 0:
            self._fields.add(
                "start-before-zero",
                field,
                f"starts at {start:g} s; expected 0 or more",
                repair="it is cut where the video begins",
            )
        if duration_s is None:
            return start, end
        if start >= duration_s:
            self._fields.add(
                "outside-video",
                field,
                f"starts at {start:g} s, the video ends at {duration_s:g} s; correct either",
                repair="the video's last clip stands for it",
            )
        elif end > duration_s + _SLACK_S:
            self._fields.add(
                "beyond-duration",
                field,
                f"ends at {end:g} s, the video ends at {duration_s:g} s; correct either",
                repair="it is cut where the video ends",
            )
        return start, end

    def _check_order(self, field: str, start: float, end: float) -> None:
        if end < start:
            self._fields.add(
                "end-before-start",
                field,
                f"ends at {end:g} s, before it starts at {start:g} s; swap them",
                repair="they are swapped",
            )
        elif end == start:
            self._fields.add(
                "end-before-start",
                field,
                f"starts and ends at {start:g} s; give it a length",
                repair="it is widened to a clip",
            )
        elif self._fps is not None and end - start < 1 / self._fps - _SLACK_S:
            self._fields.add(
                "short-moment",
                field,
                f"{end - start:g} s, shorter than a clip of {float(1 / self._fps):g} s; it is "
                "widened to one",
                warning=True,
            )

    def _missing_labels(self) -> None:
        if not any(problem.severity == "error" for problem in self.problems):
            self._fields.add(
                "missing-field",
                "relevant_windows",
                "missing; give [[start, end], ...] in seconds",
            )
