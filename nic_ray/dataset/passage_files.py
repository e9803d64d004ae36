"""Files of passages alone: of any format of rows, by the column of their text, after a title if there is one."""

import json
from collections.abc import Iterator, Sequence
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
SECTIONS = {"domain", "section", "text"}
"""The columns by which sections of manuals are known: a passage is a heading, a line break and the text."""
MAX_LISTED = 20
"""Number of faults that an error message lists."""


def read_passages(path: Path) -> list[str] | None:
    """Read the passages of a file, or of the corpus of a folder in BEIR form; None if it holds pairs.

    Raises:
        InputError: no column is known to hold passages, or rows are faulty; the message lists the first faults.
    """
    if path.is_dir():
        return list(texts_of(path / CORPUS).values()) if format_named(path) == "beir" else None
    name = format_named(path)
    try:
        names, rows = (None, _lines(path)) if name == "jsonl" else FORMATS[name].read(path)
        unit, texts, faults, column = FORMATS[name].unit, list[str](), list[str](), ""
        for place, row in rows:
            if isinstance(row, Fault):
                faults.append(f"{f'{unit} {place}: ' if place else ''}{row.message}")
                continue
            if not column:
                listed = list(row) if names is None else list(names)
                if _holds_pairs(listed):
                    return None
                known = {each.casefold().strip(): each for each in reversed(listed)}
                column = next((known[each] for each in TEXTS if each in known), "")
                if not column:
                    raise InputError(
                        f"{path}: no column is known to hold passages ({found_names(listed)}); name it text, with a "
                        "title beside it if there is one"
                    )
                title, joint = known.get("title", "title"), " "
                if "title" not in known and known.keys() >= SECTIONS:
                    title, joint = known["section"], "\n"
            fault, text = _text(row, column, title, joint)
            if fault:
                faults.append(f"{unit} {place}: {fault}")
            else:
                texts.append(text)
    except OtherFormat as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a readable file") from None
    if not texts and not faults:
        faults.append("holds no passages")
    if len(faults) > MAX_LISTED:
        faults[MAX_LISTED:] = [f"... and {len(faults) - MAX_LISTED} more"]
    if faults:
        raise InputError("\n  ".join([f"{path}: cannot be used as a corpus", *faults]))
    return texts


def _holds_pairs(names: Sequence[str]) -> bool:
    try:
        match_columns(names)
    except UnknownColumn:
        return False
    return True


def _text(row: JsonObject, column: str, title: str, joint: str) -> tuple[str, str]:
    """Return what is wrong with a row, and its text, after a title and what joins them."""
    text, before = row.get(column), row.get(title) or ""
    if not isinstance(text, str) or not isinstance(before, str):
        name, value = (title, before) if isinstance(text, str) else (column, text)
        return f'"{name}" must be text, got {kind_of_value(value)}', ""
    whole = f"{before}{joint}{text}".strip()
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
