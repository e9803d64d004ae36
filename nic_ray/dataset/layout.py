"""Descriptions of files that do not hold pairs as JSONL: what the file is, and how to convert it."""

import contextlib
import csv
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nic_ray.dataset.columns import FIELDS, OTHER_NAMES
from nic_ray.evidence import JsonObject

WANT = "want a JSON object a line, with query, positive and domain"
HEAD = 4096
"""Number of bytes at the beginning of a file that are examined to tell whether it is text."""
CONVERTED = "converted.jsonl"

BINARY = (
    (b"PAR1", "is a Parquet file", "read it with --format parquet"),
    (b"ARROW1", "is an Arrow file", "pd.read_feather(F)"),
    (
        b"\xff\xff\xff\xff",
        "is an Arrow stream",
        "load its folder with datasets.load_from_disk, and write it with to_json",
    ),
    (b"\x1f\x8b", "is compressed with gzip", "gzip -dc {path} > unpacked.jsonl"),
    (b"BZh", "is compressed with bzip2", "bzip2 -dc {path} > unpacked.jsonl"),
    (b"\xfd7zXZ", "is compressed with xz", "xz -dc {path} > unpacked.jsonl"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "zstd -dc {path} > unpacked.jsonl"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it, and name a file in it"),
    (b"%PDF", "is a PDF", "write a row for each question, with the passage of it that answers it"),
    (b"{\\rtf", "is a text document (RTF)", "write a row for each question, with the passage that answers it"),
    (b"\xd0\xcf\x11\xe0", "is an old Office document", "save its table as CSV in UTF-8, and name that"),
    (b"SQLite format 3\0", "is an SQLite database", "write a table of it as CSV in UTF-8, and name that"),
)
"""First bytes of a format, its description, and the remedy: a pandas expression, a command, or words."""
ZIP_FORMATS = (
    (b"xl/", "is an Excel workbook", "save its table as CSV in UTF-8, and name that"),
    (b"word/", "is a Word document", "write a row for each question, with the passage that answers it"),
    (b"", "is a ZIP archive", "unpack it, and name a file in it"),
)
BYTE_ORDER_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def describe_bytes(path: Path, head: bytes) -> str | None:
    """Describe a file that is not UTF-8 text, and the remedy; None if it may be such text.

    Args:
        head: the first `HEAD` bytes of the file, or all bytes of a shorter one.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None) or _unmarked(head)
    if encoding:
        read = f"Path(sys.argv[1]).read_text('{encoding}')"
        code = f"import sys; from pathlib import Path; Path('{CONVERTED}').write_text({read}, 'utf-8')"
        remedy = f'python -c "{code}" {shlex.quote(str(path))}'
        return f"is in {encoding.upper()}; save it in UTF-8: {remedy}"
    forms = ZIP_FORMATS if head.startswith(b"PK\3\4") else [form for form in BINARY if head.startswith(form[0])]
    for mark, what, remedy in forms:
        if mark in head:
            remedy = remedy.format(path=shlex.quote(str(path)))
            return f"{what}; {_by_pandas(path, remedy) if remedy.startswith('pd.') else remedy}"
    return f"is binary, no text; {WANT}" if b"\0" in head else None


def describe_folder(endings: Sequence[str]) -> str:
    """Describe a folder that was named instead of a file and holds none that is read, and the remedy.

    Args:
        endings: of files of pairs.
    """
    return (
        "is a folder; name a file in it, or a folder in BEIR form, or one that datasets saved, or one that holds files "
        f"of pairs ({', '.join(endings)})"
    )


def describe_text(path: Path, text: str) -> str | None:
    """Describe a text file whose lines are unusable because it has another format; None if it seems to be JSONL.

    Args:
        text: the whole content of the file.
    """
    text = text.removeprefix("\ufeff").strip()
    first = text.partition("\n")[0].strip()
    if first.startswith("version https://git-lfs"):
        return "is a pointer of Git LFS, not the file that it stands for; get that with: git lfs pull"
    if first.startswith("<"):
        return "is a web page or XML; download the file itself, as raw text"
    if "\r" in text and "\n" not in text:
        command = f"tr '\\r' '\\n' < {shlex.quote(str(path))} > {CONVERTED}"
        return f"has lines that end in a carriage return alone, as on old Macs; {command}"
    whole = _parsed(text)
    if isinstance(whole, list):
        return _describe_list(whole)
    if isinstance(whole, dict) and (description := _describe_object(path, whole)):
        return description
    rows = [_parsed(line) for line in text.split("\n") if line.strip()]
    if rows and all(isinstance(row, dict) for row in rows):
        return None
    if isinstance(whole, dict):
        what = "is one JSON object over several lines"
        return f"{what}; {_a_line_each(path)}" if whole.keys() >= set(FIELDS) else f"{what} ({_found(whole)}); {WANT}"
    if not any(isinstance(row, ValueError | dict) for row in rows):
        return f"holds JSON that is no object a line; {WANT}"
    if first.startswith("["):
        return f"is a JSON list, and not a sound one ({whole}); {WANT}"
    if first.startswith("{"):
        return _describe_stream(path, text)
    return _describe_table(path, text)


def _parsed(text: str) -> Any:
    """Parse JSON; invalid JSON gives a `ValueError` as the result."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError(str(error))


def _unmarked(head: bytes) -> str | None:
    """Recognise UTF-16 without a byte order mark: in Latin text, every second byte is zero."""
    for encoding, high_bytes, others in (("utf-16-be", head[::2], head[1::2]), ("utf-16-le", head[1::2], head[::2])):
        if high_bytes and high_bytes.count(0) > len(high_bytes) // 2 and not others.count(0):
            return encoding
    return None


def _describe_list(items: Sequence[Any]) -> str:
    if not any(isinstance(item, dict) for item in items):
        return f"is a JSON list without objects; {WANT}"
    return f"is one JSON list of {len(items):,} values; read it with --format json"


def _describe_object(path: Path, whole: JsonObject) -> str | None:
    if {"queries", "corpus", "relevant_docs"} <= whole.keys():
        what = "is a dataset as LlamaIndex writes it (queries, corpus and relevant_docs in one JSON object)"
        return f"{what}; read it with --format json"
    if {"columns", "data"} <= whole.keys() and isinstance(whole["columns"], list):
        rows = [dict.fromkeys(map(str, whole["columns"]))]
        return f"is one JSON object that holds a table in parts; {_way(path, f'pd.DataFrame(**{_LOADED})', rows)}"
    for name, value in whole.items():
        of_a_row = _renamed([name]).get(name) in ("positive", "negative")
        if not of_a_row and isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            what = f'is one JSON object, with a list of {len(value):,} objects under "{name}"'
            return f"{what}; {_way(path, f'pd.DataFrame({_LOADED}[{name!r}])', value)}"
    columns = list(whole.values())
    rows = [item for item in columns if isinstance(item, dict) and (item.keys() & {*FIELDS} or _renamed(list(item)))]
    if rows and len(rows) == len(columns):
        what = f"is one JSON object, with {len(rows):,} objects under names of their own"
        return f"{what}; {_way(path, f'pd.DataFrame({_LOADED}.values())', rows)}"
    if len(columns) > 1 and all(isinstance(item, list | dict) and len(item) == len(columns[0]) for item in columns):
        what = "is one JSON object that holds a table by its columns"
        return f"{what}; {_way(path, f'pd.DataFrame({_LOADED})', [dict.fromkeys(whole)])}"
    return None


def _describe_stream(path: Path, text: str) -> str | None:
    """Describe JSON objects that are not one per line; None if each line is meant to be one."""
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError) as error:
        whole_lines = "\n" not in text or text.partition("\n")[0].rstrip().endswith(("}", "},"))
        return None if whole_lines else f"is a JSON object over several lines, and not a sound one ({error}); {WANT}"
    if "\n" in text[:end] or text[end:].lstrip(" \t").startswith("{"):
        return f"holds JSON objects that do not keep to a line each; {_a_line_each(path)}"
    return None


def _describe_table(path: Path, text: str) -> str:
    lines = re.split(r"[\r\n]+", text[:HEAD])
    delimiter = max("\t,;|", key=lines[0].count)
    with contextlib.suppress(csv.Error):
        columns, *rows = itertools.islice(csv.reader(lines, delimiter=delimiter), 4)
        if len(columns) > 1 and all(len(row) == len(columns) for row in rows[:-1]):  # the last row may be cut off
            kind = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}[delimiter]
            what = f"is a table with {kind} between its columns"
            if "\ufffd" not in text:
                name = "tsv" if delimiter == "\t" else "csv"
                return f"{what}; read it with --format {name}"
            # one that is not UTF-8 most likely comes from a spreadsheet
            read = f"pd.read_csv(F, sep={delimiter!r}, dtype=str, encoding='cp1252')"
            return f"{what}, and not in UTF-8; {_way(path, read, [dict.fromkeys(columns)])}"
    start = lines[0] if len(lines[0]) <= 40 else lines[0][:39] + "…"
    return f"is text, not JSON (begins with {start!r}); {WANT}"


_LOADED = "json.loads(Path(F).read_text('utf-8-sig'))"


def _way(path: Path, read: str, rows: Sequence[JsonObject]) -> str:
    """Say how rows with other field names, or with several positives each, become a file of pairs.

    Args:
        read: a pandas expression that reads the rows as a table.
        rows: at least one; their values may be None where only the names are known.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    renamed = _renamed(names)
    have = {renamed.get(name, name) for name in names}
    if lacking := [name for name in FIELDS[:2] if name not in have]:
        return f"no field is known to be the {' or the '.join(lacking)} ({_found(names)}); {WANT}"
    for name in names:
        items = [item for row in rows if isinstance(row.get(name), list) for item in row[name]]
        if renamed.get(name, name) in OTHER_NAMES and any(isinstance(item, dict) for item in items):
            return f"{_found(names)}; {name} holds objects, of which their text alone is wanted; {WANT}"
    steps, changes = "", []
    if renamed:
        steps += f".rename(columns={renamed!r})"
        changes += [f"{other} for {field}" for other, field in renamed.items()]
    if any(isinstance(row.get(name), list) for row in rows for name in names if renamed.get(name, name) == "positive"):
        steps += ".explode('positive')"
        changes.append("a row for each positive")
    if "domain" not in have:
        steps += ".assign(domain='manuals')"
        changes.append("one domain for all, say manuals")
    remedy = f"make rows of it: {_by_pandas(path, read + steps)}"
    return f"{_found(names)}; take {', '.join(changes)}, and {remedy}" if changes else remedy


def _a_line_each(path: Path) -> str:
    return f"write each on one line: jq -c . {shlex.quote(str(path))} > {CONVERTED}"


def _renamed(names: Sequence[str]) -> dict[str, str]:
    """Map the names of fields that seem to be ours under another name to our names."""
    known = {name.casefold().strip(): name for name in names}
    matches = {
        field: next((known[other] for other in (field, *others.split()) if other in known), None)
        for field, others in OTHER_NAMES.items()
        if field not in names
    }
    return {other: field for field, other in matches.items() if other is not None}


def _found(names: Sequence[str] | JsonObject) -> str:
    listed = [str(name)[:40] for name in list(names)[:12]]
    return f"found: {', '.join(listed) or 'nothing'}{', ...' if len(names) > len(listed) else ''}"


def _by_pandas(path: Path, expression: str) -> str:
    """Return a command that reads a file with pandas and writes `CONVERTED`."""
    imports = "import json, sys; from pathlib import Path" if "json." in expression else "import sys"
    made = expression.replace("(F", "(sys.argv[1]")
    written = f"to_json('{CONVERTED}', orient='records', lines=True, force_ascii=False)"
    return f"python -c {_in_shell(f'{imports}; import pandas as pd; {made}.{written}')} {shlex.quote(str(path))}"


def _in_shell(code: str) -> str:
    """Quote code for a shell, in double quotes: within single quotes, those in the code would be unreadable."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", code) + '"'
