"""A base model as all parts of the package use it: token ids of texts, and the modules below and above a cut.

Everything built from an `Encoder` shares it, and it does not change once it is loaded. Modules that are trained, moved
or exported are copies; modules that are only run are rebuilt around the encoder's weights.
"""

import copy
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from nic_ray.errors import InputError
from nic_ray.metrics.ranking import Similarity
from nic_ray.model.cut import (
    BlockOutput,
    Lower,
    Segment,
    Upper,
    blocks_of,
    placed,
    plain_blocks,
    sharing_weights,
    tail_of,
    without_pooler,
)
from nic_ray.tokens import Prompts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


TOGETHER = 10_000
"""Texts that are tokenised at once: what the tokenizer holds of them takes 10 KiB a text, and is not needed later."""


@dataclass(frozen=True)
class Encoder:
    """A loaded base model, with its name and its properties."""

    name: str
    """The model's name, as the user gave it."""
    model: "SentenceTransformer"
    """On the CPU, in fp32 and eval mode. It must not be changed, since it is shared."""
    stored_in: str
    """"fp32", or the 16-bit format that the weights were stored in."""
    prompts: Prompts
    """The texts that the model's author wants prepended to a query and to a passage; `model` has them under "query"
    and "document", the first names that Sentence Transformers looks for."""
    unpooled: tuple[int, int]
    """Number of tokens at the beginning of a query and of a passage, those of the prompt, that pooling leaves out."""
    similarity: Similarity
    """The similarity that the model's author designed the embeddings for."""
    revision: str | None
    """Commit of the hub that the model was loaded from; None for a folder."""
    weights_sha256: str
    """Hash of all weights in fp32, in the order of the state dict: the same for any file format."""
    blocks: int
    """Number of transformer blocks."""
    block_output: BlockOutput | None
    """What a block returns; None if the model cannot be cut at a block."""
    passages: "Encoder | None"
    """The model that embeds passages, if `model` embeds queries only."""
    plain: bool
    """Whether `blocks.Blocks` give the same results as the model's blocks; all parts that start at hidden states are
    then built of them."""
    plain_embeddings: bool
    """Whether they do so from the token ids on; then the parts that start there are built of them as well."""

    @property
    def can_be_cut(self) -> bool:
        """Whether the blocks can be run separately.

        If not, nothing can be computed in advance: all blocks run in every step.
        """
        return self.block_output is not None

    @property
    def transformer(self) -> nn.Module:
        """The Hugging Face model inside `model`."""
        return self.model[0].auto_model  # type: ignore[no-any-return]


def check_frozen_layers(encoder: Encoder, values: Sequence[int], where: str) -> None:
    """Refuse depths that the model does not have or that leave nothing to train.

    Args:
        where: the name of the setting, for the error message.

    Raises:
        InputError: a value is not in 0 .. blocks - 1.
    """
    wrong = sorted({value for value in values if not 0 <= value < encoder.blocks})
    if wrong and encoder.blocks == 1:
        raise InputError(
            f"{where}: must be 0 for {encoder.name}, whose blocks are one or share their weights, got "
            f"{', '.join(map(str, wrong))}"
        )
    if wrong:
        raise InputError(
            f"{where}: must be 0 to {encoder.blocks - 1} for {encoder.name}, which has {encoder.blocks} blocks, "
            f"got {', '.join(map(str, wrong))}; for base models with different numbers of blocks, frozen_share counts "
            "in shares"
        )


def token_limit(encoder: Encoder, max_tokens: int) -> int:
    """Return the number of tokens that texts are truncated to: the model's limit or `max_tokens`, if that is lower."""
    return min(max_tokens, encoder.model.max_seq_length or max_tokens)


def tokenize(
    encoder: Encoder, texts: Sequence[str], max_tokens: int, is_query: Sequence[bool] | NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Tokenise texts, each after the prompt of its kind, into ids concatenated without padding.

    Args:
        max_tokens: maximum number of tokens per text, including special tokens and the prompt.
        is_query: (texts,) True for a query, False for a passage; may be None for a model without prompts.

    Returns:
        ids (T,) and offsets (len(texts) + 1,): text i is ids[offsets[i]:offsets[i + 1]].

    Raises:
        ValueError: the model has prompts, but `is_query` is None.
    """
    if encoder.prompts and is_query is None:
        raise ValueError(f"{encoder.name} has prompts; say which of the texts are queries")
    if not texts:
        return np.zeros(0, np.int32), np.zeros(1, np.int64)
    if encoder.prompts and is_query is not None:
        texts = [encoder.prompts.before(is_query=bool(asks)) + text for text, asks in zip(texts, is_query, strict=True)]
    limit, lengths, ids = token_limit(encoder, max_tokens), [0], list[NDArray[np.int32]]()
    for start in range(0, len(texts), TOGETHER):
        some = list(texts[start : start + TOGETHER])
        rows = encoder.model.tokenizer(some, truncation=True, max_length=limit, return_attention_mask=False)[
            "input_ids"
        ]
        lengths += map(len, rows)
        ids.append(np.fromiter(itertools.chain.from_iterable(rows), np.int32))
    return np.concatenate(ids), np.cumsum(lengths, dtype=np.int64)


def lower(encoder: Encoder, start: int, stop: int) -> Lower:
    """Return blocks [start, stop) to run without gradient; from start 0 they include the embeddings and take token ids.

    Raises:
        ValueError: the model cannot be cut.
    """
    if encoder.block_output is None:
        raise ValueError(f"{encoder.name} cannot be cut")
    plain = encoder.plain if start else encoder.plain_embeddings
    part = (
        plain_blocks(encoder.transformer, start, stop)
        if plain
        else Segment(encoder.transformer, start, stop, encoder.block_output)
    )
    return Lower(sharing_weights(part), start, stop)


def upper(encoder: Encoder, frozen_layers: int, *, from_ids: bool = False) -> Upper:
    """Return the part that trains, with copied weights, so that training it does not change the encoder.

    Of the transformer, only parameters of the blocks above the cut require a gradient (with `frozen_layers` 0, all but
    an unused pooler do). A position bias that all blocks share thus stays as the frozen blocks need it.

    Args:
        frozen_layers: number of blocks below the cut.
        from_ids: whether the part takes token ids and runs the frozen blocks each time; otherwise it takes their
            output. The part of an encoder that cannot be cut always takes token ids.
    """
    cut = copy.deepcopy(_cut(encoder, frozen_layers, from_ids=from_ids))
    trained = cut.trained()
    for name, value in cut.upper.named_parameters():
        value.requires_grad_(name in trained)
    return cut.upper


def base_weights(encoder: Encoder, frozen_layers: int) -> dict[str, Tensor]:
    """Return the encoder's weights above a cut, not copies, by the names of `Upper.trained_state`."""
    return {name: value.detach() for name, value in _cut(encoder, frozen_layers).trained().items()}


def weights_at(encoder: Encoder, frozen_layers: int, weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Extend weights above a cut to weights above a shallower one, with the encoder's weights for the blocks between.

    Args:
        frozen_layers: number of blocks below the cut that `weights` belong to.
        weights: by the names of `Upper.trained_state`.
        depth: number of blocks below the shallower cut, at most `frozen_layers`.

    Returns:
        the weights on the CPU, by the names at the shallower cut; those already on the CPU are not copied.

    Raises:
        ValueError: `weights` belong to another cut.
    """
    name_of = {id(value): name for name, value in _cut(encoder, frozen_layers).trained().items()}
    _refuse_other_cut(name_of.values(), weights)
    return {
        name: weights[name_of[id(value)]].to(value) if id(value) in name_of else value.detach()
        for name, value in _cut(encoder, depth).trained().items()
    }


def with_weights(encoder: Encoder, frozen_layers: int, weights: Mapping[str, Tensor]) -> Encoder:
    """Copy an encoder, with other weights above a cut. The fields that describe its base model stay as they are.

    Args:
        weights: by the names of `Upper.trained_state`.

    Raises:
        ValueError: `weights` belong to another cut.
    """
    tuned = copy.deepcopy(encoder)
    trained = _cut(tuned, frozen_layers).trained()
    _refuse_other_cut(trained, weights)
    for name, value in trained.items():
        value.detach().copy_(weights[name])
    return tuned


def whole(encoder: Encoder, device: str = "cpu") -> Upper:
    """Return the whole encoder, in eval mode, to embed token ids with; weights are shared on the CPU, else copied."""
    part = _cut(encoder, 0, from_ids=True).upper
    return placed(sharing_weights(part), device).eval()


def plain_model(encoder: Encoder, max_tokens: int) -> "SentenceTransformer":
    """Return the model for embedding with Sentence Transformers, sharing the encoder's weights on the CPU.

    Args:
        max_tokens: number of tokens that texts are truncated to, unless the model's limit is lower.
    """
    model = sharing_weights(encoder.model)
    model.max_seq_length = token_limit(encoder, max_tokens)
    return model


def for_cosine(encoder: Encoder, max_tokens: int) -> "SentenceTransformer":
    """Return `plain_model` as it is exported: its configuration names cosine, the similarity it was trained for.

    A model designed for another similarity gets a normalisation to unit length at its end, so that dot product and
    Euclidean distance, which an index of the old model may use, give the same ranking as cosine.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    model = plain_model(encoder, max_tokens)
    if encoder.similarity != "cosine":
        if not isinstance(model[-1], Normalize):
            model.append(Normalize())
        model.similarity_fn_name = "cosine"
    return model


def for_queries(encoder: Encoder, max_tokens: int) -> "SentenceTransformer":
    """Return a model that embeds queries with an encoder, and passages and texts of no role with its `passages`.

    Args:
        max_tokens: as for `for_cosine`, in which form both are.
    """
    assert encoder.passages is not None
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    queries, passages = (for_cosine(each, max_tokens) for each in (encoder, encoder.passages))
    router = Router.for_query_document(list(queries), list(passages), default_route="document")
    model = SentenceTransformer(modules=[router], device="cpu", prompts=dict(passages.prompts))
    model.similarity_fn_name = "cosine"
    return model


@dataclass(frozen=True)
class _Cut:
    """The part of an encoder above a cut, built of the encoder's modules, and which of these modules train."""

    upper: Upper
    above: Sequence[nn.Module]

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train, by their names in `upper`: those of the modules above and of the tail."""
        trained = {id(value) for module in self.above for value in module.parameters()}
        trained |= {id(value) for value in self.upper.tail.parameters() if value.requires_grad}
        pooler = getattr(self.upper.transformer, "pooler", None)  # nothing uses its output
        trained -= set() if pooler is None else set(map(id, pooler.parameters()))
        return {name: value for name, value in self.upper.named_parameters() if id(value) in trained}


def _cut(encoder: Encoder, frozen_layers: int, *, from_ids: bool = False) -> _Cut:
    transformer, tail = encoder.transformer, tail_of(encoder.model)
    blocks = blocks_of(transformer)
    assert blocks is not None
    if frozen_layers == 0:
        top = plain_blocks(transformer, 0) if encoder.plain_embeddings else without_pooler(transformer)
        return _Cut(Upper(top, tail, starts_at_ids=True), [top])
    above = list(blocks[frozen_layers:])
    if encoder.block_output is None:
        return _Cut(Upper(transformer, tail, starts_at_ids=True, frozen=_others(transformer, above)), above)
    below = lower(encoder, 0, frozen_layers) if from_ids else None
    if encoder.plain:
        plain = plain_blocks(transformer, frozen_layers)
        return _Cut(Upper(plain, tail, starts_at_ids=False, lower=below), [plain])
    part = Segment(transformer, frozen_layers, encoder.blocks, encoder.block_output)
    return _Cut(Upper(part, tail, starts_at_ids=False, lower=below, frozen=_others(part, above)), above)


def _others(module: nn.Module, above: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the modules inside a module that are no part of those that train."""
    trained = {part for block in above for part in block.modules()}
    return [part for part in module.modules() if part not in trained]


def _refuse_other_cut(names: Collection[str], weights: Mapping[str, Tensor]) -> None:
    if set(names) != weights.keys():
        raise ValueError(f"the state has {len(weights)} tensors of another cut, want {len(names)}")
