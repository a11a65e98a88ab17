"""The values of one record, each read as what it must be; what it is not becomes a problem."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.annotation import Problem
from training.data.records import Record

__all__ = ["Fields", "shown"]


class Fields:
    """Reads the fields of a record and collects their problems.

    Args:
        path: the file, as problems name it.
        record: the record.

    Attributes:
        problems: what was found so far.
    """

    def __init__(self, path: str, record: Record) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._place = record.place
        self._values = record.fields

    def __contains__(self, field: str) -> bool:
        return field in self._values

    def names(self) -> list[str]:
        """Return the names of all fields."""
        return list(self._values)

    def value(self, field: str) -> Any:
        """Return the value as it was read; None where there is none."""
        return self._values.get(field)

    def add(
        self,
        kind: str,
        field: str | None,
        message: str,
        *,
        repair: str | None = None,
        warning: bool = False,
    ) -> None:
        """Note a problem; None as the field is the whole record."""
        self.problems.append(
            Problem(
                kind=kind,
                path=self._path,
                place=self._place,
                field=field,
                message=message,
                severity="warning" if warning else "error",
                repair=repair,
            )
        )

    def text(self, field: str) -> str | None:
        """Return a field that must be text; None without it, or after a problem was noted."""
        value = self._values.get(field)
        if value is None or isinstance(value, str):
            return value
        self.add("wrong-type", field, f"{shown(value)} is not text; write it in quotes")
        return None

    def number(self, field: str, value: Any) -> float | None:
        """Return `value` as a finite number; None after a problem was noted."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.add("wrong-type", field, f"{shown(value)} is not a number")
            return None
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.add("not-finite", field, f"is {number}; write a finite number")
            return None
        return number

    def items(self, field: str) -> list[Any] | None:
        """Return a field that must be a list; None without it, or after a problem was noted."""
        value = self._values.get(field)
        if value is None or isinstance(value, list):
            return value
        self.add("wrong-type", field, f"{shown(value)} is not a list")
        return None

    def ratings(
        self, field: str, values: list[Any], low: float, high: float
    ) -> NDArray[np.float32] | None:
        """Return numbers from low to high, (N,); None after a problem was noted."""
        numbers = []
        for index, value in enumerate(values):
            number = self.number(f"{field}[{index}]", value)
            if number is None:
                return None
            if not low <= number <= high:
                self.add(
                    "outside-range",
                    f"{field}[{index}]",
                    f"{number:g}; expected {low:g} to {high:g}",
                )
                return None
            numbers.append(number)
        return np.array(numbers, np.float32)


def shown(value: Any) -> str:
    """Return a value for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
