"""Training: its gradients against plain autograd, and the course it takes, stops and goes on at."""

import copy
import dataclasses
import io
import itertools
import logging
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from nic_ray.config_file import load_config
from nic_ray.dataset.pairs import Pair, index_pairs, read_pairs, relevant_passages
from nic_ray.errors import RunError
from nic_ray.model.activations import (
    CHUNK_TOKENS,
    LEAST_TOKENS,
    feed,
    frozen_inputs,
    padded_batch,
    token_inputs,
    upper_for,
)
from nic_ray.model.base import load
from nic_ray.model.cut import set_dropout
from nic_ray.model.encoder import upper, with_weights
from nic_ray.model.evaluation import embed, evaluate
from nic_ray.record import CHECKPOINT, BestState, TrainingState, load_state, save_state
from nic_ray.train_config import TrainConfig
from nic_ray.training import gradients as gradients_room
from nic_ray.training import loop
from nic_ray.training.batches import GeneralTexts, batches_of_epoch, make_batch
from nic_ray.training.gradients import accumulate_gradients, trained_parameters
from nic_ray.training.loop import UNJUDGED, TrainingData, Validation, fit, new_training, train_step
from nic_ray.training.loss import multiple_negatives_ranking_loss
from nic_ray.training.prepared import divide
from nic_ray.training.schedule import rate_factor

ROOT = Path(__file__).parent.parent
OBJECTIVE = "recall_at_5/macro"
# 48 rows: six batches an epoch, and an evaluation after each of them.
CONFIG = TrainConfig(
    frozen_layers=1,
    epochs=4,
    batch_size=8,
    evaluations_per_epoch=6,
    hidden_dropout=0.0,
    max_tokens=64,
    precision="fp32",
)


def changed(**settings) -> TrainConfig:
    return CONFIG.model_copy(update=settings)


def steady(part) -> dict[str, float]:
    """An evaluation that finds nothing new."""
    return {OBJECTIVE: 0.5, "mrr/macro": 0.5}


def scripted(*found):
    """Evaluations that give these objectives, or pairs of objective and MRR, in turn."""
    readings = iter(found)

    def read(part) -> dict[str, float]:
        objective, mrr = next(readings) if isinstance(found[0], tuple) else (next(readings), 0.0)
        return {OBJECTIVE: objective, "mrr/macro": mrr}

    return read


def fitted(config, collection, rows, part, source, evaluate, *, bf16=False, **options):
    """The evaluations of a training of `part`."""
    data = TrainingData(collection, np.asarray(rows), source, bf16)
    return fit(config, part, data, Validation(evaluate, OBJECTIVE), **options)


def work_with(monkeypatch, group) -> None:
    """Let a training take `group` for its process group."""
    for room in (loop, gradients_room):
        monkeypatch.setattr(room, "dist", group)


@pytest.fixture(autouse=True)
def on_one_thread(threads) -> None:
    """More threads round differently."""
    threads(1)


@pytest.fixture
def prepared(tiny_model, tiny_pairs):
    """`prepared(config, ...)`: what `fit` needs of a fresh two-layer model, and the model itself."""

    def prepare(config=CONFIG, *, from_ids=False, model_type="bert", layers=2, pairs=tiny_pairs):
        encoder, collection = load(str(tiny_model(model_type, layers))), index_pairs(pairs)
        tokens = token_inputs(encoder, collection.texts, config.max_tokens)
        depth = 0 if from_ids else config.frozen_layers
        source = feed(frozen_inputs(encoder, tokens, [depth])[depth], "cpu")
        return encoder, collection, upper(encoder, config.frozen_layers, from_ids=from_ids), source

    return prepare


@pytest.fixture
def train(prepared):
    """`train(config, ...)`: the evaluations of a fresh model's training, all or the first so many."""

    def run(config=CONFIG, evaluate=steady, *, rows=range(48), state=None, bf16=False, first=None, **kind):
        _, collection, part, source = prepared(config, **kind)
        training = fitted(config, collection, rows, part, source, evaluate, state=state, bf16=bf16)
        return list(itertools.islice(training, first))

    return run


def losses(evaluations) -> list[float]:
    return [evaluation.metrics["loss"] for evaluation in evaluations]


def gradients(part) -> dict[str, torch.Tensor]:
    """A copy of what has been accumulated, which is then cleared."""
    found = {name: value.grad.clone() for name, value in part.named_parameters() if value.requires_grad}
    part.zero_grad()
    return found


def assert_same_gradients(found, expected, *, rtol=1e-4) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        # A key's bias moves all logits of a softmax alike: its gradient is 0 but for rounding.
        close = torch.allclose(gradient, expected[name], rtol=rtol, atol=2e-6)
        assert close, f"{name} is off by {(gradient - expected[name]).abs().max():.2g}"
    assert max(gradient.abs().max() for gradient in found.values()) > 1e-3


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("model_type", ["bert", "mpnet", "xlm-roberta"])
def test_gradients_are_those_of_sentence_transformers_when_no_passage_repeats(prepared, tiny_pairs, model_type, depth):
    config = changed(frozen_layers=depth)
    encoder, collection, part, source = prepared(config, model_type=model_type)
    rows = np.arange(0, 48, 4)  # passages 0, 2, 4, ... whose hard negatives are 1, 3, 5, ...
    batch = make_batch(collection, relevant_passages(collection), rows, 1)
    assert (len(batch.passages), batch.masked.any()) == (24, False)
    part.train()
    set_dropout(part, attention=0.0, hidden=0.0)
    loss = accumulate_gradients(part, source, batch, config)
    grads = {
        n.removeprefix("transformer.").removeprefix("model."): p.grad
        for n, p in part.named_parameters()
        if p.grad is not None
    }
    # above the cut the blocks are counted from there
    found = {n.replace("layer.0.", "layer.1.") if depth else n: grad.clone() for n, grad in grads.items()}

    model = load(encoder.name).model.eval()
    chosen = [tiny_pairs[row] for row in rows]
    texts = [each.query for each in chosen] + [each.positive for each in chosen]
    texts += [each.negatives[0] for each in chosen]
    padded = model.tokenizer(texts, padding=True, return_tensors="pt")
    whole = model({key: padded[key] for key in ("input_ids", "attention_mask")})["sentence_embedding"]
    reference = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0).compute_loss_from_embeddings(
        list(whole.chunk(3)), labels=torch.empty(0)
    )
    reference.backward()
    expected = {n: p.grad for n, p in model[0].auto_model.named_parameters() if n in found}
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert any("layer.1" in name for name in found)
    assert any("word_embeddings" in name for name in found) == (depth == 0)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("hidden", [0.0, 0.3])
@pytest.mark.parametrize("attention", [0.0, 0.3])
def test_gradients_of_a_cached_batch_are_those_of_one_that_is_not(prepared, monkeypatch, hidden, attention):
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 100)
    _, collection, part, source = prepared()
    batch = make_batch(collection, relevant_passages(collection), np.arange(32), 1)
    part.train()
    set_dropout(part, attention=attention, hidden=hidden)
    runs = []
    part.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    found, after = [], []
    for tokens in (10**6, 256):
        torch.manual_seed(7)
        loss = accumulate_gradients(part, source, batch, changed(micro_batch_tokens=tokens))
        found.append(gradients(part) | {"loss": loss})
        after.append(torch.get_rng_state())
    once = len(runs) // 3
    assert once > 3  # several chunks; cached, they run without a gradient first
    assert runs == [True] * once + [False] * once + [True] * once
    assert_same_gradients(found[1], found[0])
    assert torch.equal(after[0], after[1])


GENERAL = tuple(f"a general text about {what}" for what in ("birds", "tea", "rain", "chess", "bread", "snow"))


def held(encoder, collection, config, depth=1):
    """Inputs of a collection's texts and of general ones behind them, and the general ones by the base model."""
    tokens = token_inputs(encoder, (*collection.texts, *GENERAL), config.max_tokens)
    source = feed(frozen_inputs(encoder, tokens, [depth])[depth], "cpu")
    numbers = np.arange(len(collection.texts), len(collection.texts) + len(GENERAL))
    return source, GeneralTexts(numbers, embed(upper(encoder, depth), source, numbers))


@pytest.mark.parametrize("tokens", [10**6, 256])
def test_holding_adds_the_distance_from_the_base_models_embeddings(prepared, tokens):
    config = changed(anchor=2.5, micro_batch_tokens=tokens)
    encoder, collection, part, _ = prepared(config)
    source, general = held(encoder, collection, config)
    with torch.no_grad():  # away from the base model
        for value in trained_parameters(part):
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    plain = make_batch(collection, relevant_passages(collection), np.arange(16), 1)
    batch = make_batch(collection, relevant_passages(collection), np.arange(16), 1, general)
    part.eval()
    loss, alone = (accumulate_gradients(part, source, each, config).item() for each in (batch, plain))
    part.zero_grad()
    accumulate_gradients(part, source, batch, config)
    found = gradients(part)

    accumulate_gradients(part, source, plain, config)
    embedded = part(*padded_batch(source, general.texts))
    distance = 1 - torch.cosine_similarity(embedded, torch.from_numpy(general.embeddings)).mean()
    (2.5 * distance).backward()
    assert distance > 0.001
    assert loss == pytest.approx(alone + 2.5 * distance.item(), rel=1e-5)
    assert_same_gradients(found, gradients(part))


def test_a_training_that_holds_general_texts_moves_them_less(prepared):
    moved, drawn = {}, []
    for anchor in (0.0, 10.0):
        config = changed(anchor=anchor, anchor_texts=4, epochs=4, learning_rate=1e-3)
        encoder, collection, part, _ = prepared(config)
        source, general = held(encoder, collection, config)
        data = TrainingData(collection, np.arange(48), source, general=general)
        training = fit(config, part, data, Validation(steady, OBJECTIVE))
        state = copy.deepcopy(next(training).state)
        expected = losses(training)
        after = embed(part, source, general.texts)
        cosines = (after * general.embeddings).sum(1) / np.linalg.norm(after, axis=1)
        moved[anchor] = 1 - (cosines / np.linalg.norm(general.embeddings, axis=1)).mean()
        # resumed after the first evaluation, the same texts are drawn
        fresh = prepared(config)[2]
        drawn.append((losses(fit(config, fresh, data, Validation(steady, OBJECTIVE), state=state)), expected))
    assert moved[10.0] < 0.5 * moved[0.0]
    assert all(found == expected for found, expected in drawn)


def test_each_step_draws_other_general_texts_the_same_for_a_seed():
    general = GeneralTexts(np.arange(100, 150), np.eye(50, dtype=np.float32))
    first, again, next_one, other = (
        general.sample(8, seed=seed, step=step) for seed, step in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    assert first.texts.tolist() == again.texts.tolist() == sorted(first.texts.tolist())
    assert len({tuple(each.texts.tolist()) for each in (first, next_one, other)}) == 3
    assert (first.embeddings.argmax(axis=1) == first.texts - 100).all()
    assert len(general.sample(99, seed=1, step=1).texts) == 50


def test_gradients_in_bfloat16_are_near_those_in_fp32_at_once_and_cached(prepared):
    _, collection, part, source = prepared()
    batch = make_batch(collection, relevant_passages(collection), np.arange(16), 1)
    found = []
    for bf16, tokens in ((False, 10**6), (True, 10**6), (True, 256)):
        accumulate_gradients(part, source, batch, changed(micro_batch_tokens=tokens), bf16=bf16)
        found.append(torch.cat([value.ravel() for value in gradients(part).values()]))
    exact, *short = found
    for each in short:
        assert 0 < (each - exact).norm() < 0.1 * exact.norm()


def test_gradients_do_not_depend_on_the_size_of_the_chunks(prepared, monkeypatch):
    _, collection, part, source = prepared()
    batch = make_batch(collection, relevant_passages(collection), np.arange(16), 1)
    found = []
    for tokens in (4096, 1):
        monkeypatch.setitem(CHUNK_TOKENS, "cpu", tokens)
        accumulate_gradients(part, source, batch, CONFIG)
        found.append(gradients(part))
    assert_same_gradients(found[1], found[0])


@pytest.mark.parametrize("tokens", [10**6, 256], ids=["at once", "cached"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_chunks_on_threads_of_their_own_have_the_gradients_and_the_dropout_of_one_thread(
    prepared, monkeypatch, threads, bf16, tokens
):
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 100)
    _, collection, part, source = prepared()
    batch = make_batch(collection, relevant_passages(collection), np.arange(32), 1)
    part.train()
    set_dropout(part, attention=0.0, hidden=0.3)
    ran_on = set()
    part.register_forward_hook(lambda *_: ran_on.add(threading.get_ident()))
    found, after, on = [], [], []
    for count in (1, 3, 3):
        threads(count)
        torch.manual_seed(7)
        loss = accumulate_gradients(part, source, batch, changed(micro_batch_tokens=tokens), bf16=bf16)
        found.append(gradients(part) | {"loss": loss})
        after.append(torch.get_rng_state())
        on.append(len(ran_on - {threading.main_thread().ident}))
        ran_on.clear()
    alone, together, again = found
    assert on[0] == 0
    assert min(on[1:]) >= 1  # a thread that is quick may have taken a slower one's group as well
    assert together.keys() == again.keys()
    assert all(torch.equal(together[name], again[name]) for name in together)
    if bf16:
        one, other = (torch.cat([value.ravel() for value in each.values()]) for each in (alone, together))
        assert (one - other).norm() < 0.01 * one.norm()
    else:
        assert_same_gradients(together, alone)
    assert torch.equal(after[0], after[1])


def test_each_chunk_and_each_step_drops_other_units(prepared, monkeypatch):
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 1)  # a text each
    _, collection, part, source = prepared()
    batch = make_batch(collection, relevant_passages(collection), np.arange(8), 1)
    part.train()
    set_dropout(part, attention=0.0, hidden=0.5)
    dropped = []
    *_, last = (module for module in part.modules() if isinstance(module, torch.nn.Dropout))
    last.register_forward_hook(lambda _module, _given, out: dropped.append(tuple((out == 0).flatten()[:64].tolist())))
    for _ in range(2):
        accumulate_gradients(part, source, batch, CONFIG)
    assert len(dropped) > 16
    assert len(set(dropped)) == len(dropped)


def test_a_thread_has_no_gradients_of_its_own_where_they_would_take_much(prepared, monkeypatch, threads):
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 100)
    _, collection, part, source = prepared()
    batch = make_batch(collection, relevant_passages(collection), np.arange(16), 1)
    size = sum(value.nbytes for value in trained_parameters(part))
    ran_on = set()
    part.register_forward_hook(lambda *_: ran_on.add(threading.get_ident()))
    threads(3)
    counts = []
    for room in (3 * size, 3 * size - 1):
        monkeypatch.setattr(gradients_room, "THREADS_GRADIENTS", room)
        accumulate_gradients(part, source, batch, CONFIG)
        counts.append(len(ran_on - {threading.get_ident()}))
        ran_on.clear()
    assert counts[0] >= 1
    assert counts[1] == 0


def test_chunks_run_one_after_the_other_where_attention_is_dropped_by_a_kernel_that_takes_no_seed(
    prepared, monkeypatch, threads
):
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 100)
    _, collection, part, source = prepared()
    batch = make_batch(collection, relevant_passages(collection), np.arange(16), 1)
    part.train()
    set_dropout(part, attention=0.3, hidden=0.3)
    ran_on = set()
    part.register_forward_hook(lambda *_: ran_on.add(threading.get_ident()))
    threads(3)
    accumulate_gradients(part, source, batch, changed(micro_batch_tokens=256))
    assert ran_on == {threading.get_ident()}


def by_all(monkeypatch, workers: int, function: Callable[[], dict]) -> list[dict]:
    """What each of several workers, threads of this process, gets from a function that all call."""
    place, posted, barrier = threading.local(), {}, threading.Barrier(workers, timeout=60)

    def exchange(own: torch.Tensor) -> list[torch.Tensor]:
        posted[place.rank] = own.clone()
        barrier.wait()
        everybodys = [posted[rank] for rank in range(workers)]
        barrier.wait()
        return everybodys

    def run(rank: int) -> dict:
        place.rank = rank
        try:
            return function()
        except BaseException:
            barrier.abort()
            raise

    group = SimpleNamespace(
        is_initialized=lambda: True,
        get_world_size=lambda: workers,
        get_rank=lambda: place.rank,
        all_gather=lambda into, own: [row.copy_(sent) for row, sent in zip(into, exchange(own), strict=True)],
        all_reduce=lambda own: own.copy_(sum(exchange(own))),
    )
    with monkeypatch.context() as patched, ThreadPoolExecutor(workers) as threads:
        work_with(patched, group)
        return list(threads.map(run, range(workers)))


@pytest.mark.parametrize("workers", [2, 3, 4])  # 3 does not divide the batches of 16 and 64
def test_gradients_of_several_workers_are_those_of_one(tiny_model_folder, tiny_pairs, monkeypatch, workers):
    pairs = with_second_answers(tiny_pairs)
    alone = results_of(tiny_model_folder, pairs)
    for together in by_all(monkeypatch, workers, lambda: results_of(tiny_model_folder, pairs)):
        assert_same_results(together, alone)


@pytest.mark.parametrize("tokens", [10**6, 256])
def test_a_worker_without_a_text_of_its_own_waits_for_the_others(tiny_model_folder, tiny_pairs, monkeypatch, tokens):
    collection, encoder = index_pairs(tiny_pairs), load(str(tiny_model_folder))
    inputs = frozen_inputs(encoder, token_inputs(encoder, collection.texts, 64), [1])[1]
    fixed = embed(upper_for(encoder, inputs), feed(inputs, "cpu"), np.arange(len(collection.texts)))
    fixed[collection.is_query] = np.nan
    source = feed(dataclasses.replace(inputs, fixed=fixed), "cpu")
    batch = make_batch(collection, relevant_passages(collection), np.arange(2), 1)  # two queries, four workers

    def run() -> dict:
        part = upper(encoder, 1).train()
        set_dropout(part, attention=0.0, hidden=0.0)
        loss = accumulate_gradients(part, source, batch, changed(micro_batch_tokens=tokens))
        return {"batch": gradients(part) | {"loss": loss}}

    alone = run()
    for together in by_all(monkeypatch, 4, run):
        for name, value in alone["batch"].items():
            torch.testing.assert_close(together["batch"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # each process needs ten seconds to import what it uses
@pytest.mark.parametrize("workers", [2, 4])
def test_gradients_of_several_gloo_processes_are_those_of_one(tiny_model_folder, tiny_pairs, tmp_path, workers):
    pairs = with_second_answers(tiny_pairs)
    arguments = (workers, f"file://{tmp_path / 'rendezvous'}", tiny_model_folder, pairs, tmp_path)
    torch.multiprocessing.spawn(work, arguments, nprocs=workers)
    alone = results_of(tiny_model_folder, pairs)
    for rank in range(workers):
        assert_same_results(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone)


def work(rank: int, workers: int, rendezvous: str, folder: Path, pairs: list[Pair], out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    torch.save(results_of(folder, pairs), out / f"{rank}.pt")
    dist.destroy_process_group()


def with_second_answers(pairs: list[Pair]) -> list[Pair]:
    """64 rows: `pairs`, and 16 of their queries once more, each with another answer and two negatives."""
    again = [
        dataclasses.replace(pair, positive=f"also: {pair.positive}", negatives=(pair.positive, "buy a new one"))
        for pair in pairs[::3]
    ]
    return [*pairs, *again]


def results_of(folder: Path, pairs: list[Pair]) -> dict:
    """Gradients of two batches of 64 and the losses of a short training, by the workers there are."""
    encoder, collection = load(str(folder)), index_pairs(pairs)
    source = feed(frozen_inputs(encoder, token_inputs(encoder, collection.texts, 64), [1])[1], "cpu")
    part = upper(encoder, 1).train()
    set_dropout(part, attention=0.0, hidden=0.0)
    batch = make_batch(collection, relevant_passages(collection), np.arange(64), 2)
    assert batch.masked.sum() == 32  # each of the 16 asks twice, and each time the other answer is in the batch
    found = {}
    for name, each in (
        ("second answers", batch),
        ("no second answers", dataclasses.replace(batch, masked=np.zeros_like(batch.masked))),
        ("general texts are held", holding(make_batch(collection, relevant_passages(collection), np.arange(32), 2))),
    ):
        loss = accumulate_gradients(part, source, each, changed(anchor=3.0))
        found[name] = gradients(part) | {"loss": loss}
    untouched = {name: value.clone() for name, value in part.state_dict().items()}
    for rate, epochs in ((1e-3, 2), (2e-5, 5)):  # four steps in an epoch, each with its loss
        part.load_state_dict(untouched)
        config = changed(batch_size=16, evaluations_per_epoch=4, epochs=epochs, hard_negatives=2, learning_rate=rate)
        found[f"losses at {rate}"] = losses(fitted(config, collection, range(64), part, source, steady))
    return found


def holding(batch):
    """The batch, with its first five texts held to targets as well, as if they were general."""
    targets = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    return dataclasses.replace(batch, held=np.arange(5), targets=targets)


def assert_same_results(found: dict, expected: dict) -> None:
    for case in ("no second answers", "second answers", "general texts are held"):
        assert found[case]["loss"].item() == pytest.approx(expected[case]["loss"].item(), rel=1e-6)
        assert_same_gradients(found[case], expected[case])
    assert len(expected["losses at 2e-05"]) == 20
    for rate in ("losses at 0.001", "losses at 2e-05"):
        assert found[rate] == pytest.approx(expected[rate], rel=1e-5)


def test_a_batch_masks_every_known_answer_of_the_whole_collection():
    pairs = [
        Pair("q", "a", "d"),
        Pair("q", "b", "d"),
        Pair("other", "a", "d"),
        Pair("third", "c", "d", ("b",)),
        Pair("third", "d", "d", ("a", "e")),
    ]
    collection = index_pairs(pairs)
    batch = make_batch(collection, relevant_passages(collection), np.array([0, 2, 4]), 1)
    texts = [collection.texts[text] for text in batch.texts]
    passages = [texts[place] for place in batch.passages]
    assert sorted(texts) == ["a", "d", "other", "q", "third"]
    assert sorted(passages) == ["a", "d"]  # the first negative of row 4 is a positive of others; e is its second
    assert [texts[place] for place in batch.queries] == ["q", "other", "third"]
    assert [passages[place] for place in batch.positive] == ["a", "a", "d"]
    assert not batch.masked.any()

    batch = make_batch(collection, relevant_passages(collection), np.array([0, 3, 4]), 2)
    passages = [collection.texts[batch.texts[place]] for place in batch.passages]
    masked = [{passages[place] for place in np.flatnonzero(row)} for row in batch.masked]
    assert sorted(passages) == ["a", "b", "c", "d", "e"]
    assert masked == [{"b"}, {"d"}, {"c"}]  # q's other answer came along as a hard negative of another row


def section(torque: int) -> str:
    return f"Put the gasket on, fit the cover and tighten its six bolts crosswise with a torque wrench to {torque} Nm."


def test_what_is_nearly_an_answer_is_no_negative_even_if_it_is_named_as_one():
    near, far = [section(torque) for torque in (40, 60, 80)], "Drain the tank."
    pairs = [
        Pair("of 40", near[0], "d", (near[2], far)),
        Pair("of 60", near[1], "d"),
        Pair("of the tank", far, "d", (near[0],)),
    ]
    collection = index_pairs(pairs)
    batch = make_batch(collection, relevant_passages(collection), np.array([0, 1, 2]), 2)
    passages = [collection.texts[batch.texts[place]] for place in batch.passages]
    masked = [{passages[place] for place in np.flatnonzero(row)} for row in batch.masked]
    assert set(passages) == {*near, far}
    assert masked == [{near[1], near[2]}, {near[0], near[2]}, set()]


@pytest.mark.parametrize(("hard_negatives", "passages"), [(0, 2), (1, 3), (2, 4), (9, 4)])
def test_a_batch_takes_as_many_hard_negatives_of_a_row_as_asked_for(hard_negatives, passages):
    collection = index_pairs([Pair("q", "a", "d", ("x", "y")), Pair("r", "b", "d", ("x",))])
    batch = make_batch(collection, relevant_passages(collection), np.array([0, 1]), hard_negatives)
    assert len(batch.passages) == passages


@pytest.mark.parametrize("rate", [2e-5, 1e-3])
@pytest.mark.parametrize("model_type", ["bert", "mpnet"])
def test_training_from_frozen_activations_has_the_losses_of_training_from_token_ids(train, model_type, rate):
    config = changed(learning_rate=rate, frozen_layers=2)
    cached = losses(train(config, model_type=model_type, layers=3))
    whole = losses(train(config, model_type=model_type, layers=3, from_ids=True))
    assert len(cached) == 24
    assert cached == pytest.approx(whole, abs=1e-5)
    assert len(set(cached)) == 24


@pytest.mark.slow
def test_a_whole_trial_of_the_real_model_ends_where_it_does_without_the_cache():
    config = load_config(ROOT / "tune_configs" / "smoke.yaml")
    # twice over the same rows, so that the losses can be compared
    changes = {"learning_rate": 1e-3, "epochs": 2, "evaluations_per_epoch": 1}
    config = config.model_copy(update={"train": config.train.model_copy(update=changes)})
    collection, parts = divide(read_pairs(ROOT / config.data.pairs), config.data)
    rows = {part: np.flatnonzero(parts == part).tolist() for part in ("train", "validation")}
    found = []
    for from_ids in (False, True):
        encoder = load(config.train.base_model)
        tokens = token_inputs(encoder, collection.texts, config.train.max_tokens)
        depth = 0 if from_ids else config.train.frozen_layers
        source = feed(frozen_inputs(encoder, tokens, [depth])[depth], "cpu")
        part = upper(encoder, config.train.frozen_layers, from_ids=from_ids)
        base = evaluate(part, source, collection, rows["validation"])
        trial = fitted(
            config.train, collection, rows["train"], part, source,
            lambda part, source=source: evaluate(part, source, collection, rows["validation"]),
        )  # fmt: skip
        first, last = (evaluation.metrics for evaluation in trial)
        # dropout and learning rate are as in a search, so the trial moves
        assert last["loss"] < 0.95 * first["loss"]
        assert last["mrr/macro"] != base["mrr/macro"]
        found.append(last)
    cached, whole = found
    assert cached["loss"] == pytest.approx(whole["loss"], abs=1e-3)
    # a rounding may carry one query of a domain across a rank
    assert cached["mrr/macro"] == pytest.approx(whole["mrr/macro"], abs=0.005)
    assert cached[OBJECTIVE] == pytest.approx(whole[OBJECTIVE], abs=0.02)


def test_bf16_training_stays_near_fp32_training(train):
    exact, short = losses(train()), losses(train(bf16=True))
    assert short != exact
    assert short == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("model_type", ["bert", "mpnet", "xlm-roberta"])
def test_frozen_parameters_are_bit_identical_after_training_and_all_others_are_not(prepared, model_type, depth):
    config = changed(frozen_layers=depth, epochs=1, hidden_dropout=0.1, learning_rate=1e-3)
    encoder, collection, part, source = prepared(config, from_ids=True, model_type=model_type, layers=3)
    frozen = {name: value.detach().clone() for name, value in part.named_parameters() if not value.requires_grad}
    for _ in fitted(config, collection, range(48), part, source, steady):
        pass
    assert all(torch.equal(value, frozen[name]) for name, value in part.named_parameters() if name in frozen)
    before = dict(encoder.transformer.named_parameters())
    for name, value in with_weights(encoder, depth, part.trained_state()).transformer.named_parameters():
        block = int(name.split(".")[2]) if name.startswith("encoder.layer.") else -1
        trained = block >= depth if depth else "pooler" not in name
        assert torch.equal(value, before[name]) != trained, name


def test_both_dropouts_of_the_configuration_are_set_in_what_trains(prepared):
    config = changed(attention_dropout=0.3, hidden_dropout=0.2)
    _, collection, part, source = prepared(config)
    next(fitted(config, collection, range(48), part, source, steady))
    shares = [each.p for each in part.modules() if isinstance(each, torch.nn.Dropout)]
    assert shares == [0.3, 0.2, 0.2]  # in the one block: of the attention, behind it, behind the feed-forward


def test_a_step_is_gradients_clipping_and_the_optimizers_step(prepared):
    config, rows = changed(hidden_dropout=0.2, learning_rate=1e-2, scale=100.0), np.arange(16)
    _, collection, part, source = prepared(config)
    training = new_training(config, part, TrainingData(collection, rows, source))
    torch.manual_seed(7)
    loss, norm = train_step(training, rows)

    _, collection, own, source = prepared(config)
    own.train()
    set_dropout(own, attention=config.attention_dropout, hidden=config.hidden_dropout)
    optimizer = loop.make_optimizer(own, config)
    torch.manual_seed(7)
    batch = make_batch(collection, relevant_passages(collection), rows, config.hard_negatives)
    expected_loss = accumulate_gradients(own, source, batch, config)
    trained = [value for value in own.parameters() if value.requires_grad]
    expected_norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    assert expected_norm > 1.0  # it is clipped
    optimizer.step()

    assert (loss.shape, norm.shape, loss.requires_grad) == ((), (), False)
    assert (loss.item(), norm.item()) == (expected_loss.item(), expected_norm.item())
    for name, value in own.trained_state().items():
        assert torch.equal(part.trained_state()[name], value)
    assert all(value.grad is None for value in part.parameters())


def test_a_training_is_one_step_after_the_other_at_the_rates_of_its_schedule(prepared, train):
    config = changed(hidden_dropout=0.2, epochs=2, learning_rate=1e-3, warmup_share=0.25)
    *_, last = train(config)
    _, collection, part, source = prepared(config)
    training = new_training(config, part, TrainingData(collection, np.arange(48), source))
    torch.manual_seed(config.seed)
    batches = [rows for epoch in (0, 1) for rows in batches_of_epoch(config, collection, np.arange(48), epoch)]
    for step, rows in enumerate(batches):
        factor = rate_factor(step, 12, 6, schedule=config.schedule, warmup_share=config.warmup_share)
        for group in training.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        loss, _ = train_step(training, rows)
    assert loss.item() == last.metrics["loss"]  # an evaluation after each step
    for name, value in last.state["upper"].items():
        assert torch.equal(part.trained_state()[name], value)


def test_a_training_minimises_the_loss_that_it_is_given(prepared):
    config = changed(epochs=1)

    def thrice(*given, scale):
        return 3 * multiple_negatives_ranking_loss(*given, scale=scale)

    found = []
    for options in ({}, {"loss": thrice}):
        _, collection, part, source = prepared(config)
        found.append(next(fitted(config, collection, range(48), part, source, steady, **options)))
    (usual, tripled) = losses(found)
    assert tripled == pytest.approx(3 * usual)


def test_a_training_that_nothing_is_held_back_from_finds_all_of_its_evaluations_alike(prepared):
    _, collection, part, source = prepared()
    data = TrainingData(collection, np.arange(48), source)
    found = list(fit(changed(epochs=1), part, data, UNJUDGED))
    assert [evaluation.is_best for evaluation in found] == [True, *[False] * 5]
    assert {evaluation.metrics["objective"] for evaluation in found} == {0.0}


def test_a_state_holds_what_its_type_says(train):
    state = train(first=1)[0].state
    assert state.keys() == TrainingState.__annotations__.keys()
    assert state["best"].keys() == BestState.__annotations__.keys()


def test_training_learns(prepared):
    config = changed(learning_rate=3e-3, epochs=8, evaluations_per_epoch=1)
    _, collection, part, source = prepared(config)
    readings = list(
        fitted(config, collection, range(48), part, source, lambda each: evaluate(each, source, collection, range(48)))
    )
    assert losses(readings)[-1] < 0.5 * losses(readings)[0]
    assert readings[-1].metrics["objective"] > 0.9 > readings[0].metrics[OBJECTIVE]


def test_the_same_seed_gives_the_same_bits(train):
    config = changed(hidden_dropout=0.2, epochs=1)
    first, second = train(config), train(config)
    other = train(config.model_copy(update={"seed": 43}))
    assert losses(first) == losses(second)
    assert losses(first)[0] != losses(other)[0]
    for name, value in first[-1].state["upper"].items():
        assert torch.equal(value, second[-1].state["upper"][name])


@pytest.mark.parametrize("settings", [{}, {"queries_per_passage": 2}, {"evaluations_per_epoch": 2}])
def test_every_training_row_is_met_once_an_epoch_and_no_other(train, monkeypatch, settings):
    met = []

    def spy(collection, relevant, rows, *others):
        met.append(rows)
        return make_batch(collection, relevant, rows, *others)

    monkeypatch.setattr(loop, "make_batch", spy)
    rows = list(range(3, 45))
    train(changed(epochs=2, **settings), rows=rows)
    epochs = np.split(np.concatenate(met), 2)
    assert [sorted(epoch.tolist()) for epoch in epochs] == [rows, rows]
    assert epochs[0].tolist() != epochs[1].tolist()


@pytest.mark.parametrize(
    ("evaluations", "epochs"),
    [(1, [1, 2]), (2, [0.5, 1, 1.5, 2]), (4, [2 / 6, 0.5, 4 / 6, 1, 8 / 6, 1.5, 10 / 6, 2])],
)
def test_evaluations_are_spread_evenly_and_the_last_ends_an_epoch(train, evaluations, epochs):
    found = [each.metrics for each in train(changed(epochs=2, evaluations_per_epoch=evaluations))]
    assert [each["epoch"] for each in found] == pytest.approx(epochs)
    assert [each["step"] for each in found] == pytest.approx([6 * epoch for epoch in epochs])
    assert [each["evaluation"] for each in found] == list(range(1, len(epochs) + 1))
    assert [each["finished"] for each in found] == [0.0] * (len(epochs) - 1) + [1.0]


def test_the_loss_of_an_evaluation_is_the_mean_since_the_one_before(train):
    each = losses(train(changed(epochs=2)))
    means = losses(train(changed(epochs=2, evaluations_per_epoch=2)))
    assert means == pytest.approx(np.array(each).reshape(4, 3).mean(axis=1))


def test_the_best_evaluation_counts_and_not_the_last(train):
    found = train(changed(epochs=1), scripted(0.3, 0.7, 0.5, 0.6, 0.2, 0.4))
    assert [each.is_best for each in found] == [True, True, False, False, False, False]
    assert [each.metrics["objective"] for each in found] == [0.3, 0.7, 0.7, 0.7, 0.7, 0.7]
    assert [each.metrics["best_epoch"] * 6 for each in found] == pytest.approx([1, 2, 2, 2, 2, 2])
    best = found[-1].state["best"]
    assert best["metrics"]["step"] == 2
    assert any(not torch.equal(value, best["upper"][name]) for name, value in found[-1].state["upper"].items())


def test_the_weights_of_the_best_evaluation_are_those_it_was_read_from(prepared):
    _, collection, part, source = prepared()
    read = []

    def reading(each) -> dict[str, float]:
        read.append({name: value.clone() for name, value in each.trained_state().items()})
        return {OBJECTIVE: 1.0 if len(read) == 3 else 0.0, "mrr/macro": 0.0}

    *_, last = fitted(CONFIG, collection, range(48), part, source, reading)
    assert all(torch.equal(value, read[2][name]) for name, value in last.state["best"]["upper"].items())


def test_a_checkpoint_of_the_best_evaluation_holds_its_weights_once(prepared, tmp_path):
    _, collection, part, source = prepared()
    sizes, weights = [], sum(value.nbytes for value in part.trained_state().values())
    for each in fitted(changed(epochs=1), collection, range(48), part, source, scripted(0.3, 0.2, 0.4, 0.1, 0.1, 0.1)):
        save_state(each.state, tmp_path)
        sizes.append((tmp_path / CHECKPOINT).stat().st_size)
        read = load_state(tmp_path)
        same = [torch.equal(value, read["best"]["upper"][name]) for name, value in read["upper"].items()]
        assert all(same) if each.is_best else not any(same)
    # an entry in the archive comes with a header and with its alignment
    assert [round((size - min(sizes)) / weights) for size in sizes] == [0, 1, 0, 1, 1, 1]


def test_equal_objectives_are_ordered_by_mrr_and_then_by_time(train):
    found = train(changed(epochs=1), scripted((0.5, 0.2), (0.5, 0.4), (0.5, 0.4), (0.5, 0.3), (0.4, 0.9), (0.5, 0.41)))
    assert [each.is_best for each in found] == [True, True, False, False, False, True]


def test_training_stops_when_patience_is_at_its_end(train):
    found = train(changed(patience=2), scripted(0.1, 0.1, 0.3, 0.2, 0.3, 0.9, 0.9))
    assert [each.metrics["finished"] for each in found] == [0, 0, 0, 0, 1]
    assert found[-1].state["finished"]


def test_a_patience_that_is_never_at_its_end_changes_nothing(train):
    assert len(train(changed(epochs=1, patience=6))) == 6


@pytest.mark.parametrize("stopped_after", [4, 6, 9])
def test_a_training_that_goes_on_from_its_state_is_the_one_that_never_stopped(train, stopped_after):
    config = changed(epochs=2, hidden_dropout=0.2, attention_dropout=0.1, learning_rate=1e-3, patience=4)
    script = [0.1, 0.5, 0.2, 0.2, 0.2, 0.6, 0.1, 0.1, 0.1, 0.1]  # stops here, of 12
    whole = train(config, scripted(*script))
    start = train(config, scripted(*script), first=stopped_after)
    saved = io.BytesIO()
    torch.save(start[-1].state, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    rest = train(config, scripted(*script[stopped_after:]), state=state)
    assert len(rest) == 10 - stopped_after
    told = [[dict(each.metrics, pairs_per_second=0.0) for each in run] for run in (start + rest, whole)]
    assert told[0] == told[1]
    for name, value in whole[-1].state["upper"].items():
        assert torch.equal(rest[-1].state["upper"][name], value)
        assert torch.equal(rest[-1].state["best"]["upper"][name], whole[-1].state["best"]["upper"][name])


def test_a_training_does_not_go_on_from_the_state_of_another_cut(train):
    state = train(changed(epochs=1), first=1)[-1].state
    with pytest.raises(ValueError, match="tensors of another cut"):
        train(changed(epochs=1, frozen_layers=0), state=state)


def test_a_loss_that_is_not_finite_ends_the_training_with_step_and_learning_rate(train):
    calls = itertools.count(1)

    def poison(part) -> dict[str, float]:
        if next(calls) == 2:
            next(iter(part.trained_state().values())).fill_(math.nan)
        return steady(part)

    message = (
        r"^loss or gradient not finite at step 3 \(learning rate 0\.003\): loss nan, gradient norm nan; "
        r"lower train\.learning_rate or train\.scale$"
    )
    with pytest.raises(RunError, match=message):
        train(changed(learning_rate=3e-3, schedule="constant", warmup_share=0.0), poison)


def test_an_embedding_that_is_not_finite_ends_the_training_with_step_and_learning_rate(train):
    def refuse(part) -> dict[str, float]:
        raise ValueError("3 of 9 scores are not finite")

    message = r"^embeddings not finite at step 2 \(learning rate 2e-05\): 3 of 9 scores are not finite; lower train"
    with pytest.raises(RunError, match=message):
        train(changed(schedule="constant", warmup_share=0.0, evaluations_per_epoch=3), refuse)


def out_of_memory_above(part, tokens: int, *, in_backward: bool = False) -> list[int]:
    """Let `part` run out of memory with larger chunks; returns the tokens of each, as they come."""
    met = []

    def refuse(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def look(module, given, output) -> None:
        met.append(given[1].numel())
        if met[-1] > tokens:
            if not in_backward:
                refuse()
            elif output.requires_grad:
                output.register_hook(refuse)

    part.register_forward_hook(look)
    return met


MEMORY = {"batch_size": 24, "learning_rate": 1e-3, "evaluations_per_epoch": 1}


@pytest.fixture
def train_with_memory(prepared, monkeypatch):
    """`train_with_memory(config, tokens)`: its evaluations where memory holds such chunks, and the tokens of each."""
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 2**16)

    def run(config, tokens, *, state=None, first=None, in_backward=False):
        _, collection, part, source = prepared(config)
        met = out_of_memory_above(part, tokens, in_backward=in_backward)
        training = fitted(config, collection, range(48), part, source, steady, state=state)
        return list(itertools.islice(training, first)), met

    return run


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_step_that_runs_out_of_memory_is_repeated_with_the_same_loss(train_with_memory, caplog, in_backward):
    caplog.set_level(logging.INFO, logger="nic_ray.training")
    config = changed(**MEMORY, micro_batch_tokens=1024)
    expected, _ = train_with_memory(config, 10**6)
    assert "out of memory" not in caplog.text
    found, met = train_with_memory(config, 300, in_backward=in_backward)
    assert losses(found) == pytest.approx(losses(expected), rel=1e-5)
    said = "out of memory at step 1: it is repeated, from here on with micro_batch_tokens"
    assert [line for line in caplog.messages if line.startswith("out")] == [f"{said} 512", f"{said} 256"]
    too_large = [place for place, tokens in enumerate(met) if tokens > 300]
    assert 0 < len(too_large) < 6
    assert max(too_large) < 6  # at the first step; the others begin with what it has come to


def test_a_step_that_is_repeated_drops_what_it_would_have_dropped(train_with_memory):
    expected, _ = train_with_memory(changed(**MEMORY, hidden_dropout=0.3, micro_batch_tokens=256), 10**6)
    found, _ = train_with_memory(changed(**MEMORY, hidden_dropout=0.3, micro_batch_tokens=1024), 300)
    assert losses(found) == losses(expected)


def test_a_training_goes_on_with_the_tokens_that_its_memory_held(train_with_memory):
    config = changed(**MEMORY, micro_batch_tokens=1024)
    whole, _ = train_with_memory(config, 300)
    (start,), _ = train_with_memory(config, 300, first=1)
    assert start.state["micro_batch_tokens"] == 256
    rest, met = train_with_memory(config, 300, state=start.state)
    assert losses(rest) == losses(whole)[1:]
    assert max(met) <= 256


def test_a_training_goes_on_with_fewer_tokens_where_the_user_asks_for_fewer(train_with_memory):
    config = changed(**MEMORY, micro_batch_tokens=1024)
    (start,), _ = train_with_memory(config, 10**6, first=1)
    assert start.state["micro_batch_tokens"] == 1024
    _, met = train_with_memory(changed(**MEMORY, micro_batch_tokens=300), 10**6, state=start.state)
    assert max(met) <= 300


def test_memory_that_is_too_small_for_the_smallest_chunk_ends_the_training_with_the_way_out(train_with_memory):
    message = (
        r"^out of memory at step 1 with train\.micro_batch_tokens 256, the least there is: raise resources\.gpus_per_"
        r"worker, so that fewer trials share a GPU, or lower train\.batch_size or train\.max_tokens$"
    )
    with pytest.raises(RunError, match=message):
        train_with_memory(changed(**MEMORY, micro_batch_tokens=1000), 10)


def test_one_of_several_workers_that_runs_out_of_memory_says_so_instead_of_repeating_alone(
    train_with_memory, monkeypatch
):
    group = SimpleNamespace(is_initialized=lambda: True, get_world_size=lambda: 2, get_rank=lambda: 0)
    work_with(monkeypatch, group)
    message = r"^out of memory at step 1 with train\.micro_batch_tokens 1024: lower it, raise resources\.gpus_per_wo"
    with pytest.raises(RunError, match=message):
        train_with_memory(changed(**MEMORY, micro_batch_tokens=1024), 10)


def test_an_optimizer_that_finds_no_memory_ends_the_training_with_the_way_out(train, monkeypatch):
    def step(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    message = r"^out of memory at step 1 with train\.micro_batch_tokens 32768: lower it, raise"
    with pytest.raises(RunError, match=message):
        train()


def test_chunks_are_never_asked_to_be_smaller_than_a_setting_may_be():
    with pytest.raises(ValueError, match="micro_batch_tokens"):
        TrainConfig(micro_batch_tokens=LEAST_TOKENS - 1)
    assert TrainConfig(micro_batch_tokens=LEAST_TOKENS).micro_batch_tokens == LEAST_TOKENS


@pytest.mark.parametrize("old", [False, True])
def test_a_state_of_another_kind_of_device_goes_on_with_dropout_seeded_anew(train, caplog, old):
    caplog.set_level(logging.INFO, logger="nic_ray.training")
    config = changed(hidden_dropout=0.3, epochs=1)
    state = train(config, first=2)[-1].state
    foreign = {"random": torch.zeros(16, dtype=torch.uint8), "random_of": "cuda"}
    if old:  # it has not noted where it was written
        del foreign["random_of"], state["random_of"]
    train(config, state=state | foreign, first=1)
    said = "dropout is seeded anew: the checkpoint was written on another kind of device than cpu"
    assert caplog.messages.count(said) == 1
    assert torch.initial_seed() == config.seed + 7919 * 2


def test_progress_is_logged_and_so_is_every_evaluation(train, caplog):
    caplog.set_level(logging.INFO, logger="nic_ray.training")
    train(changed(epochs=1, evaluations_per_epoch=2))
    steps = [line for line in caplog.messages if line.startswith("epoch ")]
    readings = [line for line in caplog.messages if line.startswith("evaluation ")]
    assert (len(steps), len(readings)) == (6, 2)
    number = r"\d+\.\d+"
    pattern = rf"epoch 0\.500  step 3/6  loss {number}  lr {number}e-05  grad_norm {number}  remaining \d+ s"
    assert re.fullmatch(pattern, steps[2])
    assert "recall_at_5/macro 0.5000" in readings[-1]


def test_the_last_step_of_an_epoch_is_logged_however_long_the_epoch(train, caplog):
    caplog.set_level(logging.INFO, logger="nic_ray.training")
    train(changed(epochs=1, batch_size=2, evaluations_per_epoch=1), rows=range(46))
    assert any("step 23/23 " in line for line in caplog.messages)


def factors(schedule, *, total, per_epoch, warmup_share):
    return [rate_factor(step, total, per_epoch, schedule=schedule, warmup_share=warmup_share) for step in range(total)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        # (1 + cos(k pi / 6)) / 2
        ("cosine", [1 / 3, 2 / 3, 1, (2 + 3**0.5) / 4, 3 / 4, 1 / 2, 1 / 4, (2 - 3**0.5) / 4]),
        # 0.05 + 0.95 (1 + cos(k pi / 3)) / 2 in an epoch of four steps
        (
            "cosine_restarts",
            [1 / 3, 2 / 3 * (0.05 + 0.95 * 0.75), 0.05 + 0.95 * 0.25, 0.05, 1, 0.7625, 0.2875, 0.05],
        ),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule, expected):
    assert factors(schedule, total=8, per_epoch=4, warmup_share=0.25) == pytest.approx(expected)


@given(
    st.sampled_from(["cosine_restarts", "cosine", "linear", "constant"]),
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0, 0.999),
)
def test_the_learning_rate_is_above_0_and_never_above_its_peak(schedule, epochs, per_epoch, warmup_share):
    total = epochs * per_epoch
    found = factors(schedule, total=total, per_epoch=per_epoch, warmup_share=warmup_share)
    assert all(0 < factor <= 1 for factor in found)
    warmup = round(warmup_share * total)
    if schedule != "cosine_restarts":
        assert np.all(np.diff(found[: warmup + 1]) > 0)
        assert np.all(np.diff(found[warmup:]) <= 0)
    elif warmup == 0 and per_epoch > 1:
        assert found[::per_epoch] == [1.0] * epochs
        assert found[per_epoch - 1 :: per_epoch] == pytest.approx([0.05] * epochs)


def test_what_is_called_before_a_step_is_called_before_every_step(prepared):
    _, collection, part, source = prepared(CONFIG)
    called = []
    found = fitted(CONFIG, collection, range(48), part, source, steady, before_step=lambda: called.append(1))
    for evaluation in found:
        assert len(called) == evaluation.metrics["step"] > 0


def test_the_optimizer_takes_the_rate_of_the_schedule(train, monkeypatch):
    taken = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments):
        taken.append({group["lr"] for group in self.param_groups})
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(changed(epochs=2, warmup_share=0.25, schedule="linear"))
    expected = [2e-5 * each for each in factors("linear", total=12, per_epoch=6, warmup_share=0.25)]
    assert [rate for (rate,) in taken] == pytest.approx(expected)


def test_biases_and_norms_do_not_decay(prepared):
    _, _, part, _ = prepared()
    decaying, staying = loop.make_optimizer(part, changed(weight_decay=0.1)).param_groups
    assert (decaying["weight_decay"], staying["weight_decay"]) == (0.1, 0.0)
    names = {id(value): name for name, value in part.named_parameters()}
    assert all(names[id(value)].endswith(".bias") or "LayerNorm" in names[id(value)] for value in staying["params"])
    assert not any("bias" in names[id(value)] or "LayerNorm" in names[id(value)] for value in decaying["params"])
