"""The gradients of a global batch, computed chunk by chunk within memory, by one worker or by several together."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.model.activations import (
    CHUNK_TOKENS,
    Feed,
    assembled,
    chunks,
    fixed_embeddings,
    packs,
    sent,
    sent_together,
    tokens_in,
)
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

MAX_GRADIENT_NORM = 1.0


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
    packed = packs(upper, device, bf16=bf16)
    at_most = min(CHUNK_TOKENS[device.type], config.micro_batch_tokens)
    parts = list(chunks(source.lengths, texts[shares[rank]], at_most, packed=packed))
    at_once = sum(tokens_in(source.lengths, part, packed=packed) for part in parts) <= config.micro_batch_tokens
    rows = np.searchsorted(texts, np.concatenate(parts or [texts[:0]]))  # of the outputs, in texts
    order, *indices = sent_together([rows, trained, batch.queries, batch.passages, batch.positive, batch.held], device)

    outputs, states = [], []
    # one context for all chunks: within it the weights are cast to 16 bits once, not for each chunk
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(at_once):
        for part in parts:
            if not at_once:
                states.append(random_state(device))
            outputs.append(upper(*assembled(source, part, packed=packed)))
        if not parts:  # fewer texts than workers, where passages keep still: the others' embeddings are still awaited
            outputs.append(upper(*assembled(source, texts[:1], packed=packed)).detach()[:0])
    detached = torch.cat([output.detach() for output in outputs])
    own = _gathered(detached, order, shares, len(texts)).requires_grad_()
    value = _loss_of(own, source, batch, config, indices, loss)
    value.backward()
    assert own.grad is not None
    gradients = own.grad[order].split([len(part) for part in parts] or [0])
    if not at_once:
        for part, gradient, state in zip(parts, gradients, states, strict=True):
            set_random_state(device, state)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                output = upper(*assembled(source, part, packed=packed))
            output.backward(gradient)
    elif parts:
        torch.autograd.backward(outputs, list(gradients))
    if workers > 1:
        _sum_gradients(upper)
    return value.detach()


def _loss_of(
    own: Tensor, source: Feed, batch: Batch, config: TrainConfig, indices: Sequence[Tensor], loss: Loss
) -> Tensor:
    """Compute the loss of a batch, ().

    Args:
        own: embeddings of the texts that have no fixed one, in the order of `batch.texts`.
        indices: positions of these texts in `batch.texts`, and the batch's `queries`, `passages`, `positive` and
            `held`, on the device.
    """
    device = own.device
    trained, queries_at, passages_at, positive, held = indices
    embeddings = own
    if source.fixed is not None:
        embeddings = fixed_embeddings(source, batch.texts).to(own.dtype).index_copy(0, trained, own)
    queries, passages = embeddings[queries_at], embeddings[passages_at]
    value = loss(queries, passages, positive, sent(batch.masked, device), scale=config.scale)
    if batch.taught is not None:
        taught = sent(batch.taught, device)
        value = value + config.distillation_weight * _distillation(queries, passages, taught, positive, config)
    if len(batch.held):
        value = value + config.anchor * distance_to(sent(batch.targets, device), embeddings[held])
    return value


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


def clip_gradients(upper: Upper) -> Tensor:
    """Clip the norm of the gradients to `MAX_GRADIENT_NORM`, in place; return it as it was before, ()."""
    return torch.nn.utils.clip_grad_norm_(trained_parameters(upper), MAX_GRADIENT_NORM)


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


def _gathered(embedded: Tensor, order: Tensor, shares: list[NDArray[np.int64]], total: int) -> Tensor:
    """Combine this worker's and the others' embeddings into those of all texts of the batch, (total, D)."""
    result = embedded.new_empty(total, embedded.shape[1])
    result[order] = embedded
    if len(shares) > 1:
        mine = result[sent(shares[dist.get_rank()], embedded.device)]
        for share, rows in zip(shares, gather_rows(mine, [len(share) for share in shares]), strict=True):
            result[sent(share, embedded.device)] = rows
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
