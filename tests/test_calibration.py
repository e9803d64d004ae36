"""The chance that a first hit answers: by hand, against scikit-learn, and by the property that it is calibrated."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from nic_ray.metrics.calibration import (
    Calibration,
    FirstHits,
    brier_score,
    calibrate,
    chances_of,
    first_hits,
    reliability,
)


def drawn(seed, queries=400):
    """First hits that are right with a chance that is the square of their score."""
    random = np.random.default_rng(seed)
    scores = random.uniform(size=queries)
    return FirstHits(scores, random.uniform(size=queries) < scores**2, scores - 0.25)


def test_first_hits_by_hand():
    scores = np.array([[0.9, 0.8, 0.1], [0.9, 0.8, 0.1], [0.7, 0.7, 0.1], [0.9, 0.8, 0.1]])
    relevant = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=bool)
    ignored = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
    found = first_hits(scores, relevant, ignored)
    assert found.scores.tolist() == [0.9, 0.9, 0.7, 0.8]
    assert found.right.tolist() == [True, False, False, True]  # a tie counts against the model
    assert found.without_answer.tolist() == [0.8, 0.9, 0.7, 0.1]


@pytest.mark.parametrize("seed", range(5))
def test_chances_are_those_of_scikit_learn(seed):
    hits = drawn(seed)
    # one more query at either end
    scores = np.append(hits.scores, [hits.scores.min(), hits.scores.max()])
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, np.append(hits.right, [True, False]))
    asked = np.linspace(-0.5, 1.5, 301)
    np.testing.assert_allclose(chances_of(calibrate(hits), asked), theirs.predict(asked), atol=1e-12)


def test_equal_scores_have_the_chance_of_what_came_true_of_them():
    random = np.random.default_rng(0)
    scores = random.choice([0.5, 1.0, 2.0], size=300)
    hits = FirstHits(scores, random.uniform(size=300) < 0.4 * scores, scores)
    calibration = calibrate(hits)
    # at the ends with one query more: at the lowest score a right one, at the highest a wrong one
    for score, right, more in ((0.5, 1, 1), (1.0, 0, 0), (2.0, 0, 1)):
        own = hits.right[scores == score]
        expected = (own.sum() + right) / (len(own) + more)
        assert chances_of(calibration, np.array([score]))[0] == pytest.approx(expected)


def test_a_few_queries_that_came_out_alike_at_an_end_are_not_called_certain():
    scores, right = np.arange(10.0), np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1], dtype=bool)
    chances = chances_of(calibrate(FirstHits(scores, right, scores)), np.array([0.0, 2.0, 7.0, 9.0]))
    assert chances.tolist() == [0.25, 0.25, 0.75, 0.75]  # three wrong ones and a right one; three right and a wrong one
    (one,) = chances_of(calibrate(FirstHits(np.ones(3), np.ones(3, dtype=bool), np.ones(3))), np.ones(1))
    assert one == 4 / 5  # of a single score both ends are the same


@pytest.mark.parametrize("queries", [40, 400, 4000])
def test_caution_at_the_ends_costs_no_brier_score_on_other_queries(queries):
    certain, cautious = [], []
    for seed in range(20):
        hits, other = drawn(seed, queries), drawn(100 + seed, 4000)
        plain = IsotonicRegression(out_of_bounds="clip").fit(hits.scores, hits.right)
        assert set(plain.predict([0.0, 1.0])) & {0.0, 1.0}
        certain.append(brier_score(plain.predict(other.scores), other.right))
        chances = chances_of(calibrate(hits), other.scores)
        assert chances.min() > 0
        assert chances.max() < 1
        cautious.append(brier_score(chances, other.right))
    assert np.mean(cautious) <= np.mean(certain)


def test_chances_hold_on_other_queries_and_never_fall():
    calibration, other = calibrate(drawn(0, 4000)), drawn(1, 4000)
    chances = chances_of(calibration, other.scores)
    for stated, came_true, queries in reliability(chances, other.right):
        assert queries == 400
        assert came_true == pytest.approx(stated, abs=0.08)
    assert list(calibration.chances) == sorted(calibration.chances)
    assert brier_score(chances, other.right) == pytest.approx(brier_score_loss(other.right, chances))
    assert brier_score(chances, other.right) < brier_score(np.full(4000, other.right.mean()), other.right)


def test_the_threshold_leaves_one_right_first_hit_in_twenty_below():
    hits = drawn(0, 4000)
    below = hits.scores[hits.right] < calibrate(hits).threshold
    assert below.mean() == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize("right", [False, True])
def test_a_model_that_is_always_or_never_right_has_one_chance(right):
    hits = FirstHits(np.array([0.5, 0.25, 0.75]), np.full(3, right), np.zeros(3))
    calibration = calibrate(hits)
    assert calibration.scores == (0.25, 0.75)
    assert chances_of(calibration, np.array([0.0, 0.6, 1.0])).tolist() == pytest.approx([0.8 if right else 0.2] * 3)
    assert calibration.threshold == (pytest.approx(0.275) if right else 0.75)


def test_between_two_scores_the_chance_is_interpolated():
    calibration = Calibration((0.25, 0.75), (0.0, 1.0), 0.5)
    assert chances_of(calibration, np.array([0.0, 0.375, 0.75, 2.0])).tolist() == [0.0, 0.25, 1.0, 1.0]
