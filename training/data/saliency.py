"""The saliency labels of one record, in the forms that the known files have."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.annotation import SAME_CLIPS, Labels
from training.data.fields import Fields, shown

__all__ = ["TVSUM_FPS", "SaliencyCheck"]

TVSUM_FPS = Fraction(1, 2)
_TVSUM_RATING = (1, 5)
# QVHighlights' ratings, and the clips a second that its clips are counted in.
_QV_RATING = (0, 4)
_QV_FPS = Fraction(1, 2)


class SaliencyCheck:
    """Reads a record's labels of saliency.

    Args:
        fields: the record.
        fps: clips a second; None where unknown.
        more_s: by how much the length of the video may be too short, in seconds.
    """

    def __init__(self, fields: Fields, fps: Fraction | None, more_s: float) -> None:
        self._fields = fields
        self._fps = fps
        self._more_s = more_s

    def read(
        self, labels: Labels, duration_s: float | None, end_s: float | None
    ) -> tuple[NDArray[np.float32] | None, Fraction | None]:
        """Return the labels of the clips (T,), 0 to 1, and clips a second where the labels fix it.

        Args:
            labels: the kind of file that the record's labels come from.
            duration_s: length of the video as the record gives it; None where it does not.
            end_s: the same, or else as the video itself gives it.
        """
        if labels == "tvsum":
            return self._ratings_by_many("label", *_TVSUM_RATING), TVSUM_FPS
        if labels == "youtube":
            return self._youtube(duration_s)
        if self._fields.value("saliency_scores") is not None:
            return self._scores_of_clips(end_s), None
        if self._fields.value("saliency") is None:
            return None, None
        values = self._fields.items("saliency")
        if values is None:
            return None, None
        numbers = self._fields.ratings("saliency", values, 0, 1)
        self._check_count("saliency", len(values), end_s)
        return numbers, None

    def _youtube(
        self, duration_s: float | None
    ) -> tuple[NDArray[np.float32] | None, Fraction | None]:
        saliency: NDArray[np.float32] | None
        if self._fields.value("match") is not None:
            values = self._fields.items("match")
            ratings = None if values is None else self._fields.ratings("match", values, -1, 1)
            saliency = None if ratings is None else (ratings + 1) * np.float32(0.5)
        else:
            values = self._fields.items("label")
            saliency = self._ratings_by_many("label", 0, 1)
        clips = self._fields.value("clip")
        if values is not None and isinstance(clips, list) and len(clips) != len(values):
            self._fields.add(
                "saliency-length",
                "match",
                f"{len(values)} ratings for {len(clips)} entries of `clip`; give one for each",
            )
        if not values or duration_s is None:
            return saliency, None
        return saliency, len(values) / Fraction(duration_s).limit_denominator(1_000_000)

    def _ratings_by_many(self, field: str, low: int, high: int) -> NDArray[np.float32] | None:
        """Mean rating of each clip by several people, mapped from low..high to 0..1."""
        rows = self._fields.items(field)
        if rows is None:
            return None
        width = next((len(row) for row in rows if isinstance(row, list)), 0)
        means = []
        for index, row in enumerate(rows):
            name = f"{field}[{index}]"
            if not isinstance(row, list) or len(row) != width or not row:
                self._fields.add(
                    "saliency-length",
                    name,
                    f"{shown(row)} has not as many ratings as the first clip, {width}",
                )
                return None
            ratings = self._fields.ratings(name, row, low, high)
            if ratings is None:
                return None
            # (sum - 20) / 80 for twenty people and ratings of 1..5
            means.append((ratings.sum() - width * low) / (width * (high - low)))
        return np.array(means, np.float32)

    def _scores_of_clips(self, duration_s: float | None) -> NDArray[np.float32] | None:
        """QVHighlights': three ratings of 0..4 for each relevant clip."""
        scores, clips = (
            self._fields.items("saliency_scores"),
            self._fields.items("relevant_clip_ids"),
        )
        if scores is None:
            return None
        if clips is None:
            self._fields.add(
                "missing-field",
                "relevant_clip_ids",
                "missing; list the clip of each of the saliency_scores",
            )
            return None
        if len(scores) != len(clips):
            self._fields.add(
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
            ratings = self._fields.ratings(f"saliency_scores[{index}]", values, *_QV_RATING)
            if ratings is None or not len(ratings):
                return None
            # sum / 12 for three people
            saliency[clip] = ratings.sum() / (len(ratings) * _QV_RATING[1])
        return self._at_rate(saliency)

    def _at_rate(self, saliency: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ratings of clips of 2 s to those of clips at the rate: the highest that a clip meets."""
        if self._fps is None or self._fps == _QV_FPS:
            return saliency
        ratio = _QV_FPS / self._fps  # clips of 2 s in a clip
        spans = [
            saliency[math.floor(n * ratio) : math.ceil((n + 1) * ratio)]
            for n in range(math.ceil(len(saliency) / ratio))
        ]
        return np.array([span.max() for span in spans], np.float32)

    def _clips_are_sound(self, clips: list[Any], duration_s: float | None) -> bool:
        count = None
        if duration_s is not None:
            count = math.ceil(duration_s * _QV_FPS)
        before = len(self._fields.problems)
        seen = set()
        for index, clip in enumerate(clips):
            field = f"relevant_clip_ids[{index}]"
            if isinstance(clip, bool) or not isinstance(clip, int):
                self._fields.add("wrong-type", field, f"{shown(clip)} is not a whole number")
                continue
            if clip in seen:
                self._fields.add(
                    "duplicate-clip", field, f"clip {clip} is listed twice; remove one"
                )
            seen.add(clip)
            if clip < 0 or (count is not None and clip >= count) or clip > 10_000_000:
                clips_of = "" if count is None else f"; the video has clips 0 to {count - 1}"
                self._fields.add(
                    "clip-outside-video", field, f"clip {clip} does not exist{clips_of}"
                )
        return len(self._fields.problems) == before

    def _check_count(self, field: str, count: int, duration_s: float | None) -> None:
        if duration_s is None or self._fps is None:
            return
        expected = duration_s * float(self._fps)
        if abs(count - expected) > SAME_CLIPS + 2 * self._more_s * self._fps:
            self._fields.add(
                "saliency-length",
                field,
                f"{count} values for {duration_s:g} s; expected {round(expected)}, one for every "
                f"{float(1 / self._fps):g} s",
            )
