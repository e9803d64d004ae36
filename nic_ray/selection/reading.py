"""The one reading of the test rows: every model of a search on rows that took no part in choosing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nic_ray.bundle.question_kinds import stored_kinds
from nic_ray.dataset.pairs import Collection
from nic_ray.evidence import Retrieved
from nic_ray.metrics.calibration import FirstHits
from nic_ray.metrics.fusion import VECTORS, WORDS, Scored, ranking_figures
from nic_ray.metrics.intervals import Interval, Queries, paired_intervals
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import PRIMARY, is_fused, metrics_in
from nic_ray.model.activations import Inputs
from nic_ray.model.evaluation import Asked, first_hits_of, fused_scores, nearest, query_scores
from nic_ray.results import IN_DOMAIN, Flat, Intervals, ShorterEmbeddings, StoredInterval, StoredQuestionKind
from nic_ray.selection.bases import BEST_BASE, NO_BASES, Base, BetterBase, base_of
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.scoring import Scorer, Weights, queries_of
from nic_ray.selection.word_search import WITH_WORDS, ChosenFusion
from nic_ray.train_config import Kind
from nic_ray.training.prepared import Prepared

CONFIDENCE = 0.95
"""Confidence of the two-sided intervals that are shown; that of the guard's bounds is `guard.CONFIDENCE`."""
ASKING = {"test": "test", IN_DOMAIN: "test", "unseen_queries": "unseen_queries"}
"""Part of the results -> part whose rows are asked."""


@dataclass(frozen=True)
class TestFigures:
    """The results on the rows that took no part in choosing."""

    results: dict[str, dict[str, dict[str, float]]]
    """"test", "test in domain" and, if there are such rows, "unseen_queries" -> model ("base", "BM25", "first trial",
    "tuned", "tuned + BM25") -> flat metrics."""
    rankings: Mapping[str, Flat]
    """A model with or without a search by words -> macro metrics on the test rows; see `fusion.ranking_figures`.
    """
    intervals: Intervals
    """A difference such as "tuned minus base" -> domain -> its interval, in the primary metric, on the test rows."""
    scores: dict[str, Mapping[str, NDArray[np.float64]]]
    """Model -> metric -> its value for each test query, (Q,), by similarity alone."""
    recall: dict[str, NDArray[np.float64]]
    """Model -> primary metric of each test query, (Q,)."""
    recall_intervals: Intervals
    """Model -> domain -> interval of the primary metric's mean on the test rows."""
    queries: Retrieved
    """The passages that the tuned model retrieved for each test query."""
    first_hits: FirstHits
    """The first hits of the test queries where the tuned model serves."""
    shortened: dict[str, dict[int, Flat]]
    """"base", "tuned" -> number of leading dimensions that the tuned model was trained for -> macro metrics on the test
    rows of embeddings that are cut off there; without entries if it was trained for none."""
    kinds: list[StoredQuestionKind]
    """The test queries by kind; empty if no row names its kind."""


def read_once(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    models: Mapping[str, Candidate],
    fusions: Mapping[str, ChosenFusion],
    others: Mapping[Kind, Base] = NO_BASES,
    better: BetterBase | None = None,
) -> TestFigures:
    """Read the test rows once: evaluate the base model, the given models and BM25 on them.

    Nothing may be chosen by the results. If questions about trained passages were held back as well ("unseen_queries",
    an easier protocol), the same models are evaluated on these too.

    Args:
        inputs: inputs by depth, for the depths of the models that were tuned from the winner's base model.
        models: "tuned" and any others, by name.
        fusions: "base" and "tuned" -> their fusions with a search by words, chosen on the validation rows.
        others: base models of the other kinds of models in the search.
        better: the best of these, if it was better on the validation rows.
    """
    queries = queries_of(prepared, "test")
    rows = {part: prepared.rows(part).tolist() for part in ("test", "unseen_queries")}
    asking = rows["test"] + rows["unseen_queries"]
    cuts = _scorers(Base(prepared, inputs), models, others, better)
    results: dict[str, dict[str, dict[str, float]]] = {part: {} for part in ASKING if rows[ASKING[part]]}
    scored: dict[str, Scored] = {}
    shortened: dict[str, dict[int, Flat]] = {}
    for label, (scorer, weights) in cuts.items():
        every = scorer.asked(weights, asking, of_all=True)
        if label in ("base", "tuned"):
            shortened[label] = _shortened(every, rows["test"], models["tuned"].config.dimensions)
        if label == "tuned":
            on_test = replace(every, rows=rows["test"])
            first, hits = nearest(on_test, k=5), first_hits_of(on_test, fusions[label].ranking)
        for part, by_model in results.items():
            asked = replace(every, rows=rows[ASKING[part]])
            wanted = (WORDS, VECTORS, *fusions[label].forms) if label in fusions else (VECTORS,)
            found = fused_scores(asked, wanted, within_domain=part == IN_DOMAIN)
            if part == "test":
                scored[label] = found
            by_model[label] = flat_metrics(found[VECTORS], asked.domains)
            if label in fusions and is_fused(prepared.config.search.objective):
                together = flat_metrics(found[fusions[label].best], asked.domains)
                by_model[label] |= {f"{name}/fused": together[f"{name}/macro"] for name in metrics_in(together)}
            if label == "base":
                by_model["BM25"] = flat_metrics(found[WORDS], asked.domains)
            if label == "tuned":
                by_model[WITH_WORDS] = flat_metrics(found[fusions[label].best], asked.domains)
    recall = {label: found[VECTORS][PRIMARY] for label, found in scored.items()}
    recall[WITH_WORDS] = scored["tuned"][fusions["tuned"].best][PRIMARY]
    ranks = np.rint(1 / scored["tuned"][VECTORS]["mrr"]).astype(int)
    differences = [("tuned", label) for label in cuts if label != "tuned"] + [(WITH_WORDS, "tuned")]
    return TestFigures(
        results,
        ranking_figures({label: scored[label] for label in fusions}, queries.domains),
        {
            f"{above} minus {below}": stored_intervals(recall[above], recall[below], queries)
            for above, below in differences
        },
        {label: found[VECTORS] for label, found in scored.items()},
        recall,
        # the interval of a model's mean is that of its difference from a model that finds nothing
        {
            label: _within_one(stored_intervals(values, np.zeros_like(values), queries))
            for label, values in recall.items()
        },
        _retrieved(prepared.whole, rows["test"], ranks, recall, *first),
        hits,
        shortened,
        stored_kinds(prepared.collection, rows["test"], {name: recall[name] for name in ("base", "tuned")}, queries),
    )


def _scorers(
    own: Base, models: Mapping[str, Candidate], others: Mapping[Kind, Base], better: BetterBase | None
) -> dict[str, tuple[Scorer, Weights | None]]:
    """Return what evaluates each model, by its name, and its weights; None for a base model."""
    scorers: dict[str, tuple[Scorer, Weights | None]] = {"base": (own.scorer, None)}
    if better is not None:
        scorers[BEST_BASE] = better.base.scorer, None
    for label, model in models.items():
        scorers[label] = base_of(model, own, others).scorer_of(model), model.weights
    return scorers


def _shortened(every: Asked, rows: Sequence[int], dimensions: Sequence[int]) -> dict[int, Flat]:
    """Score embeddings on the test rows, cut off at numbers of dimensions and brought back to length 1.

    Args:
        every: what a model makes of the texts.
        rows: the test rows.
    """
    found: dict[int, Flat] = {}
    for size in sorted(dimensions, reverse=True):
        asked = replace(every, embeddings=every.embeddings[:, :size], rows=rows, similarity="cosine")
        flat = flat_metrics(query_scores(asked), asked.domains)
        found[size] = {f"{name}/macro": flat[f"{name}/macro"] for name in metrics_in(flat)}
    return found


def stored_sizes(shortened: Mapping[str, Mapping[int, Flat]]) -> list[ShorterEmbeddings]:
    """Return the metrics of shorter embeddings in the form in which they are stored, the longest first."""
    return [
        {"dimensions": size, "results": {label: found[size] for label, found in shortened.items()}}
        for size in shortened["tuned"]
    ]


def stored_intervals(
    above: NDArray[np.float64], below: NDArray[np.float64], queries: Queries
) -> dict[str, StoredInterval]:
    """Compute the paired intervals of two models' difference, in the form in which they are stored."""
    intervals = paired_intervals(above, below, queries.passages, queries.domains, confidence=CONFIDENCE)
    return {domain: as_stored(span) for domain, span in intervals.items()}


def as_stored(span: Interval) -> StoredInterval:
    """Return an interval in the form in which it is stored."""
    return StoredInterval(
        difference=span.difference, low=span.low, high=span.high, queries=span.queries, passages=span.passages
    )


def _within_one(intervals: Mapping[str, StoredInterval]) -> dict[str, StoredInterval]:
    """Limit intervals of a mean of values in [0, 1] to this range."""
    return {
        domain: interval
        if interval["low"] is None or interval["high"] is None
        else {**interval, "low": max(0.0, interval["low"]), "high": min(1.0, interval["high"])}
        for domain, interval in intervals.items()
    }


def _retrieved(
    collection: Collection,
    rows: Sequence[int],
    ranks: NDArray[np.int64],
    recall: Mapping[str, NDArray[np.float64]],
    first: NDArray[np.int64],
    cosines: NDArray[np.float64],
) -> Retrieved:
    """Return the queries with the ranks of their best answers and the nearest passages, in the form that is stored.

    Args:
        ranks: (Q,) rank of the best answer to each row's query.
        recall: model -> primary metric of each row's query, (Q,).
        first, cosines: (Q, k) passages nearest to each row's query, and their cosines.
    """
    passages = {int(collection.positive[row]) for row in rows} | set(first.ravel().tolist())
    domains: dict[int, set[str]] = {number: set() for number in passages}
    for number, domain in zip(collection.positive.tolist(), collection.domains, strict=True):
        if number in passages:
            domains[number].add(domain)
    return {
        "queries": [
            {
                "query": collection.texts[collection.query[row]],
                "domain": collection.domains[row],
                "passage": int(collection.positive[row]),
                "rank": int(ranks[place]),
                "retrieved": [list(pair) for pair in zip(first[place].tolist(), near, strict=True)],
                "recall": {label: float(values[place]) for label, values in recall.items()},
            }
            for place, (row, near) in enumerate(zip(rows, cosines.round(4).tolist(), strict=True))
        ],
        "passages": {
            str(number): {"text": collection.texts[number], "domains": sorted(domains[number])}
            for number in sorted(passages)
        },
    }
