"""Every passage held out once: the winner's configuration is trained anew for each fold, and evaluated on it."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.config import Config
from nic_ray.data_config import DataConfig
from nic_ray.dataset.split import folds_of_rows
from nic_ray.evidence import Evidence
from nic_ray.metrics.fusion import VECTORS, WORDS, Fusion
from nic_ray.metrics.intervals import Queries, count_passages
from nic_ray.metrics.ranking import empty_metrics, flat_metrics
from nic_ray.metrics.table import PRIMARY
from nic_ray.model.evaluation import fused_scores
from nic_ray.protocol import unit_of_groups
from nic_ray.results import CROSS_FIT
from nic_ray.selection.bases import BEST_BASE, Base
from nic_ray.selection.guard import LEAST_GAIN_OF_SYNTHETIC, macro_bound, objections
from nic_ray.selection.interpolation import interpolated
from nic_ray.selection.reading import stored_intervals
from nic_ray.selection.refit import MOST_MEMBERS, Train, trained_again
from nic_ray.selection.scoring import Scorer, Weights
from nic_ray.selection.selection import Judgement
from nic_ray.selection.word_search import WITH_WORDS
from nic_ray.training.prepared import Prepared

Scores = dict[str, dict[str, NDArray[np.float64]]]
"""Model -> metric -> its value for each row, (N,)."""


def cross_fit(
    own: Base,
    judgement: Judgement,
    *,
    better: Base | None = None,
    export_anyway: bool,
    train: Train | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Judgement:
    """Evaluate the winner's configuration on all rows, each by a model that was trained without the row's fold.

    The first fold is the test part of the search. The passages of the others took part in the search, which has chosen
    the configuration with them, so the figures favour it slightly; no weights were trained on what they are measured
    on. The models are trained as `refit` trains the exported one, so the figures are those of its making.

    Args:
        own: the base model of the winner, with inputs for the depths of the winner and of its members.
        better: the best base model, if that is not the winner's own.
        export_anyway: whether to export despite objections.
        train: trains the configurations of a fold; None to do it in this process.
        folder: receives checkpoints, a folder for each fold; None for none.
        say: called with a line for each intermediate result.

    Returns:
        the judgement, with the results of the part "cross_fit", the evidence for them, and any objections to which they
        give rise.
    """
    prepared, inputs = own.prepared, own.inputs
    collection, config = prepared.collection, prepared.config
    every = np.flatnonzero(prepared.measured)
    left = len(np.unique(prepared.groups[every][prepared.parts[every] != "test"]))
    count = min(folds_of(config.data), 1 + left)
    folds = _folds(prepared, every, count)
    fusion = Fusion(**judgement.evidence["word_search"]["chosen"]["tuned"])
    found = _scores(own.scorer, None, every, {"base": VECTORS, "BM25": WORDS})
    if better is not None:
        found |= _scores(better.scorer, None, every, {BEST_BASE: VECTORS})
    found |= {label: empty_metrics(len(every), collection.metrics) for label in ("tuned", WITH_WORDS)}
    for number in range(count):
        here = folds[every] == number
        held_out = every[here]
        say(f"fold {number + 1} of {count}: {len(held_out):,} rows are held out")
        at = None if folder is None else folder / f"fold-{number}"
        rows = np.flatnonzero(folds != number)
        again = trained_again(prepared, inputs, judgement.winner, rows, train=train, folder=at, say=say)
        weights = interpolated(prepared, again, judgement.evidence["alpha"])
        scorer = Scorer(prepared, inputs[again.config.frozen_layers])
        measured = _scores(scorer, weights, held_out, {"tuned": VECTORS, WITH_WORDS: fusion})
        for label, name in itertools.product(measured, found["tuned"]):
            found[label][name][here] = measured[label][name]
    names = [collection.domains[row] for row in every.tolist()]
    queries = Queries(prepared.groups[every], names, unit_of_groups(config.data.group_by))
    return _judged(judgement, found, queries, count, prepared, export_anyway)


def _folds(prepared: Prepared, measured: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the fold of each row, (N,).

    Rows that are not measured, synthetic ones beside others, are held out with the measured rows of their groups, and
    are of fold -1 where there are none: they are always trained on.
    """
    groups, folds = prepared.groups, np.full(len(prepared.parts), -1, dtype=np.int64)
    names = [prepared.collection.domains[row] for row in measured.tolist()]
    seed = prepared.config.data.seed
    folds[measured] = folds_of_rows(groups[measured], names, prepared.parts[measured], count=count, seed=seed)
    of_group = dict(zip(groups[measured].tolist(), folds[measured].tolist(), strict=True))
    others = np.flatnonzero(folds < 0)
    folds[others] = [of_group.get(group, -1) for group in groups[others].tolist()]
    return folds


def folds_of(data: DataConfig) -> int:
    """Return the number of folds: each holds out about as many rows as the test part."""
    return max(2, round(1 / data.test_share))


def trainings_before_export(prepared: Prepared) -> float:
    """Count the trainings on all rows and on those of folds, in trainings on the rows of the training part."""
    config, passes = prepared.config, float(prepared.config.refit == "all")  # over all rows
    if config.data.protocol == "cross_fit":
        passes += folds_of(config.data) - 1
    return members_again(config) * passes * len(prepared.parts) / max(1, len(prepared.rows("train")))


def states_before_export(config: Config) -> int:
    """Count the checkpoints that these trainings leave."""
    folds = folds_of(config.data) if config.data.protocol == "cross_fit" else 0
    return members_again(config) * (folds + (config.refit == "all"))


def members_again(config: Config) -> int:
    """Return the number of configurations that are trained again, if the winner is a mean wherever it may be one."""
    return 1 if config.search.trials == 1 or config.search.averaged_trials == 1 else MOST_MEMBERS


def _scores(scorer: Scorer, weights: Weights | None, rows: NDArray[np.int64], wanted: Mapping[str, Fusion]) -> Scores:
    """Score a model on some rows, by several rankings."""
    found = fused_scores(scorer.asked(weights, rows.tolist(), of_all=True), tuple(dict.fromkeys(wanted.values())))
    return {label: dict(found[fusion]) for label, fusion in wanted.items()}


def _judged(
    judgement: Judgement, found: Scores, queries: Queries, count: int, prepared: Prepared, export_anyway: bool
) -> Judgement:
    """Add the results, their intervals and the objections to a judgement."""
    asked = count_passages(replace(queries, passages=prepared.passages[prepared.measured]))
    tuned, base, fused = (found[label][PRIMARY] for label in ("tuned", "base", WITH_WORDS))
    limit, synthetic = prepared.config.guard.max_domain_drop, prepared.collection.synthetic
    least = 0.0 if synthetic is None or not synthetic.all() else LEAST_GAIN_OF_SYNTHETIC
    more = objections(CROSS_FIT, tuned, base, queries, max_domain_drop=limit, least_gain=least)
    if BEST_BASE in found:
        named = f"the best base model, {judgement.evidence['best_base']},"
        best = found[BEST_BASE][PRIMARY]
        more += objections(CROSS_FIT, tuned, best, queries, max_domain_drop=limit, least_gain=least, against=named)
    verdict = judgement.evidence["guard"]
    listed = [*verdict["objections"], *more]
    evidence: Evidence = {
        **judgement.evidence,
        "folds": {
            "folds": count,
            "intervals": {
                **{
                    f"tuned minus {label}": stored_intervals(tuned, found[label][PRIMARY], queries)
                    for label in ("base", BEST_BASE)
                    if label in found
                },
                f"{WITH_WORDS} minus tuned": stored_intervals(fused, tuned, queries),
            },
        },
        "passages": {**judgement.evidence["passages"], CROSS_FIT: asked},
        "guard": {
            **verdict,
            "objections": listed,
            "overridden": bool(listed) and export_anyway,
            "lower_bounds": {**verdict["lower_bounds"], CROSS_FIT: macro_bound(CROSS_FIT, tuned, base, queries)},
        },
    }
    results = {label: flat_metrics(own, queries.domains) for label, own in found.items()}
    return replace(
        judgement,
        results={**judgement.results, CROSS_FIT: results},
        evidence=evidence,
        may_be_exported=not listed or export_anyway,
    )
