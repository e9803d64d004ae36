"""Means of models over the queries of each kind, with the interval of their difference."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.metrics.intervals import Interval, Queries, paired_intervals

MOST = 20
"""Number of kinds that have figures of their own."""
NAMELESS = "(no kind)"
"""Stands for the kind of queries whose rows name none."""


@dataclass(frozen=True)
class OfKind:
    """The queries of one kind."""

    kind: str
    means: Mapping[str, float]
    """Model -> mean over these queries."""
    gain: Interval
    """The last model's mean minus the first's, with an interval over the passages; of one model, of its mean."""


def figures_by_kind(
    kinds: Sequence[str | None], values: Mapping[str, NDArray[np.float64]], queries: Queries
) -> list[OfKind]:
    """Compute the mean of each model over the queries of each kind, the most frequent kind first.

    Kinds beyond the `MOST` most frequent ones are taken together.

    Args:
        kinds: (Q,) kind of each query, None where it has none.
        values: model -> a value for each query, (Q,); at least one model.
        queries: passages of the queries; their domains count for nothing.

    Returns:
        nothing where no query has a kind.
    """
    if not any(kind is not None for kind in kinds):
        return []
    counts = Counter(NAMELESS if kind is None else kind for kind in kinds)
    named = [kind for kind, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    rest = f"{len(named) - MOST} further kinds"
    own = np.array([NAMELESS if kind is None else kind for kind in kinds], dtype=object)
    if len(named) > MOST:
        own[np.isin(own, named[MOST:])] = rest
        named[MOST:] = [rest]
    first, *_, last = [*values.values()] * 2
    below = first if len(values) > 1 else np.zeros_like(first)
    found = []
    for kind in named:
        here = own == kind
        spans = paired_intervals(last[here], below[here], queries.passages[here], [""] * int(here.sum()))
        means = {model: float(each[here].mean()) for model, each in values.items()}
        found.append(OfKind(kind, means, spans[""]))
    return found
