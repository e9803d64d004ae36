"""A transformer cut at a block: the frozen part below, the trained part above, and how either is run."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from nic_ray.model.blocks import Blocks, MeanPooling, UnitLength

# Sentence Transformers is imported where one of its models is handled: a trial is handed its blocks, runs in a process
# of its own, and starts two seconds of processor time sooner without it.
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Module = TypeVar("Module", bound=nn.Module)


class Upper(nn.Module):
    """The trained part with pooling: hidden states (or token ids) of texts to embeddings.

    Args:
        transformer: what trains; fed with hidden states, or with token ids if `starts_at_ids`.
        tail: what stands behind the transformer (pooling, normalisation, ...): modules that take and give
            Sentence Transformers' features.
        starts_at_ids: whether `transformer` has its embedding table in front.
        lower: blocks to run on token ids first, without gradient and in eval mode; or None.
        frozen: modules of `transformer`, each by itself, that stay in eval mode while the others train.
    """

    def __init__(
        self,
        transformer: nn.Module,
        tail: Sequence[nn.Module],
        *,
        starts_at_ids: bool,
        lower: nn.Module | None = None,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.tail = nn.ModuleList(tail)
        self.lower = lower
        self._starts_at_ids = starts_at_ids
        self._frozen = tuple(frozen)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Embed a padded batch.

        Args:
            values: (B, L) token ids or (B, L, W) hidden states, what is fed at the cut.
            mask: (B, L) int, 1 for a token and 0 for padding.

        Returns:
            (B, D) embeddings, fp32.
        """
        if self.lower is not None:
            with torch.no_grad():
                values = self.lower(values, mask)
        features: dict[str, Any] = {
            "token_embeddings": run(self.transformer, values, mask, ids=self._starts_at_ids),
            "attention_mask": mask,
        }
        for module in self.tail:
            features = module(features)
        return features["sentence_embedding"].float()  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "Upper":
        """Dropout runs in what trains, never in what is frozen."""
        super().train(mode)
        if self.lower is not None:
            self.lower.eval()
        for module in self._frozen:
            module.training = False
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """The parameters that train, by name: live tensors, not copies."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put values of `trained_state` back, in place.

        Raises:
            ValueError: other parameters than the ones that train here.
        """
        mine = self.trained_state()
        if mine.keys() != state.keys():
            raise ValueError(f"the state has {len(state)} tensors of another cut, want {len(mine)}")
        for name, value in mine.items():
            value.copy_(state[name])


class Lower(nn.Module):
    """Blocks [start, stop) of the frozen part. Deterministic: always in eval mode, never with gradient.

    Args:
        transformer: what runs; fed with hidden states, or with token ids if `start` is 0.
    """

    def __init__(self, transformer: nn.Module, start: int, stop: int) -> None:
        super().__init__()
        self.transformer = transformer.eval()
        self.stop = stop
        self._starts_at_ids = start == 0

    @torch.no_grad()
    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """(B, L) ids or (B, L, W) hidden states, mask (B, L) -> (B, L, W) hidden states."""
        return run(self.transformer, values, mask, ids=self._starts_at_ids)


class _Given(nn.Module):
    """Stands where the embedding table was: hands on the hidden states it is given."""

    def forward(self, *, inputs_embeds: Tensor, **_: Any) -> Tensor:
        return inputs_embeds


def sharing_weights(module: Module) -> Module:
    """A copy of a module that shares its parameters and buffers, and nothing else: modes and configs are its own."""
    shared = {id(value): value for value in itertools.chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, shared)


def placed(module: Module, device: str) -> Module:
    """A module on a device: itself if it is there, else a copy, since others may hold what it is made of."""
    wanted = torch.device(device).type
    if all(value.device.type == wanted for value in itertools.chain(module.parameters(), module.buffers())):
        return module
    return copy.deepcopy(module).to(device)


def set_dropout(module: nn.Module, *, attention: float, hidden: float) -> None:
    """Set the shares that are dropped, of attention weights and of hidden units, in place."""
    for parent in module.modules():
        projects_queries = any(name.startswith("q") for name, _ in parent.named_children())
        share = attention if projects_queries else hidden
        for child in parent.children():
            if isinstance(child, nn.Dropout):
                child.p = share


def tail_of(model: "SentenceTransformer") -> list[nn.Module]:
    """What stands behind the transformer of a model, without Sentence Transformers where there is such a module."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    def light(module: nn.Module) -> nn.Module:
        if type(module) is Pooling and module.pooling_mode == "mean" and module.include_prompt:
            return MeanPooling()
        return UnitLength() if type(module) is Normalize else module

    return [light(module) for module in list(model)[1:]]


def blocks_of(transformer: nn.Module) -> nn.ModuleList | None:
    """The blocks of a transformer: its list of as many modules as its config counts; None without one."""
    count = getattr(getattr(transformer, "config", None), "num_hidden_layers", None)
    lists = (module for module in transformer.modules() if isinstance(module, nn.ModuleList))
    return next((blocks for blocks in lists if len(blocks) == count), None)


def segment(transformer: nn.Module, start: int, stop: int) -> nn.Module:
    """The model's own forward over blocks [start, stop), sharing its weights."""
    shell = _shell(transformer)
    shell.encoder = _shell(transformer.encoder)  # type: ignore[arg-type]
    shell.encoder.layer = nn.ModuleList(list(transformer.encoder.layer)[start:stop])  # type: ignore[union-attr, arg-type]
    if start > 0:
        shell.embeddings = _Given()
    if getattr(shell, "pooler", None) is not None:
        shell.pooler = None  # type: ignore[assignment]  # an unused output, and a product per text
    return shell


def _shell(module: nn.Module) -> nn.Module:
    shell = copy.copy(module)
    shell._modules = dict(module._modules)
    return shell


def plain_blocks(transformer: nn.Module, start: int) -> Blocks:
    """Blocks from `start` on as `Blocks`, which share their weights.

    Raises:
        AttributeError: they are not built like BERT's.
    """
    config: Any = transformer.config
    return Blocks(transformer.encoder.layer[start:], config.num_attention_heads)  # type: ignore[union-attr, index, arg-type]


def run(transformer: nn.Module, values: Tensor, mask: Tensor, *, ids: bool) -> Tensor:
    """(B, L, W) hidden states that a transformer, or a segment of one, gives for token ids or for hidden states."""
    if isinstance(transformer, Blocks):
        return transformer(values, mask)  # type: ignore[no-any-return]
    given = {"input_ids" if ids else "inputs_embeds": values}
    with _best_attention(transformer, values.device.type):
        return transformer(**given, attention_mask=mask)[0]  # type: ignore[no-any-return]


@contextmanager
def _best_attention(transformer: nn.Module, device: str) -> Iterator[None]:
    """On a CPU in bfloat16, attention in plain steps.

    PyTorch's fused kernel takes twice as long there, most of it backward (`benchmarks/attention.py`). In fp32 and on
    GPUs the model's own choice stays.
    """
    config: Any = transformer.config
    own = config._attn_implementation
    if device == "cpu" and own == "sdpa" and torch.is_autocast_enabled("cpu"):
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = own
