"""The way from the base model's weights to the tuned ones, and what is kept on it of other fields."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.metrics.intervals import Queries
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model.activations import feed, token_inputs
from nic_ray.model.encoder import base_weights, upper
from nic_ray.model.evaluation import evaluate
from nic_ray.model.whole_models import evaluate_encoder
from nic_ray.selection.guard import Mixture, choose_mixture
from nic_ray.selection.interpolation import (
    ALPHAS,
    USUAL_READINGS,
    deciding_path,
    interpolated,
    interpolation_path,
    mixtures_evaluated,
)
from nic_ray.selection.retention import load_retention_set, retention_of
from nic_ray.selection.scoring import Scorer, queries_of


def test_the_way_from_the_base_to_the_tuned_weights_is_straight(searched):
    prepared, _, (candidate,) = searched(1)
    base = base_weights(prepared.encoder, 1)
    for alpha in (0.0, 0.3, 1.0):
        for name, value in interpolated(prepared, candidate, alpha).items():
            torch.testing.assert_close(value, alpha * candidate.weights[name] + (1 - alpha) * base[name])


RETENTION_SET = index_pairs(
    [Pair(f"{part} is {fault}", f"drain the {part} if {fault}.", part) for part in ("valve", "oven", "kite")
     for fault in ("cracked", "wet", "bent")]
)  # fmt: skip


def base_at(prepared, inputs):
    """The base model's scores at the validation queries."""
    return Scorer(prepared, inputs).scores(None, prepared.rows("validation"))


def test_the_path_begins_at_the_base_model_and_ends_at_the_tuned_one(searched):
    prepared, inputs, (candidate,) = searched(1)
    base = base_at(prepared, inputs[1])
    retention_set = load_retention_set(prepared, RETENTION_SET, [1])
    mixtures = interpolation_path(prepared, inputs[1], candidate, base, retention_set)
    assert [mixture.alpha for mixture in mixtures] == pytest.approx([step / 10 for step in range(11)])
    rows, domains = prepared.rows("validation").tolist(), queries_of(prepared, "validation").domains
    whole = evaluate_encoder(prepared.encoder, prepared.collection, rows, 64)
    assert mixtures[0].metrics == pytest.approx(whole, abs=1e-6)
    assert mixtures[0].retention == {"recall_at_5": 0.0, "mrr": 0.0}
    tuned = {name: candidate.metrics[name] for name in whole}
    assert mixtures[-1].metrics == pytest.approx(tuned, abs=1e-6)
    assert flat_metrics(mixtures[-1].scores, domains) == mixtures[-1].metrics
    # by another way: the retention set with the tuned weights in a whole model
    model = upper(prepared.encoder, 1, from_ids=True)
    before = evaluate_encoder(prepared.encoder, RETENTION_SET, range(9), 64)
    model.load_trained_state(candidate.weights)
    after = evaluate(
        model, feed(token_inputs(prepared.encoder, RETENTION_SET.texts, 64), "cpu"), RETENTION_SET, range(9)
    )
    expected = {name: after[f"{name}/macro"] - before[f"{name}/macro"] for name in ("recall_at_5", "mrr")}
    assert mixtures[-1].retention == pytest.approx(expected, abs=1e-6)
    assert retention_of(prepared, retention_set, candidate) == pytest.approx(expected, abs=1e-6)


def test_without_a_retention_set_nothing_is_said_of_retention(searched):
    prepared, inputs, (candidate,) = searched(1)
    base = base_at(prepared, inputs[1])
    assert all(mixture.retention is None for mixture in interpolation_path(prepared, inputs[1], candidate, base, None))


def test_the_path_has_the_steps_that_it_is_asked_for(searched):
    prepared, inputs, (candidate,) = searched(1)
    arguments = (prepared, inputs[1], candidate, base_at(prepared, inputs[1]), None)
    few = interpolation_path(*arguments, alphas=(0.2, 0.9))
    assert [mixture.alpha for mixture in few] == [0.0, 0.2, 0.9]
    by_alpha = {mixture.alpha: mixture.metrics for mixture in interpolation_path(*arguments)}
    assert [*by_alpha] == [0.0, *ALPHAS]
    assert few[1].metrics == by_alpha[0.2]


QUERIES = Queries(np.repeat(np.arange(30), 4), ["a"] * 60 + ["b"] * 60)
LIMITS = {"max_retention_loss": 0.05, "min_neighbours_kept": 0.8}


def drawn_path(values, kept, asked, spread=0.0, seed=0):
    """A path whose mixtures have some values of the objective and keep some shares, at alpha 0, 0.1, ... 1.

    Args:
        spread: standard deviation of what the whole way changes at single queries, beside the mean.
    """
    moved = np.random.default_rng(seed).normal(size=120)

    def mixture(alpha):
        at = round(10 * alpha)
        scores = values[at] + spread * alpha * (moved - moved.mean())
        flat = flat_metrics({"recall_at_5": scores, "mrr": scores}, QUERIES.domains)
        return Mixture(alpha, flat, {"recall_at_5": scores, "mrr": scores}, None, kept[at])

    all_of_them = {step: mixture(step / 10) for step in range(11)}

    def path(alphas):
        asked.extend(alphas)
        return [all_of_them[0], *(all_of_them[round(10 * alpha)] for alpha in alphas)]

    return path


def the_choice(found):
    return choose_mixture(found[1:], QUERIES, objective="recall_at_5/macro", **LIMITS)


def parabola(asked, top, height, last, spread, seed):
    """A path from the base model over a top anywhere, on which a share of `last` is kept to the end."""
    steps = np.arange(11) / 10
    values = 0.6 + height * (1 - ((steps - top) / top) ** 2)
    return drawn_path(values, 1 - (1 - last) * steps, asked, spread, seed)


@given(st.floats(0.2, 1.6), st.floats(0.01, 0.3), st.floats(0.5, 1.0), st.floats(0, 0.5), st.integers(0, 5))
def test_where_the_curve_is_concave_few_points_find_what_all_of_them_would(top, height, last, spread, seed):
    asked = []
    path = parabola(asked, top, height, last, spread, seed)
    found = deciding_path(path, QUERIES, objective="recall_at_5/macro", **LIMITS)
    assert len(asked) == len(set(asked))
    assert [mixture.alpha for mixture in found] == sorted(mixture.alpha for mixture in found)
    count, every = len(asked), path(ALPHAS)
    chosen, expected = the_choice(found), the_choice(every)
    if expected is None:
        assert chosen is None
    else:
        assert chosen is not None
        assert chosen.alpha == expected.alpha
    if top >= 1:  # rising to the end; a top in the middle is looked for from both sides
        all_allowed = last >= LIMITS["min_neighbours_kept"]
        assert count <= USUAL_READINGS + 2 if all_allowed else count < len(ALPHAS)


def test_where_the_curve_has_two_tops_all_points_are_evaluated():
    values = np.array([0.5, 0.7, 0.75, 0.7, 0.55, 0.5, 0.55, 0.6, 0.65, 0.7, 0.72])
    asked = []
    path = drawn_path(values, np.ones(11), asked, spread=0.01)
    found = deciding_path(path, QUERIES, objective="recall_at_5/macro", **LIMITS)
    assert [mixture.alpha for mixture in found] == [0.0, *ALPHAS]
    assert the_choice(found).alpha == 0.2


def test_where_less_of_the_way_forgets_more_all_points_are_evaluated():
    kept = np.array([1, 0.95, 0.9, 0.9, 0.7, 0.7, 0.7, 0.9, 0.9, 0.9, 0.9])
    asked = []
    path = drawn_path(0.5 + np.arange(11) / 50, kept, asked)
    found = deciding_path(path, QUERIES, objective="recall_at_5/macro", **LIMITS)
    assert sorted(asked) == pytest.approx(list(ALPHAS))
    assert the_choice(found).alpha == 1.0


def test_for_the_worst_domain_all_points_are_evaluated():
    asked = []
    path = drawn_path(0.5 + np.arange(11) / 50, np.ones(11), asked)
    found = deciding_path(path, QUERIES, objective="recall_at_5/worst", **LIMITS)
    assert [mixture.alpha for mixture in found] == [0.0, *ALPHAS]
    assert asked == list(ALPHAS)
    assert mixtures_evaluated("recall_at_5/worst") == len(asked)
    assert mixtures_evaluated("recall_at_5/macro") == USUAL_READINGS
