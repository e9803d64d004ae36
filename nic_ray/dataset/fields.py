"""Where the rows of a file hold the fields of a pair: in columns, or as one value for all rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nic_ray.dataset.columns import FIELDS, Columns, UnknownColumn, domain_named_after, match_columns
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
    if "document" in form.columns and "document" not in given:  # that column groups the rows, and no other one
        columns = Columns({field: own for field, own in columns.of.items() if field != "document"})
    if form.own_splits:
        if column := next((name for name in names if name.casefold().strip() == COLUMN), None):
            columns = Columns({**columns.of, COLUMN: (column,)})
        elif part := split_of_file(path):
            added[COLUMN] = part
        else:
            raise UnknownColumn(without_splits(names))
    if "domain" not in columns.of:
        # files that are named after their parts are together of one domain
        added["domain"] = form.domain or domain_named_after(path.absolute().parent if COLUMN in added else path)
    return Fields(columns, added, frozenset(given.values()))


def fields_of_lines(path: Path, form: Form) -> Fields:
    """Find the fields of a JSONL file by the names in all of its rows.

    True and false are no text of a field; they say whether a row is synthetic.

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
                named = {*FIELDS, *form.columns.values()}
                named |= {name for name in row if name.casefold().strip() == "synthetic"}
                names |= dict.fromkeys(
                    name for name, value in row.items() if not isinstance(value, bool) or name in named
                )
    if not names:
        return Fields(None, {})
    fields = find_fields(path, list(names), form)
    have_our_names = fields.columns is not None and all(own == (name,) for name, own in fields.columns.of.items())
    return Fields(None, {}, fields.named) if have_our_names and not fields.added else fields
