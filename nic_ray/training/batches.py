"""Which rows make up each batch of an epoch, and what the loss is taken over in one."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.config import TrainConfig
from nic_ray.dataset.pairs import Collection


@dataclass(frozen=True)
class Batch:
    """The texts of a global batch, each once.

    texts: (n,) ascending; queries, positive, passages: places in `texts`, (B,), (B,) in passages, (P,).
    masked: (B, P) bool, passages that answer the query besides its own, or nearly do.
    """

    texts: NDArray[np.int64]
    queries: NDArray[np.int64]
    passages: NDArray[np.int64]
    positive: NDArray[np.int64]
    masked: NDArray[np.bool_]


def make_batch(
    collection: Collection,
    relevant: dict[int, NDArray[np.int64]],
    rows: NDArray[np.int64],
    hard_negatives: int,
) -> Batch:
    """The distinct texts of some rows, and which passages must not be a query's negatives.

    Args:
        relevant: from `pairs.relevant_passages`: a query's known answers are masked, in the whole
            collection's sense, not only the batch's, and with them what is nearly the same text.
        hard_negatives: of a row's own negatives, the first so many join.
    """
    queries = collection.query[rows]
    negatives = collection.negatives[rows, :hard_negatives].ravel()
    passages = np.union1d(collection.positive[rows], negatives[negatives >= 0])
    texts = np.union1d(queries, passages)
    near = collection.near[passages]
    answers = {query: np.isin(near, collection.near[relevant[query]]) for query in set(queries.tolist())}
    masked = np.stack([answers[query] for query in queries.tolist()])
    positive = np.searchsorted(passages, collection.positive[rows])
    masked[np.arange(len(rows)), positive] = False
    return Batch(texts, np.searchsorted(texts, queries), np.searchsorted(texts, passages), positive, masked)


def batches_of_epoch(
    config: TrainConfig, collection: Collection, rows: NDArray[np.int64], epoch: int
) -> list[NDArray[np.int64]]:
    """The batches of one epoch as rows of the collection; `rows` (N,) are those that train."""
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
    """Draw the batches of one epoch: every row in exactly one of them, all of about the same size.

    With `queries_per_passage` q > 1 the rows of a passage form as few groups of at most q as they can, equal but for
    one row, and a group stays together: each of these long texts is encoded once for q queries. A passage's groups go
    to different batches, or are spread evenly where it has more groups than there are batches, so that no batch holds
    more copies of one passage, or fewer different ones, than it must. With q = 1 rows are drawn at random.

    Args:
        positive: (N,) number of each row's passage.
        batch_size: rows in a batch at most, 2 q or more.
        queries_per_passage: q, at least 1.
        seed, epoch: the same two give the same batches.

    Returns:
        arrays of row numbers. How many there are depends on neither seed nor epoch: at most N / (batch_size - q),
        rounded up. Their sizes differ by no more than the largest group.
    """
    generator = np.random.default_rng((seed, epoch))
    fewest = -(-len(positive) // batch_size)
    if queries_per_passage == 1:
        return np.array_split(generator.permutation(len(positive)), fewest)
    passages = _passage_groups(positive, queries_per_passage, generator)
    count = fewest
    while max(map(len, batches := _dealt(passages, count, generator))) > batch_size:
        count += 1
    return [batches[place] for place in generator.permutation(count)]


def _passage_groups(
    positive: NDArray[np.int64], most: int, generator: np.random.Generator
) -> list[list[NDArray[np.int64]]]:
    """Each passage's groups of rows, the larger ones first; passages with the largest groups first, else at random."""
    rows = generator.permutation(len(positive))
    rows = rows[np.argsort(positive[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(positive[rows], prepend=-1))
    passages = [np.array_split(own, -(-len(own) // most)) for own in np.split(rows, starts[1:])]
    # passages of equally many rows are alike, so what is drawn here does not move the sizes of the batches
    return sorted(
        (passages[place] for place in generator.permutation(len(passages))),
        key=lambda groups: (len(groups[0]), sum(map(len, groups))),
        reverse=True,
    )


def _dealt(
    passages: Sequence[Sequence[NDArray[np.int64]]], count: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Deal groups to `count` batches: those of a passage to the batches with the fewest rows, each to another.

    Two batches then never differ by more than the largest group: the k fullest were among the emptiest before.
    """
    batches: list[list[NDArray[np.int64]]] = [[] for _ in range(count)]
    luck = iter(generator.random(count + sum(map(len, passages))).tolist())  # decides between batches of equal size
    emptiest = [(0, next(luck), batch) for batch in range(count)]
    heapq.heapify(emptiest)
    for groups in passages:
        for start in range(0, len(groups), count):
            some = groups[start : start + count]
            for group, (rows, _, batch) in [(group, heapq.heappop(emptiest)) for group in some]:
                batches[batch].append(group)
                heapq.heappush(emptiest, (rows + len(group), next(luck), batch))
    return [np.concatenate(groups) for groups in batches]
