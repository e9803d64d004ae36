"""Quality through an endpoint, beside that of the base model, which is run here, with intervals over passages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nic_ray.bundle.files import load_base_of
from nic_ray.bundle.rows import max_tokens_of, queries_of
from nic_ray.bundle.served import Server
from nic_ray.bundle.served_prompts import Way
from nic_ray.bundle.served_rows import Rows, asked_of_server
from nic_ray.bundle.wanted import Wanted
from nic_ray.dataset.cut_passages import ranked_for
from nic_ray.dataset.pairs import index_pairs, read_pairs
from nic_ray.evidence import StoredMetadata
from nic_ray.metrics.intervals import Interval, paired_intervals
from nic_ray.metrics.table import METRICS
from nic_ray.model.evaluation import query_scores, texts_to_score
from nic_ray.model.whole_models import asked_of
from nic_ray.progress import View

FURTHER = ("ndcg_at_10",)
MEASURED = (*METRICS, *FURTHER)
"""Keys of the metrics."""
Intervals = Mapping[str, Interval]
"""Domain, and "macro" last -> a mean, or the difference of two, with its 95 % interval."""


@dataclass(frozen=True)
class Quality:
    """What the tuned model finds through the endpoint, and what its base model finds."""

    name: str
    queries: int
    passages: int
    """Number of passages in the corpus."""
    tuned: Mapping[str, Intervals]
    """Metric -> its means."""
    base: Mapping[str, Intervals]
    change: Mapping[str, Intervals]
    """Metric -> the tuned model's minus the base model's, query by query."""
    warnings: list[str]


def with_further(rows: Rows) -> Rows:
    """The rows, judged by `FURTHER` metrics as well."""
    return Rows(Wanted(FURTHER).of(rows.collection), rows.rows, rows.queries, rows.own, rows.warnings)


def retention_rows(path: Path) -> Rows:
    """All rows of a retention set.

    Raises:
        InputError: it cannot be used.
    """
    collection = index_pairs(read_pairs(path))
    rows = list(range(len(collection.query)))
    return Rows(collection, rows, queries_of(collection, rows), False, [])


def measured_quality(
    name: str, server: Server, way: Way, prompts: Mapping[str, str], metadata: StoredMetadata, rows: Rows, view: View
) -> Quality:
    """Measure a served model and its base model on the same rows.

    Args:
        name: of the rows.
        server, way, prompts: as for `embed_served`.
        metadata: of the bundle, which names the base model.
        rows: the rows.
        view: shows the progress.

    Raises:
        InputError: the base model is not available; or as `served.embedded`.
        RunError: as `served.embedded`.
    """
    rows = with_further(rows)
    tuned = query_scores(asked_of_server(server, way, prompts, rows, view, name))
    encoder, number = load_base_of(metadata), len(texts_to_score(rows.collection, rows.rows))
    with view.work(f"embedding {name} with {encoder.name}", number) as done:
        base = query_scores(asked_of(encoder, rows.collection, rows.rows, max_tokens_of(metadata), done=done))
    nothing = dict.fromkeys(MEASURED, np.zeros(len(rows.rows)))

    def intervals(of: Mapping[str, np.ndarray], minus: Mapping[str, np.ndarray]) -> dict[str, Intervals]:
        return {
            metric: paired_intervals(of[metric], minus[metric], rows.queries.passages, rows.queries.domains)
            for metric in MEASURED
        }

    corpus = ranked_for(rows.collection, rows.rows).corpus
    return Quality(
        name,
        len(rows.rows),
        len(corpus),
        _within_bounds(intervals(tuned, nothing)),
        _within_bounds(intervals(base, nothing)),
        intervals(tuned, base),
        rows.warnings,
    )


def _within_bounds(of_metrics: Mapping[str, Intervals]) -> dict[str, Intervals]:
    """Cut intervals of means off at 0 and 1, which no mean of these metrics leaves."""
    return {
        metric: {
            domain: one
            if one.low is None or one.high is None
            else replace(one, low=max(0.0, one.low), high=min(1.0, one.high))
            for domain, one in own.items()
        }
        for metric, own in of_metrics.items()
    }
