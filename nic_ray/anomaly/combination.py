"""Scores on one scale: how rare each is among normal queries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TAIL = 0.1
"""Share of the largest scores that the tail is estimated by."""


@dataclass(frozen=True)
class Rarity:
    """How the scores of normal queries are distributed."""

    scores: NDArray[np.float64]
    """(N,) ascending, of queries that the score was not fitted to."""
    start: float
    """Where the tail begins."""
    excess: float
    """By how much the scores in the tail exceed that, on average; above 0."""


def fit(scores: NDArray[np.floating]) -> Rarity:
    """Describe the distribution of a score.

    Args:
        scores: (N,) of normal queries, N at least 1.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    start = float(np.quantile(ordered, 1 - TAIL))
    beyond = ordered[ordered > start] - start
    return Rarity(ordered, start, max(float(beyond.mean()) if len(beyond) else 0.0, 1e-6))


def rarity(scores: NDArray[np.floating], normal: Rarity) -> NDArray[np.float64]:
    """Compute -ln of the share of normal queries that score at least as high.

    Beyond all of them, where a share cannot be counted, the tail is taken to fall off exponentially: two scores that
    no normal query reaches are told apart.

    Returns:
        (Q,) 0 or larger.
    """
    count = len(normal.scores)
    above = count - np.searchsorted(normal.scores, scores, side="left")
    counted = -np.log((above + 1.0) / (count + 1.0))
    tail = -np.log(TAIL) + (np.asarray(scores, np.float64) - normal.start) / normal.excess
    found: NDArray[np.float64] = np.maximum(np.where(np.asarray(scores) > normal.start, tail, counted), 0.0)
    return found
