"""The training loop in plain PyTorch: a generator of evaluations, independent of Ray and of files."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.dataset.pairs import Collection, relevant_passages
from nic_ray.errors import RunError
from nic_ray.metrics.table import METRICS, PRIMARY, maximised, order_key
from nic_ray.model.activations import LEAST_TOKENS, Feed
from nic_ray.model.adapters import add_adapters, weights_of
from nic_ray.model.cut import Upper, set_dropout
from nic_ray.record import BestState, TrainingState
from nic_ray.train_config import TrainConfig
from nic_ray.training.batches import (
    NO_OTHERS,
    NOTHING_HELD,
    Batch,
    GeneralTexts,
    OtherModels,
    batches_of_epoch,
    make_batch,
)
from nic_ray.training.gradients import (
    accumulate_gradients,
    clip_gradients,
    random_state,
    set_random_state,
)
from nic_ray.training.graphs import GraphedSteps, can_record
from nic_ray.training.loss import LOSSES, Loss, at_dimensions
from nic_ray.training.optimizer import load_optimizer_state, make_optimizer, set_rate
from nic_ray.training.schedule import StepPlan, rate_factor, step_plan

log = logging.getLogger("nic_ray.training")


@dataclass(frozen=True)
class TrainingData:
    """The data that a training reads."""

    collection: Collection
    rows: NDArray[np.int64]
    """(N,) training rows of the collection."""
    source: Feed
    """Inputs at the depth of the cut below the trained blocks, for the device that these blocks are on."""
    bf16: bool = False
    """Whether the blocks run in bfloat16."""
    general: GeneralTexts = NOTHING_HELD
    """Texts that are held to the base model's embeddings, if `anchor` is above 0."""
    others: OtherModels = NO_OTHERS
    """What a guide and a teacher make of the collection's texts."""


@dataclass(frozen=True)
class Validation:
    """The evaluation of a training while it runs."""

    evaluate: Callable[[Upper], dict[str, float]]
    """Returns the flat validation metrics, among them `objective` and "mrr/macro"."""
    objective: str
    """The metric that decides which evaluation is the best."""


UNJUDGED = Validation(lambda _: {f"{name}/macro": 0.0 for name in METRICS}, f"{PRIMARY}/macro")
"""For a training without validation rows: all of its evaluations score alike."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on the validation rows during training."""

    metrics: dict[str, float]
    """Flat metrics of `evaluate`, with "loss" (mean since the last evaluation, nats), "epoch", "step",
    "objective" (the best so far), "best_epoch", "evaluation" (1 for the first), "finished" (1 for the
    last) and "pairs_per_second"."""
    is_best: bool
    """Whether this evaluation is the best so far: by objective, then by mrr/macro; of equal ones, the earliest."""
    state: TrainingState
    """The state that `fit` can resume from. The tensors are live: save or copy them before asking for the next
    evaluation."""


@dataclass
class Training:
    """The state that a training step changes, and the data that it needs."""

    config: TrainConfig
    """The settings, where `micro_batch_tokens` is lowered to the number that has fitted into memory."""
    upper: Upper
    optimizer: torch.optim.AdamW
    data: TrainingData
    relevant: dict[int, NDArray[np.int64]]
    """Answers to each query of the collection, from `pairs.relevant_passages`."""
    candidates: NDArray[np.int64] | None
    """Passages that every query picks from: all that the training rows name, where passages keep their embeddings, so
    that they cost nothing; None for those of its batch."""
    loss: Loss
    graphs: GraphedSteps | None = None
    """Takes the steps that it has recorded, if `cuda_graphs` are asked for and can be used."""


def fit(
    config: TrainConfig,
    upper: Upper,
    data: TrainingData,
    validation: Validation,
    *,
    state: TrainingState | None = None,
    before_step: Callable[[], None] = lambda: None,
    loss: Loss | None = None,
) -> Iterator[Evaluation]:
    """Train `upper` in place on some rows; yield at every evaluation.

    In an initialised process group the workers share each batch, and all obtain the gradients of the whole batch;
    all workers must call this function with the same arguments.

    Args:
        state: an `Evaluation.state` to resume from, of the same configuration and rows; it may come from any device.
        before_step: called before every step.
        loss: the loss function to minimise; None for the one that the configuration names.

    Raises:
        RunError: the loss, a gradient or an embedding is not finite; the message names step and learning rate. Or the
            device runs out of memory even with the smallest `micro_batch_tokens`; with several workers, running out
            of memory is always an error, since one worker cannot repeat a step alone.
    """
    for each in fit_by_steps(config, upper, data, validation, state=state, before_step=before_step, loss=loss):
        if each is not None:
            yield each


def fit_by_steps(
    config: TrainConfig,
    upper: Upper,
    data: TrainingData,
    validation: Validation,
    *,
    state: TrainingState | None = None,
    before_step: Callable[[], None] = lambda: None,
    loss: Loss | None = None,
) -> Iterator[Evaluation | None]:
    """Train as `fit` does, but yield after every step: an evaluation, or None where none is due."""
    training = new_training(config, upper, data, loss=loss)
    torch.manual_seed(config.seed + (dist.get_rank() if dist.is_initialized() else 0))
    step, stale, best = _restore(training, state)
    per_epoch, objective = len(batches_of_epoch(config, data.collection, data.rows, 0)), validation.objective
    plan = step_plan(per_epoch, epochs=config.epochs, evaluations_per_epoch=config.evaluations_per_epoch)
    log.info("training on %d pairs from step %d of %d", len(data.rows), step, plan.total)
    if data.source.values.device.type != data.source.device.type:
        log.info("inputs: too large for the %s device, each batch is sent by itself", data.source.device.type)
    for segment in _train_segments(training, plan, step, before_step):
        if segment is None:
            yield None
            continue
        try:
            metrics = validation.evaluate(upper)
        except ValueError as error:
            raise _not_finite("embeddings", segment.step, segment.rate, str(error)) from error
        is_best = best is None or order_key(metrics, objective) > order_key(best["metrics"], objective)
        epoch = segment.step / plan.per_epoch
        metrics |= {"loss": segment.loss, "epoch": epoch, "step": float(segment.step)}
        live = upper.trained_state()
        if is_best:
            best = {"metrics": dict(metrics), "upper": weights_of(upper) if upper.adapted else dict(live)}
        assert best is not None
        stale = 0 if is_best else stale + 1
        finished = segment.step == plan.total or (config.patience is not None and stale >= config.patience)
        metrics |= {
            "objective": maximised(best["metrics"], objective),
            "best_epoch": best["metrics"]["epoch"],
            "evaluation": float(plan.evaluations_until(segment.step)),
            "finished": float(finished),
            "pairs_per_second": segment.pairs_per_second,
        }
        log.info("evaluation  %s", "  ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
        yield Evaluation(metrics, is_best, _state_of(training, live, segment.step, stale, best, metrics))
        if is_best:  # while they were the live ones, a checkpoint held them once
            best["upper"] = {name: value.clone() for name, value in best["upper"].items()}
        if finished:
            return


def new_training(config: TrainConfig, upper: Upper, data: TrainingData, *, loss: Loss | None = None) -> Training:
    """Prepare `upper` for training, in place: set the configured dropout and training mode; create the optimizer.

    With `method` "lora", adapters are put on its linear layers, and train instead of these.
    """
    set_dropout(upper, attention=config.attention_dropout, hidden=config.hidden_dropout)
    _adapt(upper, config)
    upper.train()
    relevant, loss = relevant_passages(data.collection), loss or LOSSES[config.loss]
    if config.dimensions:
        loss = at_dimensions(loss, [*config.dimensions, None])
    candidates = None
    if config.trains == "queries":
        negatives = data.collection.negatives[data.rows, : config.hard_negatives].ravel()
        candidates = np.union1d(data.collection.positive[data.rows], negatives[negatives >= 0])
    graphed = config.cuda_graphs and can_record(upper, data.source, data.others, bf16=data.bf16)
    optimizer = make_optimizer(upper, config, capturable=graphed)
    graphs = GraphedSteps(upper, optimizer, data.source, loss) if graphed else None
    return Training(config, upper, optimizer, data, relevant, candidates, loss, graphs)


def weights_in(state: TrainingState, upper: Upper, config: TrainConfig) -> dict[str, Tensor]:
    """Return the weights that a training had in a state, as `adapters.weights_of`.

    Args:
        upper: the untrained part, which is changed in place.
        config: the configuration of the training.
    """
    _adapt(upper, config)
    upper.load_trained_state(state["upper"])
    return weights_of(upper)


def _adapt(upper: Upper, config: TrainConfig) -> None:
    if config.method == "lora":
        add_adapters(upper, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)


def train_step(training: Training, rows: NDArray[np.int64], *, step: int = 1) -> tuple[Tensor, Tensor]:
    """Take one complete training step on a global batch, at the optimizer's current learning rate.

    Compute the gradients of the batch's loss within memory, clip their norm, take the optimizer's step and clear the
    gradients.

    Args:
        rows: (B,) rows of the collection.
        step: number of the step, for messages and for the draw of general texts; 1 is the first.

    Returns:
        the loss in nats and the norm of its gradient before clipping, both () and still on the device: reading them
        makes the host wait for the device.

    Raises:
        RunError: the device's memory is too small, as for `fit`.
    """
    config, data = training.config, training.data
    held = data.general.sample(config.anchor_texts, seed=config.seed, step=step) if config.anchor else NOTHING_HELD
    batch = make_batch(
        data.collection, training.relevant, rows, config.hard_negatives, held, data.others, training.candidates
    )
    try:
        if training.graphs is not None and (taken := training.graphs.take(batch, config)) is not None:
            return taken
        loss = _within_memory(training, batch, step)
        norm = clip_gradients(training.upper)
        training.optimizer.step()
    except torch.OutOfMemoryError:
        raise _out_of_memory(step, training.config) from None
    training.optimizer.zero_grad(set_to_none=True)
    return loss, norm


@dataclass(frozen=True)
class _Segment:
    """The steps between two evaluations."""

    step: int
    """Number of steps from the beginning of the training to the end of the segment."""
    loss: float
    """Mean loss over the steps of the segment, nats."""
    rate: float
    """Learning rate of the last step of the segment."""
    pairs_per_second: float


@dataclass(frozen=True)
class _Taken:
    """A step whose results are still on the device."""

    step: int
    rate: float
    loss: Tensor
    norm: Tensor


def _train_segments(
    training: Training, plan: StepPlan, step: int, before_step: Callable[[], None]
) -> Iterator[_Segment | None]:
    """Train from a step to the end; yield after every step, the segment that it ends if an evaluation is due."""
    config, data = training.config, training.data
    # reading a result makes the host wait until the device has done all queued work, so a GPU's results are read where
    # the host has to wait anyway
    reads = plan.evaluates_after if data.source.device.type == "cuda" else plan.logs_after
    unread: list[_Taken] = []
    losses: list[float] = []
    pairs, since = 0, time.monotonic()
    started, first_step = time.monotonic(), step
    while step < plan.total:
        epoch, done = divmod(step, plan.per_epoch)
        for rows in batches_of_epoch(config, data.collection, data.rows, epoch)[done:]:
            before_step()
            rate = config.peak_learning_rate * rate_factor(
                step, plan.total, plan.per_epoch, schedule=config.schedule, warmup_share=config.warmup_share
            )
            set_rate(training.optimizer, rate)
            step += 1
            unread.append(_Taken(step, rate, *train_step(training, rows, step=step)))
            pairs += len(rows)
            if reads(step):
                read = _read(unread)
                losses += [loss for loss, _ in read]
                _log(unread, read, plan, (time.monotonic() - started) / (step - first_step))
                unread.clear()
            if not plan.evaluates_after(step):
                yield None
                continue
            yield _Segment(step, float(np.mean(losses)), rate, pairs / (time.monotonic() - since))
            losses.clear()
            pairs, since = 0, time.monotonic()


def _log(taken: Sequence[_Taken], read: Sequence[tuple[float, float]], plan: StepPlan, pace: float) -> None:
    """Log the steps that are to be logged.

    Args:
        read: loss and gradient norm of each step.
        pace: seconds that a step takes.
    """
    for each, (loss, norm) in zip(taken, read, strict=True):
        if plan.logs_after(each.step):
            log.info(
                "epoch %.3f  step %d/%d  loss %.4f  lr %.3e  grad_norm %.3f  remaining %.0f s",
                each.step / plan.per_epoch, each.step, plan.total, loss, each.rate, norm,
                pace * (plan.total - each.step),
            )  # fmt: skip


def _within_memory(training: Training, batch: Batch, step: int) -> Tensor:
    """Run `accumulate_gradients` on cleared gradients, and halve `micro_batch_tokens` until memory suffices.

    Returns:
        the loss, () detached. `training` keeps the lowered `micro_batch_tokens`.

    Raises:
        RunError: memory does not suffice; the message names the step.
    """
    device = training.data.source.device
    before = random_state(device)
    while True:
        loss = _unless_out_of_memory(training, batch, step)
        if loss is not None:
            return loss
        training.upper.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        set_random_state(device, before)
        _set_micro_batch_tokens(training, max(LEAST_TOKENS, training.config.micro_batch_tokens // 2))
        log.info(
            "out of memory at step %d: it is repeated, from here on with micro_batch_tokens %d",
            step, training.config.micro_batch_tokens,
        )  # fmt: skip


def _unless_out_of_memory(training: Training, batch: Batch, step: int) -> Tensor | None:
    # a separate function, because a live exception keeps everything alive that its stack frames refer to
    config, data = training.config, training.data
    try:
        return accumulate_gradients(training.upper, data.source, batch, config, bf16=data.bf16, loss=training.loss)
    except torch.OutOfMemoryError:
        # the other workers are in the middle of this step and would wait for ever if this worker repeated it
        if dist.is_initialized() or config.micro_batch_tokens <= LEAST_TOKENS:
            raise _out_of_memory(step, config) from None
        return None


def _set_micro_batch_tokens(training: Training, micro_batch_tokens: int) -> None:
    training.config = training.config.model_copy(update={"micro_batch_tokens": micro_batch_tokens})


def _read(unread: Sequence[_Taken]) -> list[tuple[float, float]]:
    """Read each step's loss and gradient norm from the device.

    Raises:
        RunError: a loss or a gradient norm is not finite; the message names the first such step.
    """
    values = torch.stack([torch.stack([each.loss, each.norm]) for each in unread]).tolist()
    for each, (loss, norm) in zip(unread, values, strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _not_finite("loss or gradient", each.step, each.rate, f"loss {loss}, gradient norm {norm}")
    return [(loss, norm) for loss, norm in values]


def _state_of(
    training: Training, live: dict[str, Tensor], step: int, stale: int, best: BestState, metrics: dict[str, float]
) -> TrainingState:
    device = training.data.source.device
    return {
        "upper": live,
        "optimizer": training.optimizer.state_dict(),
        "random": random_state(device),
        "random_of": device.type,
        "micro_batch_tokens": training.config.micro_batch_tokens,
        "step": step,
        "stale": stale,
        "best": best,
        "metrics": dict(metrics),
        "finished": bool(metrics["finished"]),
    }


def _restore(training: Training, state: TrainingState | None) -> tuple[int, int, BestState | None]:
    """Restore a training's state; return its step, the number of evaluations since the best one, and the best one."""
    if state is None:
        return 0, 0, None
    tokens = training.config.micro_batch_tokens
    _set_micro_batch_tokens(training, min(state.get("micro_batch_tokens", tokens), tokens))
    training.upper.load_trained_state(state["upper"])
    load_optimizer_state(training.optimizer, state)
    device = training.data.source.device
    # a GPU's random state has a few bytes, a CPU's a few thousand
    foreign = state.get("random_of") not in (None, device.type) or len(state["random"]) != len(random_state(device))
    if foreign:
        log.info("dropout is seeded anew: the checkpoint was written on another kind of device than %s", device.type)
    if foreign or (dist.is_initialized() and dist.get_rank() > 0):
        # the state is that of the first of several workers, and the dropout of the others must not repeat it
        torch.manual_seed(torch.initial_seed() + 7919 * state["step"])
    else:
        set_random_state(device, state["random"])
    return state["step"], state["stale"], state["best"]


def _out_of_memory(step: int, config: TrainConfig) -> RunError:
    tokens = config.micro_batch_tokens
    hint = ", the least there is: " if tokens <= LEAST_TOKENS else ": lower it, "
    return RunError(
        f"out of memory at step {step} with train.micro_batch_tokens {tokens}{hint}raise resources.gpus_per_worker, so "
        "that fewer trials share a GPU, or lower train.batch_size or train.max_tokens"
    )


def _not_finite(what: str, step: int, rate: float, values: str) -> RunError:
    return RunError(
        f"{what} not finite at step {step} (learning rate {rate:.3g}): {values}; lower train.learning_rate "
        "or train.scale"
    )
