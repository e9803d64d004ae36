"""The mean of trials' weights, as far as it helps, and its members trained again on all rows."""

import dataclasses
import weakref

import numpy as np
import torch

from nic_ray.model.encoder import base_weights
from nic_ray.selection import averaging
from nic_ray.selection.averaging import averaged, refitted


def scripted(monkeypatch, *found):
    """Let `averaged` find these (objective, MRR) in turn; returns the weights that it asked about."""
    readings, asked = iter(found), []

    class Scripted:
        def __init__(self, prepared, inputs):
            pass

        def metrics(self, weights, rows):
            asked.append({name: value.clone() for name, value in weights.items()})
            return dict(zip(("recall_at_5/macro", "mrr/macro"), next(readings), strict=True))

    monkeypatch.setattr(averaging, "Scorer", Scripted)
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
    base = base_weights(prepared.encoder, 1)
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

    monkeypatch.setattr(averaging.loop, "fit", fit)
    found = refitted(prepared, inputs, mean)
    everything = list(range(len(prepared.parts)))
    assert asked == [(2, everything), (1, everything)]
    base = base_weights(prepared.encoder, 1)
    for name, value in found.weights.items():
        # two evaluations until epoch 1; the deeper candidate moved only the upper one of the two blocks
        steps = 2.0 if "layer.1." in name else 1.0
        torch.testing.assert_close(value, base[name] + steps)
    assert np.isfinite(found.metrics["mrr/macro"])
    assert (mean.measured, found.measured) == (True, False)
