"""What a search is predicted to take, at rates that are given: nothing is measured."""

import dataclasses

import pytest

from nic_ray.config import Config, SearchConfig
from nic_ray.search import forecast
from nic_ray.search.forecast import EXPORT_S, Rates, drawn_epochs, estimate, makespan, trial_s
from nic_ray.search.placement import Placement
from nic_ray.selection.interpolation import USUAL_READINGS
from nic_ray.training.prepared import prepare

FREE = Rates(start=0.0, frozen=0.0, trained=0.0, step=0.0, read=0.0, memory=0.0)
ALONE = Placement(workers=1, gpus_per_worker=0.0, concurrent=1, threads=1, note=None)
TWO = dataclasses.replace(ALONE, concurrent=2)
ONE_OF_MANY = dataclasses.replace(ALONE, threads=4)
ON_GPUS = dataclasses.replace(ALONE, gpus_per_worker=0.25, concurrent=4)


@pytest.fixture
def prepared(tiny_model, tiny_pairs_file):
    """`prepared(...)`: a search over a model of two blocks, of which none or one is frozen."""

    def make(*, activations=None, **search):
        sections = {
            "data": {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25},
            "train": {"base_model": str(tiny_model()), "frozen_layers": 1, "batch_size": 8, "epochs": 3},
            "space": {"frozen_layers": {"choice": [0, 1]}},
            "search": {"trials": 6, "grace_period": 1} | search,
            "activations": activations or {},
        }
        return prepare(Config.model_validate(sections), on_gpu=False)

    return make


def at(**rates: float) -> Rates:
    return dataclasses.replace(FREE, **rates)


def test_the_first_trial_is_predicted_to_run_all_of_its_epochs(prepared, monkeypatch):
    # the default configuration takes 900 s; the others of the space nothing worth counting
    found = prepared()
    monkeypatch.setattr(
        forecast, "trial_s", lambda _, __, config, **___: 900.0 if config is found.config.train else 1e-9
    )
    assert estimate([(found, FREE)], ALONE, 1, 0).search_s == pytest.approx(900.0)


def test_the_epochs_are_those_of_the_first_trial_and_of_those_that_go_on():
    assert (drawn_epochs(SearchConfig(trials=1, grace_period=1, reduction_factor=3), 9) == 9).all()
    # the second of two goes on if it is the better one: half of them have 9 epochs, the others 1
    two = drawn_epochs(SearchConfig(trials=2, grace_period=1, reduction_factor=3), 9)
    assert (two[:, 0] == 9).all()
    assert set(two[:, 1].tolist()) == {1, 9}
    started = drawn_epochs(SearchConfig(trials=3, starts=({"scale": 30.0},), grace_period=1, reduction_factor=3), 9)
    assert (started[:, :2] == 9).all()
    assert (started[:, 2] == 1).any()
    assert two.mean() / 9 == pytest.approx((9 + (9 + 1) / 2) / 18, abs=0.05)


@pytest.mark.parametrize(
    ("seconds", "concurrent", "expected"),
    [
        ([], 2, 0.0),
        ([5.0], 1, 5.0),
        ([3.0, 2.0, 1.0], 1, 6.0),
        # the third begins when the first two have ended, and then has both CPUs: 4 + 6 / 2
        ([4.0, 4.0, 6.0], 2, 7.0),
        # the second ends at 2 and the third takes its place; at 5 the first has ended, and 1 of the third's 4 is left
        ([5.0, 2.0, 4.0], 2, 5.5),
    ],
)
def test_a_trial_that_is_left_alone_goes_twice_as_fast_on_two_cpus(seconds, concurrent, expected):
    assert makespan(seconds, concurrent, lambda running: 2 / running if concurrent == 2 else 1.0) == expected


def test_the_last_trial_of_a_search_has_the_threads_of_those_that_have_ended(prepared, monkeypatch):
    monkeypatch.setattr(forecast, "trial_s", lambda *_, **__: 90.0)
    monkeypatch.setattr(forecast, "FURTHER_THREAD", 1.0)
    # three trials of 3 epochs, none of which can be stopped: two at a time, then one with two threads
    found = estimate([(prepared(trials=3, grace_period=3), FREE)], TWO, 2, 0)
    assert found.search_s == pytest.approx(90 + 90 / 2)
    assert found.confirm_s == pytest.approx(90)  # two, at the same time
    # a second thread that does half of what the first one does
    monkeypatch.setattr(forecast, "FURTHER_THREAD", 0.5)
    assert estimate([(prepared(trials=3, grace_period=3), FREE)], TWO, 2, 0).search_s == pytest.approx(90 + 90 / 1.5)
    # trials on a GPU gain nothing by idle CPUs
    on_gpu = dataclasses.replace(TWO, gpus_per_worker=0.5)
    assert estimate([(prepared(trials=3, grace_period=3), FREE)], on_gpu, 1, 0).search_s == pytest.approx(180)


@pytest.mark.parametrize(("trials", "again"), [(6, 2), (2, 2), (1, 0)])
def test_no_more_are_trained_again_than_there_are(prepared, trials, again):
    assert estimate([(prepared(trials=trials), at(start=100.0))], ALONE, 1, 0).confirm_s == pytest.approx(again * 100.0)


def test_what_is_read_for_the_mean_of_the_weights(prepared):
    found = prepared()
    with_mean, without = (
        estimate([(prepared(averaged_trials=most), at(read=1.0))], ALONE, 1, 0).end_s for most in (None, 1)
    )
    tokens = forecast._tokens_to_score(found, "validation")
    # of 6 trials and 2 that are trained again: each, at most 12 means of 2 and of 4, and that of all; 2 or 1 of the two
    # blocks run, on average 1.5
    assert with_mean - without == pytest.approx((8 + 12 + 12 + 1) * 1.5 * tokens)
    # without it: the base model at depth 1, and the mixtures; on the test rows the first trial, and the questions alone
    # by the base model and the tuned one, whose passages are known
    test, asked = (
        count(found, "test", "unseen_queries") for count in (forecast._tokens_to_score, forecast._query_tokens)
    )
    expected = (1 + USUAL_READINGS * 1.5) * tokens + 1 * test + (1 + 1.5) * asked
    assert without - EXPORT_S == pytest.approx(expected)


def test_the_retention_set_is_read_by_the_base_model_every_trial_and_every_mixture(prepared):
    found = prepared()
    with_set, without = (estimate([(found, at(read=1.0))], ALONE, 1, tokens).end_s for tokens in (100, 0))
    # base model at depth 1; 6 trials, 2 that are trained again and the mixtures with 1.5 blocks each
    assert with_set - without == pytest.approx(100 * (1 + (8 + USUAL_READINGS) * 1.5))
    with_set, without = (estimate([(found, at(frozen=1.0))], ALONE, 1, tokens).end_s for tokens in (100, 0))
    assert with_set - without == pytest.approx(100)  # one frozen block, once


def test_what_follows_the_trials_has_all_threads_of_the_machine(prepared):
    found, rates = prepared(), at(read=1.0)
    alone, of_two, on_both = (
        estimate([(found, rates)], placement, cpus, 0).end_s - EXPORT_S
        for placement, cpus in ((ALONE, 1), (TWO, 2), (dataclasses.replace(ALONE, threads=2), 2))
    )
    assert of_two == pytest.approx(alone / (1 + forecast.FURTHER_THREAD))
    assert on_both == pytest.approx(alone)  # it has been measured with both


def test_workers_divide_the_blocks_of_a_trial_among_them(prepared):
    found = prepared()
    given = (found, at(trained=1.0, read=1.0), found.config.train)
    one, two = (trial_s(*given, cached=[1], workers=workers) for workers in (1, 2))
    assert two == pytest.approx(one / 2)


def test_what_no_budget_has_room_for_costs_no_room_and_runs_in_every_step(prepared):
    kept, nowhere = prepared(), prepared(activations={"memory_budget_gib": 0, "disk_budget_gib": 0})
    with_room, without = (estimate([(each, at(frozen=1.0))], ALONE, 1, 0) for each in (kept, nowhere))
    size = len(kept.tokens.values) * 32 * (2 if kept.bf16 else 4)
    assert (with_room.activations, without.activations) == (size, 0)
    assert with_room.disk - without.disk == size
    assert with_room.memory - without.memory == size
    assert with_room.activations_s == pytest.approx(len(kept.tokens.values))
    assert without.activations_s == 0
    # one frozen block for every token of 3 epochs
    assert with_room.first_trial_s == 0
    _, tokens = forecast._epoch(nowhere, nowhere.config.train)
    assert without.first_trial_s == pytest.approx(3 * tokens)


def test_a_checkpoint_holds_weights_moments_and_best_weights_of_what_trains_at_most(prepared):
    found = prepared()
    transformer = found.encoder.transformer
    parameters = sum(
        value.numel() for name, value in transformer.named_parameters() if "pooler" not in name
    )  # at depth 0 all of them train
    disk = estimate([(found, FREE)], ALONE, 1, 0)
    # six trials, two that are trained again, and two on all rows
    assert disk.disk - disk.activations == (6 + 2 + 2) * 4 * 4 * parameters


def test_what_is_exported_is_trained_on_all_rows_on_all_cores_or_gpus(prepared, monkeypatch):
    monkeypatch.setattr(forecast, "trial_s", lambda *_, **__: 60.0)
    found = prepared()
    rows = len(found.parts) / len(found.rows("train"))
    assert estimate([(found, FREE)], ALONE, 1, 0).refit_s == pytest.approx(2 * 60 * rows)  # two members of a mean
    assert estimate([(found, FREE)], TWO, 2, 0).refit_s == pytest.approx(60 * rows)  # both at a time
    assert estimate([(found, FREE)], ONE_OF_MANY, 8, 0).refit_s == pytest.approx(2 * 60 * rows)
    assert estimate([(found, FREE)], ON_GPUS, 16, 0).refit_s == pytest.approx(60 * rows)
    assert estimate([(prepared(averaged_trials=1), FREE)], ALONE, 1, 0).refit_s == pytest.approx(60 * rows)
    none = dataclasses.replace(found, config=found.config.model_copy(update={"refit": "none"}))
    assert estimate([(none, FREE)], ALONE, 1, 0).refit_s == 0
    data = found.config.data.model_copy(update={"protocol": "cross_fit"})
    folds = dataclasses.replace(none, config=none.config.model_copy(update={"data": data}))
    # four folds, each without a quarter of the rows
    assert estimate([(folds, FREE)], ALONE, 1, 0).refit_s == pytest.approx(2 * 60 * 4 * 0.75 * rows)


def test_the_same_search_over_every_depth_is_told_unless_it_covers_them(prepared):
    found = prepared()
    assert forecast.over_every_depth(found) is None
    first = found.config.model_copy(update={"space": {}, "search": SearchConfig(trials=6, time_budget=60.0)})
    wider = forecast.over_every_depth(dataclasses.replace(found, config=first))
    assert sorted(wider.config.space["frozen_layers"].ends()) == [0, 1]
    assert wider.config.search.time_budget is None
    uncut = dataclasses.replace(found.encoder, block_output=None)
    assert forecast.over_every_depth(dataclasses.replace(found, config=first, encoder=uncut)) is None


def test_trials_of_several_base_models_are_tried_equally_often(prepared, monkeypatch):
    found = prepared(trials=4, grace_period=3)
    slow, fast = at(start=1.0), at(start=3.0)
    monkeypatch.setattr(forecast, "trial_s", lambda _, rates, *__, **___: 300.0 * rates.start)
    one, both = estimate([(found, slow)], ALONE, 1, 0), estimate([(found, slow), (found, fast)], ALONE, 1, 0)
    assert (one.first_trial_s, both.first_trial_s) == (300, 300)
    assert (one.mean_trial_s, both.mean_trial_s) == (300, 600)
    assert both.search_s == pytest.approx(4 * 2 + 300 + 3 * 600, rel=0.1)  # drawn at random, 400 times
    assert both.refit_s == pytest.approx(2 * one.refit_s)
    assert both.activations == 2 * one.activations
    little = found.config.activations.model_copy(
        update={"memory_budget_gib": 0, "disk_budget_gib": 1.5 * one.activations / 2**30}
    )
    tight = dataclasses.replace(found, config=found.config.model_copy(update={"activations": little}))
    # the second base model has what the first one leaves
    assert estimate([(tight, slow), (tight, fast)], ALONE, 1, 0).activations == one.activations
