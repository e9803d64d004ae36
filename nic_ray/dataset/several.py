"""Several files of pairs that are read together: their rows in order, each of those that they share once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nic_ray.dataset.problems import Problem

if TYPE_CHECKING:
    from nic_ray.dataset.pairs import Pair


def joined(files: Sequence[tuple[str, Sequence["Pair"]]]) -> tuple[list["Pair"], list[str]]:
    """Join the rows of files; a row that stands in an earlier file too counts once.

    Rows are the same by query, passage, domain, negatives and the split that they came with. What only a later one
    says, its document, section, score or kind, the first one is given; it is synthetic only if all of them are. Those
    that a file holds several times stay, as they do where a file is read alone.

    Returns:
        the rows, with their files, and with lines that count on through all files; and how many were left out of which
        file, for the user.
    """
    rows: list[Pair] = []
    notes: list[str] = []
    known: dict[tuple[object, ...], list[int]] = {}
    before = 0
    for file, pairs in files:
        again, differing = list["Pair"](), 0
        fresh: dict[tuple[object, ...], list[int]] = {}
        for pair in pairs:
            if (essence := _essence(pair)) in known:
                again.append(pair)
                differing += sum(_completed(rows, place, pair) for place in known[essence]) > 0
            else:
                fresh.setdefault(essence, []).append(len(rows))
                rows.append(replace(pair, file=file, number=pair.line, line=before + pair.line))
        before += max((pair.line for pair in pairs), default=0)
        known |= fresh
        if again:
            stand, counts = ("stands", "counts") if len(again) == 1 else ("stand", "count")
            notes.append(f"{_number_of(again)} of {file} {stand} in an earlier file too, and {counts} once")
        if differing:
            notes.append(
                f"{differing:,} of them name{'s' * (differing == 1)} another document, section, score or kind than the "
                "earlier file, which counts"
            )
    return rows, notes


def _completed(rows: list["Pair"], place: int, again: "Pair") -> bool:
    """Give a row what only its repetition in another file says; return whether the two differ in what both say."""
    row, differs = rows[place], False
    unsaid_values = {"document": None, "source_section": None, "score": 1.0, "kind": None, "cut_from": None}
    for name, unsaid in unsaid_values.items():
        said, more = getattr(row, name), getattr(again, name)
        if said == unsaid:
            row = replace(row, **{name: more})
        differs |= unsaid not in (said, more) and said != more
    # a person has asked it too
    rows[place] = replace(row, synthetic=row.synthetic and again.synthetic)
    return differs


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
