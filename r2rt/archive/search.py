"""A search: the first stage finds windows, the grounder moments in them, one score ranks them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2rt.archive.candidates import Candidate, FirstStage, num_windows
from r2rt.archive.catalog import Catalog, Snapshot
from r2rt.archive.packed import Pack, unpacked
from r2rt.archive.rank import (
    fused_score,
    presence_in_library,
    reciprocal_rank,
    suppressed,
)
from r2rt.archive.result import Hit, SearchResult, SearchTimings
from r2rt.archive.tables import Row, Tables, quoted
from r2rt.archive.vectors import Floats
from r2rt.errors import R2rtError
from r2rt.grounding.encoded import EncodedVideo
from r2rt.grounding.many import attempt
from r2rt.video.departures import Departures
from r2rt.video.remote import video_path

if TYPE_CHECKING:
    from r2rt.grounding.grounder import Grounder
    from r2rt.grounding.prediction import Prediction

__all__ = ["Request", "search"]

# Moments of one window that are ranked.
_MOMENTS_A_WINDOW = 5
# Windows whose tokens are in memory at once, 0.8 MB each.
_WINDOWS_AT_ONCE = 64
# Lines of subtitles that are ranked.
_MOST_LINES = 100
# A line belongs to a moment that it is so near to.
_NEAR_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is searched.

    Attributes:
        text: a sentence, or None.
        vectors: (Q, E) embeddings of the sentence and of all images.
        images: names of the images.
        where: a filter over the columns of `videos`, in Lance's SQL.
        top: how many hits are wanted.
        windows: how many windows the second stage looks at.
        words: whether subtitles are searched, too.
    """

    text: str | None
    vectors: Floats
    images: tuple[str, ...] = ()
    where: str | None = None
    top: int = 10
    windows: int = 20
    words: bool = True


def search(
    tables: Tables,
    catalog: Catalog,
    stage: FirstStage,
    grounder: Grounder,
    request: Request,
    *,
    query_s: float,
) -> SearchResult:
    """Answer a search.

    Args:
        tables: the library.
        catalog: of its videos.
        stage: finds windows.
        grounder: the library's model.
        request: the search.
        query_s: seconds that its vectors took.

    Raises:
        QueryError: the filter cannot be used.
        LibraryError: the library is damaged.
    """
    began = time.perf_counter()
    videos = catalog.snapshot(request.where)
    candidates = stage.candidates(
        request.vectors, videos.clips, windows=request.windows, filtered=videos.filtered
    )
    first_s = time.perf_counter() - began
    began = time.perf_counter()
    looker = _SecondStage(tables, stage, grounder, request, videos)
    hits = looker.hits(candidates)
    if request.text is not None and request.words:
        hits = _with_words(tables, videos, request, hits)
    windows = num_windows(videos.clips.values(), stage.size)
    present: bool | None = None
    sure: float | None = None
    calibration = grounder.bundle.manifest.presence
    if request.text is not None and not grounder.knows(request.text):
        present, sure = False, 0.0
    elif looker.statistics and calibration is not None:
        statistics = np.concatenate(looker.statistics)
        present, sure = presence_in_library(calibration, statistics, windows)
    if present is not True and any(hit.words for hit in hits):
        # A line with one of the words says less than the model: it must have all of them.
        assert request.text is not None
        if _lines(tables, videos, request.text, all_words=True):
            present = True
    return SearchResult(
        query=request.text,
        images=request.images,
        where=request.where,
        hits=tuple(hits[: request.top]),
        present=present,
        presence_score=sure,
        unknown_words=() if request.text is None else grounder.unknown_words(request.text),
        videos=len(videos),
        duration_s=videos.duration_s,
        windows=windows,
        grounded=looker.grounded,
        skipped=looker.skipped,
        model=grounder.bundle.manifest.name,
        timings=SearchTimings(
            query_s=query_s, first_s=first_s, second_s=time.perf_counter() - began
        ),
    )


class _SecondStage:
    """Finds moments in windows."""

    def __init__(
        self,
        tables: Tables,
        stage: FirstStage,
        grounder: Grounder,
        request: Request,
        videos: Snapshot,
    ) -> None:
        self._tables, self._stage, self._grounder = tables, stage, grounder
        self._request, self._videos = request, videos
        self._rows: dict[str, Row] = {}
        self.statistics: list[NDArray[np.float64]] = []
        self.skipped: dict[str, str] = {}
        self.grounded = 0

    def hits(self, candidates: Sequence[Candidate]) -> list[Hit]:
        """Return the moments of windows, best first, each once."""
        found: list[tuple[str, Hit]] = []
        for start in range(0, len(candidates), _WINDOWS_AT_ONCE):
            some = candidates[start : start + _WINDOWS_AT_ONCE]
            if self._request.text is None:
                found += [(item.entry, hit) for item in some for hit in self._by_cosine(item)]
            else:
                found += self._grounded(some)
        found.sort(key=lambda item: -item[1].score)
        kept = suppressed([(entry, hit.start_s, hit.end_s) for entry, hit in found])
        return [found[number][1] for number in kept]

    def _grounded(self, candidates: Sequence[Candidate]) -> Iterator[tuple[str, Hit]]:
        packs = self._packs(candidates)
        for number, candidate in enumerate(candidates):
            path = self._row(candidate)["path"]
            outcome = attempt(path, lambda _, n=number: self._ground(candidates[n], packs.get(n)))  # type: ignore[misc]
            if isinstance(outcome, R2rtError):
                self.skipped[path] = str(outcome)
            else:
                yield from ((candidate.entry, hit) for hit in outcome)

    def _ground(self, candidate: Candidate, packs: list[Pack] | None) -> list[Hit]:
        text = self._request.text
        assert text is not None
        encoded = self._encoded(candidate, packs)
        prediction: Prediction = self._grounder.ground(
            encoded, text, window=None, top_k=_MOMENTS_A_WINDOW
        )
        self.statistics.append(prediction.presence_statistics)
        self.grounded += 1
        return [
            self._hit(
                candidate,
                start_s=moment.start_s,
                end_s=moment.end_s,
                score=fused_score(moment.score, candidate.z),
                grounder_score=moment.score,
            )
            for moment in prediction.moments
        ]

    def _row(self, candidate: Candidate) -> Row:
        """Return the row of a candidate's video, read once a search."""
        if candidate.entry not in self._rows:
            self._rows[candidate.entry] = self._videos.row(candidate.entry)
        return self._rows[candidate.entry]

    def _by_cosine(self, candidate: Candidate) -> list[Hit]:
        """Return the moment around the clip that is most like an image.

        It reaches as far as the cosine is in the upper half between the window's least and best.
        """
        firsts, cosines = self._stage.span_cosines(candidate, self._request.vectors)
        if not len(firsts):
            return []
        peak = int(np.argmax(cosines))
        least = (float(cosines[peak]) + float(cosines.min())) / 2
        start = end = peak
        while start > 0 and cosines[start - 1] >= least:
            start -= 1
        while end + 1 < len(cosines) and cosines[end + 1] >= least:
            end += 1
        row, rate = self._row(candidate), float(self._tables.settings.rate)
        pool = self._tables.settings.clips_per_vector
        return [
            self._hit(
                candidate,
                start_s=row["start_s"] + int(firsts[start]) / rate,
                end_s=row["start_s"] + self._end_s(row, int(firsts[end]) + pool),
                score=min(max(float(cosines[peak]), 0.0), 1.0),
                grounder_score=None,
            )
        ]

    def _hit(
        self,
        candidate: Candidate,
        *,
        start_s: float,
        end_s: float,
        score: float,
        grounder_score: float | None,
    ) -> Hit:
        row = self._row(candidate)
        return dataclasses.replace(
            hit_of(row, self._videos),
            start_s=start_s,
            end_s=end_s,
            score=score,
            grounder_score=grounder_score,
            cosine=candidate.cosine,
        )

    def _packs(self, candidates: Sequence[Candidate]) -> dict[int, list[Pack]]:
        """Return the packed tokens of every candidate that has some, read at once."""
        wanted = {
            number: item
            for number, item in enumerate(candidates)
            if self._row(item)["keep"] == "tokens"
        }
        if not wanted:
            return {}
        where = " or ".join(
            f"(entry in {quoted([item.entry])} and first < {item.window.end_clip} "
            f"and first + clips > {item.window.start_clip})"
            for item in wanted.values()
        )
        columns = ["entry", "first", "clips", "data"]
        rows = self._tables.tokens.rows(columns, where).to_pylist()
        packs: dict[int, list[Pack]] = {}
        for number, item in wanted.items():
            window = item.window
            mine = [
                Pack(first=row["first"], clips=row["clips"], data=row["data"])
                for row in rows
                if row["entry"] == item.entry
                and row["first"] < window.end_clip
                and row["first"] + row["clips"] > window.start_clip
            ]
            packs[number] = sorted(mine, key=lambda pack: pack.first)
        return packs

    def _end_s(self, row: Row, clip: int) -> float:
        """Return where clip number `clip`, counted from 1, ends: the last one with the video."""
        duration_s: float = row["duration_s"]
        if clip >= row["clips"]:
            return duration_s
        return min(float(clip / self._tables.settings.rate), duration_s)

    def _encoded(self, candidate: Candidate, packs: list[Pack] | None) -> EncodedVideo:
        """Return a window as a video of its own, from its tokens or from the file."""
        row, window = self._row(candidate), candidate.window
        rate = self._tables.settings.rate
        start_s = float(window.start_clip / rate)
        end_s = self._end_s(row, window.end_clip)
        begins_s = row["start_s"] + start_s
        if packs is None:
            return self._grounder.encode(
                video_path(row["path"]),
                sampling="nearest",
                start_s=begins_s,
                end_s=row["start_s"] + end_s,
            )
        bundle = self._grounder.bundle
        dims = bundle.dims
        return EncodedVideo(
            tokens=np.empty((0, dims.layers, dims.patches, dims.token_width), np.float32),
            compact=unpacked(packs, window.start_clip, window.end_clip, dims),
            model=bundle.manifest.name,
            model_fingerprint=bundle.fingerprint,
            source=row["path"],
            duration_s=end_s - start_s,
            start_s=begins_s,
            fps=rate,
            sampling="nearest",
            departures=Departures(),
            encode_s=0.0,
        )


def hit_of(row: Row, videos: Snapshot) -> Hit:
    """Return a hit with the facts of its video, and no times yet."""
    return Hit(
        path=row["path"],
        start_s=0.0,
        end_s=0.0,
        score=0.0,
        also=videos.other_paths(row["entry"]),
        date=row["date"],
        tags=tuple(row["tags"] or ()),
        duration_s=row["duration_s"],
    )


def _with_words(tables: Tables, videos: Snapshot, request: Request, hits: list[Hit]) -> list[Hit]:
    """Return hits ranked together with the lines of subtitles that have the words of the query."""
    if not videos.words or not tables.subtitles.latest().describe_indices():
        return hits
    assert request.text is not None
    lines, rows = [], []
    for line in _lines(tables, videos, request.text):
        row = videos.row(videos.words[line["words"]])
        starts_s, ends_s = row["start_s"], row["start_s"] + row["duration_s"]
        start_s, end_s = max(line["start_s"], starts_s), min(line["end_s"], ends_s)
        if start_s < end_s:  # else it is about a longer cut of the video
            lines.append({**line, "start_s": start_s, "end_s": end_s})
            rows.append(row)
    ranked: list[tuple[float, Hit]] = []
    taken: set[int] = set()
    for rank, hit in enumerate(hits, start=1):
        near = [
            number
            for number, (line, row) in enumerate(zip(lines, rows, strict=True))
            if row["path"] == hit.path and _is_near(line, hit)
        ]
        taken |= set(near)
        words = lines[near[0]]["text"] if near else None
        score = reciprocal_rank(rank, near[0] + 1 if near else None)
        ranked.append((score, dataclasses.replace(hit, words=words)))
    for number, (line, row) in enumerate(zip(lines, rows, strict=True)):
        if number not in taken:
            hit = dataclasses.replace(
                hit_of(row, videos),
                start_s=line["start_s"],
                end_s=line["end_s"],
                words=line["text"],
            )
            ranked.append((reciprocal_rank(number + 1), hit))
    ranked.sort(key=lambda item: -item[0])
    # Several tracks, such as those of two languages, have a line each for the same moment.
    kept = suppressed([(hit.path, hit.start_s, hit.end_s) for _, hit in ranked])
    return [ranked[number][1] for number in kept]


def _lines(tables: Tables, videos: Snapshot, text: str, *, all_words: bool = False) -> list[Row]:
    """Return the lines of the videos that have words of a text, or all of them, best first."""
    from lance.query import FullTextOperator, MatchQuery

    operator = FullTextOperator.AND if all_words else FullTextOperator.OR
    for filtered in (videos.filtered, True):
        found = tables.subtitles.read(
            columns=["words", "start_s", "end_s", "text"],
            full_text_query=MatchQuery(text, "text", operator=operator),
            filter=f"words in {quoted(list(videos.words))}" if filtered else None,
            prefilter=filtered,
            limit=_MOST_LINES,
        ).to_pylist()
        lines = [line for line in found if line["words"] in videos.words]
        if len(found) < _MOST_LINES or len(lines) == len(found):
            break  # else lines of videos that were removed took the places of others
    return lines


def _is_near(line: Row, hit: Hit) -> bool:
    return line["start_s"] <= hit.end_s + _NEAR_S and line["end_s"] >= hit.start_s - _NEAR_S  # type: ignore[no-any-return]
