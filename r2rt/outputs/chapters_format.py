"""Chapters in ffmpeg's metadata format.

    ffmpeg -i VIDEO -i CHAPTERS -map 0 -dn -ignore_unknown -map_chapters 1 -codec copy OUT

Without `-dn` it would copy the old chapters' own track, and fail at a camera's tracks of data.

Chapters cannot overlap, and in mp4 each lasts until the next begins. So the whole video is divided:
where moments of one query overlap, the better one names the chapter; where moments of several
queries do, the chapter has all their names; and each gap is a chapter of its own.
"""

from __future__ import annotations

import itertools
import re

from r2rt.outputs.answers import Answers, Found
from r2rt.outputs.cues import cue_times_ms

__all__ = ["BETWEEN", "render"]

BETWEEN = "–"


def render(answers: Answers) -> str:
    """Return the metadata file of a video, its times in milliseconds on the source's clock."""
    lines = [";FFMETADATA1"]
    for start, end, title in chapters_ms(answers):
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={end}"]
        lines += [f"title={_escaped(title)}"]
    return "\n".join(lines) + "\n"


def chapters_ms(answers: Answers) -> list[tuple[int, int, str]]:
    """Return start, end and title of chapters that follow one another without gaps."""
    cues = list(cue_times_ms(answers.found))
    if not cues:
        return []
    ends_s = [p.clip_starts_s[0] + p.duration_s for p in answers.predictions]
    edges = {0, round(max(ends_s) * 1000), *itertools.chain(*((a, b) for a, b, _ in cues))}
    chapters: list[tuple[int, int, list[Found]]] = []
    for start, end in itertools.pairwise(sorted(edges)):
        best = _best([found for a, b, found in cues if a <= start and end <= b])
        if chapters and chapters[-1][2] == best:
            chapters[-1] = (chapters[-1][0], end, best)
        else:
            chapters.append((start, end, best))
    return [
        (start, end, " + ".join(item.title for item in best) or BETWEEN)
        for start, end, best in chapters
    ]


def _best(found: list[Found]) -> list[Found]:
    """Return the best moment of each query, the one of the highest score first."""
    best: dict[int | str, Found] = {}
    for item in sorted(found, key=lambda item: item.rank, reverse=True):
        best[item.qid] = item
    return sorted(best.values(), key=lambda item: -item.moment.score)


def _escaped(text: str) -> str:
    return re.sub(r"([=;#\\])", r"\\\1", text)
