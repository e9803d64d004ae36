"""Where the rows of a file hold the fields of a pair: in columns, or as one value for all rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nic_ray.dataset.columns import FIELDS, Columns, UnknownColumn, domain_named_after, match_columns, own_columns
from nic_ray.dataset.form import Form
from nic_ray.dataset.own_splits import COLUMN, split_of_file, without_splits


@dataclass(frozen=True)
class Fields:
    """Where the rows of a file hold the fields of a pair."""

    columns: Columns | None
    """None where the fields have their own names."""
    added: Mapping[str, str]
    """Fields that no column holds -> their value in every row."""
    named: frozenset[str] = frozenset()
    """The columns that the user names and that the file has."""

    def of(self, row: Any) -> Any:
        """Return a row with the names of the fields; what is no object is returned as it is."""
        if self.columns is None or not isinstance(row, dict):
            return row
        return {**self.columns.fields_of(row), **self.added}

    def notes(self) -> list[str]:
        """Say what the user should know about it."""
        domain = self.added.get("domain")
        alone = [] if domain is None else [f'no column holds domains: all rows are of one, "{domain}"']
        return [*(self.columns.notes() if self.columns else ()), *alone]


def find_fields(path: Path, names: Sequence[str], form: Form) -> Fields:
    """Find the fields among the columns of a file.

    Raises:
        UnknownColumn: a column that is needed is not there.
    """
    given = form.columns_among(names)
    columns, added = match_columns(names, given), dict[str, str]()
    if form.own_splits:
        if column := next((name for name in names if name.casefold().strip() == COLUMN), None):
            columns = Columns({**columns.of, COLUMN: (column,)})
        elif part := split_of_file(path):
            added[COLUMN] = part
        else:
            raise UnknownColumn(without_splits(names))
    if "domain" not in columns.of:
        # files that are named after their parts are together of one domain
        added["domain"] = domain_named_after(path.absolute().parent if COLUMN in added else path)
    return Fields(columns, added, frozenset(given.values()))


def fields_of_lines(path: Path, form: Form) -> Fields:
    """Find the fields of a JSONL file by the names in its first row, or in all rows if that lacks a field.

    Raises:
        UnknownColumn: as `find_fields`.
    """
    names: dict[str, None] = {}
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                names |= dict.fromkeys(row)
            if not form.columns and not form.own_splits and names.keys() >= {*FIELDS}:
                return Fields(own_columns(list(names)), {})
    return find_fields(path, list(names), form) if names else Fields(None, {})
