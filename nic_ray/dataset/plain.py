"""Rows that hold three texts and nothing else, as most rows of large files do: read without a validation of each."""

from collections.abc import Callable, Container

from nic_ray.dataset.columns import FIELDS
from nic_ray.dataset.fields import Fields
from nic_ray.evidence import JsonObject
from nic_ray.validation import is_whole

PlainFields = tuple[str, str, str]
"""Query, positive and domain."""


def plain_fields(fields: Fields, valid_domains: Container[str]) -> Callable[[JsonObject], PlainFields | None]:
    """Return a function that gives the fields of a row, or None if the row needs the validation of all others.

    A passage that occurs in many rows is the same object in all of them, and so is in memory once.

    Args:
        fields: where the rows of the file hold theirs.
        valid_domains: names of domains that were validated, which may grow.
    """
    columns, domain = fields.columns, fields.added.get("domain")
    if columns is None or not fields.added.keys() <= {"domain"}:
        return lambda row: None
    if any(len(named) > 1 for named in columns.of.values()) or not columns.of.keys() <= {*FIELDS}:
        return lambda row: None
    (query_column,), (positive_column,) = columns.of["query"], columns.of["positive"]
    (domain_column,) = columns.of.get("domain", (None,))
    passages: dict[str, str] = {}

    def three_of(row: JsonObject) -> PlainFields | None:
        query, positive = row.get(query_column), row.get(positive_column)
        named = domain if domain_column is None else row.get(domain_column)
        if type(query) is not str or type(positive) is not str or type(named) is not str:
            return None
        if named not in valid_domains or not query.strip() or not positive.strip():
            return None
        if not is_whole(query) or not is_whole(positive):
            return None
        return query, passages.setdefault(positive, positive), named

    return three_of
