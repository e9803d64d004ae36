"""The judgement of a search: the weights to export, whether they may be exported, and the one reading of the test rows.

The winner is the model as it was trained: one trial, or the mean of several. The tuned model is the mixture of the
winner's weights with the base model's that is judged and exported.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.bundle.files import file_sha256
from nic_ray.config import Config, GuardConfig
from nic_ray.dataset.pairs import Collection
from nic_ray.evidence import (
    IN_DOMAIN,
    Evidence,
    Intervals,
    PathPoint,
    Retrieved,
    StoredInterval,
    StoredReading,
    TrainedTrial,
    TrialRow,
    path_row,
)
from nic_ray.metrics.intervals import MIN_PASSAGES, Queries, count_passages, paired_intervals
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import METRICS, PRIMARY, maximised, objectives
from nic_ray.model.activations import Inputs
from nic_ray.model.evaluation import bm25_metrics, nearest, query_scores, texts_to_score
from nic_ray.selection.averaging import averaged, refitted
from nic_ray.selection.candidates import Candidate, Confirmation
from nic_ray.selection.guard import Mixture, choose_mixture, macro_bound, objections
from nic_ray.selection.interpolation import interpolated, interpolation_path
from nic_ray.selection.retention import RetentionSet, retention_of
from nic_ray.selection.scoring import Scorer, Weights, deepest, queries_of
from nic_ray.training.prepared import Prepared, leaks

CONFIDENCE = 0.95
"""Confidence of the two-sided intervals that are shown; that of the guard's bounds is `guard.CONFIDENCE`."""


@dataclass(frozen=True)
class TestFigures:
    """The results on the rows that took no part in choosing."""

    results: dict[str, dict[str, dict[str, float]]]
    """"test", "test in domain" and, if there are such rows, "unseen_queries" -> model ("base", "BM25", "first trial",
    "tuned") -> flat metrics."""
    intervals: Intervals
    """A difference such as "tuned minus base" -> domain -> its interval, in the primary metric, on the test rows."""
    recall: dict[str, NDArray[np.float64]]
    """Model -> primary metric of each test query, (Q,)."""
    recall_intervals: Intervals
    """Model -> domain -> interval of the primary metric's mean on the test rows."""
    queries: Retrieved
    """The passages that the tuned model retrieved for each test query."""


@dataclass(frozen=True)
class Judgement:
    """The models of a search, the evidence for their results, and the decision about the export."""

    winner: Candidate
    """The model as it was trained."""
    tuned: Candidate
    """The mixture of the winner's weights with the base model's that was chosen, and that the results belong to."""
    results: dict[str, dict[str, dict[str, float]]]
    """Part of the rows -> model ("base", "BM25", "first trial", "tuned") -> flat metrics. BM25 is not evaluated on the
    validation rows; the other parts are absent if the test rows were not read."""
    evidence: Evidence
    """The other evidence for the results, in the form in which it is stored."""
    may_be_exported: bool
    queries: Retrieved | None = None
    """The passages that the tuned model retrieved for each test query; None if the test rows were not read."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    folder: Path | None
    """The bundle; None if the guard refused it."""
    run_folder: Path
    judgement: Judgement
    first: Candidate | None
    """The first trial; None if it failed."""
    trials: list[TrialRow]


@dataclass(frozen=True)
class Contestants:
    """The candidates of a search that the model is selected from."""

    first: Candidate | None
    """The first trial, with its weights; None if it failed."""
    best: Iterable[Candidate]
    """The best candidate, then the others, best first; taken one at a time, since all might not fit into memory."""
    confirmations: Sequence[Confirmation]
    """The results of configurations that were trained with several seeds."""


def judge(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    contestants: Contestants,
    retention_set: RetentionSet | None,
    *,
    export_anyway: bool,
    say: Callable[[str], None],
    note_reading: Callable[[str], list[StoredReading]] = lambda _: [],
) -> Judgement:
    """Average the best candidates, mix the mean with the base model, judge the mixture, and read the test rows once.

    Args:
        inputs: inputs by depth, for the depths of all candidates.
        retention_set: the pairs to measure retention on, with inputs for the same depths; with None it is not measured.
        export_anyway: whether to read the test rows and to export despite objections.
        say: called with a line for each intermediate result.
        note_reading: called with the name of the tuned model before the test rows are read; returns all their readings,
            this one included.
    """
    config, queries = prepared.config, queries_of(prepared, "validation")
    base = Scorer(prepared, deepest(inputs)).scores(None, prepared.rows("validation"))
    winner = _averaged(prepared, inputs, contestants.best, say)
    mixtures = interpolation_path(prepared, inputs[winner.config.frozen_layers], winner, base, retention_set)
    mixture, objections_found = _chosen_mixture(mixtures, queries, config)
    tuned = replace(
        winner,
        weights=interpolated(prepared, winner, mixture.alpha),
        metrics={**winner.metrics, **mixture.metrics},
    )
    say(_describe_mixture(mixture, config.search.objective))
    values = (mixture.scores[PRIMARY], base[PRIMARY], queries)
    objections_found += _objections("validation", *values, config.guard)
    bounds = {"validation": macro_bound("validation", *values)}
    models = ({"first trial": contestants.first} if contestants.first else {}) | {"tuned": tuned}
    results = {"validation": {"base": flat_metrics(base, queries.domains)}}
    results["validation"] |= {label: _evaluation_metrics(model.metrics) for label, model in models.items()}
    kept = {
        label: retention_of(prepared, retention_set, model)
        for label, model in models.items()
        if retention_set and model is not tuned
    }
    evidence = _evidence(prepared, models, mixtures, contestants.confirmations)
    evidence["alpha"] = mixture.alpha
    evidence["retention"] = None if mixture.retention is None else {**kept, "tuned": mixture.retention}
    retrieved = None
    if not objections_found or export_anyway:  # a model that has failed already does not use up the one reading
        evidence["readings"] = note_reading(tuned.name)
        reading = read_once(prepared, inputs, models)
        results, retrieved = results | reading.results, reading.queries
        evidence["intervals"], evidence["recall_intervals"] = reading.intervals, reading.recall_intervals
        evidence["interval_rule"] = {"confidence": CONFIDENCE, "min_passages": MIN_PASSAGES}
        at_test = (reading.recall["tuned"], reading.recall["base"], queries_of(prepared, "test"))
        objections_found += _objections("test", *at_test, config.guard)
        bounds["test"] = macro_bound("test", *at_test)
    evidence["guard"] = {
        "objections": objections_found,
        "overridden": bool(objections_found) and export_anyway,
        "max_retention_loss": config.guard.max_retention_loss,
        "max_domain_drop": config.guard.max_domain_drop,
        "lower_bounds": bounds,
    }
    if retention_set is not None and config.guard.retention_set is not None:
        evidence["retention_set"] = {
            "pairs": config.guard.retention_set.name,
            "sha256": file_sha256(config.guard.retention_set),
        }
    return Judgement(winner, tuned, results, evidence, not objections_found or export_anyway, retrieved)


def _averaged(
    prepared: Prepared, inputs: Mapping[int, Inputs], best: Iterable[Candidate], say: Callable[[str], None]
) -> Candidate:
    """Average the best candidates; if the mean has several members, tell `say` how it compares with the first alone."""
    search = prepared.config.search
    winner = averaged(prepared, inputs, best, search.objective, most=search.averaged_trials, say=say)
    if winner.members:
        alone, objective = winner.members[0], search.objective
        say(
            f"the mean of {winner.name}: {objective} {winner.metrics[objective]:.4f}, {alone.name} alone: "
            f"{alone.metrics[objective]:.4f} on validation"
        )
    return winner


def _chosen_mixture(mixtures: Sequence[Mixture], queries: Queries, config: Config) -> tuple[Mixture, list[str]]:
    """Choose one of the mixtures, the base model `mixtures[0]` left out; also return objections due to retention."""
    objective, limit = config.search.objective, config.guard.max_retention_loss
    mixture = choose_mixture(mixtures[1:], queries, objective=objective, max_retention_loss=limit)
    if mixture is not None:
        return mixture, []
    objection = (
        f"retention set: every mix with the base model loses more than guard.max_retention_loss {limit:g} "
        f"{METRICS[PRIMARY].label}"
    )
    return max(mixtures[1:], key=lambda mixture: maximised(mixture.metrics, objective)), [objection]


def _evidence(
    prepared: Prepared,
    models: Mapping[str, Candidate],
    mixtures: Sequence[Mixture],
    confirmations: Sequence[Confirmation],
) -> Evidence:
    """Collect the evidence that is known before the test rows are read."""
    return {
        "front": [path_row(_path_point(mixture)) for mixture in mixtures],
        "confirmed": [
            {
                "trial": confirmation.trial,
                "epochs": confirmation.epochs,
                "by_seed": dict(confirmation.values),
                "seeds": len(confirmation.values),
                "mean": confirmation.mean,
                "spread": confirmation.spread,
            }
            for confirmation in confirmations
        ],
        "trained": {label: _trained(model) for label, model in models.items()},
        "leaks": leaks(prepared),
        "passages": {
            part: count_passages(queries_of(prepared, part))
            for part in ("validation", "test", "unseen_queries")
            if len(prepared.rows(part))
        },
        "refit": prepared.config.refit,
    }


def final(prepared: Prepared, inputs: Mapping[int, Inputs], judgement: Judgement) -> Candidate:
    """Return the model to export: the tuned one, or with `refit: all` the same mixture after training on all rows."""
    if prepared.config.refit == "none":
        return judgement.tuned
    again = refitted(prepared, inputs, judgement.winner)
    weights = interpolated(prepared, again, judgement.evidence["alpha"])
    return replace(judgement.tuned, weights=weights, measured=again.measured)


def read_once(prepared: Prepared, inputs: Mapping[int, Inputs], models: Mapping[str, Candidate]) -> TestFigures:
    """Read the test rows once: evaluate the base model, the given models and BM25 on them.

    Nothing may be chosen by the results. If questions about trained passages were held back as well ("unseen_queries",
    an easier protocol), the same models are evaluated on these too.

    Args:
        inputs: inputs by depth, for the depths of the models.
        models: "tuned" and any others, by name.
    """
    collection, queries = prepared.collection, queries_of(prepared, "test")
    rows = {part: prepared.rows(part).tolist() for part in ("test", "unseen_queries")}
    texts = texts_to_score(collection, rows["test"] + rows["unseen_queries"])
    cuts: dict[str, tuple[Inputs, Weights | None]] = {"base": (deepest(inputs), None)}
    cuts |= {label: (inputs[model.config.frozen_layers], model.weights) for label, model in models.items()}
    results: dict[str, dict[str, dict[str, float]]] = {"test": {}, IN_DOMAIN: {}}
    recall: dict[str, NDArray[np.float64]] = {}
    ranks: dict[str, NDArray[np.int64]] = {}
    for label, (at, weights) in cuts.items():
        scorer = Scorer(prepared, at)
        embeddings, similarity = scorer.embeddings(weights, texts), scorer.similarity(weights)
        if label == "tuned":
            first = nearest(embeddings, texts, collection, rows["test"], k=5)
        for part, asking in (("test", "test"), (IN_DOMAIN, "test"), ("unseen_queries", "unseen_queries")):
            if not rows[asking]:
                continue
            scores = query_scores(
                embeddings, texts, collection, rows[asking], within_domain=part == IN_DOMAIN, similarity=similarity
            )
            domains = [collection.domains[row] for row in rows[asking]]
            results.setdefault(part, {})[label] = flat_metrics(scores, domains)
            if part == "test":
                recall[label] = scores[PRIMARY]
                ranks[label] = np.rint(1 / scores["mrr"]).astype(int)
    for part, by_model in results.items():
        base, *others = by_model.items()
        asking = "unseen_queries" if part == "unseen_queries" else "test"
        by_words = bm25_metrics(collection, rows[asking], within_domain=part == IN_DOMAIN)
        results[part] = dict([base, ("BM25", by_words), *others])
    retrieved = _retrieved(collection, rows["test"], ranks["tuned"], recall, *first)
    below = [label for label in recall if label != "tuned"]
    return TestFigures(
        results,
        {f"tuned minus {label}": _intervals(recall["tuned"], recall[label], queries) for label in below},
        recall,
        # the interval of a model's mean is that of its difference from a model that finds nothing
        {label: _within_one(_intervals(values, np.zeros_like(values), queries)) for label, values in recall.items()},
        retrieved,
    )


def _intervals(above: NDArray[np.float64], below: NDArray[np.float64], queries: Queries) -> dict[str, StoredInterval]:
    intervals = paired_intervals(above, below, queries.passages, queries.domains, confidence=CONFIDENCE)
    return {
        domain: StoredInterval(
            difference=span.difference, low=span.low, high=span.high, queries=span.queries, passages=span.passages
        )
        for domain, span in intervals.items()
    }


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


def _objections(
    part: str, tuned: NDArray[np.float64], base: NDArray[np.float64], queries: Queries, limits: GuardConfig
) -> list[str]:
    return objections(part, tuned, base, queries, max_domain_drop=limits.max_domain_drop)


def _evaluation_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Keep the metrics of the rows, such as "mrr/macro"; leave out values of the training, such as "epoch"."""
    return {name: value for name, value in metrics.items() if "/" in name}


def _trained(candidate: Candidate) -> list[TrainedTrial]:
    """Describe how long each trial that a model consists of was trained."""
    return [
        TrainedTrial(
            trial=member.name,
            epochs=member.epochs,
            of=member.config.epochs,
            best_epoch=member.metrics["epoch"],
            finished=member.finished,
        )
        for member in candidate.members or (candidate,)
    ]


def _path_point(mixture: Mixture) -> PathPoint:
    """Reduce a mixture to the metrics that are stored: means over domains, and worst domains."""
    return PathPoint(mixture.alpha, {name: mixture.metrics[name] for name in objectives()}, mixture.retention)


def _describe_mixture(mixture: Mixture, objective: str) -> str:
    kept = (
        ""
        if mixture.retention is None
        else f", {mixture.retention[PRIMARY]:+.4f} {METRICS[PRIMARY].label} on the retention set"
    )
    return (
        f"{mixture.alpha:.0%} of the way from the base model to it: {objective} {mixture.metrics[objective]:.4f} on "
        f"validation{kept}"
    )
