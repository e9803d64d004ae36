"""Training steps that are recorded as CUDA graphs and replayed: one launch, where launching each kernel takes longer.

A graph has fixed sizes, so a batch is rounded up: to whole numbers of tokens, texts and passages that nothing reads.
All graphs of a process draw dropout from one state on the device, so that trainings which take steps in turn, each on
its own stream, do not draw what each would draw alone.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nic_ray.model.activations import Feed, packs, sent
from nic_ray.model.cut import Upper
from nic_ray.model.packed import Packed
from nic_ray.train_config import TrainConfig
from nic_ray.training.batches import Batch, OtherModels
from nic_ray.training.gradients import clip_gradients
from nic_ray.training.loss import Loss, distance_to

TOKENS, TEXTS, PASSAGES = 1024, 64, 64
"""A batch is rounded up to multiples of these numbers, so that a few graphs do for all steps."""

Step = Callable[[], tuple[Tensor, Tensor]]
"""Takes a step; returns loss and gradient norm, both ()."""

Pool = Any
"""PyTorch's handle of a pool of memory, or None."""

log = logging.getLogger("nic_ray.training")


def can_record(upper: Upper, source: Feed, others: OtherModels, *, bf16: bool) -> bool:
    """Whether the steps of a training can be recorded; the log says so if they cannot.

    Args:
        others: what other models make of the texts that it trains on.
    """
    can = packs(upper, source.device, bf16=bf16) and source.values.device.type == source.device.type
    can = can and source.fixed is None and others.teacher is None and others.pair_scores is None
    can = can and not dist.is_initialized()
    if not can:
        log.info(
            "cuda_graphs: not used; they need one worker with a GPU, in bf16, a BERT-like model of which both sides "
            "train, with room for its inputs on the GPU, and no teacher"
        )
    return can


@dataclass(frozen=True)
class Rounded:
    """What a step reads besides the inputs of the texts, of a batch that is rounded up."""

    numbers: Tensor
    """int64: for each token its row of the inputs, text and place; the texts' bounds; then the batch's `queries`,
    `passages`, `positive` and `held`."""
    sizes: tuple[int, ...]
    """How many numbers each of these eight has."""
    masked: Tensor
    """(B, P) bool, as of the batch; True for passages that round it up."""
    targets: Tensor
    """As of the batch."""
    pooled: Tensor | None
    """As of `Packed`."""
    lengths: tuple[int, ...]
    """Of the texts, those that round up included."""
    longest: int
    """Number of tokens that no text of the training exceeds."""


def rounded(source: Feed, batch: Batch) -> Rounded:
    """Round a batch up and send it to the device; all of its texts are trained ones."""
    own = source.lengths[batch.texts]
    longest, tokens = int(source.lengths.max()), int(own.sum())
    further = -tokens % TOKENS
    filling = [longest] * (further // longest) + [further % longest] * (further % longest > 0)
    texts = len(own) + len(filling)
    lengths = np.concatenate([own, filling, np.zeros(-texts % TEXTS)]).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    text = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(bounds[-1]) - bounds[text]
    starts = np.zeros(len(lengths), dtype=np.int64)  # what rounds up reads the first rows
    starts[: len(own)] = source.on_host.offsets[batch.texts]
    parts = [starts[text] + place, text, place, bounds]
    unread = -len(batch.passages) % PASSAGES
    parts += [batch.queries, np.pad(batch.passages, (0, unread)), batch.positive, batch.held]
    pooled = None
    if source.on_host.unpooled is not None:
        leading = np.zeros(len(lengths), dtype=np.int64)
        leading[: len(own)] = source.on_host.unpooled[batch.texts]
        pooled = sent(place >= leading[text], source.device).float()
    return Rounded(
        sent(np.concatenate(parts), source.device),
        tuple(map(len, parts)),
        sent(np.pad(batch.masked, ((0, 0), (0, unread)), constant_values=True), source.device),
        sent(batch.targets, source.device),
        pooled,
        tuple(lengths.tolist()),
        longest,
    )


def loss_of(upper: Upper, source: Feed, given: Rounded, config: TrainConfig, loss: Loss) -> Tensor:
    """Compute the loss of a rounded batch, (): that of the batch itself."""
    rows, text, place, bounds, queries, passages, positive, held = given.numbers.split(given.sizes)
    values = source.values[rows]
    values = values.long() if values.dtype == torch.int32 else values
    layout = Packed(text, place, bounds.int(), given.lengths, given.longest, given.pooled)
    with torch.autocast(source.device.type, torch.bfloat16, enabled=source.device.type == "cuda"):
        embeddings = upper(values, layout)
    value = loss(embeddings[queries], embeddings[passages], positive, given.masked, scale=config.scale)
    if len(held):
        value = value + config.anchor * distance_to(given.targets, embeddings[held])
    return value


@dataclass
class GraphedSteps:
    """The steps of a training on a GPU in 16 bits, by the sizes of their rounded batches."""

    upper: Upper
    optimizer: torch.optim.AdamW
    """Capturable, with learning rates that are tensors on the device."""
    source: Feed
    loss: Loss
    recorded: dict[tuple[int, ...], tuple[Rounded, Step]] = field(default_factory=dict)
    met: set[tuple[int, ...]] = field(default_factory=set)
    pool: Pool = None
    """Memory that all of them share, since none runs beside another and nothing of one is read in the next."""
    without_memory: bool = False
    """Whether memory has run out while a step was recorded."""

    def take(self, batch: Batch, config: TrainConfig) -> tuple[Tensor, Tensor] | None:
        """Take a step by a graph; None if it has to be taken without, since there is none of its sizes yet.

        A step of new sizes is taken without a graph, which gives libraries the occasion to prepare; the next one of
        these sizes is recorded. A graph holds the activations of the whole batch, so that a step of more than
        `micro_batch_tokens` has none, and where memory runs out no step has one any more.
        """
        if self.without_memory or self.source.lengths[batch.texts].sum() > config.micro_batch_tokens:
            return None
        given = rounded(self.source, batch)
        sizes = (*given.sizes, len(given.targets))
        if sizes not in self.met:
            self.met.add(sizes)
            return None
        if sizes not in self.recorded:
            recorded = _unless_out_of_memory(lambda: self._step(given, config), self.pool)
            if recorded is None:
                self._give_up()
                return None
            replay, self.pool = recorded
            self.recorded[sizes] = (given, replay)
        static, replay = self.recorded[sizes]
        if static is not given:
            static.numbers.copy_(given.numbers)
            static.masked.copy_(given.masked)
            static.targets.copy_(given.targets)
            if static.pooled is not None and given.pooled is not None:
                static.pooled.copy_(given.pooled)
        loss, norm = replay()
        return loss.clone(), norm.clone()

    def _step(self, given: Rounded, config: TrainConfig) -> tuple[Tensor, Tensor]:
        value = loss_of(self.upper, self.source, given, config, self.loss)
        value.backward()
        norm = clip_gradients(self.upper)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value.detach(), norm

    def _give_up(self) -> None:
        self.without_memory = True
        self.upper.zero_grad(set_to_none=True)
        self.recorded.clear()
        torch.cuda.empty_cache()
        log.info("out of memory while a step was recorded: from here on without CUDA graphs")


def _unless_out_of_memory(step: Step, pool: Pool) -> tuple[Step, Pool] | None:
    # a separate function, because a live exception keeps everything alive that its stack frames refer to
    try:
        return _captured(step, pool)
    except torch.OutOfMemoryError:
        return None


def _captured(step: Step, pool: Pool) -> tuple[Step, Pool]:
    """Record a step, without taking it; return what replays it, and the memory that it uses.

    Args:
        pool: memory of other steps that it may use; None if there is no other.
    """
    graph = torch.cuda.CUDAGraph()
    # another thread may copy and write a checkpoint meanwhile
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = step()

    def replay() -> tuple[Tensor, Tensor]:
        graph.replay()
        return result

    return replay, graph.pool()
