"""Texts laid one after the other without padding, and attention within each of them.

On a GPU a batch holds so many texts at once that half of it would be padding, and a mask keeps attention from its
fastest kernels. Packed, a batch has neither.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_PER_HEAD = 256
"""Largest width of a head that the kernel for packed texts takes; it must be a multiple of 8 as well."""


@dataclass(frozen=True)
class Packed:
    """Which of T tokens, laid one after the other, belong to which of B texts. Tensors are on the device."""

    text: Tensor
    """(T,) int64, the number of each token's text in the batch."""
    place: Tensor
    """(T,) int64, the position of each token in its text, 0 for the first."""
    bounds: Tensor
    """(B + 1,) int32; text i has the tokens from bounds[i] to bounds[i + 1]."""
    lengths: tuple[int, ...]
    """(B,) number of tokens of each text, on the host."""
    longest: int
    """Number of tokens that no text exceeds, on the host."""
    pooled: Tensor | None = None
    """(T,) float32, 1 for a token and 0 for one that pooling leaves out; None where it leaves out none."""


def takes_heads_of(width: int) -> bool:
    """Whether the kernel for packed texts takes heads of a width."""
    return width % 8 == 0 and width <= MOST_PER_HEAD


def attend_within(query: Tensor, key: Tensor, value: Tensor, packed: Packed, dropout: nn.Dropout) -> Tensor:
    """Compute the attention of each head within each text, (T, H, D) each.

    On a GPU in 16 bits this is one kernel, which knows no dropout. Elsewhere it is PyTorch's attention, text by text:
    slow, and the measure for the kernel.
    """
    share = dropout.p if dropout.training else 0.0
    if query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16) and not share:
        return _kernel(query, key, value, packed)
    return text_by_text(query, key, value, packed, share)


def _kernel(query: Tensor, key: Tensor, value: Tensor, packed: Packed) -> Tensor:
    # imported here: it brings PyTorch's compiler with it, a second that a process that only embeds on a CPU saves
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = packed.bounds, packed.longest
    return varlen_attn(query, key, value, bounds, bounds, longest, longest)  # type: ignore[return-value]


def text_by_text(query: Tensor, key: Tensor, value: Tensor, packed: Packed, share: float = 0.0) -> Tensor:
    """Compute what `attend_within` does by PyTorch's attention on each text.

    Args:
        share: share of the attention weights that are dropped.
    """
    parts = []
    for text in zip(*(each.split(packed.lengths) for each in (query, key, value)), strict=True):
        one, other, third = (each.transpose(0, 1) for each in text)
        parts.append(F.scaled_dot_product_attention(one, other, third, dropout_p=share).transpose(0, 1))
    return torch.cat(parts)


def sums(hidden: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """Sum the tokens of each text that pooling takes, in fp32.

    Args:
        hidden: (T, W) of any format.

    Returns:
        (B, W) sums, and (B, 1) numbers of tokens.
    """
    values = hidden.float()
    lengths = packed.bounds.diff().long()
    if packed.pooled is None:
        return _by_text(values, lengths), lengths.float()[:, None]
    pooled = packed.pooled[:, None]
    return _by_text(values * pooled, lengths), _by_text(pooled, lengths)


def _by_text(values: Tensor, lengths: Tensor) -> Tensor:
    # unsafe: unchecked, because on a GPU looking at the lengths would make the host wait
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
