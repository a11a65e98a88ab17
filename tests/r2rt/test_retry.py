"""Tries are bounded, waits double with jitter, and a server that says when is listened to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from r2rt.retry import TransientError, retrying, wait_s


class Flaky:
    """Fails with the errors given, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_waits_double_up_to_the_longest_and_half_of_each_is_random() -> None:
    for attempt, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (10_000, 30.0)):
        waits = [wait_s(attempt, 0.5, 30.0) for _ in range(300)]
        assert longest / 2 <= min(waits) < 0.6 * longest
        assert 0.9 * longest < max(waits) <= longest


def test_it_is_tried_until_it_works() -> None:
    waited: list[float] = []
    flaky = Flaky(TransientError("a"), TransientError("b", 7.0), TransientError("c", 1e9))
    again = retrying(tries=5, first_s=0.1, longest_s=9.0, sleep=waited.append)
    assert again(flaky) == "done"
    assert flaky.calls == 4
    assert 0.05 <= waited[0] <= 0.1
    assert waited[1:] == [7.0, 9.0]


def test_tries_are_bounded_and_the_last_error_passes() -> None:
    flaky = Flaky(*(TransientError(str(number)) for number in range(9)))
    with pytest.raises(TransientError, match="2"):
        retrying(tries=3, first_s=0.0, longest_s=0.0, sleep=lambda _: None)(flaky)
    assert flaky.calls == 3


def test_other_errors_are_not_tried_again() -> None:
    flaky = Flaky(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        retrying(tries=3, first_s=0.0, longest_s=0.0)(flaky)
    assert flaky.calls == 1


def test_who_sleeps_may_end_it() -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    flaky = Flaky(TransientError("a"))
    with pytest.raises(KeyboardInterrupt):
        retrying(tries=3, first_s=0.0, longest_s=0.0, sleep=stop)(flaky)
    assert flaky.calls == 1


def test_the_library_is_imported_when_it_is_used() -> None:
    code = (
        "import sys, r2rt.retry, r2rt.portable;"
        "print('tenacity' in sys.modules, 'filelock' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
