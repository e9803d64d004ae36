"""Files of passages alone: of any format of rows, by the column of their text, after a title or a heading."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nic_ray.dataset.beir_files import CORPUS, texts_of
from nic_ray.dataset.columns import UnknownColumn, found_names, match_columns
from nic_ray.dataset.formats import FORMATS, Fault, OtherFormat, format_named
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.validation import is_whole, kind_of_value

TEXTS = ("text", "passage", "content", "contents", "document", "body", "positive", "chunk")
"""The names of columns that hold passages, the likeliest first."""
HEADING, DOMAIN = "section", "domain"
"""The columns of a section of a manual that stand beside its text: its heading and its domain."""
MAX_LISTED = 20
"""Number of faults that an error message lists."""


@dataclass(frozen=True)
class Passage:
    """A text that a search can find."""

    text: str
    domain: str
    """The domains whose queries it answers, joined; in a folder, the first subfolder or the name of its file."""


@dataclass(frozen=True)
class _Columns:
    text: str
    title: str
    between: str
    """What stands between a title and the text."""
    domain: str | None


def read_passages(path: Path) -> list[Passage] | None:
    """Read the passages of a file, or of the corpus of a folder in BEIR form; None if it holds pairs.

    A title stands before its text, after a space. So does the heading of a section of a manual, after a line break, as
    in the pairs that are made of it; its domain is the section's, that of other passages the name of the file.

    Raises:
        InputError: no column is known to hold passages, or rows are faulty; the message lists the first faults.
    """
    if path.is_dir():
        if format_named(path) != "beir":
            return None
        return [Passage(text, path.stem) for text in dict.fromkeys(texts_of(path / CORPUS).values())]
    name = format_named(path)
    try:
        names, rows = (None, _lines(path)) if name == "jsonl" else FORMATS[name].read(path)
        unit, found, faults, columns = FORMATS[name].unit, list[tuple[str, str]](), list[str](), None
        for place, row in rows:
            if isinstance(row, Fault):
                faults.append(f"{f'{unit} {place}: ' if place else ''}{row.message}")
                continue
            if columns is None:
                listed = list(row) if names is None else list(names)
                if _holds_pairs(listed):
                    return None
                columns = _columns(listed)
                if columns is None:
                    raise InputError(
                        f"{path}: no column is known to hold passages ({found_names(listed)}); name it text, with a "
                        "title beside it if there is one"
                    )
            fault, text = _text(row, columns)
            if fault:
                faults.append(f"{unit} {place}: {fault}")
            else:
                found.append((text, _domain(row, columns) or path.stem))
    except OtherFormat as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a readable file") from None
    if not found and not faults:
        faults.append("holds no passages")
    if len(faults) > MAX_LISTED:
        faults[MAX_LISTED:] = [f"... and {len(faults) - MAX_LISTED} more"]
    if faults:
        raise InputError("\n  ".join([f"{path}: cannot be used as a corpus", *faults]))
    domains = dict[str, dict[str, None]]()
    for text, domain in found:
        domains.setdefault(text, {})[domain] = None
    return [Passage(text, ", ".join(sorted(named))) for text, named in domains.items()]


def _columns(names: Sequence[str]) -> _Columns | None:
    known = {each.casefold().strip(): each for each in reversed(names)}
    text = next((known[each] for each in TEXTS if each in known), None)
    if text is None:
        return None
    if HEADING in known and "title" not in known and known.get("text") == text:
        return _Columns(text, known[HEADING], "\n", known.get(DOMAIN))
    return _Columns(text, known.get("title", "title"), " ", None)


def _domain(row: JsonObject, columns: _Columns) -> str:
    domain = None if columns.domain is None else row.get(columns.domain)
    return domain if isinstance(domain, str) else ""


def _holds_pairs(names: Sequence[str]) -> bool:
    try:
        match_columns(names)
    except UnknownColumn:
        return False
    return True


def _text(row: JsonObject, columns: _Columns) -> tuple[str, str]:
    """Return what is wrong with a row, and its text."""
    column, title = columns.text, columns.title
    text, before = row.get(column), row.get(title) or ""
    if not isinstance(text, str) or not isinstance(before, str):
        name, value = (title, before) if isinstance(text, str) else (column, text)
        return f'"{name}" must be text, got {kind_of_value(value)}', ""
    whole = f"{before}{columns.between}{text}".strip() if text.strip() else before.strip()
    if not is_whole(whole):
        return f'"{column}" must be text, got {kind_of_value(whole)}', ""
    return ("" if whole else f'"{column}" is empty'), whole


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Read JSONL."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not (content := line.removeprefix(b"\xef\xbb\xbf").strip()):
                continue
            try:
                row = json.loads(content)
            except (ValueError, RecursionError) as error:
                yield number, Fault(f"not JSON: {error}")
                continue
            yield number, row if isinstance(row, dict) else Fault(f"must be a JSON object, got {kind_of_value(row)}")
