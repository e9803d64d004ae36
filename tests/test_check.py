"""The command that says whether a file of pairs can be used."""

import json
import subprocess
import sys
import time

import pytest

from nic_ray import check, console

SOUND = [{"query": f"q{n}", "positive": f"p{n}", "domain": "radar", "negative": "n"} for n in range(3)]


@pytest.fixture
def pairs(tmp_path):
    def write(*rows):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["check", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            console.run(check.main)
        return stopped.value.code, *capsys.readouterr()

    return run


def test_a_usable_file_is_summarised_by_domain(pairs, run):
    path = pairs(*SOUND, *[row | {"domain": "hvac", "negative": None} for row in SOUND])
    code, out, err = run(path)
    lines = [line.split() for line in out.partition("──\n")[2].splitlines() if line.strip()]
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: usable\n")
    assert lines == [
        ["hvac", "3", "3", "3", "3", "0"],
        ["radar", "3", "3", "3", "4", "3"],
        ["all", "6", "3", "3", "4", "3"],
    ]


def test_an_unusable_file_is_refused_with_every_line(pairs, run):
    path = pairs(*SOUND, *[{"query": "q"}] * 30)
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}: 30 of 33 lines are unusable\n")
    assert [f'  line {n}: "domain" is missing (found: query)' in err for n in range(4, 34)] == [True] * 30
    assert err.endswith("\n  Correct them.\n")


def test_a_missing_file_is_refused(tmp_path, run):
    code, _, err = run(tmp_path / "none.jsonl")
    assert code == 2
    assert "none.jsonl: no such file" in err


def test_json_of_a_usable_file_holds_the_counts(pairs, run):
    path = pairs(*SOUND)
    counts = {"rows": 3, "queries": 3, "positives": 3, "passages": 4, "rows_with_negatives": 3}
    code, out, err = run(path, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"file": str(path), **counts, "domains": {"radar": counts}, "problems": []}


def test_json_of_an_unusable_file_lists_the_problems(pairs, run):
    code, out, err = run(pairs(*SOUND, [], SOUND[0] | {"domain": "hvac"}), "--json")
    found = json.loads(out)
    assert (code, err) == (2, "")
    assert found["rows"] == 4
    assert [(problem["line"], problem["message"][:13]) for problem in found["problems"]] == [
        (4, "must be a JSO"),
        (0, 'domain "hvac"'),
    ]


def test_help_loads_nothing_heavy_and_answers_at_once():
    code = (
        "import sys, runpy; sys.argv = ['check', '--help']\n"
        "try: runpy.run_module('nic_ray.check', run_name='__main__')\n"
        "finally: print(sorted({'numpy', 'pydantic', 'torch', 'ray'} & set(sys.modules)))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 5  # 0.2 s on an idle machine; a busy one is no defect
    assert "PAIRS" in done.stdout
    assert done.stdout.endswith("[]\n")
