"""The metrics that models are judged by: one table that evaluation, objectives, tables and reports iterate over.

To add a metric, add a row to `METRICS` and, if no function here computes it, that function.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Metric:
    """A number that is computed for every query and averaged within each domain."""

    label: str
    """The display name."""
    explained: str
    """Explanation of the metric, in a few words."""
    of_ranks: "Callable[[NDArray[np.bool_]], NDArray[np.float64]]"
    """Computes the metric, (Q,), from (Q, C) bool: whether the passage at each rank is relevant."""
    direction: int = 1
    """1 where higher is better, -1 where lower is better."""
    shows_worst: bool = False
    """Whether the worst domain is shown beside the mean over domains."""


def recall_at(k: int, ranked: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    """Compute the (Q,) share, in [0, 1], of each query's relevant passages that are among its first k.

    Args:
        k: ranks to look at, at least 1.
        ranked: (Q, C) from `relevance_by_rank`, at least one True in each row.
    """
    share: NDArray[np.float64] = ranked[:, :k].sum(axis=1) / ranked.sum(axis=1)
    return share


def recall_at_5(ranked: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    """Compute `recall_at` with k = 5."""
    return recall_at(5, ranked)


def reciprocal_rank(ranked: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    """Compute the (Q,) values of 1 / rank, in (0, 1], of each query's first relevant passage.

    Args:
        ranked: (Q, C) from `relevance_by_rank`, at least one True in each row.
    """
    first: NDArray[np.float64] = ranked.argmax(axis=1) + 1.0
    return 1.0 / first


METRICS: Mapping[str, Metric] = {
    "recall_at_5": Metric(
        "Recall@5", "share of a query's right passages that stand among its first five", recall_at_5, shows_worst=True
    ),
    "mrr": Metric("MRR", "mean of 1 / rank of the first right passage", reciprocal_rank),
}
"""Metrics by the name that is used in keys such as "recall_at_5/macro". The guard decides by the first one."""

PRIMARY = next(iter(METRICS))
"""The metric that pictures show, that intervals are computed for and that the guard decides by; higher is better."""

TIE_BREAKER = "mrr"
"""The metric whose mean over domains decides between models with equal objectives."""


OVER_ALL = ("macro", "worst", "fused")
"""Ends of flat metrics that name no domain: the mean over domains, the worst domain, and the mean over domains of the
model's best fusion with a search by words, which is computed where it is the objective."""


def objectives() -> tuple[str, ...]:
    """List the flat metrics that may be a search's objective: means over domains, worst domains where shown, fused."""
    worst = (f"{name}/worst" for name, metric in METRICS.items() if metric.shows_worst)
    return (*(f"{name}/macro" for name in METRICS), *worst, *(f"{name}/fused" for name in METRICS))


def is_fused(objective: str) -> bool:
    """Whether an objective is that of a model's best fusion with a search by words."""
    return objective.endswith("/fused")


def of_one_ranking(objective: str) -> str:
    """Return the flat metric of a single ranking that a fused objective is the best of; any other is its own."""
    return f"{objective.removesuffix('/fused')}/macro" if is_fused(objective) else objective


def macro_cells(flat: Mapping[str, float]) -> list[str]:
    """Return the macro mean of each metric with three decimals, for a row of a table."""
    return [f"{flat[f'{name}/macro']:.3f}" for name in METRICS]


def direction_of(objective: str) -> int:
    """Return 1 for an objective of which more is better, -1 for one of which less is."""
    return METRICS[objective.partition("/")[0]].direction


def maximised(metrics: Mapping[str, float], objective: str) -> float:
    """Return the value of an objective with the sign by which more is better, as Tune and Optuna maximise it."""
    return direction_of(objective) * metrics[objective]


def order_key(metrics: Mapping[str, float], objective: str) -> tuple[float, float, float]:
    """Return the key that orders evaluations, best last: by objective, then mrr/macro, then the earlier epoch.

    Args:
        metrics: flat metrics. An evaluation without "epoch" counts as later than any other.
        objective: one of `objectives`.
    """
    tie_breaker = maximised(metrics, f"{TIE_BREAKER}/macro")
    return maximised(metrics, objective), tie_breaker, -metrics.get("epoch", math.inf)


def label_of(key: str) -> str:
    """Return the display name of a flat metric: "macro Recall@5" for "recall_at_5/macro"."""
    name, _, domain = key.partition("/")
    return f"{domain} {METRICS[name].label if name in METRICS else name}"
