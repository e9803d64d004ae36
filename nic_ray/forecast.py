"""How long a search will take and what room it needs, from a short probe on this machine."""

import itertools
import math
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nic_ray import encoder as encoders
from nic_ray import hardware, loop
from nic_ray.activations import CHUNK_TOKENS, Inputs, chunks, feed, frozen_inputs, token_inputs
from nic_ray.candidates import ALPHAS
from nic_ray.config import Config, TrainConfig
from nic_ray.evaluation import embed, texts_to_score
from nic_ray.pairs import index_pairs, read_pairs, relevant_passages
from nic_ray.placement import place_trials, trains_on_gpus
from nic_ray.preparation import Prepared, depths, prepare

PROBE_BATCHES = (32, 128)
"""Batch sizes that the probe steps with: two, to tell what a token costs from what a step does."""

PROBE_STEPS = 2
DRAWS = 400
"""Searches that are drawn to see how many epochs ASHA lets trials have."""

RAY_START_S = 8.0
TUNE_START_S = 8.0
RAY_BYTES = 1.2 * 2**30
"""What Ray's own processes take, dashboard included."""


@dataclass(frozen=True)
class Rates:
    """What work costs one trial while as many run beside it as will in the search. Seconds and bytes.

    A block is one transformer block; a token is one with its padding.
    """

    start: float
    """Until a new process can train."""
    frozen: float
    """A token and a frozen block, once."""
    trained: float
    """A token and a trained block, forward and backward."""
    step: float
    """A step, beside its tokens."""
    read: float
    """A token and a trained block, in an evaluation."""
    memory: float
    """What the process has for itself."""


@dataclass(frozen=True)
class Forecast:
    """What a search will take: seconds, bytes. No time is known where trials train on GPUs, and none is here."""

    trials: int
    concurrent: int
    epochs: float
    """Of all trials together, as ASHA is expected to let them have."""
    first_trial_s: float | None
    """The configuration under `train`, to its last epoch."""
    mean_trial_s: float | None
    """The mean over the search space, likewise."""
    activations_s: float | None
    """Once for these pairs; nothing if an earlier run has left them."""
    search_s: float | None
    confirm_s: float | None
    end_s: float | None
    """Interpolation, guard, the test rows, export."""
    total_s: float | None
    memory: float
    activations: float
    """Of all depths together, in memory and on disk."""
    disk: float
    """Of checkpoints and activations."""


TIMES = [field.name for field in fields(Forecast) if field.name.endswith("_s")]


def forecast(config: Config) -> Forecast:
    """Measure for about a minute, on the device that trials would train on, and reckon.

    Raises:
        InputError: unusable pairs, probe, base model, frozen_layers or device.
    """
    on_gpus = trains_on_gpus(config)
    prepared = prepare(config, on_gpu=on_gpus)
    cpus, gpus = hardware.usable_cpus(), torch.cuda.device_count() if prepared.device == "cuda" else 0
    path = config.guard.probe
    probe = 0 if path is None or not path.exists() else _tokens_of(prepared, path)
    if on_gpus and not gpus:  # what they would take on one is not to be learnt from a CPU
        layout = place_trials(config, cpus, [max(1.0, config.resources.gpus_per_worker)])
        rates = measured(config, 1, layout.threads, "cpu")
        prepared = replace(prepared, bf16=config.train.precision == "bf16")
        untold: dict[str, Any] = dict.fromkeys(TIMES)
        return replace(reckoned(prepared, rates, layout.concurrent, cpus, probe), **untold)
    layout = place_trials(config, cpus, [gpus])
    beside = math.ceil(layout.concurrent / max(1, gpus)) if gpus else layout.concurrent
    rates = measured(config, beside, layout.threads, prepared.device)
    return reckoned(prepared, rates, layout.concurrent, gpus or cpus, probe)


def measured(config: Config, concurrent: int, threads: int, device: str) -> Rates:
    """Rates by a short training in as many processes as trials will run at a time: they share the machine, or a GPU."""
    started = time.time()
    given = [(config, threads, started, device)] * concurrent
    with multiprocessing.get_context("spawn").Pool(concurrent) as pool:
        found = pool.starmap(_measure, given, chunksize=1)
    means = np.mean([[getattr(each, name) for name in Rates.__dataclass_fields__] for each in found], axis=0)
    return Rates(*map(float, means))


def reckoned(prepared: Prepared, rates: Rates, concurrent: int, processors: int, probe_tokens: int) -> Forecast:
    """What a search will take at some rates.

    Args:
        concurrent: trials that run at a time.
        processors: that the frozen blocks and the end of a search have, CPUs or GPUs.
        probe_tokens: of the guard's probe, 0 without one.
    """
    config = prepared.config
    search, blocks = config.search, _blocks(prepared)
    workers = config.resources.workers
    first = trial_s(prepared, rates, config.train)
    each = [trial_s(prepared, rates, sample) for sample in _samples(config)]
    mean = float(np.mean(each)) if each else first
    share = expected_share(search.trials, config.train.epochs, search.grace_period, search.reduction_factor)
    # a start is paid by every trial, the epochs by the first and by those that ASHA lets go on; the last ones run alone
    work = search.trials * rates.start + first + (search.trials * share - 1) * mean
    searched = work / concurrent + mean / 2 * (concurrent > 1)
    if search.time_budget is not None:
        searched = min(searched, search.time_budget)
    again = min(config.confirm.trials, search.trials) * config.confirm.seeds if search.trials > 1 else 0
    confirmed = math.ceil(again / concurrent) * (rates.start + mean)

    tokens, width = len(prepared.tokens.values), int(prepared.encoder.transformer.config.hidden_size)  # type: ignore[union-attr, arg-type]
    deepest = max(depths(config)) if prepared.encoder.can_be_cut else 0
    frozen = tokens * deepest * rates.frozen / processors
    upper = blocks - config.train.frozen_layers
    evaluated = _evaluation_tokens(prepared) * upper * rates.read
    tried = 0 if search.averaged_trials == 1 else search.trials + again
    readings = len(ALPHAS) + tried + 4
    probed = probe_tokens * (upper * (len(ALPHAS) + 3) * rates.read + config.train.frozen_layers * rates.frozen)
    end = (readings * evaluated + probed + tokens * blocks * rates.frozen) / processors + 10
    start = rates.start + RAY_START_S + TUNE_START_S

    kept = [depth for depth in depths(config) if depth > 0 and prepared.encoder.can_be_cut]
    size = float(tokens * width * (2 if prepared.bf16 else 4))
    in_memory = min(len(kept), int(config.activations.memory_budget_gib * 2**30 // size))
    state = 4 * 4.0 * _trained_parameters(prepared)  # weights, two moments and the best weights, in fp32
    return Forecast(
        trials=search.trials,
        concurrent=concurrent,
        epochs=search.trials * share * config.train.epochs,
        first_trial_s=first,
        mean_trial_s=mean,
        activations_s=frozen,
        search_s=searched,
        confirm_s=confirmed,
        end_s=end,
        total_s=start + frozen + searched + confirmed + end,
        memory=RAY_BYTES + (1 + concurrent * workers) * rates.memory + in_memory * size,
        activations=len(kept) * size,
        disk=len(kept) * size + (search.trials + again) * state,
    )


def trial_s(prepared: Prepared, rates: Rates, config: TrainConfig) -> float:
    """Seconds that the epochs of a configuration take, evaluations included."""
    trained = _blocks(prepared) - config.frozen_layers
    steps, tokens = _epoch(prepared, config)
    evaluations = config.evaluations_per_epoch * _evaluation_tokens(prepared) * trained * rates.read
    # where nothing can be kept, the frozen blocks run in every step
    again = 0 if prepared.encoder.can_be_cut else tokens * config.frozen_layers * rates.frozen
    return config.epochs * (steps * rates.step + tokens * trained * rates.trained + evaluations + again)


def expected_share(trials: int, epochs: int, grace_period: int, reduction_factor: int) -> float:
    """Share of all epochs that ASHA lets trials have where none is better than another but by chance.

    The search's first trial is never stopped; each later one goes on if it belongs to the best 1 / reduction_factor
    of those that came to the rung before it (as in Ray: at or above that percentile). Mean over `DRAWS` searches.
    """
    generator = np.random.default_rng(0)
    rungs = [grace_period]
    while rungs[-1] * reduction_factor < epochs:
        rungs.append(rungs[-1] * reduction_factor)
    rungs = [rung for rung in rungs if rung < epochs]
    total = 0.0
    for _ in range(DRAWS):
        recorded: dict[int, list[float]] = {rung: [] for rung in rungs}
        for number, value in enumerate(generator.random(trials)):
            reached = epochs
            for rung in rungs:
                before = recorded[rung]
                goes_on = number == 0 or value >= np.percentile(before, 100 * (1 - 1 / reduction_factor))
                before.append(float(value))
                if not goes_on:
                    reached = rung
                    break
            total += reached
    return total / (DRAWS * trials * epochs)


def _measure(config: Config, threads: int, started: float, device: str) -> Rates:
    torch.set_num_threads(threads)
    hardware.keep_freed_memory()
    pairs = read_pairs(config.data.pairs)
    encoder = encoders.load(config.train.base_model)
    ready = time.time() - started
    # passages with all of their rows, as many as the larger batch has rows
    rows = np.argsort(index_pairs(pairs).positive, kind="stable")[: max(PROBE_BATCHES)]
    collection = index_pairs([pairs[row] for row in rows])
    tokens = token_inputs(encoder, collection.texts, config.train.max_tokens, collection.is_query)
    depth = config.train.frozen_layers if encoder.can_be_cut else 0
    bf16 = hardware.computes_in_bf16(config.train.precision, device)
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    few = Inputs(tokens.values[: tokens.offsets[8]], tokens.offsets[:9])
    frozen_inputs(encoder, few, [max(1, depth)], device=device)
    begin = time.perf_counter()
    inputs: Inputs = frozen_inputs(encoder, tokens, [max(1, depth)], device=device, bf16=bf16)[max(1, depth)]
    frozen = (time.perf_counter() - begin) / (len(tokens.values) * max(1, depth))
    depth, source = max(1, depth), feed(inputs, device)
    upper = encoders.upper_copy(encoder, depth, from_ids=False).to(device).train()
    trained = encoder.blocks - depth
    seconds, sizes = [], []
    for batch_size in PROBE_BATCHES:
        settings = config.train.model_copy(update={"batch_size": batch_size, "queries_per_passage": 1})
        encoders.set_dropout(upper, attention=settings.attention_dropout, hidden=settings.hidden_dropout)
        optimizer = loop.make_optimizer(upper, settings)
        relevant = relevant_passages(collection)
        batch = loop.make_batch(collection, relevant, np.arange(len(rows))[:batch_size], settings.hard_negatives)
        for number in range(PROBE_STEPS + 1):
            if number == 1:  # the first one also allocates
                wait()
                begin = time.perf_counter()
            loop.accumulate_gradients(upper, source, batch, settings, bf16=bf16)
            torch.nn.utils.clip_grad_norm_(upper.parameters(), loop.MAX_GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait()
        seconds.append((time.perf_counter() - begin) / PROBE_STEPS)
        sizes.append(_padded(inputs.lengths, batch.texts, device))
    per_token = max(0.0, (seconds[1] - seconds[0]) / (sizes[1] - sizes[0]))
    begin = time.perf_counter()
    everything = np.arange(len(collection.texts))
    embed(upper, source, everything, bf16=bf16)
    read = (time.perf_counter() - begin) / (_padded(inputs.lengths, everything, device) * trained)
    return Rates(
        start=ready,
        frozen=frozen,
        trained=per_token / trained,
        step=max(0.0, seconds[0] - per_token * sizes[0]),
        read=read,
        memory=_own_bytes(),
    )


def _samples(config: Config) -> Iterator[TrainConfig]:
    """A configuration for each combination of what makes a difference to the time."""
    names = [name for name in ("frozen_layers", "batch_size", "queries_per_passage") if name in config.space]
    for values in itertools.product(*(config.space[name].ends() for name in names)):
        yield config.train.model_copy(update=dict(zip(names, values, strict=True)))


def _epoch(prepared: Prepared, config: TrainConfig, sampled: int = 6) -> tuple[int, float]:
    """Steps of an epoch, and its tokens with padding, from some of its batches."""
    rows = prepared.rows("train")
    batches = loop.batches_of_epoch(config, prepared.collection, rows, 0)
    taken = batches[:: max(1, len(batches) // sampled)]
    relevant: Mapping[int, Any] = relevant_passages(prepared.collection)
    tokens = [
        _padded(
            prepared.tokens.lengths,
            loop.make_batch(prepared.collection, dict(relevant), batch, config.hard_negatives).texts,
            prepared.device,
        )
        for batch in taken
    ]
    return len(batches), float(np.mean(tokens)) * len(batches)


def _evaluation_tokens(prepared: Prepared) -> int:
    texts = texts_to_score(prepared.collection, prepared.rows("validation").tolist())
    return _padded(prepared.tokens.lengths, texts, prepared.device)


def _tokens_of(prepared: Prepared, pairs: Path) -> int:
    asked, limit = index_pairs(read_pairs(pairs)), prepared.config.train.max_tokens
    return len(token_inputs(prepared.encoder, asked.texts, limit, asked.is_query).values)


def _padded(
    lengths: np.ndarray[Any, np.dtype[np.int64]], texts: np.ndarray[Any, np.dtype[np.int64]], device: str
) -> int:
    return sum(len(part) * int(lengths[part].max()) for part in chunks(lengths, texts, CHUNK_TOKENS[device]))


def _nothing() -> None:
    """On a CPU nothing is to be waited for."""


def _blocks(prepared: Prepared) -> int:
    return prepared.encoder.blocks


def _trained_parameters(prepared: Prepared) -> int:
    depth = min(depths(prepared.config))
    upper = encoders.upper_copy(prepared.encoder, depth, from_ids=False)
    return sum(value.numel() for value in upper.trained_state().values())


def _own_bytes() -> float:
    """Memory that this process shares with none, 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    return float(status.read_text().split("RssAnon:")[1].split()[0]) * 1024
