"""What share of normal and of abnormal queries an endpoint's search flags."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nic_ray.anomaly.abnormal import generate
from nic_ray.bundle.served import RefusedError, Server, asked
from nic_ray.errors import InputError
from nic_ray.metrics.intervals import Interval, Queries, paired_intervals
from nic_ray.progress import View

PER_KIND = 40
"""Abnormal queries of a kind."""
AT_ONCE = 4
"""Requests that are on their way at once."""


@dataclass(frozen=True)
class FlaggedShare:
    """The share of some queries that is flagged."""

    kind: str
    queries: int
    share: float
    low: float | None
    """The 95 % interval over passages, of normal queries; None for abnormal ones, and for too few passages."""
    high: float | None
    refused: int
    """Queries that the endpoint did not take, such as blank ones; they count as not flagged."""


@dataclass(frozen=True)
class Flags:
    """The shares of queries that are flagged."""

    normal: FlaggedShare
    """Of the test queries: false alarms."""
    abnormal: list[FlaggedShare]
    """Of generated queries, by kind; the detector was fitted to others of these kinds."""


def measured_flags(server: Server, queries: Sequence[str], of: Queries, view: View) -> Flags | None:
    """Search for normal and for abnormal queries, and count those that are flagged.

    Args:
        server: the server.
        queries: normal questions.
        of: their passages.
        view: shows the progress.

    Returns:
        None if the server has no search, or its search assesses no query.

    Raises:
        RunError: the server fails.
    """
    try:
        _, first = asked(server, "/search", {"query": queries[0], "top": 1})
    except (InputError, RefusedError):
        return None
    if not isinstance(first.get("anomaly"), dict):
        return None

    def flagged(query: str) -> bool | None:
        try:
            _, answer = asked(server, "/search", {"query": query, "top": 1})
        except RefusedError:
            return None
        return bool((answer.get("anomaly") or {}).get("flagged"))

    made = generate(list(queries), "held_back", per_kind=PER_KIND)
    with view.work("searching for normal and for abnormal queries", len(queries) + len(made)) as done:
        normal = _all(flagged, queries, done)
        found = _all(flagged, [each.query for each in made], done)
    share = paired_intervals(
        np.array([bool(flag) for flag in normal], np.float64), np.zeros(len(normal)), of.passages, ["all"] * len(normal)
    )["macro"]
    kinds = dict.fromkeys(each.kind for each in made)
    return Flags(
        _share("test queries", normal, share),
        [_share(kind, [flag for each, flag in zip(made, found, strict=True) if each.kind == kind]) for kind in kinds],
    )


def _all(
    flagged: Callable[[str], bool | None], queries: Sequence[str], done: Callable[[int], None]
) -> list[bool | None]:
    flags = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for flag in pool.map(flagged, queries):
            flags.append(flag)
            done(1)
    return flags


def _share(kind: str, flags: Sequence[bool | None], interval: Interval | None = None) -> FlaggedShare:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return FlaggedShare(
        kind,
        len(flags),
        sum(map(bool, flags)) / len(flags),
        None if low is None else max(0.0, low),
        None if high is None else min(1.0, high),
        sum(flag is None for flag in flags),
    )
