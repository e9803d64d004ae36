"""Drift of a log: bands against the binomial distribution, and the words that flagged queries share."""

import math

import numpy as np
import pytest

from nic_ray.anomaly.drift import bands, common_words


def test_a_window_within_chance_is_no_drift_and_one_beyond_is():
    quiet, loud = np.zeros(200, bool), np.zeros(200, bool)
    quiet[::20], loud[::5] = True, True  # 10 and 40 of 200
    found = bands(np.concatenate([quiet, loud]), 0.05)
    assert [(band.first, band.queries, band.flagged, band.drifts) for band in found] == [
        (1, 200, 10, False),
        (201, 200, 40, True),
    ]


def test_the_band_is_that_of_the_binomial_distribution_divided_among_the_windows():
    def at_most(count: int, of: int, share: float) -> float:
        return sum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(count + 1))

    (band,) = bands(np.zeros(100, bool), 0.05, confidence=0.99)
    assert at_most(band.high, 100, 0.05) >= 0.995 > at_most(band.high - 1, 100, 0.05)
    two = bands(np.zeros(400, bool), 0.05, confidence=0.99)
    assert at_most(two[0].high, 200, 0.05) >= 0.9975 > at_most(two[0].high - 1, 200, 0.05)


@pytest.mark.parametrize(("queries", "sizes"), [(0, []), (1, [1]), (299, [299]), (300, [200, 100]), (460, [200, 260])])
def test_a_small_remainder_is_counted_with_the_window_before_it(queries, sizes):
    assert [band.queries for band in bands(np.zeros(queries, bool), 0.05)] == sizes


def test_without_drift_hardly_any_log_leaves_its_bands():
    rng = np.random.default_rng(0)
    alarms = [any(band.drifts for band in bands(rng.random(1000) < 0.05, 0.05)) for _ in range(600)]
    assert np.mean(alarms) <= 0.02


def test_words_of_flagged_queries_are_named_with_their_counts():
    texts = ["reset the router now", "Router is slow", "the router again", "the pump leaks", "the pump hums", "a belt"]
    flags = np.array([True, True, True, False, False, False])
    assert common_words(texts, flags) == [("router", 3, 0)]  # "the" is as frequent among the others
