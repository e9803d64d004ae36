"""What the score of a first hit says: the chance that it answers the query, and when nothing was found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.evidence import StoredCalibration

RIGHT_BELOW = 0.05
"""Share of the right first hits, on the rows that the threshold is set on, that are taken for nothing found."""
BINS = 10
"""Number of groups of equally many queries in a reliability diagram."""


@dataclass(frozen=True)
class FirstHits:
    """The passage that ranks first for each of Q queries."""

    scores: NDArray[np.floating]
    """(Q,) its score."""
    right: NDArray[np.bool_]
    """(Q,) whether it answers the query; where a wrong passage has the same score, it does not."""
    without_answer: NDArray[np.floating]
    """(Q,) the score of the passage that would rank first if the corpus held no answer."""


@dataclass(frozen=True)
class Calibration:
    """The chance that a first hit answers its query, as a function of its score."""

    scores: tuple[float, ...]
    """Ascending."""
    chances: tuple[float, ...]
    """The chance at each of `scores`; between two of them it is interpolated, beyond them it stays what it is."""
    threshold: float
    """A first hit with a lower score counts as nothing found."""


def first_hits(
    scores: NDArray[np.floating], relevant: NDArray[np.bool_], ignored: NDArray[np.bool_] | None = None
) -> FirstHits:
    """Find the first hits of queries.

    Args:
        scores, relevant, ignored: as in `ranking.relevance_by_rank`.
    """
    left_out = relevant if ignored is None else relevant | ignored
    best_wrong = np.where(left_out, -np.inf, scores).max(axis=1)
    best_right = np.where(relevant, scores, -np.inf).max(axis=1)
    return FirstHits(np.maximum(best_right, best_wrong), best_right - 1e-6 > best_wrong, best_wrong)


def calibrate(hits: FirstHits) -> Calibration:
    """Fit the chance that a first hit is right, which never falls with its score, and set the threshold.

    No chance is 0 or 1: one more query is imagined at each end of the scores, a right first hit at the lowest and a
    wrong one at the highest. Otherwise a few queries at an end that all came out alike would be called certain. n right
    ones at the top have a chance of n / (n + 1).

    The threshold leaves a share `RIGHT_BELOW` of the right first hits below it. It is not set by queries without an
    answer, since nobody knows what those will be.

    Source: isotonic regression, Zadrozny and Elkan 2002, KDD, 694-699. One more query that comes out the other way is
    what Venn-Abers predictors imagine at every score (Vovk and Petej 2014, UAI, 829-838); here it is at the ends only.
    """
    from scipy.optimize import isotonic_regression

    # equal scores, which rank fusion often gives, are one point with the mean of what came true
    distinct, place, counts = np.unique(hits.scores, return_inverse=True, return_counts=True)
    right_ones, weights = np.bincount(place, hits.right.astype(float)), counts.astype(float)
    right_ones[0] += 1
    weights[0] += 1
    weights[-1] += 1
    scores, chances = distinct.astype(float), isotonic_regression(right_ones / weights, weights=weights).x
    # of a run of equal chances its two ends say all
    ends = np.flatnonzero(np.diff(chances, prepend=-1) + np.diff(chances, append=2))
    right = hits.scores[hits.right]
    threshold = float(np.quantile(right, RIGHT_BELOW)) if len(right) else float(scores[-1])
    return Calibration(tuple(scores[ends].tolist()), tuple(chances[ends].tolist()), threshold)


def as_calibration(content: StoredCalibration) -> Calibration:
    """Return a calibration from its stored form."""
    return Calibration(tuple(content["scores"]), tuple(content["chances"]), content["threshold"])


def chances_of(calibration: Calibration, scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the (n,) chances that first hits with these scores (n,) answer their queries."""
    chances: NDArray[np.float64] = np.interp(scores, calibration.scores, calibration.chances)
    return chances


def brier_score(chances: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Compute the mean squared difference between the chance that was stated and what came true, in [0, 1]; 0 is best.

    Source: Brier 1950, Monthly Weather Review 78, 1-3.
    """
    return float(((chances - right) ** 2).mean())


def reliability(chances: NDArray[np.floating], right: NDArray[np.bool_]) -> Sequence[tuple[float, float, int]]:
    """Compare stated chances with what came true, in up to `BINS` groups of queries with similar chances.

    Returns:
        for each group, lowest chance first: the mean chance, the share of right first hits, the number of queries.
    """
    order = np.argsort(chances, kind="stable")
    groups = [group for group in np.array_split(order, BINS) if len(group)]
    return [(float(chances[group].mean()), float(right[group].mean()), len(group)) for group in groups]
