"""The kinds of problems that annotations have."""

from __future__ import annotations

__all__ = ["KINDS"]

KINDS: dict[str, str] = {
    "ambiguous-video": "several files may be the video",
    "beyond-duration": "a moment ends after its video",
    "byte-order-mark": "the file begins with a byte order mark (warning)",
    "clip-outside-video": "a relevant clip lies outside the video",
    "duplicate-clip": "a clip is listed twice",
    "duplicate-field": "an object names a field twice",
    "duplicate-qid": "two queries have the same id",
    "duplicate-query": "a video is asked the same twice (warning)",
    "duration-differs": "a video has two durations",
    "duration-not-of-file": "a duration that is not that of the video's file",
    "duration-not-positive": "a duration of zero or less",
    "empty-file": "nothing is annotated",
    "empty-query": "a query without words",
    "empty-video": "the video's file is empty",
    "end-before-start": "a moment ends before it starts, or when it starts",
    "long-query": "a query longer than the text tower reads (warning)",
    "missing-field": "a field that is needed is absent",
    "misspelt-field": "a field that is called almost like one that is read (warning)",
    "mixed-labels": "some queries have moments and others do not",
    "no-moments": "an empty list of moments",
    "not-a-window": "a moment that is not a pair of numbers",
    "not-an-object": "a line that is JSON but no object",
    "not-charades": "a line that is not `VID START END##SENTENCE`",
    "not-finite": "NaN or infinity",
    "not-json": "a line that is no JSON",
    "not-utf8": "text in another encoding",
    "nothing-relevant": "a query without a clip to learn from (warning)",
    "nothing-to-train-on": "no query that training can use",
    "outside-range": "a rating outside its scale",
    "outside-video": "a moment that starts after its video's end",
    "overlapping-moments": "moments of a query overlap (warning)",
    "predictions": "a file of predictions, not of annotations",
    "saliency-length": "as many ratings as clips were expected",
    "short-moment": "a moment shorter than a clip (warning)",
    "short-video": "a video too short to be trained on (warning)",
    "start-before-zero": "a moment that starts before the video",
    "unknown-form": "a JSON document of no known form",
    "unknown-video": "no video is called so",
    "unsafe-name": "an id that cannot be a file's name",
    "wrong-type": "a value of another type",
}
"""Every kind of problem, and what it means."""
