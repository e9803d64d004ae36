"""Which weights a search ends with: confirmed, averaged, drawn back towards the base, trained again."""

import dataclasses
import weakref

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray import candidates as candidates_room
from nic_ray.activations import feed
from nic_ray.candidates import (
    averaged,
    base_scores,
    best_of,
    confirm,
    front,
    interpolated,
    load_probe,
    queries_of,
    refitted,
    retention_of,
    scores_of,
)
from nic_ray.encoder import load, upper_copy
from nic_ray.errors import InputError
from nic_ray.evaluation import evaluate, evaluate_encoder
from nic_ray.pairs import Pair, index_pairs
from nic_ray.retrieval import flat_metrics


def scripted(monkeypatch, *found):
    """Let `averaged` find these (objective, MRR) in turn; returns the weights that it asked about."""
    readings, asked = iter(found), []

    def evaluate(part, *_, **__):
        asked.append({name: value.clone() for name, value in part.trained_state().items()})
        return dict(zip(("recall_at_5/macro", "mrr/macro"), next(readings), strict=True))

    monkeypatch.setattr(candidates_room, "evaluate", evaluate)
    return asked


def test_the_best_trials_are_averaged_as_far_as_each_of_them_helps(searched, monkeypatch):
    prepared, inputs, candidates = searched(1, 1, 1, 1)
    best = candidates[0].metrics["recall_at_5/macro"], candidates[0].metrics["mrr/macro"]
    # the second helps by its MRR, the third does not, the fourth does
    asked = scripted(monkeypatch, (best[0], best[1] + 0.1), (best[0], best[1] + 0.1), (best[0] + 0.1, 0.0))
    found = averaged(prepared, inputs, candidates, "recall_at_5/macro")
    assert [member.name for member in found.members] == ["trial-000", "trial-001", "trial-003"]
    assert found.metrics["recall_at_5/macro"] == best[0] + 0.1
    assert found.metrics["epoch"] == 1.0
    groups = ((0, 1), (0, 1, 2), (0, 1, 3), (0, 1, 3))
    for group, weights in zip(groups, [*asked, found.weights], strict=True):
        for name, value in weights.items():
            mean = torch.stack([candidates[place].weights[name] for place in group]).mean(0)
            torch.testing.assert_close(value, mean)


def test_the_best_trial_stays_alone_where_no_mean_is_better(searched, monkeypatch):
    prepared, inputs, candidates = searched(1, 2)
    scripted(monkeypatch, (candidates[0].metrics["recall_at_5/macro"], candidates[0].metrics["mrr/macro"]))
    assert averaged(prepared, inputs, candidates, "recall_at_5/macro") is candidates[0]
    assert averaged(prepared, inputs, candidates[:1], "recall_at_5/macro") is candidates[0]


def test_a_mean_over_unlike_depths_has_the_base_model_where_a_trial_was_frozen(searched, monkeypatch):
    prepared, inputs, candidates = searched(2, 1)
    scripted(monkeypatch, (1.0, 1.0))
    found = averaged(prepared, inputs, candidates, "recall_at_5/macro")
    assert found.config.frozen_layers == 1
    base = upper_copy(prepared.encoder, 1, from_ids=False).trained_state()
    shallow, deep = candidates[1].weights, candidates[0].weights
    assert len(deep) < len(shallow) == len(found.weights)
    for name, value in found.weights.items():
        # block 1 of the model is the first above the shallow cut; block 2 the first above the deep one
        other = deep[name.replace("layer.1.", "layer.0.")] if "layer.1." in name else base[name]
        torch.testing.assert_close(value, (shallow[name] + other) / 2)


def test_a_mean_is_as_shallow_as_its_members_and_not_as_what_was_tried(searched, monkeypatch):
    prepared, inputs, candidates = searched(2, 0, 1)
    best = candidates[0].metrics["recall_at_5/macro"]
    asked = scripted(monkeypatch, (best - 0.1, 0.0), (best + 0.1, 0.0))
    found = averaged(prepared, inputs, candidates, "recall_at_5/macro")
    assert [member.name for member in found.members] == ["trial-000", "trial-002"]
    assert found.config.frozen_layers == 1
    assert len(asked[0]) > len(asked[1]) == len(found.weights)


def test_the_mean_has_no_more_members_than_it_may_have(searched, monkeypatch):
    prepared, inputs, candidates = searched(1, 1, 1, 1)
    asked = scripted(monkeypatch, (0.97, 0.0), (0.98, 0.0), (0.99, 0.0))
    found = averaged(prepared, inputs, candidates, "recall_at_5/macro", most=3)
    assert len(found.members) == 3
    assert len(asked) == 2
    assert averaged(prepared, inputs, candidates, "recall_at_5/macro", most=1) is candidates[0]
    assert len(asked) == 2


def test_the_weights_of_what_was_tried_are_not_held(searched, monkeypatch):
    prepared, inputs, candidates = searched(1, 1, 1, 1)
    scripted(monkeypatch, (0.97, 0.0), (0.0, 0.0), (0.98, 0.0))
    tensors, alive = [], []

    def one_by_one():
        yield candidates[0]
        while len(candidates) > 1:
            alive.append(sum(each() is not None for each in tensors))
            candidate = candidates.pop(1)
            tensors.append(weakref.ref(next(iter(candidate.weights.values()))))
            yield candidate
            del candidate

    found = averaged(prepared, inputs, one_by_one(), "recall_at_5/macro")
    # the last one is still the loop's own when the next is asked for; none before it is anyone's
    assert max(alive) <= 1
    assert [member.name for member in found.members] == ["trial-000", "trial-001", "trial-003"]
    assert not any(member.weights for member in found.members)


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


def test_the_way_from_the_base_to_the_tuned_weights_is_straight(searched):
    prepared, _, (candidate,) = searched(1)
    base = upper_copy(prepared.encoder, 1, from_ids=False).trained_state()
    for alpha in (0.0, 0.3, 1.0):
        for name, value in interpolated(prepared, candidate, alpha).items():
            torch.testing.assert_close(value, alpha * candidate.weights[name] + (1 - alpha) * base[name])


PROBE = index_pairs(
    [Pair(f"{part} is {fault}", f"drain the {part} if {fault}.", part) for part in ("valve", "oven", "kite")
     for fault in ("cracked", "wet", "bent")]
)  # fmt: skip


def test_the_front_begins_at_the_base_model_and_ends_at_the_tuned_one(searched):
    prepared, inputs, (candidate,) = searched(1)
    base = base_scores(prepared, inputs, "validation")
    probe = load_probe(prepared, PROBE, [1])
    points = front(prepared, inputs[1], candidate, base, probe)
    assert [point.alpha for point in points] == pytest.approx([step / 10 for step in range(11)])
    rows, domains = prepared.rows("validation").tolist(), queries_of(prepared, "validation").domains
    whole = evaluate_encoder(prepared.encoder, prepared.collection, rows, 64)
    assert points[0].metrics == pytest.approx(whole, abs=1e-6)
    assert points[0].retention == {"recall_at_5": 0.0, "mrr": 0.0}
    tuned = {name: candidate.metrics[name] for name in whole}
    assert points[-1].metrics == pytest.approx(tuned, abs=1e-6)
    assert flat_metrics(points[-1].scores, domains) == points[-1].metrics
    # by another way: the probe with the tuned weights in a whole model
    model = upper_copy(prepared.encoder, 1, from_ids=True)
    before = evaluate_encoder(prepared.encoder, PROBE, range(9), 64)
    model.load_trained_state(candidate.weights)
    from nic_ray.activations import token_inputs

    after = evaluate(model, feed(token_inputs(prepared.encoder, PROBE.texts, 64), "cpu"), PROBE, range(9))
    expected = {name: after[f"{name}/macro"] - before[f"{name}/macro"] for name in ("recall_at_5", "mrr")}
    assert points[-1].retention == pytest.approx(expected, abs=1e-6)
    assert retention_of(prepared, probe, candidate) == pytest.approx(expected, abs=1e-6)


def test_without_a_probe_nothing_is_said_of_retention(searched):
    prepared, inputs, (candidate,) = searched(1)
    base = base_scores(prepared, inputs, "validation")
    assert all(point.retention is None for point in front(prepared, inputs[1], candidate, base, None))


def test_a_base_model_without_finite_embeddings_is_refused(searched):
    prepared, inputs, _ = searched(2)
    with torch.no_grad():
        prepared.encoder.transformer.encoder.layer[2].output.dense.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"embeddings that are not finite, so there is nothing to tune"):
        base_scores(prepared, inputs, "validation")


def test_trained_again_the_winner_learns_from_every_row_as_long_as_it_did(searched, monkeypatch):
    prepared, inputs, candidates = searched(2, 1)
    scripted(monkeypatch, (1.0, 1.0))
    mean = averaged(prepared, inputs, candidates, "recall_at_5/macro")
    asked = []

    def fit(config, upper, data, validation):
        asked.append((config.frozen_layers, data.rows.tolist()))
        for epoch in (0.5, 1.0, 1.5):
            for value in upper.trained_state().values():
                value.add_(1.0)
            yield dataclasses.make_dataclass("E", ["metrics"])({"epoch": epoch})

    monkeypatch.setattr(candidates_room.loop, "fit", fit)
    found = refitted(prepared, inputs, mean)
    everything = list(range(len(prepared.parts)))
    assert asked == [(2, everything), (1, everything)]
    base = upper_copy(prepared.encoder, 1, from_ids=False).trained_state()
    for name, value in found.weights.items():
        # two evaluations until epoch 1; the deeper candidate moved only the upper one of the two blocks
        steps = 2.0 if "layer.1." in name else 1.0
        torch.testing.assert_close(value, base[name] + steps)
    assert np.isfinite(found.metrics["mrr/macro"])


def test_base_and_probe_are_scored_as_the_owner_means_the_base(searched, changed_model):
    folder = changed_model(prompts={"query": "valve oven kite "}, similarity="dot", behind=[Pooling(32)], layers=3)
    prepared, inputs, (candidate,) = searched(1, base=folder)
    rows, domains = prepared.rows("validation").tolist(), queries_of(prepared, "validation").domains
    expected = evaluate_encoder(load(str(folder)), prepared.collection, rows, 64)
    assert flat_metrics(base_scores(prepared, inputs, "validation"), domains) == pytest.approx(expected, abs=1e-6)
    untrained = scores_of(prepared, inputs[1], 1, None, "validation")
    assert flat_metrics(untrained, domains) == pytest.approx(expected, abs=1e-6)
    probe = load_probe(prepared, PROBE, [1])
    found = evaluate_encoder(load(str(folder)), PROBE, range(9), 64)
    assert probe.base == pytest.approx({name: found[f"{name}/macro"] for name in ("recall_at_5", "mrr")}, abs=1e-6)
    # what is trained is trained for cosine
    tuned = flat_metrics(scores_of(prepared, inputs[1], 1, candidate.weights, "validation"), domains)
    assert tuned == pytest.approx({name: candidate.metrics[name] for name in tuned}, abs=1e-6)
