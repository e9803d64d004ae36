"""What a search chooses from: the best over seeds, and how long each was trained."""

import dataclasses

import pytest

from nic_ray.selection.candidates import best_of, confirm


def seeded(candidate, seed, value, mrr=0.5):
    return dataclasses.replace(
        candidate,
        config=candidate.config.model_copy(update={"seed": seed}),
        metrics={"recall_at_5/macro": value, "mrr/macro": mrr, "epoch": 1.0},
    )


def test_the_best_mean_over_seeds_wins_with_its_best_seed(searched):
    _, _, (one, other) = searched(1, 1)
    # the first trial is best with the seed of the search, and worse on average
    tried = [
        [seeded(one, 42, 0.80), seeded(one, 43, 0.60)],
        [seeded(other, 42, 0.74), seeded(other, 43, 0.76), seeded(other, 44, 0.72)],
    ]
    winner, confirmations = confirm(tried, "recall_at_5/macro")
    assert winner is tried[1][1]
    assert [each.trial for each in confirmations] == ["trial-001", "trial-000"]
    assert confirmations[0].values == {42: 0.74, 43: 0.76, 44: 0.72}
    assert confirmations[0].mean == pytest.approx(0.74)
    assert confirmations[0].spread == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("first", "best", "winner"),
    [
        # the retraining of the best was cut off
        ([0.653, 0.653], [0.749], 1),
        ([0.653, 0.653, 0.656], [0.749, 0.751], 1),
        # a mean of what is known, whoever has more of it
        ([0.75, 0.74], [0.744], 0),
        ([0.80, 0.60], [0.71], 1),
        # on equal means more seeds count more
        ([0.75], [0.74, 0.76], 1),
        ([0.74, 0.76], [0.75], 0),
    ],
)
def test_missing_seeds_never_hand_the_win_to_a_worse_configuration(searched, first, best, winner):
    _, _, both = searched(1, 1)
    tried = [
        [seeded(each, 42 + place, value) for place, value in enumerate(values)]
        for each, values in zip(both, (first, best), strict=True)
    ]
    found, confirmations = confirm(tried, "recall_at_5/macro")
    assert found.name == both[winner].name
    assert [each.trial for each in confirmations] == [both[winner].name, both[1 - winner].name]
    assert [len(each.values) for each in confirmations] == [len((first, best)[place]) for place in (winner, 1 - winner)]


def test_a_candidate_knows_how_long_it_was_trained(searched):
    _, _, (candidate,) = searched(1)
    state = {
        "best": {"metrics": {"epoch": 1.0}, "upper": {}},
        "metrics": {"epoch": 1.5},
        "finished": False,
    }
    found = best_of("trial-007", candidate.config, state)
    assert (found.metrics["epoch"], found.epochs, found.finished) == (1.0, 1.5, False)
