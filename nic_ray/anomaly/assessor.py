"""A fitted ensemble with its calibration: p-values, flags and reasons, and its form as named arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.anomaly import conformal, detectors, ensemble, surface
from nic_ray.anomaly.combination import Rarity
from nic_ray.anomaly.conformal import ByKind, Calibration
from nic_ray.anomaly.detectors import Detector
from nic_ray.anomaly.embedded import Embedded
from nic_ray.anomaly.ensemble import Ensemble
from nic_ray.anomaly.surface import Scale

REASONS = {
    "query": "its embedding lies apart from those of normal questions",
    "part": "the embedding of a part of it does",
    "surface": "its characters are unusual",
    "known": "it is like abnormal queries of a known kind",
    "known part": "a part of it is",
}
"""What each signal says when it objects."""


@dataclass(frozen=True)
class Assessor:
    """All that is needed to assess queries."""

    ensemble: Ensemble
    calibration: ByKind


@dataclass(frozen=True)
class Alone:
    """A detector of embeddings by itself, with its own calibration, for comparison."""

    detector: Detector
    calibration: ByKind


@dataclass(frozen=True)
class Assessment:
    """What is said of a query."""

    p_value: float
    """Share of normal questions that are at least as abnormal, in (0, 1]."""
    flagged: bool
    signal: str
    """The signal that objects most, a key of `REASONS`, whether or not the query is flagged."""
    part: str | None
    """The part of the query that the signal is about; None if it is about the whole."""
    feature: str | None
    """The surface feature that is most unusual, if the signal is "surface"."""


def calibrated(
    fitted: Ensemble,
    queries: Embedded,
    groups: NDArray[np.integer],
    kinds: Sequence[str | None],
    *,
    false_alarms: float,
) -> Assessor:
    """Calibrate an ensemble on normal queries that it was neither fitted to nor chosen by.

    Args:
        groups: (Q,) number of the passage that each asks about.
        kinds: (Q,) how each is put, None where that is not known.
        false_alarms: share of normal queries that may be flagged, in (0, 1).
    """
    total = ensemble.score(queries, fitted).total
    return Assessor(fitted, conformal.calibrate_by_kind(total, groups, kinds, false_alarms=false_alarms))


def flags(queries: Embedded, assessor: Assessor) -> NDArray[np.bool_]:
    """(Q,) which queries are flagged."""
    total = ensemble.score(queries, assessor.ensemble).total
    return conformal.flags(total, assessor.calibration)


def alone(
    detector: Detector,
    queries: Embedded,
    groups: NDArray[np.integer],
    kinds: Sequence[str | None],
    *,
    false_alarms: float,
) -> Alone:
    """Calibrate a detector by itself, on the same rows as `calibrated`."""
    scores = detectors.score(queries.whole, detector)
    return Alone(detector, conformal.calibrate_by_kind(scores, groups, kinds, false_alarms=false_alarms))


def flags_alone(queries: Embedded, by_itself: Alone) -> NDArray[np.bool_]:
    """(Q,) which queries a detector by itself flags."""
    scores = detectors.score(queries.whole, by_itself.detector)
    return conformal.flags(scores, by_itself.calibration)


def assess(queries: Embedded, assessor: Assessor) -> list[Assessment]:
    """Assess queries, with the reasons."""
    scored = ensemble.score(queries, assessor.ensemble)
    p_values = conformal.p_values_by_kind(scored.total, assessor.calibration)
    # the scale of all questions serves to name a feature
    features = surface.most_unusual(queries.features, assessor.ensemble.scales[0])
    found = []
    for number, strongest in enumerate(scored.rarities.argmax(axis=0).tolist()):
        signal = scored.signals[strongest]
        places = scored.parts.get(signal)
        part = None if places is None else queries.parts[places[number]]
        found.append(
            Assessment(
                float(p_values[number]),
                bool(p_values[number] <= assessor.calibration.level),
                signal,
                None if part == queries.texts[number] else part,
                features[number] if signal == "surface" else None,
            )
        )
    return found


def as_arrays(assessor: Assessor) -> dict[str, NDArray[np.floating]]:
    """Return all numbers of an assessor as named arrays, from which `from_arrays` makes it again."""
    fitted, calibration = assessor.ensemble, assessor.calibration
    arrays: dict[str, NDArray[np.floating]] = {
        f"detector/{fitted.detector.name}/{name}": values for name, values in fitted.detector.arrays.items()
    }
    arrays |= {f"classifier/{name}": values for name, values in fitted.classifier.items()}
    arrays["surface/middle"] = np.stack([scale.middle for scale in fitted.scales])
    arrays["surface/spread"] = np.stack([scale.spread for scale in fitted.scales])
    for signal, rarities in fitted.rarities.items():
        for number, normal in enumerate(rarities):
            arrays[f"rarity/{number}/{signal}"] = np.array([normal.start, normal.excess, *normal.scores])
    for name, each in {
        "all": calibration.all,
        **{f"kind/{kind}": own for kind, own in calibration.kinds.items()},
    }.items():
        arrays[f"calibration/{name}"] = np.stack([each.scores, each.weights])
    return arrays | {"level": np.array([assessor.calibration.level])}


def from_arrays(arrays: Mapping[str, NDArray[np.floating]]) -> Assessor:
    """Make an assessor of the arrays of `as_arrays`.

    Raises:
        ValueError: an array is missing, or is none of an assessor.
    """
    try:
        if arrays["surface/middle"].shape[1] != len(surface.FEATURES):
            raise ValueError("another version of nic_ray fitted it, to other surface features")
        name = next((key.split("/")[1] for key in arrays if key.startswith("detector/")), "")
        fitted = Ensemble(
            Detector(name, _below(arrays, f"detector/{name}/")),
            [Scale(*pair) for pair in zip(arrays["surface/middle"], arrays["surface/spread"], strict=True)],
            {
                signal: [_rarity_of(values), _rarity_of(arrays[f"rarity/1/{signal}"])]
                for signal, values in _below(arrays, "rarity/0/").items()
            },
            _below(arrays, "classifier/"),
        )
        kinds = {kind: _calibration_of(values) for kind, values in _below(arrays, "calibration/kind/").items()}
        calibration = ByKind(_calibration_of(arrays["calibration/all"]), kinds, float(arrays["level"][0]))
        return Assessor(fitted, calibration)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"an array of the detector is missing or of another shape: {error}") from error


def _below(arrays: Mapping[str, NDArray[np.floating]], prefix: str) -> dict[str, NDArray[np.floating]]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def _rarity_of(values: NDArray[np.floating]) -> Rarity:
    return Rarity(values[2:].astype(np.float64), float(values[0]), float(values[1]))


def _calibration_of(values: NDArray[np.floating]) -> Calibration:
    scores, weights = values
    return Calibration(scores, weights, round(float(weights.sum())))
