"""Whether a search can say that a query is in no video of a library.

The model is calibrated on videos of its own, which are in no library. Then sentences that are true
somewhere in the corpus are searched, and sentences that are true nowhere in it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.archive_material import Corpus
from benchmarks.harness import Report
from benchmarks.results import Row, Value
from r2rt.archive.library import Archive
from r2rt.grounding.grounder import Grounder
from r2rt.grounding.prediction import Prediction
from r2rt.model.manifest import Presence
from r2rt.quality.calibration import calibrate, store_presence
from training.demo.settings import FPS
from training.demo.testset import sample_test_videos
from training.world.sprites import Sprites

__all__ = ["FALSE_ALARM", "calibrated_on_others", "measure_presence"]

FALSE_ALARM = 0.05
_SEED = 9_000_000
_STYLES = ("twemoji", "noto")
_LENGTHS_S = (60.0, 150.0)


def calibrated_on_others(grounder: Grounder, sprites: Sprites, *, videos: int) -> Presence:
    """Return the calibration by so many videos of each style that are in no corpus."""
    present: list[Prediction] = []
    absent: list[Prediction] = []
    for style in _STYLES:
        for video in sample_test_videos(style, videos, sprites, seed=_SEED, lengths_s=_LENGTHS_S):
            frames = video.frames(sprites, grounder.bundle.dims.image_size)
            encoded = grounder.encode_frames(frames, FPS).compacted(grounder.bundle.dims)
            for queries, answers in ((video.queries, present), (video.absent, absent)):
                if queries:
                    answers.extend(grounder.ground(encoded, [query.text for query in queries]))
    return calibrate(present, absent, FALSE_ALARM)


def measure_presence(
    report: Report,
    library: Path,
    bundle: Path,
    presence: Presence,
    corpus: Corpus,
    queries: Sequence[str],
    *,
    windows: int,
    hours: float,
) -> None:
    """Report the shares of present and of absent queries that are found to be present."""
    absent = corpus.absent(len(queries))
    if not absent:
        report.skip("presence", f"{hours:g} h", "every sentence is true of some video")
        return
    with tempfile.TemporaryDirectory() as folder:
        calibrated = Path(folder, "bundle")
        shutil.copytree(bundle, calibrated)
        store_presence(calibrated, presence)
        with (
            Grounder.load(calibrated, device="cpu") as grounder,
            Archive.open(library, model=grounder) as archive,
        ):
            shares = {
                name: sum(archive.search(text, windows=windows).present is True for text in texts)
                / len(texts)
                for name, texts in (("present", queries), ("absent", absent))
            }
    values: dict[str, Value] = {
        "statistic": presence.statistic,
        "queries": len(queries),
        "queries that no video holds": len(absent),
        "found present": round(shares["present"], 3),
        "false alarms": round(shares["absent"], 3),
        "kept in single videos": round(presence.kept, 3),
    }
    report.say(f"{hours:g} h, presence: {values}")
    report.add(Row(group="presence", name=f"{hours:g} h", values=values))
    report.target(f"false alarms, {hours:g} h", shares["absent"], "<=", FALSE_ALARM)
