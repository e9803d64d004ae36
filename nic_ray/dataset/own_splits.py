"""The splits that rows came with: of BEIR's qrels, of a data set, in a column, or as the names of files."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.beir_files import QRELS, splits_of
from nic_ray.dataset.formats import DATASETS, FORMATS, Fault, Format, Rows, beir_rows, splits_saved
from nic_ray.dataset.hub import columns_of, rows_of_split, splits_on_hub
from nic_ray.errors import InputError
from nic_ray.sources import is_hub

if TYPE_CHECKING:
    from nic_ray.dataset.pairs import Pair

COLUMN = "split"
NAMED = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""The names that data sets give to their splits, and the parts that these are."""
WANT = "train, validation (or dev) and test"
OTHERWISE = "or have the rows split here with data.splits: made"
KEPT = "or keep them with data.splits: own (nic_ray.check: --splits own)"


def part_named(name: str) -> str | None:
    """Return the part that a split's name stands for; None if it stands for none."""
    return NAMED.get(name.strip().casefold())


def source_of(path: Path, name: str, *, own_splits: bool) -> Format:
    """Return how a file, a folder or a data set of the hub is read.

    Args:
        name: its format in `FORMATS`, which a data set of the hub has not.
        own_splits: whether the rows are to name the splits that they came with, where these are no column.
    """
    if is_hub(path):
        return Format((), "row", _read_hub_splits if own_splits else _read_hub)
    if own_splits and name == "beir":
        return Format((), "row", _read_beir_splits)
    if name == "datasets" and (path / DATASETS).exists():
        return Format((), "row", _read_saved_splits if own_splits else _refuse_saved_splits)
    return FORMATS[name]


def _read_hub(path: Path) -> tuple[Sequence[str], Rows]:
    try:
        splits = splits_on_hub(path)
    except InputError as error:
        return _at_fault(str(error).removeprefix(f"{path}: "))
    if len(splits) != 1:
        named = ", ".join(f"{path}:{split}" for split in splits)
        return _at_fault(f"holds several splits; name one of {named}, {KEPT}")
    (table,) = splits.values()
    return columns_of([table]), enumerate(rows_of_split(table), start=1)


def _read_hub_splits(path: Path) -> tuple[Sequence[str], Rows]:
    try:
        splits = splits_on_hub(path)
    except InputError as error:
        return _at_fault(str(error).removeprefix(f"{path}: "))
    names, tables = columns_of([*splits.values()]), splits.items()
    if len(splits) == 1 and COLUMN in names:
        return names, enumerate(rows_of_split(*splits.values()), start=1)
    rows = ({**row, COLUMN: split} for split, table in tables if part_named(split) for row in rows_of_split(table))
    return [*names, COLUMN], enumerate(rows, start=1)


def _read_beir_splits(path: Path) -> tuple[Sequence[str], Rows]:
    splits = splits_of(path)
    if not any(map(part_named, splits)):
        return _at_fault(f"its {QRELS} hold {', '.join(splits) or 'nothing'}; want {WANT}, {OTHERWISE}")
    rows = beir_rows(path, [*filter(part_named, splits)])
    return ["query", "positive", "score", COLUMN], ((place, {**row, COLUMN: split}) for place, split, row in rows)


def _read_saved_splits(path: Path) -> tuple[Sequence[str], Rows]:
    read = {split: FORMATS["datasets"].read(path / split) for split in splits_saved(path) if part_named(split)}
    names = dict.fromkeys(name for columns, _ in read.values() for name in columns or ())
    return [*names, COLUMN], _numbered(read)


def _refuse_saved_splits(path: Path) -> tuple[Sequence[str], Rows]:
    names, rows = FORMATS["datasets"].read(path)
    faults = ((at, row.message) for at, row in rows if isinstance(row, Fault))
    return names or [], ((at, Fault(f"{said}, {KEPT}" if "several splits" in said else said)) for at, said in faults)


def _numbered(read: Mapping[str, tuple[Sequence[str] | None, Rows]]) -> Rows:
    place = 0
    for split, (_, rows) in read.items():
        for _, row in rows:
            place += 1
            yield place, Fault(f"split {split}: {row.message}") if isinstance(row, Fault) else {**row, COLUMN: split}


def _at_fault(message: str) -> tuple[Sequence[str], Rows]:
    return [], iter([(0, Fault(message))])


def split_of_file(path: Path) -> str | None:
    """Return the part that a file is, by its name; None where it is named otherwise."""
    return None if path.is_dir() else part_named(path.stem)


def names_of_splits(files: Sequence[Path]) -> Iterator[str]:
    """Tell the user that files seem to be splits, where their rows are split anew."""
    named = [file.stem for file in files if split_of_file(file)]
    if len({*map(part_named, named)}) > 1:
        yield f"files are named {', '.join(named)}: data.splits: own keeps them as the parts that they are"


def without_splits(names: Sequence[str]) -> str:
    """Say that a file's rows came with no splits, and the way out."""
    found = f"found: {', '.join(map(str, list(names)[:12]))}" if names else "found: nothing"
    return (
        f'came with no splits (data.splits: own): it has no column "{COLUMN}" ({found}) and is not named {WANT}; '
        f"add that column, {OTHERWISE}"
    )


def parts_of(pairs: Sequence["Pair"]) -> NDArray[np.str_]:
    """Return the part that each row came with, (N,).

    Raises:
        InputError: no row is of a part, or none of a domain is.
    """
    parts = np.array([pair.split or "" for pair in pairs], dtype="<U14")
    counts = Counter(parts.tolist())
    wanted = list(dict.fromkeys(NAMED.values()))
    if missing := [part for part in wanted if not counts[part]]:
        found = ", ".join(f"{counts[part]:,} {part}" for part in wanted if counts[part]) or "none"
        raise InputError(
            f"data.splits: own: no row is for {' and none for '.join(missing)} (rows: {found}); want rows for {WANT}, "
            f"as qrels/*.tsv of a BEIR folder or in a column {COLUMN}, {OTHERWISE}"
        )
    if alone := list(_domains_without(pairs, parts, wanted)):
        more = f" (and {len(alone) - 1} domains more)" if len(alone) > 1 else ""
        raise InputError(
            f"data.splits: own: {alone[0]}{more}; each domain is measured by rows of its own: give such domains one "
            f"name, leave them out, {OTHERWISE}"
        )
    return parts


def describe_parts(pairs: Sequence["Pair"]) -> Iterator[str]:
    """Say how many rows came with which split, if any did."""
    counts = Counter(pair.split for pair in pairs)
    if listed := [f"{counts[part]:,} {part}" for part in dict.fromkeys(NAMED.values()) if counts[part]]:
        yield f"rows by their own splits: {', '.join(listed)}"


def _domains_without(pairs: Sequence["Pair"], parts: NDArray[np.str_], wanted: Sequence[str]) -> Iterator[str]:
    of_domain: dict[str, set[str]] = {}
    for pair, part in zip(pairs, parts.tolist(), strict=True):
        of_domain.setdefault(pair.domain, set()).add(part)
    for domain, found in sorted(of_domain.items()):
        if missing := [part for part in wanted if part not in found]:
            yield f'domain "{domain}" has no row for {" and none for ".join(missing)}'
