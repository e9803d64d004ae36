"""Training again on the rows of all parts: what is trained, and the check before the result is exported."""

import dataclasses

import numpy as np
import pytest
import torch

from nic_ray.bundle.descriptions import describe_refit
from nic_ray.errors import RunError
from nic_ray.metrics.table import PRIMARY
from nic_ray.model.encoder import base_weights
from nic_ray.selection import refit as refits
from nic_ray.selection.averaging import averaged
from nic_ray.selection.refit import refit, trained_again
from nic_ray.selection.scoring import Scorer
from nic_ray.selection.selection import Contestants, judge


def asking_for_all(searched, **guard):
    """A judged search whose winner is to be trained on all rows."""
    prepared, inputs, candidates = searched
    limits = prepared.config.guard.model_copy(update=guard)
    config = prepared.config.model_copy(update={"refit": "all", "guard": limits})
    prepared = dataclasses.replace(prepared, config=config)
    contestants = Contestants({"first trial": candidates[0]}, candidates, [])
    found = judge(prepared, inputs, contestants, None, export_anyway=True, say=lambda _: None)
    guard = {**found.evidence["guard"], "objections": []}
    return prepared, inputs, dataclasses.replace(found, evidence={**found.evidence, "guard": guard})


def in_place_of_training(weights):
    """A `trained_again` that returns the winner with other weights."""
    return lambda prepared, inputs, winner, rows, **_: dataclasses.replace(winner, weights=weights, measured=False)


def test_members_learn_from_the_given_rows_as_long_as_they_did(searched, monkeypatch):
    prepared, inputs, candidates = searched(2, 1)
    mean = dataclasses.replace(
        averaged(prepared, inputs, candidates[:1]).candidate, members=(*candidates, candidates[0])
    )
    asked = []

    def fit(config, upper, data, validation, *, state):
        asked.append((config.frozen_layers, data.rows.tolist(), state))
        for epoch in (0.5, 1.0, 1.5):
            for value in upper.trained_state().values():
                value.add_(1.0)
            yield dataclasses.make_dataclass("E", ["metrics"])({"epoch": epoch, "loss": 0.5})

    monkeypatch.setattr(refits.loop, "fit", fit)
    found = trained_again(prepared, inputs, mean, np.array([1, 3, 4]))
    assert asked == [(2, [1, 3, 4], None), (1, [1, 3, 4], None)]  # the third member is beyond MOST_MEMBERS
    base = base_weights(prepared.encoder, 1)
    for name, value in found.weights.items():
        # two evaluations until epoch 1; the deeper candidate moved only the upper one of the two blocks
        steps = 2.0 if "layer.1." in name else 1.0
        torch.testing.assert_close(value, base[name] + steps)
    assert [member.name for member in found.members] == [candidate.name for candidate in candidates]
    assert found.name == " + ".join(candidate.name for candidate in candidates)
    assert (mean.measured, found.measured, found.config.frozen_layers) == (True, False, 1)


@pytest.mark.parametrize(
    ("members", "taken"),
    [
        (["trial-001", "trial-001-seed-43", "trial-007", "trial-007-seed-43"], ["trial-001", "trial-007"]),
        (["trial-001-seed-43", "trial-001", "trial-002"], ["trial-001-seed-43", "trial-002"]),
        (["trial-001", "trial-001-seed-43", "trial-001-seed-44"], ["trial-001", "trial-001-seed-43"]),
        (["trial-004"], ["trial-004"]),
    ],
)
def test_of_a_mean_two_different_configurations_are_trained_again_where_there_are_two(searched, members, taken):
    prepared, inputs, (candidate,) = searched(1)
    named = []
    for name in members:
        trial, _, seed = name.partition("-seed-")
        own = {"learning_rate": 1e-5 * (1 + int(trial.removeprefix("trial-"))), "seed": int(seed or 42)}
        named.append(dataclasses.replace(candidate, name=name, config=candidate.config.model_copy(update=own)))
    winner = dataclasses.replace(named[0], members=tuple(named) if len(named) > 1 else ())
    asked = []

    def train(members, rows, *, folder, say):
        asked.extend(member.name for member in members)
        return [member.weights for member in members]

    trained_again(prepared, inputs, winner, np.arange(2), train=train)
    assert asked == taken


def test_a_training_that_was_cut_off_resumes_to_the_same_weights(searched, tmp_path):
    prepared, inputs, (candidate,) = searched(1)
    longer = candidate.config.model_copy(update={"epochs": 2})
    candidate = dataclasses.replace(candidate, config=longer, metrics={**candidate.metrics, "epoch": 2.0})
    rows = np.arange(len(prepared.parts))
    whole = trained_again(prepared, inputs, candidate, rows)

    def cut_off(line):
        if "epoch 1.00" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained_again(prepared, inputs, candidate, rows, folder=tmp_path, say=cut_off)
    said = []
    resumed = trained_again(prepared, inputs, candidate, rows, folder=tmp_path, say=said.append)
    assert not any("epoch 1.00" in line for line in said)
    for name, value in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], value, rtol=0, atol=0)
    assert (tmp_path / candidate.name / "training.log").read_text().count("evaluation  ") == 2
    said.clear()
    trained_again(prepared, inputs, candidate, rows, folder=tmp_path, say=said.append)
    assert said == []  # it has ended already


def test_the_model_that_was_trained_on_all_rows_is_exported_if_the_check_passes(searched):
    prepared, inputs, found = asking_for_all(searched(1))
    model, judgement = refit(prepared, inputs, found, None)
    evidence = judgement.evidence["refitted"]
    assert (judgement.evidence["refit"], evidence["objection"], evidence["rows"]) == ("all", "", len(prepared.parts))
    assert evidence["alpha"] == found.evidence["alpha"]
    assert any(not torch.equal(model.weights[name], value) for name, value in found.tuned.weights.items())
    assert (model.measured, model.metrics) == (False, found.tuned.metrics)
    scores = [
        Scorer(prepared, inputs[1]).metrics(own.weights, prepared.rows("train"))[f"{PRIMARY}/macro"]
        for own in (model, found.tuned)
    ]
    assert evidence["training"]["difference"] == pytest.approx(scores[0] - scores[1])


def test_a_failed_training_leaves_the_measured_model(searched, monkeypatch):
    prepared, inputs, found = asking_for_all(searched(1))
    found = dataclasses.replace(found, evidence={**found.evidence, "alpha": 1.0})
    nothing = {name: torch.zeros_like(value) for name, value in found.winner.weights.items()}
    monkeypatch.setattr(refits, "trained_again", in_place_of_training(nothing))
    scores = iter([np.zeros(len(prepared.rows("train"))), np.full(len(prepared.rows("train")), 0.02)])
    monkeypatch.setattr(refits.Scorer, "scores", lambda *_: {PRIMARY: next(scores)})
    said = []
    model, judgement = refit(prepared, inputs, found, None, say=said.append)
    assert model is found.tuned
    assert judgement.evidence["refit"] == "none"
    assert "finds less on the training rows" in judgement.evidence["refitted"]["objection"]
    assert "The model that the figures belong to is exported" in said[-1]


def test_as_much_of_the_base_model_is_mixed_in_as_the_guard_demands(searched, monkeypatch):
    prepared, inputs, found = asking_for_all(searched(1))
    found = dataclasses.replace(found, evidence={**found.evidence, "alpha": 0.9})
    monkeypatch.setattr(refits, "trained_again", in_place_of_training(dict(found.winner.weights)))
    monkeypatch.setattr(refits, "load_general_text", lambda *_: "texts")
    nothing_lost = {"difference": 0.0, "low": None, "high": None, "queries": 1, "passages": 1}
    monkeypatch.setattr(refits, "_on_training_rows", lambda *_: (nothing_lost, []))
    base, far = base_weights(prepared.encoder, 1), found.winner.weights

    def share_of(model):
        name = next(name for name, value in far.items() if not torch.equal(value, base[name]))
        return float(((model.weights[name] - base[name]) / (far[name] - base[name])).nanmedian())

    monkeypatch.setattr(refits, "neighbours_kept", lambda _prepared, _texts, model: 1.0 - share_of(model) / 2)
    limits = prepared.config.guard.model_copy(update={"min_neighbours_kept": 0.74})
    prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"guard": limits}))
    model, judgement = refit(prepared, inputs, found, None)
    assert judgement.evidence["refitted"]["alpha"] == 0.5
    assert judgement.evidence["refitted"]["neighbours_kept"] == pytest.approx(0.75, abs=0.01)
    assert share_of(model) == pytest.approx(0.5, abs=0.01)
    monkeypatch.setattr(refits, "neighbours_kept", lambda *_: 0.7)
    model, judgement = refit(prepared, inputs, found, None)
    assert (model is found.tuned, judgement.evidence["refitted"]["alpha"]) == (True, None)
    assert "forgets more than is allowed" in judgement.evidence["refitted"]["objection"]


def test_a_domain_that_falls_on_the_training_rows_leaves_the_measured_model(searched, monkeypatch):
    prepared, inputs, found = asking_for_all(searched(1))
    monkeypatch.setattr(refits, "trained_again", in_place_of_training(dict(found.winner.weights)))
    monkeypatch.setattr(refits, "falls", lambda *_, **__: ["pumps falls by 0.047"])
    model, judgement = refit(prepared, inputs, found, None)
    assert model is found.tuned
    assert judgement.evidence["refitted"]["objection"] == "on the training rows, pumps falls by 0.047"


def test_it_may_not_forget_much_more_than_the_measured_model(searched, monkeypatch):
    prepared, inputs, found = asking_for_all(searched(1))
    found = dataclasses.replace(
        found, evidence={**found.evidence, "alpha": 1.0, "retention": {"tuned": {"recall_at_5": -0.001}}}
    )
    monkeypatch.setattr(refits, "trained_again", in_place_of_training(dict(found.winner.weights)))
    lost = iter([-0.049, -0.03, -0.02])  # the guard alone would allow 0.05
    monkeypatch.setattr(refits, "retention_of", lambda *_: {"recall_at_5": next(lost)})
    _, judgement = refit(prepared, inputs, found, "a retention set")
    assert judgement.evidence["refitted"]["alpha"] == 0.8


def test_a_training_that_fails_costs_nothing_of_the_search(searched, monkeypatch):
    prepared, inputs, found = asking_for_all(searched(1))

    def fails(*_, **__):
        raise RunError("the loss is not finite")

    monkeypatch.setattr(refits, "trained_again", fails)
    said = []
    assert refit(prepared, inputs, found, None, say=said.append) == (found.tuned, found)
    assert "failed (the loss is not finite); the model that the figures belong to is exported" in said[-1]


def test_what_the_guard_objects_to_is_not_trained_again(searched, monkeypatch):
    prepared, inputs, found = asking_for_all(searched(1))
    guard = {**found.evidence["guard"], "objections": ["one"], "overridden": True}
    found = dataclasses.replace(found, evidence={**found.evidence, "guard": guard})
    monkeypatch.setattr(refits, "trained_again", in_place_of_training({}))
    assert refit(prepared, inputs, found, None) == (found.tuned, found)


def test_without_refit_the_tuned_model_is_exported(searched):
    prepared, inputs, found = asking_for_all(searched(1))
    prepared = dataclasses.replace(prepared, config=prepared.config.model_copy(update={"refit": "none"}))
    assert refit(prepared, inputs, found, None) == (found.tuned, found)


def test_a_reader_is_told_which_model_is_exported():
    found = {
        "rows": 4000,
        "trials": ["trial-001", "trial-004"],
        "alpha": 0.8,
        "training": {"difference": 0.0123, "low": 0.01, "high": 0.02, "queries": 2202, "passages": 240},
        "retention": {"recall_at_5": -0.01},
        "neighbours_kept": 0.831,
        "objection": "",
    }
    assert describe_refit(found) == (
        "trial-001 and trial-004 trained again on the rows of all parts, 4,000 of them, their mean, against the model "
        "that the figures belong to: +0.012 macro Recall@5 on the training rows, -0.010 on the retention set, 83.1% of "
        "the neighbours of general texts kept. It is exported, 80% of the way from the base model to it."
    )
    refused = describe_refit(found | {"objection": "it forgets", "trials": ["trial-001"]})
    assert refused.endswith("The model that the figures belong to is exported, not this one: it forgets.")
