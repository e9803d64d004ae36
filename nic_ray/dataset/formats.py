"""The formats that rows are read from and written in: found by a file's ending, a folder's files, or named.

A reader yields rows with their places, counted from 1, so that a fault can be found again. JSONL is read in
`pairs`, line by line, since its faults are those of single lines.
"""

import csv
import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nic_ray.dataset.beir_files import CORPUS, QRELS, QUERIES, answers_of, splits_of, texts_of
from nic_ray.dataset.hub import rows_sha256
from nic_ray.errors import InputError, in_one_line
from nic_ray.evidence import JsonObject
from nic_ray.sources import Sources, is_hub, listed
from nic_ray.validation import Unreadable, kind_of_value

DATASET, DATASETS, STATE = "dataset_info.json", "dataset_dict.json", "state.json"
"""Files by which `datasets` marks the folder of a data set, and that of several splits, and lists its other files."""
NO_PAIRS = {DATASET, "dataset_infos.json"}
"""Files in which `datasets` describes a folder of files."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row, or, in place of all rows, with a file."""

    message: str


class OtherFormat(ValueError):
    """A file holds something else than its format; the message says what is wrong with it."""


Rows = Iterator[tuple[int, JsonObject | Fault]]
"""(place, row) of each row; place 0 stands for the file as a whole."""


@dataclass(frozen=True)
class Format:
    """A format of files or folders."""

    endings: tuple[str, ...]
    """In lower case; none for a folder."""
    unit: str
    """What places count: "line" or "row"."""
    read: Callable[[Path], tuple[Sequence[str] | None, Rows]]
    """Returns the names of the columns, None where every row may have its own, and the rows."""
    write: Callable[[Path, Sequence[JsonObject]], None] | None = None
    """Writes rows with the fields of a pair; None where that is not supported."""
    is_text: bool = True
    """Whether a file that is not UTF-8 text is of another format."""


def format_named(path: Path, asked: str | None = None) -> str:
    """Return the name of a file's format in `FORMATS`, or "hub" for a data set of the hub.

    Args:
        path: the file or folder, which may not exist.
        asked: the format that the user names, if any.

    Raises:
        InputError: there is no such format.
    """
    if asked is not None and asked not in FORMATS:
        raise InputError(f"--format {asked}: no such format; known are {', '.join(FORMATS)}")
    if is_hub(path) or asked is not None:
        return "hub" if is_hub(path) else str(asked)
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        if names >= {CORPUS, QUERIES, QRELS}:
            return "beir"
        saved = names & {DATASETS, STATE} or (DATASET in names and not _files_in(path))
        return "datasets" if saved else "jsonl"
    ending = path.suffix.lower()
    by_ending = next((name for name, form in FORMATS.items() if ending in form.endings), "jsonl")
    return "json" if by_ending == "jsonl" and _begins_with_a_list(path) else by_ending


def files_of(sources: Sources) -> tuple[Path, ...]:
    """Return what is read, in its order: a folder that is no format's counts as the files of pairs in it, by name.

    Files in its subfolders, hidden ones and those of other endings are left out. A folder without any file of pairs
    stands for itself.
    """
    return tuple(file for path in listed(sources) for file in (_files_in(path) or [path]))


def _files_in(path: Path) -> list[Path]:
    entries = list(path.iterdir()) if path.is_dir() else []
    names = {entry.name for entry in entries}
    # two of the three parts of a folder in BEIR form are one that lacks a part
    if names & {DATASETS, STATE} or len(names & {CORPUS, QUERIES, QRELS}) > 1:
        return []
    return sorted(
        entry
        for entry in entries
        if entry.suffix.lower() in ENDINGS
        and not entry.name.startswith(".")
        and entry.name not in NO_PAIRS
        and entry.is_file()
    )


def left_out_of(sources: Sources) -> Iterator[str]:
    """Tell the user, a line each, what is not read of folders that stand for the files in them."""
    for path in listed(sources):
        read = _files_in(path)
        others = sorted(entry.name for entry in path.iterdir() if entry not in read) if read else []
        if seen := [name for name in others if not name.startswith(".")]:
            more = f" and {len(seen) - 5} more" if len(seen) > 5 else ""
            are = "is" if len(seen) == 1 else "are"
            yield f"{path}: {', '.join(seen[:5])}{more} {are} left out: no files of pairs by their endings"


def content_sha256(sources: Sources) -> str:
    """Compute the SHA-256 of a file, of all files in a folder of a format with their names, or of a hub's rows.

    That of several is the hash of their hashes in their order, so that it does not depend on where they lie.

    Raises:
        OSError: a file cannot be read.
        InputError: the hub does not give its data set.
    """
    path, *others = files_of(sources)
    if others:
        return hashlib.sha256("".join(f"{content_sha256(each)}\n" for each in (path, *others)).encode()).hexdigest()
    if is_hub(path):
        return rows_sha256(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for inside in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{inside.relative_to(path).as_posix()} {content_sha256(inside)}\n".encode())
    return digest.hexdigest()


def write_rows(path: Path, rows: Sequence[JsonObject], name: str) -> None:
    """Write rows with the fields of a pair.

    Args:
        path: a file that does not exist yet.
        name: a format in `FORMATS`.

    Raises:
        InputError: rows are not written in this format.
    """
    write = FORMATS[name].write
    if write is None:
        known = ", ".join(known for known, form in FORMATS.items() if form.write is not None)
        raise InputError(f"{path}: rows are not written in the format {name}; name one of {known}")
    write(path, rows)


def _begins_with_a_list(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    except OSError:
        return False


def _read_json(path: Path) -> tuple[None, Rows]:
    return None, _json_rows(path)


def _json_rows(path: Path) -> Rows:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        yield 0, Fault(f"not UTF-8 ({error.reason} at byte {error.start + 1}); save the file as UTF-8")
        return
    except (ValueError, RecursionError) as error:
        raise OtherFormat(f"is no sound JSON ({error})") from None
    if isinstance(content, dict) and {"queries", "corpus", "relevant_docs"} <= content.keys():
        yield from _llama_index_rows(content)
    elif isinstance(content, list) and any(isinstance(row, dict) for row in content):
        for number, row in enumerate(content, start=1):
            yield number, row if isinstance(row, dict) else Fault(f"must be a JSON object, got {kind_of_value(row)}")
    else:
        raise OtherFormat("is JSON of another kind; want a list of objects, or a data set as LlamaIndex writes it")


def _llama_index_rows(content: Mapping[str, Any]) -> Rows:
    """Yield a row for each query of LlamaIndex' EmbeddingQAFinetuneDataset, with all of its passages."""
    queries, corpus, relevant = content["queries"], content["corpus"], content["relevant_docs"]
    if not all(isinstance(part, dict) for part in (queries, corpus, relevant)):
        yield 0, Fault("queries, corpus and relevant_docs must be JSON objects, as LlamaIndex writes them")
        return
    for number, (query, passages) in enumerate(relevant.items(), start=1):
        if not isinstance(passages, list) or not all(isinstance(key, str) for key in passages):
            other = next((key for key in passages if not isinstance(key, str)), "") if type(passages) is list else ""
            got = f"a list with {kind_of_value(other)}" if other != "" else kind_of_value(passages)
            yield number, Fault(f'relevant_docs: "{query}" must be of a list of ids, as texts, got {got}')
            continue
        unknown = [
            f'{part} has no "{key}"'
            for part, keys, texts in (("queries", [query], queries), ("corpus", passages, corpus))
            for key in keys
            if key not in texts
        ]
        if unknown:
            yield number, Fault(f"relevant_docs: {', '.join(unknown)}")
        else:
            yield number, {"query": queries[query], "positive": [corpus[key] for key in passages]}


def _read_table(delimiters: str) -> Callable[[Path], tuple[Sequence[str], Rows]]:
    def read(path: Path) -> tuple[Sequence[str], Rows]:
        lines = _lines_of_a_table(path, delimiters)
        place, header = next(lines, (0, []))
        if isinstance(header, Fault):
            return [], iter([(place, header)])
        if fault := _repeated(header):
            return [], iter([(place, fault)])
        return header, _rows_of_a_table(header, lines)

    return read


def _repeated(names: Sequence[str]) -> Fault | None:
    """Return a fault where a name stands for several columns; columns without a name hold nothing that is read."""
    repeated = list(dict.fromkeys(name for at, name in enumerate(names) if name and name in names[:at]))
    if not repeated:
        return None
    listed = ", ".join(f'"{name[:40]}"' for name in repeated)
    return Fault(f"has several columns of the name {listed}; give each a name of its own")


def _lines_of_a_table(path: Path, delimiters: str) -> Iterator[tuple[int, list[str] | Fault]]:
    csv.field_size_limit(sys.maxsize)  # a passage may be longer than 128 KB
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(delimiters, key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            before = 0
            for cells in reader:
                if cells:
                    yield before + 1, cells
                before = reader.line_num
    except UnicodeDecodeError as error:
        yield 0, Fault(f"not UTF-8 ({error.reason} at byte {error.start + 1} of a part); save the file as UTF-8")
    except csv.Error as error:
        yield before + 1, Fault(f"no sound line of a table ({error}); quote a cell that holds quotes or line ends")


def _rows_of_a_table(header: Sequence[str], lines: Iterator[tuple[int, list[str] | Fault]]) -> Rows:
    for place, cells in lines:
        if isinstance(cells, Fault):
            yield place, cells
        elif len(cells) != len(header):
            yield place, Fault(f"has {len(cells)} cells, and the header has {len(header)}")
        else:
            yield place, {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}


def _read_parquet(path: Path) -> tuple[Sequence[str], Rows]:
    import pyarrow
    from pyarrow import parquet

    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    try:
        file = parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.strerror:
            raise
        return [], iter([(0, Fault(f"is no sound Parquet file ({in_one_line(error)})"))])
    if fault := _repeated(file.schema_arrow.names):
        return [], iter([(0, fault)])
    return file.schema_arrow.names, _rows_of_batches(file.iter_batches(batch_size=10_000))


def splits_saved(path: Path) -> list[str]:
    """Return the names of the splits of a folder in which `datasets` saved several.

    Raises:
        OSError: the file that holds their names cannot be read, or is none of that kind.
    """
    try:
        splits = json.loads((path / DATASETS).read_text(encoding="utf-8"))["splits"]
    except (ValueError, RecursionError, TypeError, KeyError):
        splits = []
    if not isinstance(splits, list) or not splits or not all(isinstance(split, str) for split in splits):
        raise OSError(errno.EBADMSG, f"{DATASETS} does not name its splits; save the folder again")
    return splits


def _read_datasets(path: Path) -> tuple[Sequence[str], Rows]:
    """Read a folder that `datasets` saved: Arrow streams, named in state.json."""
    import pyarrow

    if (path / DATASETS).exists():
        named = ", ".join(str(path / split) for split in splits_saved(path))
        return [], iter([(0, Fault(f"holds several splits; name one of {named}"))])
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        files = [path / part["filename"] for part in state["_data_files"]]
        streams = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))) for file in files]
    except (KeyError, TypeError, RecursionError):
        return [], iter(
            [(0, Fault(f"is no sound folder of datasets ({STATE} does not name its files); save it again"))]
        )
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        return [], iter([(0, Fault(f"is no sound folder of datasets ({in_one_line(error)}); save it again"))])
    names = streams[0].schema.names if streams else []
    if fault := _repeated(names):
        return [], iter([(0, fault)])
    return names, _rows_of_batches(batch for stream in streams for batch in stream)


def _rows_of_batches(batches: Iterator[Any]) -> Rows:
    import pyarrow

    place = 0
    try:
        for batch in batches:
            # by columns, which takes half the time that a dictionary of each row does
            names, columns = batch.schema.names, [_values_of(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                place += 1
                yield place, {name: value for name, value in zip(names, values, strict=True) if value is not None}
    except (OSError, pyarrow.ArrowException) as error:
        yield 0, Fault(f"breaks off after row {place} ({in_one_line(error)})")


def _values_of(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except _UNREADABLE:
        return [_value_of(cell) for cell in column]


def _value_of(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return Unreadable("bytes that are not UTF-8; save it as UTF-8")
    except _UNREADABLE as error:
        return Unreadable(f"a value of type {cell.type} that cannot be read ({in_one_line(error)})")


_UNREADABLE = (ValueError, OverflowError, KeyError)
"""Errors of pyarrow for bytes that are not UTF-8, dates of no calendar, and time zones that are unknown."""


def _read_beir(path: Path) -> tuple[Sequence[str], Rows]:
    return ["query", "positive", "score"], ((place, row) for place, _, row in beir_rows(path, splits_of(path)))


def beir_rows(folder: Path, splits: Sequence[str]) -> Iterator[tuple[int, str, JsonObject]]:
    """Yield place, split and row of each query of some splits in BEIR form, with the passages that answer the query.

    Raises:
        InputError: one of its files cannot be used; the message names it without the folder.
    """
    try:
        yield from _beir_rows(folder, splits)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{folder}{os.sep}")) from None


def _beir_rows(folder: Path, splits: Sequence[str]) -> Iterator[tuple[int, str, JsonObject]]:
    passages, queries = texts_of(folder / CORPUS), texts_of(folder / QUERIES)
    place = 0
    for split in splits:
        by_query: dict[str, dict[str, float]] = {}
        for (query, passage), score in answers_of(folder, split, queries, passages).items():
            by_query.setdefault(query, {})[passage] = score
        for query, answers in by_query.items():
            place += 1
            texts = [passages[passage] for passage in answers]
            yield place, split, {"query": queries[query], "positive": texts, "score": list(answers.values())}


def _read_jsonl(path: Path) -> tuple[None, Rows]:
    raise NotImplementedError(f"{path}: JSONL is read by `pairs`")


def _write_jsonl(path: Path, rows: Sequence[JsonObject]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_json(path: Path, rows: Sequence[JsonObject]) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_table(delimiter: str) -> Callable[[Path, Sequence[JsonObject]], None]:
    def write(path: Path, rows: Sequence[JsonObject]) -> None:
        flat = [_without_lists(row) for row in rows]
        names = list(dict.fromkeys(name for row in flat for name in row))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(flat)

    return write


def _without_lists(row: JsonObject) -> JsonObject:
    """Return a row with a column for each of its negatives."""
    flat = {name: value for name, value in row.items() if name != "negative"}
    return flat | {f"negative_{number}": text for number, text in enumerate(row.get("negative", []), start=1)}


def _write_parquet(path: Path, rows: Sequence[JsonObject]) -> None:
    import pyarrow
    from pyarrow import parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), path)


FORMATS = {
    "jsonl": Format((".jsonl", ".ndjson"), "line", _read_jsonl, _write_jsonl),
    "json": Format((".json",), "row", _read_json, _write_json),
    "csv": Format((".csv",), "line", _read_table(",;\t|"), _write_table(",")),
    "tsv": Format((".tsv", ".tab"), "line", _read_table("\t"), _write_table("\t")),
    "parquet": Format((".parquet", ".pq"), "row", _read_parquet, _write_parquet, is_text=False),
    "datasets": Format((), "row", _read_datasets),
    "beir": Format((), "row", _read_beir),
}
"""Name -> format."""
ENDINGS = {ending for form in FORMATS.values() for ending in form.endings}
"""Of files that are read in a folder."""
