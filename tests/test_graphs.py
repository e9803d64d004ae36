"""Steps that would be recorded: rounded up, they compute what the others compute. Recording itself needs a GPU."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from nic_ray.dataset.pairs import index_pairs, relevant_passages
from nic_ray.model.activations import Inputs, feed, frozen_inputs, token_inputs
from nic_ray.model.base import load
from nic_ray.model.cut import set_dropout
from nic_ray.model.encoder import upper
from nic_ray.train_config import TrainConfig
from nic_ray.training import graphs
from nic_ray.training.batches import make_batch
from nic_ray.training.gradients import accumulate_gradients
from nic_ray.training.graphs import loss_of, rounded
from nic_ray.training.loop import UNJUDGED, TrainingData, fit
from nic_ray.training.loss import LOSSES
from tests.declared_device import declared

CONFIG = TrainConfig(
    frozen_layers=1, batch_size=12, epochs=3, learning_rate=1e-3, max_tokens=64, precision="fp32", anchor=2.0,
    hidden_dropout=0.0, evaluations_per_epoch=2,
)  # fmt: skip


@pytest.fixture
def given(tiny_model_folder, tiny_pairs):
    """`given(depth, device)`: a part without dropout, its inputs and the collection."""
    encoder, collection = load(str(tiny_model_folder)), index_pairs(tiny_pairs)
    tokens = token_inputs(encoder, collection.texts, 64)

    def make(depth, device="cpu", leading=0):
        inputs = frozen_inputs(encoder, tokens, [depth])[depth]
        if leading:
            inputs = Inputs(inputs.values, inputs.offsets, depth, np.full(len(inputs.lengths), leading))
        part = upper(encoder, depth).to(device).train()
        set_dropout(part, attention=0.0, hidden=0.0)
        return part, feed(inputs, device), collection

    return make


@pytest.mark.parametrize("loss", ["ranking", "symmetric"])
@pytest.mark.parametrize(("depth", "leading"), [(0, 0), (1, 0), (1, 2)])
def test_a_rounded_batch_has_the_loss_and_the_gradients_of_the_batch(given, loss, depth, leading):
    part, source, collection = given(depth, leading=leading)
    batch = make_batch(collection, relevant_passages(collection), np.arange(12), 1)
    targets = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    batch = dataclasses.replace(batch, held=np.arange(5), targets=targets)
    found = []
    for way in ("whole", "rounded"):
        part.zero_grad()
        if way == "whole":
            value = accumulate_gradients(part, source, batch, CONFIG, loss=LOSSES[loss])
        else:
            value = loss_of(part, source, rounded(source, batch), CONFIG, LOSSES[loss])
            value.backward()
        found.append((value.item(), {name: each.grad for name, each in part.named_parameters() if each.requires_grad}))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("family", ["BERT", "RoBERTa"])
def test_texts_without_tokens_that_round_a_batch_up_have_no_positions(family_model, tiny_pairs, family):
    encoder, collection = load(str(family_model(family))), index_pairs(tiny_pairs)
    source = feed(token_inputs(encoder, collection.texts, 64), "cpu")
    part = upper(encoder, 0)
    batch = make_batch(collection, relevant_passages(collection), np.arange(12), 1)
    given = rounded(source, batch)
    assert 0 in given.lengths
    values = loss_of(part, source, given, CONFIG, LOSSES["ranking"])
    expected = accumulate_gradients(part, source, batch, CONFIG, loss=LOSSES["ranking"])
    assert values.item() == pytest.approx(expected.item(), rel=1e-5)


def test_batches_are_rounded_up_to_few_sizes(given):
    _, source, collection = given(1)
    relevant, draws = relevant_passages(collection), np.random.default_rng(0)
    batches = [make_batch(collection, relevant, draws.permutation(48)[:12], 1) for _ in range(20)]
    exact = {(source.lengths[each.texts].sum(), len(each.passages)) for each in batches}
    sizes = {rounded(source, each).sizes for each in batches}
    assert len(exact) > 10 > 2 >= len(sizes)
    for each in batches:
        found = rounded(source, each)
        tokens, bounds, passages = found.sizes[0], found.sizes[3], found.sizes[5]
        assert (tokens % graphs.TOKENS, (bounds - 1) % graphs.TEXTS, passages % graphs.PASSAGES) == (0, 0, 0)
        assert max(found.lengths) <= found.longest == source.lengths.max()
        assert sum(found.lengths) == tokens


def losses_of(part, source, collection, **changes) -> list[float]:
    config = CONFIG.model_copy(update={"anchor": 0.0} | changes)
    data = TrainingData(collection, np.arange(48), source, bf16=True)
    return [each.metrics["loss"] for each in fit(config, part, data, UNJUDGED)]


def test_a_training_by_recorded_steps_loses_what_it_loses_without(given, monkeypatch):
    replayed = []

    def recorded(step, pool):
        return lambda: replayed.append(1) or step(), pool

    monkeypatch.setattr(graphs, "_captured", recorded)
    with declared():
        plain = losses_of(*given(1, "cuda"))
        assert not replayed
        by_graphs = losses_of(*given(1, "cuda"), cuda_graphs=True)
    assert len(replayed) >= 8  # of twelve steps; the first one of each size is taken without
    assert by_graphs == pytest.approx(plain, rel=0.03)  # in 16 bits, in another order of summation
    assert plain[-1] < plain[0]


def test_a_step_of_more_tokens_than_may_be_held_at_once_is_not_recorded(given, monkeypatch):
    replayed = []
    monkeypatch.setattr(graphs, "_captured", lambda step: lambda: replayed.append(1) or step())
    with declared():
        plain = losses_of(*given(1, "cuda"), micro_batch_tokens=128)
        few = losses_of(*given(1, "cuda"), micro_batch_tokens=128, cuda_graphs=True)
    assert not replayed
    assert few == pytest.approx(plain, rel=1e-3)


def test_where_memory_does_not_suffice_to_record_a_step_the_training_goes_on_without(given, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="nic_ray.training")

    def fails(step, _):
        step()  # which leaves gradients
        raise torch.OutOfMemoryError

    monkeypatch.setattr(graphs, "_captured", fails)
    monkeypatch.setattr(graphs.GraphedSteps, "_step", lambda steps, given, config: leave_gradients(steps.upper))
    with declared():
        plain = losses_of(*given(1, "cuda"))
        found = losses_of(*given(1, "cuda"), cuda_graphs=True)
    assert found == pytest.approx(plain, rel=1e-3)
    assert sum("without CUDA graphs" in line for line in caplog.messages) == 1


def leave_gradients(part) -> None:
    for value in part.parameters():
        if value.requires_grad:
            value.grad = torch.ones_like(value)


def test_a_training_whose_steps_cannot_be_recorded_says_so_and_goes_on(given, caplog):
    caplog.set_level(logging.INFO, logger="nic_ray.training")
    assert losses_of(*given(1), cuda_graphs=True) == losses_of(*given(1))
    assert sum("cuda_graphs: not used" in line for line in caplog.messages) == 1


def test_a_training_goes_on_with_recorded_steps_and_without(given, monkeypatch):
    monkeypatch.setattr(graphs, "_captured", lambda step, pool: (step, pool))
    found = {}
    with declared():
        for begins, ends in ((False, False), (True, False), (False, True)):
            part, source, collection = given(1, "cuda")
            data = TrainingData(collection, np.arange(48), source, bf16=True)
            config = CONFIG.model_copy(update={"anchor": 0.0, "cuda_graphs": begins})
            state = next(fit(config, part, data, UNJUDGED)).state
            other = given(1, "cuda")[0]
            config = config.model_copy(update={"cuda_graphs": ends})
            found[begins, ends] = [each.metrics["loss"] for each in fit(config, other, data, UNJUDGED, state=state)]
    assert len(found[False, False]) == 5
    for losses in found.values():
        assert losses == pytest.approx(found[False, False], rel=0.03)
