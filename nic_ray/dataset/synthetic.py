"""Synthetic rows beside others: these alone are held back, and synthetic rows that would tell of them are left out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from nic_ray.data_config import DataConfig
from nic_ray.dataset.groups import groups_of, with_documents
from nic_ray.dataset.pairs import Collection, Pair, index_pairs
from nic_ray.dataset.split import Part, sample_rows
from nic_ray.protocol import by_passage

HELD_BACK = ("validation", "test")
"""The parts whose passages are not trained on; those of "unseen_queries" are."""
DOMAINS_NAMED = 10
"""Number of domains without other rows that are named."""


def are_apart(pairs: Sequence[Pair], data: DataConfig) -> bool:
    """Whether synthetic rows are kept out of what is held back: by `data.synthetic`, where there are others."""
    return data.synthetic == "train_only" and len({pair.synthetic for pair in pairs}) > 1


def is_measured(collection: Collection, data: DataConfig) -> NDArray[np.bool_]:
    """(N,) which rows may be held back: all of them, or where synthetic rows are kept apart the others."""
    synthetic = collection.synthetic
    if data.synthetic == "as_others" or synthetic is None or synthetic.all():
        return np.ones(len(collection.query), np.bool_)
    return ~synthetic


def with_documents_of(synthetic: Sequence[Pair], others: Sequence[Pair], group_by: str) -> Sequence[Pair]:
    """Return synthetic rows grouped by what the others are: sections stand for documents where they do there."""
    if with_documents(others, group_by) is not others:
        synthetic = [replace(pair, document=None) for pair in synthetic]
    return with_documents(synthetic, group_by)


def trained_beside(
    others: Sequence[Pair], parts: NDArray[np.str_], synthetic: Sequence[Pair], data: DataConfig
) -> NDArray[np.bool_]:
    """Find the synthetic rows that can be trained on without telling of what is held back.

    Left out are rows whose passage, or document if rows are grouped by document, is that of a validation or test row,
    exactly or nearly; and rows with the question of a row in "unseen_queries". With the protocol "unseen_queries", a
    question alone is held back.

    Args:
        others: N rows.
        parts: (N,) the part of each.
        synthetic: n rows.

    Returns:
        (n,) True for those that are trained on.
    """
    whole, count = index_pairs([*others, *synthetic]), len(others)
    groups = groups_of(whole, data.group_by) if by_passage(data.protocol) else whole.query
    told = np.isin(groups[count:], groups[:count][np.isin(parts, HELD_BACK)])
    told |= np.isin(whole.query[count:], whole.query[:count][parts == "unseen_queries"])
    return ~told


def sampled_beside(others: Sequence[Pair], kept: NDArray[np.int64], synthetic: Sequence[Pair], data: DataConfig) -> (
    NDArray[np.bool_]
):  # fmt: skip
    """Find the synthetic rows that go with a sample of the others.

    Rows about a passage of the others are used as these are; of further passages, the same share is.

    Args:
        others: N rows, of which those with the numbers `kept` are used.
        synthetic: n rows.

    Returns:
        (n,) True for those that are used.
    """
    whole, count = index_pairs([*others, *synthetic]), len(others)
    groups = groups_of(whole, data.group_by)
    used = np.isin(groups[count:], groups[:count][kept])
    further = np.flatnonzero(~np.isin(groups[count:], groups[:count]))
    domains = [synthetic[row].domain for row in further.tolist()]
    drawn = sample_rows(groups[count:][further], domains, share=data.sample_share, seed=data.seed)
    used[further[drawn]] = True
    return used


def describe_synthetic(collection: Collection, parts: NDArray[np.str_], read: Sequence[Pair], data: DataConfig) -> (
    Iterator[str]
):  # fmt: skip
    """Tell the user, line by line, what becomes of synthetic rows; nothing if none was read.

    Args:
        collection: N used rows.
        parts: (N,) the part of each.
        read: the rows of the file, as they were read.
    """
    synthetic, texts = collection.synthetic, collection.texts
    among = sum(pair.synthetic for pair in read)
    if synthetic is None and not among:
        return
    marks = np.zeros(len(parts), np.bool_) if synthetic is None else synthetic
    if marks.all():
        yield f"all {len(parts):,} rows are synthetic: what is measured are questions made from the passages themselves"
        return
    counts = Counter(parts[marks].tolist())
    listed = ", ".join(f"{counts[part]:,} {part}" for part in get_args(Part) if counts[part]) or "none is used"
    rule = "the other rows alone are held back" if data.synthetic == "train_only" else "split as the others are"
    yield f"synthetic rows: {listed} (data.synthetic: {data.synthetic}; {rule})"
    used = {
        (texts[query], texts[positive], domain)
        for query, positive, domain in zip(
            collection.query.tolist(), collection.positive.tolist(), collection.domains, strict=True
        )
    }
    left_out = sum(pair.synthetic and (pair.query, pair.positive, pair.domain) not in used for pair in read)
    if left_out:
        sampled = " or not of the sample" if data.sample_share < 1 else ""
        why = "came with a held-back part" if data.splits == "own" else "are about passages or questions held back"
        yield f"{left_out:,} further synthetic rows are left out: they {why}{sampled}"
    names = np.asarray(collection.domains, np.str_)
    if data.synthetic == "train_only" and (alone := sorted({*names[marks].tolist()} - {*names[~marks].tolist()})):
        more = f" and {len(alone) - DOMAINS_NAMED} more" if len(alone) > DOMAINS_NAMED else ""
        yield (
            f"domains with synthetic rows alone, which are trained on and not measured: "
            f"{', '.join(alone[:DOMAINS_NAMED])}{more}"
        )
