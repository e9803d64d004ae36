"""Rows of query, positive passage and domain: reading, with all faults at once, and numbering of texts."""

import itertools
import json
import math
import shlex
import stat
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nic_ray.dataset.columns import FIELDS, NUMBERED, Columns, UnknownColumn, domain_named_after, match_columns
from nic_ray.dataset.form import AS_FOUND, Form
from nic_ray.dataset.formats import FORMATS, Fault, Format, OtherFormat, format_named
from nic_ray.dataset.layout import HEAD, WANT, describe_bytes, describe_folder, describe_text
from nic_ray.dataset.plain import plain_fields
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.metrics.table import OVER_ALL
from nic_ray.validation import row_faults

MAX_LISTED = 20
"""Number of faults that an error message lists."""
LISTED_BY_CHECK = 100
RUNS_LISTED = 10
"""Number of ranges of lines that are listed for one fault."""
PASSAGES_PER_DOMAIN = 3
"""Least number of passages in a domain: one for each of training, validation and test."""


@dataclass(frozen=True)
class Pair:
    """A row: a query, the passage that answers it, and similar passages that do not answer it."""

    query: str
    positive: str
    domain: str
    negatives: tuple[str, ...] = ()
    source_section: str | None = None
    line: int = 0
    """Number of its line or row in its file, from 1; 0 if it comes from no file."""
    unit: str = "line"
    """What that number counts: "line" or "row"."""


@dataclass(frozen=True)
class Problem:
    """A reason why a file cannot be used. Line 0 stands for the file as a whole."""

    line: int
    message: str
    unit: str = "line"
    """As for `Pair`."""


@dataclass(frozen=True)
class FileOfPairs:
    """What a file holds."""

    pairs: list[Pair]
    """Its usable rows; a row with several positives gives one for each."""
    problems: list[Problem]
    """Everything that makes it unusable, in the order of its rows."""
    notes: list[str]
    """What the user should know about how it was read."""


@dataclass(frozen=True)
class Collection:
    """N rows that refer to T distinct texts by number.

    A text that is both a query and a passage is stored twice, because a model may encode the two differently.
    """

    texts: tuple[str, ...]
    query: NDArray[np.int64]
    """(N,) index into `texts`."""
    positive: NDArray[np.int64]
    """(N,) index into `texts`."""
    negatives: NDArray[np.int64]
    """(N, H) index into `texts`, -1 where a row has fewer than H; H may be 0."""
    domains: tuple[str, ...]
    """(N,) names."""
    corpus: NDArray[np.int64]
    """(C,) ascending index into `texts` of all passages, including those that no row names."""
    fully_judged: bool = False
    """Whether people have judged the whole corpus; if so, a near duplicate of an answer is not an answer unless a row
    names it as one."""

    @property
    def is_query(self) -> NDArray[np.bool_]:
        """(T,) True for queries; the other texts are passages."""
        asks = np.zeros(len(self.texts), dtype=np.bool_)
        asks[self.query] = True
        return asks

    @cached_property
    def near_group(self) -> NDArray[np.int64]:
        """(T,) the same number for near duplicates, computed on first use; if `fully_judged`, all numbers differ."""
        if self.fully_judged:
            return np.arange(len(self.texts))
        from nic_ray.dataset.duplicates import near_duplicates  # imports SciPy; a trial starts sooner without

        return near_duplicates(self.texts)


def read_pairs(path: Path, known_domains: Container[str] = (), form: Form = AS_FOUND) -> list[Pair]:
    """Read all rows of a file or folder in one of the `formats.FORMATS`; their texts are not changed in any way.

    Args:
        known_domains: domains that have other rows elsewhere, so that a single passage here is enough.
        form: how the file is to be read.

    Raises:
        InputError: the file or any of its rows is unusable; the message lists the first faults, by place.
    """
    pairs, problems = find_problems(path, known_domains, form)
    if problems:
        raise InputError(describe_problems(path, pairs, problems, listed=MAX_LISTED))
    return pairs


def find_problems(
    path: Path, known_domains: Container[str] = (), form: Form = AS_FOUND
) -> tuple[list[Pair], list[Problem]]:
    """Read the usable rows of a file, and find everything that makes the file unusable, by place.

    A missing, unreadable or malformed file raises no error. Blank lines are skipped. A file of another format gives no
    rows and a single problem, which names the format.
    """
    return (found := read_file(path, form)).pairs, problems_in(found, known_domains)


def problems_in(found: FileOfPairs, known_domains: Container[str] = ()) -> list[Problem]:
    """List what makes a file unusable: faults of its rows, and domains that are too small; see `read_pairs`."""
    return [*found.problems, *_small_domains(found.pairs, known_domains)]


def read_file(path: Path, form: Form = AS_FOUND) -> FileOfPairs:
    """Read the usable rows of a file; raises no error whatever the file holds, except for an unknown `form.format`."""
    name = format_named(path, form.format)
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            return _unusable("is a pipe or a device, which can be read only once; write its rows into a file")
        if stat.S_ISREG(kind) and FORMATS[name].is_text:
            with path.open("rb") as file:
                if fault := describe_bytes(path, file.read(HEAD)):
                    return _unusable(fault)
        found = _read_lines(path, form) if name == "jsonl" else _read_rows(path, FORMATS[name], form)
    except OtherFormat as error:
        # perhaps JSON objects a line, or JSON of a kind that is described there
        found = _unusable(str(error)) if form.format else _read_lines(path, form)
    except FileNotFoundError:
        return _unusable("no such file; one that comes along is data/reference/pairs.jsonl")
    except IsADirectoryError:
        return _unusable(describe_folder(path))
    except OSError as error:
        return _unusable(f"cannot be read ({error.strerror}); name a readable file")
    if not found.pairs and not found.problems:
        return _unusable(f"holds no rows; {WANT}")
    return found


def _unusable(message: str) -> FileOfPairs:
    return FileOfPairs([], [Problem(0, message)], [])


def _read_lines(path: Path, form: Form) -> FileOfPairs:
    """Read JSONL."""
    try:
        columns = _columns_of_lines(path, form.columns)
    except UnknownColumn as error:
        text = path.read_text(encoding="utf-8", errors="replace")
        return _unusable(describe_text(path, text) or str(error))
    domain = None if columns is None or "domain" in columns.of else domain_named_after(path)
    pairs, problems = list[Pair](), list[Problem]()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if content := (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip():
                try:
                    pairs.extend(_pairs_of(_parsed(content, columns, domain), number, "line"))
                except ValueError as error:
                    problems.extend(Problem(number, message) for message in row_faults(error, content))
        if problems and len(pairs) <= 1 and lines.seekable():
            lines.seek(0)
            text = lines.read().decode("utf-8", errors="replace")
            # the last row of a list may be a usable line
            if (not pairs or text.lstrip("\ufeff \n").startswith("[")) and (fault := describe_text(path, text)):
                return _unusable(fault)
    return FileOfPairs(pairs, problems, _notes(columns, domain))


def _columns_of_lines(path: Path, given: Mapping[str, str]) -> Columns | None:
    """Find the columns of a JSONL file by the names in its first row, or in all rows if that lacks a field.

    Returns:
        None where the fields have their own names, or no line is an object.
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
            if not given and names.keys() >= {*FIELDS}:
                return None if not any(map(NUMBERED.fullmatch, names)) else match_columns(list(names))
    return match_columns(list(names), given) if names else None


def _parsed(content: bytes, columns: Columns | None, domain: str | None) -> "_Row":
    content.decode("utf-8")  # the parser would report invalid UTF-8 as invalid JSON
    if columns is None:
        return _Row.model_validate_json(content)
    try:
        row = json.loads(content)
    except (ValueError, RecursionError):
        return _Row.model_validate_json(content)  # raises an error of the kind that is described
    return _row_of(row, columns, domain)


def _row_of(row: Any, columns: Columns, domain: str | None) -> "_Row":
    if not isinstance(row, dict):
        return _Row.model_validate(row)
    fields = columns.fields_of(row)
    return _Row.model_validate(fields if domain is None else {**fields, "domain": domain})


def _read_rows(path: Path, source: Format, form: Form) -> FileOfPairs:
    """Read any other format."""
    names, rows = source.read(path)
    pairs, problems = list[Pair](), list[Problem]()
    try:
        if names is None:
            listed = list(rows)
            names = list(dict.fromkeys(name for _, row in listed if isinstance(row, dict) for name in row))
            rows = iter(listed)
        if not names:
            faults = [Problem(at, fault.message, source.unit) for at, fault in rows if isinstance(fault, Fault)]
            return FileOfPairs([], faults, [])
        columns = match_columns(names, form.columns)
    except UnknownColumn as error:
        return _unusable(str(error))
    domain, valid = None if "domain" in columns.of else domain_named_after(path), set[str]()
    plain = plain_fields(columns, domain, valid)
    try:
        for place, row in rows:
            if isinstance(row, Fault):
                problems.append(Problem(place, row.message, source.unit))
            elif fields := plain(row):
                pairs.append(Pair(*fields, line=place, unit=source.unit))
            else:
                try:
                    pairs.extend(_pairs_of(_row_of(row, columns, domain), place, source.unit))
                    valid.add(pairs[-1].domain)
                except ValueError as error:
                    problems.extend(Problem(place, message, source.unit) for message in row_faults(error, b""))
    except InputError as error:  # names a file of a folder, and its lines
        return _unusable(str(error))
    return FileOfPairs(pairs, problems, _notes(columns, domain))


def _notes(columns: Columns | None, domain: str | None) -> list[str]:
    alone = [] if domain is None else [f'no column holds domains: all rows are of one, "{domain}"']
    return [*(columns.notes() if columns else ()), *alone]


def describe_problems(
    path: Path, pairs: Sequence[Pair], problems: Sequence[Problem], *, listed: int | None = None
) -> str:
    """Describe what is wrong with a file, as an error message; a fault of several lines is listed once, with its lines.

    Args:
        path: the file.
        pairs: its usable rows.
        problems: at least one problem.
        listed: number of faults to list; the others are counted. None is for `nic_ray.check` itself, which lists
            `LISTED_BY_CHECK` faults.
    """
    if len(problems) == 1 and problems[0].line == 0:
        return f"{path}: {problems[0].message}"
    unusable = len({problem.line for problem in problems if problem.line})
    if unusable:
        total = len({pair.line for pair in pairs}) + unusable
        heading = f"{unusable} of {total} {unit_of(problems)}s {'is' if unusable == 1 else 'are'} unusable"
    else:
        heading = f"{len(problems)} problems"
    lines: dict[str, list[int]] = {}
    for problem in problems:
        lines.setdefault(problem.message, []).append(problem.line)
    most = listed or LISTED_BY_CHECK
    findings = [_at_lines(numbers, unit_of(problems)) + message for message, numbers in list(lines.items())[:most]]
    if len(findings) < len(lines):
        findings.append(f"... and {len(lines) - len(findings)} more")
    way_out = "Correct them."
    if listed is not None or len(lines) > most:
        option = "" if len(lines) <= LISTED_BY_CHECK else " --json"
        way_out = f"Correct them, or see all findings with: python -m nic_ray.check {shlex.quote(str(path))}{option}"
    return "\n  ".join([f"{path}: {heading}", *findings, way_out])


def unit_of(problems: Sequence[Problem]) -> str:
    """Return what the places of some problems count."""
    return next((problem.unit for problem in problems if problem.line), "line")


def _at_lines(numbers: Sequence[int], unit: str) -> str:
    """Name the lines of a fault, given in ascending order; empty for the file as a whole."""
    if numbers[0] == 0:
        return ""
    starts = [at for at, number in enumerate(numbers) if at == 0 or number > numbers[at - 1] + 1]
    runs = [numbers[start:end] for start, end in itertools.pairwise([*starts, len(numbers)])]
    listed = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:RUNS_LISTED]]
    if left := sum(map(len, runs[RUNS_LISTED:])):
        listed.append(f"and {left:,} more")
    return f"{unit}{'s' if len(numbers) > 1 else ''} {', '.join(listed)}: "


def count_pairs(pairs: Sequence[Pair]) -> dict[str, int]:
    """Count rows, distinct queries, distinct positives, distinct passages of both kinds, and rows with negatives."""
    positives = {pair.positive for pair in pairs}
    return {
        "rows": len(pairs),
        "queries": len({pair.query for pair in pairs}),
        "positives": len(positives),
        "passages": len(positives.union(*(pair.negatives for pair in pairs))),
        "rows_with_negatives": sum(bool(pair.negatives) for pair in pairs),
    }


def count_by_domain(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """Compute `count_pairs` for the rows of each domain, in alphabetical order of the domains."""
    rows: dict[str, list[Pair]] = {}
    for pair in pairs:
        rows.setdefault(pair.domain, []).append(pair)
    return {domain: count_pairs(rows[domain]) for domain in sorted(rows)}


def index_pairs(pairs: Sequence[Pair]) -> Collection:
    """Number the texts of N rows in order of first appearance; within a row: query, positive, negatives."""
    numbers: dict[tuple[str, bool], int] = {}

    def number(text: str, *, is_query: bool = False) -> int:
        return numbers.setdefault((text, is_query), len(numbers))

    width = max((len(pair.negatives) for pair in pairs), default=0)
    query = np.empty(len(pairs), dtype=np.int64)
    positive = np.empty(len(pairs), dtype=np.int64)
    negatives = np.full((len(pairs), width), -1, dtype=np.int64)
    for row, pair in enumerate(pairs):
        query[row] = number(pair.query, is_query=True)
        positive[row] = number(pair.positive)
        negatives[row, : len(pair.negatives)] = [number(text) for text in pair.negatives]
    return Collection(
        texts=tuple(text for text, _ in numbers),
        query=query,
        positive=positive,
        negatives=negatives,
        domains=tuple(pair.domain for pair in pairs),
        corpus=np.unique(np.concatenate([positive, negatives[negatives >= 0]])),
    )


def relevant_passages(collection: Collection) -> dict[int, NDArray[np.int64]]:
    """Map each query text to all passages that any row names as its positive.

    Two rows may have the same query and different passages; both passages then answer the query.

    Returns:
        index of the query text -> ascending indices of passages, both into `texts`.
    """
    named = np.unique(np.stack([collection.query, collection.positive], axis=1), axis=0)
    queries, starts = np.unique(named[:, 0], return_index=True)
    return dict(zip(queries.tolist(), np.split(named[:, 1], starts[1:]), strict=False))


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _domain_name(name: str) -> str:
    """Check the name of a domain, which becomes the end of metric keys and appears in tables."""
    if "/" in name or not name.isprintable() or name != name.strip():
        start = name if len(name) <= 40 else name[:39] + "…"
        raise ValueError(f'must be printable, without "/" and spaces at its ends: metric keys end in it; got {start!r}')
    if name in OVER_ALL:
        raise ValueError(f'must not be "{name}", which names a figure over all domains')
    return name


def _listed(value: Any) -> Any:
    return [_not_empty(value)] if isinstance(value, str) else value


def _listed_or_none(value: Any) -> Any:
    return [] if value is None else _listed(value)


Text = Annotated[str, AfterValidator(_not_empty)]


def _named(value: Any) -> Any:
    """Return a domain that is given as a number, or as true or false, as text."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) and math.isfinite(value) else value


def row_of(pair: Pair) -> JsonObject:
    """Return a pair with the names of its fields, as formats write it."""
    row: JsonObject = {"query": pair.query, "positive": pair.positive, "domain": pair.domain}
    if pair.negatives:
        row["negative"] = list(pair.negatives)
    return row if pair.source_section is None else {**row, "source_section": pair.source_section}


class _Row(BaseModel):
    model_config = ConfigDict(strict=True)

    query: Text
    positive: Annotated[list[Text], BeforeValidator(_listed), Field(min_length=1)]
    domain: Annotated[Text, BeforeValidator(_named), AfterValidator(_domain_name)]
    negative: Annotated[list[Text], BeforeValidator(_listed_or_none)] = Field(default_factory=list)
    source_section: str | None = None


def _pairs_of(row: _Row, place: int, unit: str) -> Iterator[Pair]:
    for positive in row.positive:
        yield Pair(row.query, positive, row.domain, tuple(row.negative), row.source_section, place, unit)


def _small_domains(pairs: Sequence[Pair], known_domains: Container[str]) -> Iterator[Problem]:
    for domain, counts in count_by_domain(pairs).items():
        if counts["positives"] < PASSAGES_PER_DOMAIN and domain not in known_domains:
            yield Problem(
                0,
                f'domain "{domain}" has too few distinct positive passages, {counts["positives"]}; want '
                f"{PASSAGES_PER_DOMAIN}: one each to train, validate and test on; add rows or leave it out",
            )
