"""The rows that a run uses, each in a part: split here, or by the splits that they came with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nic_ray.data_config import DataConfig
from nic_ray.dataset.groups import groups_of, with_documents
from nic_ray.dataset.own_splits import parts_of
from nic_ray.dataset.pairs import Collection, Pair, index_pairs
from nic_ray.dataset.split import hold_back_queries, refuse_few_groups, sample_rows, split_rows
from nic_ray.dataset.synthetic import HELD_BACK, are_apart, sampled_beside, trained_beside, with_documents_of
from nic_ray.errors import InputError
from nic_ray.protocol import BY_PASSAGE, by_passage, unit_of_groups


@dataclass(frozen=True)
class Division:
    """The rows that a run uses, with their parts."""

    collection: Collection
    """N rows, in the order in which they were read."""
    parts: NDArray[np.str_]
    """(N,) "train", "validation", "test" or "unseen_queries"."""
    rows: NDArray[np.int64]
    """(N,) number of each row among all that were read."""


def divide(pairs: Sequence[Pair], data: DataConfig) -> tuple[Collection, NDArray[np.str_]]:
    """Select the rows that a run uses, and assign each of them to a part; see `divided_rows`."""
    division = divided_rows(pairs, data)
    return division.collection, division.parts


def divided_rows(pairs: Sequence[Pair], data: DataConfig) -> Division:
    """Select the rows that a run uses, and assign each of them to a part.

    Where synthetic rows are kept apart, the others are used and split as they would be without them, and those
    synthetic rows are trained on that tell nothing of what is held back.

    Args:
        pairs: all rows of the file.
        data: settings for the share of the passages to use, and for the split of their rows, which may be their own.
            What stays together is the same group in both, by `data.group_by`.

    Raises:
        InputError: a domain has too few groups to split, or a part or a domain's part has no row of its own.
    """
    if not are_apart(pairs, data):
        return _divided(with_documents(pairs, data.group_by), data)
    synthetic = np.array([pair.synthetic for pair in pairs])
    numbers = {mark: np.flatnonzero(synthetic == mark) for mark in (False, True)}
    read = [pairs[row] for row in numbers[False].tolist()]
    others = with_documents(read, data.group_by)
    further = with_documents_of([pairs[row] for row in numbers[True].tolist()], read, data.group_by)
    try:
        division = _divided(others, data)
    except InputError as error:
        raise InputError(
            f"{error}\n  These are the rows that are not synthetic, which alone are held back; write more of them, or "
            "have all rows split alike with data.synthetic: as_others"
        ) from None
    kept, parts = division.rows, division.parts
    chosen = [others[row] for row in kept.tolist()]
    if data.splits == "own":
        trained = np.array([pair.split not in HELD_BACK for pair in further])
    else:
        trained = trained_beside(chosen, parts, further, data)
    if data.sample_share < 1:
        trained &= sampled_beside(others, kept, further, data)
    rows = np.concatenate([numbers[False][kept], numbers[True][trained]])
    order = np.argsort(rows)
    together = [*chosen, *(pair for pair, used in zip(further, trained.tolist(), strict=True) if used)]
    of_all = np.concatenate([parts, np.full(np.count_nonzero(trained), "train", parts.dtype)])
    return Division(index_pairs([together[place] for place in order.tolist()]), of_all[order], rows[order])


def _divided(pairs: Sequence[Pair], data: DataConfig) -> Division:
    """Divide rows without regard to which of them are synthetic."""
    kept = np.arange(len(pairs))
    collection = index_pairs(pairs)
    groups = groups_of(collection, data.group_by)
    if data.sample_share < 1:
        kept = sample_rows(groups, collection.domains, share=data.sample_share, seed=data.seed)
        collection = index_pairs([pairs[row] for row in kept.tolist()])
        groups = groups_of(collection, data.group_by)
    if data.splits == "own":
        return Division(collection, parts_of([pairs[row] for row in kept.tolist()]), kept)
    if data.group_by != BY_PASSAGE:
        refuse_few_groups(groups, collection.domains, unit=unit_of_groups(data.group_by))
    parts = split_rows(
        collection.query,
        groups,
        collection.domains,
        validation_share=data.validation_share,
        test_share=data.test_share,
        seed=data.seed,
        protocol=data.protocol,
    )
    if by_passage(data.protocol):
        parts = hold_back_queries(
            collection.query,
            collection.positive,
            collection.domains,
            parts,
            share=data.query_share,
            seed=data.seed,
        )
    return Division(collection, parts, kept)
