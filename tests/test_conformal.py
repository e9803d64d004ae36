"""Conformal p-values: by hand, and by the law that normal queries must obey."""

import numpy as np
import pytest

from nic_ray.anomaly.conformal import (
    ALLOWANCE,
    calibrate,
    calibrate_by_kind,
    groups_wanted,
    p_values,
    p_values_by_kind,
)


def test_a_p_value_is_the_share_of_groups_that_score_as_high_with_the_query_among_them():
    # groups: a 1 and 5, b 3, c 2; a score of 3 is reached by half of a and by all of b
    calibration = calibrate(np.array([1.0, 5.0, 3.0, 2.0]), np.array([7, 7, 8, 9]))
    found = p_values(np.array([0.0, 3.0, 4.0, 6.0]), calibration)
    assert found.tolist() == pytest.approx([4 / 4, 2.5 / 4, 1.5 / 4, 1 / 4])


def test_a_passage_with_many_questions_weighs_like_one_with_a_single_question():
    few = calibrate(np.array([1.0, 2.0]), np.array([0, 1]))
    many = calibrate(np.array([1.0] * 9 + [2.0]), np.array([0] * 9 + [1]))
    assert p_values(np.array([1.5]), few) == pytest.approx(p_values(np.array([1.5]), many))


def test_the_order_of_the_rows_makes_no_difference():
    rng = np.random.default_rng(0)
    scores, groups, new = rng.normal(size=60), rng.integers(0, 12, 60), rng.normal(size=20)
    order = rng.permutation(60)
    shuffled = calibrate(scores[order], groups[order])
    assert p_values(new, calibrate(scores, groups)) == pytest.approx(p_values(new, shuffled))


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_of_exchangeable_questions_at_most_the_nominal_share_is_flagged_however_alike_those_of_a_passage_are(alpha):
    rng = np.random.default_rng(1)
    flagged = []
    for _ in range(1500):
        sizes = rng.integers(1, 10, 41)
        of_passage = rng.normal(size=41)  # questions about a passage share most of their score
        groups = np.repeat(np.arange(41), sizes)
        scores = of_passage[groups] + 0.3 * rng.normal(size=len(groups))
        calibration = calibrate(scores[groups < 40], groups[groups < 40])
        flagged.append(p_values(scores[groups == 40][:1], calibration)[0] <= alpha)
    share, error = np.mean(flagged), np.sqrt(alpha * (1 - alpha) / 1500)
    assert share <= alpha + 3 * error
    assert share >= alpha - 1 / 41 - 3 * error  # and it is not idle


def test_a_kind_has_its_allowance_at_most_although_a_query_does_not_tell_its_kind():
    rng = np.random.default_rng(2)
    counts = {"plain": [], "odd": []}
    for _ in range(60):
        groups = np.repeat(np.arange(200), 5)
        kinds = np.array(["plain", "plain", "plain", "plain", "odd"] * 200)
        scores = rng.normal(size=1000) + 2.0 * (kinds == "odd")
        half = groups < 100
        by_kind = calibrate_by_kind(scores[half], groups[half], kinds[half].tolist(), false_alarms=0.05)
        assert sorted(by_kind.kinds) == ["odd", "plain"]
        flags = p_values_by_kind(scores[~half], by_kind) <= 0.05
        alone = p_values(scores[~half], by_kind.all) <= 0.05
        for kind, found in counts.items():
            found.append((flags[kinds[~half] == kind].mean(), alone[kinds[~half] == kind].mean()))
    odd, plain = np.mean(counts["odd"], axis=0), np.mean(counts["plain"], axis=0)
    assert odd[1] > 0.15  # by one threshold for all, the odd kind bears the false alarms
    assert odd[0] <= 0.05 * ALLOWANCE + 0.005
    assert plain[0] <= plain[1]


def test_a_kind_of_few_passages_is_not_calibrated_by_itself():
    groups, kinds = np.arange(60), ["rare"] * 19 + ["frequent"] * 41
    assert sorted(calibrate_by_kind(np.arange(60.0), groups, kinds, false_alarms=0.05).kinds) == ["frequent"]
    # by 41 passages no p-value is below 1 / 42, which would keep all from being flagged at 0.01
    assert calibrate_by_kind(np.arange(60.0), groups, kinds, false_alarms=0.01).kinds == {}


@pytest.mark.parametrize(("false_alarms", "wanted"), [(0.05, 19), (0.5, 1), (0.01, 99), (0.3, 3)])
def test_as_many_passages_are_wanted_as_flag_the_most_abnormal_query(false_alarms, wanted):
    assert groups_wanted(false_alarms) == wanted
    for passages in (wanted, wanted - 1):
        if passages:
            calibration = calibrate(np.zeros(passages), np.arange(passages))
            assert (p_values(np.array([1.0]), calibration)[0] <= false_alarms) == (passages == wanted)


@pytest.mark.parametrize(
    ("scores", "groups", "message"),
    [
        (np.empty(0), np.empty(0, int), "at least one score"),
        (np.zeros(3), np.zeros(2, int), r"got \(3,\) and \(2,\)"),
        (np.array([1.0, np.nan]), np.zeros(2, int), "1 of 2 scores are not numbers"),
    ],
)
def test_scores_that_cannot_calibrate_are_refused(scores, groups, message):
    with pytest.raises(ValueError, match=message):
        calibrate(scores, groups)
