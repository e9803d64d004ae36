"""Files of queries: one a line as text, or as JSON lines that say more about each."""

import json
from dataclasses import dataclass
from pathlib import Path

from nic_ray.errors import InputError, is_utf8

MAX_LISTED = 10
"""Number of faults that an error message lists."""
JSON_LINES = (".jsonl", ".ndjson", ".json")
TABLES = (".csv", ".tsv", ".parquet", ".xlsx")
"""Endings of files that would be read wrongly line by line."""


@dataclass(frozen=True)
class Line:
    """A query of a file."""

    query: str
    kind: str | None = None
    flagged: bool | None = None
    """Whether it was flagged when it came in; None if the line does not say."""
    objection: str | None = None


def read_queries(path: Path) -> list[Line]:
    """Read the queries of a file, at least one.

    A file whose name ends in .jsonl, .ndjson or .json holds a JSON object a line: "query" is needed; "kind", "flagged"
    and "objection" are read, others ignored. Any other file but a table holds a query a line; empty lines are skipped.

    Raises:
        InputError: the file cannot be read, holds no query, or has faulty lines; the message lists the first ones.
    """
    ending = path.suffix.lower()
    if ending in TABLES:
        raise InputError(
            f"{path}: is a table ({ending}); write a query a line (.txt), or JSON lines with a query (.jsonl)"
        )
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file of queries") from None
    lines = [line for line in content.split("\n") if line.strip()]
    if not lines:
        raise InputError(f"{path}: holds no queries; write one a line, or JSON lines with a query")
    if ending not in JSON_LINES:
        return [Line(line.rstrip("\r")) for line in lines]
    found, faults = list[Line](), list[str]()
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            read = _line_of(line)
            if isinstance(read, Line):
                found.append(read)
            else:
                faults.append(f"line {number}: {read}")
    if faults:
        more = [f"and {len(faults) - MAX_LISTED} more"] if len(faults) > MAX_LISTED else []
        raise InputError(
            "\n  ".join([f"{path}: {len(faults)} of {len(lines)} lines are unusable", *faults[:MAX_LISTED], *more])
        )
    return found


def _line_of(line: str) -> Line | str:
    """The query of a line, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    if not isinstance(row, dict):
        return f"must be a JSON object, got {type(row).__name__}"
    query, kind, flagged, objection = (row.get(name) for name in ("query", "kind", "flagged", "objection"))
    if not isinstance(query, str):
        return '"query" is missing' if query is None else f'"query" must be text, got {type(query).__name__}'
    if not is_utf8(query):
        return '"query" holds half of a character'
    for name, value, wanted in (("kind", kind, str), ("flagged", flagged, bool), ("objection", objection, str)):
        if value is not None and not isinstance(value, wanted):
            return f'"{name}" must be {"text" if wanted is str else "true or false"}, got {type(value).__name__}'
    return Line(query, kind, flagged, objection)
