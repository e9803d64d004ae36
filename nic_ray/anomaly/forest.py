"""An isolation forest as plain arrays: fitted by scikit-learn, stored and read without it."""

import numpy as np
from numpy.typing import NDArray

TREES = 100


def fit(embeddings: NDArray[np.float32], *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Fit a forest by scikit-learn, and take its trees as arrays.

    Returns:
        "left" and "right": (trees, nodes) child of each node, itself at a leaf; "feature" and "threshold": what a node
        splits by; "depth": at a leaf, its depth with the expected depth of the samples that it holds; "normal": ().
    """
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(embeddings)
    nodes = max(each.tree_.node_count for each in forest.estimators_)
    arrays = {name: np.zeros((TREES, nodes), np.float32) for name in ("left", "right", "feature", "threshold", "depth")}
    for number, (each, columns) in enumerate(zip(forest.estimators_, forest.estimators_features_, strict=True)):
        tree = each.tree_
        places, leaf = np.arange(tree.node_count), tree.children_left < 0
        arrays["left"][number, places] = np.where(leaf, places, tree.children_left)
        arrays["right"][number, places] = np.where(leaf, places, tree.children_right)
        arrays["feature"][number, places] = np.where(leaf, 0, columns[tree.feature])
        arrays["threshold"][number, places] = np.where(leaf, 0, tree.threshold)
        depth = np.zeros(tree.node_count)
        for place in np.flatnonzero(~leaf).tolist():  # children come after their parents
            depth[[tree.children_left[place], tree.children_right[place]]] = depth[place] + 1
        arrays["depth"][number, places] = depth + _expected_depth(tree.n_node_samples)
    return arrays | {"normal": np.array(TREES * _expected_depth(np.array([forest.max_samples_]))[0], np.float32)}


def score(embeddings: NDArray[np.float32], forest: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """(Q,) the anomaly score of Liu, Ting and Zhou 2008, in (0, 1); higher where fewer splits isolate a point."""
    left, right = forest["left"].astype(np.int64), forest["right"].astype(np.int64)
    feature = forest["feature"].astype(np.int64)
    rows = np.arange(len(embeddings))[:, np.newaxis]
    trees = np.arange(len(left))[np.newaxis, :]
    node = np.zeros((len(embeddings), len(left)), np.int64)
    while True:
        below = embeddings[rows, feature[trees, node]] <= forest["threshold"][trees, node]
        following = np.where(below, left[trees, node], right[trees, node])
        if (following == node).all():
            break
        node = following
    depths: NDArray[np.float64] = forest["depth"][trees, node].sum(axis=1, dtype=np.float64)
    result: NDArray[np.float64] = 2.0 ** (-depths / float(forest["normal"]))
    return result


def _expected_depth(samples: NDArray[np.integer]) -> NDArray[np.float64]:
    """The mean depth of an unsuccessful search in a binary tree of so many samples."""
    many = np.maximum(samples, 3).astype(np.float64)
    depth = 2.0 * (np.log(many - 1.0) + np.euler_gamma) - 2.0 * (many - 1.0) / many
    return np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, depth))
