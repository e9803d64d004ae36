"""Whether a tuned model may be exported, and how far it may go from its base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from nic_ray.metrics.bootstrap import (
    MIN_PASSAGES,
    Interval,
    Queries,
    count_passages,
    lower_bound,
    paired_intervals,
    standard_error,
)
from nic_ray.metrics.table import METRICS, PRIMARY

CONFIDENCE = {"validation": 0.99, "test": 0.975}
"""One-sided, of the macro difference. Validation is stricter: its rows picked the model."""

FALSE_ALARMS = 0.05
"""How often a domain, one of all of them, may seem to fall though none does; for each of the two rules of `falls`."""

NAMED = 10
"""Domains that fall and are named; of more only the number is said."""


@dataclass(frozen=True)
class Point:
    """Weights on the way from the base model's to the tuned ones, and what they are worth."""

    alpha: float
    """0 is the base model, 1 the tuned one."""
    metrics: Mapping[str, float]
    """Flat, of the validation rows."""
    scores: Mapping[str, NDArray[np.float64]]
    """Metric -> its value for each validation query, (Q,)."""
    retention: Mapping[str, float] | None
    """Metric -> its macro mean on the retention set minus the base model's; None without a retention set."""


def choose(points: Sequence[Point], queries: Queries, *, objective: str, max_retention_loss: float) -> Point | None:
    """The smallest alpha that is as good as the best one, among those that forget little enough.

    As good: within one standard error of the difference of the macro means, taken at the same queries; for the worst
    domain as the objective, of the means of the domain that is the best point's worst.

    Args:
        points: with alpha above 0; their scores are of `queries`.
        objective: the flat metric that is compared, one of `table.objectives`.
        max_retention_loss: in the primary metric, Recall@5, at least 0.

    Returns:
        None if every point forgets more than that.
    """
    allowed = [point for point in points if point.retention is None or point.retention[PRIMARY] >= -max_retention_loss]
    if not allowed:
        return None
    metric, _, over = objective.partition("/")
    direction = METRICS[metric].direction
    best = max(allowed, key=lambda point: direction * point.metrics[objective])
    names = np.asarray(queries.domains, np.str_)
    weakest = min(np.unique(names), key=lambda name: direction * float(best.scores[metric][names == name].mean()))
    asked = names == weakest if over == "worst" else np.ones(len(names), np.bool_)

    def is_as_good(point: Point) -> bool:
        if point is best:
            return True
        difference = best.scores[metric] - point.scores[metric]
        error = standard_error(difference[asked], queries.passages[asked], names[asked].tolist())
        lead = direction * (best.metrics[objective] - point.metrics[objective])
        return error is not None and lead <= error

    return min(filter(is_as_good, allowed), key=lambda point: point.alpha)


def macro_bound(part: str, tuned: NDArray[np.float64], base: NDArray[np.float64], queries: Queries) -> float | None:
    """What the macro difference exceeds for sure enough; None if there are too few passages to say.

    Args:
        part: "validation" or "test".
        tuned: (Q,) Recall@5 of each query.
        base: (Q,) likewise.
    """
    return lower_bound(tuned, base, queries.passages, queries.domains, confidence=CONFIDENCE[part])


def objections(
    part: str, tuned: NDArray[np.float64], base: NDArray[np.float64], queries: Queries, *, max_domain_drop: float
) -> list[str]:
    """Why the numbers of a part do not let a tuned model pass, a sentence each; none if they do.

    The best of many evaluations beats the base model even where there was nothing to learn, so "better" is not
    enough: the difference must be so large that the choice of the passages does not explain it. Nor may a domain fall;
    see `falls`.

    Args:
        part: "validation" or "test".
        tuned: (Q,) Recall@5 of each query.
        base: (Q,) likewise.
        max_domain_drop: in Recall@5.
    """
    gain = paired_intervals(tuned, base, queries.passages, queries.domains)["macro"].difference
    bound = macro_bound(part, tuned, base, queries)
    found = []
    if bound is None:
        found.append(
            f"macro {METRICS[PRIMARY].label} {gain:+.3f} against the base model, on too few passages to say "
            f"how sure that is; raise data.{part}_share, or bring more rows"
        )
    elif bound <= 0:
        found.append(
            f"macro {METRICS[PRIMARY].label} {gain:+.3f} against the base model may be chance: "
            f"its {CONFIDENCE[part]:.1%} lower bound is {bound:+.3f}, and must be above 0; "
            f"more rows or trials may show it"
        )
    found += falls(tuned, base, queries, max_domain_drop=max_domain_drop)
    return [f"{part}: {each}" for each in found]


def falls(
    tuned: NDArray[np.float64], base: NDArray[np.float64], queries: Queries, *, max_domain_drop: float
) -> list[str]:
    """Which domains fall by more than `max_domain_drop`, and not by chance; one sentence per domain.

    The worst come first; beyond `NAMED` domains a last sentence counts the others.

    Surely: an upper bound of the difference lies below zero. Many domains are asked, so each bound is as much
    stricter (Bonferroni): with no change anywhere one of them lies below zero in `FALSE_ALARMS` of cases, and not in
    that share for each domain. Domains of fewer than `bootstrap.MIN_PASSAGES` passages have no bound of their own; the
    mean over all of them has one, as if it were a domain.

    By its passages: a domain of few passages can lose all of them without being sure of it. So it may not fall by
    more passages than its number of them does by chance, again in `FALSE_ALARMS` of cases for all domains together, and
    one of them never counts. How often a passage is lost by chance is read off the other domains with few passages,
    or off all others if these are too few, and off how much the domain's own passages gain, whichever is more.

    Args:
        tuned: (Q,) Recall@5 of each query.
        base: (Q,) likewise.
        max_domain_drop: in Recall@5.
    """
    differences = tuned - base
    bounds, confidence = _bounds(differences, queries)
    chances = _chances(differences, queries)
    found = []
    for name, each in sorted(bounds.items(), key=lambda item: item[1].difference):
        if each.difference >= -max_domain_drop:
            continue
        said = (
            f"{name} falls by {-each.difference:.3f} {METRICS[PRIMARY].label} on {each.passages} passages, more than "
            f"guard.max_domain_drop {max_domain_drop:g}"
        )
        if each.high is not None and each.high < 0:
            found.append(f"{said} (its {confidence:.1%} upper bound is {each.high:+.3f})")
        elif chances.get(name, 1.0) < FALSE_ALARMS / len(chances):
            found.append(f"{said}, and by more of its passages than chance explains")
    more = [f"{len(found) - NAMED} further domains fall"] if len(found) > NAMED else []
    return found[:NAMED] + more


def _bounds(differences: NDArray[np.float64], queries: Queries) -> tuple[dict[str, Interval], float]:
    """Intervals of the domains, and of the mean over those with few passages; and what their ends hold, one-sided."""
    names, nothing = np.asarray(queries.domains, np.str_), np.zeros_like(differences)
    few = _with_few_passages(queries)
    asked_together = np.isin(names, few) if len(few) > 1 else np.zeros(len(names), np.bool_)
    judged = len(np.unique(names)) - len(few) + bool(asked_together.any())
    confidence = 1 - FALSE_ALARMS / max(judged, 1)

    def intervals(rows: NDArray[np.bool_]) -> dict[str, Interval]:
        return paired_intervals(
            differences[rows],
            nothing[rows],
            queries.passages[rows],
            names[rows].tolist(),
            confidence=2 * confidence - 1,
        )

    found = intervals(np.ones(len(names), np.bool_))
    del found["macro"]
    if asked_together.any():
        together = f"the mean of {len(few)} domains with fewer than {MIN_PASSAGES} passages each"
        found[together] = intervals(asked_together)["macro"]
    return found, confidence


def _with_few_passages(queries: Queries) -> list[str]:
    return [name for name, count in count_passages(queries).items() if name != "macro" and count < MIN_PASSAGES]


def _chances(differences: NDArray[np.float64], queries: Queries) -> dict[str, float]:
    """How probable it is that a domain falls as far as it does, or further, by passages that are lost by chance.

    Of values in [0, 1] none have a wider sum than those that are 0 or 1, so the number of passages that it falls by is
    held against a binomial distribution; what others gain meanwhile is left out. Both make it rather too probable.

    Returns:
        domain -> probability; 1 where it falls by one passage or less.
    """
    domains, member = np.unique(np.asarray(queries.domains, np.str_), return_inverse=True)
    _, first, passage, counts = np.unique(
        np.stack([member, queries.passages]), axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    of = member[first]
    means = np.bincount(passage.ravel(), differences) / counts
    lost, gained = (np.bincount(of, np.maximum(sign * means, 0)) for sign in (-1, 1))
    total = np.bincount(of)
    is_few = total < MIN_PASSAGES
    found = {}
    for number, domain in enumerate(domains.tolist()):
        others = np.arange(len(domains)) != number
        if total[others & is_few].sum() >= MIN_PASSAGES:
            others &= is_few
        # one more passage that is lost and one that is not: of few that are seen, none says little
        rate = (lost[others].sum() + 1) / (total[others].sum() + 2)
        rate = max(rate, gained[number] / total[number])
        own = counts[of == number]
        size = own.sum() / own.max()  # passages, each as large as the largest
        fallen = -size * float(differences[member == number].mean())
        found[domain] = float(betainc(fallen, size - fallen + 1, rate)) if fallen > 1 + 1e-9 else 1.0
    return found
