"""How far a model has moved from another one: whose texts are still near to which others."""

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10
"""Number of a text's nearest neighbours that are compared."""

_BLOCK = 1024


def nearest_neighbours(embeddings: NDArray[np.floating], k: int = NEIGHBOURS) -> NDArray[np.int64]:
    """Find each text's nearest other texts, by cosine.

    Args:
        embeddings: (n, D), of any length.
        k: number of neighbours; n - 1 at most.

    Returns:
        (n, k) positions, ascending in each row.
    """
    k = min(k, len(embeddings) - 1)
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    found = []
    for start in range(0, len(unit), _BLOCK):  # a block at a time, so that memory grows with n and not with its square
        similar = unit[start : start + _BLOCK] @ unit.T
        similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -np.inf
        found.append(np.sort(np.argpartition(-similar, k - 1, axis=1)[:, :k], axis=1))
    return np.concatenate(found).astype(np.int64)


def share_kept(found: NDArray[np.integer], before: NDArray[np.integer]) -> float:
    """Compute the share of the neighbours before that are neighbours still, in [0, 1].

    Args:
        found: (n, k) from `nearest_neighbours`.
        before: (n, k) likewise, of the same texts by another model.
    """
    same = (found[:, :, np.newaxis] == before[:, np.newaxis, :]).any(axis=2)
    return float(same.mean())
