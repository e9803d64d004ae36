"""Neighbours of texts: by hand, against scikit-learn, and where a model has not moved."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from nic_ray.metrics import neighbours
from nic_ray.metrics.neighbours import nearest_neighbours, share_kept


@pytest.mark.parametrize("block", [7, 1024])
def test_they_are_those_of_scikit_learn(monkeypatch, block):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    embeddings = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 51)[:, np.newaxis]
    found = nearest_neighbours(embeddings, 5)
    theirs = NearestNeighbors(n_neighbors=6, metric="cosine").fit(embeddings).kneighbors(embeddings)[1]
    expected = [sorted(set(row.tolist()) - {number}) for number, row in enumerate(theirs)]
    assert found.tolist() == expected


def test_of_few_texts_all_others_are_neighbours():
    assert nearest_neighbours(np.eye(3)).tolist() == [[1, 2], [0, 2], [0, 1]]


def test_the_share_is_counted_by_hand():
    assert share_kept(np.array([[1, 2], [0, 3]]), np.array([[1, 3], [2, 4]])) == 0.25
    same = np.array([[1, 2], [0, 2], [0, 1]])
    assert share_kept(same, same) == 1.0


def test_turning_and_stretching_all_texts_alike_moves_nothing():
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(40, 8))
    turned = 3 * embeddings @ np.linalg.qr(random.normal(size=(8, 8)))[0]
    before = nearest_neighbours(embeddings)
    assert share_kept(nearest_neighbours(turned), before) == 1.0
    shares = [
        share_kept(nearest_neighbours(embeddings + noise * random.normal(size=(40, 8))), before)
        for noise in (0.05, 0.5, 5.0)
    ]
    assert shares == sorted(shares, reverse=True)
