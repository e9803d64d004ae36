"""What a search is predicted to take, at rates that are given: nothing is measured."""

import dataclasses

import pytest

from nic_ray import forecast
from nic_ray.candidates import ALPHAS
from nic_ray.config import Config
from nic_ray.forecast import Rates, expected_share, reckoned
from nic_ray.preparation import prepare

FREE = Rates(start=0.0, frozen=0.0, trained=0.0, step=0.0, read=0.0, memory=0.0)


@pytest.fixture
def prepared(tiny_model, tiny_pairs_file):
    def make(**search):
        sections = {
            "data": {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25},
            "train": {"base_model": str(tiny_model()), "frozen_layers": 1, "batch_size": 8, "epochs": 3},
            "space": {"frozen_layers": {"choice": [0, 1]}},
            "search": {"trials": 6, "grace_period": 1} | search,
        }
        return prepare(Config.model_validate(sections), on_gpu=False)

    return make


def test_the_first_trial_is_predicted_to_run_all_of_its_epochs(prepared, monkeypatch):
    # the default configuration takes 900 s; the others of the space nothing worth counting
    found = prepared()
    monkeypatch.setattr(forecast, "trial_s", lambda _, __, config: 900.0 if config is found.config.train else 1e-9)
    assert reckoned(found, FREE, 1, 1, 0).search_s == pytest.approx(900.0)


def test_the_share_of_epochs_is_that_of_the_first_trial_and_of_those_that_go_on():
    assert expected_share(1, 9, 1, 3) == 1.0
    # the second of two goes on if it is the better one: half of them have 9 epochs, the others 1
    assert expected_share(2, 9, 1, 3) == pytest.approx((9 + (9 + 1) / 2) / 18, abs=0.05)


@pytest.mark.parametrize(("trials", "again"), [(6, 2), (2, 2), (1, 0)])
def test_no_more_are_trained_again_than_there_are(prepared, trials, again):
    found = prepared(trials=trials)
    rates = dataclasses.replace(FREE, start=100.0)
    assert reckoned(found, rates, 1, 1, 0).confirm_s == pytest.approx(again * 100.0)


def test_every_trial_is_read_once_for_the_mean_of_the_weights(prepared):
    rates = dataclasses.replace(FREE, read=1.0)
    with_mean, without = (reckoned(prepared(averaged_trials=most), rates, 1, 1, 0).end_s for most in (None, 1))
    nothing_read = reckoned(prepared(), FREE, 1, 1, 0).end_s
    # without it: each alpha, base, first trial, test rows, export
    reading = (without - nothing_read) / (len(ALPHAS) + 4)
    assert with_mean - without == pytest.approx((6 + 2) * reading)
