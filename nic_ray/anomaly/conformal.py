"""Conformal p-values: how often a normal query is at least as abnormal, by queries that nothing was fitted to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nic_ray.metrics.intervals import standard_error

CONFIDENCE = 0.9
"""Chance that the share of false alarms does not exceed what was asked for."""
LEAST = 20
"""Number of groups from which on a kind of query has a calibration of its own."""
ALLOWANCE = 1.5
"""How many times the share of false alarms over all queries a single kind of query may have: more would let a kind of
80 queries exceed a tenth, less would cost detection (12 random splits of the reference set, by the base model)."""


@dataclass(frozen=True)
class Calibration:
    """The scores of the queries that calibrate, with their weights."""

    scores: NDArray[np.float64]
    """(N,) ascending."""
    weights: NDArray[np.float64]
    """(N,) 1 / number of queries in the same group, so that each group weighs 1."""
    groups: int


@dataclass(frozen=True)
class ByKind:
    """A calibration over all queries, and one for each kind that is frequent enough."""

    all: Calibration
    kinds: Mapping[str, Calibration]
    level: float
    """Queries with a p-value of at most that are flagged."""


def calibrate(scores: NDArray[np.floating], groups: NDArray[np.integer]) -> Calibration:
    """Keep the scores of normal queries to compare others with.

    Queries about one passage are not independent, so passages are the sample: each weighs the same, however many
    queries ask about it.

    Args:
        scores: (N,) of queries that were neither fitted to nor chosen by, N at least 1.
        groups: (N,) number of the passage, or of another group, of each.

    Raises:
        ValueError: there are none, lengths differ, or a score is not a number.
    """
    if not len(scores) or scores.shape != groups.shape:
        raise ValueError(f"want a group for each of at least one score, got {scores.shape} and {groups.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{np.count_nonzero(np.isnan(scores))} of {len(scores)} scores are not numbers")
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    weights = 1.0 / sizes[member]
    return Calibration(np.asarray(scores, np.float64)[order], weights[order], len(sizes))


def p_values(scores: NDArray[np.floating], calibration: Calibration) -> NDArray[np.float64]:
    """Compute p = (1 + sum over G groups of the share of its queries that score at least as high) / (G + 1).

    If a query and the groups that calibrate are exchangeable, p is at most alpha with a probability of at most alpha,
    for every alpha; queries within a group may depend on each other in any way.

    Args:
        scores: (Q,), larger if more abnormal.

    Returns:
        (Q,) in (0, 1].

    Source: Lee, Barber and Willett 2023, "Distribution-free inference with hierarchical data", arXiv:2306.06342.
    """
    above = np.append(np.cumsum(calibration.weights[::-1])[::-1], 0.0)
    first = np.searchsorted(calibration.scores, scores, side="left")
    result: NDArray[np.float64] = np.minimum((1.0 + above[first]) / (calibration.groups + 1), 1.0)
    return result


def calibrate_by_kind(
    scores: NDArray[np.floating], groups: NDArray[np.integer], kinds: Sequence[str | None], *, false_alarms: float
) -> ByKind:
    """Calibrate over all queries, and over those of each kind that enough groups have a query of.

    Fewer than `LEAST` groups say little of a kind; and with G of them, no p-value is below 1 / (G + 1), so that a kind
    of few would keep every query from being flagged.

    Args:
        false_alarms: share of normal queries that may be flagged, in (0, 1).

    Raises:
        ValueError: as `calibrate`.
    """
    together = calibrate(scores, groups)
    reached = level(false_alarms, p_values(scores, together) <= false_alarms, groups)
    least = max(LEAST, groups_wanted(ALLOWANCE * reached))
    own = np.array(["" if kind is None else kind for kind in kinds], dtype=object)
    names = sorted({kind for kind in kinds if kind is not None})
    enough = [name for name in names if len(np.unique(groups[own == name])) >= least]
    return ByKind(together, {name: calibrate(scores[own == name], groups[own == name]) for name in enough}, reached)


def level(false_alarms: float, flags: NDArray[np.bool_], groups: NDArray[np.integer]) -> float:
    """Compute the p-value up to which queries are flagged, so that the share is not exceeded by bad luck of the draw.

    Conformal p-values hold on average over the passages that calibrate: with those at hand, the share of later normal
    queries lies above what was asked for in about half of all cases. One-sided at `CONFIDENCE`, the level is lower by
    the standard error over passages.

    Args:
        false_alarms: share of normal queries that may be flagged.
        flags: (N,) which of the queries that calibrate have a p-value of at most that.
        groups: (N,) their groups.

    Returns:
        the level, never so low that no query could be flagged.

    Source: Vovk 2012, "Conditional validity of inductive conformal predictors", for why a margin is needed.
    """
    error = standard_error(flags.astype(np.float64), groups, [""] * len(flags)) or 0.0
    return max(false_alarms - float(ndtri(CONFIDENCE)) * error, min(false_alarms, 1 / (len(np.unique(groups)) + 1)))


def groups_wanted(false_alarms: float) -> int:
    """The smallest number of groups by which any query can be flagged: with G groups, p is at least 1 / (G + 1)."""
    return math.ceil(1 / false_alarms - 1 - 1e-9)


def p_values_by_kind(scores: NDArray[np.floating], calibration: ByKind) -> NDArray[np.float64]:
    """Compute p-values that hold over all queries, and within `ALLOWANCE` times that for every kind.

    The kind of a query that comes in is not known, so it must be unlike those of every kind: p is the largest of the
    p-value over all queries and of each kind's divided by the allowance. A share alpha of all normal queries, and
    ALLOWANCE * alpha of those of each kind, have a p of at most alpha. With an allowance of 1 this would be Mondrian
    conformal prediction against the union of the kinds.

    Returns:
        (Q,) in (0, 1].

    Source: Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World", section 4.5.
    """
    of_kinds = [p_values(scores, each) / ALLOWANCE for each in calibration.kinds.values()]
    result: NDArray[np.float64] = np.max([p_values(scores, calibration.all), *of_kinds], axis=0)
    return result


def flags(scores: NDArray[np.floating], calibration: ByKind) -> NDArray[np.bool_]:
    """(Q,) which queries are flagged."""
    return p_values_by_kind(scores, calibration) <= calibration.level
