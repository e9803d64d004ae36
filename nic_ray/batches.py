"""Which rows make up each batch of an epoch."""

import numpy as np
from numpy.typing import NDArray


def epoch_batches(
    positive: NDArray[np.int64], *, batch_size: int, queries_per_passage: int, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Draw the batches of one epoch: every row in exactly one of them.

    With `queries_per_passage` q > 1, up to q rows of one passage come together and a batch holds
    batch_size / q different passages: each of these long texts is encoded once for q queries, and no
    second copy of it is met. With q = 1 rows are drawn at random.

    Args:
        positive: (N,) number of each row's passage.
        batch_size: rows in a batch at most, a multiple of `queries_per_passage`.
        seed, epoch: the same two give the same batches.

    Returns:
        arrays of row numbers. The number of batches is the same for every epoch and seed; their sizes
        in groups differ by one at most, so that no batch is left with a handful of negatives.
    """
    generator = np.random.default_rng((seed, epoch))
    if queries_per_passage == 1:
        groups = [np.array([row]) for row in generator.permutation(len(positive))]
    else:
        groups = _passage_groups(positive, queries_per_passage, generator)
    per_batch = batch_size // queries_per_passage
    parts = np.array_split(np.arange(len(groups)), -(-len(groups) // per_batch))
    if queries_per_passage > 1:
        groups = _apart(groups, positive, [len(part) for part in parts])
    return [np.concatenate([groups[group] for group in part]) for part in parts]


def _passage_groups(positive: NDArray[np.int64], size: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Groups of up to `size` rows of one passage, in rounds: a passage's second group after all first ones."""
    rows = generator.permutation(len(positive))
    rows = rows[np.argsort(positive[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(positive[rows], prepend=-1))
    rounds: dict[int, list[NDArray[np.int64]]] = {}
    for own in np.split(rows, starts[1:]):
        for number, start in enumerate(range(0, len(own), size)):
            rounds.setdefault(number, []).append(own[start : start + size])
    return [members[place] for _, members in sorted(rounds.items()) for place in generator.permutation(len(members))]


def _apart(groups: list[NDArray[np.int64]], positive: NDArray[np.int64], sizes: list[int]) -> list[NDArray[np.int64]]:
    """Reorder groups so that those of one batch are of different passages, as far as there are enough.

    Two groups of a passage can only meet where one round ends and the next begins; the later one then
    waits for the next batch.
    """
    waiting = list(groups)
    ordered: list[NDArray[np.int64]] = []
    for size in sizes:
        seen: set[int] = set()
        chosen: list[NDArray[np.int64]] = []
        deferred: list[NDArray[np.int64]] = []
        for place, group in enumerate(waiting):
            if len(chosen) == size:
                deferred.extend(waiting[place:])
                break
            passage = int(positive[group[0]])
            (deferred if passage in seen else chosen).append(group)
            seen.add(passage)
        missing = size - len(chosen)
        ordered.extend(chosen + deferred[:missing])
        waiting = deferred[missing:]
    return ordered
