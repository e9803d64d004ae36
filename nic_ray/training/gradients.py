"""The gradients of a global batch, computed chunk by chunk within memory, by one worker or by several together."""

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

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
from nic_ray.model.blocks import dropout_drawn_from
from nic_ray.model.cut import Upper
from nic_ray.model.threads import in_threads
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
THREADS_GRADIENTS = 2**29
"""Bytes that the gradients of all threads may take together. Each thread has its own of all parameters, which is little
for some blocks (14 MB for two of 384 columns) and much for an embedding table."""


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
    propagated back through the blocks in chunks of texts of similar length. If the graphs of all chunks would together
    hold more than `micro_batch_tokens` tokens, they are rebuilt with the same dropout, by each thread one at a time
    (gradient caching, Gao et al. 2021, arXiv:2101.06983); the gradients are the same.

    On a CPU, chunks run on threads of their own where their dropout can be drawn for each chunk by itself.

    If there are several workers, each embeds its share of the texts and all compute the loss of the whole batch,
    so that the sum of their gradients equals the gradient of one worker with the whole batch.
    """
    device = source.device
    workers = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    trained = np.flatnonzero(~source.is_fixed[batch.texts])  # positions in batch.texts
    texts = batch.texts[trained]
    shares = [_share(source, texts, part, workers) for part in range(workers)]
    own = _in_chunks(upper, source, texts[shares[rank]], config.micro_batch_tokens, bf16=bf16)
    at_once = sum(own.tokens) <= config.micro_batch_tokens
    rows = np.searchsorted(texts, np.concatenate(own.parts or [texts[:0]]))  # of the outputs, in texts
    order, *indices = sent_together([rows, trained, batch.queries, batch.passages, batch.positive, batch.held], device)

    # one context for all chunks: within it the weights are cast to 16 bits once, not for each chunk
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(at_once):
        outputs = _embedded(own, again=not at_once)
        if not outputs:  # fewer texts than workers, where passages keep still: the others' embeddings are awaited
            outputs.append(upper(*assembled(source, texts[:1], packed=own.packed)).detach()[:0])
    detached = torch.cat([output.detach() for output in outputs])
    embeddings = _gathered(detached, order, shares, len(texts)).requires_grad_()
    value = _loss_of(embeddings, source, batch, config, indices, loss)
    value.backward()
    assert embeddings.grad is not None
    gradients = embeddings.grad[order].split([len(part) for part in own.parts] or [0])
    if at_once and own.parts:
        _add_gradients(own, outputs, gradients)
    elif own.parts:
        _add_rebuilt_gradients(own, gradients, bf16=bf16)
    if workers > 1:
        _sum_gradients(upper)
    return value.detach()


@dataclass(frozen=True)
class _Chunks:
    """The texts that a worker embeds, in chunks."""

    upper: Upper
    source: Feed
    parts: list[NDArray[np.int64]]
    """The texts of each chunk."""
    tokens: list[int]
    """Of each chunk, padding included."""
    packed: bool
    groups: list[list[int]]
    """The numbers of the chunks, divided among the threads that run at a time."""
    seed: int | None
    """What the dropout of each chunk is drawn from, with its number; None where dropout draws from PyTorch's own
    generator, so that chunks run one after the other."""
    states: dict[int, Tensor]
    """The state of this generator before each chunk that will be run again."""


def _in_chunks(upper: Upper, source: Feed, texts: NDArray[np.int64], most: int, *, bf16: bool) -> _Chunks:
    """Divide texts into chunks of at most `most` tokens; these, and so their dropout, do not depend on the threads."""
    device = source.device
    packed = packs(upper, device, bf16=bf16)
    parts = list(chunks(source.lengths, texts, min(CHUNK_TOKENS[device.type], most), packed=packed))
    tokens = [tokens_in(source.lengths, part, packed=packed) for part in parts]
    seed, threads = None, 1
    if device.type == "cpu" and upper.draws_from_seeds:
        seed = int(torch.randint(2**62, ()))
        own = sum(value.nbytes for value in trained_parameters(upper))
        cores = torch.get_num_threads()
        if len(parts) >= cores and cores * own <= THREADS_GRADIENTS:
            threads = cores
    return _Chunks(upper, source, parts, tokens, packed, _groups(tokens, threads), seed, {})


def _embedded(own: _Chunks, *, again: bool) -> list[Tensor]:
    """Embed the texts of all chunks, in the modes of the caller: of each chunk (texts, D).

    Args:
        again: whether the chunks will be embedded again, with the same dropout.
    """
    if own.seed is None:
        outputs = []
        for number in range(len(own.parts)):
            if again:
                own.states[number] = random_state(own.source.device)
            outputs.append(_embedded_chunk(own, number))
        return outputs
    if len(own.groups) > 1 and torch.is_autocast_enabled("cpu"):
        # casts the weights to 16 bits: two threads that need one at once would each cast it
        with dropout_drawn_from(0):
            own.upper(*assembled(own.source, own.parts[-1][-1:], packed=own.packed))
    found = dict[int, Tensor]()
    embed = functools.partial(_embedded_chunk, own)
    of_groups = in_threads(lambda group: [*map(embed, group)], own.groups, first_alone=False)
    for group, embedded in zip(own.groups, of_groups, strict=True):
        found |= zip(group, embedded, strict=True)
    return [found[number] for number in range(len(own.parts))]


def _embedded_chunk(own: _Chunks, number: int) -> Tensor:
    """Embed the texts of a chunk, (texts, D); with the dropout that it had before, if it was embedded before."""
    values, layout = assembled(own.source, own.parts[number], packed=own.packed)
    with nullcontext() if own.seed is None else dropout_drawn_from(own.seed + number):
        return own.upper(values, layout)  # type: ignore[no-any-return]


def _add_gradients(own: _Chunks, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Propagate the gradients (texts, D) of all chunks' outputs back, and add them to those of the parameters."""
    parameters = trained_parameters(own.upper)
    if len(own.groups) == 1:
        torch.autograd.backward(list(outputs), list(gradients))
        return

    def of_group(group: Sequence[int]) -> Sequence[Tensor | None]:
        theirs = [gradients[number] for number in group]
        return torch.autograd.grad([outputs[number] for number in group], parameters, theirs, allow_unused=True)

    # in the order of the groups, so that sums are the same each time
    for found in in_threads(of_group, own.groups, first_alone=False):
        _add(found, parameters)


def _add_rebuilt_gradients(own: _Chunks, gradients: Sequence[Tensor], *, bf16: bool) -> None:
    """Do the same where the outputs have no graphs: embed each chunk again, and let go of its graph before the next."""
    parameters = trained_parameters(own.upper)

    def rebuilt(number: int) -> Tensor:
        if number in own.states:
            set_random_state(own.source.device, own.states[number])
        with torch.autocast(own.source.device.type, torch.bfloat16, enabled=bf16):
            return _embedded_chunk(own, number)

    if len(own.groups) == 1:
        for number in own.groups[0]:
            rebuilt(number).backward(gradients[number])
        return

    def of_chunk(number: int) -> Sequence[Tensor | None]:
        return torch.autograd.grad(rebuilt(number), parameters, gradients[number], allow_unused=True)

    def of_group(group: Sequence[int]) -> list[Tensor | None]:
        total: list[Tensor | None] = list(of_chunk(group[0]))
        for number in group[1:]:
            for place, more in enumerate(of_chunk(number)):
                before = total[place]
                total[place] = more if before is None else before if more is None else before.add_(more)
        return total

    for found in in_threads(of_group, own.groups, first_alone=False):
        _add(found, parameters)


def _add(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> None:
    """Add gradients to those that parameters have."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _groups(tokens: Sequence[int], threads: int) -> list[list[int]]:
    """Divide chunks with so many tokens into groups of about as many, one for each thread."""
    if threads == 1:
        return [list(range(len(tokens)))]
    groups: list[list[int]] = [[] for _ in range(threads)]
    held = [0] * threads
    for number in sorted(range(len(tokens)), key=lambda number: -tokens[number]):
        least = held.index(min(held))
        groups[least].append(number)
        held[least] += tokens[number]
    return groups


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
