"""What a trial's work costs on this machine, measured in a short training."""

import multiprocessing
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nic_ray import hardware
from nic_ray.config import Config
from nic_ray.dataset.form import form_of
from nic_ray.dataset.pairs import Collection, find_problems, index_pairs
from nic_ray.model.activations import CHUNK_TOKENS, Inputs, chunks, feed, frozen_inputs, token_inputs, upper_for
from nic_ray.model.base import load_base
from nic_ray.model.encoder import Encoder
from nic_ray.model.evaluation import embed
from nic_ray.training import loop
from nic_ray.training.batches import make_batch

TIMED_BATCHES = (32, 128)
"""Batch sizes that are timed: two, to separate the cost of a token from the cost of a step."""
TIMED_STEPS = 2
"""Timed steps per batch size, after one step that also allocates memory."""
WARM_UP_TEXTS = 8
"""Texts that go through the frozen blocks before these are timed."""


@dataclass(frozen=True)
class Rates:
    """Cost of a trial's work, in seconds and bytes, while as many trials run beside it as will in the search.

    A block is a transformer block; tokens include padding.
    """

    start: float
    """Time until a new process can train."""
    frozen: float
    """Time per token and frozen block, for one pass."""
    trained: float
    """Time per token and trained block, forward and backward."""
    step: float
    """Time per step, besides that of its tokens."""
    read: float
    """Time per token and trained block in an evaluation."""
    memory: float
    """Memory that the process shares with no other."""


def measured(config: Config, processes: int, threads: int, device: str) -> Rates:
    """Measure rates in a short training with as many processes as will train at a time on the machine, or on a GPU."""
    started = time.time()
    arguments = [(config, threads, started, device)] * processes
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        measurements = pool.starmap(_measure, arguments, chunksize=1)
        pool.close()  # the processes end by themselves: ended from outside, they may leave semaphores behind
        pool.join()
    means = np.mean([[getattr(rates, field.name) for field in fields(Rates)] for rates in measurements], axis=0)
    return Rates(*map(float, means))


def _measure(config: Config, threads: int, started: float, device: str) -> Rates:
    torch.set_num_threads(threads)
    hardware.keep_freed_memory()
    # read and checked before; old domains may have few passages in the new file
    old = [pair for path in config.data.replay for pair in find_problems(path)[0]]
    pairs = [*old, *find_problems(config.data.pairs, form=form_of(config.data))[0]]
    encoder = load_base(config.train)
    ready = time.time() - started
    # rows in the order of their passages, as many as the larger batch has
    rows = np.argsort(index_pairs(pairs).positive, kind="stable")[: max(TIMED_BATCHES)]
    collection = index_pairs([pairs[row] for row in rows])
    tokens = token_inputs(encoder, collection.texts, config.train.max_tokens, collection.is_query)
    own = config.train.of_base(config.train.base_model, encoder.blocks)
    bf16 = hardware.computes_in_bf16(config.train.precision, device)
    inputs, frozen = _timed_inputs(encoder, tokens, own.frozen_layers, device, bf16=bf16)
    if own.trains == "queries":
        inputs = replace(inputs, fixed=_any_embeddings(encoder, collection))
    source, trained = feed(inputs, device), encoder.blocks - inputs.depth
    data = loop.TrainingData(collection, np.arange(len(rows)), source, bf16)
    (less, few_tokens), (more, many_tokens) = (
        _timed_steps(loop.new_training(own, upper_for(encoder, inputs).to(device), data), data.rows[:size])
        for size in TIMED_BATCHES
    )
    per_token = max(0.0, (more - less) / max(1, many_tokens - few_tokens))
    began = time.perf_counter()
    everything = np.arange(len(collection.texts))
    embed(upper_for(encoder, inputs).to(device), feed(replace(inputs, fixed=None), device), everything, bf16=bf16)
    read = (time.perf_counter() - began) / (padded(inputs.lengths, everything, device) * trained)
    return Rates(
        start=ready,
        frozen=read if frozen is None else frozen,
        trained=per_token / trained,
        step=max(0.0, less - per_token * few_tokens),
        read=read,
        memory=_own_bytes(),
    )


def _timed_inputs(
    encoder: Encoder, tokens: Inputs, frozen_layers: int, device: str, *, bf16: bool
) -> tuple[Inputs, float | None]:
    """Return inputs at a cut, and the seconds that a frozen block takes for a token.

    A model that cannot be cut gets token ids at depth 0, and no such time: its frozen blocks run like any other.
    """
    if not encoder.can_be_cut:
        return replace(tokens, depth=0), None
    depth = max(1, frozen_layers)
    few = Inputs(tokens.values[: tokens.offsets[WARM_UP_TEXTS]], tokens.offsets[: WARM_UP_TEXTS + 1], depth=0)
    frozen_inputs(encoder, few, [depth], device=device)
    began = time.perf_counter()
    inputs: Inputs = frozen_inputs(encoder, tokens, [depth], device=device, bf16=bf16)[depth]
    return inputs, (time.perf_counter() - began) / (len(tokens.values) * depth)


def _any_embeddings(encoder: Encoder, collection: Collection) -> NDArray[np.float32]:
    """Return embeddings for passages, and none for queries: which ones makes no difference to the time of a step."""
    width = encoder.model.get_embedding_dimension() or 1
    fixed = np.random.default_rng(0).standard_normal((len(collection.texts), width)).astype(np.float32)
    fixed[collection.is_query] = np.nan
    return fixed


def _timed_steps(training: loop.Training, rows: NDArray[np.int64]) -> tuple[float, int]:
    """Return the seconds of a step on some rows, and its number of tokens, padding included."""
    device, began = training.data.source.device.type, 0.0
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    for number in range(TIMED_STEPS + 1):
        if number == 1:
            wait()
            began = time.perf_counter()
        loop.train_step(training, rows)
    wait()
    seconds = (time.perf_counter() - began) / TIMED_STEPS
    batch = make_batch(training.data.collection, training.relevant, rows, training.config.hard_negatives)
    run = batch.texts[~training.data.source.is_fixed[batch.texts]]
    return seconds, padded(training.data.source.lengths, run, device)


def padded(lengths: NDArray[np.int64], texts: NDArray[np.int64], device: str) -> int:
    """Count the tokens of some texts, padding included, as they are computed on a device.

    Args:
        lengths: number of tokens of every text.
        texts: numbers of those that are counted.
    """
    return sum(len(part) * int(lengths[part].max()) for part in chunks(lengths, texts, CHUNK_TOKENS[device]))


def _nothing() -> None:
    """Do nothing: on a CPU there is nothing to wait for."""


def _own_bytes() -> float:
    """Return the memory in bytes that this process shares with no other; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    return float(status.read_text().split("RssAnon:")[1].split()[0]) * 1024
