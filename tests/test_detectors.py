"""Detectors of embeddings: by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from nic_ray.anomaly import autoencoder, detectors
from nic_ray.anomaly.detectors import DETECTORS, fit, score, unit


def cloud(count: int, *, seed: int, width: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(count, width)) * np.linspace(0.1, 1.0, width) + np.eye(width)[-1] * 2)


NORMAL, PASSAGES, NEW = cloud(300, seed=0), cloud(40, seed=1), cloud(25, seed=2)


@pytest.mark.parametrize("name", [*DETECTORS])
def test_what_lies_on_the_other_side_is_more_abnormal_than_what_lies_among_the_normal_ones(name):
    # principal components leave as much of the mirror image of a point as of the point
    apart = unit(NEW + np.eye(8)[0] * 2) if name == "components" else -NEW
    fitted = fit(name, NORMAL, PASSAGES)
    assert np.median(score(apart, fitted)) > np.quantile(score(NEW, fitted), 0.95)


@pytest.mark.parametrize("name", [*DETECTORS])
def test_the_same_seed_gives_the_same_bits_and_the_length_of_an_embedding_counts_for_nothing(name):
    one, two = fit(name, NORMAL, PASSAGES, seed=3), fit(name, NORMAL, PASSAGES, seed=3)
    assert all((values == two.arrays[key]).all() for key, values in one.arrays.items())
    assert score(NEW * 7, one) == pytest.approx(score(NEW, one), rel=1e-4)


def test_the_mahalanobis_distance_is_that_of_ledoit_and_wolf():
    estimate = LedoitWolf().fit(NORMAL)
    assert score(NEW, fit("mahalanobis", NORMAL, PASSAGES)) == pytest.approx(estimate.mahalanobis(NEW), rel=1e-3)


def test_the_isolation_forest_is_that_of_scikit_learn():
    reference = IsolationForest(n_estimators=100, random_state=5).fit(NORMAL)
    assert score(NEW, fit("forest", NORMAL, PASSAGES, seed=5)) == pytest.approx(-reference.score_samples(NEW), abs=1e-6)


def test_the_local_outlier_factor_is_that_of_scikit_learn():
    reference = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(NORMAL)
    assert score(NEW, fit("outlier-factor", NORMAL, PASSAGES)) == pytest.approx(-reference.score_samples(NEW), rel=1e-3)


def test_what_the_principal_components_leave_is_what_scikit_learn_leaves():
    reference = PCA(n_components=detectors.KEPT_VARIANCE, svd_solver="full").fit(NORMAL)
    left = ((NEW - reference.inverse_transform(reference.transform(NEW))) ** 2).sum(axis=1)
    assert score(NEW, fit("components", NORMAL, PASSAGES)) == pytest.approx(left, abs=1e-5)


def test_the_nearest_are_three_questions_and_a_passage():
    queries = unit(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    passages = unit(np.array([[0.0, 1.0], [0.6, 0.8]]))
    new = np.array([[1.0, 0.0], [0.0, 1.0]])
    # (1 + 0.6) / 2 of the first; of the second (1 + 0 + 0) / 3 and 1
    found = score(new, fit("nearest", queries, passages))
    assert found == pytest.approx([1 - (1 + 0.6) / 2, 1 - (1 / 3 + 1) / 2])


def test_the_autoencoder_has_the_widths_of_the_plan_and_reproduces_what_it_was_trained_on():
    weights = autoencoder.fit(cloud(200, seed=4, width=20), seed=0)
    shapes = [weights[f"weight_{number}"].shape for number in range(4)]
    assert shapes == [(128, 20), (64, 128), (128, 64), (20, 128)]
    own, apart = cloud(200, seed=4, width=20), -cloud(200, seed=5, width=20)
    assert np.mean(autoencoder.score(own, weights)) < 0.2 * np.mean(autoencoder.score(apart, weights))


def test_training_an_autoencoder_leaves_the_random_numbers_of_others_alone():
    import torch

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    autoencoder.fit(NORMAL, seed=9, epochs=1)
    assert torch.rand(3).tolist() == expected.tolist()
