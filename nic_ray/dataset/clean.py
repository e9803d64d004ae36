"""Pairs written again without rows that do harm, by the codes of findings."""

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nic_ray.dataset.beir_files import splits_of
from nic_ray.dataset.columns import Columns
from nic_ray.dataset.fields import fields_of_lines, find_fields
from nic_ray.dataset.form import Form
from nic_ray.dataset.formats import OtherFormat, files_of, format_named, write_rows
from nic_ray.dataset.lint import Finding, numbers_in_lines
from nic_ray.dataset.own_splits import COLUMN, part_named, source_of
from nic_ray.dataset.pairs import Pair, row_of
from nic_ray.dataset.row import Row
from nic_ray.dataset.rules import RULES
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.sources import Sources

MARK = b"\xef\xbb\xbf"
"""The byte-order mark of UTF-8."""
COLUMNS_LISTED = 12


@dataclass(frozen=True)
class Copy:
    """What was written."""

    left_out: Mapping[str, int]
    """Code -> number of rows left out because of it; a row may count for several codes."""
    form: Form
    """How the copy is to be read."""
    notes: Sequence[str]
    """What the user should know about it."""


def parse_codes(names: str, option: str) -> list[str]:
    """Parse a list of codes with commas between them.

    Args:
        option: name of the option that the list was given to, for the error message.

    Raises:
        InputError: a code does not exist.
    """
    codes = [name.strip() for name in names.split(",") if name.strip()]
    for code in codes:
        if code not in RULES:
            near = difflib.get_close_matches(code, RULES, n=1)
            meant = f"did you mean {near[0]}? There are" if near else "there are"
            raise InputError(f'{option}: no finding is called "{code}"; {meant}: {", ".join(RULES)}')
    return codes


def write_clean(
    source: Sources, pairs: Sequence[Pair], findings: Sequence[Finding], codes: Collection[str], out: Path, form: Form
) -> Copy:
    """Copy a file, or several into one, without the rows of some findings.

    From JSONL to JSONL lines are copied byte for byte, but for those of which some positives are left out; else the
    fields of pairs are written, and a column "split".

    Args:
        source: the file that was checked, or several.
        pairs: all of its rows.
        findings: all findings in it.
        codes: codes of the findings whose rows are left out.
        out: the copy, a file that does not exist yet, in the format of its ending.
        form: how the source was read.

    Raises:
        InputError: `out` exists or cannot be written.
    """
    made = [finding for finding in findings if finding.code in codes]
    dropped: dict[int, set[int]] = {}
    for finding in made:
        for line in finding.lines:
            dropped.setdefault(line, set()).update(finding.positives.get(line, ()))
    written = format_named(out)
    files = files_of(source)
    try:
        if len(files) == 1 and (format_named(files[0], form.format), written) == ("jsonl", "jsonl"):
            columns = fields_of_lines(files[0], form).columns if any(dropped.values()) else None
            with files[0].open("rb") as original, out.open("xb") as kept:
                kept.writelines(_kept_lines(original, dropped, columns))
            to_read, notes = replace(form, format=None), _note_on_columns(form)
        else:
            out.open("xb").close()
            of_several = replace(form, of_several=len(files) > 1)
            splits, notes = _beside_the_fields(files, of_several)
            write_rows(out, [*_kept_rows(pairs, dropped, splits)], written)
            to_read = Form(own_splits=form.own_splits)
    except FileExistsError:
        raise InputError(f"{out}: exists already; name another file") from None
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror}); name a file in a folder that is there"
        ) from None
    return Copy({finding.code: finding.rows for finding in made}, to_read, notes)


def _note_on_columns(form: Form) -> list[str]:
    named = ",".join(f"{field}={column}" for field, column in form.columns.items())
    return [f"keeps its columns: read it with --columns {named}, or the same data.columns"] if named else []


def _kept_lines(
    lines: Iterator[bytes], dropped: Mapping[int, Collection[int]], columns: Columns | None
) -> Iterator[bytes]:
    """Yield lines of JSONL, without the positives that are dropped.

    Args:
        dropped: line -> its positives that are left out, from 1; empty where it has one only.
        columns: where the fields are; None where they have their own names.
    """
    for number, line in enumerate(lines, start=1):
        if number not in dropped:
            yield line
        elif dropped[number]:
            yield _without_positives(line, dropped[number], columns)


def _without_positives(line: bytes, dropped: Collection[int], columns: Columns | None) -> bytes:
    """Return a line of JSONL without some of its positives and their scores; empty if none is left."""
    row = json.loads(line.removeprefix(MARK))
    of = {} if columns is None else columns.of
    positive, score, whole = (of.get(name, (name,))[0] for name in ("positive", "score", "cut_from"))
    several, scores = row[positive], row.get(score)
    left = [at for at in range(len(several)) if at + 1 not in dropped]
    if not left:
        return b""
    row[positive] = [several[at] for at in left]
    if isinstance(scores, list) and len(scores) == len(several):
        row[score] = [scores[at] for at in left]
    if isinstance(wholes := row.get(whole), list):
        row[whole] = [wholes[at] for at in left]
    mark, end = line[: len(MARK) * line.startswith(MARK)], line[len(line.rstrip(b"\r\n")) :]
    # escapes stay escapes: half a character can be written in no other way
    return mark + json.dumps(row, ensure_ascii=line.isascii() or b"\\u" in line).encode() + end


def _kept_rows(
    pairs: Sequence[Pair], dropped: Mapping[int, Collection[int]], splits: Mapping[tuple[str, int], str]
) -> Iterator[JsonObject]:
    """Yield the rows that are not dropped, with the fields of pairs and the splits of their lines."""
    for pair, number in zip(pairs, numbers_in_lines(pairs), strict=True):
        if pair.line not in dropped or (number and number not in dropped[pair.line]):
            split = splits.get((pair.file, pair.number if pair.file else pair.line))
            yield row_of(pair) if split is None else {**row_of(pair), COLUMN: split}


def _beside_the_fields(files: Sequence[Path], form: Form) -> tuple[dict[tuple[str, int], str], list[str]]:
    """Find what files hold beside the fields of pairs.

    Returns:
        (file, line) -> the split that it names; the file is empty where there is one only. And what is not written,
        for the user.
    """
    splits: dict[tuple[str, int], str] = {}
    notes = []
    for path in files:
        file = str(path) if form.of_several else ""
        fields, names = {*Row.model_fields}, dict[str, None]()
        header, rows = _raw_rows(path, form)
        for place, row in rows:
            names |= dict.fromkeys(row)
            own = next((row[name] for name in row if name.casefold().strip() == COLUMN), None)
            if isinstance(own, str | int) and not form.own_splits:
                splits[file, place] = str(own)
        found = fields_of_lines(path, form) if header is None else find_fields(path, header or [*names], form)
        if found.columns is not None:
            fields = {column for columns in found.columns.of.values() for column in columns}
        if others := [name for name in names if name not in fields and name.casefold().strip() != COLUMN]:
            listed = ", ".join(f'"{name[:40]}"' for name in others[:COLUMNS_LISTED])
            more = f" and {len(others) - COLUMNS_LISTED} more" if len(others) > COLUMNS_LISTED else ""
            notes.append(f"without columns of {path} that are read as no field of a pair: {listed}{more}")
        if named := _splits_not_read(path, form):
            notes.append(f"without the splits of {path} ({', '.join(named)}); keep them with --splits own")
    return splits, notes


def _splits_not_read(path: Path, form: Form) -> list[str]:
    if form.own_splits or format_named(path, form.format) != "beir":
        return []
    return [split for split in splits_of(path) if part_named(split)]


def _raw_rows(path: Path, form: Form) -> tuple[Sequence[str] | None, Iterator[tuple[int, JsonObject]]]:
    """Return the columns of a file, None of JSONL and empty where every row has its own, and its rows as they stand."""
    name = format_named(path, form.format)
    if name == "jsonl":
        return None, _objects(path)
    try:
        names, rows = source_of(path, name, own_splits=form.own_splits).read(path)
        first = next(rows, None)
    except OtherFormat:  # objects a line, whatever the file's ending
        return None, _objects(path)
    head = [] if first is None else [first]
    return names or [], ((place, row) for part in (head, rows) for place, row in part if isinstance(row, dict))


def _objects(path: Path) -> Iterator[tuple[int, JsonObject]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip() and isinstance(row := json.loads(line.removeprefix(MARK)), dict):
                yield number, row
