"""How long a search will take and how much memory and disk it needs, from a short training on this machine."""

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nic_ray.config import Config, SearchConfig
from nic_ray.cpus import usable_cpus
from nic_ray.dataset.pairs import index_pairs, read_pairs, relevant_passages
from nic_ray.model.activations import token_inputs
from nic_ray.model.cache import Layout, budget, layout_of, what_is_left
from nic_ray.model.encoder import Encoder, base_weights
from nic_ray.model.evaluation import texts_to_score
from nic_ray.search.placement import Placement, place_trials, threads_of, trains_on_gpus
from nic_ray.search.rates import Rates, measured, padded
from nic_ray.selection.averaging import SIZES, means_tried
from nic_ray.selection.folds import members_again, states_before_export, trainings_before_export
from nic_ray.selection.interpolation import mixtures_evaluated
from nic_ray.space import Dimension
from nic_ray.train_config import TrainConfig
from nic_ray.training.bases import prepare_bases
from nic_ray.training.batches import batches_of_epoch, make_batch
from nic_ray.training.prepared import Prepared, depths, numbers_of_general

SAMPLED_BATCHES = 6
"""Batches that are counted to estimate an epoch's tokens: counting every batch would take as long as training."""

DRAWS = 400
"""Searches that are simulated, to see how many epochs ASHA lets trials have and when the last trial ends."""
FURTHER_THREAD = 1.0
"""Work that each further thread does, relative to the first thread."""

RAY_START_S, TUNE_START_S = 8.0, 8.0
"""Seconds until Ray runs, and from then until its first trial runs, besides the trial's own start: on two cores."""
EXPORT_S = 10.0
"""Seconds to write the model, its card and the report, however long the search was: on two cores."""
RAY_BYTES = 1.2 * 2**30
"""Memory of Ray's own processes, dashboard included."""
BYTES_A_PARAMETER = 4 * 4
"""Bytes of a checkpoint per parameter: its value, two moments of the optimizer and its best value, each in fp32."""


@dataclass(frozen=True)
class Forecast:
    """Time and space of a search, in seconds and bytes. Times are unknown if trials train on GPUs and none is here."""

    trials: int
    concurrent: int
    epochs: float
    """Epochs of all trials together, as many as ASHA is expected to let them have."""
    first_trial_s: float | None
    """Time of the configuration under `train`, up to its last epoch."""
    mean_trial_s: float | None
    """Mean time over the search space, likewise."""
    activations_s: float | None
    """Spent once for these pairs; not at all if an earlier run has left their activations."""
    search_s: float | None
    confirm_s: float | None
    end_s: float | None
    """Time of the interpolation, the guard, the test rows and the export."""
    refit_s: float | None
    """Time of the trainings after that: on all rows, and of `protocol: cross_fit`; none if the guard refuses."""
    total_s: float | None
    every_depth: "Forecast | None"
    """The same search over every depth and without a time budget; None if it covers every depth, if the base model
    cannot be cut, or if times are unknown."""
    memory: float
    activations: float
    """Bytes of the activations of all depths together, in memory and on disk."""
    disk: float
    """Bytes of checkpoints and activations on disk."""


TIMES = [field.name for field in fields(Forecast) if field.name.endswith("_s")]


def forecast(config: Config) -> Forecast:
    """Forecast a search from about a minute of measurement on the device that trials would train on.

    Raises:
        InputError: unusable pairs, retention set, base model, frozen_layers or device.
    """
    on_gpus = trains_on_gpus(config)
    bases = [*prepare_bases(config, on_gpu=on_gpus, roughly=True).prepared.values()]
    prepared, config = bases[0], bases[0].config
    cpus, gpus = usable_cpus(), torch.cuda.device_count() if prepared.device == "cuda" else 0
    path = config.guard.retention_set
    retention_set = 0 if path is None or not path.exists() else _tokens_of(prepared, path)
    if on_gpus and not gpus:  # a CPU does not show how long trials would take on a GPU
        placement = place_trials(config, cpus, [max(1.0, config.resources.gpus_per_worker)])
        in_16_bits = config.train.precision == "bf16"
        parts = [(replace(own, bf16=in_16_bits), measured(own.config, 1, placement.threads, "cpu")) for own in bases]
        unknown: Any = dict.fromkeys(TIMES)
        return replace(estimate(parts, placement, cpus, retention_set), **unknown)
    placement = place_trials(config, cpus, [gpus])
    sharing = math.ceil(placement.concurrent / max(1, gpus))  # trials per GPU, or on the CPUs
    processes = sharing * placement.workers
    parts = [(own, measured(own.config, processes, placement.threads, prepared.device)) for own in bases]
    given = (placement, gpus or cpus, retention_set)
    found, wider = estimate(parts, *given), over_every_depth(prepared) if len(bases) == 1 else None
    return found if wider is None else replace(found, every_depth=estimate([(wider, parts[0][1])], *given))


def over_every_depth(prepared: Prepared) -> Prepared | None:
    """Return the same search over every depth and without a time budget.

    None if it covers every depth already, or if the base model cannot be cut.
    """
    config, every = prepared.config, list(range(prepared.encoder.blocks))
    blocks = prepared.encoder.blocks
    if not prepared.encoder.can_be_cut or set(every) <= set(depths(config, blocks)):
        return None
    space = {name: dimension for name, dimension in config.space.items() if name != "frozen_share"}
    changed = {
        "space": space | {"frozen_layers": Dimension(choice=every)},
        "search": config.search.model_copy(update={"time_budget": None}),
        "train": config.train.of_base(config.train.base_model, blocks).model_copy(update={"frozen_share": None}),
    }
    return replace(prepared, config=config.model_copy(update=changed))


def estimate(
    bases: Sequence[tuple[Prepared, Rates]], placement: Placement, processors: int, retention_tokens: int
) -> Forecast:
    """Forecast the time and space that a search will take at the given rates.

    Args:
        bases: each base model of the search, that of the first trial first, and its rates; the others are assumed to be
            tried equally often.
        placement: layout of the trials.
        processors: number of GPUs if trials train on them, otherwise of CPUs.
        retention_tokens: tokens of the guard's retention set, 0 without a retention set.
    """
    config = bases[0][0].config
    search, on_gpus = config.search, bool(placement.gpus_per_worker)
    again = min(config.confirm.trials, search.trials) * config.confirm.seeds if search.trials > 1 else 0
    parts, room = [], budget(config.activations, Path())
    for prepared, rates in bases:
        given = prepared.encoder, prepared.tokens, depths(prepared.config, prepared.encoder.blocks), room
        layout = layout_of(*given, bf16=prepared.bf16)
        room = what_is_left(room, layout)
        parts.append(_part_of(prepared, rates, layout, placement, retention_tokens, again))
    first, others = parts[0].first, [seconds for part in parts for seconds in part.trials]
    mean, start = float(np.mean(others)), float(np.mean([rates.start for _, rates in bases]))

    epochs = drawn_epochs(search, config.train.epochs)
    lasting = np.random.default_rng(1).choice(others, size=epochs.shape)
    lasting[:, 0] = first
    lasting = start + lasting * epochs / config.train.epochs
    pace = functools.partial(_pace, placement, processors)
    searched = float(np.mean([makespan(one, placement.concurrent, pace) for one in lasting.tolist()]))
    if search.time_budget is not None:
        searched = min(searched, search.time_budget)
    confirmed = makespan([start + mean] * again, placement.concurrent, pace)

    # one thread per processor
    frozen = sum(part.frozen for part in parts) * (1 if on_gpus else _gain(placement.threads)) / processors
    faster = 1 if on_gpus else _gain(placement.threads) / _gain(processors)
    end = EXPORT_S + float(np.mean([part.readings for part in parts])) * faster
    # each in one process, whatever the number of workers, and as many at a time as trials
    together = min(members_again(config), placement.concurrent)
    at_pace = together * _pace(replace(placement, workers=1), processors, together)
    refitted = float(np.mean([part.refitted for part in parts])) / at_pace
    checkpoints = (
        (search.trials + again + states_before_export(config))
        * BYTES_A_PARAMETER
        * max(part.trained_parameters for part in parts)
    )
    before = start + RAY_START_S + TUNE_START_S
    layouts = [part.layout for part in parts]
    return Forecast(
        trials=search.trials,
        concurrent=placement.concurrent,
        epochs=float(epochs.sum(axis=1).mean()),
        first_trial_s=first,
        mean_trial_s=mean,
        activations_s=frozen,
        search_s=searched,
        confirm_s=confirmed,
        end_s=end,
        refit_s=refitted,
        total_s=before + frozen + searched + confirmed + end + refitted,
        every_depth=None,
        memory=RAY_BYTES
        + (1 + placement.concurrent * placement.workers) * max(rates.memory for _, rates in bases)
        + sum(layout.in_memory * layout.size for layout in layouts),
        activations=float(sum(len(layout.cached) * layout.size for layout in layouts)),
        disk=float(sum(len(layout.files) * layout.size for layout in layouts) + checkpoints),
    )


@dataclass(frozen=True)
class _Part:
    """The times, in seconds, and the space that one base model takes."""

    layout: Layout
    first: float
    """All epochs of the configuration under `train`."""
    trials: list[float]
    """All epochs of each sampled configuration."""
    frozen: float
    """All activations, in one of the measured processes."""
    readings: float
    """The evaluations at the end, likewise."""
    refitted: float
    """The trainings before the export, likewise."""
    trained_parameters: int
    """At the lowest cut."""


def _part_of(
    prepared: Prepared, rates: Rates, layout: Layout, placement: Placement, retention_tokens: int, again: int
) -> _Part:
    encoder, cached = prepared.encoder, layout.cached
    samples = [*_samples(prepared)]
    alone = [trial_s(prepared, rates, sample, cached=cached, workers=1) for sample in samples]
    return _Part(
        layout=layout,
        first=trial_s(prepared, rates, _first(prepared), cached=cached, workers=placement.workers),
        trials=[trial_s(prepared, rates, each, cached=cached, workers=placement.workers) for each in samples],
        frozen=len(prepared.tokens.values) * max(cached, default=0) * rates.frozen,
        readings=_readings_s(prepared, rates, cached, again, retention_tokens),
        refitted=trainings_before_export(prepared) * float(np.mean(alone)),
        trained_parameters=_trained_parameters(encoder, min(depths(prepared.config, encoder.blocks))),
    )


def trial_s(prepared: Prepared, rates: Rates, config: TrainConfig, *, cached: Collection[int], workers: int) -> float:
    """Return the seconds that the epochs of a configuration take, evaluations included.

    Args:
        cached: depths whose activations are kept; at other depths the frozen blocks run in every step.
        workers: number of processes that train the configuration together.
    """
    steps, tokens = _epoch(prepared, config)
    trained = tokens * (prepared.encoder.blocks - config.frozen_layers) * rates.trained
    if config.frozen_layers not in cached:
        trained += tokens * config.frozen_layers * rates.frozen
    read = (
        _tokens_to_score(prepared, "validation") * _blocks_read(prepared, [config.frozen_layers], cached) * rates.read
    )
    return config.epochs * (steps * rates.step + (trained + config.evaluations_per_epoch * read) / workers)


def drawn_epochs(search: SearchConfig, epochs: int) -> NDArray[np.int64]:
    """Draw the (DRAWS, trials) epochs that ASHA lets the trials of a search have, if they differ only by chance.

    The search's first trial and its `starts` are never stopped; each later one continues if it belongs to the best
    1 / reduction_factor of those that reached the rung before it (as in Ray: at or above that percentile).

    Args:
        epochs: epochs of a trial that is not stopped.
    """
    generator = np.random.default_rng(0)
    rungs = [search.grace_period]
    while rungs[-1] * search.reduction_factor < epochs:
        rungs.append(rungs[-1] * search.reduction_factor)
    rungs = [rung for rung in rungs if rung < epochs]
    drawn = np.full((DRAWS, search.trials), epochs)
    for draw in drawn:
        recorded: dict[int, list[float]] = {rung: [] for rung in rungs}
        for number, value in enumerate(generator.random(search.trials)):
            for rung in rungs:
                before = recorded[rung]
                goes_on = number <= len(search.starts) or value >= np.percentile(
                    before, 100 * (1 - 1 / search.reduction_factor)
                )
                before.append(float(value))
                if not goes_on:
                    draw[number] = rung
                    break
    return drawn


def makespan(seconds: Sequence[float], concurrent: int, pace: Callable[[int], float]) -> float:
    """Return the seconds until the last trial has ended, if `concurrent` trials run at a time and start in order.

    Args:
        seconds: duration of each trial at the planned pace.
        pace: speed of a trial, as a multiple of the planned pace, by the number of trials that run.
    """
    waiting, running, passed = list(reversed(seconds)), list[float](), 0.0
    while waiting or running:
        while waiting and len(running) < concurrent:
            running.append(waiting.pop())
        least = min(running)
        passed += least / pace(len(running))
        running = [left - least for left in running if left > least]
    return passed


def _pace(placement: Placement, processors: int, trials: int) -> float:
    """Return a trial's speed, as a multiple of the planned one, while `trials` run and share the CPUs of ended ones."""
    if placement.gpus_per_worker or placement.concurrent == 1:
        return 1.0  # the gain from having a GPU alone has not been measured
    share = max(1, processors // (trials * placement.workers))
    return _gain(threads_of(share, placement.threads)) / _gain(placement.threads)


def _gain(threads: int) -> float:
    """Return the work of several threads as a multiple of the work of one."""
    return 1 + FURTHER_THREAD * (threads - 1)


def _readings_s(prepared: Prepared, rates: Rates, cached: Collection[int], again: int, retention_tokens: int) -> float:
    """Return the seconds that one of the measured processes takes for the evaluations at the end of a search.

    On the validation rows it evaluates the base model, the means of trials that are tried, and mixtures on the way to
    the winner; on the test rows the trials that the winner is compared with, and the queries alone by the base model
    and the tuned one, which have embedded the passages by then; on the retention set the base model, the trials that
    may be averaged, and the mixtures. Finally it evaluates the exported folder, starting from the texts.

    Args:
        again: number of trials that are trained with other seeds.
    """
    config, search = prepared.config, prepared.config.search
    base = _blocks_read(prepared, [max(depths(config, prepared.encoder.blocks))], cached)
    first = _blocks_read(prepared, [_first(prepared).frozen_layers], cached)
    other = _blocks_read(prepared, [sample.frozen_layers for sample in _samples(prepared)], cached)
    trials = search.trials + again
    starts = other if search.starts else 0.0
    tried, mixtures = means_tried(trials, search.averaged_trials), mixtures_evaluated(search.objective)
    validation = _tokens_to_score(prepared, "validation") * (base + (tried + mixtures) * other)
    held_back = ("test", "unseen_queries")
    test = _tokens_to_score(prepared, *held_back) * (first + starts) + _query_tokens(prepared, *held_back) * (
        base + other
    )
    reached = min(trials, 2 * SIZES[-1])
    retention = retention_tokens * (base + (reached + mixtures) * other)
    frozen = retention_tokens * max(cached, default=0) + len(prepared.tokens.values) * prepared.encoder.blocks
    return (validation + test + retention) * rates.read + frozen * rates.frozen


def _blocks_read(prepared: Prepared, cuts: Sequence[int], cached: Collection[int]) -> float:
    """Return the number of blocks that run to evaluate a model, averaged over the cuts that it may have."""
    return prepared.encoder.blocks - float(np.mean([cut if cut in cached else 0 for cut in cuts]))


def _first(prepared: Prepared) -> TrainConfig:
    """Return the configuration under `train`, with the depth that it has in the base model."""
    return prepared.config.train.of_base(prepared.encoder.name, prepared.encoder.blocks)


def _samples(prepared: Prepared) -> Iterator[TrainConfig]:
    """Yield one configuration per combination of the hyperparameters that affect the time."""
    config, encoder = prepared.config, prepared.encoder
    affecting = ("frozen_layers", "frozen_share", "batch_size", "queries_per_passage")
    names = [name for name in affecting if name in config.space]
    for values in itertools.product(*(config.space[name].ends() for name in names)):
        sample = config.train.model_copy(update=dict(zip(names, values, strict=True)))
        yield sample.of_base(encoder.name, encoder.blocks)


def _epoch(prepared: Prepared, config: TrainConfig) -> tuple[int, float]:
    """Return the steps of an epoch, and its tokens, padding included, estimated from some of its batches."""
    batches = batches_of_epoch(config, prepared.collection, prepared.rows("train"), 0)
    relevant, held = relevant_passages(prepared.collection), numbers_of_general(prepared)[: config.anchor_texts]
    tokens = [
        padded(
            prepared.tokens.lengths,
            _run_texts(
                prepared,
                config,
                np.append(make_batch(prepared.collection, relevant, batch, config.hard_negatives).texts, held),
            ),
            prepared.device,
        )
        for batch in batches[:: max(1, len(batches) // SAMPLED_BATCHES)]
    ]
    return len(batches), float(np.mean(tokens)) * len(batches)


def _tokens_to_score(prepared: Prepared, *parts: str) -> int:
    """Count the tokens, padding included, that are needed to score some parts, all of them at once."""
    rows = np.concatenate([prepared.rows(part) for part in parts])
    texts = _run_texts(prepared, prepared.config.train, texts_to_score(prepared.collection, rows.tolist()))
    return padded(prepared.tokens.lengths, texts, prepared.device)


def _query_tokens(prepared: Prepared, *parts: str) -> int:
    """Count the tokens, padding included, of the queries of some parts."""
    rows = np.concatenate([prepared.rows(part) for part in parts])
    return padded(prepared.tokens.lengths, np.unique(prepared.collection.query[rows]), prepared.device)


def _run_texts(prepared: Prepared, config: TrainConfig, texts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of some texts that run through the blocks: queries alone where passages keep their embeddings."""
    return texts if config.trains == "both" else texts[np.isin(texts, prepared.collection.query)]


def _tokens_of(prepared: Prepared, pairs: Path) -> int:
    collection, limit = index_pairs(read_pairs(pairs)), prepared.config.train.max_tokens
    return len(token_inputs(prepared.encoder, collection.texts, limit, collection.is_query).values)


def _trained_parameters(encoder: Encoder, depth: int) -> int:
    return sum(value.numel() for value in base_weights(encoder, depth).values())
