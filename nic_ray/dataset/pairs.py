"""Rows of query, positive passage and domain: reading, with all faults at once, and numbering of texts."""

import json
import stat
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nic_ray.dataset.columns import UnknownColumn
from nic_ray.dataset.fields import Fields, fields_of_lines, find_fields
from nic_ray.dataset.form import AS_FOUND, Form
from nic_ray.dataset.formats import ENDINGS, Fault, Format, OtherFormat, files_of, format_named, left_out_of
from nic_ray.dataset.layout import HEAD, WANT, describe_bytes, describe_folder, describe_text
from nic_ray.dataset.own_splits import COLUMN, names_of_splits, source_of
from nic_ray.dataset.plain import plain_fields
from nic_ray.dataset.problems import MAX_LISTED, Problem, describe_problems
from nic_ray.dataset.row import OwnRow, Row, kind_of_rows
from nic_ray.dataset.several import columns_of_no_file, joined
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.sources import Sources, is_hub
from nic_ray.validation import row_faults

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
    score: float = 1.0
    """How relevant the positive is to the query, above 0; used by metrics of graded relevance."""
    line: int = 0
    """Number of its line or row in its file, from 1; 0 if it comes from no file."""
    unit: str = "line"
    """What that number counts: "line" or "row"."""
    file: str = ""
    """Its file where several are read together, whose lines `line` then counts on through; else empty."""
    number: int = 0
    """Number of its line or row in that file."""
    split: str | None = None
    """The part that it came with; None where splits are not read."""
    document: str | None = None
    """The document that the passage comes from; None if the row names none."""
    kind: str | None = None
    """How the question is put, such as "keyword"; None if the row does not say."""
    synthetic: bool = False
    """Whether the question was made from the passage, by rules or a language model."""
    cut_from: str | None = None
    """The passage of which the positive is all but what the question was made from; None where nothing was cut."""

    @property
    def place(self) -> str:
        """Where it stands, for a reader: "line 3", or "b.csv line 3" of several files."""
        return f"{self.file} {self.unit} {self.number}" if self.file else f"{self.unit} {self.line}"


@dataclass(frozen=True)
class FileOfPairs:
    """What a file holds."""

    pairs: list[Pair]
    """Its usable rows; a row with several positives gives one for each."""
    problems: list[Problem]
    """Everything that makes it unusable, in the order of its rows."""
    notes: list[str]
    """What the user should know about how it was read."""
    named: frozenset[str] = frozenset()
    """The columns that the user names and that it has."""


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
    gains: NDArray[np.float64] | None = None
    """(N,) how relevant each row's passage is to its query, above 0; None: all equally."""
    ids: tuple[str, ...] | None = None
    """(T,) ids of the texts where they come from; None if they have none."""
    distractors: int = 0
    """Number of passages of a corpus, the last ones of `texts`, that no row names."""
    metrics: tuple[str, ...] = ()
    """Keys of the metrics that are computed besides `table.METRICS`."""
    documents: tuple[str | None, ...] = ()
    """(N,) the document of each row, None where it names none; empty where none is known."""
    kinds: tuple[str | None, ...] = ()
    """(N,) the kind of each row's question, None where it names none; empty where none is known."""
    synthetic: NDArray[np.bool_] | None = None
    """(N,) which questions were made from their passages; None where none was."""
    cut_from: tuple[str | None, ...] = ()
    """(N,) the whole passage where a row's was cut, else None; empty where none was."""

    @property
    def is_query(self) -> NDArray[np.bool_]:
        """(T,) True for queries; the other texts are passages."""
        asks = np.zeros(len(self.texts), dtype=np.bool_)
        asks[self.query] = True
        return asks

    @cached_property
    def search_by_words(self) -> "Callable[[Sequence[str]], NDArray[np.float32]]":
        """A search of the corpus by words, `bm25.bm25`, indexed on first use."""
        from nic_ray.metrics.bm25 import bm25

        return bm25([self.texts[text] for text in self.corpus.tolist()])

    @cached_property
    def ranked(self) -> "dict[bytes, Collection]":
        """What `cut_passages.ranked_for` has made of it."""
        return {}

    @cached_property
    def relevant(self) -> dict[int, NDArray[np.int64]]:
        """What `relevant_passages` returns, computed on first use."""
        named = np.unique(np.stack([self.query, self.positive], axis=1), axis=0)
        queries, starts = np.unique(named[:, 0], return_index=True)
        return dict(zip(queries.tolist(), np.split(named[:, 1], starts[1:]), strict=False))

    def __getstate__(self) -> "dict[str, object]":
        """Leave out what a copy computes anew where it needs it, and copies that have their own."""
        anew = ("search_by_words", "ranked", "relevant")
        return {name: value for name, value in vars(self).items() if name not in anew}

    @cached_property
    def near_group(self) -> NDArray[np.int64]:
        """(T,) the same number for near duplicates, computed on first use; if `fully_judged`, all numbers differ.

        A passage that was cut is a near duplicate of the whole one, and of what else was cut from that.
        """
        if self.fully_judged:
            return np.arange(len(self.texts))
        # imports SciPy, without which a trial's process starts sooner
        from nic_ray.dataset.duplicates import near_duplicates, with_others

        named = len(self.texts) - self.distractors
        groups = near_duplicates(self.texts[:named], wholes=self.wholes)
        return with_others(groups, self.texts, self.corpus[self.corpus < named], self.wholes)

    @property
    def wholes(self) -> dict[tuple[int, str], None]:
        """Each passage that was cut, by its number, with the whole one, once and in the order of the rows."""
        cut = zip(self.positive.tolist(), self.cut_from, strict=False)
        return {(number, whole): None for number, whole in cut if whole is not None}


def read_pairs(path: Sources, known_domains: Container[str] = (), form: Form = AS_FOUND) -> list[Pair]:
    """Read all rows of a file or folder in one of the `formats.FORMATS`; their texts are not changed in any way.

    Args:
        path: one file or folder, or several, whose rows are read in their order.
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
    path: Sources, known_domains: Container[str] = (), form: Form = AS_FOUND
) -> tuple[list[Pair], list[Problem]]:
    """Read the usable rows of a file, or of several, and find everything that makes the file unusable, by place.

    A missing or malformed file raises no error. Blank lines are skipped. Another format gives a problem, and no rows.
    """
    return (found := read_file(path, form)).pairs, problems_in(found, known_domains)


def problems_in(found: FileOfPairs, known_domains: Container[str] = ()) -> list[Problem]:
    """List what makes a file unusable: faults of its rows, and domains that are too small; see `read_pairs`."""
    return [*found.problems, *_small_domains(found.pairs, known_domains)]


def read_file(sources: Sources, form: Form = AS_FOUND) -> FileOfPairs:
    """Read the usable rows of a file, or of several together.

    Raises no error whatever the files hold, except for an unknown `form.format`. Rows of a file that stand in an
    earlier one too count once.
    """
    files, folders = files_of(sources), left_out_of(sources)
    if len(files) == 1:
        found = _read_one(files[0], form)
        return replace(found, notes=[*found.notes, *folders])
    read = [(str(path), _read_one(path, replace(form, of_several=True))) for path in files]
    pairs, repeated = joined([(file, found.pairs) for file, found in read])
    problems = [replace(problem, file=file) for file, found in read for problem in found.problems]
    if not problems:
        problems = columns_of_no_file(form.columns, [found.named for _, found in read])
    notes = [f"{file}: {note}" for file, found in read for note in found.notes]
    named = () if form.own_splits else names_of_splits(files)
    return FileOfPairs(pairs, problems, [*notes, *folders, *named, *repeated])


def _read_one(path: Path, form: Form) -> FileOfPairs:
    name = format_named(path, form.format)
    try:
        if is_hub(path):
            return _read_rows(path, source_of(path, name, own_splits=form.own_splits), form)
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            return _unusable("is a pipe or a device, which can be read only once; write its rows into a file")
        source = source_of(path, name, own_splits=form.own_splits)
        if stat.S_ISREG(kind) and source.is_text:
            with path.open("rb") as file:
                if fault := describe_bytes(path, file.read(HEAD)):
                    return _unusable(fault)
        found = _read_lines(path, form) if name == "jsonl" else _read_rows(path, source, form)
    except OtherFormat as error:
        # perhaps JSON objects a line, or JSON of a kind that is described there
        found = _unusable(str(error)) if form.format else _read_lines(path, form)
    except FileNotFoundError:
        return _unusable("no such file; one that comes along is data/reference/pairs.jsonl")
    except IsADirectoryError:
        return _unusable(describe_folder(sorted(ENDINGS)))
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
        fields = fields_of_lines(path, form)
    except UnknownColumn as error:
        text = path.read_text(encoding="utf-8", errors="replace")
        return _unusable(describe_text(path, text) or str(error))
    kind, pairs = kind_of_rows(form), list[Pair]()
    problems: list[Problem] = []
    same: dict[str, str] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if content := (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip():
                try:
                    pairs.extend(_pairs_of(_parsed(content, fields, kind), number, "line", same))
                except ValueError as error:
                    problems.extend(Problem(number, message) for message in row_faults(error, content))
        if problems and len(pairs) <= 1 and lines.seekable():
            lines.seek(0)
            text = lines.read().decode("utf-8", errors="replace")
            # the last row of a list may be a usable line
            if (not pairs or text.lstrip("\ufeff \n").startswith("[")) and (fault := describe_text(path, text)):
                return _unusable(fault)
    return FileOfPairs(pairs, problems, fields.notes(), fields.named)


def _parsed(content: bytes, fields: Fields, kind: type[Row]) -> Row:
    content.decode("utf-8")  # the parser would report invalid UTF-8 as invalid JSON
    if fields.columns is None:
        return kind.model_validate_json(content)
    try:
        row = json.loads(content)
    except (ValueError, RecursionError):
        return kind.model_validate_json(content)  # raises an error of the kind that is described
    return kind.model_validate(fields.of(row))


def _read_rows(path: Path, source: Format, form: Form) -> FileOfPairs:
    """Read any other format."""
    names, rows = source.read(path)
    kind, pairs = kind_of_rows(form), list[Pair]()
    problems: list[Problem] = []
    try:
        if names is None:
            listed = list(rows)
            names = list(dict.fromkeys(name for _, row in listed if isinstance(row, dict) for name in row))
            rows = iter(listed)
        if not names:
            faults = [Problem(at, fault.message, source.unit) for at, fault in rows if isinstance(fault, Fault)]
            return FileOfPairs([], faults, [])
        fields = find_fields(path, names, form)
    except UnknownColumn as error:
        return _unusable(str(error))
    valid = set[str]()
    plain, same = plain_fields(fields, valid), dict[str, str]()
    try:
        for place, row in rows:
            if isinstance(row, Fault):
                problems.append(Problem(place, row.message, source.unit))
            elif three := plain(row):
                pairs.append(Pair(*three, line=place, unit=source.unit))
            else:
                try:
                    pairs.extend(_pairs_of(kind.model_validate(fields.of(row)), place, source.unit, same))
                    valid.add(pairs[-1].domain)
                except ValueError as error:
                    problems.extend(Problem(place, message, source.unit) for message in row_faults(error, b""))
    except InputError as error:  # names a file of a folder, and its lines
        return _unusable(str(error))
    return FileOfPairs(pairs, problems, fields.notes(), fields.named)


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
    any_cut = any(pair.cut_from is not None for pair in pairs)
    same: dict[str | None, str | None] = {}  # a whole passage is in memory once, however much was cut from it
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
        gains=np.array([pair.score for pair in pairs]) if any(pair.score != 1 for pair in pairs) else None,
        documents=tuple(pair.document for pair in pairs),
        kinds=tuple(pair.kind for pair in pairs) if any(pair.kind is not None for pair in pairs) else (),
        synthetic=np.array([pair.synthetic for pair in pairs]) if any(pair.synthetic for pair in pairs) else None,
        cut_from=tuple(same.setdefault(pair.cut_from, pair.cut_from) for pair in pairs) if any_cut else (),
    )


def relevant_passages(collection: Collection) -> dict[int, NDArray[np.int64]]:
    """Map the index of each query text to the ascending indices of all passages that any row names as its positive."""
    return collection.relevant


def gains_by_query(collection: Collection) -> dict[int, NDArray[np.float64]] | None:
    """Map each query text to how relevant its `relevant_passages` are, in their order; None: all equally.

    If several rows name the same passage for a query, the highest gain counts.
    """
    if collection.gains is None:
        return None
    pairs = np.stack([collection.query, collection.positive], axis=1)
    named, place = np.unique(pairs, axis=0, return_inverse=True)
    gains = np.zeros(len(named))
    np.maximum.at(gains, place.reshape(-1), collection.gains)
    queries, starts = np.unique(named[:, 0], return_index=True)
    return dict(zip(queries.tolist(), np.split(gains, starts[1:]), strict=False))


def row_of(pair: Pair) -> JsonObject:
    """Return a pair with the names of its fields, as formats write it."""
    row: JsonObject = {"query": pair.query, "positive": pair.positive, "domain": pair.domain}
    if pair.negatives:
        row["negative"] = list(pair.negatives)
    optional = {
        "source_section": pair.source_section,
        "document": pair.document,
        "score": None if pair.score == 1 else pair.score,
        COLUMN: pair.split,
        "kind": pair.kind,
        "synthetic": pair.synthetic or None,
        "cut_from": pair.cut_from,
    }
    return row | {name: value for name, value in optional.items() if value is not None}


def _pairs_of(row: Row, place: int, unit: str, same: dict[str, str]) -> Iterator[Pair]:
    """Yield the pairs of a row; of a text that a row before has too, that object: it is in memory once."""
    split = row.split if isinstance(row, OwnRow) else None
    scores = row.score * len(row.positive) if len(row.score) == 1 else row.score
    wholes = row.cut_from * len(row.positive) if row.cut_from == [None] else row.cut_from
    for positive, score, whole in zip(row.positive, scores, wholes, strict=True):
        yield Pair(
            query=row.query,
            positive=same.setdefault(positive, positive),
            domain=same.setdefault(row.domain, row.domain),
            negatives=tuple(same.setdefault(text, text) for text in row.negative),
            source_section=row.source_section and same.setdefault(row.source_section, row.source_section),
            score=score,
            line=place,
            unit=unit,
            split=split,
            document=row.document and same.setdefault(row.document, row.document),
            kind=row.kind and same.setdefault(row.kind, row.kind),
            synthetic=row.synthetic,
            cut_from=whole and same.setdefault(whole, whole),
        )


def _small_domains(pairs: Sequence[Pair], known_domains: Container[str]) -> Iterator[Problem]:
    for domain, counts in count_by_domain(pairs).items():
        if counts["positives"] < PASSAGES_PER_DOMAIN and domain not in known_domains:
            yield Problem(
                0,
                f'domain "{domain}" has too few distinct positive passages, {counts["positives"]}; want '
                f"{PASSAGES_PER_DOMAIN}: one each to train, validate and test on; add rows or leave it out",
            )
