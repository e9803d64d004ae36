"""Whether a tuned model may be exported, and how far it may go from its base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.statistics import lower_bound, paired_intervals, standard_error

CONFIDENCE = {"validation": 0.99, "test": 0.975}
"""One-sided, of the macro difference. Validation is stricter: its rows picked the model."""


@dataclass(frozen=True)
class Queries:
    """What the queries of a part have in common, whoever answers them.

    passages: (Q,) number of the passage that each asks about; queries of one passage are not independent.
    domains: (Q,) names.
    """

    passages: NDArray[np.integer]
    domains: Sequence[str]


@dataclass(frozen=True)
class Point:
    """Weights on the way from the base model's to the tuned ones, and what they are worth."""

    alpha: float
    """0 is the base model, 1 the tuned one."""
    metrics: Mapping[str, float]
    """Flat, of the validation rows."""
    scores: Mapping[str, NDArray[np.float64]]
    """"recall_at_5" and "mrr" of each validation query, (Q,)."""
    retention: Mapping[str, float] | None
    """Macro "recall_at_5" and "mrr" on the probe minus the base model's; None without a probe."""


def choose(
    points: Sequence[Point], queries: Queries, *, objective: str, max_retention_loss: float, seed: int
) -> Point | None:
    """The smallest alpha that is as good as the best one, among those that forget little enough.

    As good: within one standard error of the difference of the macro means, taken at the same queries; for the worst
    domain as the objective, of the means of the domain that is the best point's worst.

    Args:
        points: with alpha above 0; their scores are of `queries`.
        objective: the metric that is compared, such as "recall_at_5/macro".
        max_retention_loss: in Recall@5, at least 0.

    Returns:
        None if every point forgets more than that.
    """
    allowed = [
        point for point in points if point.retention is None or point.retention["recall_at_5"] >= -max_retention_loss
    ]
    if not allowed:
        return None
    metric, _, over = objective.partition("/")
    best = max(allowed, key=lambda point: point.metrics[objective])
    names = np.asarray(queries.domains, np.str_)
    weakest = min(np.unique(names), key=lambda name: float(best.scores[metric][names == name].mean()))
    asked = names == weakest if over == "worst" else np.ones(len(names), np.bool_)

    def is_as_good(point: Point) -> bool:
        if point is best:
            return True
        difference = best.scores[metric] - point.scores[metric]
        error = standard_error(difference[asked], queries.passages[asked], names[asked].tolist(), seed=seed)
        return error is not None and best.metrics[objective] - point.metrics[objective] <= error

    return min(filter(is_as_good, allowed), key=lambda point: point.alpha)


def macro_bound(
    part: str, tuned: NDArray[np.float64], base: NDArray[np.float64], queries: Queries, *, seed: int
) -> float | None:
    """What the macro difference exceeds for sure enough; None if there are too few passages to say.

    A domain with a single passage in the part is left out: how far that one lies from its like cannot be known.

    Args:
        part: "validation" or "test".
        tuned: (Q,) Recall@5 of each query.
        base: (Q,) likewise.
    """
    names = np.asarray(queries.domains, np.str_)
    judged = [name for name in np.unique(names) if len(np.unique(queries.passages[names == name])) > 1]
    kept = np.isin(names, judged)
    if not kept.any():
        return None
    return lower_bound(
        tuned[kept],
        base[kept],
        queries.passages[kept],
        names[kept].tolist(),
        confidence=CONFIDENCE[part],
        seed=seed,
    )


def objections(
    part: str,
    tuned: NDArray[np.float64],
    base: NDArray[np.float64],
    queries: Queries,
    *,
    max_domain_drop: float,
    seed: int,
) -> list[str]:
    """Why the numbers of a part do not let a tuned model pass, a sentence each; none if they do.

    The best of many evaluations beats the base model even where there was nothing to learn, so "better" is not
    enough: the difference must be so large that the choice of the passages does not explain it.

    Args:
        part: "validation" or "test".
        tuned: (Q,) Recall@5 of each query.
        base: (Q,) likewise.
        max_domain_drop: in Recall@5; a domain may fall further only if its 95 % interval reaches zero.
    """
    intervals = paired_intervals(tuned, base, queries.passages, queries.domains, seed=seed)
    bound = macro_bound(part, tuned, base, queries, seed=seed)
    gain = intervals["macro"].difference
    found = []
    if bound is None:
        found.append(
            f"{part}: macro Recall@5 {gain:+.3f} against the base model, on too few passages to say how sure that is; "
            f"raise data.{part}_share, or bring more rows"
        )
    elif bound <= 0:
        found.append(
            f"{part}: macro Recall@5 {gain:+.3f} against the base model may be chance: its {CONFIDENCE[part]:.1%} "
            f"lower bound is {bound:+.3f}, and must be above 0; more rows or trials may show it"
        )
    for domain, interval in intervals.items():
        sure = domain != "macro" and interval.high is not None and interval.high < 0
        if sure and interval.difference < -max_domain_drop:
            found.append(
                f"{part}: {domain} falls by {-interval.difference:.3f} Recall@5 (95 % interval {interval.low:+.3f} to "
                f"{interval.high:+.3f}), more than guard.max_domain_drop {max_domain_drop:g}"
            )
    return found
