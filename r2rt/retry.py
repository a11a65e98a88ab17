"""Trying again what may work later, with waits that double and that never fall into step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tenacity

__all__ = ["TransientError", "retrying", "wait_s"]


class TransientError(Exception):
    """A failure that may be gone the next time.

    Attributes:
        retry_after_s: how long to wait before the next try, where the other side says so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def wait_s(attempt: int, first_s: float, longest_s: float) -> float:
    """Return how long to wait after try number `attempt`, counted from 1.

    Half of the wait is random: many who lost the same server do not come back at the same time.

    Args:
        attempt: how often it failed in a row.
        first_s: the wait after the first failure; it doubles from there.
        longest_s: the longest wait.
    """
    import tenacity

    fixed = tenacity.wait_exponential(multiplier=first_s / 2, max=longest_s / 2)
    random = tenacity.wait_random_exponential(multiplier=first_s / 2, max=longest_s / 2)
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    return (fixed + random)(state)


def retrying(
    *,
    tries: int,
    first_s: float,
    longest_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> tenacity.Retrying:
    """Return what calls a function until it raises no `TransientError`; the last one passes.

    Args:
        tries: how often it is called at most.
        first_s: the wait after the first failure; see `wait_s`.
        longest_s: the longest wait, also of those that the other side asks for.
        sleep: what waits; what it raises ends the tries.
    """
    import tenacity

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.retry_after_s if isinstance(error, TransientError) else None
        if asked_s is not None:
            return min(asked_s, longest_s)
        return wait_s(state.attempt_number, first_s, longest_s)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_attempt(tries),
        wait=wait,
        sleep=sleep,
        reraise=True,
    )
