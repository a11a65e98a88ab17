"""Long videos: quality, memory and time of windows, against the same moments in short videos.

    python benchmarks/long_video.py --bundle DIR --art DIR

Quality: short videos of the emoji world are asked their queries alone, and again where they lie at
random places in videos of 10, 60 and 180 minutes. There the first moment of all may be wrong for
two reasons: the windows changed the answer, or something else in the long video scores better. So
the first moment among those that lie in the seconds of the short video is looked at as well: what
it loses is the windows' doing. Memory and time: `r2rt ground` on such videos,
encoded and saved, each in a process of its own. How much memory encoding a long file takes, and how
long, is what `memory.py` and `latency.py` measure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Options, Report, common_options
from benchmarks.long_material import Asked, LongVideo, Segment, compose, make_segments
from benchmarks.machine import CHECKOUT
from benchmarks.plots import grouped_lines
from benchmarks.process import NOTHING_KEPT, run_child
from benchmarks.results import Row, summarize
from r2rt.grounding.grounder import Grounder
from r2rt.grounding.moments import interval_iou
from r2rt.grounding.prediction import Prediction
from r2rt.grounding.windows import Window, WindowLength, plan_windows
from r2rt.model.manifest import read_manifest
from training.world.sprites import Sprites

__all__ = ["main"]

_MB = 1e6
_SEED = 4_000_000
_FILLER_S = 3600.0
# A long video holds one short video that is asked for each so many minutes.
_MINUTES_A_TARGET = 10
# Whole videos longer than this take memory that grows with the square of their length.
_LONGEST_WHOLE = 60
Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to ground a long video."""

    name: str
    window: WindowLength
    overlap_share: float | None = None

    def options(self, grounder: Grounder) -> dict[str, Any]:
        """Return the keyword arguments of `Grounder.ground`."""
        if self.overlap_share is None:
            return {"window": self.window}
        length_s = grounder.bundle.manifest.window_s
        assert length_s is not None
        return {"window": self.window, "overlap": self.overlap_share * length_s}


WINDOWS = Setting(name="windows", window="auto")
SETTINGS = (
    WINDOWS,
    Setting(name="no overlap", window="auto", overlap_share=0.0),
    Setting(name="overlap 1/4", window="auto", overlap_share=0.25),
    Setting(name="overlap 3/4", window="auto", overlap_share=0.75),
    Setting(name="whole", window=None),
)


@click.command()
@common_options
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--art", type=click.Path(path_type=Path, exists=True), required=True, help="Has sprites.npz."
)
@click.option("--style", default="twemoji", show_default=True, help="Whose drawings.")
@click.option("--minutes", default="10,60,180", show_default=True, help="Comma-separated.")
@click.option("--targets", type=int, default=72, show_default=True, help="Short videos asked.")
@click.option("--only-windows", is_flag=True, help="No other overlaps, no whole videos.")
def main(
    options: Options,
    bundle: Path,
    art: Path,
    style: str,
    minutes: str,
    targets: int,
    only_windows: bool,
) -> None:
    """Measure grounding of long videos."""
    lengths = [1, 3] if options.quick else [int(length) for length in minutes.split(",")]
    targets = 4 if options.quick else targets
    report = Report(
        "long_video", options, bundle=bundle, style=style, minutes=lengths, targets=targets
    )
    grounder = Grounder.load(bundle.resolve(), device="cpu", precision=None)
    report.say("drawing and encoding")
    segments, fillers = make_segments(
        grounder,
        Sprites(art / "sprites.npz"),
        style,
        targets=targets,
        filler_s=120.0 if options.quick else _FILLER_S,
        seed=_SEED,
    )
    short = _short_answers(grounder, segments)
    for length in lengths:
        _quality(report, grounder, segments, fillers, short, length, only_windows=only_windows)
    _cost(report, grounder, bundle, segments, fillers, lengths)
    report.finish(grouped_lines({"quality": "minutes"}, "R1@0.5 long"))


def _short_answers(
    grounder: Grounder, segments: Sequence[Segment]
) -> dict[tuple[int, str], Prediction]:
    """Return every query's answer in its short video alone."""
    found = {}
    for index, segment in enumerate(segments):
        texts = [query.text for query in segment.test.queries]
        if texts:
            for prediction in grounder.ground(segment.encoded, texts):
                found[index, prediction.query] = prediction
    return found


@dataclass
class _Tally:
    """What was counted over queries and moments of one setting at one length."""

    first_short: list[bool] = field(default_factory=list)
    first_there: list[bool] = field(default_factory=list)
    first_long: list[bool] = field(default_factory=list)
    # By whether a window's border crosses the moment: was it lost, was it doubled.
    lost: dict[bool, list[bool]] = field(default_factory=lambda: {False: [], True: []})
    doubled: dict[bool, list[bool]] = field(default_factory=lambda: {False: [], True: []})

    def add(self, asked: Asked, alone: Prediction, found: Prediction) -> None:
        """Compare the answer in the long video with that in the short one."""
        here = np.array(asked.spans_s)
        there = np.array(asked.query.spans_s)
        short, long = _overlaps(alone, there), _overlaps(found, here)
        self.first_short.append(bool(short[:1].any()))
        self.first_long.append(bool(long[:1].any()))
        self.first_there.append(bool(long[_lies_in(found, asked.segment_s)][:1].any()))
        inner = found.windows_s[np.diff(found.windows_s, axis=1)[:, 0] < found.duration_s]
        for place, (start_s, end_s) in enumerate(here.tolist()):
            crossed = bool(((inner > start_s) & (inner < end_s)).any())
            times_short, times_long = int(short[:, place].sum()), int(long[:, place].sum())
            if times_short:
                self.lost[crossed].append(times_long == 0)
            if times_long:
                self.doubled[crossed].append(times_long > max(times_short, 1))


def _lies_in(prediction: Prediction, segment_s: tuple[float, float]) -> NDArray[np.bool_]:
    """Return (moments,), whether the middle of each is in the segment."""
    start_s, end_s = segment_s
    middles = [(moment.start_s + moment.end_s) / 2 for moment in prediction.moments]
    return np.array([start_s <= middle < end_s for middle in middles], bool)


def _overlaps(prediction: Prediction, spans_s: Float) -> NDArray[np.bool_]:
    """Return (moments, spans), whether the IoU is a half or more."""
    rows = np.array([(m.start_s, m.end_s) for m in prediction.moments]).reshape(-1, 2)
    return interval_iou(rows, spans_s) >= 0.5


def _quality(
    report: Report,
    grounder: Grounder,
    segments: Sequence[Segment],
    fillers: Sequence[Segment],
    short: Mapping[tuple[int, str], Prediction],
    minutes: int,
    *,
    only_windows: bool,
) -> None:
    settings = [
        setting
        for setting in (SETTINGS[:1] if only_windows else SETTINGS)
        if setting.window is not None or minutes <= _LONGEST_WHOLE
    ]
    tallies = {setting.name: _Tally() for setting in settings}
    saliency: dict[str, list[tuple[float, bool]]] = {"mean": [], "centre-weighted": []}
    for video in _videos(segments, fillers, minutes):
        if not video.asked:
            continue
        texts = [asked.query.text for asked in video.asked]
        for setting in settings:
            found = grounder.ground(video.encoded, texts, **setting.options(grounder))
            for asked, prediction in zip(video.asked, found, strict=True):
                alone = short[asked.segment, asked.query.text]
                tallies[setting.name].add(asked, alone, prediction)
        if not only_windows:
            _compare_saliency(grounder, video, texts, saliency)
    for name, tally in tallies.items():
        _add_result(report, minutes, name, tally)
    for name, scores in saliency.items():
        if scores:
            precision, hit = np.mean(np.array(scores, float), axis=0).tolist()
            values: dict[str, float | int | str] = {
                "minutes": minutes,
                "mAP": round(100 * precision, 2),
                "Hit@1": round(100 * hit, 2),
            }
            report.add(Row(group="saliency", name=name, values=values))
            report.say(f"{minutes} min, saliency, {name}: {values}")


def _videos(
    segments: Sequence[Segment], fillers: Sequence[Segment], minutes: int
) -> Iterator[LongVideo]:
    """Yield long videos that hold every short one once."""
    rng = np.random.default_rng([_SEED, minutes])
    order = rng.permutation(len(segments)).tolist()
    count = max(1, minutes // _MINUTES_A_TARGET)
    for start in range(0, len(order), count):
        yield compose(rng, segments, order[start : start + count], fillers, 60.0 * minutes)


def _add_result(report: Report, minutes: int, name: str, tally: _Tally) -> None:
    short, long = _percent(tally.first_short), _percent(tally.first_long)
    there = _percent(tally.first_there)
    values: dict[str, float | int | str] = {
        "minutes": minutes,
        "queries": len(tally.first_long),
        "R1@0.5 short": short,
        "R1@0.5 there": there,
        "R1@0.5 long": long,
        "lost %": _percent(tally.lost[False]),
        "lost at borders %": _percent(tally.lost[True]),
        "doubled %": _percent(tally.doubled[False]),
        "doubled at borders %": _percent(tally.doubled[True]),
        "at borders": len(tally.lost[True]),
    }
    report.add(Row(group="quality", name=name, values=values))
    report.say(f"{minutes} min, {name}: {values}")
    if name == WINDOWS.name:
        report.target(f"R1@0.5 lost in {minutes} minutes, points", short - long, "<=", 5.0)
        report.target(
            f"R1@0.5 lost to windows in {minutes} minutes, points", short - there, "<=", 5.0
        )
        for what, by_border in (("lost", tally.lost), ("doubled", tally.doubled)):
            report.target(
                f"{what} at borders beyond elsewhere in {minutes} minutes, points",
                _percent(by_border[True]) - _percent(by_border[False]),
                "<=",
                1.0,
            )


def _percent(values: Sequence[bool]) -> float:
    return round(100 * float(np.mean(values)), 2) if values else 0.0


def _compare_saliency(
    grounder: Grounder,
    video: LongVideo,
    texts: Sequence[str],
    scores: Mapping[str, list[tuple[float, bool]]],
) -> None:
    """Score two ways to merge saliency: the mean, and more weight for a window's middle."""
    windows = plan_windows(video.encoded.num_clips, grounder.window_size())
    parts = [
        grounder.ground(video.encoded.part(x.start_clip, x.end_clip), texts, window=None)
        for x in windows
    ]
    weights: dict[str, Callable[[int], Float]] = {
        "mean": np.ones,
        "centre-weighted": _triangle,
    }
    for name, weight in weights.items():
        for number, asked in enumerate(video.asked):
            merged = _weighted(windows, [part[number].saliency for part in parts], weight)
            truth = video.video.saliency(asked.query.claim, float(grounder.bundle.fps)) > 0
            if truth.any():
                scores[name].append(_ranking(merged, truth[: len(merged)]))


def _triangle(clips: int) -> Float:
    return np.minimum(np.arange(clips), np.arange(clips)[::-1]) + 1.0


def _weighted(
    windows: Sequence[Window],
    parts: Sequence[NDArray[np.float32]],
    weight: Callable[[int], Float],
) -> Float:
    total, sums = np.zeros((2, windows[-1].end_clip))
    for window, part in zip(windows, parts, strict=True):
        here = slice(window.start_clip, window.end_clip)
        total[here] += part * weight(window.num_clips)
        sums[here] += weight(window.num_clips)
    return np.asarray(total / sums)


def _ranking(saliency: Float, truth: NDArray[np.bool_]) -> tuple[float, bool]:
    """Return average precision, and whether the most salient clip is right."""
    right = truth[np.argsort(-saliency, kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].mean()), bool(right[0])


def _cost(
    report: Report,
    grounder: Grounder,
    bundle: Path,
    segments: Sequence[Segment],
    fillers: Sequence[Segment],
    lengths: Sequence[int],
) -> None:
    """Measure `r2rt ground` on saved videos, memory and time a minute of video."""
    peaks, rates = [], []
    text = next(q.text for segment in segments for q in segment.test.queries)
    for minutes in lengths:
        rng = np.random.default_rng([_SEED, minutes, 1])
        video = compose(rng, segments, [0], fillers, 60.0 * minutes)
        path = report.options.media / f"long-{minutes}.r2rt"
        video.encoded.save(path)
        children = [
            run_child(
                [
                    *(sys.executable, "-m", "r2rt", "ground", path, text),
                    *("--model", bundle.resolve(), "--format", "jsonl", "--quiet"),
                    *("--device", "cpu"),
                    *("--precision", read_manifest(bundle).precision),
                ],
                env={"PYTHONPATH": str(CHECKOUT), **NOTHING_KEPT},
            )
            for _ in range(report.options.rounds(3))
        ]
        path.unlink()
        first, further = _query_times(grounder, video, text, report.options.rounds(3))
        length = video.encoded.duration_s / 60
        peaks.append(max(child.peak_rss_bytes for child in children) / _MB)
        rates.append(1000 * first / length)
        values: dict[str, float | int | str] = {
            "minutes": minutes,
            "tokens, MB": round(video.encoded.tokens.nbytes / _MB, 1),
            "peak MB": round(peaks[-1], 1),
            "first query, ms a minute": round(rates[-1], 2),
            "further query, ms a minute": round(1000 * further / length, 2),
        }
        seconds = summarize([child.wall_s for child in children])
        report.add(Row(group="cost", name="r2rt ground", seconds=seconds, values=values))
        report.say(f"{minutes} min: {values}")
    if len(lengths) > 1:
        growth = (peaks[-1] - peaks[0]) / (lengths[-1] - lengths[0])
        report.target("peak memory's growth a minute, MB", growth, "<=", 0.5)
        report.target(
            "first query's time a minute, longest against shortest", rates[-1] / rates[0], "<=", 1.2
        )


def _query_times(
    grounder: Grounder, video: LongVideo, text: str, rounds: int
) -> tuple[float, float]:
    """Return the shortest times of a video's first query and of a further one, in seconds.

    The text is encoded before. A further query finds the first windows finalised, as many as there
    is room for: all of a short video's.
    """
    grounder.encode_queries([text])
    first, further = [], []
    for _ in range(rounds):
        # A video that was not asked before.
        encoded = replace(video.encoded)
        first.append(grounder.ground(encoded, text).timings.ground_s)
        further.append(grounder.ground(encoded, text).timings.ground_s)
    return min(first), min(further)


if __name__ == "__main__":
    main()
