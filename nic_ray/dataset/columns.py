"""Which columns of a file hold the fields of a pair: by our names, by those that others use, or as the user says."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nic_ray.evidence import JsonObject
from nic_ray.metrics.table import OVER_ALL
from nic_ray.sources import is_hub

FIELDS = ("query", "positive", "domain")
"""Fields that a row must have; the domain may be missing in a whole file."""
OTHER_NAMES = {
    "query": "anchor question queries questions query_text search_query sentence1 sentence_a text1 input q",
    "positive": "pos positives positive_passages positive_ctxs positive_passage relevant passage answer answers "
    "response context document doc chunk sentence2 sentence_b text2 output text",
    "negative": "neg negatives hard_negative hard_negatives negative_passages hard_negative_ctxs",
    "domain": "category topic subject product",
    "score": "relevance",
    "document": "document_id doc_id docid source_document source_file source filename file_name file_path file url",
}
"""The names that other data sets use for our fields, the likeliest first."""
OF_QUESTIONS = ("kind", "synthetic", "cut_from")
"""Fields that tell how a question came about; they have no other names."""
TOGETHER = {("document", "domain"), ("document", "kind"), ("domain", "kind")}
"""Fields that one column may hold, the first of which has been found before: what groups rows, and their domains."""
NUMBERED = re.compile(r"(neg|negative)_\d+")
"""Names of several columns with one negative each."""


SECTIONS = {"domain", "section", "text"}
"""The columns by which sections of manuals are known."""


class UnknownColumn(ValueError):
    """A field has no column; the message says which, and what was found."""


@dataclass(frozen=True)
class Columns:
    """The columns of a file that hold the fields of a pair."""

    of: Mapping[str, tuple[str, ...]]
    """Field -> its columns: one each, several for "negative"; a field that the file lacks is absent."""

    def fields_of(self, row: Mapping[str, Any]) -> JsonObject:
        """Return a row's values under the names of their fields; other values are left out."""
        found: JsonObject = {}
        for field, columns in self.of.items():
            present = [row[column] for column in columns if column in row]
            if present:
                found[field] = present[0] if len(present) == 1 else list(_flat(present))
        return found

    def notes(self) -> Iterator[str]:
        """Say which columns with other names were read as which fields."""
        read = [f'"{column}" as {field}' for field, columns in self.of.items() for column in columns if column != field]
        if read:
            yield f"read {', '.join(read)}"


def match_columns(names: Sequence[str], given: Mapping[str, str] | None = None) -> Columns:
    """Find the columns of the fields.

    Args:
        names: names of all columns, in their order.
        given: field -> the column that the user names for it.

    Raises:
        UnknownColumn: a column that was named is not there, or none is known to hold the queries or the passages.
    """
    given, of = given or {}, dict[str, tuple[str, ...]]()
    known = {name.casefold().strip(): name for name in reversed(names)}
    for field, column in given.items():
        if column not in names:
            way_out = "; name one of these, data.group_by: NAME or columns document=NAME" if field == "document" else ""
            raise UnknownColumn(f'has no column "{column}", which is named for {field} ({found_names(names)}){way_out}')
        of[field] = (column,)
    for field in ("query", "positive", "domain", "negative", "source_section", "score", "document", *OF_QUESTIONS):
        if field in of:
            continue
        candidates = [field, *OTHER_NAMES.get(field, "").split()]
        taken = {column for other, columns in of.items() if (other, field) not in TOGETHER for column in columns}
        exact = [name for name in (field,) if name in names and name not in taken]
        alike = [known[other] for other in candidates if other in known and known[other] not in taken]
        found = (exact or alike)[:1]
        if field == "negative":
            found += [name for name in names if NUMBERED.fullmatch(name.casefold().strip()) and name not in found]
        if found:
            of[field] = tuple(found)
    if lacking := [field for field in FIELDS[:2] if field not in of]:
        if "query" in lacking and known.keys() >= SECTIONS:
            raise UnknownColumn(
                "holds sections of manuals and no questions; make pairs of it with python -m nic_ray.ask"
            )
        named = ",".join(f"{field}=NAME" for field in lacking)
        raise UnknownColumn(
            f"no column is known to hold the {' or the '.join(_plural(field) for field in lacking)} "
            f"({found_names(names)}); name it under data.columns, or, for check, with --columns {named}"
        )
    return Columns(of)


def domain_named_after(path: Path) -> str:
    """Return the one domain of a file whose rows name none."""
    # a data set of the hub is named after itself, whatever its owner, configuration and split
    stem = str(path).partition(":")[2].partition(":")[0].split("/")[:2][-1] if is_hub(path) else path.resolve().stem
    name = "".join(letter for letter in stem if letter.isprintable()).strip()
    return f"{name} rows" if name in OVER_ALL or not name else name


def found_names(names: Sequence[str]) -> str:
    """List the names that were found, for a message."""
    listed = [str(name)[:40] for name in list(names)[:12]]
    return f"found: {', '.join(listed) or 'nothing'}{', ...' if len(names) > len(listed) else ''}"


def _plural(field: str) -> str:
    return {"query": "queries", "positive": "passages"}[field]


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        elif value is not None:
            yield value
