"""Several files of pairs that are read together: their rows in order, each of those that they share once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nic_ray.dataset.problems import Problem

if TYPE_CHECKING:
    from nic_ray.dataset.pairs import Pair


def joined(files: Sequence[tuple[str, Sequence["Pair"]]]) -> tuple[list["Pair"], list[str]]:
    """Join the rows of files; a row that stands in an earlier file too counts once.

    Rows are the same by query, passage, domain, negatives and the split that they came with. Those that a file holds
    several times stay, as they do where a file is read alone.

    Returns:
        the rows, with their files, and with lines that count on through all files; and how many were left out of which
        file, for the user.
    """
    rows: list[Pair] = []
    repeated: list[str] = []
    known: set[tuple[object, ...]] = set()
    before = 0
    for file, pairs in files:
        is_known = [_essence(pair) in known for pair in pairs]
        fresh = [pair for pair, is_there in zip(pairs, is_known, strict=True) if not is_there]
        again = [pair for pair, is_there in zip(pairs, is_known, strict=True) if is_there]
        rows += [replace(pair, file=file, number=pair.line, line=before + pair.line) for pair in fresh]
        before += max((pair.line for pair in pairs), default=0)
        known |= {*map(_essence, fresh)}
        if again:
            stand, counts = ("stands", "counts") if len(again) == 1 else ("stand", "count")
            repeated.append(f"{_number_of(again)} of {file} {stand} in an earlier file too, and {counts} once")
    return rows, repeated


def _number_of(pairs: Sequence["Pair"]) -> str:
    """Say how many pairs these are, and of how many lines if these are fewer; a pair a line is a row."""
    lines = len({pair.line for pair in pairs})
    if lines == len(pairs):
        return f"{lines:,} row{'s' * (lines > 1)}"
    return f"{len(pairs):,} pairs in {lines:,} {pairs[0].unit}{'s' * (lines > 1)}"


def columns_of_no_file(columns: Mapping[str, str], named: Sequence[frozenset[str]]) -> list[Problem]:
    """List the columns that the user names and that no file has.

    Args:
        columns: field -> the column that the user names for it.
        named: those of these columns that each file has.
    """
    return [
        Problem(
            0,
            f'no file has a column "{column}", which is named for {field}; name one that a file has (python -m '
            "nic_ray.check FILE, with the same --columns, lists those of one file)",
        )
        for field, column in columns.items()
        if not any(column in names for names in named)
    ]


def _essence(pair: "Pair") -> tuple[object, ...]:
    return pair.query, pair.positive, pair.domain, pair.negatives, pair.split
