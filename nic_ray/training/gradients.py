"""The gradients of a global batch, computed chunk by chunk within memory, by one worker or by several together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.model.activations import (
    CHUNK_TOKENS,
    LEAST_TOKENS,
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
    hold more than `micro_batch_tokens` tokens, they are rebuilt with the same dropout, as many at a time as do not
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
    windows = _windows(own.tokens, config.micro_batch_tokens)
    at_once = len(windows) < 2
    rows = np.searchsorted(texts, np.concatenate(own.parts or [texts[:0]]))  # of the outputs, in texts
    order, *indices = sent_together([rows, trained, batch.queries, batch.passages, batch.positive, batch.held], device)

    # one context for all chunks: within it the weights are cast to 16 bits once, not for each chunk
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(at_once):
        outputs = [output for window in windows for output in _embedded(own, window, keep=not at_once)]
        if not outputs:  # fewer texts than workers, where passages keep still: the others' embeddings are awaited
            outputs.append(upper(*assembled(source, texts[:1], packed=own.packed)).detach()[:0])
    detached = torch.cat([output.detach() for output in outputs])
    embeddings = _gathered(detached, order, shares, len(texts)).requires_grad_()
    value = _loss_of(embeddings, source, batch, config, indices, loss)
    value.backward()
    assert embeddings.grad is not None
    gradients = embeddings.grad[order].split([len(part) for part in own.parts] or [0])
    for window in windows:
        if not at_once:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = _embedded(own, window)
        _add_gradients(own, window, outputs, gradients[window.start : window.stop])
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
    seeds: list[int]
    """Of each chunk's dropout, where chunks run on threads of their own; none where dropout draws from PyTorch's own
    generator, and they run one after the other."""
    states: dict[int, Tensor]
    """The state of this generator before a chunk that will be run again."""


def _in_chunks(upper: Upper, source: Feed, texts: NDArray[np.int64], most: int, *, bf16: bool) -> _Chunks:
    """Divide texts into chunks of at most `most` tokens, and into as many as there are threads to run them on."""
    device = source.device
    packed = packs(upper, device, bf16=bf16)
    most = min(CHUNK_TOKENS[device.type], most)
    on_threads = device.type == "cpu" and upper.draws_from_seeds
    if on_threads:
        share = -(-int(source.lengths[texts].sum()) // torch.get_num_threads())
        most = min(most, max(LEAST_TOKENS, share))
    parts = list(chunks(source.lengths, texts, most, packed=packed))
    tokens = [tokens_in(source.lengths, part, packed=packed) for part in parts]
    seeds = torch.randint(2**62, (len(parts),)).tolist() if on_threads else []
    return _Chunks(upper, source, parts, tokens, packed, seeds, {})


def _windows(tokens: Sequence[int], most: int) -> list[range]:
    """Divide chunks into runs that hold at most `most` tokens together, or a single chunk."""
    starts, held = list[int](), 0
    for number, more in enumerate(tokens):
        held += more
        if not starts or held > most:
            starts.append(number)
            held = more
    return [range(start, stop) for start, stop in pairwise([*starts, len(tokens)])]


def _embedded(own: _Chunks, window: range, *, keep: bool = False) -> list[Tensor]:
    """Embed the texts of some chunks, in the modes of the caller: of each chunk (texts, D).

    Args:
        keep: whether the chunks will be run again, with the same dropout.
    """

    def embed(texts: NDArray[np.int64]) -> Tensor:
        return own.upper(*assembled(own.source, texts, packed=own.packed))  # type: ignore[no-any-return]

    if not own.seeds:
        outputs = []
        for number in window:
            if number in own.states:
                set_random_state(own.source.device, own.states[number])
            elif keep:
                own.states[number] = random_state(own.source.device)
            outputs.append(embed(own.parts[number]))
        return outputs

    def embed_group(group: Sequence[int]) -> list[Tensor]:
        embedded = []
        for number in group:
            with dropout_drawn_from(own.seeds[number]):
                embedded.append(embed(own.parts[number]))
        return embedded

    groups = _groups(own, window)
    if len(groups) > 1:  # casts the weights to 16 bits: two threads that need one at once would each cast it
        with dropout_drawn_from(0):
            embed(own.parts[window[-1]][-1:])
    found = dict[int, Tensor]()
    for group, outputs in zip(groups, in_threads(embed_group, groups, first_alone=False), strict=True):
        found |= zip(group, outputs, strict=True)
    return [found[number] for number in window]


def _add_gradients(own: _Chunks, window: range, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Propagate the gradients (texts, D) of chunks' outputs back, and add them to those of the parameters."""
    groups = [[number - window.start for number in group] for group in _groups(own, window)]
    if len(groups) < 2:
        if groups:
            torch.autograd.backward(list(outputs), list(gradients))
        return
    parameters = trained_parameters(own.upper)

    def of_group(group: Sequence[int]) -> tuple[Tensor | None, ...]:
        theirs = [gradients[number] for number in group]
        return torch.autograd.grad([outputs[number] for number in group], parameters, theirs, allow_unused=True)

    for found in in_threads(of_group, groups, first_alone=False):  # in their order, so that sums are the same each time
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _groups(own: _Chunks, window: range) -> list[list[int]]:
    """Divide chunks into groups of about as many tokens, one for each thread."""
    threads = torch.get_num_threads() if own.seeds else 1
    groups: list[list[int]] = [[] for _ in range(min(threads, len(window)))]
    held = [0] * len(groups)
    for number in sorted(window, key=lambda number: -own.tokens[number]):
        least = held.index(min(held))
        groups[least].append(number)
        held[least] += own.tokens[number]
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
