"""Sequences on the command line: `--then`, `--within`, `--sequence`, asked beside other queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from r2rt.cli.options import TIME
from r2rt.errors import QueryError
from r2rt.queries import Query, free_qids

if TYPE_CHECKING:
    from r2rt.grounding.prediction import Prediction
    from r2rt.selection.sequences import SequenceQuery

__all__ = ["Asked", "sequence_options"]

F = TypeVar("F", bound=Callable[..., Any])


def sequence_options(command: F) -> F:
    """Add `--then`, `--within` and `--sequence`."""
    for option in (
        click.option(
            "--sequence",
            "sequences",
            multiple=True,
            help='The whole sequence in one text: "a dog then a cat within 10s"; repeatable.',
        ),
        click.option("--within", "within_s", type=TIME, help="The longest gap before each --then."),
        click.option(
            "--then",
            multiple=True,
            help="Find where this follows the query; repeatable, for a longer sequence.",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Asked:
    """What is asked: queries, then sequences; all their sentences go in one batch.

    Attributes:
        queries: plain queries.
        sequences: queries that follow one another.
    """

    queries: tuple[Query, ...]
    sequences: tuple[SequenceQuery, ...] = ()

    @classmethod
    def of(
        cls,
        queries: Sequence[Query],
        *,
        then: Sequence[str],
        within_s: float | None,
        sequences: Sequence[str],
    ) -> Asked:
        """Return what the options ask.

        Raises:
            QueryError: options that make no sense, an empty query, or nothing is asked.
        """
        if within_s is not None and not then:
            raise QueryError("--within is the gap before what --then asks; give --then QUERY too")
        if not queries and not sequences:
            raise QueryError("no query: give a sentence, -q SENTENCE or --queries FILE.jsonl")
        for item in queries:
            if not item.text.strip():
                raise QueryError(f"query {item.qid!r} is empty; write a sentence")
        if not then and not sequences:
            return cls(tuple(queries))
        from r2rt.selection.sequences import SequenceQuery, parse_sequence

        found = [parse_sequence(text) for text in sequences]
        if then:
            if len(queries) != 1:
                raise QueryError(
                    f"--then goes on from one query, got {len(queries)}; "
                    "for several sequences repeat --sequence"
                )
            chain = (queries[0].text, *then)
            found.insert(0, SequenceQuery(queries=chain, within_s=(within_s,) * len(then)))
            queries = ()
        return cls(tuple(queries), tuple(found))

    @property
    def sentences(self) -> list[str]:
        """Every sentence that the model is asked."""
        parts = [query for sequence in self.sequences for query in sequence.queries]
        return [item.text for item in self.queries] + parts

    @property
    def qids(self) -> tuple[int | str, ...]:
        """The id of each answer; sequences are counted on, by numbers that no query has."""
        numbers = free_qids(len(self.sequences), self.queries, first=len(self.queries) + 1)
        return (*(item.qid for item in self.queries), *numbers)

    def answers(
        self, predictions: Sequence[Prediction], *, top_k: int | None, min_score: float
    ) -> list[Prediction]:
        """Return an answer to each query and sequence, from the whole answers to all sentences."""
        count = len(self.queries)
        answers = [item.best(top_k, min_score) for item in predictions[:count]]
        if not self.sequences:
            return answers
        from r2rt.selection.sequences import find_sequences

        rest = list(predictions[count:])
        for sequence in self.sequences:
            parts, rest = rest[: len(sequence.queries)], rest[len(sequence.queries) :]
            answers.append(
                find_sequences(parts, within_s=sequence.within_s, top_k=top_k, min_score=min_score)
            )
        return answers
