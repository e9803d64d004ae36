"""Low-rank adapters: where they are put, what trains, and that merged weights embed as the adapted part did."""

import importlib.util
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from nic_ray.config import Config
from nic_ray.errors import InputError, RunError
from nic_ray.model.activations import Inputs, feed, frozen_inputs, upper_for
from nic_ray.model.adapters import add_adapters, refuse_without_peft, weights_of
from nic_ray.model.encoder import base_weights, whole, with_weights
from nic_ray.model.evaluation import embed, evaluate
from nic_ray.progress import View
from nic_ray.record import load_state, save_state
from nic_ray.search.starts import starting_points
from nic_ray.selection.candidates import best_of
from nic_ray.selection.export import export
from nic_ray.study import draw, is_conditional, sampler
from nic_ray.train_config import drawn
from nic_ray.training.loop import TrainingData, Validation, fit, weights_in
from nic_ray.training.prepared import Prepared, prepare

OBJECTIVE = "recall_at_5/macro"
KINDS = ["bert", "mpnet", "Qwen3"]
RANK = 3


@pytest.fixture
def prepared(tiny_model, family_model, tiny_pairs_file):
    """`prepared(kind, depth)`: what a training of adapters is given."""

    def make(kind: str, depth: int) -> Prepared:
        base = family_model(kind) if kind == "Qwen3" else tiny_model(kind, 3)
        train = {
            "base_model": str(base), "frozen_layers": depth, "max_tokens": 64, "precision": "fp32", "batch_size": 8,
            "epochs": 1, "evaluations_per_epoch": 2, "method": "lora", "lora_rank": RANK, "lora_learning_rate": 0.01,
            "hidden_dropout": 0.0,
        }  # fmt: skip
        data = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        guard = {"retention_set": None, "min_neighbours_kept": 0}
        return prepare(Config.model_validate({"data": data, "train": train, "guard": guard}), on_gpu=False)

    return make


def inputs_of(prepared: Prepared) -> Inputs:
    depth = prepared.config.train.frozen_layers
    return frozen_inputs(prepared.encoder, prepared.tokens, [depth])[depth]


def trained(prepared: Prepared, inputs: Inputs, state=None, **settings):
    source, rows = feed(inputs, "cpu"), prepared.rows("validation").tolist()
    return fit(
        prepared.config.train.model_copy(update=settings),
        upper_for(prepared.encoder, inputs),
        TrainingData(prepared.collection, prepared.rows("train"), source),
        Validation(lambda model: evaluate(model, source, prepared.collection, rows), OBJECTIVE),
        state=state,
    )


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_no_embedding_and_train_alone(prepared, kind, depth):
    ready = prepared(kind, depth)
    inputs = inputs_of(ready)
    part, texts = upper_for(ready.encoder, inputs), np.arange(12)
    before, names = embed(part, feed(inputs, "cpu"), texts), set(part.trained_state())
    add_adapters(part, rank=RANK, alpha=6.0, seed=1)
    np.testing.assert_allclose(embed(part, feed(inputs, "cpu"), texts), before, atol=1e-6)
    assert all(".lora_A." in name or ".lora_B." in name for name in part.trained_state())
    merged = weights_of(part)
    assert set(merged) == names
    base = base_weights(ready.encoder, depth)
    assert all(torch.equal(merged[name], base[name]) for name in names)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_embed_as_the_adapted_part_and_differ_by_a_low_rank(prepared, kind, depth):
    ready = prepared(kind, depth)
    inputs = inputs_of(ready)
    *_, last = trained(ready, inputs)
    winner = best_of("trial", ready.config.train, last.state)
    base = base_weights(ready.encoder, depth)
    moved = {name: value - base[name] for name, value in winner.weights.items() if not torch.equal(value, base[name])}
    assert moved
    assert all(value.ndim == 2 and torch.linalg.matrix_rank(value, rtol=1e-4) <= RANK for value in moved.values())

    part = upper_for(ready.encoder, inputs)
    weights = weights_in(last.state, part, ready.config.train)
    texts = np.arange(len(ready.collection.texts))
    adapted = embed(part, feed(inputs, "cpu"), texts)
    tuned = with_weights(ready.encoder, depth, weights)
    np.testing.assert_allclose(embed(whole(tuned), feed(ready.tokens, "cpu"), texts), adapted, atol=1e-5)
    assert np.abs(embed(whole(ready.encoder), feed(ready.tokens, "cpu"), texts) - adapted).max() > 1e-3


def test_a_training_of_adapters_resumes_and_repeats_by_its_seed(prepared, tmp_path):
    ready = prepared("bert", 1)
    inputs = inputs_of(ready)
    evaluations = trained(ready, inputs)
    first = next(evaluations)
    save_state(first.state, tmp_path)
    (last,) = evaluations
    (again,) = trained(ready, inputs, load_state(tmp_path))
    assert again.metrics["loss"] == pytest.approx(last.metrics["loss"], abs=1e-6)
    repeated = [each.metrics["loss"] for each in trained(ready, inputs)]
    assert repeated == [first.metrics["loss"], last.metrics["loss"]]
    assert [each.metrics["loss"] for each in trained(ready, inputs, seed=7)] != repeated


def test_what_was_trained_by_adapters_is_exported_as_a_plain_model(prepared, tmp_path):
    ready = prepared("bert", 1)
    *_, last = trained(ready, inputs_of(ready))
    winner = best_of("trial", ready.config.train, last.state)
    written = export(ready, winner, {"results": {}}, tmp_path / "out", training_log="", overwrite=False, view=View())
    assert written["config"]["method"] == "lora"
    assert not [path for path in Path(tmp_path / "out").rglob("*") if "adapter" in path.name]


def test_adapters_need_a_layer_and_the_package(prepared, monkeypatch):
    ready = prepared("bert", 1)
    part = upper_for(ready.encoder, inputs_of(ready)).requires_grad_(False)
    with pytest.raises(RunError, match=r"train\.method: lora finds no linear layer among the blocks that train"):
        add_adapters(part, rank=1, alpha=1.0, seed=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"lora needs the package peft; install it with: pip install .*\[lora\]"):
        refuse_without_peft()


SPACE = {
    "method": {"choice": ["blocks", "lora"]},
    "learning_rate": {"log_uniform": [1e-5, 1e-3]},
    "lora_rank": {"choice": [4, 16]},
    "lora_learning_rate": {"log_uniform": [1e-4, 1e-2]},
    "scale": {"uniform": [10, 40]},
}


def test_a_trial_draws_what_goes_with_its_method_and_nothing_else():
    config = Config.model_validate({"space": SPACE})
    assert is_conditional(config.space)
    assert not is_conditional({name: each for name, each in config.space.items() if name != "method"})
    study = optuna.create_study(sampler=sampler(config.search, 0, conditional=True), direction="maximize")

    def value(trial: optuna.Trial) -> float:
        draw(trial, config.space)
        return trial.params["scale"] / 40 + (trial.params["method"] == "lora")

    study.optimize(value, n_trials=25)
    own = {
        "blocks": {"method", "learning_rate", "scale"},
        "lora": {"method", "lora_rank", "lora_learning_rate", "scale"},
    }
    assert {trial.params["method"] for trial in study.trials} == set(own)
    for trial in study.trials:
        assert set(trial.params) == own[trial.params["method"]]
        assert all(config.space[name].contains(each) for name, each in trial.params.items())


def test_a_count_of_frozen_blocks_is_drawn_where_no_share_counts():
    space = {"frozen_layers": {"choice": [2, 4]}, "frozen_share": {"choice": [0.5, None]}}
    config = Config.model_validate({"space": space, "train": {"frozen_share": 0.5}})
    assert is_conditional(config.space)
    study = optuna.create_study(sampler=sampler(config.search, 0, conditional=True), direction="maximize")
    study.optimize(lambda trial: (draw(trial, config.space), 1.0)[1], n_trials=12)
    assert {trial.params["frozen_share"] for trial in study.trials} == {0.5, None}
    for trial in study.trials:
        assert ("frozen_layers" in trial.params) == (trial.params["frozen_share"] is None)


def test_starts_hold_what_goes_with_their_method():
    starts = [{"method": "lora", "lora_rank": 4}]
    config = Config.model_validate({"space": SPACE, "search": {"starts": starts}})
    first, second = starting_points(config)
    assert first == {"method": "blocks", "learning_rate": 2e-5, "scale": 20.0}
    assert second == {"method": "lora", "lora_rank": 4, "lora_learning_rate": 1e-3, "scale": 20.0}
    assert drawn(["scale"], {"scale": 1.0, "lora_rank": 3}, "blocks") == {"scale": 1.0}


def test_a_start_that_differs_in_what_does_not_count_is_no_trial_of_its_own():
    for space, start in (
        (SPACE, {"lora_rank": 4}),
        ({"frozen_share": {"choice": [0.5, None]}, "frozen_layers": {"choice": [2, 4]}}, {"frozen_layers": 2}),
    ):
        train = {"frozen_share": 0.5} if "frozen_share" in space else {}
        with pytest.raises(
            ValueError, match=r"search\.starts\[0\]: must differ .* by what counts with its other values"
        ):
            Config.model_validate({"space": space, "train": train, "search": {"starts": [start]}})


def test_a_hyperparameter_without_effect_is_refused():
    with pytest.raises(ValueError, match=r"space\.lora_rank: must go with train\.method, which is blocks"):
        Config.model_validate({"space": {"lora_rank": {"choice": [8, 16]}}})
    Config.model_validate({"space": {"lora_rank": {"choice": [8, 16]}}, "train": {"method": "lora"}})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Config.model_validate({"train": {"lora_rank": 0}})
