"""The metrics that models are judged by: one table that evaluation, objectives, tables and reports iterate over.

Another metric is a row of `METRICS` and, if no function here computes it, that function.
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
    """A number that every query gets, and that is averaged within each domain."""

    label: str
    """What people call it."""
    explained: str
    """What it counts, in a few words."""
    of_ranks: "Callable[[NDArray[np.bool_]], NDArray[np.float64]]"
    """Computes it, (Q,), from what it needs: (Q, C) bool, whether the passage at each rank is relevant."""
    direction: int = 1
    """1 where more is better, -1 where less is."""
    shows_worst: bool = False
    """Whether the domain in which it is worst is named beside the mean over domains."""


def recall_at(k: int, ranked: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    """(Q,) share, in [0, 1], of each query's relevant passages that stand among its first k.

    Args:
        k: ranks to look at, at least 1.
        ranked: (Q, C) from `relevance_by_rank`, at least one True in each row.
    """
    share: NDArray[np.float64] = ranked[:, :k].sum(axis=1) / ranked.sum(axis=1)
    return share


def recall_at_5(ranked: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    """`recall_at` with k = 5."""
    return recall_at(5, ranked)


def reciprocal_rank(ranked: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    """(Q,) 1 / rank, in (0, 1], of each query's first relevant passage.

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
"""By the name that stands in keys such as "recall_at_5/macro". The first one is the one that the guard decides by."""

PRIMARY = next(iter(METRICS))
"""What pictures show, intervals are taken of and the guard decides by; more of it is better."""

TIE_BREAKER = "mrr"
"""Its mean over domains decides between models whose objectives are equal."""


def objectives() -> tuple[str, ...]:
    """Flat metrics that a search may choose by: means over domains, and worst domains where the table shows them."""
    worst = (f"{name}/worst" for name, metric in METRICS.items() if metric.shows_worst)
    return (*(f"{name}/macro" for name in METRICS), *worst)


def order_key(metrics: Mapping[str, float], objective: str) -> tuple[float, float, float]:
    """What evaluations are ordered by, the best one last: objective, then mrr/macro, then the earlier epoch.

    Args:
        metrics: flat. Without "epoch" it is later than any other.
        objective: one of `objectives`.
    """
    primary, tie_breaker = (
        METRICS[key.partition("/")[0]].direction * metrics[key] for key in (objective, f"{TIE_BREAKER}/macro")
    )
    return primary, tie_breaker, -metrics.get("epoch", math.inf)


def label_of(key: str) -> str:
    """What people call a flat metric: "macro Recall@5" for "recall_at_5/macro"."""
    name, _, domain = key.partition("/")
    return f"{domain} {METRICS[name].label if name in METRICS else name}"
