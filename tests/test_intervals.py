"""The intervals: by hand, against SciPy, by their symmetries, and by how often they are right."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nic_ray.metrics.intervals import MIN_PASSAGES, Interval, lower_bound, paired_intervals, standard_error

DOMAINS = 6


def some_rows(seed=0, domains=3, passages=12):
    """(a, b, passages, domains) in random order: 1 to 9 queries a passage, scores that no float holds exactly."""
    random = np.random.default_rng(seed)
    passage = random.permutation(np.repeat(np.arange(domains * passages), random.integers(1, 10, domains * passages)))
    own = random.normal(size=domains * passages)[passage]
    a, b = (random.integers(0, 4, len(passage)) / 3 + weight * own for weight in (0.6, 0.4))
    return a, b, passage, [f"domain {number % domains}" for number in passage]


def one_query_each(*domains):
    """(a, b, passages, domains) of the given differences, a list a domain, one a passage."""
    names = [f"domain {number}" for number, own in enumerate(domains) for _ in own]
    values = np.array([value for own in domains for value in own], float)
    return values, np.zeros(len(values)), np.arange(len(values)), names


def in_domain(name, rows):
    a, b, passages, domains = rows
    own = np.array(domains) == name
    return a[own] - b[own], passages[own]


cases = st.builds(some_rows, st.integers(0, 2**32), st.integers(1, 3), st.integers(MIN_PASSAGES, 10))


def test_hand_worked_differences_and_counts():
    a = np.array([1.0, 0.5, 0.0, 1.0, 1.0])
    b = np.array([0.0, 0.5, 1.0, 0.0, 0.5])
    found = paired_intervals(a, b, np.array([7, 7, 3, 7, 9]), ["hvac", "hvac", "hvac", "radar", "radar"])
    assert found == {
        "hvac": Interval((1 + 0 - 1) / 3, None, None, queries=3, passages=2),
        "radar": Interval((1 + 0.5) / 2, None, None, queries=2, passages=2),
        "macro": Interval((0 + 0.75) / 2, None, None, queries=5, passages=4),
    }
    assert list(found) == ["hvac", "radar", "macro"]


def test_an_interval_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Interval(0.0, None, None, 1, 1).low = 0.0


def test_a_domain_of_one_query_a_passage_has_students_interval_widened_as_hc3_does():
    values = np.random.default_rng(0).normal(size=11)
    found = paired_intervals(*one_query_each(values), confidence=0.9)["domain 0"]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    reach = (expected.high - expected.low) / 2 * math.sqrt(11 / 10)
    assert [found.low, found.high] == pytest.approx([values.mean() - reach, values.mean() + reach])


def test_the_macro_mean_of_two_domains_has_welchs_interval():
    random = np.random.default_rng(1)
    first, second = random.normal(0, 1, 9), random.normal(0, 3, 20)
    found = paired_intervals(*one_query_each(first, second), confidence=0.9)["macro"]
    # of the sum of two means, as the difference to the second's negative
    expected = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.9)
    assert [found.low, found.high] == pytest.approx([expected.low / 2, expected.high / 2])


def test_a_domain_of_unlike_passages_has_the_jackknifes_interval_with_their_effective_number():
    rows = some_rows(domains=1)
    values, passages = in_domain("domain 0", rows)
    found = paired_intervals(*rows, confidence=0.9)["domain 0"]
    mean = values.mean()
    without = [values[passages != passage].mean() for passage in sorted({*passages})]
    counts = [sum(passages == passage) for passage in sorted({*passages})]
    freedom = sum(counts) ** 2 / sum(count**2 for count in counts) - 1
    reach = stats.t.ppf(0.95, freedom) * math.sqrt(sum((each - mean) ** 2 for each in without))
    assert [found.low, found.high] == pytest.approx([mean - reach, mean + reach])


def test_domains_of_one_passage_each_are_one_collapsed_stratum():
    values = np.random.default_rng(2).normal(size=30)
    found = paired_intervals(*one_query_each(*([value] for value in values)), confidence=0.9)
    assert {each.low for name, each in found.items() if name != "macro"} == {None}
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert [found["macro"].low, found["macro"].high] == pytest.approx([expected.low, expected.high])


def test_a_lone_domain_of_one_passage_varies_as_all_passages_do():
    large = np.random.default_rng(3).normal(size=20)
    rows = one_query_each(large, [2.0])
    found = paired_intervals(*rows)["macro"]
    assert found.difference == pytest.approx((large.mean() + 2.0) / 2)
    of_large, of_one = large.var(ddof=1) / 20, np.append(large, 2.0).var(ddof=1)
    assert standard_error(rows[0], *rows[2:]) == pytest.approx(math.sqrt(of_large + of_one) / 2)
    freedom = (of_large + of_one) ** 2 / (of_large**2 / 19 + of_one**2 / 20)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(of_large + of_one) / 2
    assert [found.low, found.high] == pytest.approx([found.difference - reach, found.difference + reach])


def test_few_passages_that_are_alike_are_not_taken_for_certain():
    large = np.random.default_rng(4).normal(size=20)
    sure, few = (one_query_each(large, [0.5] * count) for count in (200, 3))
    widths = [found.high - found.low for found in (paired_intervals(*rows)["macro"] for rows in (sure, few))]
    assert widths[1] > 2 * widths[0]


def test_the_bound_of_many_small_domains_is_of_the_difference_that_is_quoted():
    # 400 domains of one passage that gain 0.5 on average, and a large one that does not move
    random = np.random.default_rng(5)
    small = (random.random(400) < 0.5).astype(float)
    found = paired_intervals(*one_query_each(*([value] for value in small), [0.0] * 60))["macro"]
    assert found.difference == pytest.approx(small.sum() / 401)
    assert 0.4 < found.low < found.difference < found.high < 0.6
    bound = lower_bound(*one_query_each(*([value] for value in small), [0.0] * 60), confidence=0.975)
    assert bound == pytest.approx(found.low)


def test_the_standard_error_is_that_of_independent_passages():
    # equally many queries a passage: a domain's mean is the mean of its passages' means
    random = np.random.default_rng(0)
    of_passage = random.normal(size=(DOMAINS, 10))
    scores = (of_passage[:, :, None] + random.normal(size=(1, 1, 4))).ravel()
    passages = np.repeat(np.arange(DOMAINS * 10), 4)
    domains = [f"domain {passage // 10}" for passage in passages]
    means = scores.reshape(DOMAINS, 10, 4).mean(axis=2)
    expected = math.sqrt((means.var(axis=1, ddof=1) / 10).sum()) / DOMAINS
    assert standard_error(scores, passages, domains) == pytest.approx(expected)


def test_a_single_passage_has_no_standard_error_and_two_have():
    assert standard_error(np.array([0.0, 1.0]), np.array([3, 3]), ["a", "a"]) is None
    assert standard_error(np.array([0.0, 1.0]), np.array([3, 4]), ["a", "a"]) == pytest.approx(0.5)


@pytest.mark.parametrize("difference", [0.0, 0.1, -1 / 3])
def test_a_constant_difference_is_certain(difference):
    _, b, passages, domains = some_rows()
    found = paired_intervals(np.full(len(b), 0.5 + difference), np.full(len(b), 0.5), passages, domains)
    for interval in found.values():
        assert [interval.low, interval.high, interval.difference] == pytest.approx([difference] * 3, abs=1e-12)
    assert standard_error(np.ones(len(b)), passages, domains) == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=25)
@given(cases, st.floats(-2, 2))
def test_a_constant_moves_an_interval_as_it_is(rows, constant):
    a, b, passages, domains = rows
    found = paired_intervals(a + constant, b, passages, domains)
    for name, interval in paired_intervals(*rows).items():
        moved = [interval.low + constant, interval.high + constant]
        assert [found[name].low, found[name].high] == pytest.approx(moved, abs=1e-12)


@settings(max_examples=25)
@given(cases)
def test_exchanged_models_mirror_an_interval_to_the_last_bit(rows):
    a, b, passages, domains = rows
    found = paired_intervals(b, a, passages, domains)
    for name, interval in paired_intervals(*rows).items():
        mirrored = dataclasses.replace(
            interval, difference=-interval.difference, low=-interval.high, high=-interval.low
        )
        assert found[name] == mirrored


@settings(max_examples=25)
@given(cases, st.integers(0, 2**32))
def test_the_order_of_the_rows_changes_not_one_bit(rows, seed):
    order = np.random.default_rng(seed).permutation(len(rows[0]))
    shuffled = [np.array(column)[order] for column in rows]
    assert paired_intervals(*shuffled) == paired_intervals(*rows)
    errors = [standard_error(a, passages, domains) for a, _, passages, domains in (shuffled, rows)]
    assert errors[0] == errors[1]


@given(cases)
@settings(max_examples=25)
def test_a_domain_is_judged_as_if_it_were_alone(rows):
    a, b, passages, domains = rows
    found = paired_intervals(*rows)
    for name in set(domains):
        own = np.array(domains) == name
        alone = paired_intervals(a[own], b[own], passages[own], [name] * own.sum())
        assert found[name] == alone[name] == alone["macro"]


def test_another_process_finds_the_same_numbers():
    code = (
        "import numpy as np\n"
        "from nic_ray.metrics.intervals import paired_intervals\n"
        "print(paired_intervals(np.arange(9.0), np.zeros(9), np.arange(9), ['a'] * 9))"
    )
    here = paired_intervals(np.arange(9.0), np.zeros(9), np.arange(9), ["a"] * 9)
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert there.stdout.strip() == str(here)


def test_more_confidence_makes_a_wider_interval():
    found = [paired_intervals(*some_rows(), confidence=confidence)["macro"] for confidence in (0.8, 0.95, 0.99)]
    lows, highs = [each.low for each in found], [each.high for each in found]
    assert lows == sorted(set(lows), reverse=True)
    assert highs == sorted(set(highs))


@pytest.mark.parametrize(("one_sided", "both_sides"), [(0.975, 0.95), (0.99, 0.98)])
def test_a_bound_is_the_end_of_the_interval_that_leaves_as_much_out_below(one_sided, both_sides):
    rows = some_rows()
    interval = paired_intervals(*rows, confidence=both_sides)["macro"]
    assert lower_bound(*rows, confidence=one_sided) == pytest.approx(interval.low, abs=1e-9)


def test_a_domain_of_few_passages_has_no_interval_and_counts_all_the_same():
    a, b, passages, domains = some_rows(domains=2, passages=MIN_PASSAGES)
    kept = np.isin(passages, np.unique(passages)[:-1])  # the last belongs to domain 1
    found = paired_intervals(a[kept], b[kept], passages[kept], np.array(domains)[kept].tolist())
    assert (found["domain 1"].low, found["domain 1"].high) == (None, None)
    assert found["domain 1"].passages == MIN_PASSAGES - 1
    assert found["domain 0"].low < found["domain 0"].difference < found["domain 0"].high
    both = [found[f"domain {number}"].difference for number in (0, 1)]
    assert found["macro"].difference == pytest.approx(sum(both) / 2)


def test_too_few_passages_in_all_give_no_macro_interval():
    passages = np.arange(MIN_PASSAGES - 1)
    scores = passages / 10
    domains = ["a"] * 4 + ["b"] * (MIN_PASSAGES - 5)
    found = paired_intervals(scores, 0 * scores, passages, domains)
    assert [each.low for each in found.values()] == [None] * 3
    assert lower_bound(scores, 0 * scores, passages, domains, confidence=0.99) is None
    enough = np.append(passages, MIN_PASSAGES)
    found = paired_intervals(enough / 10, 0 * enough, enough, [*domains, "b"])
    assert found["macro"].low is not None


def test_a_passage_of_two_domains_counts_in_each():
    passages = np.array([0, 1, 0, 2])
    found = paired_intervals(np.ones(4), np.zeros(4), passages, ["a", "a", "b", "b"])
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


def misses(truth, found):
    """Shares of intervals that lie above the truth, and below it."""
    return np.mean([each.low > truth for each in found]), np.mean([each.high < truth for each in found])


def most(rate, trials, sure=0.9999):
    """So large a share is seen in `trials` at this rate but once in ten thousand times."""
    return stats.binom.ppf(sure, trials, rate) / trials


def skewed(random, passages):
    """(a, b, passages, domains) as the questions of a trained model: tenths, half of them 0, most others gains."""
    tenths = random.choice([-1, 0, 1, 2, 3], passages, p=[0.1, 0.4, 0.3, 0.1, 0.1])
    return one_query_each(tenths / 10)


@pytest.mark.parametrize("passages", [8, 9, 13, 20, 50])
def test_a_domains_interval_misses_the_truth_in_one_case_of_twenty(passages):
    random = np.random.default_rng(passages)
    found = [paired_intervals(*skewed(random, passages))["domain 0"] for _ in range(1000)]
    assert sum(misses(0.07, found)) < most(0.055, 1000)
    assert sum(misses(0.07, found)) > 0.02


@pytest.mark.parametrize("passages", [8, 20])
def test_unequal_numbers_of_queries_do_not_make_it_miss_more(passages):
    random = np.random.default_rng(passages)
    found = []
    for _ in range(1000):
        counts = np.maximum(1, np.rint(np.exp(random.normal(1.5, 1, passages)))).astype(int)
        values = random.binomial(counts, 0.7) / counts - random.binomial(counts, 0.5) / counts
        number = np.repeat(np.arange(passages), counts)
        found.append(paired_intervals(values[number], 0 * number, number, ["a"] * len(number))["a"])
    assert sum(misses(0.2, found)) < most(0.055, 1000)


def test_the_bound_of_the_macro_mean_is_above_the_truth_in_one_case_of_a_hundred():
    random = np.random.default_rng(0)
    found = [paired_intervals(*drawn_difference(random), confidence=0.98)["macro"] for _ in range(2000)]
    assert max(misses(0.0, found)) < most(0.01, 2000)
    assert min(misses(0.0, found)) > 0.003


@pytest.mark.parametrize("sizes", [[1] * 40, [1, 2, 3, 5, 7, 9, 20], [1, 20, 20, 20]])
def test_domains_of_few_passages_do_not_make_the_macro_bound_miss_more(sizes):
    random = np.random.default_rng(len(sizes))
    found = [
        paired_intervals(*one_query_each(*(random.choice([-1, 0, 0, 0, 1], size) for size in sizes)))["macro"]
        for _ in range(1000)
    ]
    assert sum(misses(0.0, found)) < most(0.05, 1000)


def test_intervals_hold_the_truth_by_passage_and_miss_it_by_query():
    random = np.random.default_rng(1)
    held = {"by passage": 0, "by query": 0}
    for _ in range(300):
        a, b, passages, domains = drawn_difference(random)
        for way, clusters in (("by passage", passages), ("by query", np.arange(len(a)))):
            macro = paired_intervals(a + 0.2, b, clusters, domains)["macro"]
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
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    given = {"a": np.ones(2), "b": np.ones(2), "passages": np.arange(2), "domains": ["a", "a"]}
    with pytest.raises(ValueError, match=message):
        paired_intervals(**given | changed)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 99])
def test_a_bound_that_is_none_is_refused(confidence):
    with pytest.raises(ValueError, match=r"one-sided confidence must be > 0\.5 and < 1, got"):
        lower_bound(*some_rows(), confidence=confidence)


def test_a_standard_error_of_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"got scores \(3,\), passages \(2,\) and 2 domains"):
        standard_error(np.ones(3), np.arange(2), ["a", "a"])
    with pytest.raises(ValueError, match="scores must be finite, 1 of 2 scores are not"):
        standard_error(np.array([1.0, np.nan]), np.arange(2), ["a", "a"])
