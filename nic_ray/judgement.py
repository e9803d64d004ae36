"""What a search has found, judged: how far from the base to go, whether it may be exported, the one test reading."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nic_ray.activations import Inputs
from nic_ray.averaging import averaged, refitted
from nic_ray.bundle import file_sha256
from nic_ray.candidates import Candidate, Confirmation
from nic_ray.config import GuardConfig
from nic_ray.evaluation import lexical_metrics, nearest, query_scores, texts_to_score
from nic_ray.guard import Point, Queries, choose, count_passages, macro_bound, objections
from nic_ray.interpolation import interpolated, interpolation_path
from nic_ray.pairs import Collection
from nic_ray.preparation import Prepared, leaks
from nic_ray.retention import Probe, retention_of
from nic_ray.retrieval import Similarity, flat_metrics
from nic_ray.scoring import Scorer, deepest, queries_of
from nic_ray.statistics import MIN_PASSAGES, paired_intervals

CONFIDENCE = 0.95
"""Of the intervals that are shown; the guard's bounds are stricter."""

IN_DOMAIN = "test in domain"
"""The test rows, each ranked only against the passages of its own domain."""


@dataclass(frozen=True)
class Reading:
    """What the rows say that took no part in choosing."""

    results: dict[str, dict[str, dict[str, float]]]
    """"test", "test in domain" and "unseen_queries" -> model -> flat metrics."""
    intervals: dict[str, dict[str, dict[str, Any]]]
    """"tuned minus base" and the like -> domain -> `statistics.Interval` of Recall@5 on the test rows."""
    recall: dict[str, NDArray[np.float64]]
    """Model -> (Q,) Recall@5 of each test query."""
    recall_intervals: dict[str, dict[str, dict[str, Any]]]
    """Model -> domain -> `statistics.Interval` of its own Recall@5 on the test rows."""
    queries: dict[str, Any]
    """What the tuned model retrieved for each test query; see `_retrieved`."""


@dataclass(frozen=True)
class Judgement:
    """What the export is decided by, and made of."""

    winner: Candidate
    """As it was trained."""
    tuned: Candidate
    """Its weights drawn back towards the base model's: what the numbers are of."""
    results: dict[str, dict[str, dict[str, float]]]
    """part -> model ("base", "first trial", "tuned") -> flat metrics; without the test rows if they were not
    read."""
    evidence: dict[str, Any]
    """What else vouches for the numbers, as it is stored."""
    may_be_exported: bool
    queries: dict[str, Any] | None = None
    """What the tuned model retrieved for each test query; None if the test rows were not read."""


def judge(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    first: Candidate | None,
    best: Iterable[Candidate],
    confirmations: Sequence[Confirmation],
    probe: Probe | None,
    *,
    export_anyway: bool,
    say: Callable[[str], None],
    note_reading: Callable[[str], list[dict[str, Any]]] = lambda _: [],
) -> Judgement:
    """Average the best, draw them back towards the base model, hold them against it, read the test rows once.

    Args:
        inputs: by depth, at those of the candidates.
        first: the first trial, if it did not fail.
        best: the winner, then others, the best first; asked for one by one, as all weights might not fit into memory.
        confirmations: what is known of configurations that were tried with several seeds.
        probe: with inputs at the depths of the candidates; None measures no retention.
        export_anyway: whether objections stand in the way.
        say: is handed what is found, a line at a time.
        note_reading: is told of which model the test rows are about to be read, and gives all their readings.
    """
    config = prepared.config
    objective, limits = config.search.objective, config.guard
    base = Scorer(prepared, deepest(inputs)).scores(None, prepared.rows("validation"))
    asked = queries_of(prepared, "validation")
    winner = averaged(prepared, inputs, best, objective, most=config.search.averaged_trials, say=say)
    if winner.members:
        alone = winner.members[0]
        say(
            f"the mean of {winner.name}: {objective} {winner.metrics[objective]:.4f}, {alone.name} alone: "
            f"{alone.metrics[objective]:.4f} on validation"
        )
    points = interpolation_path(prepared, inputs[winner.config.frozen_layers], winner, base, probe)
    chosen = choose(points[1:], asked, objective=objective, max_retention_loss=limits.max_retention_loss)
    found: list[str] = []
    if chosen is None:
        found.append(
            f"probe: every mix with the base model loses more than guard.max_retention_loss "
            f"{limits.max_retention_loss:g} Recall@5"
        )
        chosen = max(points[1:], key=lambda point: point.metrics[objective])
    tuned = replace(
        winner,
        weights=interpolated(prepared, winner, chosen.alpha),
        metrics={**winner.metrics, **chosen.metrics},
    )
    say(_described(chosen, objective))
    given = (chosen.scores["recall_at_5"], base["recall_at_5"], asked)
    found += _objections("validation", *given, limits)
    bounds = {"validation": macro_bound("validation", *given)}
    models = ({"first trial": first} if first else {}) | {"tuned": tuned}
    results = {"validation": {"base": flat_metrics(base, asked.domains)}}
    results["validation"] |= {label: _figures(each.metrics) for label, each in models.items()}
    kept = {"first trial": retention_of(prepared, probe, first)} if probe and first else {}
    evidence: dict[str, Any] = {
        "alpha": chosen.alpha,
        "retention": probe and kept | {"tuned": chosen.retention},
        "front": [_as_row(point) for point in points],
        "confirmed": [
            {
                "trial": each.trial,
                "epochs": each.epochs,
                "by_seed": dict(each.values),
                "seeds": len(each.values),
                "mean": each.mean,
                "spread": each.spread,
            }
            for each in confirmations
        ],
        "trained": {label: _trained(each) for label, each in models.items()},
        "leaks": leaks(prepared),
        "passages": {
            part: count_passages(queries_of(prepared, part))
            for part in ("validation", "test", "unseen_queries")
            if len(prepared.rows(part))
        },
        "refit": config.refit,
    }
    queries = None
    if not found or export_anyway:  # what has failed already is not worth the one reading of the test rows
        evidence["readings"] = note_reading(tuned.name)
        reading = read_once(prepared, inputs, models)
        results |= reading.results
        queries = reading.queries
        evidence["intervals"] = reading.intervals
        evidence["recall_intervals"] = reading.recall_intervals
        evidence["interval_rule"] = {"confidence": CONFIDENCE, "min_passages": MIN_PASSAGES}
        test = queries_of(prepared, "test")
        at_test = (reading.recall["tuned"], reading.recall["base"], test)
        found += _objections("test", *at_test, limits)
        bounds["test"] = macro_bound("test", *at_test)
    may_be_exported = not found or export_anyway
    evidence["guard"] = {
        "objections": found,
        "overridden": bool(found) and export_anyway,
        "max_retention_loss": limits.max_retention_loss,
        "max_domain_drop": limits.max_domain_drop,
        "lower_bounds": bounds,
    }
    if probe is not None and limits.probe is not None:
        evidence["probe"] = {"pairs": limits.probe.name, "sha256": file_sha256(limits.probe)}
    return Judgement(winner, tuned, results, evidence, may_be_exported, queries)


def final(prepared: Prepared, inputs: Mapping[int, Inputs], judgement: Judgement) -> Candidate:
    """The weights to export: those that the numbers are of, or with `refit: all` the same trained on every row."""
    if prepared.config.refit == "none":
        return judgement.tuned
    again = refitted(prepared, inputs, judgement.winner)
    weights = interpolated(prepared, again, judgement.evidence["alpha"])
    return replace(judgement.tuned, weights=weights, measured=again.measured)


def read_once(prepared: Prepared, inputs: Mapping[int, Inputs], models: Mapping[str, Candidate]) -> Reading:
    """The one reading of the test rows: of the base model, of others, and of a search by words.

    Nothing may be chosen by what it returns. With the test rows come the questions about trained passages that
    were held back, if there are any: the easier protocol, on the same models.

    Args:
        inputs: by depth, at those of the models.
        models: "tuned" and others.
    """
    collection = prepared.collection
    deepest = max(inputs)
    cuts: dict[str, tuple[int, Any]] = {"base": (deepest, None)}
    cuts |= {label: (each.config.frozen_layers, each.weights) for label, each in models.items()}
    rows = {part: prepared.rows(part).tolist() for part in ("test", "unseen_queries")}
    texts = texts_to_score(collection, rows["test"] + rows["unseen_queries"])
    names = {part: [collection.domains[row] for row in own] for part, own in rows.items()}
    results: dict[str, dict[str, dict[str, float]]] = {"test": {}, IN_DOMAIN: {}}
    recall = {}
    queries: dict[str, Any] = {}
    for label, (depth, weights) in cuts.items():
        embeddings = Scorer(prepared, inputs[depth]).embeddings(weights, texts)
        how: Similarity = "cosine" if weights is not None else prepared.encoder.similarity
        scores = query_scores(embeddings, texts, collection, rows["test"], similarity=how)
        recall[label] = scores["recall_at_5"]
        results["test"][label] = flat_metrics(scores, names["test"])
        if label == "tuned":
            ranks = np.rint(1 / scores["mrr"]).astype(int).tolist()
            queries = _retrieved(
                collection, rows["test"], ranks, *nearest(embeddings, texts, collection, rows["test"], k=5)
            )
        inside = query_scores(embeddings, texts, collection, rows["test"], within_domain=True, similarity=how)
        results[IN_DOMAIN][label] = flat_metrics(inside, names["test"])
        if rows["unseen_queries"]:
            new = query_scores(embeddings, texts, collection, rows["unseen_queries"], similarity=how)
            results.setdefault("unseen_queries", {})[label] = flat_metrics(new, names["unseen_queries"])
    for part, own in results.items():
        base, *others = own.items()
        asked_rows = rows["unseen_queries" if part == "unseen_queries" else "test"]
        by_words = lexical_metrics(collection, asked_rows, within_domain=part == IN_DOMAIN)
        results[part] = dict([base, ("BM25", by_words), *others])
    asked = queries_of(prepared, "test")

    def intervals_of(above: NDArray[np.float64], below: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
        found = paired_intervals(above, below, asked.passages, asked.domains, confidence=CONFIDENCE)
        return {domain: asdict(interval) for domain, interval in found.items()}

    intervals = {
        f"tuned minus {label}": intervals_of(recall["tuned"], recall[label]) for label in recall if label != "tuned"
    }
    # a model's own interval is that of its difference to one that finds nothing
    own_intervals = {
        label: {domain: _within_one(own) for domain, own in intervals_of(values, np.zeros_like(values)).items()}
        for label, values in recall.items()
    }
    for place, query in enumerate(queries["queries"]):
        query["recall"] = {label: float(values[place]) for label, values in recall.items()}
    return Reading(results, intervals, recall, own_intervals, queries)


def _within_one(interval: Mapping[str, Any]) -> dict[str, Any]:
    """Of a Recall@5, which is no less than 0 and no more than 1."""
    if interval["low"] is None:
        return dict(interval)
    return {**interval, "low": max(0.0, interval["low"]), "high": min(1.0, interval["high"])}


def _retrieved(
    collection: Collection,
    rows: Sequence[int],
    ranks: Sequence[int],
    found: NDArray[np.int64],
    cosines: NDArray[np.float64],
) -> dict[str, Any]:
    """Queries with the rank of their best answer and what came first, as it is stored.

    Returns:
        "queries": for each row its query, domain, passage, rank, and "retrieved", pairs of a passage and its cosine;
        "passages": text and domains of each passage that is named, by its number.
    """
    shown = {int(collection.positive[row]) for row in rows} | set(found.ravel().tolist())
    domains: dict[int, set[str]] = {number: set() for number in shown}
    for number, domain in zip(collection.positive.tolist(), collection.domains, strict=True):
        if number in shown:
            domains[number].add(domain)
    return {
        "queries": [
            {
                "query": collection.texts[collection.query[row]],
                "domain": collection.domains[row],
                "passage": int(collection.positive[row]),
                "rank": rank,
                "retrieved": [list(pair) for pair in zip(first, own, strict=True)],
            }
            for row, rank, first, own in zip(rows, ranks, found.tolist(), cosines.round(4).tolist(), strict=True)
        ],
        "passages": {
            str(number): {"text": collection.texts[number], "domains": sorted(domains[number])}
            for number in sorted(shown)
        },
    }


def _objections(
    part: str, tuned: NDArray[np.float64], base: NDArray[np.float64], asked: Queries, limits: GuardConfig
) -> list[str]:
    return objections(part, tuned, base, asked, max_domain_drop=limits.max_domain_drop)


def _figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of the rows, not of the training."""
    return {name: value for name, value in metrics.items() if "/" in name}


def _trained(candidate: Candidate) -> list[dict[str, Any]]:
    """How long the trials of a model were trained: figures of unlike length say something about their length too."""
    return [
        {
            "trial": each.name,
            "epochs": each.epochs,
            "of": each.config.epochs,
            "best_epoch": each.metrics["epoch"],
            "finished": each.finished,
        }
        for each in candidate.members or (candidate,)
    ]


def _as_row(point: Point) -> dict[str, Any]:
    shown = ("recall_at_5/macro", "mrr/macro", "recall_at_5/worst")
    return {"alpha": point.alpha, **{name: point.metrics[name] for name in shown}, "retention": point.retention}


def _described(point: Point, objective: str) -> str:
    kept = "" if point.retention is None else f", {point.retention['recall_at_5']:+.4f} Recall@5 on the probe"
    return (
        f"{point.alpha:.0%} of the way from the base model to it: {objective} {point.metrics[objective]:.4f} on "
        f"validation{kept}"
    )
