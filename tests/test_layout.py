"""Files that are none of pairs: said once what they are, with a way that leads to one."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

from nic_ray.dataset.pairs import Pair, describe_problems, find_problems, read_pairs

ROWS = [
    {
        "query": f"How is valve {n} checked?",
        "positive": f"Valve {n}: look, don't touch; 5 µm “or so”.",
        "domain": "shop",
    }
    for n in range(6)
]
NEGATIVE = {"negative": "The filter is checked."}
LAYOUTS = Path(__file__).parents[2] / "shared" / "faults" / "layouts"


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def renamed(**names):
    return [{names.get(name, name): text for name, text in row.items()} for row in ROWS]


def without_domain(rows):
    return [{name: value for name, value in row.items() if name != "domain"} for row in rows]


def table(delimiter):
    written = io.StringIO()
    writer = csv.DictWriter(written, ["query", "positive", "domain", "negative"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return written.getvalue()


LLAMA = {
    "queries": {f"q{n}": row["query"] for n, row in enumerate(ROWS)},
    "corpus": {f"p{n}": row["positive"] for n, row in enumerate(ROWS)},
    "relevant_docs": {f"q{n}": [f"p{n}"] for n in range(6)},
    "mode": "text",
}
LISTS = [row | {"pos": [row["positive"]], "neg": [], "prompt": ""} for row in ROWS]
FLAG = [{name: value for name, value in row.items() if name not in ("positive", "domain")} for row in LISTS]

WITH_A_WAY = {
    "a list under a name": (json.dumps({"version": 1, "data": ROWS}, indent=1), 'a list of 6 objects under "data"'),
    "columns by row": (pd.DataFrame(ROWS).to_json(), "holds a table by its columns"),
    "columns as lists": (json.dumps(pd.DataFrame(ROWS).to_dict("list")), "holds a table by its columns"),
    "rows by number": (pd.DataFrame(ROWS).T.to_json(), "is one JSON object, with 6 objects under names of their own"),
    "a table in parts": (pd.DataFrame(ROWS).to_json(orient="split"), "holds a table in parts"),
    "parts of a dataset": (json.dumps({"train": ROWS, "test": ROWS}), 'with a list of 6 objects under "train"'),
    "a German spreadsheet's CSV": (table(";").encode("cp1252"), "is a table with semicolons between its columns"),
}


def told(path):
    pairs, problems = find_problems(path)
    assert (pairs, [problem.line for problem in problems]) == ([], [0])
    return problems[0].message


def follow(way, folder):
    """Do in a folder what a message says, as a shell would, without starting another Python."""
    words = shlex.split(way[way.index("python -c") :])
    written = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(written),
        mock.patch.object(sys, "argv", ["-c", *words[3:4]]),
    ):
        exec(words[2], {})
    if ">" in words:
        (folder / words[-1]).write_text(written.getvalue(), encoding="utf-8")
    return folder / "converted.jsonl"


@pytest.mark.parametrize("form", WITH_A_WAY)
def test_what_a_file_is_is_said_once_and_the_way_out_leads_to_its_rows(tmp_path, form):
    content, message = WITH_A_WAY[form]
    path = tmp_path / "it's $HOME's `file`.x"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = told(path)
    assert message in found
    rows = read_pairs(follow(found, tmp_path))
    assert [(row.query, row.positive) for row in rows] == [(row["query"], row["positive"]) for row in ROWS]
    assert {row.domain for row in rows} <= {"shop", "manuals"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_another_encoding_is_named_and_the_way_out_keeps_every_character(tmp_path, encoding):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(ROWS).encode(encoding))
    found = told(path)
    assert found.startswith(f"is in {encoding.upper()}; save it in UTF-8: python -c ")
    assert follow(found, tmp_path).read_text(encoding="utf-8") == lines(ROWS)


def test_a_shell_takes_the_way_out_as_it_stands(tmp_path):
    path = tmp_path / "it's $HOME's `file`.x"
    path.write_text(json.dumps({"it's $HOME's": ROWS, "x": 1}))
    command = told(path).partition("make rows of it: ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=60)
    assert len(read_pairs(tmp_path / "converted.jsonl")) == 6


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize(
    "content", ["\n".join(json.dumps(row, indent=1) for row in ROWS), "".join(map(json.dumps, ROWS))]
)
def test_objects_that_share_a_line_or_take_several_are_written_on_one_each(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    found = told(path)
    assert found.startswith("holds JSON objects that do not keep to a line each; write each on one line: jq -c . ")
    subprocess.run(found[found.index("jq") :], shell=True, cwd=tmp_path, check=True, timeout=60)
    assert len(read_pairs(tmp_path / "converted.jsonl")) == 6


def zipped(name):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr(name, "x")
    return written.getvalue()


def parquet():
    written = io.BytesIO()
    pd.DataFrame(ROWS).to_parquet(written)
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08" + bytes(20), "is compressed with gzip; gzip -dc "),
        (b"BZh91AY", "is compressed with bzip2; bzip2 -dc "),
        (zipped("xl/workbook.xml"), "is an Excel workbook; save its table as CSV in UTF-8"),
        (zipped("word/document.xml"), "is a Word document; "),
        (zipped("pairs.jsonl"), "is a ZIP archive; unpack it"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF; write a row for each question"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Office document; "),
        (b"SQLite format 3\0", "is an SQLite database; "),
        (b"\x80\x04\x95\0\0\0\0", "is binary, no text; want a JSON object a line"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS, .* git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "is a web page or XML; download the file itself"),
        (b"- query: q\n  positive: p\n", r"is text, not JSON \(begins with '- query: q'\); want a JSON object a line"),
        (b"# pairs" + b"x" * 99 + b"\n", r"is text, not JSON \(begins with '# pairsx{32}…'\)"),
        (b"Dear all, this is it:\nno table, and\nno rows\n.\n", r"is text, not JSON \(begins with 'Dear all"),
        (b"," * 200_000, "is a table with commas between"),
        (b'[{"query": "q"},]', r"is a JSON list, and not a sound one \(.*line 1 column .*\); want"),
        (b'["a", "b"]\n["c", "d"]\n', "holds JSON that is no object a line; want"),
        (b"null\n", "holds JSON that is no object a line; want"),
        (b'{"query": "q"}\r{"query": "q"}\r', r"has lines that end in a carriage return alone, as on old Macs; tr "),
        (b'["a", "b"]', "is a JSON list without objects; want"),
        (b'{\n  "queries": {\n', r"is a JSON object over several lines, and not a sound one \(.*\); want"),
        (b'{\n "a": 1\n}', r"is one JSON object over several lines \(found: a\); want"),
        (
            b'{"title": "t", "abstract": "a"}\n',
            r"no column is known to hold the queries or the passages \(found: title, abstract\); name it",
        ),
        (b"id,abstract\n1,a\n", "is a table with commas between its columns; read it with --format csv"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named_once(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert re.search(message, told(path))


def test_a_parquet_file_by_another_name_is_named(tmp_path):
    path = tmp_path / "pairs"
    path.write_bytes(parquet())
    assert told(path) == "is a Parquet file; read it with --format parquet"


def test_a_pipe_is_refused_since_it_can_be_read_once(tmp_path):
    pipe = tmp_path / "pairs.jsonl"
    os.mkfifo(pipe)
    for source in (Path(os.devnull), pipe):  # the device first: whoever opens the pipe waits
        assert "is a pipe or a device, which can be read only once; write its rows into a file" in told(source)


NAN = "NaN, which is no JSON and stands for a missing value"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '{"query": "q", "positive": "p", "domain": NaN}',
            f'"domain" must be text, got {NAN}; fill it in, or leave the row out',
        ),
        (
            '{"query": "q", "positive": "p", "domain": "d", "negative": NaN}',
            f'"negative" must be text or a list of texts, got {NAN}; write null, or leave it out',
        ),
        (
            '{"query": -Infinity, "positive": "p", "domain": "d"}',
            '"query" must be text, got -Infinity, which is no JSON; fill it in, or leave the row out',
        ),
        (
            '{"query": "q", "positive": "p", "domain": "d"},',
            "ends in a comma, as in a JSON list; remove it, as sed 's/,[[:space:]]*$//' does",
        ),
        (
            "{'query': 'q', 'positive': 'p', 'domain': 'd'}",
            "not JSON, but an object as Python prints it; write it with json.dumps",
        ),
    ],
)
def test_a_fault_that_every_line_has_is_said_once(tmp_path, row, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{row}\n" * 500)
    text = describe_problems(path, *find_problems(path))
    assert text == f"{path}: 500 of 500 lines are unusable\n  lines 1-500: {message}\n  Correct them."


def test_lines_of_the_same_fault_are_listed_together_and_not_without_end(tmp_path):
    path = tmp_path / "pairs.jsonl"
    bad = ROWS[0] | {"query": ""}
    path.write_text(lines([row for n in range(100) for row in (ROWS[n % 6], bad)]))
    text = describe_problems(path, *find_problems(path))
    assert '\n  lines 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, and 90 more: "query" is empty\n' in text


def test_what_every_line_has_differently_is_not_listed_without_end(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(ROWS) + "".join(f'{{"{"q" * n}": \n' for n in range(500)))
    for listed, shown in ((20, 20), (None, 100)):
        text = describe_problems(path, *find_problems(path), listed=listed)
        assert len(text.splitlines()) <= shown + 3
        assert text.endswith(f"see all findings with: python -m nic_ray.check {path} --json")


def test_one_row_that_is_none_among_good_ones_makes_no_other_form(tmp_path):
    path = tmp_path / "pairs.jsonl"
    for first in ("# a comment", "[1, 2]", "query,positive", "<row>"):
        path.write_text(f"{first}\n" + lines(ROWS))
        pairs, problems = find_problems(path)
        assert [pair.line for pair in pairs] == [2, 3, 4, 5, 6, 7]
        assert [problem.line for problem in problems] == [1]


@pytest.mark.skipif(not LAYOUTS.exists(), reason="the layouts of others are not beside this repository")
@pytest.mark.parametrize("name", ["crlf", "graded", "pandas-null", "u2028"])
def test_sound_files_of_others_are_read(name):
    rows = read_pairs(LAYOUTS / f"{name}.jsonl")
    assert len(rows) == 12
    assert all(isinstance(row, Pair) for row in rows)


@pytest.mark.skipif(not LAYOUTS.exists(), reason="the layouts of others are not beside this repository")
def test_files_of_others_that_cannot_be_read_take_one_finding():
    for path in sorted(LAYOUTS.iterdir()):
        pairs, problems = find_problems(path)
        if problems:
            text = describe_problems(path, pairs, problems)
            assert len(text.splitlines()) <= 3, text
