"""On a GPU as on a CPU: tests that need one, over all rooms. `benchmarks/gpu.py` runs them where one is at hand."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from nic_ray import hardware
from nic_ray.config import Config
from nic_ray.dataset.pairs import index_pairs, read_pairs
from nic_ray.model.activations import feed, frozen_inputs, upper_for
from nic_ray.model.evaluation import evaluate
from nic_ray.progress import View
from nic_ray.record import load_state, save_state
from nic_ray.selection.candidates import best_first, best_of
from nic_ray.selection.export import export
from nic_ray.selection.refit import refit
from nic_ray.selection.retention import load_retention_set, retention_of
from nic_ray.selection.selection import Contestants, judge
from nic_ray.training import graphs, loop
from nic_ray.training.background import on_host, one_at_a_time
from nic_ray.training.in_turn import in_turn
from nic_ray.training.prepared import prepare

pytestmark = pytest.mark.gpu

GPU = "cuda"
OBJECTIVE = "recall_at_5/macro"


@pytest.fixture
def prepared_on(tiny_model, tiny_pairs_file):
    """`prepared_on(device, **train)`: a run of small things in fp32 without dropout."""

    def make(device, **train):
        own = {"base_model": str(tiny_model(layers=3)), "frozen_layers": 1, "max_tokens": 64, "precision": "fp32"}
        own |= {"device": device, "batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "hidden_dropout": 0.0}
        data = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        return prepare(Config.model_validate({"data": data, "train": own | train, "refit": "all"}), on_gpu=True)

    return make


def inputs_at(prepared, *depths):
    return frozen_inputs(prepared.encoder, prepared.tokens, depths, device=prepared.device, bf16=prepared.bf16)


def fitted(prepared, inputs, config=None, state=None, seed=0):
    """The evaluations of a training on the device."""
    config = config or prepared.config.train
    torch.manual_seed(seed)
    part = upper_for(prepared.encoder, inputs).to(prepared.device)
    source, held_back = feed(inputs, prepared.device), prepared.rows("validation").tolist()
    return loop.fit(
        config,
        part,
        loop.TrainingData(prepared.collection, prepared.rows("train"), source, prepared.bf16),
        loop.Validation(
            lambda model: evaluate(model, source, prepared.collection, held_back, bf16=prepared.bf16), OBJECTIVE
        ),
        state=state,
    )


def losses(evaluations):
    return [evaluation.metrics["loss"] for evaluation in evaluations]


@pytest.mark.parametrize("bf16", [False, True])
def test_frozen_blocks_give_what_they_give_on_a_cpu(prepared_on, bf16):
    prepared = prepared_on(GPU)
    found, expected = (
        feed(frozen_inputs(prepared.encoder, prepared.tokens, [2], device=device, bf16=bf16)[2], "cpu").values
        for device in (GPU, "cpu")
    )
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=0.1 if bf16 else 1e-4)


def test_the_base_model_stays_where_it_is(prepared_on):
    prepared = prepared_on(GPU)
    inputs = inputs_at(prepared, 1, 2)
    load_retention_set(prepared, prepared.collection, [1, 2])
    for _ in fitted(prepared, inputs[1]):
        pass
    assert {value.device.type for value in prepared.encoder.model.parameters()} == {"cpu"}


@pytest.mark.parametrize("frozen_layers", [0, 2])
def test_a_training_loses_what_it_loses_on_a_cpu(prepared_on, frozen_layers):
    found, expected = (
        losses(fitted(prepared, inputs_at(prepared, frozen_layers)[frozen_layers]))
        for prepared in (prepared_on(device, frozen_layers=frozen_layers) for device in (GPU, "cpu"))
    )
    assert found == pytest.approx(expected, rel=1e-3)
    assert found[-1] < found[0]


def test_a_batch_in_small_chunks_gives_the_gradients_of_the_whole_one(prepared_on):
    whole, parts = (
        losses(fitted(prepared, inputs_at(prepared, 1)[1]))
        for prepared in (prepared_on(GPU, batch_size=24, micro_batch_tokens=limit) for limit in (32768, 256))
    )
    assert parts == pytest.approx(whole, rel=1e-3)


def test_a_training_that_was_cut_off_ends_where_one_that_was_not_does(prepared_on):
    prepared = prepared_on(GPU, hidden_dropout=0.2)
    inputs = inputs_at(prepared, 1)[1]
    whole = losses(fitted(prepared, inputs))
    first = next(iter(fitted(prepared, inputs)))
    assert losses(fitted(prepared, inputs, state=first.state, seed=1)) == pytest.approx(whole[1:], rel=1e-3)


def test_in_16_bits_a_training_learns(prepared_on):
    prepared = prepared_on(GPU, precision="bf16", epochs=4)
    found = losses(fitted(prepared, inputs_at(prepared, 1)[1]))
    assert all(later < earlier for earlier, later in pairwise(found))


def test_without_padding_a_training_loses_what_it_loses_with_it(prepared_on, monkeypatch):
    prepared = prepared_on(GPU, precision="bf16")
    inputs = inputs_at(prepared, 1)[1]
    packed = losses(fitted(prepared, inputs))
    monkeypatch.setattr(hardware, "attends_packed", lambda _: False)
    assert losses(fitted(prepared, inputs)) == pytest.approx(packed, rel=0.03)


@pytest.mark.parametrize("frozen_layers", [0, 1])
def test_a_training_by_recorded_steps_loses_what_it_loses_without(prepared_on, monkeypatch, frozen_layers):
    captures = []
    own = graphs._captured
    monkeypatch.setattr(graphs, "_captured", lambda step: captures.append(1) or own(step))
    found = []
    for recorded in (False, True):
        prepared = prepared_on(GPU, precision="bf16", cuda_graphs=recorded, frozen_layers=frozen_layers)
        found.append(losses(fitted(prepared, inputs_at(prepared, frozen_layers)[frozen_layers])))
    assert captures
    assert found[1] == pytest.approx(found[0], rel=0.03)


def test_dropout_differs_from_one_recorded_step_to_the_next(prepared_on):
    prepared = prepared_on(GPU, precision="bf16", cuda_graphs=True, hidden_dropout=0.5, learning_rate=1e-9)
    inputs = inputs_at(prepared, 1)[1]
    config = prepared.config.train
    upper = upper_for(prepared.encoder, inputs).to(GPU)
    data = loop.TrainingData(prepared.collection, prepared.rows("train"), feed(inputs, GPU), prepared.bf16)
    training = loop.new_training(config, upper, data)
    found = [loop.train_step(training, data.rows[:8])[0].item() for _ in range(6)]
    assert len(set(found)) == 6


@pytest.mark.parametrize("recorded", [False, True])
def test_trainings_in_turn_on_their_streams_give_what_each_gives_alone(prepared_on, recorded):
    prepared = prepared_on(GPU, precision="bf16", hidden_dropout=0.2, cuda_graphs=recorded)
    inputs = inputs_at(prepared, 1)[1]
    data = loop.TrainingData(prepared.collection, prepared.rows("train"), feed(inputs, GPU), prepared.bf16)
    configs = {f"seed {seed}": prepared.config.train.model_copy(update={"seed": seed}) for seed in range(3)}

    def training_of(config):
        return loop.fit_by_steps(config, upper_for(prepared.encoder, inputs).to(GPU), data, loop.UNJUDGED)

    alone = {name: losses(filter(None, training_of(config))) for name, config in configs.items()}
    found = {name: [] for name in configs}
    trainings = {name: training_of(config) for name, config in configs.items()}
    for name, evaluation in in_turn(trainings, torch.device(GPU)):
        found[name].append(evaluation.metrics["loss"])
    for name, each in found.items():
        assert each == pytest.approx(alone[name], rel=0.01)


def test_a_state_that_is_copied_while_the_training_goes_on_is_that_of_its_evaluation(prepared_on, tmp_path):
    prepared = prepared_on(GPU, hidden_dropout=0.2)
    inputs = inputs_at(prepared, 1)[1]
    whole = losses(fitted(prepared, inputs))
    evaluations = fitted(prepared, inputs)
    with one_at_a_time(threaded=True) as hand_over:
        copied = on_host(next(evaluations).state)
        hand_over(lambda: save_state(copied(), tmp_path))
        next(evaluations)
    assert losses(fitted(prepared, inputs, state=load_state(tmp_path), seed=1)) == pytest.approx(whole[1:], rel=1e-3)


def test_a_model_is_judged_trained_again_on_all_rows_and_exported(prepared_on, tiny_pairs_file, tmp_path):
    prepared = prepared_on(GPU)
    inputs = inputs_at(prepared, 1, 2)
    trained = []
    for depth, own in inputs.items():
        config = prepared.config.train.model_copy(update={"frozen_layers": depth})
        *_, last = fitted(prepared, own, config)
        trained.append(best_of(f"depth-{depth}", config, last.state))
    retention_set = load_retention_set(prepared, index_pairs(read_pairs(tiny_pairs_file)), [1, 2])
    assert all(np.isfinite(retention_of(prepared, retention_set, each)["recall_at_5"]) for each in trained)
    best = best_first(trained, OBJECTIVE)
    judgement = judge(
        prepared,
        inputs,
        Contestants({"first trial": trained[0]}, best, []),
        retention_set,
        export_anyway=True,
        say=lambda _: None,
    )
    again, judgement = refit(prepared, inputs, judgement, retention_set)
    assert any(
        not torch.equal(again.weights[name].cpu(), value.cpu()) for name, value in judgement.tuned.weights.items()
    )
    assert (judgement.tuned.measured, again.measured) == (True, False)
    evidence = {"results": judgement.results, **judgement.evidence}
    for name, candidate in (("tuned", judgement.tuned), ("again", again)):
        metadata = export(
            prepared, candidate, evidence, tmp_path / name, training_log="", overwrite=False, view=View()
        )  # fmt: skip
        assert (tmp_path / name / "model.safetensors").exists()
        assert metadata["trial"] == candidate.name
