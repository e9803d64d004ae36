"""How a file of pairs is to be read, as far as the user says so: its format, and the columns of its fields."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import get_args

from nic_ray.data_config import DataConfig, PairField
from nic_ray.errors import InputError
from nic_ray.protocol import BY_DOCUMENT, BY_PASSAGE


@dataclass(frozen=True)
class Form:
    """How a file is to be read, as far as the user says so."""

    format: str | None = None
    """A name in `formats.FORMATS`; None: by its ending, or by what a folder holds."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field -> its column; other fields are found by the names of the columns."""
    own_splits: bool = False
    """Whether the splits that the rows came with are read."""
    domain: str | None = None
    """The domain of rows in a file that names none; None: the name of the file."""
    of_several: bool = False
    """Whether one of several files is read, which may lack a column of `columns` that another one has."""

    def columns_among(self, names: Collection[str]) -> Mapping[str, str]:
        """Return those of `columns` that hold for a file with columns of these names."""
        if not self.of_several:
            return self.columns
        return {name: column for name, column in self.columns.items() if column in names}


AS_FOUND = Form()


def form_of(data: DataConfig) -> Form:
    """Return how the pairs of a run are to be read.

    Raises:
        InputError: one column is named for two kinds of text.
    """
    columns = {str(name): column for name, column in data.columns.items()}
    _of_one_text_each(columns, "data.columns")
    return Form(data.format, columns | column_of_groups(data.group_by), own_splits=data.splits == "own")


def column_of_groups(group_by: str) -> dict[str, str]:
    """Return the column that holds the documents of rows, where a setting `data.group_by` names one; else nothing."""
    return {} if group_by in (BY_PASSAGE, BY_DOCUMENT) else {"document": group_by}


def parse_form(name: str | None, columns: str | None) -> Form:
    """Parse the options of a command: a format, and columns as FIELD=NAME with commas between them.

    Raises:
        InputError: something is no field, has no name or is named twice, or one column is named for two kinds of text;
            an unknown format is refused where the file is read.
    """
    fields = get_args(PairField)
    named: dict[str, str] = {}
    for part in [] if columns is None else columns.split(","):
        field_name, _, column = part.partition("=")
        if field_name.strip() not in fields or not column:
            raise InputError(f"--columns {part}: want FIELD=NAME, by commas; fields are {', '.join(fields)}")
        if field_name.strip() in named:
            raise InputError(f"--columns {columns}: names two columns for {field_name.strip()}; name one")
        named[field_name.strip()] = column
    _of_one_text_each(named, f"--columns {columns}")
    return Form(name, named)


def _of_one_text_each(columns: Mapping[str, str], where: str) -> None:
    """Refuse one column for two of query, positive and negative, of which each row wants different texts."""
    fields: dict[str, str] = {}
    for name in ("query", "positive", "negative"):
        if (column := columns.get(name)) is not None and (other := fields.setdefault(column, name)) != name:
            raise InputError(f'{where}: names the column "{column}" for both {other} and {name}; name one for each')
