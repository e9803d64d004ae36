"""The guard: which mixture of base and tuned weights is chosen, and whether a tuned model may be exported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from nic_ray.metrics.intervals import (
    MIN_PASSAGES,
    Interval,
    Queries,
    count_passages,
    lower_bound,
    paired_intervals,
    standard_error,
)
from nic_ray.metrics.table import METRICS, PRIMARY, direction_of, is_fused, maximised
from nic_ray.results import CROSS_FIT

CONFIDENCE = {"validation": 0.99, "test": 0.975, CROSS_FIT: 0.975}
"""One-sided confidence of the bound of the macro difference, higher on validation, whose rows chose the model."""

FALSE_ALARMS = 0.05
"""Probability that any of the domains seems to fall although none does, for each of the two rules of `falls`."""

NAMED = 10
"""Maximum number of falling domains that are named; any others are only counted."""


LEAST_GAIN_OF_SYNTHETIC = 0.01
"""What the bound must exceed where all questions are synthetic, instead of 0. Such questions repeat words of their
passages, and are all put in a few ways, which a model learns as well. They are easy, too: the round trip keeps those
whose passage the base model or BM25 finds, so little is left to gain. With 0.02, a model was refused whose like gains
0.066 on people's questions; see "Made questions" in docs/results.md."""

MORE_NEIGHBOURS_OF_SYNTHETIC = 0.05
"""By how much more of the neighbours of general texts must be kept where all questions are synthetic than
`guard.min_neighbours_kept` says: how far the model has moved is then all that tells of other questions."""

OF_SYNTHETIC = "since all of these questions are synthetic: made from the passages, by rules or a language model"
"""Why more is asked for."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of the base model's weights and the tuned ones, with its results."""

    alpha: float
    """Share of the tuned weights: 0 is the base model, 1 the tuned one."""
    metrics: Mapping[str, float]
    """Flat metrics on the validation rows."""
    scores: Mapping[str, NDArray[np.float64]]
    """Metric -> its value for each validation query, (Q,)."""
    retention: Mapping[str, float] | None
    """Metric -> its macro mean on the retention set minus the base model's; None without a retention set."""
    neighbours: float | None = None
    """Share of the base model's neighbours on general texts that are kept; None if that is not measured."""


def choose_mixture(
    mixtures: Sequence[Mixture],
    queries: Queries,
    *,
    objective: str,
    max_retention_loss: float,
    min_neighbours_kept: float = 0.0,
) -> Mixture | None:
    """Choose the smallest alpha that is as good as the best one, among those that forget little enough.

    A mixture is as good as the best one if its objective is worse by no more than one standard error of the difference,
    computed at the same queries. The difference is that of the macro means; if the objective is the worst domain, it is
    that of the means of one domain, the worst domain of the best mixture.

    Args:
        mixtures: those with alpha above 0.
        queries: passages and domains of the queries that the mixtures' scores belong to.
        objective: the flat metric that is compared, as `table.checked_objective` returns it.
        max_retention_loss: largest loss of the primary metric, Recall@5, on the retention set; at least 0.
        min_neighbours_kept: least share of the neighbours on general texts that are kept.

    Returns:
        the chosen mixture; None if all of them forget more than that.
    """
    allowed = forgetting_little(mixtures, max_retention_loss, min_neighbours_kept)
    if not allowed:
        return None
    metric, _, over = objective.partition("/")
    compared_by = score_of(objective)
    direction = direction_of(objective)
    best = max(allowed, key=lambda mixture: maximised(mixture.metrics, objective))
    names = np.asarray(queries.domains, np.str_)
    weakest = min(np.unique(names), key=lambda name: direction * float(best.scores[metric][names == name].mean()))
    compared = names == weakest if over == "worst" else np.ones(len(names), np.bool_)

    def is_as_good(mixture: Mixture) -> bool:
        if mixture is best:
            return True
        difference = best.scores[compared_by] - mixture.scores[compared_by]
        error = standard_error(difference[compared], queries.passages[compared], names[compared].tolist())
        lead = maximised(best.metrics, objective) - maximised(mixture.metrics, objective)
        return error is not None and lead <= error

    return min(filter(is_as_good, allowed), key=lambda mixture: mixture.alpha)


def forgetting_little(
    mixtures: Sequence[Mixture], max_retention_loss: float, min_neighbours_kept: float
) -> list[Mixture]:
    """Return those mixtures that forget no more than the limits of `choose_mixture` allow."""
    return [each for each in _losing_little(mixtures, max_retention_loss) if _kept(each) >= min_neighbours_kept]


def score_of(objective: str) -> str:
    """Return the metric of a query by which an objective compares mixtures, a key of `Mixture.scores`."""
    return objective if is_fused(objective) else objective.partition("/")[0]


def _losing_little(mixtures: Sequence[Mixture], limit: float) -> list[Mixture]:
    return [each for each in mixtures if each.retention is None or each.retention[PRIMARY] >= -limit]


def _kept(mixture: Mixture) -> float:
    return 1.0 if mixture.neighbours is None else mixture.neighbours


def neighbours_asked_for(min_neighbours_kept: float, *, synthetic: bool) -> float:
    """Return the least share of neighbours that must be kept; 0 where it is not measured.

    Args:
        min_neighbours_kept: the setting.
        synthetic: whether all questions that the choice is made by are synthetic.
    """
    if not synthetic or not min_neighbours_kept:
        return min_neighbours_kept
    return min(1.0, min_neighbours_kept + MORE_NEIGHBOURS_OF_SYNTHETIC)


def retention_objection(
    mixtures: Sequence[Mixture], *, max_retention_loss: float, min_neighbours_kept: float, synthetic: bool = False
) -> str:
    """Say which limit of what may be forgotten none of some mixtures keeps, and how near the best of them comes.

    Args:
        mixtures, max_retention_loss, min_neighbours_kept: those for which `choose_mixture` has returned None.
        synthetic: whether more neighbours are asked for than the setting says.
    """
    little = _losing_little(mixtures, max_retention_loss)
    lost = [-mixture.retention[PRIMARY] for mixture in mixtures if mixture.retention is not None]
    most = max(map(_kept, little or mixtures))
    broken = []
    if not little:
        broken.append(
            f"loses at least {min(lost):.4g} {METRICS[PRIMARY].label} on the retention set, more than "
            f"guard.max_retention_loss {max_retention_loss:g}"
        )
    if most < min_neighbours_kept:
        broken.append(
            f"keeps at most {most:.4g} of the neighbours of general texts, less than guard.min_neighbours_kept "
            f"{min_neighbours_kept - MORE_NEIGHBOURS_OF_SYNTHETIC:g} and {MORE_NEIGHBOURS_OF_SYNTHETIC:g} more, "
            f"{OF_SYNTHETIC}"
            if synthetic
            else f"keeps at most {most:.4g} of the neighbours of general texts, less than guard.min_neighbours_kept "
            f"{min_neighbours_kept:g}"
        )
    which = "every mix with the base model"
    if 0 < len(little) < len(mixtures):
        which += f" that loses no more than guard.max_retention_loss {max_retention_loss:g}"
    return (
        f"retention: {which} {', and '.join(broken)}; lower the learning rates or the epochs, or hold the model "
        "(train.anchor)"
    )


def macro_bound(part: str, tuned: NDArray[np.float64], base: NDArray[np.float64], queries: Queries) -> float | None:
    """Compute the lower confidence bound of the macro difference; None if there are too few passages for a bound.

    Args:
        part: "validation", "test" or "cross_fit", which determines the confidence.
        tuned: (Q,) Recall@5 of the tuned model at each query.
        base: (Q,) Recall@5 of the base model at the same queries.
        queries: passages and domains of these queries.
    """
    return lower_bound(tuned, base, queries.passages, queries.domains, confidence=CONFIDENCE[part])


def objections(
    part: str,
    tuned: NDArray[np.float64],
    base: NDArray[np.float64],
    queries: Queries,
    *,
    max_domain_drop: float,
    least_gain: float = 0.0,
    against: str = "the base model",
) -> list[str]:
    """List the objections to a tuned model that its results on a part give rise to, one sentence each.

    The best of many evaluations beats the base model even where there was nothing to learn, so a better result is not
    enough: the difference must be so large that the choice of the passages does not explain it. In addition, no domain
    may fall; see `falls`.

    Args:
        part: "validation", "test" or "cross_fit".
        tuned: (Q,) Recall@5 of the tuned model at each query.
        base: (Q,) Recall@5 of the base model at the same queries.
        queries: passages and domains of these queries.
        max_domain_drop: loss of Recall@5 that is allowed in any domain.
        least_gain: what the bound must exceed; above 0 where all queries are synthetic.
        against: what the base model is called.
    """
    gain = paired_intervals(tuned, base, queries.passages, queries.domains)["macro"].difference
    bound = macro_bound(part, tuned, base, queries)
    sentences = []
    if bound is None:
        sentences.append(
            f"macro {METRICS[PRIMARY].label} {gain:+.3f} against {against}, on too few {queries.unit} to say "
            f"how sure that is; {'' if part == CROSS_FIT else f'raise data.{part}_share, or '}bring more rows"
        )
    elif 0 < bound <= least_gain:
        sentences.append(
            f"macro {METRICS[PRIMARY].label} {gain:+.3f} against {against} is too little: its {CONFIDENCE[part]:.1%} "
            f"lower bound is {bound:+.3f}, and must be above {least_gain:g}, {OF_SYNTHETIC}; more rows or trials may "
            "show more, and for questions by people a bound above 0 is enough"
        )
    elif bound <= 0:
        sentences.append(
            f"macro {METRICS[PRIMARY].label} {gain:+.3f} against {against} may be chance: "
            f"its {CONFIDENCE[part]:.1%} lower bound is {bound:+.3f}, and must be above {least_gain:g}; "
            f"more rows or trials may show it"
        )
    than = "" if against == "the base model" else f", against {against}"
    sentences += [fall + than for fall in falls(tuned, base, queries, max_domain_drop=max_domain_drop)]
    return [f"{part}: {sentence}" for sentence in sentences]


def falls(
    tuned: NDArray[np.float64], base: NDArray[np.float64], queries: Queries, *, max_domain_drop: float
) -> list[str]:
    """List the domains that fall by more than `max_domain_drop`, and not by chance; one sentence per domain.

    The domains that fall most come first; beyond `NAMED` domains a last sentence counts the others. Either of two rules
    shows that a fall is not due to chance.

    By the bound: the upper confidence bound of the difference lies below zero. Since many domains are tested, the
    confidence of each bound is raised (Bonferroni): if no domain changes, any of the bounds lies below zero in at most
    a share `FALSE_ALARMS` of cases, rather than each of them in that share. A domain with fewer than
    `intervals.MIN_PASSAGES` passages has no bound of its own; the mean over all such domains has one, and is tested
    like a domain.

    By the passages: a domain with few passages could lose all of them without a bound that shows it. Its fall, counted
    in passages, is therefore tested against the number of passages that a domain of its size loses by chance; this too
    is a false alarm in at most a share `FALSE_ALARMS` of cases, for all domains together. A fall by one passage or less
    never counts. The rate at which passages are lost by chance is estimated from the other domains with few passages,
    or from all other domains if those have too few passages together; the rate at which the domain itself gains is used
    instead where it is higher.

    Args:
        tuned: (Q,) Recall@5 of the tuned model at each query.
        base: (Q,) Recall@5 of the base model at the same queries.
        queries: passages and domains of these queries.
        max_domain_drop: loss of Recall@5 that is allowed in any domain.
    """
    differences = tuned - base
    bounds, confidence = _bounds(differences, queries)
    chances = _chances(differences, queries)
    sentences = []
    for name, fall in sorted(bounds.items(), key=lambda item: item[1].difference):
        if fall.difference >= -max_domain_drop:
            continue
        said = (
            f"{name} falls by {-fall.difference:.3f} {METRICS[PRIMARY].label} on {fall.passages} {queries.unit}, more "
            f"than guard.max_domain_drop {max_domain_drop:g}"
        )
        if fall.high is not None and fall.high < 0:
            sentences.append(f"{said} (its {confidence:.1%} upper bound is {fall.high:+.3f})")
        elif chances.get(name, 1.0) < FALSE_ALARMS / len(chances):
            sentences.append(f"{said}, and by more of its {queries.unit} than chance explains")
    more = [f"{len(sentences) - NAMED} further domains fall"] if len(sentences) > NAMED else []
    return sentences[:NAMED] + more


def _bounds(differences: NDArray[np.float64], queries: Queries) -> tuple[dict[str, Interval], float]:
    """Compute the intervals of the domains, and of the mean over those with few passages.

    Returns:
        domain, or a description of the mean -> interval; and the one-sided confidence of either end of the intervals.
    """
    names, nothing = np.asarray(queries.domains, np.str_), np.zeros_like(differences)
    few = _with_few_passages(queries)
    pooled = np.isin(names, few) if len(few) > 1 else np.zeros(len(names), np.bool_)
    judged = len(np.unique(names)) - len(few) + bool(pooled.any())
    confidence = 1 - FALSE_ALARMS / max(judged, 1)

    def intervals(rows: NDArray[np.bool_]) -> dict[str, Interval]:
        return paired_intervals(
            differences[rows],
            nothing[rows],
            queries.passages[rows],
            names[rows].tolist(),
            confidence=2 * confidence - 1,
        )

    by_domain = intervals(np.ones(len(names), np.bool_))
    del by_domain["macro"]
    if pooled.any():
        together = f"the mean of {len(few)} domains with fewer than {MIN_PASSAGES} {queries.unit} each"
        by_domain[together] = intervals(pooled)["macro"]
    return by_domain, confidence


def _with_few_passages(queries: Queries) -> list[str]:
    return [name for name, count in count_passages(queries).items() if name != "macro" and count < MIN_PASSAGES]


def _chances(differences: NDArray[np.float64], queries: Queries) -> dict[str, float]:
    """Compute the probability that a domain falls as far as it does, or further, if it loses passages only by chance.

    Among values in [0, 1] with the same mean, those that are 0 or 1 have the sum with the largest variance, so the
    fall, counted in passages, is compared with a binomial distribution. Gains of other passages at the same time are
    left out. Both make the probability rather too high than too low.

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
    probabilities = {}
    for number, domain in enumerate(domains.tolist()):
        others = np.arange(len(domains)) != number
        if total[others & is_few].sum() >= MIN_PASSAGES:
            others &= is_few
        # Laplace's rule of succession, since no loss among a few passages says little
        rate = (lost[others].sum() + 1) / (total[others].sum() + 2)
        rate = max(rate, gained[number] / total[number])
        query_counts = counts[of == number]
        size = query_counts.sum() / query_counts.max()  # number of passages if each had as many queries as the largest
        fallen = -size * float(differences[member == number].mean())
        probabilities[domain] = float(betainc(fallen, size - fallen + 1, rate)) if fallen > 1 + 1e-9 else 1.0
    return probabilities
