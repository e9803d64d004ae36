"""Rows of query, positive passage and domain: reading from JSONL, with all faults at once, and numbering of texts."""

import itertools
import shlex
import stat
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from nic_ray.dataset.layout import HEAD, WANT, describe_bytes, describe_folder, describe_text
from nic_ray.errors import InputError
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
    """Line number in its file, from 1; 0 if it comes from no file."""


@dataclass(frozen=True)
class Problem:
    """A reason why a file cannot be used. Line 0 stands for the file as a whole."""

    line: int
    message: str


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
        from nic_ray.dataset.duplicates import (
            near_duplicates,  # imports SciPy, without which a trial's process starts sooner
        )

        return near_duplicates(self.texts)


def read_pairs(path: Path, known_domains: Container[str] = ()) -> list[Pair]:
    """Read all rows of a JSONL file; their texts are not changed in any way.

    Args:
        known_domains: domains that have other rows elsewhere, so that a single passage here is enough.

    Raises:
        InputError: the file or any of its lines is unusable; the message lists the first faults, by line.
    """
    pairs, problems = find_problems(path, known_domains)
    if problems:
        raise InputError(describe_problems(path, pairs, problems, listed=MAX_LISTED))
    return pairs


def find_problems(path: Path, known_domains: Container[str] = ()) -> tuple[list[Pair], list[Problem]]:
    """Read the usable rows of a JSONL file, and find everything that makes the file unusable, by line.

    A missing, unreadable or malformed file raises no error. Blank lines are skipped. A file of another format gives no
    rows and a single problem, which names the format.
    """
    pairs: list[Pair] = []
    problems: list[Problem] = []
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            return [], [Problem(0, "is a pipe or a device, which can be read only once; write its rows into a file")]
        with path.open("rb") as lines:
            if fault := describe_bytes(path, lines.peek(HEAD)[:HEAD]):
                return [], [Problem(0, fault)]
            for number, line in enumerate(lines, start=1):
                content = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip()
                if content:
                    try:
                        pairs.append(_pair(content, number))
                    except ValueError as error:
                        problems.extend(Problem(number, message) for message in row_faults(error, content))
            if problems and len(pairs) <= 1 and lines.seekable():
                lines.seek(0)
                text = lines.read().decode("utf-8", errors="replace")
                # the last row of a list may be a usable line
                if (not pairs or text.lstrip("\ufeff \n").startswith("[")) and (fault := describe_text(path, text)):
                    return [], [Problem(0, fault)]
    except FileNotFoundError:
        return [], [Problem(0, "no such file; one that comes along is data/reference/pairs.jsonl")]
    except IsADirectoryError:
        return [], [Problem(0, describe_folder(path))]
    except OSError as error:
        return [], [Problem(0, f"cannot be read ({error.strerror}); name a readable JSONL file")]
    if not pairs and not problems:
        problems.append(Problem(0, f"holds no rows; {WANT}"))
    return pairs, problems + list(_small_domains(pairs, known_domains))


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
        total = len(pairs) + unusable
        heading = f"{unusable} of {total} lines {'is' if unusable == 1 else 'are'} unusable"
    else:
        heading = f"{len(problems)} problems"
    lines: dict[str, list[int]] = {}
    for problem in problems:
        lines.setdefault(problem.message, []).append(problem.line)
    most = listed or LISTED_BY_CHECK
    findings = [_at_lines(numbers) + message for message, numbers in list(lines.items())[:most]]
    if len(findings) < len(lines):
        findings.append(f"... and {len(lines) - len(findings)} more")
    way_out = "Correct them."
    if listed is not None or len(lines) > most:
        option = "" if len(lines) <= LISTED_BY_CHECK else " --json"
        way_out = f"Correct them, or see all findings with: python -m nic_ray.check {shlex.quote(str(path))}{option}"
    return "\n  ".join([f"{path}: {heading}", *findings, way_out])


def _at_lines(numbers: Sequence[int]) -> str:
    """Name the lines of a fault, given in ascending order; empty for the file as a whole."""
    if numbers[0] == 0:
        return ""
    starts = [at for at, number in enumerate(numbers) if at == 0 or number > numbers[at - 1] + 1]
    runs = [numbers[start:end] for start, end in itertools.pairwise([*starts, len(numbers)])]
    listed = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:RUNS_LISTED]]
    if left := sum(map(len, runs[RUNS_LISTED:])):
        listed.append(f"and {left:,} more")
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(listed)}: "


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
    if value is None:
        return []
    return [_not_empty(value)] if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_not_empty)]


class _Row(BaseModel):
    model_config = ConfigDict(strict=True)

    query: Text
    positive: Text
    domain: Annotated[Text, AfterValidator(_domain_name)]
    negative: Annotated[list[Text], BeforeValidator(_listed)] = []
    source_section: str | None = None


def _pair(content: bytes, line: int) -> Pair:
    content.decode("utf-8")  # the parser would report invalid UTF-8 as invalid JSON
    row = _Row.model_validate_json(content)
    return Pair(row.query, row.positive, row.domain, tuple(row.negative), row.source_section, line)


def _small_domains(pairs: Sequence[Pair], known_domains: Container[str]) -> Iterator[Problem]:
    for domain, counts in count_by_domain(pairs).items():
        if counts["positives"] < PASSAGES_PER_DOMAIN and domain not in known_domains:
            yield Problem(
                0,
                f'domain "{domain}" has too few distinct positive passages, {counts["positives"]}; want '
                f"{PASSAGES_PER_DOMAIN}: one each to train, validate and test on; add rows or leave it out",
            )
