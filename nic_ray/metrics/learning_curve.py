"""What more pairs would bring: a line through the results at growing shares of the training passages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.metrics.intervals import Interval, Queries, paired_intervals


@dataclass(frozen=True)
class FittedCurve:
    """A metric's macro mean as a linear function of the logarithm of the number of training passages."""

    at_one: float
    """The value on the line at all of the training passages."""
    doubling: Interval
    """What twice as many passages bring, by the line: its slope per doubling, with an interval over test passages."""

    def at(self, share: float) -> float:
        """Return the value on the line at a share of the training passages; beyond 1 it is a guess."""
        return self.at_one + self.doubling.difference * float(np.log2(share))


def fit_curve(scores: Mapping[float, NDArray[np.floating]], queries: Queries) -> FittedCurve:
    """Fit a line to the macro means over log2 of the shares, by least squares.

    The slope is a weighted sum of the scores of each query, so its interval is that of a difference between models at
    the same queries. It tells how far the slope may be due to the choice of the test passages, not how far the line is
    from the truth: learning curves flatten, so beyond all passages the line promises rather too much.

    Args:
        scores: share of the training passages, > 0, at least two -> (Q,) score of each test query.
        queries: passages and domains of the test queries.

    Raises:
        ValueError: fewer than two shares.
    """
    if len(scores) < 2:
        raise ValueError(f"want two shares or more, got {len(scores)}")
    at = np.log2(np.array([*scores], dtype=np.float64))
    centred = at - at.mean()
    slopes: NDArray[np.float64] = (centred / (centred**2).sum()) @ np.stack([*scores.values()]).astype(np.float64)
    doubling = _macro(slopes, queries)
    mean = float(np.mean([_macro(values, queries).difference for values in scores.values()]))
    return FittedCurve(mean - float(at.mean()) * doubling.difference, doubling)


def _macro(values: NDArray[np.floating], queries: Queries) -> Interval:
    return paired_intervals(values, np.zeros_like(values), queries.passages, queries.domains)["macro"]


def shares_of_passages(
    passages: NDArray[np.integer], domains: Sequence[str], shares: Sequence[float], *, seed: int
) -> dict[float, NDArray[np.int64]]:
    """Draw growing parts of the rows, by passage and within each domain; each part holds the smaller ones.

    Args:
        passages: (N,) number of each row's passage.
        domains: (N,) names.
        shares: shares of each domain's passages, in (0, 1]; at least one passage of each domain is drawn.

    Returns:
        share -> positions of rows, ascending.
    """
    generator, names = np.random.default_rng(seed), np.asarray(domains, np.str_)
    rank = np.empty(len(passages))
    for name in np.unique(names):
        own = np.flatnonzero(names == name)
        numbers, place = np.unique(passages[own], return_inverse=True)
        rank[own] = (generator.permutation(len(numbers)) / len(numbers))[place]
    return {share: np.flatnonzero((rank < share) | (rank == 0)) for share in shares}
