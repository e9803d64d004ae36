"""Confidence intervals of the difference between two models, with queries that are clustered by passage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_PASSAGES = 8
"""No interval is given for fewer passages, since their spread is too uncertain. Domains with fewer share one spread."""


@dataclass(frozen=True)
class Queries:
    """Passages and domains of the queries of a part, whichever model answers them."""

    passages: NDArray[np.integer]
    """(Q,) number of the passage that each query asks about, or of the document that it belongs to where rows are
    grouped by document; queries about one passage are not independent, and nor are those about one document."""
    domains: Sequence[str]
    """(Q,) domain of each query, by name."""
    unit: str = "passages"
    """What these numbers count: "passages", "documents" or the like."""


def count_passages(queries: Queries) -> dict[str, int]:
    """Count the passages that the queries of each domain ask about; "macro" is the sum of these counts."""
    names, member = np.unique(np.asarray(queries.domains, np.str_), return_inverse=True)
    owners = np.unique(np.stack([member, queries.passages]), axis=1)[0]
    counts = np.bincount(owners, minlength=len(names)).tolist()
    return dict(zip(names.tolist(), counts, strict=True)) | {"macro": sum(counts)}


@dataclass(frozen=True)
class Interval:
    """The difference of two models' means, and how much of it may be due to the choice of passages."""

    difference: float
    low: float | None
    """None, like `high`, where the queries ask about too few passages."""
    high: float | None
    queries: int
    passages: int
    """Passages that the queries ask about; a passage that two domains ask about counts in both."""


@dataclass(frozen=True)
class _Passages:
    """One domain's queries, reduced to a sum and a count per passage, in the order of the passages' numbers."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """The mean over the queries."""
        return math.fsum(self.sums) / int(self.counts.sum())

    @property
    def effective(self) -> float:
        """Number of passages with equally many queries that would weigh the same. Source: Kish 1965, section 11.7."""
        return float(self.counts.sum() ** 2 / (self.counts**2).sum())


@dataclass(frozen=True)
class _Spread:
    """The variance of a mean, and how well that variance is known."""

    variance: float
    freedom: float
    """Degrees of freedom of the t distribution that the variance is used with."""


def paired_intervals(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    passages: NDArray[np.integer],
    domains: Sequence[str],
    *,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Compute intervals of mean(a) - mean(b) for each domain and for their unweighted mean, "macro", by Student's t.

    The passages are the sample, each with all of its queries, since these are not independent: ten questions about one
    passage say much less than ten questions about ten passages. The variance of a domain's mean is the jackknife's,
    which leaves out one passage at a time; for an interval of that domain alone it is HC3's, which is larger by the
    factor passages / (passages - 1). Its degrees of freedom are one fewer than the number of passages, or one fewer
    than their effective number where some passages have more queries than others. The degrees of freedom of the macro
    mean are those of Welch and Satterthwaite.

    A domain with fewer than `MIN_PASSAGES` passages has no interval of its own. In the macro mean it counts like any
    other domain, and its variance is taken from the spread of the passages of all such domains around their common
    mean (of the passages of all domains, where such domains have fewer than `MIN_PASSAGES` together): a single passage
    shows no spread, and three that are alike by chance show too little. The differences between such domains are part
    of that spread, so it is more likely to be too wide than too narrow. The macro mean has no interval if all domains
    together have fewer than `MIN_PASSAGES` passages.

    `benchmarks/coverage.py` shows how often the intervals miss the truth: on differences of trained models and on
    simulated ones, a 95 % interval of a domain misses it in 3 to 8 % of cases from 8 passages on, and a one-sided bound
    at 99 % of the macro mean in 0.7 to 1.3 %. Where two thirds of the passages or more do not change at all, a few
    passages say less than they seem to, and an interval from 8 passages misses in up to 14 % of cases.

    The order of the rows makes no difference, and other domains do not affect a domain's interval. Exchanging a and b
    exchanges low and high and reverses their signs.

    Args:
        a: (N,) score of one model at each query, such as its Recall@5 or its reciprocal rank.
        b: (N,) score of the other model at the same queries.
        passages: (N,) number of the passage that each query asks about.
        domains: (N,) domain of each query, by name.
        confidence: confidence of the two-sided interval, in (0, 1).

    Returns:
        domain -> its interval, in alphabetical order of the domains; "macro" last.

    Raises:
        ValueError: no queries, lengths that differ, a score that is not finite, or a confidence out of range.

    Source: cluster jackknife, Cameron and Miller 2015, J. Human Resources 50, 317-372, section VI; strata of one
    unit collapsed, Wolter 2007, Introduction to Variance Estimation, section 2.5.
    """
    _check_scores({"a": a, "b": b}, passages, domains)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be > 0 and < 1, got {confidence}")
    groups = _by_domain(np.subtract(a, b, dtype=np.float64), passages, domains)
    intervals = {name: _interval([group], confidence) for name, group in groups.items()}
    return intervals | {"macro": _interval([*groups.values()], confidence)}


def lower_bound(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    passages: NDArray[np.integer],
    domains: Sequence[str],
    *,
    confidence: float,
) -> float | None:
    """Compute the lower bound of the macro difference mean(a) - mean(b) at a one-sided confidence.

    At a confidence of 0.975 it is the lower end of the 95 % interval, at 0.99 that of the 98 % interval. It is None
    where `paired_intervals` gives no interval for "macro".

    Args:
        a: as in `paired_intervals`, like all other arrays.
        b: likewise.
        passages: likewise.
        domains: likewise.
        confidence: one-sided confidence, in (0.5, 1).

    Raises:
        ValueError: as `paired_intervals`.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"one-sided confidence must be > 0.5 and < 1, got {confidence}")
    return paired_intervals(a, b, passages, domains, confidence=2 * confidence - 1)["macro"].low


def standard_error(scores: NDArray[np.floating], passages: NDArray[np.integer], domains: Sequence[str]) -> float | None:
    """Compute the standard error of one model's macro mean: the root of the variance that `paired_intervals` uses.

    It says how far the mean may lie from the mean over other passages. The difference of two models at the same queries
    is more certain than it suggests, since a hard passage is hard for both: compare models with `paired_intervals`,
    which also enlarges the variance if there is a single domain.

    Args:
        scores: (N,) score of the model at each query.
        passages: (N,) number of the passage that each query asks about.
        domains: (N,) domain of each query, by name.

    Returns:
        the standard error in the unit of the scores; None if all domains together have a single passage.

    Raises:
        ValueError: no queries, lengths that differ, or a score that is not finite.
    """
    _check_scores({"scores": scores}, passages, domains)
    groups = [*_by_domain(np.asarray(scores, dtype=np.float64), passages, domains).values()]
    return math.sqrt(_macro_spread(groups).variance) if _passages_of(groups) > 1 else None


def _check_scores(
    scores: Mapping[str, NDArray[np.floating]], passages: NDArray[np.integer], domains: Sequence[str]
) -> None:
    shapes = {name: values.shape for name, values in scores.items()} | {"passages": passages.shape}
    if not len(domains) or set(shapes.values()) != {(len(domains),)}:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"want one score, passage and domain a query, got {listed} and {len(domains)} domains")
    for name, values in scores.items():
        broken = np.count_nonzero(~np.isfinite(values))
        if broken:
            raise ValueError(f"{name} must be finite, {broken} of {len(values)} scores are not")


def _by_domain(
    values: NDArray[np.float64], passages: NDArray[np.integer], domains: Sequence[str]
) -> dict[str, _Passages]:
    names, member = np.unique(np.asarray(domains, dtype=np.str_), return_inverse=True)
    order = np.lexsort((passages, member))
    labels = np.stack([member[order], passages[order]])
    first = np.flatnonzero(np.append(True, (labels[:, 1:] != labels[:, :-1]).any(axis=0)))
    ends = np.append(first[1:], len(order))
    ordered = values[order].tolist()
    # fsum rounds only once, at its end, so neither the order of the rows nor a sign affects the last bit
    sums = np.array([math.fsum(ordered[start:end]) for start, end in zip(first, ends, strict=True)])
    parts = np.searchsorted(labels[0, first], np.arange(1, len(names)))
    return {
        str(name): _Passages(totals, counts)
        for name, totals, counts in zip(names, np.split(sums, parts), np.split(ends - first, parts), strict=True)
    }


def _passages_of(groups: Sequence[_Passages]) -> int:
    return sum(len(group.sums) for group in groups)


def _spread(group: _Passages) -> _Spread:
    """Compute the spread of the mean of a domain that has two passages or more."""
    total = len(group.sums)
    others = (math.fsum(group.sums) - group.sums) / (group.counts.sum() - group.counts)
    variance = (total - 1) / total * float(((others - group.mean) ** 2).sum())
    return _Spread(variance, max(1.0, group.effective - 1))


def _macro_spread(groups: Sequence[_Passages]) -> _Spread:
    """Compute the spread of the unweighted mean over domains that together have two passages or more."""
    few = [group for group in groups if len(group.sums) < MIN_PASSAGES]
    spreads = [_spread(group) for group in groups if len(group.sums) >= MIN_PASSAGES]
    if few:
        spreads.append(_shared_spread(few, few if _passages_of(few) >= MIN_PASSAGES else groups))
    if len(groups) == 1:
        return spreads[0]
    variance = math.fsum(spread.variance for spread in spreads)
    weighed = math.fsum(spread.variance**2 / spread.freedom for spread in spreads)
    return _Spread(variance / len(groups) ** 2, variance**2 / weighed if weighed else math.inf)


def _shared_spread(few: Sequence[_Passages], among: Sequence[_Passages]) -> _Spread:
    """Compute the spread of the sum of some domains' means, if their passages vary like those of `among` together."""
    means = np.concatenate([group.sums / group.counts for group in among])
    variance = float(((means - math.fsum(means) / len(means)) ** 2).sum()) / (len(means) - 1)
    return _Spread(variance * math.fsum(1 / group.effective for group in few), len(means) - 1)


def _interval(groups: Sequence[_Passages], confidence: float) -> Interval:
    difference = math.fsum(group.mean for group in groups) / len(groups)
    queries, passages = sum(int(group.counts.sum()) for group in groups), _passages_of(groups)
    if passages < MIN_PASSAGES:
        return Interval(difference, None, None, queries, passages)
    from scipy.special import stdtrit  # a seventh of a second, which commands without an interval save

    spread = _macro_spread(groups)
    # a few scores in tenths, most of them equal, usually spread less than the distribution that they are drawn from
    widened = passages / (passages - 1) if len(groups) == 1 else 1.0
    reach = float(stdtrit(spread.freedom, (1 + confidence) / 2)) * math.sqrt(spread.variance * widened)
    return Interval(difference, difference - reach, difference + reach, queries, passages)
