"""The metrics that models are judged by: one table that evaluation, objectives, tables and reports iterate over.

To add a metric, add a row to `FAMILIES` and, if no function here computes it, that function.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nic_ray.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nic_ray.metrics.ranks import Ranks


@dataclass(frozen=True)
class Metric:
    """A number that is computed for every query and averaged within each domain."""

    label: str
    """The display name."""
    explained: str
    """Explanation of the metric, in a few words."""
    of_ranks: "Callable[[Ranks], NDArray[np.float64]]"
    """Computes the metric, (Q,), from the ranks of each query's relevant passages."""
    direction: int = 1
    """1 where higher is better, -1 where lower is better."""


@dataclass(frozen=True)
class Family:
    """A metric at any depth of the ranking, such as Recall@k."""

    label: str
    """The display name, without the depth."""
    explained: str
    """Explanation, with {k} where the depth stands."""
    of_ranks: "Callable[[float, Ranks], NDArray[np.float64]]"
    """Computes the metric, (Q,), from the number of ranks to look at, which may be infinite, and the ranks."""
    needs_depth: bool = True
    """Whether it says nothing without a depth."""


def recall_at(k: float, ranks: "Ranks") -> "NDArray[np.float64]":
    """Compute the (Q,) share, in [0, 1], of each query's relevant passages that are among its first k.

    Args:
        k: ranks to look at, at least 1.
        ranks: at least one relevant passage of each query, as for all functions here.
    """
    share: NDArray[np.float64] = ranks.total(ranks.rank <= k) / ranks.counts
    return share


def precision_at(k: float, ranks: "Ranks") -> "NDArray[np.float64]":
    """Compute the (Q,) share, in [0, 1], of each query's first k passages that are relevant."""
    share: NDArray[np.float64] = ranks.total(ranks.rank <= k) / k
    return share


def hit_rate_at(k: float, ranks: "Ranks") -> "NDArray[np.float64]":
    """Compute (Q,) 1.0 where any of a query's first k passages is relevant, otherwise 0.0."""
    hits: NDArray[np.float64] = (ranks.first <= k).astype(float)
    return hits


def reciprocal_rank(k: float, ranks: "Ranks") -> "NDArray[np.float64]":
    """Compute the (Q,) values of 1 / rank, in [0, 1], of each query's first relevant passage; 0 beyond rank k."""
    reciprocal: NDArray[np.float64] = (ranks.first <= k) / ranks.first
    return reciprocal


def average_precision(k: float, ranks: "Ranks") -> "NDArray[np.float64]":
    """Compute (Q,) average precision, in [0, 1]: the mean over all relevant passages of the precision at their ranks.

    A passage beyond rank k counts as 0, as in trec_eval's `map_cut`.
    """
    share: NDArray[np.float64] = ranks.total((ranks.rank <= k) * ranks.place / ranks.rank) / ranks.counts
    return share


def ndcg_at(k: float, ranks: "Ranks") -> "NDArray[np.float64]":
    """Compute the (Q,) discounted gain of each query's first k passages, in [0, 1] of the best order's.

    The gain of a passage is its relevance, its discount log2(rank + 1). Source: Järvelin and Kekäläinen 2002,
    doi:10.1145/582415.582418, in trec_eval's form.
    """
    share: NDArray[np.float64] = ranks.discounted(ranks.gain, ranks.rank, k) / ranks.discounted(
        ranks.best_gain, ranks.place, k
    )
    return share


FAMILIES: Mapping[str, Family] = {
    "recall": Family("Recall", "share of a query's right passages that stand among its first {k}", recall_at),
    "precision": Family("Precision", "share of the first {k} passages that are right", precision_at),
    "hit_rate": Family("Hit rate", "share of queries with a right passage among the first {k}", hit_rate_at),
    "ndcg": Family("nDCG", "discounted gain of the first {k} passages, as a share of the best order's", ndcg_at, False),
    "mrr": Family("MRR", "mean of 1 / rank of the first right passage", reciprocal_rank, False),
    "map": Family("MAP", "mean over a query's right passages of the precision at each", average_precision, False),
}
"""Metrics that can be computed, by the name that precedes "@k"."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@functools.cache
def metric_named(name: str) -> Metric:
    """Return a metric of `FAMILIES` by its key, such as "recall_at_5" or "map".

    Raises:
        ValueError: there is no such metric; the message says which there are.
    """
    match = re.fullmatch(r"([a-z_]+?)(?:_at_([1-9][0-9]{0,5}))?", name)
    family = FAMILIES.get(match[1]) if match else None
    if match is None or family is None or (family.needs_depth and match[2] is None):
        known = ", ".join(f"{each}@k" if own.needs_depth else f"{each} or {each}@k" for each, own in FAMILIES.items())
        raise ValueError(
            f"must be one of {known}, with a whole number of 1 or more for k, got {name.replace('_at_', '@')}"
        )
    depth = math.inf if match[2] is None else int(match[2])
    shown_depth = NUMBERS[int(depth)] if depth < len(NUMBERS) else str(depth)
    label, explained = f"{family.label}@{depth}", family.explained.format(k=shown_depth)
    if match[2] is None:
        label, explained = family.label, family.explained.replace("first {k} passages", "passages")
    elif "{k}" not in family.explained:
        explained += f", as far as rank {depth}"
    return Metric(label, explained, functools.partial(family.of_ranks, depth))


METRICS: Mapping[str, Metric] = {name: metric_named(name) for name in ("recall_at_5", "mrr")}
"""The metrics that are always computed, by the name that is used in keys such as "recall_at_5/macro". The guard decides
by the first one, and further ones are computed where `evaluation.metrics` names them."""


def metric_of(name: str) -> Metric:
    """Return a metric by its key, whether it is always computed or not; raises as `metric_named`."""
    return METRICS[name] if name in METRICS else metric_named(name)


def key_of(name: str) -> str:
    """Return the key of a metric as a user writes it: "ndcg_at_10" for "nDCG@10"."""
    return name.strip().casefold().replace("@", "_at_").replace(" ", "_")


def parse_metrics(names: str | None, option: str) -> tuple[str, ...]:
    """Parse the value of a command-line option: metrics with commas between them, besides those of `METRICS`.

    Raises:
        InputError: something is no metric.
    """
    keys = []
    for name in [] if names is None else names.split(","):
        try:
            keys.append(key_of(name))
            metric_of(keys[-1])
        except ValueError as error:
            raise InputError(f"{option} {name.strip() or 'with an empty name'}: {error}") from None
    return tuple(dict.fromkeys(key for key in keys if key not in METRICS))


def metrics_in(*results: Iterable[str]) -> dict[str, Metric]:
    """Return the metrics that keys such as "recall_at_5/radar" are of, those of `METRICS` first; without any, those."""
    names = dict.fromkeys(key.partition("/")[0] for keys in results for key in keys if "/" in key)
    found = [*(name for name in METRICS if name in names), *(name for name in names if _is_further(name))]
    return {name: metric_of(name) for name in found or METRICS}


def _is_further(name: str) -> bool:
    try:
        return name not in METRICS and bool(metric_named(name))
    except ValueError:
        return False


PRIMARY = next(iter(METRICS))
"""The metric that pictures show, that intervals are computed for and that the guard decides by; higher is better."""

TIE_BREAKER = "mrr"
"""The metric whose mean over domains decides between models with equal objectives."""


OVER_ALL = ("macro", "worst", "micro", "fused")
"""Ends of flat metrics that name no domain: the mean over domains, the worst domain, the mean over queries, and the
mean over domains of the model's best fusion with a search by words, which is computed where it is the objective."""


def checked_objective(name: str) -> str:
    """Return the key of a flat metric that may be an objective, such as "recall_at_5/macro" for "recall@5/macro".

    Raises:
        ValueError: the metric, or what it is taken over, is not known.
    """
    metric, _, over = name.partition("/")
    if over not in OVER_ALL:
        ends = " or ".join(f"/{each}" for each in OVER_ALL)
        raise ValueError(f"must be a metric and {ends}, such as {PRIMARY}/macro, got {name}")
    if (key := key_of(metric)) not in METRICS:
        metric_named(key)
    return f"{key}/{over}"


def is_fused(objective: str) -> bool:
    """Whether an objective is that of a model's best fusion with a search by words."""
    return objective.endswith("/fused")


def of_one_ranking(objective: str) -> str:
    """Return the flat metric of a single ranking that a fused objective is the best of; any other is its own."""
    return f"{objective.removesuffix('/fused')}/macro" if is_fused(objective) else objective


def macro_cells(flat: Mapping[str, float]) -> list[str]:
    """Return the macro mean of each metric with three decimals, for a row of a table."""
    return [f"{flat[f'{name}/macro']:.3f}" for name in metrics_in(flat)]


def direction_of(objective: str) -> int:
    """Return 1 for an objective of which more is better, -1 for one of which less is."""
    return metric_of(objective.partition("/")[0]).direction


def maximised(metrics: Mapping[str, float], objective: str) -> float:
    """Return the value of an objective with the sign by which more is better, as Tune and Optuna maximise it."""
    return direction_of(objective) * metrics[objective]


def order_key(metrics: Mapping[str, float], objective: str) -> tuple[float, float, float]:
    """Return the key that orders evaluations, best last: by objective, then mrr/macro, then the earlier epoch.

    Args:
        metrics: flat metrics. An evaluation without "epoch" counts as later than any other.
        objective: as `checked_objective` returns it.
    """
    tie_breaker = maximised(metrics, f"{TIE_BREAKER}/macro")
    return maximised(metrics, objective), tie_breaker, -metrics.get("epoch", math.inf)


def label_of(key: str) -> str:
    """Return the display name of a flat metric: "macro Recall@5" for "recall_at_5/macro"."""
    name, _, domain = key.partition("/")
    try:
        return f"{domain} {metric_of(name).label}"
    except ValueError:
        return f"{domain} {name}"
