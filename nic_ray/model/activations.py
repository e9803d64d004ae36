"""The inputs of the trained part: the token ids of each distinct text, or the frozen blocks' output for it."""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nic_ray import hardware
from nic_ray.errors import RunError
from nic_ray.model.blocks import Layout
from nic_ray.model.cut import UNPOOLED, Lower, Upper, placed
from nic_ray.model.encoder import Encoder, lower, tokenize, upper
from nic_ray.model.packed import Packed
from nic_ray.model.threads import in_threads

CHUNK_TOKENS = {"cpu": 1024, "cuda": 65536}
"""Tokens, padding included, that run through the blocks at once, by kind of device: on a CPU few enough that a
layer's activations stay in its caches, on a GPU many enough to keep it busy. Where gradients are computed,
`TrainConfig.micro_batch_tokens` is an upper bound as well."""

LEAST_TOKENS = 256
"""Smallest chunk, in tokens, that is tried when memory runs out."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of all texts, concatenated without padding."""

    values: NDArray[np.int32] | NDArray[np.float32] | NDArray[np.uint16]
    """(T,) int32 token ids, or hidden states (T, W) as float32 or as the bits of bfloat16 (uint16)."""
    offsets: NDArray[np.int64]
    """(texts + 1,); text i is values[offsets[i]:offsets[i + 1]]."""
    depth: int
    """Number of frozen blocks below the cut at which the inputs are used. Hidden states are the output of these blocks;
    token ids run through the blocks again each time they are used."""
    unpooled: NDArray[np.int64] | None = None
    """(texts,) number of tokens at the beginning of each text that pooling leaves out; None for none of any."""
    fixed: NDArray[np.float32] | None = None
    """(texts, D) embeddings of texts that keep them, whatever is trained; NaN for others. None if no text does."""

    @property
    def are_ids(self) -> bool:
        """Whether the values are token ids rather than hidden states."""
        return self.values.ndim == 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each text, (texts,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Feed:
    """`Inputs` as tensors for use on a device."""

    values: Tensor
    """On the device, or on the host if it would take too much of the device's memory; each batch is then sent
    separately."""
    offsets: Tensor
    """Where `values` is."""
    unpooled: Tensor | None
    """Where `values` is."""
    fixed: Tensor | None
    """Where `values` is."""
    on_host: Inputs
    """What the tensors were made of."""
    lengths: NDArray[np.int64]
    device: torch.device
    is_fixed: NDArray[np.bool_]
    """(texts,) whether a text has a fixed embedding."""


def token_inputs(
    encoder: Encoder, texts: Sequence[str], max_tokens: int, is_query: Sequence[bool] | NDArray[np.bool_] | None = None
) -> Inputs:
    """Tokenise texts into inputs of depth 0: ids of each text after its prompt, as `encoder.tokenize` gives them."""
    unpooled = np.where(is_query, *encoder.unpooled) if any(encoder.unpooled) and is_query is not None else None
    return Inputs(*tokenize(encoder, texts, max_tokens, is_query), depth=0, unpooled=unpooled)


def upper_for(encoder: Encoder, inputs: Inputs) -> Upper:
    """Return the part of an encoder that takes these inputs: `encoder.upper` at their depth."""
    return upper(encoder, inputs.depth, from_ids=inputs.are_ids)


def frozen_inputs(
    encoder: Encoder, tokens: Inputs, depths: Sequence[int], *, device: str = "cpu", bf16: bool = False
) -> dict[int, Inputs]:
    """Compute the output of the first k blocks for every text and each k of `depths`, each depth from the one before.

    Args:
        tokens: from `token_inputs`.
        depths: numbers of blocks, from 0 (the token ids themselves).
        device: where to compute.
        bf16: compute in bfloat16 and keep 16 bits per value.
    """
    ascending = sorted(set(depths) - {0})
    blocks = [lower(encoder, start, stop) for start, stop in zip([0, *ascending], ascending, strict=False)]
    inputs = {0: tokens}
    for depth, values in zip(ascending, run_chain(blocks, tokens, device=device, bf16=bf16), strict=True):
        inputs[depth] = replace(tokens, values=values, depth=depth)
    return {depth: inputs[depth] for depth in depths}


def run_chain(
    blocks: Sequence[Lower], inputs: Inputs, *, device: str = "cpu", bf16: bool = False
) -> list[NDArray[Any]]:
    """Run frozen blocks in sequence over every text; return the values (T, W) after each item of `blocks`."""
    outputs: list[NDArray[Any]] = []
    for block in blocks:
        inputs = run_blocks(block, inputs, device=device, bf16=bf16)
        outputs.append(inputs.values)
    return outputs


def run_blocks(blocks: Lower, inputs: Inputs, *, device: str = "cpu", bf16: bool = False) -> Inputs:
    """Run frozen blocks once over every text; `blocks` stay on the device they are on.

    Raises:
        RunError: the device has too little memory for even a small chunk.
    """
    blocks = placed(blocks, device)  # before inference mode: tensors created in it can never be trained
    source = feed(inputs, device)
    kept = torch.bfloat16 if bf16 else torch.float32

    packed = packs(blocks, source.device, bf16=bf16)

    def run(texts: NDArray[np.int64]) -> Tensor:
        chosen, layout = assembled(source, texts, packed=packed)
        with torch.autocast(source.device.type, torch.bfloat16, enabled=bf16):
            hidden: Tensor = blocks(chosen, layout)
        own = hidden if isinstance(layout, Packed) else hidden[layout.bool()]
        return own.to("cpu", kept)

    with torch.inference_mode():
        values: Tensor | None = None
        for texts, hidden in in_chunks(run, source, np.arange(len(inputs.lengths)), packed=packed):
            if values is None:
                values = torch.empty(len(inputs.values), hidden.shape[-1], dtype=kept)
            rows = np.concatenate([np.arange(*inputs.offsets[text : text + 2]) for text in texts])
            values[torch.from_numpy(rows)] = hidden
        assert values is not None
        bits = values.view(torch.uint16) if bf16 else values
        return replace(inputs, values=bits.numpy(), depth=blocks.stop)


def feed(inputs: Inputs, device: str, *, share: float = 1.0) -> Feed:
    """Move inputs to the device that uses them; on the CPU they are not copied, so they may be read-only.

    On a GPU they may take up to half of the free memory, and no more than half of this process's share of the GPU's
    memory. Larger inputs stay on the host, and `padded_batch` sends each batch as it is asked for: the values are the
    same, but this is slower.

    Args:
        share: share of the GPU that this process may use; below 1 for trials that share a GPU.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        values, offsets = torch.from_numpy(inputs.values), torch.from_numpy(inputs.offsets)
        unpooled = None if inputs.unpooled is None else torch.from_numpy(inputs.unpooled)
        fixed = None if inputs.fixed is None else torch.from_numpy(inputs.fixed)
    lengths = inputs.lengths
    is_fixed = np.zeros(len(lengths), dtype=np.bool_) if inputs.fixed is None else ~np.isnan(inputs.fixed[:, 0])
    if values.dtype == torch.uint16:
        values = values.view(torch.bfloat16)
    where = torch.device(device)
    if where.type == "cuda" and values.nbytes > _room(where, share):
        return Feed(values, offsets, unpooled, fixed, inputs, lengths, where, is_fixed)
    unpooled, fixed = (None if each is None else each.to(where) for each in (unpooled, fixed))
    return Feed(values.to(where), offsets.to(where), unpooled, fixed, inputs, lengths, where, is_fixed)


def _room(device: torch.device, share: float) -> float:
    """Bytes of a GPU's memory that the inputs may take."""
    torch.cuda.empty_cache()  # so that the memory this process has released counts as free
    free, total = torch.cuda.mem_get_info(device)
    return min(free, share * total) / 2


def packs(part: Upper | Lower, device: torch.device, *, bf16: bool) -> bool:
    """Whether a part, in its present mode, is given packed texts on a device: where a kernel attends within them."""
    return bf16 and part.takes_packed and hardware.attends_packed(device.type)


def assembled(source: Feed, texts: NDArray[np.int64], *, packed: bool) -> tuple[Tensor, Layout]:
    """Assemble a batch from the inputs of some texts, as `packed_batch` or `padded_batch`."""
    return packed_batch(source, texts) if packed else padded_batch(source, texts)


def packed_batch(source: Feed, texts: NDArray[np.int64]) -> tuple[Tensor, Packed]:
    """Assemble a batch without padding from the inputs of some texts.

    Returns:
        values, (T,) token ids or (T, W) hidden states, in the order of `texts`, and where each text lies in them.
    """
    lengths, starts = source.lengths[texts], source.on_host.offsets[texts]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    text = np.repeat(np.arange(len(texts)), lengths)
    place = np.arange(bounds[-1]) - bounds[text]
    values = source.values[sent_together([starts[text] + place], source.values.device)[0]]
    if values.dtype == torch.int32:
        values = values.long()
    on_device = sent_together([text, place, bounds], source.device)
    pooled = None
    if source.on_host.unpooled is not None:
        pooled = sent(place >= source.on_host.unpooled[texts][text], source.device).float()
    text_at, place_at, bounds_at = on_device
    layout = Packed(text_at, place_at, bounds_at.int(), tuple(lengths.tolist()), int(lengths.max()), pooled)
    return _sent(values, source.device), layout


def padded_batch(source: Feed, texts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Assemble a padded batch from the inputs of some texts.

    The padding repeats the last token of each text: its values are finite, and the mask excludes them.

    Returns:
        values, (B, L) token ids or (B, L, W) hidden states, and mask (B, L) int64, 1 for a token, `UNPOOLED` for one
        that pooling leaves out. L is the length of the longest text.
    """
    here = source.values.device
    index = sent(texts, here)
    starts, ends = source.offsets[index], source.offsets[index + 1]
    places = starts[:, None] + torch.arange(int(source.lengths[texts].max()), device=here)
    values = source.values[torch.minimum(places, ends[:, None] - 1)]
    if values.dtype == torch.int32:
        values = values.long()
    mask = (places < ends[:, None]).long()
    if source.unpooled is not None:
        mask.masked_fill_(places < torch.minimum(starts + source.unpooled[index], ends)[:, None], UNPOOLED)
    return _sent(values, source.device), _sent(mask, source.device)


def fixed_embeddings(source: Feed, texts: NDArray[np.int64]) -> Tensor:
    """Return the fixed embeddings of some texts on the device, (n, D); NaN for those that have none."""
    assert source.fixed is not None
    return _sent(source.fixed[sent(texts, source.fixed.device)], source.device)


def sent(values: NDArray[Any], device: torch.device) -> Tensor:
    """Send an array to a device without waiting for the transfer; on the CPU it is not copied."""
    return _sent(torch.from_numpy(values), device)


def sent_together(arrays: Sequence[NDArray[np.int64]], device: torch.device) -> tuple[Tensor, ...]:
    """Send arrays of numbers (n,) to a device in one transfer, without waiting for it."""
    parts: tuple[Tensor, ...] = sent(np.concatenate(arrays), device).split([len(array) for array in arrays])
    return parts


def _sent(batch: Tensor, device: torch.device) -> Tensor:
    """Send a batch to a device, from pinned memory so that the host does not wait for the transfer."""
    if batch.device.type == device.type:
        return batch
    return batch.pin_memory().to(device, non_blocking=True)


def in_chunks(
    run: Callable[[NDArray[np.int64]], Tensor], source: Feed, texts: NDArray[np.int64], *, packed: bool = False
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Run a function that needs no gradient over some texts, chunk by chunk; yield each chunk and its result.

    On a CPU, chunks run on threads of their own. When the device's memory runs out, the remaining texts are run in
    chunks of half the size.

    Args:
        packed: whether the function runs a chunk without padding.

    Raises:
        RunError: memory runs out even with the smallest chunks.
    """
    tokens = CHUNK_TOKENS[source.device.type]
    on_cpu, attempt = source.device.type == "cpu", functools.partial(_unless_out_of_memory, run)
    left = list(chunks(source.lengths, texts, tokens, packed=packed))
    while True:
        done = 0
        for result in in_threads(attempt, left) if on_cpu else map(attempt, left):
            if result is None:
                break
            done += 1
            yield left[done - 1], result
        left = left[done:]
        if not left:
            return
        if tokens <= LEAST_TOKENS:
            raise RunError(
                f"out of memory on the {source.device.type} device with {tokens} tokens at a time, the fewest there "
                "are; raise resources.gpus_per_worker, so that fewer trials share it, or lower train.max_tokens"
            )
        tokens = max(LEAST_TOKENS, tokens // 2)
        left = list(chunks(source.lengths, np.concatenate(left), tokens, packed=packed))
        torch.cuda.empty_cache()


def _unless_out_of_memory(run: Callable[[NDArray[np.int64]], Tensor], chunk: NDArray[np.int64]) -> Tensor | None:
    # a separate function, because a live exception keeps everything alive that its stack frames refer to
    try:
        return run(chunk)
    except torch.OutOfMemoryError:
        return None


def chunks(
    lengths: NDArray[np.int64], texts: NDArray[np.int64], tokens: int, *, packed: bool = False
) -> Iterator[NDArray[np.int64]]:
    """Group texts of similar length into chunks, longest first, each of at most `tokens` (or one text).

    Packed, the chunks are as few as possible in this order. Padding counts where there is any: of all partitions, this
    is then the one with the least padding, where each additional chunk counts as much as `tokens` / 8 tokens of
    padding. Both cost time: a chunk has the overhead of its calls, however little it holds.
    """
    ordered = texts[np.argsort(-lengths[texts], kind="stable")]
    if packed:
        yield from _filled(ordered, np.cumsum(lengths[ordered]), tokens)
        return
    longest = np.maximum(1, lengths[ordered])
    count = np.arange(1, len(ordered) + 1)
    cost = np.zeros(len(ordered) + 1)  # lowest cost of the texts from each position to the end
    stops = np.zeros(len(ordered), np.int64)
    for start in reversed(range(len(ordered))):
        most = min(len(ordered) - start, max(1, tokens // int(longest[start])))
        costs = longest[start] * count[:most] + cost[start + 1 : start + 1 + most]
        best = int(costs.argmin())
        cost[start], stops[start] = costs[best] + tokens / 8, start + 1 + best
    start = 0
    while start < len(ordered):
        yield ordered[start : stops[start]]
        start = int(stops[start])


def _filled(texts: NDArray[np.int64], ends: NDArray[np.int64], tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cut texts, of which each ends at a count of tokens, into parts of at most `tokens`, each as full as possible."""
    start, done = 0, 0
    while start < len(texts):
        stop = max(start + 1, int(np.searchsorted(ends, done + tokens, side="right")))
        yield texts[start:stop]
        start, done = stop, int(ends[stop - 1])


def tokens_in(lengths: NDArray[np.int64], chunk: NDArray[np.int64], *, packed: bool) -> int:
    """Count the tokens that a chunk runs through the blocks, padding included."""
    own = lengths[chunk]
    return int(own.sum()) if packed else len(chunk) * int(own.max())
