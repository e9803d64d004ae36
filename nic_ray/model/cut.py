"""A transformer cut at a block: the frozen part below, the trained part above, and how each part is run."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from nic_ray.model.blocks import Blocks, MeanPooling, UnitLength

# Sentence Transformers is imported only where one of its models is handled: a trial receives its blocks ready-made,
# runs in a separate process, and without the import saves two seconds of processor time at its start.
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Module = TypeVar("Module", bound=nn.Module)


class Upper(nn.Module):
    """The trained part with pooling, which maps hidden states (or token ids) of texts to embeddings.

    Args:
        transformer: the part that trains; takes hidden states, or token ids if `starts_at_ids`.
        tail: the modules that follow the transformer (pooling, normalisation, ...), which take and return
            Sentence Transformers' features.
        starts_at_ids: whether `transformer` includes the embedding table.
        lower: blocks to run on token ids first, without gradient and in eval mode; or None.
        frozen: modules of `transformer`, not including their submodules, that stay in eval mode while others train.
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
            values: (B, L) token ids or (B, L, W) hidden states, the inputs at the cut.
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
        """Set the mode: dropout is active in modules that train, never in frozen ones."""
        super().train(mode)
        if self.lower is not None:
            self.lower.eval()
        for module in self._frozen:
            module.training = False
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """Return the parameters that train, by name: live tensors, not copies."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore values of `trained_state`, in place.

        Raises:
            ValueError: the state names other parameters than those that train here.
        """
        mine = self.trained_state()
        if mine.keys() != state.keys():
            raise ValueError(f"the state has {len(state)} tensors of another cut, want {len(mine)}")
        for name, value in mine.items():
            value.copy_(state[name])


class Lower(nn.Module):
    """Blocks [start, stop) of the frozen part. Deterministic: put in eval mode and run without gradient.

    Args:
        transformer: the module that runs; takes hidden states, or token ids if `start` is 0.
    """

    def __init__(self, transformer: nn.Module, start: int, stop: int) -> None:
        super().__init__()
        self.transformer = transformer.eval()
        self.stop = stop
        self._starts_at_ids = start == 0

    @torch.no_grad()
    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Run a padded batch: (B, L) ids or (B, L, W) hidden states, mask (B, L) -> (B, L, W) hidden states."""
        return run(self.transformer, values, mask, ids=self._starts_at_ids)


class _Given(nn.Module):
    """A replacement for the embedding table that returns the hidden states it is given."""

    def forward(self, *, inputs_embeds: Tensor, **_: Any) -> Tensor:
        return inputs_embeds


def sharing_weights(module: Module) -> Module:
    """Copy a module so that the copy shares parameters and buffers, but has separate modes and configs."""
    shared = {id(value): value for value in itertools.chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, shared)


def placed(module: Module, device: str) -> Module:
    """Return a module on a device: itself if it is there, else a copy, since its parts may be in use elsewhere."""
    kind = torch.device(device).type
    if all(value.device.type == kind for value in itertools.chain(module.parameters(), module.buffers())):
        return module
    return copy.deepcopy(module).to(device)


def set_dropout(module: nn.Module, *, attention: float, hidden: float) -> None:
    """Set the dropout rates of attention weights and of hidden units, in place."""
    for parent in module.modules():
        projects_queries = any(name.startswith("q") for name, _ in parent.named_children())
        share = attention if projects_queries else hidden
        for child in parent.children():
            if isinstance(child, nn.Dropout):
                child.p = share


def tail_of(model: "SentenceTransformer") -> list[nn.Module]:
    """Return the modules after a model's transformer, with plain PyTorch replacements where there are any."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    def light(module: nn.Module) -> nn.Module:
        if type(module) is Pooling and module.pooling_mode == "mean" and module.include_prompt:
            return MeanPooling()
        return UnitLength() if type(module) is Normalize else module

    return [light(module) for module in list(model)[1:]]


def blocks_of(transformer: nn.Module) -> nn.ModuleList | None:
    """Return a transformer's blocks, its first list of as many modules as its config counts; None if it has none."""
    count = getattr(getattr(transformer, "config", None), "num_hidden_layers", None)
    lists = (module for module in transformer.modules() if isinstance(module, nn.ModuleList))
    return next((blocks for blocks in lists if len(blocks) == count), None)


def segment(transformer: nn.Module, start: int, stop: int) -> nn.Module:
    """Return a model that applies the original forward method to blocks [start, stop), sharing the weights."""
    shell = _shell(transformer)
    shell.encoder = _shell(transformer.encoder)  # type: ignore[arg-type]
    shell.encoder.layer = nn.ModuleList(list(transformer.encoder.layer)[start:stop])  # type: ignore[union-attr, arg-type]
    if start > 0:
        shell.embeddings = _Given()
    if getattr(shell, "pooler", None) is not None:
        shell.pooler = None  # type: ignore[assignment]  # unused, and costs a matrix product per text
    return shell


def _shell(module: nn.Module) -> nn.Module:
    shell = copy.copy(module)
    shell._modules = dict(module._modules)
    return shell


def plain_blocks(transformer: nn.Module, start: int) -> Blocks:
    """Return the blocks from `start` to the last as `Blocks` that share their weights.

    Raises:
        AttributeError: the blocks are not built like BERT's.
    """
    config: Any = transformer.config
    return Blocks(transformer.encoder.layer[start:], config.num_attention_heads)  # type: ignore[union-attr, index, arg-type]


def run(transformer: nn.Module, values: Tensor, mask: Tensor, *, ids: bool) -> Tensor:
    """Run a transformer, or a segment of one, on token ids or hidden states; return hidden states (B, L, W)."""
    if isinstance(transformer, Blocks):
        return transformer(values, mask)  # type: ignore[no-any-return]
    argument = {"input_ids" if ids else "inputs_embeds": values}
    with _best_attention(transformer, values.device.type):
        return transformer(**argument, attention_mask=mask)[0]  # type: ignore[no-any-return]


@contextmanager
def _best_attention(transformer: nn.Module, device: str) -> Iterator[None]:
    """Replace the fused attention kernel by separate steps on a CPU in bfloat16.

    PyTorch's fused kernel takes twice as long there, mostly in the backward pass (`benchmarks/attention.py`). In fp32
    and on GPUs the implementation that the model has chosen is kept.
    """
    config: Any = transformer.config
    implementation = config._attn_implementation
    if device == "cpu" and implementation == "sdpa" and torch.is_autocast_enabled("cpu"):
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = implementation
