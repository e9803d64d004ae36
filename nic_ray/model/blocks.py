"""BERT-like transformer blocks, pooling and dropout in plain PyTorch, which trials run.

Importing Transformers and Sentence Transformers takes three seconds of processor time, and every trial is a separate
process. A trial that freezes one block or more is therefore given these modules where they give the same results as the
model's own modules, which `base.load` tests; without frozen blocks it runs the model's own transformer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Blocks(nn.Module):
    """A sequence of post-norm blocks (BERT, RoBERTa, XLM-R), with the weights and parameter names of the originals.

    Args:
        layers: blocks of a Transformers model.
        heads: number of attention heads of each block.

    Raises:
        AttributeError: a block is not built like BERT's.

    Source: Devlin et al. 2019, arXiv:1810.04805.
    """

    def __init__(self, layers: nn.ModuleList, heads: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([_Block(layer, heads) for layer in layers])})

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run a padded batch: hidden states (B, L, W), mask (B, L) 1 for a token -> hidden states (B, L, W)."""
        # without padding there is nothing to mask; on a GPU, checking that would make the host wait
        visible = None if mask.device.type == "cpu" and bool(mask.all()) else mask.bool()[:, None, None, :]
        for block in self.encoder["layer"].children():
            hidden = block(hidden, visible)
        return hidden


class _Block(nn.Module):
    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(layer.attention, heads)
        self.intermediate = nn.ModuleDict({"dense": layer.intermediate.dense})
        self.output = _Closing(layer.output)

    def forward(self, hidden: Tensor, visible: Tensor | None) -> Tensor:
        hidden = self.attention.output(self.attention.self(hidden, visible), hidden)
        return self.output(F.gelu(self.intermediate["dense"](hidden)), hidden)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, attention: Any, heads: int) -> None:
        super().__init__()
        self.self = _SelfAttention(attention.self, heads)
        self.output = _Closing(attention.output)


class _SelfAttention(nn.Module):
    def __init__(self, like: Any, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dropout = like.query, like.key, like.value, like.dropout
        self._heads = heads

    def forward(self, hidden: Tensor, visible: Tensor | None) -> Tensor:
        query, key, value = (
            project(hidden).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        # on a CPU in 16 bits, the fused kernel takes twice as long, mostly in the backward pass
        # (`benchmarks/attention.py`)
        attend = _in_steps if query.device.type == "cpu" and query.dtype == torch.bfloat16 else _fused
        return attend(query, key, value, visible, self.dropout).transpose(1, 2).flatten(2)


def _fused(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, dropout: nn.Dropout) -> Tensor:
    """Attention of each head, (B, H, L, D), over the visible tokens (B, 1, 1, L), by PyTorch's fused kernel."""
    share = dropout.p if dropout.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=share)


def _in_steps(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, dropout: nn.Dropout) -> Tensor:
    """The same attention in separate steps: a matrix product, a softmax and a matrix product."""
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if visible is not None:
        scores += scores.new_zeros(visible.shape).masked_fill_(~visible, float("-inf"))
    return dropout(scores.softmax(-1)) @ value  # type: ignore[no-any-return]


class _Closing(nn.Module):
    """The end of each half of a block: projection to the width W, dropout, residual connection, layer norm."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.dense, self.dropout, self.LayerNorm = like.dense, like.dropout, like.LayerNorm

    def forward(self, inner: Tensor, around: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(inner)) + around)  # type: ignore[no-any-return]


class MeanPooling(nn.Module):
    """Sentence Transformers' mean pooling."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add "sentence_embedding" (B, W), the mean of "token_embeddings" (B, L, W) over the unmasked tokens."""
        hidden = features["token_embeddings"]
        mask = features["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        # 16-bit hidden states are summed in fp32
        total, tokens = (hidden * mask).sum(1, dtype=torch.float32), mask.sum(1, dtype=torch.float32)
        return features | {"sentence_embedding": total / tokens.clamp(min=1e-9)}


class UnitLength(nn.Module):
    """Sentence Transformers' normalisation."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scale "sentence_embedding" (B, W) to length 1."""
        return features | {"sentence_embedding": F.normalize(features["sentence_embedding"], dim=1)}


class QuickDropout(nn.Dropout):
    """Dropout that draws 16 random bits per value.

    PyTorch's dropout draws a floating-point number per value, which on a CPU takes longer than the rest of its work:
    7 ms there and 2 ms here, forward and backward, for 1,024 tokens of width 384.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Set a share p of the values, rounded to the nearest 1 / 65,536, to 0 and scale up the others."""
        dropped = round(self.p * 2**16)
        if not self.training or dropped in (0, 2**16) or input.device.type != "cpu":
            return super().forward(input)
        # four values per integer, drawn from PyTorch's generator, so that seeds and saved states apply here too
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = bits[: input.numel()].view(input.shape) >= dropped - 2**15
        return input * kept.to(input.dtype).mul_(2**16 / (2**16 - dropped))
