"""From the best trials to an exported folder: means of weights, and numbers that must be found again."""

import dataclasses

import pytest
import torch

from nic_ray import outcome
from nic_ray.activations import feed, frozen_inputs
from nic_ray.config import Config
from nic_ray.encoder import upper_copy
from nic_ray.errors import InputError, RunError
from nic_ray.evaluation import evaluate
from nic_ray.outcome import Candidate, averaged, export, new_run_folder, refuse_other_numbers
from nic_ray.preparation import prepare


@pytest.fixture
def searched(tiny_model, tiny_pairs_file):
    """`searched(*depths)`: what a search has at its end, and a candidate with noise on its blocks for each depth."""

    def make(*depths):
        given = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        train = {"base_model": str(tiny_model(layers=3)), "frozen_layers": depths[0], "max_tokens": 64}
        prepared = prepare(Config.model_validate({"data": given, "train": train}), on_gpu=False)
        inputs = frozen_inputs(prepared.encoder, prepared.tokens, sorted(set(depths)))
        candidates = []
        for number, depth in enumerate(depths):
            part = upper_copy(prepared.encoder, depth, from_ids=False)
            generator = torch.Generator().manual_seed(number)
            weights = {
                name: value + 0.3 * torch.randn(value.shape, generator=generator)
                for name, value in part.trained_state().items()
            }
            part.load_trained_state(weights)
            rows = prepared.rows("validation").tolist()
            metrics = evaluate(part, feed(inputs[depth], "cpu"), prepared.collection, rows)
            settings = prepared.config.train.model_copy(update={"frozen_layers": depth})
            candidates.append(Candidate(f"trial-{number:03d}", settings, metrics | {"epoch": 1.0}, weights))
        return prepared, inputs, candidates

    return make


def scripted(monkeypatch, *found):
    """Let `averaged` find these (objective, MRR) in turn; returns the weights that it asked about."""
    readings, asked = iter(found), []

    def evaluate(part, *_, **__):
        asked.append({name: value.clone() for name, value in part.trained_state().items()})
        return dict(zip(("recall_at_5/macro", "mrr/macro"), next(readings), strict=True))

    monkeypatch.setattr(outcome, "evaluate", evaluate)
    return asked


def test_the_best_trials_are_averaged_as_far_as_each_of_them_helps(searched, monkeypatch):
    prepared, inputs, candidates = searched(1, 1, 1, 1)
    best = candidates[0].metrics["recall_at_5/macro"], candidates[0].metrics["mrr/macro"]
    # the second helps by its MRR, the third does not, the fourth does
    asked = scripted(monkeypatch, (best[0], best[1] + 0.1), (best[0], best[1] + 0.1), (best[0] + 0.1, 0.0))
    found = averaged(prepared, inputs, candidates, "recall_at_5/macro")
    assert found.members == ("trial-000", "trial-001", "trial-003")
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


def test_the_numbers_of_a_mean_are_found_again_in_the_exported_folder(searched, tmp_path):
    prepared, inputs, candidates = searched(1, 2)
    weights = {name: value * 0 for name, value in candidates[0].weights.items()}
    useless = dataclasses.replace(candidates[0], weights=weights, metrics=dict.fromkeys(candidates[0].metrics, 0.0))
    found = averaged(prepared, inputs, [useless, candidates[1]], "recall_at_5/macro")
    assert found.members
    found = dataclasses.replace(found, metrics=found.metrics | {"epoch": 1.0, "step": 3.0})
    written = export(
        prepared, found, {}, tmp_path / "mean", objective="recall_at_5/macro", training_log="", overwrite=False
    )
    assert written["averaged"] == list(found.members)


def test_other_numbers_from_the_exported_folder_are_refused():
    metrics = {"recall_at_5/macro": 0.75, "mrr/macro": 0.6, "recall_at_5/radar": 0.7}
    refuse_other_numbers(metrics, metrics | {"recall_at_5/macro": 0.754, "recall_at_5/radar": 0.0}, 0.005)
    with pytest.raises(RunError, match=r"recall_at_5/macro 0\.7000 instead of 0\.7500; it was not kept"):
        refuse_other_numbers(metrics, metrics | {"recall_at_5/macro": 0.7}, 0.005)
    with pytest.raises(RunError, match=r"mrr/macro nan instead of"):
        refuse_other_numbers(metrics, metrics | {"mrr/macro": float("nan")}, 0.005)


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be made .*; name another place for runs"):
        new_run_folder(tmp_path / "file", "name")
