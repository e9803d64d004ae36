"""Where the relevant passages of queries stand in their rankings, from scores; ties count against the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A matrix product rounds the same pair of vectors differently at different places of the
# matrix, by about 1e-7 for float32 cosines, so an exact comparison would break true ties by chance.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Ranks:
    """Where the relevant passages of Q queries stand in their rankings; the n passages of each query in their order."""

    query: NDArray[np.int64]
    """(n,) number of the query, ascending; every number from 0 to Q - 1 occurs."""
    rank: NDArray[np.int64]
    """(n,) rank of the passage, from 1, ascending within a query."""
    gain: NDArray[np.float64]
    """(n,) how relevant the passage is, above 0."""

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(Q,) number of each query's relevant passages."""
        return np.bincount(self.query)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts) - self.counts

    @property
    def first(self) -> NDArray[np.int64]:
        """(Q,) the lowest rank of each query's relevant passages."""
        return self.rank[self._starts]

    @property
    def place(self) -> NDArray[np.int64]:
        """(n,) 1, 2, ... for the relevant passages of a query in their order."""
        return np.arange(len(self.query)) - self._starts[self.query] + 1

    @property
    def best_gain(self) -> NDArray[np.float64]:
        """(n,) the gains of each query, the highest first."""
        return self.gain[np.lexsort((-self.gain, self.query))]

    def total(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Add up (n,) values for each query, (Q,)."""
        sums: NDArray[np.float64] = np.bincount(self.query, weights=values).astype(np.float64, copy=False)
        return sums

    def discounted(self, gains: NDArray[np.float64], ranks: NDArray[np.int64], k: float) -> NDArray[np.float64]:
        """Add up (n,) gains for each query, (Q,), each divided by log2(rank + 1); gains beyond rank k count 0."""
        return self.total(np.where(ranks <= k, gains, 0.0) / np.log2(ranks + 1.0))


@dataclass(frozen=True)
class Answers:
    """The relevant passages of all queries in one list, ordered by query, each once."""

    rows: NDArray[np.int64]
    """(n,) number of the query."""
    columns: NDArray[np.int64]
    """(n,) number of the passage."""
    gain: NDArray[np.float64]
    """(n,) its gain; of a passage that is named twice, the highest."""


def answers_of(relevant: Sequence[NDArray[np.integer]], gains: Sequence[NDArray[np.floating]] | None) -> Answers:
    """Return the relevant passages of queries in one list; arguments as for `ranks_of`."""
    rows, columns = flat_columns(relevant)
    gain = np.ones(len(rows)) if gains is None else np.concatenate(gains).astype(np.float64)
    order = np.lexsort((-gain, columns, rows))
    rows, columns, gain = rows[order], columns[order], gain[order]
    once = np.append(True, (np.diff(rows) != 0) | (np.diff(columns) != 0))
    return Answers(rows[once], columns[once], gain[once])


def flat_columns(columns: Sequence[NDArray[np.integer]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (n,) rows and (n,) columns of arrays that each name the columns of one row."""
    rows = np.repeat(np.arange(len(columns)), [len(own) for own in columns])
    return rows, np.concatenate(columns).astype(np.int64)


def count_rivals(
    rows: NDArray[np.int64], own: NDArray[np.floating], irrelevant: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Count the irrelevant passages that rank before each relevant one, (n,).

    Args:
        rows: (n,) number of the query of each relevant passage, ascending.
        own: (n,) scores of the relevant passages.
        irrelevant: (q, c) scores of passages; those of relevant ones, and of those that are left out, are -inf.
    """
    before = np.zeros(len(rows), dtype=np.int64)
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    # Only the relevant passages need a rank, so rivals are counted and nothing is sorted.
    for number in range(place.max(initial=-1) + 1):
        here = np.flatnonzero(place == number)
        scores = irrelevant if len(here) == len(irrelevant) else irrelevant[rows[here]]
        before[here] = np.count_nonzero(scores >= own[here, np.newaxis] - ROUNDING, axis=1)
    return before


def ranked(answers: Answers, own: NDArray[np.floating], before: NDArray[np.int64]) -> Ranks:
    """Return the ranks of relevant passages with scores `own`, (n,), and `before` irrelevant passages ahead, (n,)."""
    order = np.lexsort((-own, answers.rows))
    place = np.arange(len(order)) - np.searchsorted(answers.rows, answers.rows)
    return Ranks(answers.rows, before[order] + place + 1, answers.gain[order])


def ranks_of(
    scores: NDArray[np.floating],
    relevant: Sequence[NDArray[np.integer]],
    ignored: Sequence[NDArray[np.integer]] | None = None,
    gains: Sequence[NDArray[np.floating]] | None = None,
) -> Ranks:
    """Rank each query's relevant passages, best score first.

    Ties count against the model: a relevant passage ranks behind every irrelevant one whose score is equal, or lower by
    no more than rounding (1e-6).

    Args:
        scores: (Q, C) similarity of each query to each passage, finite.
        relevant: Q arrays, each naming the passages that answer the query, at least one.
        ignored: Q arrays, each naming passages that are left out of the query's ranking, whatever their scores; none
            is relevant.
        gains: Q arrays like `relevant`, how relevant each passage is, above 0; None: all equally.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        raise ValueError(f"scores must be finite, {np.count_nonzero(~finite)} of {scores.size} are not")
    answers, irrelevant = answers_of(relevant, gains), scores.copy()
    own = scores[answers.rows, answers.columns]
    irrelevant[answers.rows, answers.columns] = -np.inf
    if ignored is not None:
        irrelevant[flat_columns(ignored)] = -np.inf
    return ranked(answers, own, count_rivals(answers.rows, own, irrelevant))
