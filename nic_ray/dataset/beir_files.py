"""The files of a folder in BEIR format: texts by _id, and the answers of each split.

Source: Thakur et al. 2021, arXiv:2104.08663; `beir.datasets.data_loader.GenericDataLoader`.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nic_ray.errors import InputError
from nic_ray.validation import is_whole, kind_of_value

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
MAX_LISTED = 20
"""Number of faults that an error message lists."""


def splits_of(folder: Path) -> list[str]:
    """Return the names of the splits that a folder holds, in alphabetical order."""
    return sorted(file.stem for file in (folder / QRELS).glob("*.tsv"))


def texts_of(path: Path) -> dict[str, str]:
    """Read the texts of passages or queries, by _id."""
    texts: dict[str, str] = {}
    faults = []
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: not JSON: {error}")
            continue
        fault = _fault(row, texts)
        if fault:
            faults.append(f"line {number}: {fault}")
        else:
            texts[str(row["_id"])] = f"{row.get('title') or ''} {row['text']}".strip()
    if not texts and not faults:
        faults.append('holds nothing; want an object a line, with "_id" and "text"')
    _refuse(path, faults)
    return texts


def _fault(row: object, known: dict[str, str]) -> str | None:
    if not isinstance(row, dict):
        return f"must be a JSON object, got {kind_of_value(row)}"
    if missing := [name for name in ("_id", "text") if name not in row]:
        return f'"{missing[0]}" is missing (found: {", ".join(sorted(row)) or "nothing"})'
    if isinstance(row["_id"], bool) or not isinstance(row["_id"], str | int):
        return f'"_id" must be text, got {kind_of_value(row["_id"])}'
    if str(row["_id"]) in known:
        return f'"_id" {str(row["_id"])[:80]!r} stands in an earlier line too; each must be of one text'
    for name, value in (("text", row["text"]), ("title", row.get("title") or "")):
        if not isinstance(value, str) or not is_whole(value):
            return f'"{name}" must be text, got {kind_of_value(value)}'
    return None


def answers_of(
    folder: Path, split: str, queries: Mapping[str, str], passages: Mapping[str, str]
) -> dict[tuple[str, str], float]:
    """Read the pairs of a query and a passage that answers it, by _id, with their scores, above 0."""
    path = folder / QRELS / f"{split}.tsv"
    if not path.is_file():
        others = ", ".join(splits_of(folder)) or "none"
        raise InputError(f"{path}: no such file; name one of these with --split: {others}")
    pairs: dict[tuple[str, str], float] = {}
    faults = []
    for place, (number, line) in enumerate(_lines(path)):
        columns = line.split("\t")
        if place == 0 and columns[-1].strip() == "score":
            continue
        if len(columns) != 3:
            faults.append(
                f"line {number}: want query-id, corpus-id and score with tabs between, got {len(columns)} columns"
            )
            continue
        query, passage, score = (column.strip() for column in columns)
        unknown = [
            f"line {number}: {name} {key[:80]!r} is not in {file}"
            for name, key, known, file in (
                ("query-id", query, queries, QUERIES),
                ("corpus-id", passage, passages, CORPUS),
            )
            if key not in known
        ]
        try:
            relevance = float(score)
        except ValueError:
            relevance = math.nan
        if not math.isfinite(relevance):
            unknown.append(f"line {number}: score must be a number, got {score[:80]!r}")
        faults += unknown
        if not unknown and relevance > 0:
            pairs[query, passage] = relevance
    if not pairs and not faults:
        faults.append("names no answer; want lines of query-id, corpus-id and a score above 0, with tabs between")
    _refuse(path, faults)
    return pairs


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the content of each line that is not blank; 1 is the first line."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a folder in BEIR form holds {CORPUS}, {QUERIES} and {QRELS}/SPLIT.tsv"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _refuse(path: Path, faults: Sequence[str]) -> None:
    if len(faults) > MAX_LISTED:
        faults = [*faults[:MAX_LISTED], f"... and {len(faults) - MAX_LISTED} more"]
    if faults:
        raise InputError("\n  ".join([f"{path}: cannot be used", *faults]))
