"""Detectors of embeddings that lie apart from those of normal queries and passages: one table, plain arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.anomaly import autoencoder, forest

Arrays = dict[str, NDArray[np.float32]]
Fit = Callable[[NDArray[np.float32], NDArray[np.float32], int], Arrays]
"""Fits to the embeddings of queries (N, D) and of passages (M, D), with a seed."""
Score = Callable[[NDArray[np.float32], Arrays], NDArray[np.float64]]
"""Scores (Q, D) embeddings of queries, larger if more abnormal."""

NEIGHBOURS = 3
"""Number of nearest queries whose mean similarity counts."""
OUTLIER_NEIGHBOURS = 20
"""Number of neighbours of the local outlier factor, as scikit-learn's."""
KEPT_VARIANCE = 0.9
"""Share of the variance that the principal components hold."""
_BLOCK = 2048


@dataclass(frozen=True)
class Detector:
    """A fitted detector."""

    name: str
    """In `DETECTORS`."""
    arrays: Mapping[str, NDArray[np.float32]]


def fit(name: str, queries: NDArray[np.float32], passages: NDArray[np.float32], *, seed: int = 0) -> Detector:
    """Fit a detector of `DETECTORS`.

    Args:
        queries: (N, D) embeddings of normal queries, N at least 2.
        passages: (M, D) of the passages that they ask about; not all detectors read them.
        seed: of those that draw random numbers.
    """
    return Detector(name, DETECTORS[name][0](unit(queries), unit(passages), seed))


def score(embeddings: NDArray[np.float32], detector: Detector) -> NDArray[np.float64]:
    """(Q,) how far each of (Q, D) embeddings lies apart from the normal ones; comparable for one detector only."""
    return DETECTORS[detector.name][1](unit(embeddings), dict(detector.arrays))


def unit(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale embeddings to unit length."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (embeddings / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled


def _fit_mahalanobis(queries: NDArray[np.float32], passages: NDArray[np.float32], seed: int) -> Arrays:
    from sklearn.covariance import LedoitWolf

    estimate = LedoitWolf().fit(queries.astype(np.float64))
    return {
        "mean": estimate.location_.astype(np.float32),
        "whitening": np.linalg.cholesky(estimate.precision_).astype(np.float32),
    }


def _mahalanobis(embeddings: NDArray[np.float32], arrays: Arrays) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.square(
        (embeddings - arrays["mean"]) @ arrays["whitening"], dtype=np.float64
    ).sum(axis=1)
    return distances


def _fit_nearest(queries: NDArray[np.float32], passages: NDArray[np.float32], seed: int) -> Arrays:
    return {"queries": queries, "passages": passages}


def _nearest(embeddings: NDArray[np.float32], arrays: Arrays) -> NDArray[np.float64]:
    """1 - the mean of the similarity to the nearest queries and of that to the nearest passage."""
    to_queries = _top(embeddings, arrays["queries"], NEIGHBOURS)
    to_passages = _top(embeddings, arrays["passages"], 1)
    return 1.0 - (to_queries + to_passages) / 2


def _nearest_queries(embeddings: NDArray[np.float32], arrays: Arrays) -> NDArray[np.float64]:
    return 1.0 - _top(embeddings, arrays["queries"], NEIGHBOURS)


def _nearest_passages(embeddings: NDArray[np.float32], arrays: Arrays) -> NDArray[np.float64]:
    return 1.0 - _top(embeddings, arrays["passages"], 1)


def _top(embeddings: NDArray[np.float32], among: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """The mean similarity to the `count` most similar ones, (Q,)."""
    count = min(count, len(among))
    found = [np.empty(0)]
    for start in range(0, len(embeddings), _BLOCK):
        similar = embeddings[start : start + _BLOCK] @ among.T
        nearest = np.partition(similar, len(among) - count, axis=1)[:, len(among) - count :]
        found.append(nearest.mean(axis=1, dtype=np.float64))
    return np.concatenate(found)


def _fit_components(queries: NDArray[np.float32], passages: NDArray[np.float32], seed: int) -> Arrays:
    mean = queries.mean(axis=0)
    _, sizes, directions = np.linalg.svd(queries - mean, full_matrices=False)
    shares = np.cumsum(sizes**2) / max(float((sizes**2).sum()), 1e-12)
    kept = int(np.searchsorted(shares, KEPT_VARIANCE)) + 1
    return {"mean": mean, "directions": directions[:kept].astype(np.float32)}


def _components(embeddings: NDArray[np.float32], arrays: Arrays) -> NDArray[np.float64]:
    centred = embeddings - arrays["mean"]
    within = centred @ arrays["directions"].T
    left: NDArray[np.float64] = np.square(centred - within @ arrays["directions"], dtype=np.float64).sum(axis=1)
    return left


def _fit_local(queries: NDArray[np.float32], passages: NDArray[np.float32], seed: int) -> Arrays:
    from sklearn.neighbors import LocalOutlierFactor

    neighbours = min(OUTLIER_NEIGHBOURS, len(queries) - 1)
    fitted = LocalOutlierFactor(n_neighbors=neighbours, novelty=True).fit(queries)
    reach = fitted._distances_fit_X_[:, -1]
    return {
        "queries": queries,
        "reach": reach.astype(np.float32),
        "density": fitted._lrd.astype(np.float32),
        "neighbours": np.array(neighbours, np.float32),
    }


def _local(embeddings: NDArray[np.float32], arrays: Arrays) -> NDArray[np.float64]:
    """The local outlier factor of Breunig et al. 2000 of new points."""
    count, found = int(arrays["neighbours"]), [np.empty(0)]
    for start in range(0, len(embeddings), _BLOCK):
        block = embeddings[start : start + _BLOCK].astype(np.float64)
        squares = 2.0 - 2.0 * block @ arrays["queries"].T.astype(np.float64)
        nearest = np.argpartition(squares, count - 1, axis=1)[:, :count]
        distances = np.sqrt(np.maximum(np.take_along_axis(squares, nearest, axis=1), 0.0))
        reached = np.maximum(distances, arrays["reach"][nearest])
        density = 1.0 / (reached.mean(axis=1) + 1e-10)
        found.append((arrays["density"][nearest] / density[:, np.newaxis]).mean(axis=1))
    return np.concatenate(found)


DETECTORS: dict[str, tuple[Fit, Score]] = {
    "nearest": (_fit_nearest, _nearest),
    "nearest-queries": (lambda queries, passages, seed: {"queries": queries}, _nearest_queries),
    "nearest-passages": (lambda queries, passages, seed: {"passages": passages}, _nearest_passages),
    "mahalanobis": (_fit_mahalanobis, _mahalanobis),
    "components": (_fit_components, _components),
    "autoencoder": (lambda queries, passages, seed: autoencoder.fit(queries, seed=seed), autoencoder.score),
    "outlier-factor": (_fit_local, _local),
    "forest": (lambda queries, passages, seed: forest.fit(queries, seed=seed), forest.score),
}
"""Detectors by name: what fits one, and what scores by it."""
