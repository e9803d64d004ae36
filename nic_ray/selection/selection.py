"""The judgement of a search: the weights to export, whether they may be exported, and the one reading of the test rows.

The winner is the model as it was trained: one trial, or the mean of several. The tuned model is the mixture of the
winner's weights with the base model's that is judged and exported.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.formats import content_sha256
from nic_ray.evidence import (
    Evidence,
    GuardVerdict,
    IntervalRule,
    PathPoint,
    Retrieved,
    StoredReading,
    TrainedTrial,
    TrialRow,
    WordSearch,
    path_row,
)
from nic_ray.metrics.calibration import as_calibration
from nic_ray.metrics.fusion import VECTORS, WORDS, ranking_figures
from nic_ray.metrics.intervals import MIN_PASSAGES, Queries
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import METRICS, OVER_ALL, PRIMARY, maximised, of_one_ranking
from nic_ray.model.activations import Inputs
from nic_ray.selection.averaging import averaged
from nic_ray.selection.bases import BEST_BASE, Base, BetterBase, base_of, better_base, kept_by
from nic_ray.selection.candidates import Candidate, Confirmation
from nic_ray.selection.confidence import calibrated, calibration_reading
from nic_ray.selection.guard import (
    LEAST_GAIN_OF_SYNTHETIC,
    Mixture,
    choose_mixture,
    macro_bound,
    neighbours_asked_for,
    objections,
    retention_objection,
)
from nic_ray.selection.interpolation import deciding_path, interpolated, interpolation_path
from nic_ray.selection.previous import Scores, compared_with_previous, falls_on_old_rows, gain_is_judged_by
from nic_ray.selection.reading import CONFIDENCE, TestFigures, read_once, stored_intervals, stored_sizes
from nic_ray.selection.retention import GeneralText, RetentionSet, load_general_text
from nic_ray.selection.scoring import Scorer, asked_passages, deepest, queries_of
from nic_ray.selection.word_search import WITH_WORDS, ChosenFusion, choose_fusion, stored
from nic_ray.train_config import Kind
from nic_ray.training.prepared import Prepared, leaks


@dataclass(frozen=True)
class Judgement:
    """The models of a search, the evidence for their results, and the decision about the export."""

    winner: Candidate
    """The model as it was trained."""
    tuned: Candidate
    """The mixture of the winner's weights with the base model's that was chosen, and that the results belong to."""
    results: dict[str, dict[str, dict[str, float]]]
    """Part of the rows -> model ("base", "BM25", "first trial", "tuned", "tuned + BM25") -> flat metrics. Parts other
    than "validation" are absent if the test rows were not read."""
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
    trials: list[TrialRow]
    ranked: str | None = None
    """Which passages were ranked, where a corpus was; else None."""
    caution: str | None = None
    """What figures of synthetic questions are worth; None where people asked all questions that were measured."""


@dataclass(frozen=True)
class Contestants:
    """The candidates of a search that the model is selected from."""

    unsearched: Mapping[str, Candidate]
    """What there is without a search, with its weights: "first trial", and perhaps "without search", to compare with.
    """
    best: Sequence[Candidate]
    """The best candidate, then the others, best first, with or without weights."""
    confirmations: Sequence[Confirmation]
    """The results of configurations that were trained with several seeds."""
    load: Callable[[Candidate], Candidate] = lambda candidate: candidate
    """Returns a candidate of `best` with its weights; all of them might not fit into memory."""
    others: Mapping[Kind, Base] = field(default_factory=dict)
    """Base models of the kinds of models that the best candidate does not belong to; other candidates may."""


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
        prepared: that of the base model from which the best candidate was tuned.
        inputs: inputs by depth, for the depths of all candidates that were tuned from it.
        retention_set: the pairs to measure retention on, with inputs for the same depths; with None it is not measured.
        export_anyway: whether to read the test rows and to export despite objections.
        say: called with a line for each intermediate result.
        note_reading: called with the name of the tuned model before the test rows are read; returns all their readings,
            this one included.
    """
    config, queries = prepared.config, queries_of(prepared, "validation")
    own, others = Base(prepared, inputs, retention_set), contestants.others
    base = own.scorer.scores(None, prepared.rows("validation"))
    better = better_base(base, own, others)
    related = [each for each in contestants.best if base_of(each, own, others) is own]
    average = averaged(prepared, inputs, related, load=contestants.load, say=say)
    winner = average.candidate
    general = load_general_text(prepared, [*inputs])
    mixtures = _mixtures(own, winner, base, general, queries)
    mixture, objections_found = _chosen_mixture(mixtures, queries, prepared)
    tuned = replace(
        winner,
        weights=interpolated(prepared, winner, mixture.alpha),
        metrics={**winner.metrics, **mixture.metrics},
    )
    say(_describe_mixture(mixture, config.search.objective))
    scores: dict[str, Scores] = {"validation": {"base": base, "tuned": mixture.scores}}
    if better is not None:
        scores["validation"] = {**scores["validation"], BEST_BASE: better.scores}
    more, bound = _objections(prepared, "validation", scores["validation"], better)
    objections_found, bounds = objections_found + more, {"validation": bound}
    models = {**contestants.unsearched, "tuned": tuned}
    fusions = _chosen_fusions(prepared, inputs, tuned, say)
    results = {"validation": _validation_results(scores["validation"], models, fusions["tuned"], queries)}
    evidence = _evidence(prepared, models, mixtures, contestants.confirmations)
    evidence |= _retention(own, others, general, contestants.unsearched, mixture)
    if better is not None:
        evidence["best_base"] = better.name
    evidence["word_search"] = _word_search(fusions, queries)
    evidence["calibration"] = calibrated(fusions["tuned"].first_hits, fusions["tuned"].ranking)
    evidence["alpha"] = mixture.alpha
    evidence["averaging"] = average.cross_fitted
    retrieved = None
    if not objections_found or export_anyway:  # a model that has failed already does not use up the one reading
        evidence["readings"] = note_reading(tuned.name)
        reading = read_once(prepared, inputs, models, fusions, others, better)
        results, retrieved = results | reading.results, reading.queries
        evidence["word_search"]["figures"] |= {"test": reading.rankings}
        evidence["calibration"]["readings"]["test"] = calibration_reading(
            as_calibration(evidence["calibration"]), reading.first_hits
        )
        evidence |= _read_evidence(reading, queries.unit)
        scores["test"] = reading.scores
        more, bounds["test"] = _objections(prepared, "test", reading.scores, better)
        objections_found += more
    evidence |= compared_with_previous(prepared, scores)
    evidence["guard"] = _verdict(prepared, objections_found, bounds, overridden=export_anyway)
    return Judgement(winner, tuned, results, evidence, not objections_found or export_anyway, retrieved)


def _verdict(
    prepared: Prepared, objections_found: list[str], bounds: Mapping[str, float | None], *, overridden: bool
) -> GuardVerdict:
    limits, synthetic = prepared.config.guard, prepared.is_synthetic("validation")
    found: GuardVerdict = {
        "objections": objections_found,
        "overridden": bool(objections_found) and overridden,
        "max_retention_loss": limits.max_retention_loss,
        "min_neighbours_kept": neighbours_asked_for(limits.min_neighbours_kept, synthetic=synthetic),
        "max_domain_drop": limits.max_domain_drop,
        "lower_bounds": bounds,
    }
    if any(map(prepared.is_synthetic, bounds)):
        found["least_gain"] = LEAST_GAIN_OF_SYNTHETIC
    return found


def _chosen_fusions(
    prepared: Prepared, inputs: Mapping[int, Inputs], tuned: Candidate, say: Callable[[str], None]
) -> dict[str, ChosenFusion]:
    """Choose how the base model and the tuned one go together with a search by words."""
    rows, queries, objective = (
        prepared.rows("validation"),
        queries_of(prepared, "validation"),
        prepared.config.search.objective,
    )
    cuts = {"base": (deepest(inputs), None), "tuned": (inputs[tuned.config.frozen_layers], tuned.weights)}
    fusions = {
        label: choose_fusion(Scorer(prepared, at), weights, rows, queries, objective)
        for label, (at, weights) in cuts.items()
    }
    chosen = fusions["tuned"]
    value = flat_metrics(chosen.scores[chosen.best], queries.domains)[of_one_ranking(objective)]
    verdict = "which retrieve will rank by" if chosen.helps else "which may be chance, so retrieve ranks without words"
    say(f"with a search by words ({chosen.best}): {objective} {value:.4f} on validation, {verdict}")
    return fusions


def _validation_results(
    bases: Scores, models: Mapping[str, Candidate], fusion: ChosenFusion, queries: Queries
) -> dict[str, dict[str, float]]:
    """The flat metrics of all models on the validation rows."""
    domains = queries.domains
    return {
        "base": flat_metrics(bases["base"], domains),
        "BM25": flat_metrics(fusion.scores[WORDS], domains),
        **({BEST_BASE: flat_metrics(bases[BEST_BASE], domains)} if BEST_BASE in bases else {}),
        **{label: _evaluation_metrics(model.metrics) for label, model in models.items()},
        WITH_WORDS: flat_metrics(fusion.scores[fusion.best], domains),
    }


def _word_search(fusions: Mapping[str, ChosenFusion], queries: Queries) -> WordSearch:
    """Describe what a search by words adds to the models on the validation rows."""
    tuned = fusions["tuned"]
    return {
        "chosen": {label: stored(fusion.best) for label, fusion in fusions.items()},
        "helps": tuned.helps,
        "gain": stored_intervals(tuned.scores[tuned.best][PRIMARY], tuned.scores[VECTORS][PRIMARY], queries)["macro"],
        "figures": {
            "validation": ranking_figures({label: each.scores for label, each in fusions.items()}, queries.domains)
        },
    }


def _mixtures(
    own: Base,
    winner: Candidate,
    base: Mapping[str, NDArray[np.float64]],
    general: GeneralText | None,
    queries: Queries,
) -> list[Mixture]:
    """Evaluate as many mixtures of the base model and the winner as decide which one is chosen."""
    inputs = own.inputs[winner.config.frozen_layers]
    path = functools.partial(interpolation_path, own.prepared, inputs, winner, base, own.retention_set, general)
    return deciding_path(path, queries, objective=own.prepared.config.search.objective, **_limits(own.prepared))


def _chosen_mixture(mixtures: Sequence[Mixture], queries: Queries, prepared: Prepared) -> tuple[Mixture, list[str]]:
    """Choose one of the mixtures, the base model `mixtures[0]` left out; also return objections due to retention."""
    objective, given, limits = prepared.config.search.objective, mixtures[1:], _limits(prepared)
    mixture = choose_mixture(given, queries, objective=objective, **limits)
    if mixture is not None:
        return mixture, []
    best = max(given, key=lambda mixture: maximised(mixture.metrics, objective))
    return best, [retention_objection(given, **limits, synthetic=prepared.is_synthetic("validation"))]


def _limits(prepared: Prepared) -> dict[str, float]:
    """Return what a mixture may forget, as arguments of `choose_mixture`."""
    guard, synthetic = prepared.config.guard, prepared.is_synthetic("validation")
    return {
        "max_retention_loss": guard.max_retention_loss,
        "min_neighbours_kept": neighbours_asked_for(guard.min_neighbours_kept, synthetic=synthetic),
    }


def _read_evidence(reading: TestFigures, unit: str) -> Evidence:
    """Collect the intervals of the one reading, over a sample of `unit`, and what shorter embeddings are worth."""
    rule: IntervalRule = {"confidence": CONFIDENCE, "min_passages": MIN_PASSAGES}
    found: Evidence = {
        "intervals": reading.intervals,
        "recall_intervals": reading.recall_intervals,
        "interval_rule": rule if unit == "passages" else {**rule, "unit": unit},
    }
    if reading.kinds:
        found["question_kinds"] = reading.kinds
    if dimensions := stored_sizes(reading.shortened):
        found["truncate_dim"] = dimensions
    return found


def _retention(
    own: Base,
    others: Mapping[Kind, Base],
    general: GeneralText | None,
    unsearched: Mapping[str, Candidate],
    mixture: Mixture,
) -> Evidence:
    """Measure what the models that the mixture is compared with have forgotten, and put it beside the mixture's."""
    found = {}
    for label, model in unsearched.items():
        base = base_of(model, own, others)
        texts = general if base is own else load_general_text(base.prepared, [model.config.frozen_layers])
        found[label] = kept_by(model, base, texts)
    retention, kept = None, None
    if mixture.retention is not None:
        retention = {label: changes for label, (changes, _) in found.items() if changes is not None}
        retention["tuned"] = dict(mixture.retention)
    if mixture.neighbours is not None:
        kept = {label: share for label, (_, share) in found.items() if share is not None}
        kept["tuned"] = mixture.neighbours
    measured: Evidence = {"retention": retention, "neighbours_kept": kept}
    path = own.prepared.config.guard.retention_set
    if own.retention_set is not None and path is not None:
        measured["retention_set"] = {"pairs": path.name, "sha256": content_sha256(path)}
    return measured


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
            part: asked_passages(prepared, part)
            for part in ("validation", "test", "unseen_queries")
            if len(prepared.rows(part))
        },
        "refit": "none",
    }


def _objections(
    prepared: Prepared, part: str, scores: Scores, better: BetterBase | None
) -> tuple[list[str], float | None]:
    """List the objections to which a part gives rise, against the winner's base model and against a better one.

    Args:
        scores: "base", "tuned" and, with a better one, "best base" -> their values on the part.

    Returns:
        one sentence each, and the lower bound of the gain over the winner's base model.
    """
    limit = prepared.config.guard.max_domain_drop
    least = LEAST_GAIN_OF_SYNTHETIC if prepared.is_synthetic(part) else 0.0
    values = gain_is_judged_by(prepared, part, scores["tuned"][PRIMARY], scores["base"][PRIMARY])
    found = objections(part, *values, max_domain_drop=limit, least_gain=least)
    found += falls_on_old_rows(prepared, part, scores)
    if better is not None:
        pair, named = (scores["tuned"][PRIMARY], scores[BEST_BASE][PRIMARY]), f"the best base model, {better.name},"
        queries = queries_of(prepared, part)
        found += objections(part, *pair, queries, max_domain_drop=limit, least_gain=least, against=named)
    return found, macro_bound(part, *values)


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
    return PathPoint(
        mixture.alpha,
        {name: value for name, value in mixture.metrics.items() if name.partition("/")[2] in OVER_ALL},
        mixture.retention,
        mixture.neighbours,
    )


def _describe_mixture(mixture: Mixture, objective: str) -> str:
    kept = (
        ""
        if mixture.retention is None
        else f", {mixture.retention[PRIMARY]:+.4f} {METRICS[PRIMARY].label} on the retention set"
    )
    if mixture.neighbours is not None:
        kept += f", {mixture.neighbours:.1%} of the neighbours of general texts kept"
    return (
        f"{mixture.alpha:.0%} of the way from the base model to it: {objective} {mixture.metrics[objective]:.4f} on "
        f"validation{kept}"
    )
