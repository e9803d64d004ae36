"""How sure an answer is: the chance that the first hit answers the query, set on validation and read on test rows."""

import numpy as np

from nic_ray.evidence import CalibrationReading, StoredCalibration
from nic_ray.metrics.calibration import Calibration, FirstHits, brier_score, calibrate, chances_of, reliability
from nic_ray.metrics.fusion import Fusion
from nic_ray.selection.word_search import stored


def calibrated(hits: FirstHits, ranking: Fusion) -> StoredCalibration:
    """Calibrate first hits on the validation rows.

    Args:
        hits: the first hits of the validation queries.
        ranking: how passages are scored.
    """
    calibration = calibrate(hits)
    return {
        "ranking": stored(ranking),
        "scores": [*calibration.scores],
        "chances": [*calibration.chances],
        "threshold": calibration.threshold,
        "readings": {"validation": calibration_reading(calibration, hits)},
    }


def calibration_reading(calibration: Calibration, hits: FirstHits) -> CalibrationReading:
    """Compare what a calibration states of first hits with what they are."""
    chances, right = chances_of(calibration, hits.scores), hits.right
    found = hits.scores >= calibration.threshold
    return {
        "queries": len(right),
        "right": float(right.mean()),
        "brier": brier_score(chances, right),
        "brier_of_the_mean": brier_score(np.full(len(right), right.mean()), right),
        "right_below": float((~found[right]).mean()) if right.any() else 0.0,
        "recognised": float((hits.without_answer < calibration.threshold).mean()),
        "reliability": [
            {"chance": chance, "right": share, "queries": count} for chance, share, count in reliability(chances, right)
        ],
    }
