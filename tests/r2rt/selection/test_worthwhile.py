"""Which moments are exported by default."""

from __future__ import annotations

import numpy as np
import pytest

from r2rt.cli.outputs import Delivery
from r2rt.outputs.answers import Answers
from r2rt.selection.worthwhile import good_moments, worthwhile
from tests.r2rt.media.footage import prediction
from tests.r2rt.outputs.material import output_options


def test_half_the_best_score_is_enough_and_less_is_not() -> None:
    answer = prediction((0, 1, 0.8), (1, 2, 0.4), (2, 3, 0.39))
    assert [moment.score for moment in worthwhile(answer).moments] == [0.8, 0.4]
    weak = prediction((0, 1, 0.02), (4, 5, 0.011), (8, 9, 0.009))
    assert len(worthwhile(weak).moments) == 2  # relative, since models score differently
    assert worthwhile(prediction()).moments == ()


def test_a_moment_that_overlaps_a_better_one_is_left_out() -> None:
    answer = prediction((2, 4, 0.9), (0, 2, 0.8), (3.9, 6, 0.7), (4, 6, 0.6), (0, 9, 0.5))
    assert [moment.score for moment in worthwhile(answer).moments] == [0.9, 0.8, 0.6]


def test_random_answers_keep_what_the_rule_says() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        starts, scores = rng.uniform(0, 60, 30), np.sort(rng.uniform(0, 1, 30))[::-1]
        ends = starts + rng.uniform(0.1, 8, 30)
        moments = prediction(*zip(starts, ends, scores, strict=True)).moments
        kept = good_moments(moments)
        for moment in moments:
            rivals = [a for a in kept if a.start_s < moment.end_s and moment.start_s < a.end_s]
            is_good = moment.score >= 0.5 * moments[0].score
            is_beaten = any(rival.score > moment.score for rival in rivals)
            assert (moment in kept) == (is_good and not is_beaten)


@pytest.mark.parametrize(("name", "written"), [("table", 5), ("srt", 20), ("json", None)])
def test_more_good_moments_than_are_written_are_reported(
    name: str, written: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = [(2.0 * n, 2.0 * n + 1, 0.9 - 0.01 * n) for n in range(30)]
    options = output_options(name)
    delivery = Delivery(options, ["a.mp4"], top_k="usual")
    answer = prediction(*moments, duration_s=60)
    delivery.add(Answers(video="a.mp4", predictions=(answer,), qids=(1,)))
    delivery.finish()
    out, err = capsys.readouterr()
    if written is None:
        assert out.count('"score"') == 30 + len(answer.saliency)
        assert err == ""
    else:
        assert "30 moments" in err
        assert f"than {written}" in err
        assert out.count(" --> ") == (written if name == "srt" else 0)
