"""The training loop: plain PyTorch, a generator of evaluations. It knows no Ray and no files."""

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

from nic_ray.config import Schedule, TrainConfig
from nic_ray.dataset.pairs import Collection, relevant_passages
from nic_ray.errors import RunError
from nic_ray.metrics.table import METRICS, PRIMARY, order_key
from nic_ray.model.activations import LEAST_TOKENS, Feed
from nic_ray.model.cut import Upper, set_dropout
from nic_ray.record import BestState, TrainingState
from nic_ray.training.batches import Batch, batches_of_epoch, make_batch
from nic_ray.training.gradients import accumulate_gradients, random_state, set_random_state, trained_parameters
from nic_ray.training.loss import Loss, multiple_negatives_ranking_loss

MAX_GRADIENT_NORM = 1.0
FLOOR_OF_A_CYCLE = 0.05
LOGS_PER_EPOCH = 20

log = logging.getLogger("nic_ray.training")


@dataclass(frozen=True)
class TrainingData:
    """What a training reads."""

    collection: Collection
    rows: NDArray[np.int64]
    """(N,) rows of the collection that train."""
    source: Feed
    """Inputs at the depth that the trained blocks are fed at, for the device that these are on."""
    bf16: bool = False
    """Whether the blocks run in bfloat16."""


@dataclass(frozen=True)
class Validation:
    """How a training is judged on its way."""

    evaluate: Callable[[Upper], dict[str, float]]
    """Gives the flat validation metrics, among them `objective` and "mrr/macro"."""
    objective: str
    """The metric that decides which evaluation is the best."""


UNJUDGED = Validation(lambda _: {f"{name}/macro": 0.0 for name in METRICS}, f"{PRIMARY}/macro")
"""Where no rows are held back to judge a training by: all of its evaluations are alike."""


@dataclass(frozen=True)
class Evaluation:
    """One reading of the validation rows during training."""

    metrics: dict[str, float]
    """Flat metrics of `evaluate`, with "loss" (mean since the last evaluation, nats), "epoch", "step",
    "objective" (the best so far), "best_epoch", "evaluation" (1 for the first) and "finished" (1 for the
    last)."""
    is_best: bool
    """Whether it is the best so far: by objective, then mrr/macro, then the earlier one."""
    state: TrainingState
    """What `fit` goes on from. The tensors are live: save them before asking for the next evaluation."""


@dataclass
class Training:
    """What a step changes, and what it needs for that."""

    config: TrainConfig
    """With the `micro_batch_tokens` that memory has left of it."""
    upper: Upper
    optimizer: torch.optim.AdamW
    data: TrainingData
    relevant: dict[int, NDArray[np.int64]]
    """Of the collection, from `pairs.relevant_passages`."""
    loss: Loss


def fit(
    config: TrainConfig,
    upper: Upper,
    data: TrainingData,
    validation: Validation,
    *,
    state: TrainingState | None = None,
    before_step: Callable[[], None] = lambda: None,
    loss: Loss = multiple_negatives_ranking_loss,
) -> Iterator[Evaluation]:
    """Train `upper` in place on some rows; yield at every evaluation.

    Under an initialised process group the workers share each batch and end up with the gradients of
    the whole batch: all of them must call this with the same arguments.

    Args:
        state: an `Evaluation.state` to go on from, of the same configuration and rows; on whatever device it was.
        before_step: is called before every step.
        loss: what is minimised.

    Raises:
        RunError: the loss, a gradient or an embedding is not finite; names step and learning rate. Or the device's
            memory is too small even with the smallest `micro_batch_tokens`, or with any where there are several
            workers: one of them cannot repeat a step alone.
    """
    training = new_training(config, upper, data, loss=loss)
    torch.manual_seed(config.seed + (dist.get_rank() if dist.is_initialized() else 0))
    step, stale, best = _restore(training, state)
    course, objective = _course_of(config, data), validation.objective
    log.info("training on %d pairs from step %d of %d", len(data.rows), step, course.total)
    if data.source.values.device.type != data.source.device.type:
        log.info("inputs: too large for the %s device, each batch is sent by itself", data.source.device.type)
    for stretch in _stretches(training, course, step, before_step):
        try:
            metrics = validation.evaluate(upper)
        except ValueError as error:
            raise _not_finite("embeddings", stretch.step, stretch.rate, str(error)) from error
        is_best = best is None or order_key(metrics, objective) > order_key(best["metrics"], objective)
        epoch = stretch.step / course.per_epoch
        metrics |= {"loss": stretch.loss, "epoch": epoch, "step": float(stretch.step)}
        if is_best:
            weights = {name: value.clone() for name, value in upper.trained_state().items()}
            best = {"metrics": dict(metrics), "upper": weights}
        assert best is not None
        stale = 0 if is_best else stale + 1
        finished = stretch.step == course.total or (config.patience is not None and stale >= config.patience)
        metrics |= {
            "objective": best["metrics"][objective],
            "best_epoch": best["metrics"]["epoch"],
            "evaluation": float(course.evaluations_until(stretch.step)),
            "finished": float(finished),
            "pairs_per_second": stretch.pairs_per_second,
        }
        log.info("evaluation  %s", "  ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
        yield Evaluation(metrics, is_best, _state_of(training, stretch.step, stale, best, metrics))
        if finished:
            return


def new_training(
    config: TrainConfig, upper: Upper, data: TrainingData, *, loss: Loss = multiple_negatives_ranking_loss
) -> Training:
    """Make `upper` ready to train, in place: the configuration's dropout, in training mode, with a new optimizer."""
    set_dropout(upper, attention=config.attention_dropout, hidden=config.hidden_dropout)
    upper.train()
    return Training(config, upper, make_optimizer(upper, config), data, relevant_passages(data.collection), loss)


def train_step(training: Training, rows: NDArray[np.int64], *, step: int = 1) -> tuple[Tensor, Tensor]:
    """Train on one global batch: all that is done between two batches, at the optimizer's present learning rate.

    The gradients of the batch's loss, within memory; their norm clipped to `MAX_GRADIENT_NORM`; the optimizer's step;
    and no gradients left behind.

    Args:
        rows: (B,) rows of the collection.
        step: number of the step, for messages; 1 is the first.

    Returns:
        the loss in nats and the norm of its gradient before it was clipped, both () and still on the device: whoever
        reads them makes the host wait for it.

    Raises:
        RunError: the device's memory is too small, as for `fit`.
    """
    batch = make_batch(training.data.collection, training.relevant, rows, training.config.hard_negatives)
    try:
        loss = _within_memory(training, batch, step)
        norm = torch.nn.utils.clip_grad_norm_(trained_parameters(training.upper), MAX_GRADIENT_NORM)
        training.optimizer.step()
    except torch.OutOfMemoryError:
        raise _out_of_memory(step, training.config) from None
    training.optimizer.zero_grad(set_to_none=True)
    return loss, norm


@dataclass(frozen=True)
class _Course:
    """Where a training's epochs and evaluations fall, in steps."""

    per_epoch: int
    total: int
    stops: tuple[int, ...]
    """Steps of an epoch that are followed by an evaluation, ascending; the last one ends it."""

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation follows a step; 1 is the first."""
        return (step - 1) % self.per_epoch + 1 in self.stops

    def evaluations_until(self, step: int) -> int:
        """How many evaluations there are up to and with the one that follows a step."""
        epochs, in_epoch = divmod(step - 1, self.per_epoch)
        return epochs * len(self.stops) + self.stops.index(in_epoch + 1) + 1


def _course_of(config: TrainConfig, data: TrainingData) -> _Course:
    per_epoch, parts = len(batches_of_epoch(config, data.collection, data.rows, 0)), config.evaluations_per_epoch
    stops = {round(part * per_epoch / parts) for part in range(1, parts + 1)} - {0}
    return _Course(per_epoch, per_epoch * config.epochs, tuple(sorted(stops)))


@dataclass(frozen=True)
class _Stretch:
    """The steps between two evaluations."""

    step: int
    """Steps that have been taken at its end, since the beginning of the training."""
    loss: float
    """Mean over its steps, nats."""
    rate: float
    """Learning rate of its last step."""
    pairs_per_second: float


def _stretches(training: Training, course: _Course, step: int, before_step: Callable[[], None]) -> Iterator[_Stretch]:
    """Train from a step on, to the end; yield wherever an evaluation is due."""
    config, data = training.config, training.data
    # numbers that are still on the device: reading one makes the host wait for all that was asked of it
    unread: list[tuple[Tensor, Tensor, float]] = []
    losses: list[float] = []
    pairs, since = 0, time.monotonic()
    started, first_step = time.monotonic(), step
    while step < course.total:
        epoch, done = divmod(step, course.per_epoch)
        for rows in batches_of_epoch(config, data.collection, data.rows, epoch)[done:]:
            before_step()
            rate = config.learning_rate * rate_factor(
                step, course.total, course.per_epoch, schedule=config.schedule, warmup_share=config.warmup_share
            )
            for group in training.optimizer.param_groups:
                group["lr"] = rate
            step += 1
            loss, norm = train_step(training, rows, step=step)
            unread.append((loss, norm, rate))
            pairs += len(rows)
            is_due = course.evaluates_after(step)
            if is_due or step % max(1, course.per_epoch // LOGS_PER_EPOCH) == 0:
                losses += _read(unread, step)
                unread.clear()
                left = (time.monotonic() - started) / (step - first_step) * (course.total - step)
                log.info(
                    "epoch %.3f  step %d/%d  loss %.4f  lr %.3e  grad_norm %.3f  remaining %.0f s",
                    step / course.per_epoch, step, course.total, losses[-1], rate, float(norm), left,
                )  # fmt: skip
            if is_due:
                yield _Stretch(step, float(np.mean(losses)), rate, pairs / (time.monotonic() - since))
                losses.clear()
                pairs, since = 0, time.monotonic()


def rate_factor(step: int, total: int, per_epoch: int, *, schedule: Schedule, warmup_share: float) -> float:
    """What the peak learning rate is multiplied with at a step, in (0, 1].

    It rises in a straight line over the first `warmup_share` of all steps. Then "constant" stays;
    "linear" and "cosine" fall towards 0 at the last step; "cosine_restarts" falls within each epoch to
    5 % at its last step and starts again at the next.

    Args:
        step: 0 for the first.
        total: steps in all.
        per_epoch: steps in an epoch.
    """
    warmup = round(warmup_share * total)
    rise = min(1.0, (step + 1) / (warmup + 1))
    if schedule == "cosine_restarts":
        part = step % per_epoch / max(1, per_epoch - 1)
        return rise * (FLOOR_OF_A_CYCLE + (1 - FLOOR_OF_A_CYCLE) * (1 + math.cos(math.pi * part)) / 2)
    if schedule == "constant" or step < warmup:
        return rise
    part = (step - warmup) / max(1, total - warmup)
    return 1 - part if schedule == "linear" else (1 + math.cos(math.pi * part)) / 2


def _within_memory(training: Training, batch: Batch, step: int) -> Tensor:
    """`accumulate_gradients` where there are none, with `micro_batch_tokens` halved until memory suffices.

    Returns:
        the loss, () detached. What has been left of `micro_batch_tokens` stays in `training`.

    Raises:
        RunError: it does not suffice; names the step.
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
        _keep_to_tokens(training, max(LEAST_TOKENS, training.config.micro_batch_tokens // 2))
        log.info(
            "out of memory at step %d: it is repeated, from here on with micro_batch_tokens %d",
            step, training.config.micro_batch_tokens,
        )  # fmt: skip


def _unless_out_of_memory(training: Training, batch: Batch, step: int) -> Tensor | None:
    # a function of its own: as long as the error is held, so is what its frames hold
    config, data = training.config, training.data
    try:
        return accumulate_gradients(training.upper, data.source, batch, config, bf16=data.bf16, loss=training.loss)
    except torch.OutOfMemoryError:
        # other workers are in the middle of this step, and would wait for ever for the parts of another one
        if dist.is_initialized() or config.micro_batch_tokens <= LEAST_TOKENS:
            raise _out_of_memory(step, config) from None
        return None


def _keep_to_tokens(training: Training, micro_batch_tokens: int) -> None:
    training.config = training.config.model_copy(update={"micro_batch_tokens": micro_batch_tokens})


def make_optimizer(upper: Upper, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what trains; biases and normalisation are not decayed."""
    trained = trained_parameters(upper)
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _read(unread: Sequence[tuple[Tensor, Tensor, float]], last_step: int) -> list[float]:
    """The losses of the last steps, from loss, gradient norm and learning rate of each.

    Raises:
        RunError: one of them is not finite; names the first such step.
    """
    found: list[list[float]] = torch.stack([torch.stack([loss, norm]) for loss, norm, _ in unread]).tolist()
    for place, (loss, norm) in enumerate(found):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            step, rate = last_step - len(found) + place + 1, unread[place][2]
            raise _not_finite("loss or gradient", step, rate, f"loss {loss}, gradient norm {norm}")
    return [loss for loss, _ in found]


def _state_of(training: Training, step: int, stale: int, best: BestState, metrics: dict[str, float]) -> TrainingState:
    device = training.data.source.device
    return {
        "upper": training.upper.trained_state(),
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
    """Put a training where its state was: its step, its evaluations since the best one, and that."""
    if state is None:
        return 0, 0, None
    tokens = training.config.micro_batch_tokens
    _keep_to_tokens(training, min(state.get("micro_batch_tokens", tokens), tokens))
    training.upper.load_trained_state(state["upper"])
    training.optimizer.load_state_dict(state["optimizer"])
    device = training.data.source.device
    # a GPU's state is a few bytes, a CPU's some thousand
    foreign = state.get("random_of") not in (None, device.type) or len(state["random"]) != len(random_state(device))
    if foreign:
        log.info("dropout is seeded anew: the checkpoint was written on another kind of device than %s", device.type)
    if foreign or (dist.is_initialized() and dist.get_rank() > 0):
        # of several workers, the state is the first one's, and the others' dropout must not repeat it
        torch.manual_seed(torch.initial_seed() + 7919 * state["step"])
    else:
        set_random_state(device, state["random"])
    return state["step"], state["stale"], state["best"]


def _out_of_memory(step: int, config: TrainConfig) -> RunError:
    tokens = config.micro_batch_tokens
    way = ", the least there is: " if tokens <= LEAST_TOKENS else ": lower it, "
    return RunError(
        f"out of memory at step {step} with train.micro_batch_tokens {tokens}{way}raise resources.gpus_per_worker, so "
        "that fewer trials share a GPU, or lower train.batch_size or train.max_tokens"
    )


def _not_finite(what: str, step: int, rate: float, found: str) -> RunError:
    return RunError(
        f"{what} not finite at step {step} (learning rate {rate:.3g}): {found}; lower train.learning_rate "
        "or train.scale"
    )
