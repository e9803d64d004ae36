"""What runs on a GPU, on tensors that are only declared to lie there: nothing mixes, and the numbers are the CPU's."""

import collections
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nic_ray import hardware
from nic_ray.bundle import comparison, onnx
from nic_ray.bundle.files import file_sha256, find_faults, write_bundle
from nic_ray.config import Config
from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.model import activations, whole_models
from nic_ray.model.activations import Inputs, feed, frozen_inputs, padded_batch, upper_for
from nic_ray.model.base import load
from nic_ray.model.cache import run_here
from nic_ray.model.cut import Upper
from nic_ray.model.encoder import Encoder, lower, whole
from nic_ray.model.evaluation import evaluate
from nic_ray.model.whole_models import evaluate_encoder
from nic_ray.progress import View
from nic_ray.record import load_state, save_state
from nic_ray.search import train_single
from nic_ray.selection.averaging import averaged
from nic_ray.selection.candidates import Candidate, best_of
from nic_ray.selection.export import export
from nic_ray.selection.refit import refit, trained_again
from nic_ray.selection.retention import load_retention_set, retention_of
from nic_ray.selection.selection import Contestants, judge
from nic_ray.training import gradients, graphs, loop
from nic_ray.training.background import on_host
from nic_ray.training.loop import Evaluation, TrainingData, Validation, fit
from nic_ray.training.loss import multiple_negatives_ranking_loss
from nic_ray.training.prepared import Prepared, held_texts, prepare
from tests.declared_device import GPU_BYTES, declared, place

OBJECTIVE = "recall_at_5/macro"
FAMILIES = ["bert", "mpnet"]
RETENTION_SET = index_pairs(
    [Pair(f"what is {word}?", f"{word} is a thing", "words") for word in "hot loose dirty noisy stuck worn".split()]
)


@pytest.fixture
def prepared(tiny_model, tiny_pairs_file):
    """`prepared(family, device, ...)`: what a training on that device is given."""

    def make(family: str, device: str, *, layers: int = 3, **train: Any) -> Prepared:
        settings = {
            "base_model": str(tiny_model(family, layers)), "frozen_layers": 1, "max_tokens": 64, "precision": "fp32",
            "batch_size": 16, "epochs": 1, "learning_rate": 1e-3, "hidden_dropout": 0.0, "device": device,
        }  # fmt: skip
        data = {"pairs": str(tiny_pairs_file), "validation_share": 0.25, "test_share": 0.25}
        given = {"data": data, "train": settings | train, "refit": "all", "guard": {"retention_set": None}}
        return prepare(Config.model_validate(given), on_gpu=True)

    return make


def inputs_of(prepared: Prepared, depth: int) -> Inputs:
    return frozen_inputs(
        prepared.encoder, prepared.tokens, [depth], device=prepared.device, bf16=prepared.bf16
    )[depth]  # fmt: skip


def train(
    prepared: Prepared,
    *,
    inputs: Inputs | None = None,
    state: Any = None,
    share: float = 1.0,
    before_step: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Iterator[Evaluation]:
    config = prepared.config.train.model_copy(update=settings)
    inputs = inputs_of(prepared, config.frozen_layers) if inputs is None else inputs
    part = upper_for(prepared.encoder, inputs).to(prepared.device)
    source, rows = feed(inputs, prepared.device, share=share), prepared.rows("validation").tolist()
    held = held_texts(prepared, inputs)
    return fit(
        config,
        part,
        TrainingData(prepared.collection, prepared.rows("train"), source, prepared.bf16, held),
        Validation(lambda model: evaluate(model, source, prepared.collection, rows, bf16=prepared.bf16), OBJECTIVE),
        state=state,
        before_step=before_step,
    )


def losses(evaluations: Iterator[Evaluation]) -> list[float]:
    return [each.metrics["loss"] for each in evaluations]


def operations(prepared: Prepared, folder: Path) -> Iterator[tuple[str, Any]]:
    """All that a search does, one after the other: the name of each operation, and numbers that it gives."""
    encoder, settings, say = prepared.encoder, prepared.config.train, lambda _: None
    rows = prepared.rows("validation").tolist()
    inputs = frozen_inputs(encoder, prepared.tokens, [1, 2], device=prepared.device)
    yield "frozen blocks", [float(abs(each.values).sum()) for each in inputs.values()]

    device = prepared.device
    on_device = evaluate_encoder(encoder, prepared.collection, rows, settings.max_tokens, device=device)
    yield "whole model", on_device

    candidates = []
    for depth, tokens in ((1, 256), (2, 32768)):
        own = {"frozen_layers": depth, "micro_batch_tokens": tokens, "evaluations_per_epoch": 2}
        *_, last = train(prepared, inputs=inputs[depth], **own)
        yield f"training at depth {depth}", last.metrics["loss"]
        candidates.append(best_of(f"trial-{depth}", settings.model_copy(update=own), last.state))
        first = next(train(prepared, inputs=inputs[depth], **own))
        save_state(first.state, folder)
        yield "resume", losses(train(prepared, inputs=inputs[depth], state=load_state(folder), **own))
    candidates.sort(key=lambda each: -each.metrics[OBJECTIVE])

    retention_set = load_retention_set(prepared, RETENTION_SET, [1, 2])
    yield "retention_set", retention_set.base
    yield "retention", retention_of(prepared, retention_set, candidates[0])
    worse = [dataclasses.replace(each, metrics={**each.metrics, OBJECTIVE: 0.0}) for each in candidates]
    average = averaged(prepared, inputs, worse)
    mean = dataclasses.replace(average.candidate, members=tuple(worse))  # whether or not a mean is better
    yield "cross-fitting", {str(size): value for size, value in average.cross_fitted.items()}
    yield "averaging", {name: value for name, value in mean.metrics.items() if "/" in name}
    yield "training again", weights_in_short(trained_again(prepared, inputs, mean, np.arange(len(prepared.parts))))
    judgement = judge(
        prepared,
        inputs,
        Contestants({"first trial": candidates[0]}, candidates, []),
        retention_set,
        export_anyway=True,
        say=say,
    )
    yield "judgement", judgement.results
    exported, _ = refit(prepared, inputs, judgement, retention_set)
    yield "refit", weights_in_short(exported)
    export(
        prepared, judgement.tuned, {"results": judgement.results, **judgement.evidence}, folder / "model",
        training_log="", overwrite=True, view=View(),
    )  # fmt: skip
    assert find_faults(folder / "model") == []
    yield "export", evaluate_encoder(load(str(folder / "model")), prepared.collection, rows, settings.max_tokens)

    pairs, model = prepared.config.data.pairs, str(folder / "model")
    yield "evaluate", comparison.compare_with_base(model, pairs, "test", device=device).results
    names = [model, encoder.name]
    ranking = comparison.compare_models(names, pairs, "all", say=say, device=device)
    yield "compare", [ranking.results[name] for name in names]


def weights_in_short(candidate: Candidate) -> list[float]:
    return [float(value.double().abs().sum()) for value in candidate.weights.values()]


def assert_untouched(encoder: Encoder, operation: str) -> None:
    """An encoder is as it was loaded, value for value, on the CPU, fit to train and in eval mode."""
    as_loaded = load(encoder.name).transformer
    for (name, value), expected in zip(encoder.transformer.named_parameters(), as_loaded.parameters(), strict=True):
        assert place(value).type == "cpu", f"{operation} has moved {name} of the encoder to {place(value)}"
        assert not value.is_inference(), f"{operation} has made {name} of the encoder an inference tensor"
        assert value.requires_grad == expected.requires_grad, f"{operation} has changed what trains: {name}"
        assert torch.equal(value.detach(), expected.detach()), f"{operation} has changed {name} of the encoder"
    modes = {type(each).__name__ for each in encoder.transformer.modules() if each.training}
    assert not modes, f"{operation} has left {modes} of the encoder in training mode"


def all_operations(prepared: Prepared, folder: Path) -> dict[str, Any]:
    found = {}
    for name, numbers in operations(prepared, folder):
        assert_untouched(prepared.encoder, name)
        found[name] = numbers
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_operation_gives_the_numbers_of_the_cpu_and_leaves_the_encoder_as_it_was(prepared, tmp_path, family):
    (tmp_path / "cpu").mkdir()
    expected = all_operations(prepared(family, "cpu"), tmp_path / "cpu")
    with declared():
        on_gpu = prepared(family, "auto")
        assert on_gpu.device == "cuda"
        found = all_operations(on_gpu, tmp_path)
    assert list(found) == list(expected)
    for name, numbers in found.items():
        assert_close(numbers, expected[name], name)


def assert_close(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_close(found[key], value, f"{where}, {key}")
    elif isinstance(expected, list) and not isinstance(expected[0], float):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, where)
    else:
        assert found == pytest.approx(expected, rel=1e-4), where


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_blocks_that_are_run_in_shards_leave_the_encoder_as_it_was(prepared, family):
    with declared():
        given = prepared(family, "cuda")
        shards = [given.tokens] * 2
        first, second = run_here("cuda", bf16=False)([lower(given.encoder, 0, 1)], shards)
        assert_untouched(given.encoder, "a chain in this process")
    np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_converted_where_a_gpu_is_there(tiny_model, tiny_pairs_file, tmp_path, monkeypatch, family):
    monkeypatch.setattr(onnx, "TIMED", 10)
    source = str(tiny_model(family))
    metadata = {"name": "tuned", "base_model": source, "data": {"sha256": file_sha256(tiny_pairs_file)}}
    write_bundle(tmp_path / "tuned", load(source).model, metadata, training_log="")
    with declared():
        parity = onnx.convert(
            tmp_path / "tuned", tmp_path / "graph", "onnx", tiny_pairs_file, overwrite=False, say=lambda _: None
        )
    assert parity.lowest_cosine > 0.9999


def in_place(module, device):
    return module.to(device)


def on_the_host(function):
    return lambda *args, **kwargs: function(*args, **kwargs).to("cpu")


def with_mask_on_the_host(source, texts, *, packed):
    values, mask = activations.padded_batch(source, texts)
    return values, mask.to("cpu")


def with_answers_on_the_host(queries, passages, positive, masked, *, scale):
    return multiple_negatives_ranking_loss(queries, passages, positive, masked.to("cpu"), scale=scale)


PLANTED = {
    "shared blocks are moved in place": (
        (activations, "placed", in_place), AssertionError, "frozen blocks has moved embeddings"
    ),
    "the whole model stays on the host": (
        (whole_models, "whole", lambda encoder, device: whole(encoder)), RuntimeError, "tensors on cpu, cuda:0"
    ),
    "embeddings come to the host": (
        (gradients, "_gathered", on_the_host(gradients._gathered)), RuntimeError, "tensors on"
    ),
    "known answers stay on the host": (
        (fit, "__kwdefaults__", {**fit.__kwdefaults__, "loss": with_answers_on_the_host}),
        RuntimeError, "tensors on cpu, cuda:0",
    ),
    "the padding's mask stays on the host": (
        (gradients, "assembled", with_mask_on_the_host), RuntimeError, "tensors on cpu, cuda:0"
    ),
    "the host's random state is set for the device's": (
        (gradients, "set_random_state", lambda device, state: torch.set_rng_state(state)), RuntimeError, "RNG state"
    ),
}  # fmt: skip
"""What is planted, where it is found, and how."""


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(prepared, tmp_path, monkeypatch, fault):
    planted, kind, said = PLANTED[fault]
    monkeypatch.setattr(*planted)
    with declared(), pytest.raises(kind, match=said):
        all_operations(prepared("bert", "cuda"), tmp_path)


def test_no_chunk_of_a_training_holds_more_than_micro_batch_tokens(prepared, monkeypatch):
    held = []

    def spy(part: Upper, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        held.extend([mask.numel()] * part.training)
        return forward(part, values, mask)

    forward = Upper.forward
    monkeypatch.setattr(Upper, "forward", spy)
    with declared():
        losses(train(prepared("bert", "cuda", batch_size=24, micro_batch_tokens=256)))
        bounded, held[:] = list(held), []
        losses(train(prepared("bert", "cuda", batch_size=24, micro_batch_tokens=2**18)))
    assert max(held) > 256 >= max(bounded)


@pytest.mark.parametrize(
    ("free", "total", "share", "fits"),
    [
        (8000, 80000, 1.0, True),
        (7999, 80000, 1.0, False),  # half of what is free
        (80000, 80000, 0.1, True),
        (80000, 80000, 0.09, False),  # half of what each of eleven may have
    ],
)
def test_inputs_lie_on_the_gpu_where_they_leave_half_of_it_free(monkeypatch, free, total, share, fits):
    inputs = Inputs(np.ones((100, 10), np.float32), np.array([0, 100]), depth=1)
    with declared():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
        source = feed(inputs, "cuda", share=share)
    assert place(source.values).type == place(source.offsets).type == ("cuda" if fits else "cpu")
    assert source.device.type == "cuda"


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("bf16", [False, True])
def test_inputs_that_stay_on_the_host_give_the_numbers_of_those_that_do_not(prepared, monkeypatch, caplog, depth, bf16):
    caplog.set_level(logging.INFO, logger="nic_ray.training")
    settings = {"frozen_layers": depth, "hidden_dropout": 0.2, "precision": "bf16" if bf16 else "fp32"}
    with declared():
        given = prepared("bert", "cuda", **settings)
        expected = losses(train(given))
        assert "each batch is sent by itself" not in caplog.text
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, GPU_BYTES))
        assert losses(train(given)) == expected
    assert "inputs: too large for the cuda device, each batch is sent by itself" in caplog.text


def test_the_host_does_not_wait_for_a_batch_that_is_sent_by_itself(monkeypatch):
    inputs = Inputs(np.ones((100, 10), np.float32), np.array([0, 60, 100]), depth=1)
    with declared() as mode:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, GPU_BYTES))
        values, mask = padded_batch(feed(inputs, "cuda"), np.array([1, 0]))
        assert (values.device.type, mask.device.type) == ("cuda", "cuda")
    assert not mode.waits
    assert mask.sum(1).tolist() == [40, 60]


@pytest.mark.parametrize("depth", [0, 4])
@pytest.mark.parametrize("way", ["packed", "recorded", "padded"])
@pytest.mark.parametrize(("anchor", "queries_per_passage"), [(0.0, 1), (3.0, 4)])
def test_between_two_evaluations_the_host_never_waits_for_the_gpu(
    prepared, monkeypatch, depth, way, anchor, queries_per_passage
):
    between: collections.Counter[str] = collections.Counter()
    reads, forms, begun = [], set(), []

    def read(unread):
        between.update(mode.waits)  # reading itself waits
        reads.append(len(unread))
        return own_read(unread)

    def before_step():
        if not begun:
            mode.waits.clear()  # those of the preparation
        begun.append(True)

    def run(part, values, layout):
        forms.update([type(layout).__name__] * part.training)
        return forward(part, values, layout)

    own_read, forward = loop._read, Upper.forward
    monkeypatch.setattr(loop, "_read", read)
    monkeypatch.setattr(Upper, "forward", run)
    if way == "padded":
        monkeypatch.setattr(hardware, "attends_packed", lambda _: False)
    settings = {
        "frozen_layers": depth, "precision": "bf16", "hidden_dropout": 0.1,
        "anchor": anchor, "anchor_texts": 8, "queries_per_passage": queries_per_passage, "evaluations_per_epoch": 2,
        "batch_size": 8, "cuda_graphs": way == "recorded",
    }  # fmt: skip
    monkeypatch.setattr(graphs, "_captured", lambda step, pool: (step, pool))  # recording waits, once for each size
    with declared() as mode:
        given = prepared("bert", "cuda", layers=5, **settings)
        evaluations = 0
        for _ in train(given, before_step=before_step):
            evaluations += 1
            mode.waits.clear()  # those of the evaluation
    assert (evaluations, len(reads), sum(reads)) == (2, 2, len(begun))
    assert len(begun) > 2  # so that some are read together
    assert forms == ({"Packed"} if way in ("packed", "recorded") else {"Tensor"})
    assert not between, between


@pytest.mark.parametrize("family", FAMILIES)
def test_without_padding_a_training_in_16_bits_loses_what_it_loses_with_it(prepared, monkeypatch, family):
    found = {}
    with declared():
        given = prepared(family, "cuda", precision="bf16", epochs=2)
        found["packed"] = losses(train(given))
        monkeypatch.setattr(hardware, "attends_packed", lambda _: False)
        found["padded"] = losses(train(given))
    assert found["packed"] == pytest.approx(found["padded"], rel=0.02)


def test_a_gpus_log_holds_the_lines_of_a_cpus(prepared, caplog):
    caplog.set_level(logging.INFO, logger="nic_ray.training")
    lines = {}
    for device in ("cpu", "cuda"):
        with declared():
            given = prepared("bert", device, batch_size=4, epochs=2)
            caplog.clear()
            losses(train(given))
        # the time that is left, and how fast pairs were read, are the machine's
        lines[device] = [re.sub(r"remaining .*|pairs_per_second .*", "", line) for line in caplog.messages]
    assert sum(line.startswith("epoch ") for line in lines["cpu"]) > 4
    assert lines["cuda"] == lines["cpu"]


def test_a_state_is_copied_from_a_gpu_without_waiting_and_holds_nothing_twice(prepared, tmp_path):
    with declared() as mode:
        given = prepared("bert", "cuda", hidden_dropout=0.2, evaluations_per_epoch=2)
        expected = losses(train(given))
        evaluations = train(given)
        first = next(evaluations)
        mode.waits.clear()
        copied = on_host(first.state)
        assert not mode.waits
        next(evaluations)  # changes what was copied
        state = copied()
        assert {place(value).type for value in state["upper"].values()} == {"cpu"}
        assert all(value is state["best"]["upper"][name] for name, value in state["upper"].items())
        save_state(state, tmp_path)
        assert losses(train(given, state=load_state(tmp_path))) == expected[1:]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_that_goes_on_on_a_gpu_is_the_one_that_never_stopped(prepared, tmp_path, family):
    settings = {"hidden_dropout": 0.2, "attention_dropout": 0.1, "evaluations_per_epoch": 2}
    with declared():
        given = prepared(family, "cuda", **settings)
        expected = losses(train(given))
        save_state(next(train(given)).state, tmp_path)
        rest = losses(train(given, state=load_state(tmp_path)))
    assert rest == expected[1:]


@pytest.mark.parametrize(("wrote", "reads"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_of_another_kind_of_device_goes_on_with_dropout_seeded_anew(
    prepared, tmp_path, caplog, wrote, reads
):
    caplog.set_level(logging.INFO, logger="nic_ray.training")
    with declared():
        by_device = {name: prepared("bert", name, hidden_dropout=0.2, epochs=2) for name in (wrote, reads)}
        save_state(next(train(by_device[wrote])).state, tmp_path)
        assert "seeded anew" not in caplog.text
        rest = [losses(train(by_device[reads], state=load_state(tmp_path))) for _ in range(2)]
    said = f"dropout is seeded anew: the checkpoint was written on another kind of device than {reads}"
    assert said in caplog.messages
    assert len(rest[0]) == 1
    assert rest[0] == rest[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_every_worker_goes_on_from_another_kind_of_device_with_a_seed_of_its_own(prepared, monkeypatch, rank):
    with declared():
        state = next(train(prepared("bert", "cpu", evaluations_per_epoch=2))).state
        for room in (loop, gradients):
            monkeypatch.setattr(room, "dist", workers_of(2, rank))
        next(train(prepared("bert", "cuda", evaluations_per_epoch=2), state=state))
    assert state["step"] == 1
    assert torch.initial_seed() == 42 + rank + 7919


def workers_of(count: int, rank: int) -> SimpleNamespace:
    """A process group in which the others have done what this worker does."""
    return SimpleNamespace(
        is_initialized=lambda: True,
        get_world_size=lambda: count,
        get_rank=lambda: rank,
        all_gather=lambda into, own: [rows.copy_(own) for rows in into],
        all_reduce=lambda own: own,
    )


def test_a_step_that_runs_out_of_a_gpus_memory_is_repeated_in_smaller_parts(prepared, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="nic_ray.training")

    def small(part: Upper, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if mask.numel() > 300:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(part, values, mask)

    forward = Upper.forward
    with declared():
        given = prepared("mpnet", "cuda", batch_size=24, micro_batch_tokens=1000, epochs=2)
        expected = losses(train(given))
        monkeypatch.setattr(Upper, "forward", small)
        found = list(train(given))
    assert losses(found) == pytest.approx(expected, rel=1e-5)
    assert [line for line in caplog.messages if line.startswith("out of memory")] == [
        "out of memory at step 1: it is repeated, from here on with micro_batch_tokens 500",
        "out of memory at step 1: it is repeated, from here on with micro_batch_tokens 256",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_training_runs_on_a_gpu_from_end_to_end(prepared, tmp_path, family):
    results = {}
    for device in ("cpu", "cuda"):
        with declared():
            given = prepared(family, device)
            (tmp_path / device).mkdir()
            results[device] = train_single.train_one(given.config, out=tmp_path / device, view=View()).results
    assert_close(results["cuda"], results["cpu"], "train")
