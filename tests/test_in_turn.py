"""Trainings that take steps in turn give what each gives alone, and one that fails takes no other with it."""

import numpy as np
import pytest
import torch

from nic_ray.dataset.pairs import index_pairs
from nic_ray.errors import RunError
from nic_ray.model.activations import feed, frozen_inputs, token_inputs
from nic_ray.model.base import load
from nic_ray.model.encoder import upper
from nic_ray.train_config import TrainConfig
from nic_ray.training.in_turn import in_turn
from nic_ray.training.loop import UNJUDGED, TrainingData, fit, fit_by_steps

CPU = torch.device("cpu")
CONFIGS = {
    name: TrainConfig(
        frozen_layers=depth, batch_size=batch_size, epochs=2, learning_rate=rate, max_tokens=64, precision="fp32",
        hidden_dropout=0.2, attention_dropout=0.1, evaluations_per_epoch=2, seed=seed,
    )
    for name, depth, batch_size, rate, seed in (("a", 1, 8, 1e-3, 1), ("b", 1, 12, 2e-3, 2), ("c", 0, 16, 1e-4, 1))
}  # fmt: skip


@pytest.fixture
def given(tiny_model_folder, tiny_pairs):
    """`given(name)`: what a training of CONFIGS is given."""
    encoder, collection = load(str(tiny_model_folder)), index_pairs(tiny_pairs)
    tokens = token_inputs(encoder, collection.texts, 64)

    def make(name):
        config = CONFIGS[name]
        source = feed(frozen_inputs(encoder, tokens, [config.frozen_layers])[config.frozen_layers], "cpu")
        return config, upper(encoder, config.frozen_layers), TrainingData(collection, np.arange(48), source), UNJUDGED

    return make


def told(evaluations) -> list[dict[str, float]]:
    return [each.metrics | {"pairs_per_second": 0.0} for each in evaluations]


def test_each_training_gives_what_it_gives_alone(given):
    alone = {name: told(fit(*given(name))) for name in CONFIGS}
    found = {name: [] for name in CONFIGS}
    order = []
    for name, evaluation in in_turn({name: fit_by_steps(*given(name)) for name in CONFIGS}, CPU):
        found[name].append(evaluation)
        order.append(name)
    assert {name: told(each) for name, each in found.items()} == alone
    assert len(set(order[:3])) > 1  # none waits until another has ended


def test_a_training_that_fails_ends_alone(given):
    trainings = {name: fit_by_steps(*given(name)) for name in CONFIGS}
    config, part, data, judged = given("a")
    with torch.no_grad():
        next(part.parameters()).fill_(float("nan"))
    trainings["a"] = fit_by_steps(config, part, data, judged)
    found = list(in_turn(trainings, CPU))
    errors = [(name, str(each)) for name, each in found if isinstance(each, RunError)]
    assert [name for name, _ in errors] == ["a"]
    assert "not finite at step 1" in errors[0][1]
    assert {name: len([1 for other, _ in found if other == name]) for name in "bc"} == {"b": 4, "c": 4}


def test_between_two_evaluations_a_training_yields_nothing_after_each_step(given):
    found = list(fit_by_steps(*given("b")))
    assert [each is not None for each in found] == [False, True] * 4
