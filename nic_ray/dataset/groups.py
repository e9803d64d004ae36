"""Which rows stay on one side of a split: those about one passage or nearly the same one, and those of one document."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.data_config import DataConfig
from nic_ray.dataset.columns import found_names
from nic_ray.dataset.formats import FORMATS, files_of, format_named
from nic_ray.dataset.pairs import Collection, Pair
from nic_ray.errors import InputError
from nic_ray.protocol import BY_DOCUMENT, BY_PASSAGE, unit_of_groups
from nic_ray.sources import is_hub, shown


def groups_of(collection: Collection, group_by: str) -> NDArray[np.int64]:
    """Number the groups of rows that stay together.

    They are the connected components of "about passages that are nearly the same" and "of one document": two documents
    that share a passage are one group, with all of their passages.

    Args:
        collection: N rows.
        group_by: as `data.group_by`; by "passage" documents count for nothing.

    Returns:
        (N,) the same number for rows of a group. By passage it is that of the group of near duplicates.
    """
    passages = collection.near_group[collection.positive]
    if group_by == BY_PASSAGE or not len(passages):
        return passages
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    documents = document_numbers(collection)
    rows, first = np.flatnonzero(documents >= 0), int(passages.max()) + 1
    links = (passages[rows], first + documents[rows])
    size = first + int(documents.max()) + 1
    linked = sparse.coo_array((np.ones(len(rows), np.int8), links), shape=(size, size))
    groups: NDArray[np.int64] = connected_components(linked, directed=False)[1].astype(np.int64)[passages]
    return groups


def document_numbers(collection: Collection) -> NDArray[np.int64]:
    """(N,) number of each row's document, by first appearance; -1 where a row names none."""
    names = collection.documents or (None,) * len(collection.query)
    numbers: dict[str, int] = {}
    return np.array([-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def with_documents(pairs: Sequence[Pair], group_by: str) -> Sequence[Pair]:
    """Let sections stand for documents where no row names its document, and `group_by` names no column."""
    by_column = group_by not in (BY_PASSAGE, BY_DOCUMENT)
    if by_column or any(pair.document is not None for pair in pairs):
        return pairs
    sections = [pair.source_section if (pair.source_section or "").strip() else None for pair in pairs]
    if not any(sections):
        return pairs
    return [replace(pair, document=section) for pair, section in zip(pairs, sections, strict=True)]


def refuse_without_documents(pairs: Sequence[Pair], data: DataConfig) -> None:
    """Check that some row names what the rows are to be grouped by.

    Args:
        pairs: the rows of `data.pairs`.

    Raises:
        InputError: no row does.
    """
    if data.group_by == BY_PASSAGE or any(pair.document is not None for pair in with_documents(pairs, data.group_by)):
        return
    lacks = "and no row names one"
    if data.group_by != BY_DOCUMENT:
        lacks = "and no row has text, a number, true or false in that column"
    columns = list(dict.fromkeys(name for path in files_of(data.pairs) for name in _columns_in(path, data.format)))
    raise InputError(
        f"{shown(data.pairs)}: data.group_by is {data.group_by}, {lacks} ({found_names(columns)})"
        "; name the column of the documents, data.group_by: NAME, or write data.group_by: passage"
    )


def describe_groups_of(
    collection: Collection, groups: NDArray[np.int64], data: DataConfig, read: Sequence[Pair]
) -> Iterator[str]:
    """Tell the user, line by line, by what rows were grouped, if not by passage, and which rows could not be.

    Args:
        groups: (N,) from `groups_of`.
        read: the rows of the file, as they were read.
    """
    group_by = data.group_by
    if group_by == BY_PASSAGE:
        return
    numbers, unit = document_numbers(collection), unit_of_groups(group_by)
    kept = "each on one side of the split" if data.splits == "made" else "which count once each in intervals"
    yield (
        f"grouped by {group_by}{_by_section(read, group_by)}: {numbers.max(initial=-1) + 1:,} {unit}; with passages "
        f"that are nearly the same they make {len(np.unique(groups)):,} groups, {kept}"
    )
    if without := int(np.count_nonzero(numbers < 0)):
        yield f"{without:,} of {len(numbers):,} rows name none of them, and are grouped by passage alone"


def describe_documents(pairs: Sequence[Pair]) -> Iterator[str]:
    """Tell the user how many documents the rows name, and whether a split by passage may divide any of them."""
    passages: dict[str, set[str]] = {}
    for pair in with_documents(pairs, BY_DOCUMENT):
        if pair.document is not None:
            passages.setdefault(pair.document, set()).add(pair.positive)
    if not passages:
        return
    named = f"the rows name {len(passages):,} document{'s' if len(passages) > 1 else ''}"
    named += _by_section(pairs, BY_DOCUMENT)
    several = sum(len(texts) > 1 for texts in passages.values())
    if not several:
        yield f"{named}, with one passage each"
        return
    yield (
        f"{named}, {several:,} of them with several passages, which may come to lie on two sides of the split; "
        "data.group_by: document keeps them together"
    )


def _by_section(read: Sequence[Pair], group_by: str) -> str:
    """Say that sections stand for documents, if they do; else nothing."""
    stands = group_by == BY_DOCUMENT and all(pair.document is None for pair in read)
    return " (source_section)" if stands else ""


def _columns_in(path: Path, asked: str | None) -> list[str]:
    """Return the names of the columns of a file that has been read before."""
    if is_hub(path):
        return []
    name = format_named(path, asked)
    if name == "jsonl":
        with path.open(encoding="utf-8-sig") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        return list(dict.fromkeys(key for row in rows for key in row))
    names, found = FORMATS[name].read(path)
    if names is not None:
        return list(names)
    return list(dict.fromkeys(key for _, row in found if isinstance(row, dict) for key in row))
