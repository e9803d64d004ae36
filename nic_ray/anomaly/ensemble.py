"""A detector of embeddings, surface features and a classifier together: what each says, and their sum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nic_ray.anomaly import classifier, combination, detectors, surface
from nic_ray.anomaly.combination import Rarity
from nic_ray.anomaly.detectors import Detector
from nic_ray.anomaly.embedded import Embedded
from nic_ray.anomaly.surface import Scale
from nic_ray.anomaly.windows import worst

DEFAULT = "mahalanobis"
"""The detector of embeddings that is used unless another is named; `benchmarks/abnormal_queries.py` compares them."""
FOLDS = 4
"""Number of parts of the training rows, each of which is scored by what was fitted to the others."""
LEAST = 50
"""Queries of a kind, from which on it has a scale of its own."""

COUNTS_FROM = 2.0
"""Rarity from which on a signal counts: about one normal query in seven is as rare. Below it, a signal that finds
nothing cannot outweigh one that does."""
WEIGHTS = {"query": 2.0, "part": 2.0}
"""Weights of signals in the sum, 1 unless they stand here. Those of the embeddings know no kinds of abnormal queries,
so what nobody has thought of depends on them."""
SHORT = 5
"""Queries of fewer words are compared with each other: their embeddings lie farther apart than those of longer ones."""

Fitted = TypeVar("Fitted")
Signals = dict[str, NDArray[np.float64]]
"""A score of each of Q queries, by the name of what gives it."""


@dataclass(frozen=True)
class Normal:
    """What a detector is fitted to: normal queries and the passages that they ask about."""

    queries: Embedded
    groups: NDArray[np.integer]
    """(N,) number of the passage that each query asks about; nearly identical passages have one number."""
    kinds: Sequence[str | None]
    """(N,) how each question is put, such as "keyword"; None where that is not known."""
    passages: NDArray[np.float32]
    """(M, D) embeddings."""
    passage_groups: NDArray[np.integer]
    """(M,) numbers of the passages."""


@dataclass(frozen=True)
class Known:
    """Abnormal queries of known kinds, by which the classifier is fitted."""

    embeddings: NDArray[np.float32]
    """(A, D)."""
    features: NDArray[np.float64]
    """(A, F) of `surface.features`."""
    kinds: Sequence[str]
    """(A,) each kind weighs the same."""

    def without(self, kinds: Sequence[str]) -> "Known":
        """Leave out the queries of some kinds."""
        kept = np.flatnonzero(~np.isin(np.array(self.kinds), list(kinds)))
        return Known(self.embeddings[kept], self.features[kept], [self.kinds[place] for place in kept.tolist()])


@dataclass(frozen=True)
class Ensemble:
    """What has been fitted."""

    detector: Detector
    scales: Sequence[Scale]
    """What is usual among all normal queries, and then among those of each kind."""
    rarities: Mapping[str, Sequence[Rarity]]
    """For each signal, how it is distributed among normal queries: short ones, and longer ones."""
    classifier: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Empty without one."""


def fit(normal: Normal, known: Known | None, *, name: str = DEFAULT, seed: int = 0) -> Ensemble:
    """Fit a detector, the scales of surface features and, if abnormal queries are given, the classifier.

    How rare a score is among normal queries is told by the training rows, each scored by what was fitted to the rows
    about other passages: scores of rows that a detector was fitted to are too low.

    Args:
        name: of the detector, in `detectors.DETECTORS`.
        seed: of the folds, and of detectors that draw random numbers.
    """
    queries = normal.queries

    def fitted(rows: NDArray[np.int64], passages: NDArray[np.int64]) -> Detector:
        return detectors.fit(name, queries.whole[rows], normal.passages[passages], seed=seed)

    def scored(own: Embedded, detector: Detector) -> Signals:
        return _of_detector(own, detector)[0]

    scales = _scales_of(queries.features, normal.kinds)
    signals = _held_out(normal, fitted, scored, seed) | {"surface": _surface(queries, scales)}
    everything = np.arange(len(queries.texts)), np.arange(len(normal.passages))
    ensemble = Ensemble(
        fitted(*everything), scales, {signal: _rarities_of(values, queries) for signal, values in signals.items()}
    )
    return ensemble if known is None else with_classifier(ensemble, normal, known, seed=seed)


def with_classifier(ensemble: Ensemble, normal: Normal, known: Known, *, seed: int = 0) -> Ensemble:
    """Fit the classifier of an ensemble anew, to these abnormal queries."""
    abnormal = classifier.inputs(detectors.unit(known.embeddings), surface.scaled(known.features, ensemble.scales[0]))
    counts = {kind: list(known.kinds).count(kind) for kind in {*known.kinds}}
    weights = np.array([1.0 / counts[kind] for kind in known.kinds])
    inputs = _inputs(normal.queries, ensemble.scales[0])[0]

    def fitted(rows: NDArray[np.int64], passages: NDArray[np.int64]) -> Mapping[str, NDArray[np.float32]]:
        return classifier.fit(inputs[rows], abnormal, weights)

    def scored(own: Embedded, weights: Mapping[str, NDArray[np.float32]]) -> Signals:
        return _of_classifier(own, ensemble.scales[0], weights)[0]

    held_out = _held_out(normal, fitted, scored, seed)
    rarities = {signal: _rarities_of(values, normal.queries) for signal, values in held_out.items()}
    everything = np.arange(len(normal.queries.texts)), np.arange(len(normal.passages))
    return replace(ensemble, classifier=fitted(*everything), rarities={**ensemble.rarities, **rarities})


@dataclass(frozen=True)
class Scored:
    """What an ensemble says of Q queries."""

    total: NDArray[np.float64]
    """(Q,) sum of the rarities, by `WEIGHTS`, each counted as `COUNTS_FROM` at least; larger if more abnormal."""
    signals: Sequence[str]
    """Names of the S signals."""
    rarities: NDArray[np.float64]
    """(S, Q) -ln of the share of normal queries that a signal finds as abnormal."""
    parts: Mapping[str, Sequence[int]]
    """For the signals of parts, (Q,) the place of the worst part of each query among all parts."""


def score(queries: Embedded, ensemble: Ensemble) -> Scored:
    """Score queries: each signal by its rarity among normal queries, and the sum of these.

    By the rule of Fisher 1925, the sum of -ln p is what several tests that are independent say together. These are not,
    so the sum is calibrated like any other score.
    """
    signals, parts = _of_detector(queries, ensemble.detector)
    signals["surface"] = _surface(queries, ensemble.scales)
    if ensemble.classifier:
        further, more_parts = _of_classifier(queries, ensemble.scales[0], ensemble.classifier)
        signals, parts = signals | further, parts | more_parts
    longer = _are_longer(queries)
    rarities = np.stack(
        [
            np.where(longer, *(combination.rarity(values, normal) for normal in reversed(ensemble.rarities[name])))
            for name, values in signals.items()
        ]
    )
    weights = np.array([WEIGHTS.get(name, 1.0) for name in signals])
    return Scored(weights @ np.maximum(rarities, COUNTS_FROM), [*signals], rarities, parts)


def _are_longer(queries: Embedded) -> NDArray[np.bool_]:
    return np.array([len(text.split()) >= SHORT for text in queries.texts], dtype=np.bool_)


def _rarities_of(values: NDArray[np.float64], queries: Embedded) -> tuple[Rarity, Rarity]:
    """How a signal is distributed among short queries and among longer ones; among all, where either are few."""
    longer = _are_longer(queries)
    if min(np.count_nonzero(longer), np.count_nonzero(~longer)) < LEAST:
        return (combination.fit(values),) * 2
    return combination.fit(values[~longer]), combination.fit(values[longer])


def _scales_of(features: NDArray[np.float64], kinds: Sequence[str | None]) -> list[Scale]:
    own = np.array(["" if kind is None else kind for kind in kinds], dtype=object)
    frequent = [kind for kind in sorted({*own.tolist()}) if LEAST <= np.count_nonzero(own == kind) < len(own)]
    return [surface.fit(features), *(surface.fit(features[own == kind]) for kind in frequent)]


def _surface(queries: Embedded, scales: Sequence[Scale]) -> NDArray[np.float64]:
    """The distance from what is usual in the kind of question that it is nearest to."""
    of_kinds = scales[1:] or scales
    distances: NDArray[np.float64] = np.min([surface.score(queries.features, scale) for scale in of_kinds], axis=0)
    return distances


def _of_detector(queries: Embedded, detector: Detector) -> tuple[Signals, dict[str, list[int]]]:
    of_parts, places = worst(detectors.score(queries.of_parts, detector), queries.owners.tolist(), len(queries.texts))
    return {"query": detectors.score(queries.whole, detector), "part": of_parts}, {"part": places}


def _of_classifier(
    queries: Embedded, scale: Scale, weights: Mapping[str, NDArray[np.float32]]
) -> tuple[Signals, dict[str, list[int]]]:
    whole, parts = _inputs(queries, scale)
    of_parts, places = worst(classifier.score(parts, weights), queries.owners.tolist(), len(queries.texts))
    return {"known": classifier.score(whole, weights), "known part": of_parts}, {"known part": places}


def _inputs(queries: Embedded, scale: Scale) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the classifier reads of the queries, and of their parts."""
    return (
        classifier.inputs(detectors.unit(queries.whole), surface.scaled(queries.features, scale)),
        classifier.inputs(detectors.unit(queries.of_parts), surface.scaled(queries.features_of_parts, scale)),
    )


def _held_out(
    normal: Normal,
    fitted: Callable[[NDArray[np.int64], NDArray[np.int64]], Fitted],
    scored: Callable[[Embedded, Fitted], Signals],
    seed: int,
) -> Signals:
    """Score each normal query by what was fitted to the queries about other passages, and to these passages."""
    names, member = np.unique(normal.groups, return_inverse=True)
    fold_of_group = np.random.default_rng(seed).permutation(len(names)) % min(FOLDS, len(names))
    fold = fold_of_group[member]
    passage_fold = np.full(len(normal.passages), -1)
    named = np.isin(normal.passage_groups, names)
    passage_fold[named] = fold_of_group[np.searchsorted(names, normal.passage_groups[named])]
    found: Signals = {}
    for number in np.unique(fold).tolist():
        rows = np.flatnonzero(fold == number)
        model = fitted(np.flatnonzero(fold != number), np.flatnonzero(passage_fold != number))
        for signal, values in scored(normal.queries.chosen(rows), model).items():
            found.setdefault(signal, np.zeros(len(fold)))[rows] = values
    return found
