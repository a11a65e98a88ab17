"""Composed long videos: what is asked has its moments there, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.long_material import Segment, compose, make_segments
from benchmarks.long_video import _ranking, main
from r2rt import Grounder
from tests.r2rt.conftest import DEMO_BUNDLE
from tests.training.world.toy_art import write_toy_sprites
from training.world.claims import spans_of
from training.world.sprites import Sprites


@pytest.fixture(scope="module")
def art(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_sprites(tmp_path_factory.mktemp("art") / "sprites.npz").parent


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder.load(DEMO_BUNDLE, device="cpu")


@pytest.fixture(scope="module")
def pools(art: Path, grounder: Grounder) -> tuple[list[Segment], list[Segment]]:
    sprites = Sprites(art / "sprites.npz")
    return make_segments(grounder, sprites, "noto", targets=3, filler_s=180.0, seed=1)


def test_a_moment_lies_in_the_long_video_where_its_segments_tokens_lie(
    pools: tuple[list[Segment], list[Segment]],
) -> None:
    segments, fillers = pools
    long = compose(np.random.default_rng(0), segments, [0, 2], fillers, 900.0)
    assert 900 <= long.encoded.duration_s <= 900 + 150
    assert long.encoded.num_clips == round(long.encoded.duration_s / 2)
    assert long.video.duration_s == pytest.approx(long.encoded.duration_s)
    assert {asked.segment for asked in long.asked} <= {0, 2}
    assert long.asked
    for asked in long.asked:
        segment = segments[asked.segment]
        shift_s = asked.spans_s[0][0] - asked.query.spans_s[0][0]
        assert asked.segment_s[0] == pytest.approx(shift_s)
        assert asked.segment_s[1] == pytest.approx(shift_s + segment.encoded.duration_s)
        first = round(shift_s / 2)
        part = long.encoded.part(first, first + segment.encoded.num_clips)
        np.testing.assert_array_equal(part.tokens, segment.encoded.tokens)
        everywhere = spans_of(asked.query.claim, long.video.timed)
        np.testing.assert_allclose(everywhere, asked.spans_s, atol=1e-6)


def test_what_is_asked_is_not_shown_between(
    pools: tuple[list[Segment], list[Segment]],
) -> None:
    segments, fillers = pools

    def shown(pool: list[Segment]) -> set[str]:
        return {
            actor.thing.concept
            for segment in pool
            for scene in segment.test.video.scenes
            for actor in scene.actors
        }

    assert shown(segments)
    assert shown(fillers)
    assert not shown(segments) & shown(fillers)


def test_average_precision_and_the_first_clip() -> None:
    truth = np.array([True, False, True, False])
    for saliency, precision, first in (
        ([0.9, 0.8, 0.7, 0.1], (1 + 2 / 3) / 2, True),
        ([0.1, 0.9, 0.2, 0.3], (1 / 3 + 2 / 4) / 2, False),
    ):
        got = _ranking(np.array(saliency), truth)
        assert got[0] == pytest.approx(precision)
        assert got[1] == first


@pytest.mark.slow
def test_the_command_reports_quality_memory_and_time(art: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", str(DEMO_BUNDLE), "--art", str(art), "--style", "noto", "--quick"]
    arguments += ["--out", str(tmp_path), "--media", str(tmp_path), "--no-plot", "--repeats", "1"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    record = json.loads(result.stdout.splitlines()[-1])
    rows = {(row["group"], row["name"]) for row in record["rows"]}
    assert {("quality", "windows"), ("quality", "whole"), ("saliency", "mean")} <= rows
    cost = [row["values"] for row in record["rows"] if row["group"] == "cost"]
    assert [row["minutes"] for row in cost] == [1, 3]
    assert all(row["peak MB"] > 10 for row in cost)
    quality = [row["values"] for row in record["rows"] if row["group"] == "quality"]
    assert all(0 <= row["R1@0.5 there"] <= 100 for row in quality)
    assert len(record["targets"]) == 2 * 4 + 2
