"""The intervals: by hand, against SciPy, by their symmetries, and by how often they are right."""

import dataclasses
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from nic_ray import statistics
from nic_ray.statistics import MIN_PASSAGES, Interval, lower_bound, paired_intervals, standard_error

DOMAINS = 6
MANY = 160_000  # ends of a 90 % interval then differ from seed to seed by 0.23 % of its width


def some_rows(seed=0, domains=3, passages=12):
    """(a, b, passages, domains) in random order: 1 to 9 queries a passage, scores that no float holds exactly."""
    random = np.random.default_rng(seed)
    passage = random.permutation(np.repeat(np.arange(domains * passages), random.integers(1, 10, domains * passages)))
    own = random.normal(size=domains * passages)[passage]
    a, b = (random.integers(0, 4, len(passage)) / 3 + weight * own for weight in (0.6, 0.4))
    return a, b, passage, [f"domain {number % domains}" for number in passage]


def sums_and_counts(values, passages):
    """(P,) and (P,), as loops."""
    own = [
        [value for value, passage in zip(values, passages, strict=True) if passage == p] for p in sorted({*passages})
    ]
    return np.array([sum(each) for each in own]), np.array([float(len(each)) for each in own])


def in_domain(name, rows):
    a, b, passages, domains = rows
    own = np.array(domains) == name
    return a[own] - b[own], passages[own]


cases = st.builds(some_rows, st.integers(0, 2**32), st.integers(1, 3), st.integers(MIN_PASSAGES, 10))


def test_hand_worked_differences_and_counts():
    a = np.array([1.0, 0.5, 0.0, 1.0, 1.0])
    b = np.array([0.0, 0.5, 1.0, 0.0, 0.5])
    found = paired_intervals(a, b, np.array([7, 7, 3, 7, 9]), ["hvac", "hvac", "hvac", "radar", "radar"], seed=0)
    assert found == {
        "hvac": Interval((1 + 0 - 1) / 3, None, None, queries=3, passages=2),
        "radar": Interval((1 + 0.5) / 2, None, None, queries=2, passages=2),
        "macro": Interval((0 + 0.75) / 2, None, None, queries=5, passages=4),
    }
    assert list(found) == ["hvac", "radar", "macro"]


def test_an_interval_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Interval(0.0, None, None, 1, 1).low = 0.0


def test_two_passages_in_each_of_four_domains_make_sixteen_outcomes():
    # one of two passages is drawn: a domain's mean is 0 or 1, and the macro mean k / 4 in 1, 4, 6, 4, 1 of 16 cases
    a, passages = np.array([0.0, 1.0] * 4), np.arange(8)
    domains = [name for name in "abcd" for _ in range(2)]
    for confidence, low, high in [(0.95, 0, 1), (0.80, 0.25, 0.75), (0.30, 0.5, 0.5)]:
        macro = paired_intervals(a, 0 * a, passages, domains, confidence=confidence, seed=0)["macro"]
        assert (macro.difference, macro.low, macro.high) == (0.5, low, high)
    # variance of a fair coin, over four of them
    assert standard_error(a, passages, domains, seed=0) == pytest.approx(math.sqrt(0.25 / 4), rel=0.02)


def test_the_means_drawn_are_those_of_every_draw_of_all_but_one():
    sums, counts = np.array([3.0, 0.0, -1.0, 2.0]), np.array([3, 1, 2, 2])
    group = statistics._Passages(sums, counts)
    drawn = statistics._resampled_means({"a": group}, 64_000, seed=0)["macro"]
    chosen = np.array(list(itertools.product(range(4), repeat=3)))
    outcomes, cases = np.unique((sums[chosen].sum(1) / counts[chosen].sum(1)).round(9), return_counts=True)
    found, times = np.unique(drawn.round(9), return_counts=True)
    assert found.tolist() == outcomes.tolist()
    assert np.abs(times - 1000 * cases).max() < 5 * math.sqrt(1000 * cases.max())


def all_but_one(chosen, axis):
    """SciPy draws as many passages as there are; all are alike, so that the first may be left out."""
    assert axis in (-1, chosen.ndim - 1)
    return chosen[..., 1:].sum(axis=-1)


@pytest.mark.parametrize("seed", range(2))
def test_a_domain_agrees_with_scipy(seed):
    rows = some_rows(seed)
    found = paired_intervals(*rows, confidence=0.9, resamples=MANY, seed=seed)
    for name in sorted(set(rows[3])):
        reference = bootstrap(
            sums_and_counts(*in_domain(name, rows)),
            lambda sums, counts, axis: all_but_one(sums, axis) / all_but_one(counts, axis),
            paired=True,
            vectorized=True,
            method="percentile",
            confidence_level=0.9,
            n_resamples=MANY,
            batch=10_000,
            rng=np.random.default_rng(seed),
        )
        expected = reference.confidence_interval
        assert [found[name].low, found[name].high] == pytest.approx([*expected], abs=0.01 * np.ptp(expected))


@pytest.mark.parametrize("seed", range(2))
def test_the_macro_mean_agrees_with_scipy(seed):
    rows = some_rows(seed)
    groups = [sums_and_counts(*in_domain(name, rows)) for name in sorted(set(rows[3]))]

    def macro(*chosen, axis):
        assert axis in (-1, chosen[0].ndim - 1)
        means = [
            all_but_one(sums[own], axis) / all_but_one(counts[own], axis)
            for (sums, counts), own in zip(groups, chosen, strict=True)
        ]
        return np.mean(means, axis=0)

    reference = bootstrap(
        [np.arange(len(sums)) for sums, _ in groups],
        macro,
        vectorized=True,
        method="percentile",
        confidence_level=0.9,
        n_resamples=MANY,
        batch=10_000,
        rng=np.random.default_rng(seed),
    )
    expected = reference.confidence_interval
    found = paired_intervals(*rows, confidence=0.9, resamples=MANY, seed=seed)["macro"]
    assert [found.low, found.high] == pytest.approx([*expected], abs=0.01 * np.ptp(expected))
    error = standard_error(rows[0] - rows[1], rows[2], rows[3], resamples=MANY, seed=seed)
    assert error == pytest.approx(reference.standard_error, rel=0.01)


def test_the_standard_error_is_that_of_independent_passages():
    # equally many queries a passage: a domain's mean is the mean of its passages' means
    random = np.random.default_rng(0)
    of_passage = random.normal(size=(DOMAINS, 10))
    scores = (of_passage[:, :, None] + random.normal(size=(1, 1, 4))).ravel()
    passages = np.repeat(np.arange(DOMAINS * 10), 4)
    domains = [f"domain {passage // 10}" for passage in passages]
    expected = math.sqrt((of_passage.var(axis=1, ddof=1) / 10).sum()) / DOMAINS
    assert standard_error(scores, passages, domains, resamples=40_000, seed=0) == pytest.approx(expected, rel=0.015)


def test_a_standard_error_of_two_resamples_is_their_distance_over_the_root_of_two():
    scores, _, passages, domains = some_rows()
    drawn = statistics._resampled_means(statistics._by_domain(scores, passages, domains), 2, seed=0)["macro"]
    expected = abs(drawn[0] - drawn[1]) / math.sqrt(2)
    assert standard_error(scores, passages, domains, resamples=2, seed=0) == pytest.approx(expected)


@pytest.mark.parametrize("difference", [0.0, 0.1, -1 / 3])
def test_a_constant_difference_is_certain(difference):
    _, b, passages, domains = some_rows()
    found = paired_intervals(np.full(len(b), 0.5 + difference), np.full(len(b), 0.5), passages, domains, seed=0)
    for interval in found.values():
        assert [interval.low, interval.high, interval.difference] == pytest.approx([difference] * 3, abs=1e-12)
    assert standard_error(np.ones(len(b)), passages, domains, seed=0) == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=25)
@given(cases, st.integers(0, 2**32), st.floats(-2, 2))
def test_a_constant_moves_an_interval_as_it_is(rows, seed, constant):
    a, b, passages, domains = rows
    found = paired_intervals(a + constant, b, passages, domains, resamples=99, seed=seed)
    for name, interval in paired_intervals(*rows, resamples=99, seed=seed).items():
        moved = [interval.low + constant, interval.high + constant]
        assert [found[name].low, found[name].high] == pytest.approx(moved, abs=1e-12)


@settings(max_examples=25)
@given(cases, st.integers(0, 2**32))
def test_exchanged_models_mirror_an_interval_to_the_last_bit(rows, seed):
    a, b, passages, domains = rows
    found = paired_intervals(b, a, passages, domains, resamples=99, seed=seed)
    for name, interval in paired_intervals(*rows, resamples=99, seed=seed).items():
        mirrored = dataclasses.replace(
            interval, difference=-interval.difference, low=-interval.high, high=-interval.low
        )
        assert found[name] == mirrored


@settings(max_examples=25)
@given(cases, st.integers(0, 2**32))
def test_the_order_of_the_rows_changes_not_one_bit(rows, seed):
    order = np.random.default_rng(seed).permutation(len(rows[0]))
    shuffled = [np.array(column)[order] for column in rows]
    assert paired_intervals(*shuffled, resamples=99, seed=seed) == paired_intervals(*rows, resamples=99, seed=seed)
    errors = [
        standard_error(a, passages, domains, resamples=99, seed=seed) for a, _, passages, domains in (shuffled, rows)
    ]
    assert errors[0] == errors[1]


@given(cases, st.integers(0, 2**32))
@settings(max_examples=25)
def test_a_domain_is_judged_as_if_it_were_alone(rows, seed):
    a, b, passages, domains = rows
    found = paired_intervals(*rows, resamples=99, seed=seed)
    for name in set(domains):
        own = np.array(domains) == name
        alone = paired_intervals(a[own], b[own], passages[own], [name] * own.sum(), resamples=99, seed=seed)
        assert found[name] == alone[name] == alone["macro"]


def test_the_seed_decides_the_numbers():
    rows = some_rows()
    macro = [paired_intervals(*rows, resamples=999, seed=seed)["macro"] for seed in (0, 0, 1)]
    assert macro[0] == macro[1]
    assert macro[1].low != macro[2].low


def test_another_process_finds_the_same_numbers():
    code = (
        "import numpy as np\n"
        "from nic_ray.statistics import paired_intervals\n"
        "print(paired_intervals(np.arange(9.0), np.zeros(9), np.arange(9), ['a'] * 9, resamples=99, seed=0))"
    )
    here = paired_intervals(np.arange(9.0), np.zeros(9), np.arange(9), ["a"] * 9, resamples=99, seed=0)
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert there.stdout.strip() == str(here)


@pytest.mark.parametrize("draws", [1, 12, 11 * 98, 11 * 99])
def test_the_size_of_a_block_changes_nothing(monkeypatch, draws):
    rows = some_rows()
    whole = paired_intervals(*rows, resamples=99, seed=0)
    monkeypatch.setattr(statistics, "_BLOCK_DRAWS", draws)
    assert paired_intervals(*rows, resamples=99, seed=0) == whole


def test_more_confidence_makes_a_wider_interval():
    found = [paired_intervals(*some_rows(), confidence=confidence, seed=0)["macro"] for confidence in (0.8, 0.95, 0.99)]
    lows, highs = [each.low for each in found], [each.high for each in found]
    assert lows == sorted(set(lows), reverse=True)
    assert highs == sorted(set(highs))


def test_a_bound_is_the_end_of_the_interval_that_leaves_as_much_out_below():
    rows = some_rows()
    for one_sided, both_sides in [(0.975, 0.95), (0.99, 0.98)]:
        interval = paired_intervals(*rows, confidence=both_sides, seed=0)["macro"]
        assert lower_bound(*rows, confidence=one_sided, seed=0) == pytest.approx(interval.low, abs=1e-9)
    # the share of the bootstrapped means below the bound, by their definition
    a, b, passages, domains = rows
    groups = statistics._by_domain(a - b, passages, domains)
    drawn = statistics._resampled_means(groups, 9_999, seed=0)["macro"]
    assert np.mean(drawn < lower_bound(*rows, confidence=0.99, seed=0)) == pytest.approx(0.01, abs=2e-4)


def test_a_domain_of_few_passages_has_no_interval_and_counts_all_the_same():
    a, b, passages, domains = some_rows(domains=2, passages=MIN_PASSAGES)
    kept = np.isin(passages, np.unique(passages)[:-1])  # the last belongs to domain 1
    rows = a[kept], b[kept], passages[kept], np.array(domains)[kept].tolist()
    found = paired_intervals(*rows, seed=0)
    assert (found["domain 1"].low, found["domain 1"].high) == (None, None)
    assert found["domain 1"].passages == MIN_PASSAGES - 1
    assert found["domain 0"].low < found["domain 0"].difference < found["domain 0"].high
    both = [found[f"domain {number}"].difference for number in (0, 1)]
    assert found["macro"].difference == pytest.approx(sum(both) / 2)
    # half the error of each domain, at right angles: wider than if the small one were certain
    certain = np.where(np.array(rows[3]) == "domain 1", 0.0, rows[0] - rows[1])
    errors = [standard_error(values, rows[2], rows[3], seed=0) for values in (rows[0] - rows[1], certain)]
    narrow = paired_intervals(certain, 0 * certain, rows[2], rows[3], seed=0)["macro"]
    widths = [interval.high - interval.low for interval in (found["macro"], narrow)]
    assert widths[0] / widths[1] == pytest.approx(errors[0] / errors[1], rel=0.1)
    assert errors[0] > 1.05 * errors[1]


def test_too_few_passages_in_all_give_no_macro_interval():
    passages = np.arange(MIN_PASSAGES - 1)
    scores = passages / 10
    domains = ["a"] * 4 + ["b"] * (MIN_PASSAGES - 5)
    found = paired_intervals(scores, 0 * scores, passages, domains, seed=0)
    assert [each.low for each in found.values()] == [None] * 3
    assert lower_bound(scores, 0 * scores, passages, domains, confidence=0.99, seed=0) is None
    enough = np.append(passages, MIN_PASSAGES)
    found = paired_intervals(enough / 10, 0 * enough, enough, [*domains, "b"], seed=0)
    assert found["macro"].low is not None


def test_a_domain_of_one_passage_is_not_taken_for_certain():
    passages = np.array([*range(20), 20, 20, 20])
    scores = np.random.default_rng(0).random(len(passages))
    domains = ["a"] * 20 + ["b"] * 3
    found = paired_intervals(scores, 0 * scores, passages, domains, seed=0)
    assert found["a"].low is not None
    assert (found["macro"].low, found["macro"].high) == (None, None)
    assert found["macro"].difference == pytest.approx((scores[:20].mean() + scores[20:].mean()) / 2)
    assert standard_error(scores, passages, domains, seed=0) is None


def test_a_passage_of_two_domains_counts_in_each():
    passages = np.array([0, 1, 0, 2])
    found = paired_intervals(np.ones(4), np.zeros(4), passages, ["a", "a", "b", "b"], seed=0)
    assert [each.passages for each in found.values()] == [2, 2, 4]


def drawn_difference(random, passages=10, queries=10):
    """(a, b, passages, domains) of two models on 6 domains: hits that depend on how hard the passage is.

    Both find a passage's answers as often as its ease says, but for luck and a liking of one model that is random
    a passage; the passages are a sample too. The true difference is 0.
    """
    shape = (DOMAINS, passages, 1)
    ease, liking = random.normal(0.6, 1.5, shape), random.normal(0.0, 0.7, shape)
    a, b = (
        (random.random((DOMAINS, passages, queries)) < 1 / (1 + np.exp(-ease - sign * liking))).astype(float)
        for sign in (1, -1)
    )
    exchanged = random.random(shape) < 0.5
    a, b = np.where(exchanged, b, a), np.where(exchanged, a, b)
    number = np.broadcast_to(np.arange(DOMAINS * passages).reshape(shape), a.shape).ravel()
    return a.ravel(), b.ravel(), number, [f"domain {passage // passages}" for passage in number]


def test_equal_models_differ_for_certain_in_one_comparison_of_twenty():
    random = np.random.default_rng(0)
    macro = [paired_intervals(*drawn_difference(random), resamples=499, seed=seed)["macro"] for seed in range(1000)]
    above, below = (np.mean([zero(each) for each in macro]) for zero in (lambda i: i.low > 0, lambda i: i.high < 0))
    assert 0.03 < above + below < 0.08
    assert min(above, below) > 0.01


def test_intervals_hold_the_truth_by_passage_and_miss_it_by_query():
    random = np.random.default_rng(1)
    held = {"by passage": 0, "by query": 0}
    for seed in range(300):
        a, b, passages, domains = drawn_difference(random)
        for way, clusters in (("by passage", passages), ("by query", np.arange(len(a)))):
            macro = paired_intervals(a + 0.2, b, clusters, domains, resamples=299, seed=seed)["macro"]
            held[way] += macro.low <= 0.2 <= macro.high
    assert 0.91 < held["by passage"] / 300 < 0.98
    assert held["by query"] / 300 < 0.85


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"a": np.ones(3)}, r"got a \(3,\), b \(2,\), passages \(2,\) and 2 domains"),
        ({"b": np.ones(1)}, r"got a \(2,\), b \(1,\), passages \(2,\) and 2 domains"),
        ({"a": np.ones((2, 1))}, r"got a \(2, 1\), b"),
        ({"passages": np.arange(3)}, r"passages \(3,\) and 2 domains"),
        ({"domains": ["a"]}, r"passages \(2,\) and 1 domains"),
        ({"a": np.ones(0), "b": np.ones(0), "passages": np.arange(0), "domains": []}, r"passages \(0,\) and 0 domains"),
        ({"a": np.array([1.0, np.nan])}, "a must be finite, 1 of 2 scores are not"),
        ({"b": np.array([np.inf, np.nan])}, "b must be finite, 2 of 2 scores are not"),
        ({"confidence": 0.0}, r"confidence must be > 0 and < 1, got 0\.0"),
        ({"confidence": 95}, r"confidence must be > 0 and < 1, got 95"),
        ({"confidence": math.nan}, r"confidence must be > 0 and < 1, got nan"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    given = {"a": np.ones(2), "b": np.ones(2), "passages": np.arange(2), "domains": ["a", "a"], "seed": 0}
    with pytest.raises(ValueError, match=message):
        paired_intervals(**given | changed)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 99])
def test_a_bound_that_is_none_is_refused(confidence):
    with pytest.raises(ValueError, match=r"one-sided confidence must be > 0\.5 and < 1, got"):
        lower_bound(*some_rows(), confidence=confidence, seed=0)


def test_a_standard_error_of_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"got scores \(3,\), passages \(2,\) and 2 domains"):
        standard_error(np.ones(3), np.arange(2), ["a", "a"], seed=0)
    with pytest.raises(ValueError, match="scores must be finite, 1 of 2 scores are not"):
        standard_error(np.array([1.0, np.nan]), np.arange(2), ["a", "a"], seed=0)
    with pytest.raises(ValueError, match="a standard error needs 2 resamples, got 1"):
        standard_error(np.ones(2), np.arange(2), ["a", "a"], resamples=1, seed=0)
