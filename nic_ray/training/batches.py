"""The rows that make up each batch of an epoch, and the texts that the loss of a batch is computed over."""

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.pairs import Collection
from nic_ray.train_config import TrainConfig


@dataclass(frozen=True)
class GeneralTexts:
    """Texts whose embeddings are held to those of the base model."""

    texts: NDArray[np.int64]
    """(G,) numbers of the texts, ascending, beyond those of the collection."""
    embeddings: NDArray[np.float32]
    """(G, D) their embeddings by the base model."""

    def sample(self, count: int, *, seed: int, step: int) -> "GeneralTexts":
        """Draw at most `count` of the texts; the same seed and step give the same ones."""
        drawn = np.random.default_rng((seed, step)).permutation(len(self.texts))[:count]
        drawn.sort()
        return GeneralTexts(self.texts[drawn], self.embeddings[drawn])


@dataclass(frozen=True)
class Batch:
    """The texts of a global batch, each once."""

    texts: NDArray[np.int64]
    """(n,) numbers of the texts, ascending."""
    queries: NDArray[np.int64]
    """(B,) positions in `texts`."""
    passages: NDArray[np.int64]
    """(P,) positions in `texts`."""
    positive: NDArray[np.int64]
    """(B,) positions in `passages`."""
    masked: NDArray[np.bool_]
    """(B, P) True for passages other than the positive that answer the query or are near duplicates of an answer."""
    held: NDArray[np.int64]
    """(n,) positions in `texts` of general texts; 0 of them where none are held."""
    targets: NDArray[np.float32]
    """(n, D) embeddings that the general texts are held to."""
    taught: NDArray[np.float32] | None = None
    """(B, P) a teacher's logits; NaN where it has none. None without a teacher."""


@dataclass(frozen=True)
class OtherModels:
    """What other models make of the texts of a collection; None where there is no such model."""

    guide: NDArray[np.float32] | None = None
    """(texts, D) unit embeddings. Passages that the guide finds nearer to a query than the query's positive are no
    negatives of this query (GISTEmbed, Solatorio 2024, arXiv:2402.16829)."""
    teacher: NDArray[np.float32] | None = None
    """(texts, D) embeddings whose dot products are the teacher's logits."""
    pair_scores: NDArray[np.float32] | None = None
    """(N, 1 + H) the teacher's logits of each row's positive and of its hard negatives; NaN where there is none."""


NO_OTHERS = OtherModels()
NOTHING_HELD = GeneralTexts(np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32))


def make_batch(
    collection: Collection,
    relevant: dict[int, NDArray[np.int64]],
    rows: NDArray[np.int64],
    hard_negatives: int,
    general: GeneralTexts = NOTHING_HELD,
    others: OtherModels = NO_OTHERS,
    candidates: NDArray[np.int64] | None = None,
) -> Batch:
    """Collect the distinct texts of some rows, and the passages that must not serve as negatives of a query.

    Args:
        relevant: from `pairs.relevant_passages`; a query's known answers in the whole collection, not only
            those in the batch, are masked, together with passages that are nearly the same text.
        hard_negatives: number of each row's negatives that join the batch, counted from the first.
        general: texts that are held to the base model's embeddings.
        others: what other models make of the collection's texts.
        candidates: (P,) ascending numbers of the passages that every query picks from, among them the positives and the
            negatives of the rows; None for those alone.
    """
    queries = collection.query[rows]
    negatives = collection.negatives[rows, :hard_negatives].ravel()
    passages = np.union1d(collection.positive[rows], negatives[negatives >= 0]) if candidates is None else candidates
    own = np.union1d(queries, passages)
    masked = _answers(collection, relevant, queries, passages)
    positive = np.searchsorted(passages, collection.positive[rows])
    if others.guide is not None:
        similar = others.guide[queries] @ others.guide[passages].T
        masked |= similar > similar[np.arange(len(rows)), positive][:, None]
    masked[np.arange(len(rows)), positive] = False
    return Batch(
        np.concatenate([own, general.texts]),
        np.searchsorted(own, queries),
        np.searchsorted(own, passages),
        positive,
        masked,
        held=np.arange(len(own), len(own) + len(general.texts)),
        targets=general.embeddings,
        taught=_taught(collection, rows, passages, hard_negatives, others),
    )


def _answers(
    collection: Collection,
    relevant: dict[int, NDArray[np.int64]],
    queries: NDArray[np.int64],
    passages: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Find which passages (P,) are known answers, or nearly such, of which queries (B,): (B, P)."""
    distinct, place = np.unique(queries, return_inverse=True)
    known = [relevant[query] for query in distinct.tolist()]
    groups = collection.near_group[np.concatenate(known)]
    asking = np.repeat(np.arange(len(distinct)), [len(each) for each in known])
    # of each answer, the passages of its group stand in one run
    own = collection.near_group[passages]
    by_group = np.argsort(own, kind="stable")
    starts, stops = (np.searchsorted(own[by_group], groups, side=side) for side in ("left", "right"))
    counts = stops - starts
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.zeros((len(distinct), len(passages)), dtype=np.bool_)
    found[np.repeat(asking, counts), by_group[np.repeat(starts, counts) + within]] = True
    answers: NDArray[np.bool_] = found[place]
    return answers


def _taught(
    collection: Collection,
    rows: NDArray[np.int64],
    passages: NDArray[np.int64],
    hard_negatives: int,
    others: OtherModels,
) -> NDArray[np.float32] | None:
    """Collect a teacher's logits of the passages of a batch, (B, P)."""
    if others.teacher is not None:
        logits: NDArray[np.float32] = others.teacher[collection.query[rows]] @ others.teacher[passages].T
        return logits
    if others.pair_scores is None:
        return None
    logits = np.full((len(rows), len(passages)), np.nan, dtype=np.float32)
    own = np.column_stack([collection.positive[rows], collection.negatives[rows, :hard_negatives]])
    place, column = np.nonzero(own >= 0)
    logits[place, np.searchsorted(passages, own[place, column])] = others.pair_scores[rows[place], column]
    return logits


def batches_of_epoch(
    config: TrainConfig, collection: Collection, rows: NDArray[np.int64], epoch: int
) -> list[NDArray[np.int64]]:
    """Draw the batches of one epoch as rows of the collection; `rows` (N,) are the training rows."""
    places = epoch_batches(
        collection.positive[rows],
        batch_size=config.batch_size,
        queries_per_passage=config.queries_per_passage,
        seed=config.seed,
        epoch=epoch,
    )
    return [rows[place] for place in places]


def epoch_batches(
    positive: NDArray[np.int64], *, batch_size: int, queries_per_passage: int, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Draw the batches of one epoch, of about equal size, with every row in exactly one batch.

    With `queries_per_passage` q > 1 the rows of a passage form as few groups of at most q rows as possible, whose sizes
    differ by at most one row. A group stays together, so that the passage, a long text, is encoded once for q queries.
    A passage's groups go to different batches, or are spread evenly if there are more groups than batches, so that no
    batch has more rows of one passage, or fewer distinct passages, than necessary. With q = 1 rows are drawn at random.

    Args:
        positive: (N,) number of each row's passage.
        batch_size: maximum number of rows in a batch, 2 q or more.
        queries_per_passage: q, at least 1.
        seed, epoch: the same pair gives the same batches.

    Returns:
        one array of row numbers per batch. The number of batches depends on neither seed nor epoch and is at most
        N / (batch_size - q), rounded up. Their sizes differ by no more than the size of the largest group.
    """
    generator = np.random.default_rng((seed, epoch))
    fewest = -(-len(positive) // batch_size)
    if queries_per_passage == 1:
        return np.array_split(generator.permutation(len(positive)), fewest)
    passages = _passage_groups(positive, queries_per_passage, generator)
    alike = [(sizes, len([*same])) for sizes, same in itertools.groupby(tuple(map(len, groups)) for groups in passages)]
    count = next(count for count in itertools.count(fewest) if _largest_batch(alike, count) <= batch_size)
    # as if rows had been dealt to every smaller number of batches too, which drew tie-breakers: the order stays
    drawn = sum(fewer + sum(map(len, passages)) for fewer in range(fewest, count))
    _advance(generator, drawn)
    batches = _assign_groups(passages, count, generator)
    return [batches[place] for place in generator.permutation(count)]


def _passage_groups(
    positive: NDArray[np.int64], most: int, generator: np.random.Generator
) -> list[list[NDArray[np.int64]]]:
    """Return each passage's groups of rows, largest first; passages with the largest groups first, ties at random."""
    rows = generator.permutation(len(positive))
    rows = rows[np.argsort(positive[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(positive[rows], prepend=-1))
    passages = [np.array_split(group, -(-len(group) // most)) for group in np.split(rows, starts[1:])]
    # passages with equally many rows are interchangeable, so this random order does not affect the batch sizes
    return sorted(
        (passages[place] for place in generator.permutation(len(passages))),
        key=lambda groups: (len(groups[0]), sum(map(len, groups))),
        reverse=True,
    )


def _advance(generator: np.random.Generator, drawn: int) -> None:
    """Leave a generator as it would be after so many draws from [0, 1)."""
    bits: Any = generator.bit_generator
    before = bits.state
    bits.advance(drawn)  # forgets half of a number that integers have left over
    bits.state = before | {"state": bits.state["state"]}


def _largest_batch(alike: Sequence[tuple[tuple[int, ...], int]], count: int) -> int:
    """Return the rows of the largest of `count` batches that `_assign_groups` makes.

    Which of several batches with equally many rows receives a group makes no difference to the sizes. So batches are
    counted by their rows, and passages that are alike are dealt together: the time does not grow with the rows.

    Args:
        alike: for each run of successive passages whose groups have the same sizes, these sizes and the number of
            passages.
    """
    batches = Counter({0: count})  # rows -> number of batches that hold so many
    for sizes, passages in alike:
        left = passages
        while left:
            emptiest = min(batches)
            if together := min(left, batches[emptiest] // len(sizes)):
                batches[emptiest] -= together * len(sizes)
                for size in sizes:
                    batches[emptiest + size] += together
            else:
                together = 1
                for start in range(0, len(sizes), count):
                    some = sizes[start : start + count]
                    by_rows = (rows for rows in sorted(batches) for _ in range(batches[rows]))
                    receiving = [*itertools.islice(by_rows, len(some))]
                    batches.subtract(receiving)
                    batches.update(rows + size for rows, size in zip(receiving, some, strict=True))
            left -= together
            batches = +batches  # without those of which none is left
    return max(batches)


def _assign_groups(
    passages: Sequence[Sequence[NDArray[np.int64]]], count: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Deal groups to `count` batches: a passage's groups go to different batches, those with the fewest rows.

    Two batches then never differ by more than the largest group, since only the emptiest batches ever grow.
    """
    batches: list[list[NDArray[np.int64]]] = [[] for _ in range(count)]
    # random numbers that decide between batches of equal size
    tie_breakers = iter(generator.random(count + sum(map(len, passages))).tolist())
    emptiest = [(0, next(tie_breakers), batch) for batch in range(count)]
    heapq.heapify(emptiest)
    for groups in passages:
        for start in range(0, len(groups), count):
            some = groups[start : start + count]
            for group, (rows, _, batch) in [(group, heapq.heappop(emptiest)) for group in some]:
                batches[batch].append(group)
                heapq.heappush(emptiest, (rows + len(group), next(tie_breakers), batch))
    return [np.concatenate(groups) for groups in batches]
