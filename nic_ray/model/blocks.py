"""BERT-like transformer blocks, pooling and dropout in plain PyTorch, which trials run.

Importing Transformers and Sentence Transformers takes three seconds of processor time, and every trial is a separate
process. A trial is therefore given these modules where they give the same results as the model's own modules, which
`base.load` tests. They also run packed texts, and on a GPU they never make the host wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nic_ray.model.packed import Packed, attend_within, sums, takes_heads_of

Layout = Tensor | Packed
"""What tells a batch's tokens from its padding: a mask (B, L), 1 for a token; or the texts of a batch without any."""


Features = dict[str, Any]
"""What the modules behind a transformer take and return: Sentence Transformers' features, by name."""


class Blocks(nn.Module):
    """A sequence of post-norm blocks (BERT, RoBERTa, XLM-R), with the weights and parameter names of the originals.

    Args:
        layers: blocks of a Transformers model.
        heads: number of attention heads of each block.
        embeddings: the model's embeddings, to run on token ids first; None to start at hidden states.

    Raises:
        AttributeError: a block or the embeddings are not built like BERT's.

    Source: Devlin et al. 2019, arXiv:1810.04805.
    """

    def __init__(self, layers: nn.ModuleList, heads: int, embeddings: nn.Module | None = None) -> None:
        super().__init__()
        self.embeddings = None if embeddings is None else _Embeddings(embeddings)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([_Block(layer, heads) for layer in layers])})

    @property
    def takes_packed(self) -> bool:
        """Whether the kernel for packed texts computes what the blocks compute: of such heads, and without dropout."""
        return all(takes_heads_of(each.head_width) for each in self._attentions) and not self.drops_attention

    @property
    def drops_attention(self) -> bool:
        """Whether attention weights are dropped at present."""
        return any(each.drops for each in self._attentions)

    @property
    def _attentions(self) -> "list[_SelfAttention]":
        blocks: Any = self.encoder["layer"].children()
        return [block.attention.self for block in blocks]

    def forward(self, values: Tensor, layout: Layout) -> Tensor:
        """Run a batch: hidden states (B, L, W) or token ids (B, L) -> hidden states (B, L, W).

        Packed texts have (T, W) or (T,) instead.
        """
        hidden = values if self.embeddings is None else self.embeddings(values, layout)
        visible = layout if isinstance(layout, Packed) else _visible(layout)
        for block in self.encoder["layer"].children():
            hidden = block(hidden, visible)
        return hidden


_PARTS = {"word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm", "dropout"}


class _Embeddings(nn.Module):
    """The sum of the embeddings of word, type and position, with layer norm and dropout."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        parts = dict(like.named_children())
        if parts.keys() != _PARTS:
            raise AttributeError(f"embeddings of {', '.join(parts)}, want {', '.join(sorted(_PARTS))}")
        for name, module in parts.items():  # in their order, which an optimizer's state counts on
            setattr(self, name, module)
        # RoBERTa's kind numbers positions from the padding's id + 1, and gives padding this id
        self._padding: int | None = like.position_embeddings.padding_idx  # type: ignore[union-attr, assignment]

    def forward(self, ids: Tensor, layout: Layout) -> Tensor:
        parts: Any = self
        hidden = parts.word_embeddings(ids) + parts.token_type_embeddings.weight[0]
        hidden = hidden + parts.position_embeddings(self._positions(ids, layout))
        return parts.dropout(parts.LayerNorm(hidden))  # type: ignore[no-any-return]

    def _positions(self, ids: Tensor, layout: Layout) -> Tensor:
        if self._padding is None:
            return layout.place if isinstance(layout, Packed) else torch.arange(ids.shape[1], device=ids.device)
        counted = (ids != self._padding).long()
        number = counted.cumsum(-1)
        if isinstance(layout, Packed):
            first = layout.bounds[layout.text]  # by token: a text without any may begin where the tokens end
            number = number - (number - counted)[first]
        return number * counted + self._padding


def _visible(mask: Tensor) -> Tensor | None:
    """Return which tokens are attended to, (B, 1, 1, L); None for all."""
    # without padding there is nothing to mask; on a GPU, checking that would make the host wait
    return None if mask.device.type == "cpu" and bool(mask.all()) else mask.bool()[:, None, None, :]


class _Block(nn.Module):
    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(layer.attention, heads)
        self.intermediate = nn.ModuleDict({"dense": layer.intermediate.dense})
        self.output = _Closing(layer.output)

    def forward(self, hidden: Tensor, visible: Layout | None) -> Tensor:
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
        self.head_width = int(like.query.out_features) // heads
        self._heads = heads

    @property
    def drops(self) -> bool:
        """Whether attention weights are dropped at present."""
        return self.dropout.training and self.dropout.p > 0  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, visible: Layout | None) -> Tensor:
        query, key, value = (
            project(hidden).unflatten(-1, (self._heads, -1)) for project in (self.query, self.key, self.value)
        )
        if isinstance(visible, Packed):
            return attend_within(query, key, value, visible, self.dropout).flatten(1)
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
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

    def forward(self, features: Features) -> Features:
        """Add "sentence_embedding" (B, W), the mean of "token_embeddings" over the unmasked tokens.

        These are (B, L, W) under the mask "attention_mask" (B, L), or (T, W) where "packed" holds their `Packed`.
        """
        hidden: Tensor = features["token_embeddings"]
        if "packed" in features:
            total, tokens = sums(hidden, features["packed"])
        else:
            mask = features["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            # 16-bit hidden states are summed in fp32
            total, tokens = (hidden * mask).sum(1, dtype=torch.float32), mask.sum(1, dtype=torch.float32)
        return features | {"sentence_embedding": total / tokens.clamp(min=1e-9)}


class UnitLength(nn.Module):
    """Sentence Transformers' normalisation."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scale "sentence_embedding" (B, W) to length 1."""
        return features | {"sentence_embedding": F.normalize(features["sentence_embedding"], dim=1)}


_generator: ContextVar[torch.Generator | None] = ContextVar("_generator", default=None)


@contextmanager
def dropout_drawn_from(seed: int) -> Iterator[None]:
    """Have `QuickDropout` draw from a generator with a seed, in this thread, instead of PyTorch's own."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    before = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(before)


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
        # four values per integer, drawn from a generator of PyTorch's, so that seeds and saved states apply here too
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64)
        bits = bits.random_(-(2**63), None, generator=_generator.get()).view(torch.int16)
        kept = bits[: input.numel()].view(input.shape) >= dropped - 2**15
        return input * kept.to(input.dtype).mul_(2**16 / (2**16 - dropped))
