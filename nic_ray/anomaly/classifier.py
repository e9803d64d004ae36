"""A small classifier of normal and abnormal queries, for kinds of abnormal ones that somebody has thought of."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

STRENGTH = 1.0
"""Inverse strength of the regularisation, scikit-learn's C."""
REACH = 5.0
"""Surface features count up to so many robust standard deviations."""


def fit(
    normal: NDArray[np.floating], abnormal: NDArray[np.floating], weights: NDArray[np.floating] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Fit a logistic regression, both sides of which weigh the same.

    Args:
        normal: (N, F) of normal queries, such as `inputs` gives.
        abnormal: (M, F) of abnormal ones.
        weights: (M,) of the abnormal ones; None for equal ones.

    Returns:
        "weights" (F,) and "bias" ().
    """
    from sklearn.linear_model import LogisticRegression

    own = np.ones(len(abnormal)) if weights is None else weights
    sample = np.concatenate([np.full(len(normal), 0.5 / len(normal)), 0.5 * own / own.sum()])
    sample *= len(sample)
    both = np.concatenate([normal, abnormal]).astype(np.float64)
    fitted = LogisticRegression(C=STRENGTH, max_iter=500).fit(
        both, np.repeat([0, 1], [len(normal), len(abnormal)]), sample_weight=sample
    )
    return {"weights": fitted.coef_[0].astype(np.float32), "bias": np.array(fitted.intercept_[0], np.float32)}


def score(values: NDArray[np.floating], fitted: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """(Q,) the logarithm of the odds that a query is abnormal."""
    odds: NDArray[np.float64] = values.astype(np.float64) @ fitted["weights"].astype(np.float64) + float(fitted["bias"])
    return odds


def inputs(embeddings: NDArray[np.float32], surface: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put unit embeddings, (N, D), and scaled surface features, (N, F), side by side in comparable sizes."""
    return np.hstack([embeddings * np.sqrt(embeddings.shape[1]) / 4, np.clip(surface, -REACH, REACH) / REACH])
