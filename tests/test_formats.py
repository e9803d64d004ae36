"""Every format of pairs: read, written again, and each fault that a file of it may have, with its place."""

import json
import re
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from nic_ray import console
from nic_ray.check import main as check
from nic_ray.data_config import DataConfig, FileFormat
from nic_ray.dataset.columns import UnknownColumn, match_columns
from nic_ray.dataset.form import Form, form_of, parse_form
from nic_ray.dataset.formats import FORMATS, content_sha256, files_of, format_named, write_rows
from nic_ray.dataset.pairs import describe_problems, find_problems, read_file, read_pairs, row_of
from nic_ray.errors import InputError
from nic_ray.training.prepared import divide, split_sha256

ROWS = [
    {"query": f"what of part {n}?", "positive": f"Part {n}:\n„all“, or 'half'; 5 µm, \"so\".", "domain": domain}
    | ({"negative": [f"Part {n + 1}.", "none"]} if n % 3 == 0 else {})
    for n, domain in enumerate(["pumps"] * 4 + ["valves"] * 4)
]
ROOT = Path(__file__).parents[1]


def with_columns(rows):
    """For formats without lists: a column for each negative."""
    return [
        {name: value for name, value in row.items() if name != "negative"}
        | {f"negative_{number}": text for number, text in enumerate(row.get("negative", []), 1)}
        for row in rows
    ]


def csv_of(rows, delimiter=","):
    rows = with_columns(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    quoted = [[str(row.get(name, "")).replace('"', '""') for name in names] for row in rows]
    return "".join(delimiter.join(f'"{cell}"' for cell in cells) + "\n" for cells in [names, *quoted])


def save(folder: Path, form: str, rows) -> Path:
    """Write rows as other programs would, and return what a user names."""
    path = folder / f"rows{next(iter(FORMATS[form].endings), '')}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif form == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif form in ("csv", "tsv"):
        path.write_text(csv_of(rows, {"csv": ",", "tsv": "\t"}[form]), encoding="utf-8")
    elif form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif form == "datasets":
        Dataset.from_list(rows).save_to_disk(str(path))
    else:
        save_beir(path, rows)
    return path


def save_beir(path: Path, rows) -> None:
    (path / "qrels").mkdir(parents=True)
    for file, field in (("queries.jsonl", "query"), ("corpus.jsonl", "positive")):
        lines = [json.dumps({"_id": f"{field}{n}", "text": row[field]}) for n, row in enumerate(rows)]
        (path / file).write_text("\n".join(lines), encoding="utf-8")
    for split, part in (("test", rows[:3]), ("train", rows[3:])):
        first = rows.index(part[0])
        lines = [f"query{n}\tpositive{n}\t1" for n in range(first, first + len(part))]
        (path / "qrels" / f"{split}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *lines]), encoding="utf-8"
        )


def essence(pairs, *, whole=True):
    return [(pair.query, pair.positive, *((pair.domain, pair.negatives) if whole else ())) for pair in pairs]


EXPECTED = [(row["query"], row["positive"], row["domain"], tuple(row.get("negative", ()))) for row in ROWS]


def test_the_settings_name_every_format():
    assert set(FileFormat.__args__) == {*FORMATS}


@pytest.mark.parametrize("form", FORMATS)
def test_rows_are_read_as_they_were_written_and_keep_their_places(tmp_path, form):
    path = save(tmp_path, form, ROWS)
    assert format_named(path) == form
    found = read_file(path)
    assert found.problems == []
    if form == "beir":
        assert essence(found.pairs, whole=False) == [row[:2] for row in EXPECTED]
        assert found.notes == ['no column holds domains: all rows are of one, "rows"']
    else:
        assert essence(found.pairs) == EXPECTED
    places = [2 * n + 2 for n in range(8)] if form in ("csv", "tsv") else [*range(1, 9)]  # a text of two lines each
    assert [pair.line for pair in found.pairs] == places
    assert {pair.unit for pair in found.pairs} == {FORMATS[form].unit}


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", [name for name, form in FORMATS.items() if form.write is not None])
def test_a_clean_copy_in_any_format_holds_the_same_rows(tmp_path, capsys, source, target):
    path = save(tmp_path, source, [*ROWS, ROWS[0]])
    out = tmp_path / f"clean{FORMATS[target].endings[0]}"
    check(path, write_clean=out, leave_out="duplicate-row")
    assert f"written: {out}: 8 of 9 rows" in " ".join(capsys.readouterr().out.split())
    assert essence(read_pairs(out), whole=source != "beir") == (
        EXPECTED if source != "beir" else [row[:2] for row in EXPECTED]
    )


def test_the_reference_set_has_the_same_split_in_every_format(tmp_path):
    pairs = read_pairs(ROOT / "data/reference/pairs.jsonl")[:400]
    rows = [
        {"query": pair.query, "positive": pair.positive, "domain": pair.domain, "source_section": pair.source_section}
        for pair in pairs
    ]
    splits, texts, numbers = set(), set(), set()
    for form in FORMATS.keys() - {"beir"}:
        collection, parts = divide(read_pairs(save(tmp_path, form, rows)), DataConfig())
        splits.add(split_sha256(collection, parts))
        # what is embedded and ranked, and so every figure
        texts.add(collection.texts)
        numbers.add(tuple(collection.query.tolist() + collection.positive.tolist() + collection.corpus.tolist()))
    assert (len(splits), len(texts), len(numbers)) == (1, 1, 1)


BROKEN_CORPUS = {
    "missing column": (b'{"_id": "c"}', 'line 3: "text" is missing'),
    "missing text": (b'{"_id": "c", "text": null}', 'line 3: "text" must be text, got null'),
    "wrong type": (b'{"_id": "c", "text": 7}', 'line 3: "text" must be text, got a number'),
    "nested": (b'{"_id": {"of": "c"}, "text": "t"}', 'line 3: "_id" must be text, got an object'),
    "wrong encoding": (b'{"_id": "c", "text": "caf\xe9"}', "corpus.jsonl: not UTF-8"),
    "cut off": (b'{"_id": "c", "te', "line 3: not JSON"),
    "empty file": (b"", "corpus.jsonl: cannot be used"),
}
"""For a folder in BEIR form: what is wrong -> the third line of its corpus, and what the message says."""


def broken(kind: str, form: str, folder: Path) -> tuple[Path, str] | None:
    """Write a file with a fault; return it with a pattern of the message, or None where the format cannot have it."""
    if form == "beir" and kind in BROKEN_CORPUS:
        path, (third, message) = save(folder, form, ROWS), BROKEN_CORPUS[kind]
        lines = (path / "corpus.jsonl").read_bytes().split(b"\n")
        content = b"\n".join([*lines[:2], third, *lines[3:]]) if third else b""
        (path / "corpus.jsonl").write_bytes(content)
        return path, message
    lines, texts = FORMATS[form].unit, form in ("jsonl", "json", "csv", "tsv")
    third = {"jsonl": 3, "json": 3, "csv": 6, "tsv": 6, "parquet": 3, "datasets": 3}.get(form)
    if kind == "missing column":
        if form == "beir":
            return None
        return save(folder, form, [{"question of": row["query"], "positive": "p"} for row in ROWS]), (
            r"no column is known to hold the queries \(found: question of, positive\); name it .* --columns"
        )
    if kind == "missing text":
        if form == "beir":
            return None
        rows = [row if n != 2 else {**row, "query": None} for n, row in enumerate(ROWS)]
        missing = form in ("csv", "tsv", "parquet", "datasets")
        if form in ("csv", "tsv"):
            rows = [row if n != 2 else {**row, "query": ""} for n, row in enumerate(ROWS)]
        return save(
            folder, form, rows
        ), rf'{lines} {third}: "query" {"is missing" if missing else "must be text, got null"}'
    if kind == "wrong type":
        if form in ("beir", "csv", "tsv", "datasets"):
            return None
        rows = [{**row, "positive": 7} for row in ROWS] if form == "parquet" else [
            row if n != 2 else {**row, "positive": 7} for n, row in enumerate(ROWS)
        ]  # fmt: skip
        place = "rows 1-8" if form == "parquet" else f"{lines} {third}"
        return save(folder, form, rows), rf'{place}: "positive" must be text or a list of texts, got a number'
    if kind == "nested":
        if form in ("beir", "csv", "tsv"):
            return None
        rows = [{**row, "negative": [{"text": "n"}]} for row in ROWS]
        return save(folder, form, rows), rf'{lines}s 1-8: "negative" item 1 must be text, got an object'
    if kind == "empty file":
        path = folder / f"rows{next(iter(FORMATS[form].endings), '')}"
        if form in ("datasets", "beir"):
            return None
        path.touch()
        return path, "is no sound Parquet file" if form == "parquet" else "holds no rows"
    if kind == "one row":
        return save_one(folder, form), r'domain ".*" has too few distinct positive passages, 1; want 3'
    if kind == "wrong encoding":
        if form == "beir":
            return None
        path = save(folder, form, ROWS)
        if not texts:
            file = path if form == "parquet" else next(path.glob("*.arrow"))
            table = pyarrow.table({"query": unsound_column("text"), "positive": ["p", "r", "s"], "domain": ["d"] * 3})
            if form == "parquet":
                parquet.write_table(table, file)
            else:
                with pyarrow.ipc.new_stream(str(file), table.schema) as stream:
                    stream.write_table(table)
            return path, r'row 2: "query" must be text, got bytes that are not UTF-8; save it as UTF-8'
        path.write_bytes(path.read_bytes().replace(b"what of part 2?", b"caf\xe9"))
        return path, r"[Nn]?ot UTF-8 .*save the file as UTF-8"
    if kind == "cut off":
        if form in ("jsonl", "beir"):
            return None
        path = save(folder, form, ROWS)
        if form == "datasets":
            path = next(path.glob("*.arrow"))
        path.write_bytes(path.read_bytes()[:-40])
        wanted = {"json": "not a sound one", "parquet": "is no sound Parquet file"}
        return (folder / "rows" if form == "datasets" else path), wanted.get(
            form, "cells, and the header has|breaks off|no sound"
        )
    if kind == "duplicate ids":
        if form != "beir":
            return None
        path = save(folder, form, ROWS)
        with (path / "corpus.jsonl").open("a") as file:
            file.write('\n{"_id": "positive0", "text": "another"}\n')
        return path, r"line 9: \"_id\" 'positive0' stands in an earlier line too; each must be of one text"
    if kind == "unknown ids":
        if form not in ("beir", "json"):
            return None
        path = save(folder, form, ROWS)
        if form == "beir":
            (path / "qrels" / "test.tsv").write_text("query0\tgone\t1\n")
            return path, "line 1: corpus-id 'gone' is not in corpus.jsonl"
        content = {"queries": {"q": "how?"}, "corpus": {"p": "so"}, "relevant_docs": {"q": ["gone"]}}
        path.write_text(json.dumps(content))  # as LlamaIndex writes a data set
        return path, 'row 1: relevant_docs: corpus has no "gone"'
    if kind == "score":
        if form == "beir":
            return None
        rows = [{**row, "score": -1 if n == 2 else 2} for n, row in enumerate(ROWS)]
        return save(folder, form, rows), rf'{lines} {third}: "score" item 1 must be above 0, got -1'
    if kind == "synthetic":
        if form == "beir":
            return None
        rows = [{**row, "synthetic": "perhaps" if n == 2 else "true"} for n, row in enumerate(ROWS)]
        message = rf"{lines} {third}: \"synthetic\" must be true or false, in a table also 1 or 0, got 'perhaps'"
        return save(folder, form, rows), message
    return None


def save_one(folder: Path, form: str) -> Path:
    if form != "beir":
        return save(folder, form, ROWS[:1])
    save_beir(folder / "rows", ROWS[:4])
    for name in ("test", "train"):
        (folder / "rows" / "qrels" / f"{name}.tsv").write_text("query0\tpositive0\t1\n")
    return folder / "rows"


FAULTS = (
    "missing column",
    "missing text",
    "wrong type",
    "nested",
    "empty file",
    "one row",
    "wrong encoding",
    "cut off",
    "duplicate ids",
    "unknown ids",
    "score",
    "synthetic",
)
TABLE = ROOT / "docs" / "formats.md"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_has_a_message_with_its_place(tmp_path, form, kind):
    made = broken(kind, form, tmp_path)
    if made is None:
        pytest.skip(f"{form} cannot have it, or says it by another fault")
    path, message = made
    pairs, problems = find_problems(path)
    assert problems
    text = describe_problems(path, pairs, problems)
    assert any(re.search(message, line) for line in text.splitlines()), text
    with pytest.raises(InputError):
        read_pairs(path)


def place_of(text: str) -> str:
    """What a message names of a fault: a line, a row, or the file alone."""
    if found := re.search(r"(lines?|rows?) \d", text):
        return found[1].rstrip("s")
    return "file"


def made_table(folder: Path) -> list[str]:
    """Lines of the table in docs/formats.md, as they turn out now."""
    kinds = [*FAULTS]
    lines = [f"| format | {' | '.join(['a clean copy', 'mark and line ends', *kinds])} |"]
    lines.append("|---" * (len(kinds) + 3) + "|")
    for form, source in FORMATS.items():
        cells = ["written" if source.write else "read only", "no matter" if source.is_text and source.endings else "–"]
        for number, kind in enumerate(kinds):
            own = folder / f"{form}{number}"
            own.mkdir()
            made = broken(kind, form, own)
            if made is None:
                cells.append("–")
                continue
            pairs, problems = find_problems(made[0])
            cells.append(place_of(describe_problems(made[0], pairs, problems)))
        lines.append(f"| {form} | {' | '.join(cells)} |")
    return lines


def test_the_table_of_formats_is_what_is_found(tmp_path):
    shown = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert shown == made_table(tmp_path)


@pytest.mark.parametrize("kind", FAULTS)
def test_check_refuses_each_fault_with_2_and_without_a_traceback(tmp_path, capsys, monkeypatch, kind):
    for form in FORMATS:
        (tmp_path / form).mkdir()
        if (made := broken(kind, form, tmp_path / form)) is None:
            continue
        monkeypatch.setattr(sys, "argv", ["check", str(made[0])])
        with pytest.raises(SystemExit) as stopped:
            console.run(check)
        assert (stopped.value.code, "Traceback" in capsys.readouterr().err) == (2, False)


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path, form):
    path = save(tmp_path, form, ROWS)
    content = path.read_text(encoding="utf-8")
    ends = content if form in ("csv", "tsv") else content.replace("\n", "\r\n")
    path.write_bytes(("\ufeff" + ends).encode())
    assert essence(read_pairs(path)) == EXPECTED


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (
            ["anchor", "positive", "negative"],
            {},
            {"query": ("anchor",), "positive": ("positive",), "negative": ("negative",)},
        ),
        (
            ["question", "answer", "negative_1", "negative_2"],
            {},
            {"query": ("question",), "positive": ("answer",), "negative": ("negative_1", "negative_2")},
        ),
        (["query", "pos", "neg", "prompt"], {}, {"query": ("query",), "positive": ("pos",), "negative": ("neg",)}),
        ([" Query", "TEXT", "topic"], {}, {"query": (" Query",), "positive": ("TEXT",), "domain": ("topic",)}),
        (["a", "b"], {"query": "b", "positive": "a"}, {"query": ("b",), "positive": ("a",)}),
        (["query", "question", "text"], {"query": "question"}, {"query": ("question",), "positive": ("text",)}),
    ],
)
def test_columns_are_found_by_the_names_that_others_use(names, given, expected):
    assert dict(match_columns(names, given).of) == expected


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (
            ["id", "text"],
            {},
            r"no column is known to hold the queries \(found: id, text\); name it .* --columns query=NAME",
        ),
        (
            [],
            {},
            r"hold the queries or the passages \(found: nothing\); name it .* --columns query=NAME,positive=NAME",
        ),
        (["query", "text"], {"positive": "answer"}, r'has no column "answer", which is named for positive'),
    ],
)
def test_a_column_that_is_not_there_is_named(names, given, message):
    with pytest.raises(UnknownColumn, match=message):
        match_columns(names, given)


def test_what_was_read_under_another_name_is_said(tmp_path, capsys):
    rows = [
        {"anchor": row["query"], "answers": [row["positive"], f"also {n}"], "topic": n % 2}
        for n, row in enumerate(ROWS)
    ]
    found = read_file(save(tmp_path, "jsonl", rows))
    assert found.notes == ['read "anchor" as query, "answers" as positive, "topic" as domain']
    assert [pair.domain for pair in found.pairs[:4]] == ["0", "0", "1", "1"]
    assert [pair.line for pair in found.pairs[:4]] == [1, 1, 2, 2]
    check(tmp_path / "rows.jsonl")
    assert found.notes[0] in " ".join(capsys.readouterr().out.split())


def test_a_column_is_named_by_the_user(tmp_path, capsys):
    rows = [{"frage": row["query"], "positive": row["positive"], "abteilung": row["domain"]} for row in ROWS]
    path = save(tmp_path, "csv", rows)
    form = parse_form(None, "query=frage,domain=abteilung")
    assert essence(read_pairs(path, form=form), whole=False) == [row[:2] for row in EXPECTED]
    for wrong in ("frage", "text=frage", "query="):
        with pytest.raises(InputError, match=r"--columns .*: want FIELD=NAME, by commas; fields are query, positive"):
            parse_form(None, wrong)
    with pytest.raises(InputError, match=r"--format xml: no such format; known are jsonl, json, csv"):
        read_pairs(path, form=Form("xml"))


def test_a_data_set_of_several_splits_is_named_split_by_split(tmp_path):
    DatasetDict({"train": Dataset.from_list(ROWS[:4]), "test": Dataset.from_list(ROWS[4:])}).save_to_disk(
        str(tmp_path / "d")
    )
    (problem,) = find_problems(tmp_path / "d")[1]
    named = f"{tmp_path / 'd' / 'train'}, {tmp_path / 'd' / 'test'}"
    assert problem.message.startswith(f"holds several splits; name one of {named}, or keep them with data.splits: own")
    assert essence(read_pairs(tmp_path / "d" / "train", {"pumps"})) == EXPECTED[:4]


def test_a_beir_folder_with_unknown_ids_names_file_and_line(tmp_path):
    save_beir(tmp_path / "rows", ROWS)
    with (tmp_path / "rows" / "qrels" / "test.tsv").open("a") as file:
        file.write("\nquery9\tpositive0\t1\n")
    pairs, (problem,) = find_problems(tmp_path / "rows")
    assert pairs == []
    assert "test.tsv: cannot be used" in problem.message
    assert "line 5: query-id 'query9' is not in queries.jsonl" in problem.message


def test_llama_index_rows_name_what_is_not_there(tmp_path):
    content = {
        "queries": {"q": "what?"}, "corpus": {"p": "this", "r": "that"},
        "relevant_docs": {"q": ["p", "r"], "z": ["p"]},
    }  # fmt: skip
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(content))
    pairs, problems = find_problems(path, {"pairs"})
    assert [(pair.positive, pair.line) for pair in pairs] == [("this", 1), ("that", 1)]
    assert [(problem.line, problem.message) for problem in problems] == [(2, 'relevant_docs: queries has no "z"')]


def test_a_folder_has_a_hash_of_its_files(tmp_path):
    path = save(tmp_path, "beir", ROWS)
    before = content_sha256(path)
    assert before == content_sha256(path)
    (path / "qrels" / "test.tsv").write_text("query0\tpositive0\t1\n")
    assert content_sha256(path) != before


@pytest.mark.parametrize("form", ["parquet", "json", "csv", "tsv", "jsonl"])
def test_fields_that_the_first_row_lacks_are_written(tmp_path, form):
    rows = [
        {"query": "q0", "positive": "p0", "domain": "pumps"},
        {"query": "q1", "positive": "p1", "domain": "pumps", "negative": ["n", "m"], "document": "d", "score": 2.5},
        {"query": "q2", "positive": "p2", "domain": "pumps", "source_section": "s", "score": 2.0},
    ]
    path = tmp_path / f"pairs.{form}"
    write_rows(path, rows, form)
    assert [row_of(pair) for pair in read_pairs(path)] == rows


SOUND = {"query": "q", "positive": "p", "domain": "pumps"}
HUGE = 10**400


def faults_of(folder: Path, form: str, row) -> list[str]:
    return [problem.message for problem in read_file(save(folder, form, [SOUND, row])).problems]


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"score": HUGE}, '"score" item 1 must be a finite number, got inf; leave it out where there is none'),
        ({"score": -HUGE}, '"score" item 1 must be a finite number, got -inf; leave it out where there is none'),
        ({"score": "1e999"}, '"score" item 1 must be a finite number, got inf; leave it out where there is none'),
        ({"score": "high"}, '"score" item 1 must be a number, got text'),
        ({"score": [1, None]}, '"score" item 2 must be a number, got null'),
        ({"score": [2, 1]}, '"score" must hold one number; got 2'),
        ({"score": []}, '"score" must hold one number; got none'),
        (
            {"positive": ["p", "r"], "score": [1, 2, 3]},
            '"score" must hold one number, or 2, one a positive; got 3',
        ),
    ],
)
def test_what_is_no_score_is_said(tmp_path, form, more, message):
    assert faults_of(tmp_path, form, SOUND | more) == [message]


def test_dates_and_decimals_name_domains_and_documents_and_bytes_do_not(tmp_path):
    moment = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
    for column in ([date(2024, 5, 1)] * 3, [moment] * 3, [Decimal("7.50")] * 3):
        path = save(tmp_path, "parquet", [SOUND | {"positive": f"p{n}", "domain": v, "document": v} for n, v in
                                          enumerate(column)])  # fmt: skip
        name = str(column[0]) if isinstance(column[0], Decimal) else column[0].isoformat()
        assert {(pair.domain, pair.document) for pair in read_pairs(path)} == {(name, name)}
    path = save(tmp_path, "parquet", [SOUND | {"domain": b"pumps"}])
    assert [problem.message for problem in read_file(path).problems] == ['"domain" must be text, got bytes']
    path = save(tmp_path, "parquet", [SOUND | {"query": float("nan")}])
    (problem,) = read_file(path).problems
    assert problem.message.startswith('"query" must be text, got NaN, which stands for a missing value; fill it in')


def unsound_column(kind: str) -> pyarrow.Array:
    """Three values of a column, of which the second is none of its type."""
    if kind == "text":
        return pyarrow.array([b"so", b"caf\xe9", None], pyarrow.binary()).view(pyarrow.string())
    if kind == "list":
        texts = pyarrow.array([b"so", b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
        return pyarrow.ListArray.from_arrays([0, 1, 2, 2], texts)
    return pyarrow.array([1, 2**30, None], pyarrow.int32()).view(pyarrow.date32())


@pytest.mark.parametrize("form", ["parquet", "datasets"])
@pytest.mark.parametrize(
    ("kind", "field", "message"),
    [
        ("text", "notes", None),
        ("list", "notes", None),
        ("date", "notes", None),
        ("text", "query", '"query" must be text, got bytes that are not UTF-8; save it as UTF-8'),
        ("text", "document", '"document" must be text, got bytes that are not UTF-8; save it as UTF-8'),
        (
            "list",
            "negative",
            '"negative" must be text or a list of texts, got bytes that are not UTF-8; save it as UTF-8',
        ),
        ("date", "domain", '"domain" must be text, got a value of type date32[day] that cannot be read'),
    ],
)
def test_a_value_that_cannot_be_read_matters_only_where_a_field_needs_it(tmp_path, form, kind, field, message):
    names = {name: [f"{name} {n}" for n in range(3)] for name in ("query", "positive")} | {"domain": ["pumps"] * 3}
    table = pyarrow.table({**names, field: unsound_column(kind)})
    if form == "parquet":
        path = tmp_path / "rows.parquet"
        parquet.write_table(table, path)
    else:
        path = save(tmp_path, form, ROWS)
        with pyarrow.ipc.new_stream(str(next(path.glob("*.arrow"))), table.schema) as stream:
            stream.write_table(table)
    found = read_file(path)
    rows = [1, 2, 3] if message is None else [1, 3]
    if field == "query":
        assert [problem.message for problem in found.problems if problem.line == 3] == [
            '"query" is missing (found: domain, positive)'
        ]
        rows = [1]
    elif field == "domain":
        rows = [1]
    assert [pair.line for pair in found.pairs] == rows
    of_second = [problem.message for problem in found.problems if problem.line == 2]
    assert len(of_second) == (message is not None)
    assert message is None or of_second[0].startswith(message)


@pytest.mark.parametrize(
    ("passages", "got"),
    [
        (5, "a number"),
        (None, "null"),
        ("p", "text"),
        ({"p": 1}, "an object"),
        ([["p"]], "a list with a list"),
        (["p", 5], "a list with a number"),
        ([None], "a list with null"),
    ],
)
def test_relevant_docs_of_llama_index_are_lists_of_ids(tmp_path, passages, got):
    content = {"queries": {"q": "what?", "r": "who?"}, "corpus": {"p": "this"}, "relevant_docs": {"q": passages}}
    content["relevant_docs"]["r"] = ["p"]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(content))
    found = read_file(path)
    wanted = f'relevant_docs: "q" must be of a list of ids, as texts, got {got}'
    assert [(problem.line, problem.message) for problem in found.problems] == [(1, wanted)]
    assert [(pair.query, pair.positive, pair.line) for pair in found.pairs] == [("who?", "this", 2)]


NO_JSON_OF_THEIRS = ["{", "[]", "{}", "null", '"x"', "[" * 100_000, "caf\xe9"]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("content", [*NO_JSON_OF_THEIRS, '{"splits": [1]}', '{"splits": []}', '{"splits": "ab"}'])
def test_a_folder_of_several_splits_that_does_not_name_them_is_refused(tmp_path, content, own):
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "d"))
    (tmp_path / "d" / "dataset_dict.json").write_bytes(content.encode("latin-1"))
    (problem,) = read_file(tmp_path / "d", Form(own_splits=own)).problems
    assert "(dataset_dict.json does not name its splits; save the folder again)" in problem.message


@pytest.mark.parametrize(
    "content",
    [*NO_JSON_OF_THEIRS, '{"_data_files": ["x"]}', '{"_data_files": [{"filename": 1}]}', '{"_data_files": 1}'],
)
def test_a_folder_of_datasets_that_does_not_name_its_files_is_refused(tmp_path, content):
    path = save(tmp_path, "datasets", ROWS)
    (path / "state.json").write_bytes(content.encode("latin-1"))
    (problem,) = read_file(path).problems
    assert re.match(r"is no sound folder of datasets \(.*\); save it again$", problem.message)


@pytest.mark.parametrize("kind", BROKEN_CORPUS)
def test_a_folder_in_beir_form_stands_once_in_its_message(tmp_path, kind):
    path, _ = broken(kind, "beir", tmp_path)
    text = describe_problems(path, *find_problems(path))
    assert text.startswith(f"{path}: corpus.jsonl: ")
    assert text.count(str(path)) == 1


@pytest.mark.parametrize("form", [name for name, each in FORMATS.items() if each.endings])
def test_a_folder_named_as_a_file_of_a_format_is_refused_as_a_folder(tmp_path, form):
    (problem,) = read_file(tmp_path, Form(form)).problems
    assert problem.message.startswith("is a folder; name a file in it, or a folder in BEIR form")


@pytest.mark.parametrize(
    ("others", "read"),
    [
        (("queries.jsonl",), ("more.jsonl", "queries.jsonl")),
        (("corpus.jsonl",), ("corpus.jsonl", "more.jsonl")),
        (("dataset_infos.json",), ("more.jsonl",)),
        (("dataset_info.json",), ("more.jsonl",)),
        (("dataset_info.json", "state.json"), ("",)),
        (("dataset_dict.json",), ("",)),
        (("queries.jsonl", "corpus.jsonl"), ("",)),
        (("queries.jsonl", "qrels"), ("",)),
    ],
)
def test_a_folder_of_files_of_pairs_is_told_from_one_of_a_format(tmp_path, others, read):
    for name in others:
        (tmp_path / name).write_text("")
    save(tmp_path, "jsonl", ROWS).rename(tmp_path / "more.jsonl")
    assert files_of(tmp_path) == tuple(tmp_path / name for name in read)


def test_a_description_of_a_data_set_beside_its_pairs_changes_nothing(tmp_path):
    for name in ("dataset_info.json", "dataset_infos.json"):
        (tmp_path / name).write_text("{}")
    save(tmp_path, "csv", ROWS)
    assert essence(read_pairs(tmp_path)) == EXPECTED


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "datasets"])
def test_a_name_of_several_columns_is_refused(tmp_path, form):
    names, cells = ["query", "positive", "note", "query", "note"], [["q", "p", "n", "r", "m"]] * 3
    if form in ("csv", "tsv"):
        mark = {"csv": ",", "tsv": "\t"}[form]
        path = tmp_path / f"rows.{form}"
        path.write_text("".join(mark.join(line) + "\n" for line in [names, *cells]))
    else:
        table = pyarrow.Table.from_arrays([pyarrow.array([text] * 3) for text in cells[0]], names=names)
        path = save(tmp_path, form, ROWS)
        if form == "parquet":
            parquet.write_table(table, path)
        else:
            with pyarrow.ipc.new_stream(str(next(path.glob("*.arrow"))), table.schema) as stream:
                stream.write_table(table)
    (problem,) = read_file(path).problems
    assert problem.message == 'has several columns of the name "query", "note"; give each a name of its own'


def test_columns_without_a_name_are_those_of_a_spreadsheet(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("query,positive,,\n" + "".join(f"q{n},p{n},,\n" for n in range(3)))
    assert [pair.query for pair in read_pairs(path)] == ["q0", "q1", "q2"]


def test_a_field_has_one_column_and_a_column_one_kind_of_text():
    with pytest.raises(InputError, match=r"--columns query=a,query=b: names two columns for query; name one"):
        parse_form(None, "query=a,query=b")
    message = 'names the column "a" for both {} and {}; name one for each'
    for fields in (("query", "positive"), ("query", "negative"), ("positive", "negative")):
        columns = dict.fromkeys(fields, "a")
        with pytest.raises(InputError, match=f"--columns .*: {message.format(*fields)}"):
            parse_form(None, ",".join(f"{field}=a" for field in fields))
        with pytest.raises(InputError, match=f"data.columns: {message.format(*fields)}"):
            form_of(DataConfig(columns=columns))
    assert parse_form(None, "domain=a,document=a,query=b").columns == {"domain": "a", "document": "a", "query": "b"}
