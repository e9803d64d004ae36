"""The training loop: plain PyTorch, a generator of evaluations. It knows no Ray and no files."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.activations import CHUNK_TOKENS, LEAST_TOKENS, Feed, chunks, padded_batch
from nic_ray.batches import epoch_batches
from nic_ray.config import Schedule, TrainConfig
from nic_ray.encoder import Upper, set_dropout
from nic_ray.errors import RunError
from nic_ray.loss import multiple_negatives_ranking_loss
from nic_ray.pairs import Collection, relevant_passages

MAX_GRADIENT_NORM = 1.0
FLOOR_OF_A_CYCLE = 0.05
LOGS_PER_EPOCH = 20

log = logging.getLogger("nic_ray.training")


@dataclass(frozen=True)
class Evaluation:
    """One reading of the validation rows during training."""

    metrics: dict[str, float]
    """Flat metrics of `evaluate`, with "loss" (mean since the last evaluation, nats), "epoch", "step",
    "objective" (the best so far), "best_epoch", "evaluation" (1 for the first) and "finished" (1 for the
    last)."""
    is_best: bool
    """Whether it is the best so far: by objective, then mrr/macro, then the earlier one."""
    state: dict[str, Any]
    """What `fit` goes on from, and under "best" the weights of the best evaluation: tensors and plain
    values. The tensors are live: save them before asking for the next evaluation. "micro_batch_tokens" is the
    configuration's, or what memory has left of it."""


@dataclass(frozen=True)
class Batch:
    """The texts of a global batch, each once.

    texts: (n,) ascending; queries, positive, passages: places in `texts`, (B,), (B,) in passages, (P,).
    masked: (B, P) bool, passages that answer the query besides its own, or nearly do.
    """

    texts: NDArray[np.int64]
    queries: NDArray[np.int64]
    passages: NDArray[np.int64]
    positive: NDArray[np.int64]
    masked: NDArray[np.bool_]


def fit(
    config: TrainConfig,
    collection: Collection,
    rows: Sequence[int],
    upper: Upper,
    source: Feed,
    evaluate: Callable[[Upper], dict[str, float]],
    *,
    objective: str,
    bf16: bool = False,
    state: dict[str, Any] | None = None,
    before_step: Callable[[], None] = lambda: None,
) -> Iterator[Evaluation]:
    """Train `upper` in place on some rows; yield at every evaluation.

    Under an initialised process group the workers share each batch and end up with the gradients of
    the whole batch: all of them must call this with the same arguments.

    Args:
        rows: training rows of the collection.
        source: inputs at the depth that `upper` is fed at, for the device it is on.
        evaluate: gives the validation metrics, among them `objective` and "mrr/macro".
        bf16: run the blocks in bfloat16.
        state: an `Evaluation.state` to go on from, of the same configuration and rows; on whatever device it was.
        before_step: is called before every step.

    Raises:
        RunError: the loss, a gradient or an embedding is not finite; names step and learning rate. Or the device's
            memory is too small even with the smallest `micro_batch_tokens`, or with any where there are several
            workers: one of them cannot repeat a step alone.
    """
    train_rows = np.asarray(rows, np.int64)
    relevant = relevant_passages(collection)
    set_dropout(upper, attention=config.attention_dropout, hidden=config.hidden_dropout)
    optimizer = make_optimizer(upper, config)
    torch.manual_seed(config.seed + (dist.get_rank() if dist.is_initialized() else 0))
    step, stale, best = _restore(upper, optimizer, state)
    if state is not None:
        held = state.get("micro_batch_tokens", config.micro_batch_tokens)
        config = _with_tokens(config, min(held, config.micro_batch_tokens))

    per_epoch = len(batches_of_epoch(config, collection, train_rows, 0))
    total = per_epoch * config.epochs
    stops = {round(part * per_epoch / config.evaluations_per_epoch) for part in range(1, config.evaluations_per_epoch)}
    stops = {stop for stop in stops if stop > 0} | {per_epoch}
    losses: list[float] = []
    pairs, since = 0, time.monotonic()
    # numbers that are still on the device: reading one makes the host wait for all that was asked of it
    unread: list[tuple[Tensor, float]] = []
    started, first_step = time.monotonic(), step
    log.info("training on %d pairs from step %d of %d", len(train_rows), step, total)
    if source.values.device.type != source.device.type:
        log.info("inputs: too large for the %s device, each batch is sent by itself", source.device.type)
    upper.train()
    while step < total:
        epoch, done = divmod(step, per_epoch)
        for rows_of_batch in batches_of_epoch(config, collection, train_rows, epoch)[done:]:
            before_step()
            rate = config.learning_rate * rate_factor(
                step, total, per_epoch, schedule=config.schedule, warmup_share=config.warmup_share
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = make_batch(collection, relevant, rows_of_batch, config.hard_negatives)
            try:
                loss, config = _within_memory(upper, source, batch, config, step + 1, bf16=bf16)
                norm = torch.nn.utils.clip_grad_norm_(_trained(upper), MAX_GRADIENT_NORM)
                unread.append((torch.stack([loss, norm]), rate))
                optimizer.step()
            except torch.OutOfMemoryError:
                raise _out_of_memory(step + 1, config) from None
            optimizer.zero_grad(set_to_none=True)
            step += 1
            pairs += len(rows_of_batch)
            at_stop = (step - 1) % per_epoch + 1 in stops
            if at_stop or step % max(1, per_epoch // LOGS_PER_EPOCH) == 0:
                losses += _read(unread, step)
                left = (time.monotonic() - started) / (step - first_step) * (total - step)
                log.info(
                    "epoch %.3f  step %d/%d  loss %.4f  lr %.3e  grad_norm %.3f  remaining %.0f s",
                    step / per_epoch, step, total, losses[-1], rate, float(norm), left,
                )  # fmt: skip
                unread.clear()
            if not at_stop:
                continue
            pairs_per_second = pairs / (time.monotonic() - since)
            try:
                metrics = evaluate(upper)
            except ValueError as error:
                raise _not_finite("embeddings", step, rate, str(error)) from error
            is_best = best is None or _order(metrics, objective) > _order(best["metrics"], objective)
            metrics |= {"loss": float(np.mean(losses)), "epoch": step / per_epoch, "step": float(step)}
            losses.clear()
            if is_best:
                weights = {name: value.clone() for name, value in upper.trained_state().items()}
                best = {"metrics": dict(metrics), "upper": weights}
            assert best is not None
            stale = 0 if is_best else stale + 1
            finished = step == total or (config.patience is not None and stale >= config.patience)
            metrics |= {
                "objective": best["metrics"][objective],
                "best_epoch": best["metrics"]["epoch"],
                "evaluation": float(
                    (step - 1) // per_epoch * len(stops) + sorted(stops).index((step - 1) % per_epoch + 1) + 1
                ),
                "finished": float(finished),
                "pairs_per_second": pairs_per_second,
            }
            log.info("evaluation  %s", "  ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
            snapshot = _snapshot(upper, optimizer, step, stale, best, metrics, config.micro_batch_tokens)
            yield Evaluation(metrics, is_best, snapshot)
            if finished:
                return
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


def make_batch(
    collection: Collection,
    relevant: dict[int, NDArray[np.int64]],
    rows: NDArray[np.int64],
    hard_negatives: int,
) -> Batch:
    """The distinct texts of some rows, and which passages must not be a query's negatives.

    Args:
        relevant: from `pairs.relevant_passages`: a query's known answers are masked, in the whole
            collection's sense, not only the batch's, and with them what is nearly the same text.
        hard_negatives: of a row's own negatives, the first so many join.
    """
    queries = collection.query[rows]
    negatives = collection.negatives[rows, :hard_negatives].ravel()
    passages = np.union1d(collection.positive[rows], negatives[negatives >= 0])
    texts = np.union1d(queries, passages)
    near = collection.near[passages]
    answers = {query: np.isin(near, collection.near[relevant[query]]) for query in set(queries.tolist())}
    masked = np.stack([answers[query] for query in queries.tolist()])
    positive = np.searchsorted(passages, collection.positive[rows])
    masked[np.arange(len(rows)), positive] = False
    return Batch(texts, np.searchsorted(texts, queries), np.searchsorted(texts, passages), positive, masked)


def _within_memory(
    upper: Upper, source: Feed, batch: Batch, config: TrainConfig, step: int, *, bf16: bool
) -> tuple[Tensor, TrainConfig]:
    """`accumulate_gradients` into `upper`, which has none, with `micro_batch_tokens` halved until memory suffices.

    Returns:
        the loss, and the configuration to go on with.

    Raises:
        RunError: it does not suffice; names the step.
    """
    random_state = _random_state(source.device)
    while True:
        loss = _unless_out_of_memory(upper, source, batch, config, step, bf16=bf16)
        if loss is not None:
            return loss, config
        upper.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        _set_random_state(source.device, random_state)
        config = _with_tokens(config, max(LEAST_TOKENS, config.micro_batch_tokens // 2))
        log.info(
            "out of memory at step %d: it is repeated, from here on with micro_batch_tokens %d",
            step, config.micro_batch_tokens,
        )  # fmt: skip


def _unless_out_of_memory(
    upper: Upper, source: Feed, batch: Batch, config: TrainConfig, step: int, *, bf16: bool
) -> Tensor | None:
    # a function of its own: as long as the error is held, so is what its frames hold
    try:
        return accumulate_gradients(upper, source, batch, config, bf16=bf16)
    except torch.OutOfMemoryError:
        # other workers are in the middle of this step, and would wait for ever for the parts of another one
        if dist.is_initialized() or config.micro_batch_tokens <= LEAST_TOKENS:
            raise _out_of_memory(step, config) from None
        return None


def _with_tokens(config: TrainConfig, micro_batch_tokens: int) -> TrainConfig:
    return config.model_copy(update={"micro_batch_tokens": micro_batch_tokens})


def accumulate_gradients(
    upper: Upper, source: Feed, batch: Batch, config: TrainConfig, *, bf16: bool = False
) -> Tensor:
    """Add the gradients of the global batch's loss to `upper`; returns that loss, () detached.

    The loss is taken on embeddings that are cut off from the blocks, and its gradient with respect to
    them is then sent through the blocks, chunk by chunk of similar length, of at most `micro_batch_tokens`
    each. Where the chunks' graphs would hold more than that together, they are built again one at a time, with the same
    dropout (gradient caching, Gao et al. 2021, arXiv:2101.06983); the gradients are the same.

    With several workers each embeds its share of the texts; all compute the loss of the whole batch,
    so that the sum of their gradients is that of one worker with the whole batch.
    """
    device = source.device
    workers = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    shares = [_share(source, batch.texts, part, workers) for part in range(workers)]
    at_most = min(CHUNK_TOKENS[device.type], config.micro_batch_tokens)
    parts = list(chunks(source.lengths, batch.texts[shares[rank]], at_most))
    padded = sum(len(part) * int(source.lengths[part].max()) for part in parts)
    at_once = padded <= config.micro_batch_tokens

    outputs, random_states = [], []
    # one context for all chunks: within it the weights are cast to 16 bits once, not for each chunk
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(at_once):
        for part in parts:
            if not at_once:
                random_states.append(_random_state(device))
            outputs.append(upper(*padded_batch(source, part)))
    order = np.searchsorted(batch.texts, np.concatenate(parts))  # rows of the outputs, in batch.texts
    own = torch.cat([output.detach() for output in outputs])
    embeddings = _gathered(own, order, shares, len(batch.texts)).requires_grad_()
    loss = multiple_negatives_ranking_loss(
        embeddings[torch.from_numpy(batch.queries).to(device)],
        embeddings[torch.from_numpy(batch.passages).to(device)],
        torch.from_numpy(batch.positive).to(device),
        torch.from_numpy(batch.masked).to(device),
        scale=config.scale,
    )
    loss.backward()
    assert embeddings.grad is not None
    gradients = embeddings.grad[torch.from_numpy(order).to(device)].split([len(part) for part in parts])
    if at_once:
        torch.autograd.backward(outputs, list(gradients))
    else:
        for part, gradient, random_state in zip(parts, gradients, random_states, strict=True):
            _set_random_state(device, random_state)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                output = upper(*padded_batch(source, part))
            output.backward(gradient)
    if workers > 1:
        _sum_gradients(upper)
    return loss.detach()


def gather_rows(own: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Each worker's rows, in the order of ranks, on every worker.

    Args:
        own: (counts[rank], D).
        counts: rows of each worker, the same list everywhere.
    """
    padded = own.new_zeros(max(counts), own.shape[1])
    padded[: len(own)] = own
    received = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(received, padded)
    return [rows[:count] for rows, count in zip(received, counts, strict=True)]


def batches_of_epoch(
    config: TrainConfig, collection: Collection, rows: NDArray[np.int64], epoch: int
) -> list[NDArray[np.int64]]:
    """The batches of one epoch as rows of the collection; `rows` (N,) are those that train."""
    places = epoch_batches(
        collection.positive[rows],
        batch_size=config.batch_size,
        queries_per_passage=config.queries_per_passage,
        seed=config.seed,
        epoch=epoch,
    )
    return [rows[place] for place in places]


def _trained(upper: Upper) -> list[Tensor]:
    return [value for value in upper.parameters() if value.requires_grad]


def make_optimizer(upper: Upper, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what trains; biases and normalisation are not decayed."""
    trained = _trained(upper)
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _share(source: Feed, texts: NDArray[np.int64], part: int, parts: int) -> NDArray[np.int64]:
    """Places in `texts` that one worker embeds: dealt out by length, so that all have as much to do."""
    return np.argsort(-source.lengths[texts], kind="stable")[part::parts]


def _gathered(own: Tensor, order: NDArray[np.int64], shares: list[NDArray[np.int64]], total: int) -> Tensor:
    """(total, D) embeddings of all texts of the batch, from this worker's and the others'."""
    result = own.new_empty(total, own.shape[1])
    result[torch.from_numpy(order).to(own.device)] = own
    if len(shares) > 1:
        mine = result[torch.from_numpy(shares[dist.get_rank()]).to(own.device)]
        for share, rows in zip(shares, gather_rows(mine, [len(share) for share in shares]), strict=True):
            result[torch.from_numpy(share).to(own.device)] = rows
    return result


def _sum_gradients(upper: Upper) -> None:
    gradients = [value.grad if value.grad is not None else torch.zeros_like(value) for value in _trained(upper)]
    flat = torch.cat([gradient.ravel() for gradient in gradients])
    dist.all_reduce(flat)
    for value, part in zip(_trained(upper), flat.split([each.numel() for each in gradients]), strict=True):
        value.grad = part.view_as(value)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _order(metrics: dict[str, float], objective: str) -> tuple[float, float]:
    return metrics[objective], metrics["mrr/macro"]


def _snapshot(
    upper: Upper,
    optimizer: torch.optim.Optimizer,
    step: int,
    stale: int,
    best: dict[str, Any],
    metrics: dict[str, float],
    micro_batch_tokens: int,
) -> dict[str, Any]:
    device = next(upper.parameters()).device
    return {
        "upper": upper.trained_state(),
        "optimizer": optimizer.state_dict(),
        "random": _random_state(device),
        "random_of": device.type,
        "micro_batch_tokens": micro_batch_tokens,
        "step": step,
        "stale": stale,
        "best": best,
        "metrics": dict(metrics),
        "finished": bool(metrics["finished"]),
    }


def _read(unread: Sequence[tuple[Tensor, float]], last_step: int) -> list[float]:
    """The losses of the last steps, from (loss and gradient norm, learning rate) of each.

    Raises:
        RunError: one of them is not finite; names the first such step.
    """
    found: list[list[float]] = torch.stack([numbers for numbers, _ in unread]).tolist()
    for place, (loss, norm) in enumerate(found):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            step, rate = last_step - len(found) + place + 1, unread[place][1]
            raise _not_finite("loss or gradient", step, rate, f"loss {loss}, gradient norm {norm}")
    return [loss for loss, _ in found]


def _restore(
    upper: Upper, optimizer: torch.optim.Optimizer, state: dict[str, Any] | None
) -> tuple[int, int, dict[str, Any] | None]:
    if state is None:
        return 0, 0, None
    upper.load_trained_state(state["upper"])
    optimizer.load_state_dict(state["optimizer"])
    device = next(upper.parameters()).device
    # a GPU's state is a few bytes, a CPU's some thousand
    foreign = state.get("random_of") not in (None, device.type) or len(state["random"]) != len(_random_state(device))
    if foreign:
        log.info("dropout is seeded anew: the checkpoint was written on another kind of device than %s", device.type)
    if foreign or (dist.is_initialized() and dist.get_rank() > 0):
        # of several workers, the state is the first one's, and the others' dropout must not repeat it
        torch.manual_seed(torch.initial_seed() + 7919 * state["step"])
    else:
        _set_random_state(device, state["random"])
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
