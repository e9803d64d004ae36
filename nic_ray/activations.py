"""What the trained part reads: each distinct text's token ids, or its output of the frozen blocks."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.encoder import Encoder, Lower, lower, tokenize

CHUNK_TOKENS = {"cpu": 1024, "cuda": 65536}
"""Padded tokens that run through the blocks at once, by kind of device: on a CPU few enough that a
layer's activations stay in its caches, on a GPU many enough to fill it."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of all texts, one after the other without padding.

    values: (T,) int32 token ids, or hidden states (T, W) as float32 or as the bits of bfloat16 (uint16).
    offsets: (texts + 1,); text i is values[offsets[i]:offsets[i + 1]].
    """

    values: NDArray[np.int32] | NDArray[np.float32] | NDArray[np.uint16]
    offsets: NDArray[np.int64]

    @property
    def are_ids(self) -> bool:
        """Whether these are token ids, not hidden states."""
        return self.values.ndim == 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(texts,) tokens of each."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Feed:
    """`Inputs` as tensors, where they are used."""

    values: Tensor
    offsets: Tensor
    lengths: NDArray[np.int64]


def token_inputs(encoder: Encoder, texts: Sequence[str], max_tokens: int) -> Inputs:
    """Depth 0: token ids of each text, cut off at `max_tokens`."""
    return Inputs(*tokenize(encoder, texts, max_tokens))


def frozen_inputs(
    encoder: Encoder, tokens: Inputs, depths: Sequence[int], *, device: str = "cpu", bf16: bool = False
) -> dict[int, Inputs]:
    """The output of the first k blocks for every text, for each k of `depths`, each from the one before.

    Args:
        tokens: from `token_inputs`.
        depths: numbers of blocks, from 0 (the token ids themselves).
        device: where to compute.
        bf16: compute in bfloat16 and keep 16 bits a value.
    """
    ascending = sorted(set(depths) - {0})
    blocks = [lower(encoder, start, stop) for start, stop in zip([0, *ascending], ascending, strict=False)]
    found = {0: tokens}
    for depth, values in zip(ascending, run_chain(blocks, tokens, device=device, bf16=bf16), strict=True):
        found[depth] = Inputs(values, tokens.offsets)
    return {depth: found[depth] for depth in depths}


def run_chain(
    blocks: Sequence[Lower], inputs: Inputs, *, device: str = "cpu", bf16: bool = False
) -> list[NDArray[Any]]:
    """Run frozen blocks one after the other over every text: the values (T, W) after each of them."""
    outputs: list[NDArray[Any]] = []
    for each in blocks:
        inputs = run_blocks(each, inputs, device=device, bf16=bf16)
        outputs.append(inputs.values)
    return outputs


@torch.inference_mode()
def run_blocks(blocks: Lower, inputs: Inputs, *, device: str = "cpu", bf16: bool = False) -> Inputs:
    """Run frozen blocks over every text once."""
    blocks = blocks.to(device)
    values: Tensor | None = None
    source = feed(inputs, device)
    for texts in chunks(inputs.lengths, np.arange(len(inputs.lengths)), CHUNK_TOKENS[torch.device(device).type]):
        padded, mask = padded_batch(source, texts)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            hidden = blocks(padded, mask)
        if values is None:
            kept = torch.bfloat16 if bf16 else torch.float32
            values = torch.empty(len(inputs.values), hidden.shape[-1], dtype=kept)
        rows = np.concatenate([np.arange(*inputs.offsets[text : text + 2]) for text in texts])
        values[torch.from_numpy(rows)] = hidden[mask.bool()].to("cpu", values.dtype)
    assert values is not None
    bits = values.view(torch.uint16) if bf16 else values
    return Inputs(bits.numpy(), inputs.offsets)


def feed(inputs: Inputs, device: str) -> Feed:
    """Put inputs where they are used; on the CPU without a copy, so they may be read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        values, offsets = torch.from_numpy(inputs.values), torch.from_numpy(inputs.offsets)
    if values.dtype == torch.uint16:
        values = values.view(torch.bfloat16)
    return Feed(values.to(device), offsets.to(device), inputs.lengths)


def padded_batch(source: Feed, texts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Inputs of some texts side by side.

    What stands in the padding is the text's own last token again: finite, and masked.

    Returns:
        values (B, L) ids or (B, L, W), and mask (B, L) int64, 1 for a token. L is the longest's length.
    """
    device = source.values.device
    index = torch.from_numpy(texts).to(device, non_blocking=True)
    starts, ends = source.offsets[index], source.offsets[index + 1]
    places = starts[:, None] + torch.arange(int(source.lengths[texts].max()), device=device)
    values = source.values[torch.minimum(places, ends[:, None] - 1)]
    if values.dtype == torch.int32:
        values = values.long()
    return values, (places < ends[:, None]).long()


def chunks(lengths: NDArray[np.int64], texts: NDArray[np.int64], tokens: int) -> Iterator[NDArray[np.int64]]:
    """Texts of similar length together, longest first, at most `tokens` with padding (or one text).

    Of all such partitions the one with the least padding, where a chunk more costs as much as `tokens` / 8 tokens of
    padding. Both are paid for: a chunk costs its calls, whatever it holds.
    """
    ordered = texts[np.argsort(-lengths[texts], kind="stable")]
    longest = np.maximum(1, lengths[ordered])
    count = np.arange(1, len(ordered) + 1)
    cost = np.zeros(len(ordered) + 1)  # of the texts from a place on
    stops = np.zeros(len(ordered), np.int64)
    for start in reversed(range(len(ordered))):
        most = min(len(ordered) - start, max(1, tokens // int(longest[start])))
        found = longest[start] * count[:most] + cost[start + 1 : start + 1 + most]
        best = int(found.argmin())
        cost[start], stops[start] = found[best] + tokens / 8, start + 1 + best
    start = 0
    while start < len(ordered):
        yield ordered[start : stops[start]]
        start = int(stops[start])
