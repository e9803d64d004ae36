"""The gradients of a global batch, computed chunk by chunk within memory, by one worker or by several together."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.model.activations import CHUNK_TOKENS, Feed, chunks, fixed_embeddings, padded_batch
from nic_ray.model.cut import Upper
from nic_ray.train_config import TrainConfig
from nic_ray.training.batches import Batch
from nic_ray.training.loss import (
    Loss,
    distance_to,
    distillation_by_kl,
    distillation_by_margin,
    multiple_negatives_ranking_loss,
)


def accumulate_gradients(
    upper: Upper,
    source: Feed,
    batch: Batch,
    config: TrainConfig,
    *,
    bf16: bool = False,
    loss: Loss = multiple_negatives_ranking_loss,
) -> Tensor:
    """Add the gradients of the global batch's loss to those of `upper`; return this loss, () detached.

    If general texts are held, the loss includes their distance from their targets, times `anchor`; with a teacher, the
    distance from its scores, times `distillation_weight`.

    The loss is computed on embeddings detached from the blocks. Its gradient with respect to the embeddings is then
    propagated back through the blocks in chunks of texts of similar length, of at most `micro_batch_tokens` each. If
    the graphs of all chunks would together hold more tokens than that, they are rebuilt one at a time with the same
    dropout (gradient caching, Gao et al. 2021, arXiv:2101.06983); the gradients are the same.

    If there are several workers, each embeds its share of the texts and all compute the loss of the whole batch,
    so that the sum of their gradients equals the gradient of one worker with the whole batch.
    """
    device = source.device
    workers = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    trained = np.flatnonzero(~source.is_fixed[batch.texts])  # positions in batch.texts
    texts = batch.texts[trained]
    shares = [_share(source, texts, part, workers) for part in range(workers)]
    at_most = min(CHUNK_TOKENS[device.type], config.micro_batch_tokens)
    parts = list(chunks(source.lengths, texts[shares[rank]], at_most))
    padded = sum(len(part) * int(source.lengths[part].max()) for part in parts)
    at_once = padded <= config.micro_batch_tokens

    outputs, states = [], []
    # one context for all chunks: within it the weights are cast to 16 bits once, not for each chunk
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(at_once):
        for part in parts:
            if not at_once:
                states.append(random_state(device))
            outputs.append(upper(*padded_batch(source, part)))
        if not parts:  # fewer texts than workers, where passages keep still: the others' embeddings are still awaited
            outputs.append(upper(*padded_batch(source, texts[:1])).detach()[:0])
    order = np.searchsorted(texts, np.concatenate(parts or [texts[:0]]))  # rows of the outputs, in texts
    detached = torch.cat([output.detach() for output in outputs])
    own = _gathered(detached, order, shares, len(texts)).requires_grad_()
    embeddings = own
    if source.fixed is not None:
        at = torch.from_numpy(trained).to(device)
        embeddings = fixed_embeddings(source, batch.texts).to(own.dtype).index_copy(0, at, own)
    queries, passages = (embeddings[torch.from_numpy(part).to(device)] for part in (batch.queries, batch.passages))
    positive = torch.from_numpy(batch.positive).to(device)
    value = loss(queries, passages, positive, torch.from_numpy(batch.masked).to(device), scale=config.scale)
    if batch.taught is not None:
        taught = torch.from_numpy(batch.taught).to(embeddings)
        value = value + config.distillation_weight * _distillation(queries, passages, taught, positive, config)
    if len(batch.held):
        targets = torch.from_numpy(batch.targets).to(embeddings)
        value = value + config.anchor * distance_to(targets, embeddings[torch.from_numpy(batch.held).to(device)])
    value.backward()
    assert own.grad is not None
    gradients = own.grad[torch.from_numpy(order).to(device)].split([len(part) for part in parts] or [0])
    if not at_once:
        for part, gradient, state in zip(parts, gradients, states, strict=True):
            set_random_state(device, state)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                output = upper(*padded_batch(source, part))
            output.backward(gradient)
    elif parts:
        torch.autograd.backward(outputs, list(gradients))
    if workers > 1:
        _sum_gradients(upper)
    return value.detach()


def _distillation(queries: Tensor, passages: Tensor, taught: Tensor, positive: Tensor, config: TrainConfig) -> Tensor:
    if config.distillation == "kl":
        return distillation_by_kl(queries, passages, taught, scale=config.scale)
    return distillation_by_margin(queries, passages, taught, positive, scale=config.scale)


def gather_rows(own: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Gather the rows of all workers on every worker, in the order of ranks.

    Args:
        own: this worker's rows, (counts[rank], D).
        counts: number of rows of each worker, the same list on every worker.
    """
    padded = own.new_zeros(max(counts), own.shape[1])
    padded[: len(own)] = own
    received = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(received, padded)
    return [rows[:count] for rows, count in zip(received, counts, strict=True)]


def trained_parameters(upper: Upper) -> list[Tensor]:
    """Return the parameters that train, in the module's order."""
    return [value for value in upper.parameters() if value.requires_grad]


def random_state(device: torch.device) -> Tensor:
    """Return the state of the random number generator that dropout on a device draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Restore a state that `random_state` returned."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _share(source: Feed, texts: NDArray[np.int64], part: int, parts: int) -> NDArray[np.int64]:
    """Return the positions in `texts` that one worker embeds: dealt out by length, to balance the work."""
    return np.argsort(-source.lengths[texts], kind="stable")[part::parts]


def _gathered(embedded: Tensor, order: NDArray[np.int64], shares: list[NDArray[np.int64]], total: int) -> Tensor:
    """Combine this worker's and the others' embeddings into those of all texts of the batch, (total, D)."""
    result = embedded.new_empty(total, embedded.shape[1])
    result[torch.from_numpy(order).to(embedded.device)] = embedded
    if len(shares) > 1:
        mine = result[torch.from_numpy(shares[dist.get_rank()]).to(embedded.device)]
        for share, rows in zip(shares, gather_rows(mine, [len(share) for share in shares]), strict=True):
            result[torch.from_numpy(share).to(embedded.device)] = rows
    return result


def _sum_gradients(upper: Upper) -> None:
    gradients = [
        value.grad if value.grad is not None else torch.zeros_like(value) for value in trained_parameters(upper)
    ]
    flat = torch.cat([gradient.ravel() for gradient in gradients])
    dist.all_reduce(flat)
    sizes = [gradient.numel() for gradient in gradients]
    for value, part in zip(trained_parameters(upper), flat.split(sizes), strict=True):
        value.grad = part.view_as(value)
