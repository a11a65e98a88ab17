"""`r2rt models calibrate`: ask every pair, fit the threshold, write it into the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from r2rt.cli.console import print_table
from r2rt.cli.session import encode_source, note, open_model
from r2rt.video.missing import require_source

if TYPE_CHECKING:
    from r2rt.engines import Device
    from r2rt.model.manifest import Presence

__all__ = ["calibrate_model", "described_presence"]


def calibrate_model(
    model: str, pairs: Path, *, false_alarm: float, device: Device, cache: bool, quiet: bool
) -> None:
    """Calibrate a bundle on pairs of videos and queries, and write that into its manifest.

    Every video is encoded once and asked all its queries in one batch.
    """
    from r2rt.grounding.encoding_cache import EncodingCache
    from r2rt.grounding.prediction import Prediction
    from r2rt.model.installed import changeable, resolve
    from r2rt.quality.calibration import (
        Pair,
        calibrate,
        check_counts,
        read_pairs,
        store_presence,
    )

    by_video: dict[str, list[Pair]] = {}
    asked_pairs = read_pairs(pairs)
    belonging = sum(pair.belongs for pair in asked_pairs)
    check_counts(belonging, len(asked_pairs) - belonging)  # before hours of video are read
    for pair in asked_pairs:
        require_source(pair.video)
        by_video.setdefault(pair.video, []).append(pair)
    folder = resolve(model)
    kept = EncodingCache() if cache else None
    answers: dict[bool, list[Prediction]] = {True: [], False: []}
    with open_model(str(folder), device, quiet=quiet, any_form=False) as grounder:
        grounder.encode_queries([pair.query for asked in by_video.values() for pair in asked])
        for number, (video, asked) in enumerate(by_video.items(), start=1):
            label = f"encoding {number}/{len(by_video)}"
            encoded = encode_source(grounder, video, {}, cache=kept, quiet=quiet, label=label)
            predictions = grounder.ground(encoded, [pair.query for pair in asked])
            for pair, prediction in zip(asked, predictions, strict=True):
                answers[pair.belongs].append(prediction)
    presence = calibrate(answers[True], answers[False], false_alarm)
    own = changeable(folder)
    store_presence(own, presence)
    print_table(("", ""), [*described_presence(presence)])
    copied = "" if own == folder else f"; the package's own stays as it was, this is a copy: {own}"
    note(f"{own.name} is calibrated{copied}", quiet=quiet)


def described_presence(presence: Presence) -> list[tuple[str, str]]:
    """Return a calibration as rows of a table."""
    from r2rt.grounding.presence import threshold

    low, high = presence.kept_interval
    areas = ", ".join(f"{name} {area:.3f}" for name, area in presence.areas.items())
    return [
        (
            "not in this video",
            f"by {presence.statistic}, above {threshold(presence):.4g} in one window",
        ),
        (
            "false positives",
            f"{presence.false_alarm:.3g} of {presence.negatives} queries that do not belong",
        ),
        (
            "true positives",
            f"{presence.kept:.3f} of {presence.positives} queries that belong "
            f"({low:.3f} to {high:.3f} at 95 %)",
        ),
        ("area under ROC", areas),
    ]
