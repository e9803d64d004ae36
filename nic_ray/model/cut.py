"""A transformer cut at a block: the frozen part below, the trained part above, and how each part is run."""

import copy
import functools
import inspect
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from nic_ray.model.blocks import Blocks, Features, Layout, MeanPooling, QuickDropout, UnitLength
from nic_ray.model.packed import Packed

# Sentence Transformers is imported only where one of its models is handled: a trial receives its blocks ready-made,
# runs in a separate process, and without the import saves two seconds of processor time at its start.
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Module = TypeVar("Module", bound=nn.Module)

UNPOOLED = 2
"""What stands in a mask for a token that others attend to but that pooling leaves out."""


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
        self.adapted: tuple[str, ...] = ()
        """Names of what trained before adapters were put on it (`adapters.add_adapters`); empty without any."""
        self._starts_at_ids = starts_at_ids
        self._frozen = tuple(frozen)

    @property
    def takes_packed(self) -> bool:
        """Whether packed texts may be given to the part as it is now: its blocks, pooling and mode."""
        blocks = [self.transformer] if self.lower is None else [self.transformer, self.lower]
        return all(isinstance(each, Blocks | Lower) and each.takes_packed for each in blocks) and all(
            isinstance(module, MeanPooling | UnitLength) for module in self.tail
        )

    @property
    def draws_from_seeds(self) -> bool:
        """Whether all that the part draws at random, on a CPU and as it is now, `dropout_drawn_from` can seed."""
        own = self.transformer
        kinds = {type(module) for module in self.modules() if isinstance(module, nn.Dropout)}
        return isinstance(own, Blocks) and not own.drops_attention and kinds <= {QuickDropout}

    def forward(self, values: Tensor, layout: Layout) -> Tensor:
        """Embed a batch, padded or packed.

        Args:
            values: (B, L) token ids or (B, L, W) hidden states, the inputs at the cut; (T,) or (T, W) of packed texts.
            layout: (B, L) int, 1 for a token, 0 for padding, and `UNPOOLED` for a token that is left out of the
                pooling; or what is known of packed texts, if the part `takes_packed`.

        Returns:
            (B, D) embeddings, fp32.
        """
        if self.lower is not None:
            with torch.no_grad():
                values = self.lower(values, layout)
        hidden = run(self.transformer, values, layout, ids=self._starts_at_ids)
        features: Features = {"token_embeddings": hidden}
        if isinstance(layout, Packed):
            features["packed"] = layout
        else:
            features["attention_mask"] = (layout == 1).to(layout.dtype)
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

    @property
    def takes_packed(self) -> bool:
        """Whether packed texts may be given to the blocks."""
        return isinstance(self.transformer, Blocks) and self.transformer.takes_packed

    @torch.no_grad()
    def forward(self, values: Tensor, layout: Layout) -> Tensor:
        """Run a batch: (B, L) ids or (B, L, W) hidden states -> (B, L, W); (T,) or (T, W) of packed texts -> (T, W)."""
        return run(self.transformer, values, layout, ids=self._starts_at_ids)


@dataclass(frozen=True)
class BlockOutput:
    """What the blocks of a transformer return."""

    items: int
    """Length of the tuple whose first item is the hidden states; 0 if a block returns the hidden states alone."""
    shares: bool
    """Whether the first block's tuple holds further tensors, which the other blocks are given (T5's position bias)."""


class Segment(nn.Module):
    """Blocks [start, stop) of a transformer, run by the model's own forward method, with shared weights.

    The blocks below are replaced by modules that hand on the hidden states, and the one above by a module that ends the
    forward pass. Masks, rotary positions, the kinds of attention of the blocks and a final normalisation thus stay as
    the model computes them, whatever its family.

    Args:
        output: from `output_of`.
    """

    def __init__(self, transformer: nn.Module, start: int, stop: int, output: BlockOutput) -> None:
        super().__init__()
        blocks = blocks_of(transformer)
        assert blocks is not None
        self._given = _Given()
        below, above = list(blocks)[:start], list(blocks)[stop : stop + 1]
        passing = [_Passing(block, output, self._given) for block in below]
        if below and output.shares:
            passing[0].shared_by = below[0]
        run = nn.ModuleList([*passing, *list(blocks)[start:stop], *map(_End, above)])
        replaced: dict[nn.Module, nn.Module | None] = {blocks: run}
        table = transformer.get_input_embeddings()  # type: ignore[operator]
        if start > 0:  # large, and not needed
            replaced[table] = _Replacement(table)
        self._width, self._starts_at_ids = int(table.embedding_dim), start == 0
        self.model = _with_replaced(transformer, _names(transformer, replaced | _unused(transformer)))

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Run a padded batch: (B, L) ids or (B, L, W) hidden states, mask (B, L) -> (B, L, W) hidden states."""
        if self._starts_at_ids:
            inputs = {"input_ids": values}
        else:
            # a family computes its masks and positions from embeddings; these go no further than the first block
            inputs = {"inputs_embeds": values.new_zeros(*values.shape[:2], self._width)}
            self._given.hidden = values
        try:
            return _hidden_states(self.model, inputs, mask)
        except _Reached as reached:
            return reached.hidden
        finally:
            self._given.hidden, self._given.shared = None, ()


class _Given(threading.local):
    """What the modules that replace blocks return, while a batch runs: in each thread its own."""

    hidden: Tensor | None = None
    shared: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Given":
        memo[id(self)] = _Given()
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[type["_Given"], tuple[()]]:
        return _Given, ()


class _Replacement(nn.Module):
    """A module without parameters that keeps a replaced module's attributes.

    Models look them up: the kind of a block's attention, the width of an embedding table.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        vars(self).update(
            {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
        )


class _Passing(_Replacement):
    """A replacement for a block that returns the given hidden states, as the block would return its own."""

    shared_by: nn.Module | None
    """The block, where it has to run for the other tensors that it returns."""

    def __init__(self, block: nn.Module, output: BlockOutput, given: _Given) -> None:
        super().__init__(block)
        self._items, self._given, self.shared_by = output.items, given, None

    def forward(self, _: Tensor, *positional: Any, **named: Any) -> Any:
        hidden = self._given.hidden
        if self.shared_by is not None:
            with torch.no_grad():
                _, *shared = self.shared_by(hidden, *positional, **named)
            self._given.shared = tuple(shared)
        if self._items == 0:
            return hidden
        return (hidden, *(self._given.shared or (None,) * (self._items - 1)))


class _End(_Replacement):
    """A replacement for a block that ends the forward pass with the hidden states it is given."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> None:
        raise _Reached(hidden)


class _Reached(Exception):
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


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
    """Set the dropout rates of attention weights and of hidden units, in place.

    Most families have a dropout module for the attention weights; others keep the rate as a number.
    """
    for parent in module.modules():
        projects_queries = any(name.startswith("q") for name, _ in parent.named_children())
        share = attention if projects_queries else hidden
        for child in parent.children():
            if isinstance(child, nn.Dropout):
                child.p = share
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(parent, name, None), float | int):
                setattr(parent, name, attention)


def tail_of(model: "SentenceTransformer") -> list[nn.Module]:
    """Return the modules after a model's transformer, with plain PyTorch replacements where there are any."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    def light(module: nn.Module) -> nn.Module:
        if type(module) is Pooling and module.pooling_mode == "mean":
            return MeanPooling()
        return UnitLength() if type(module) is Normalize else module

    return [light(module) for module in list(model)[1:]]


def blocks_of(transformer: nn.Module) -> nn.ModuleList | None:
    """Return a transformer's blocks, its first list of as many modules as its config counts; None if it has none.

    Of a family whose blocks share their weights (ALBERT), it is the list of the distinct ones.
    """
    config = getattr(transformer, "config", None)
    lists = [module for module in transformer.modules() if isinstance(module, nn.ModuleList)]
    counts = (getattr(config, name, None) for name in ("num_hidden_layers", "num_hidden_groups"))
    return next((blocks for count in counts for blocks in lists if len(blocks) == count), None)


def output_of(transformer: nn.Module, ids: Tensor, mask: Tensor) -> BlockOutput | None:
    """Find out what a transformer's blocks return, by running a padded batch; None if that is no tensor or tuple."""
    blocks = blocks_of(transformer)
    assert blocks is not None
    returned: list[Any] = []
    hook = blocks[0].register_forward_hook(lambda _module, _inputs, output: returned.append(output))
    try:
        with torch.no_grad():
            run(transformer, ids, mask, ids=True)
    finally:
        hook.remove()
    output = returned[0] if returned else None
    if isinstance(output, Tensor):
        return BlockOutput(0, shares=False)
    if not isinstance(output, tuple) or not output:
        return None
    return BlockOutput(len(output), shares=any(isinstance(item, Tensor) for item in output[1:]))


def without_pooler(transformer: nn.Module) -> nn.Module:
    """Return a transformer, with shared weights, that does not run a pooler whose output nothing uses."""
    return _with_replaced(transformer, _names(transformer, _unused(transformer)))


def _unused(transformer: nn.Module) -> dict[nn.Module, None]:
    # a pooler costs a matrix product per text
    pooler = getattr(transformer, "pooler", None)
    return {} if pooler is None else {pooler: None}


def _names(
    transformer: nn.Module, replaced: Mapping[nn.Module, nn.Module | None]
) -> dict[tuple[str, ...], nn.Module | None]:
    """Return the replacements by the names of all places where a replaced module is used, as paths."""
    places = transformer.named_modules(remove_duplicate=False)
    return {tuple(name.split(".")): replaced[module] for name, module in places if module in replaced}


def _with_replaced(module: nn.Module, replaced: Mapping[tuple[str, ...], nn.Module | None]) -> nn.Module:
    """Return a module that shares all parts with another one, except for some that are replaced."""
    shell = copy.copy(module)
    shell._modules = dict(module._modules)
    for name in {path[0] for path in replaced}:
        within = {path[1:]: new for path, new in replaced.items() if path[0] == name}
        child = module._modules[name]
        shell._modules[name] = within[()] if () in within else _with_replaced(child, within)  # type: ignore[arg-type]
    return shell


def plain_blocks(transformer: nn.Module, start: int, stop: int | None = None) -> Blocks:
    """Return the blocks [start, stop) as `Blocks` that share their weights; from 0 with the embeddings.

    Raises:
        AttributeError: the blocks or the embeddings are not built like BERT's.
    """
    parts: Any = transformer
    embeddings = None if start else parts.embeddings
    return Blocks(parts.encoder.layer[start:stop], parts.config.num_attention_heads, embeddings)


def run(transformer: nn.Module, values: Tensor, layout: Layout, *, ids: bool) -> Tensor:
    """Run a transformer, or a part of one, on token ids or hidden states; return hidden states, (B, L, W) or (T, W).

    Raises:
        TypeError: packed texts are given to a transformer that is not made of `Blocks`.
    """
    if isinstance(transformer, Blocks):
        return transformer(values, layout)  # type: ignore[no-any-return]
    if isinstance(layout, Packed):
        raise TypeError(f"{type(transformer).__name__} takes padded texts")
    if isinstance(transformer, Segment):
        return transformer(values, layout)  # type: ignore[no-any-return]
    return _hidden_states(transformer, {"input_ids" if ids else "inputs_embeds": values}, layout)


def _hidden_states(transformer: nn.Module, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
    # a decoder would otherwise keep the keys and values of every text
    cache = {"use_cache": False} if _has_cache(type(transformer)) else {}  # type: ignore[arg-type]
    with _best_attention(transformer, mask.device.type):
        return transformer(**inputs, attention_mask=mask.clamp(max=1), **cache)[0]  # type: ignore[no-any-return]


@functools.cache
def _has_cache(kind: type[nn.Module]) -> bool:
    return "use_cache" in inspect.signature(kind.forward).parameters


_lock = threading.Lock()
_running: dict[int, tuple[int, str]] = {}
"""Id of the config of a model that runs -> number of threads that run it, and the attention that it had before."""


@contextmanager
def _best_attention(transformer: nn.Module, device: str) -> Iterator[None]:
    """Replace the fused attention kernel by separate steps on a CPU in bfloat16.

    PyTorch's fused kernel takes twice as long there, mostly in the backward pass (`benchmarks/attention.py`). In fp32
    and on GPUs the implementation that the model has chosen is kept.
    """
    config: Any = transformer.config
    if device != "cpu" or not torch.is_autocast_enabled("cpu"):
        yield
        return
    with _lock:
        running, implementation = _running.get(id(config), (0, config._attn_implementation))
        if implementation == "sdpa":
            config._attn_implementation = "eager"
        _running[id(config)] = (running + 1, implementation)
    try:
        yield
    finally:
        with _lock:
            running, implementation = _running.pop(id(config))
            if running > 1:
                _running[id(config)] = (running - 1, implementation)
            else:
                config._attn_implementation = implementation
