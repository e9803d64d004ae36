"""The command that says whether a file of pairs can be used."""

import inspect
import json
import subprocess
import sys
import time

import pytest

from nic_ray import check, console
from nic_ray.dataset.form import Form
from nic_ray.dataset.pairs import read_pairs
from nic_ray.dataset.rules import RULES
from nic_ray.tokens import PACKAGED_NAMES
from nic_ray.train_config import TrainConfig

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
    lines = [line.split() for line in out.split("──\n")[1].splitlines() if line.strip()][:3]
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: usable\n")
    assert lines == [
        ["hvac", "3", "3", "3", "3", "0"],
        ["radar", "3", "3", "3", "4", "3"],
        ["all", "6", "3", "3", "4", "3"],
    ]


def test_an_unusable_file_is_refused_with_every_line(pairs, run):
    path = pairs(*SOUND, *[{"query": "q", str(n): 0} for n in range(4, 34)])
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}: 30 of 33 lines are unusable\n")
    assert [f'  line {n}: "domain" is missing (found: {n}, query)' in err for n in range(4, 34)] == [True] * 30
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
    found = json.loads(out)
    finding, profile = found.pop("findings")[0], found.pop("profile")
    assert found == {
        "file": str(path),
        **counts,
        "domains": {"radar": counts},
        "problems": [],
        "notes": [],
        "written": None,
    }
    assert (finding["code"], finding["rows"], finding["lines"]) == ("small-domain", 3, [1, 2, 3])
    assert finding["effect"] == RULES["small-domain"].effect
    assert finding["examples"] == [{"line": 1, "text": "radar has 3 passages", "positive": 0}]
    assert profile["domains"]["radar"] == profile["whole"]
    assert profile["whole"]["passages"]["texts"] == 4


def test_json_of_an_unusable_file_lists_the_problems(pairs, run):
    code, out, err = run(pairs(*SOUND, [], SOUND[0] | {"domain": "hvac"}), "--json")
    found = json.loads(out)
    assert (code, err) == (2, "")
    assert (found["rows"], found["findings"], found["written"]) == (4, [], None)
    assert found["profile"] is None
    assert [(problem["line"], problem["message"][:13]) for problem in found["problems"]] == [
        (4, "must be a JSO"),
        (0, 'domain "hvac"'),
    ]


def test_what_the_rows_are_like_is_told_for_each_domain_and_the_whole(pairs, run):
    rows = [row | {"query": f"loose hose {n}", "domain": "hvac"} for n in range(2) for row in SOUND]
    code, out, err = run(pairs(*SOUND, *rows))
    table, _, told = out.split("──\n")[2].partition("\n\n")
    assert (code, err) == (0, "")
    assert [line.split() for line in table.splitlines() if line.strip()] == [
        ["hvac", "5", "4", "0.0%", "2", "2", "0.0%", "Latin", "100%"],
        ["radar", "4", "4", "0.0%", "1", "0", "0.0%", "Latin", "100%"],
        ["all", "4", "4", "0.0%", "3", "2", "0.0%", "Latin", "100%"],
    ]
    assert "\npassages a question: 1 in the median, 3 at most; 3 questions have 1, 2 have 3 to 5\n" in told
    assert "\nletters: Latin 100.0%; 0 of 9 texts mix scripts\n" in told
    assert "samples" not in told


FAULTY = [
    {"query": "How do I 12.?", "positive": "p3", "domain": "radar"},
    {"query": "antenna", "positive": "p4", "domain": "radar", "negative": "p4"},
    {"query": "antenna", "positive": "p4", "domain": "radar", "kind": "copy"},
]


def test_findings_are_shown_with_rows_effect_and_examples(pairs, run):
    code, out, err = run(pairs(*SOUND, *FAULTY))
    assert (code, err) == (0, "")
    table = out.split("──\n")[3].partition("\n\n")[0]
    assert [line.split()[:2] for line in table.splitlines() if not line.startswith(" ")] == [
        ["broken-query", "1"],
        ["duplicate-row", "1"],
        ["negative-is-positive", "1"],
        ["small-domain", "6"],
    ]
    assert "\nbroken-query: the query names nothing that a passage could be about\n  1 only numbers" in out
    assert '\n  line 4: "How do I 12.?": only numbers' in out
    assert '\n  line 6: "antenna": as line 5\n' in out
    for code in ("broken-query", "duplicate-row", "negative-is-positive"):
        assert RULES[code].effect in " ".join(table.split())


def test_a_file_without_findings_says_so(tmp_path, run):
    path = tmp_path / "pairs.jsonl"
    rows = [{"query": f"valve v{n}", "positive": f"passage {n} of it", "domain": "radar"} for n in range(54)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run(path)
    assert (code, out.endswith("\nnothing else found\n")) == (0, True)


def test_findings_that_a_build_must_not_have_end_it(pairs, run):
    path = pairs(*SOUND, *FAULTY)
    code, out, err = run(path, "--fail-on", "mojibake,broken-query,small-domain")
    assert (code, err) == (1, f"error: {path}: found broken-query (1 rows), small-domain (6 rows)\n")
    assert "line 4:" in out
    assert run(path, "--fail-on", "mojibake")[0] == 0
    code, out, _ = run(path, "--fail-on", "broken-query", "--json")
    assert (code, json.loads(out)["findings"][0]["code"]) == (1, "broken-query")


@pytest.mark.parametrize("option", ["--fail-on", "--leave-out"])
def test_an_unknown_finding_is_refused(pairs, run, tmp_path, option):
    code, out, err = run(pairs(*SOUND), "--write-clean", tmp_path / "clean.jsonl", option, "broken")
    assert (code, out) == (2, "")
    assert f'error: {option}: no finding is called "broken"; did you mean broken-query? There are: broken-query,' in err
    assert not (tmp_path / "clean.jsonl").exists()


def test_a_clean_file_goes_without_the_harmful_rows(pairs, run, tmp_path):
    path, clean = pairs(*SOUND, *FAULTY), tmp_path / "clean.jsonl"
    code, out, err = run(path, "--write-clean", clean)
    assert (code, err) == (0, "")
    assert f"\nwritten: {clean}: 4 of 6 rows; left out: broken-query 1, duplicate-row 1\n" in out
    lines = path.read_bytes().splitlines(keepends=True)
    assert clean.read_bytes() == b"".join([*lines[:3], lines[4]])
    code, _, err = run(path, "--write-clean", clean)
    assert (code, err) == (2, f"error: {clean}: exists already; name another file\n")


def test_a_clean_file_goes_without_the_findings_that_are_named(pairs, run, tmp_path):
    path, clean = pairs(*SOUND, *FAULTY), tmp_path / "clean.jsonl"
    code, out, _ = run(path, "--write-clean", clean, "--leave-out", "negative-is-positive,mojibake", "--json")
    assert code == 0
    assert json.loads(out)["written"] == {
        "file": str(clean),
        "rows": 5,
        "left_out": {"negative-is-positive": 1},
        "problems": [],
        "notes": [],
    }
    lines = path.read_bytes().splitlines(keepends=True)
    assert clean.read_bytes() == b"".join([*lines[:4], lines[5]])


def test_a_clean_file_that_cannot_be_used_is_said_to_be_so(pairs, run, tmp_path):
    broken = [row | {"query": f"How do I {n}.?"} for n, row in enumerate(SOUND)]
    code, out, _ = run(pairs(*SOUND[:2], *broken), "--write-clean", tmp_path / "clean.jsonl")
    assert code == 0
    assert '  cannot be used as it is: domain "radar" has too few distinct positive passages, 2; want 3' in out


def test_leaving_out_without_a_file_is_refused(pairs, run):
    code, _, err = run(pairs(*SOUND), "--leave-out", "broken-query")
    assert (code, err) == (
        2,
        "error: --leave-out: nothing is written without --write-clean FILE; name a file\n",
    )


def test_texts_are_measured_by_the_model_that_is_named(pairs, run, tiny_model_folder):
    # of the 32 characters of each passage the small model makes a token each, the packaged one a single word
    rows = [row | {"positive": row["positive"] + " qx" * 40} for row in SOUND]
    cut = [
        [finding["detail"] for finding in json.loads(run(pairs(*rows), "--json", *model)[1])["findings"]][:-1]
        for model in (["--base-model", tiny_model_folder], [], ["--max-tokens", "12"])
    ]
    assert "3 of 4 passages (positives and negatives) and 0 of 3 queries have more than 64 tokens" in cut[0][0]
    assert cut[1] == []
    assert "have more than 12 tokens" in cut[2][0]


def test_the_defaults_are_those_of_a_training():
    parameters = inspect.signature(check.main).parameters
    assert parameters["max_tokens"].default == TrainConfig().max_tokens
    assert parameters["base_model"].default == TrainConfig().base_model == PACKAGED_NAMES[0]


def test_the_help_names_every_finding_and_those_that_are_left_out():
    assert check.main.__doc__ is not None
    listed = check.main.__doc__.partition("Findings: ")[2].rstrip().rstrip(".").split(",")
    assert [code.strip() for code in listed] == list(RULES)
    option = inspect.signature(check.main, eval_str=True).parameters["leave_out"].annotation.__metadata__[0]
    said = option.help.partition("without it ")[2].replace(" and ", ", ").split(", ")
    assert said == [code for code, rule in RULES.items() if rule.left_out]


def test_help_loads_nothing_heavy_and_answers_at_once():
    code = (
        "import sys, runpy; sys.argv = ['check', '--help']\n"
        "heavy = {'numpy', 'pydantic', 'sklearn', 'ftfy', 'tokenizers', 'torch', 'ray'}\n"
        "try: runpy.run_module('nic_ray.check', run_name='__main__')\n"
        "finally: print(sorted(heavy & set(sys.modules)))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 5  # 0.2 s on an idle machine; a busy one is no defect
    assert "PAIRS" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_prompts_of_the_base_model_count_towards_its_limit(changed_model, pairs, run):
    rows = [{"query": f"hot rotor {n}", "positive": f"hot rotor {n}", "domain": "pumps"} for n in range(3)]
    given = (pairs(*rows), "--json", "--max-tokens", 8, "--base-model")
    bare, prompted = changed_model(), changed_model(prompts={"query": "a hot gasket: "})
    code, out, _ = run(*given, bare)
    assert "cut-off" not in {finding["code"] for finding in json.loads(out)["findings"]}
    code, out, _ = run(*given, prompted)
    (cut,) = (finding for finding in json.loads(out)["findings"] if finding["code"] == "cut-off")
    assert code == 0
    assert [example["text"] for example in cut["examples"]] == ["query of 9 tokens"]
    assert cut["detail"] == ("0 of 3 passages (positives and negatives) and 3 of 3 queries have more than 8 tokens")


# 8 lines and 11 pairs: line 6 repeats its passage, line 7 holds two near copies, line 8 an old and a new answer
POSITIVES = [
    *[f"The relay r{n} closes when switch s{n} is set to mark m{n} at rest." for n in range(5)],
    ["The fuse f1 sits behind panel p1 of the left rack."] * 2,
    [
        "Put the gasket on and tighten its six bolts crosswise to 40 Nm.",
        "PUT the gasket on, tighten its six bolts crosswise to 40 Nm!",
    ],
    ["The relay r1 closes when switch s1 is set to mark m1 at rest.", "Drain the sump \u00e4 at plug d2."],
]
QUERIES = [
    *[f"How is relay r{n} closed?" for n in range(5)],
    "Where is fuse f1?",
    "How tight is the gasket?",
    "How is relay r1 closed?",
]
SEVERAL = [
    {"query": query, "positive": positive, "domain": "radar"}
    for query, positive in zip(QUERIES, POSITIVES, strict=True)
]
LEFT = [(query, text) for query, text in zip(QUERIES, POSITIVES, strict=True) if isinstance(text, str)] + [
    (QUERIES[5], POSITIVES[5][0]),
    (QUERIES[6], POSITIVES[6][0]),
    (QUERIES[7], POSITIVES[7][1]),
]


@pytest.mark.parametrize("name", ["clean.jsonl", "clean.csv", "clean.parquet"])
def test_of_a_line_with_several_positives_only_the_faulty_ones_are_left_out(pairs, run, tmp_path, name):
    code, out, err = run(pairs(*SEVERAL), "--write-clean", tmp_path / name)
    assert (code, err) == (0, "")
    assert '\n  line 6, positive 2: "Where is fuse f1?": as line 6, positive 1\n' in out
    assert '\n  line 8, positive 1: "How is relay r1 closed?": as line 2\n' in out
    assert '\n  line 7, positive 2: "How tight is the gasket?": nearly as line 7, positive 1\n' in out
    assert ": 8 of 11 rows; left out: duplicate-row 2, near-duplicate-row 1\n" in out
    assert [(pair.query, pair.positive) for pair in read_pairs(tmp_path / name)] == LEFT


def test_a_line_keeps_its_other_values_when_it_loses_a_positive_and_goes_when_it_loses_all(pairs, run, tmp_path):
    gone = "The relay r0 closes when switch s0 is set to mark m0 at rest."
    last = {
        "id": 1,
        "question": QUERIES[6],
        "pos": [gone, gone, "Another ä."],
        "relevance": [1, 2, 3],
        "topic": "radar",
    }
    rows = [{"question": row["query"], "pos": row["positive"], "topic": "radar"} for row in SEVERAL[:5]]
    path = pairs(*rows, {**rows[0], "pos": [gone, gone]}, {**last})
    before = path.read_bytes().splitlines(keepends=True)
    code, out, err = run(path, "--write-clean", tmp_path / "clean.jsonl", "--json")
    found = {finding["code"]: finding for finding in json.loads(out)["findings"]}
    assert (code, err) == (0, "")
    assert json.loads(out)["written"]["left_out"] == {"duplicate-row": 3}
    duplicates = found["duplicate-row"]
    assert (duplicates["rows"], duplicates["lines"], duplicates["positives"]) == (3, [6, 7], {"6": [1, 2], "7": [2]})
    assert [(example["line"], example["positive"]) for example in duplicates["examples"]] == [(6, 0), (7, 2)]
    after = (tmp_path / "clean.jsonl").read_bytes().splitlines(keepends=True)
    assert after[:5] == before[:5]
    assert [*map(json.loads, after[5:])] == [{**last, "pos": [gone, "Another ä."], "relevance": [1, 3]}]


def test_a_copy_in_another_format_keeps_splits_and_names_the_columns_it_leaves_out(pairs, run, tmp_path):
    splits = ["train", "dev", "test"] * 2
    rows = [
        {**row, "split": split, "id": 1, "chapter": "x"} for row, split in zip([*SOUND, *FAULTY], splits, strict=True)
    ]
    path, clean = pairs(*rows), tmp_path / "clean.csv"
    code, out, err = run(path, "--write-clean", clean)
    assert (code, err) == (0, "")
    assert f'  without columns of {path} that are read as no field of a pair: "id", "chapter"\n' in out
    assert [pair.split for pair in read_pairs(clean, form=Form(own_splits=True))] == [
        "train",
        "validation",
        "test",
        "validation",
    ]
    second = tmp_path / "second.jsonl"
    second.write_text(
        json.dumps({"query": "q9", "positive": "p9", "domain": "radar", "split": "dev", "page": 3}) + "\n"
    )
    code, out, err = run(path, second, clean, "--write-clean", tmp_path / "all.parquet", "--json")
    assert json.loads(out)["written"]["notes"] == [
        f'without columns of {path} that are read as no field of a pair: "id", "chapter"',
        f'without columns of {second} that are read as no field of a pair: "page"',
    ]
    kept = [(pair.query, pair.split) for pair in read_pairs(tmp_path / "all.parquet", form=Form(own_splits=True))]
    assert kept == [
        ("q0", "train"),
        ("q1", "validation"),
        ("q2", "test"),
        ("antenna", "validation"),
        ("q9", "validation"),
    ]


@pytest.mark.parametrize(("name", "said"), [("clean.jsonl", True), ("clean.json", False)])
def test_a_copy_is_read_with_the_columns_that_it_has(pairs, run, tmp_path, name, said):
    path = pairs(*({"complaint": row["query"], "remedy": row["positive"]} for row in SOUND))
    columns = "query=complaint,positive=remedy"
    code, out, err = run(path, "--columns", columns, "--write-clean", tmp_path / name)
    assert (code, err) == (0, "")
    assert "3 of 3 rows; left out: none" in out
    assert "cannot be used" not in out
    assert (f"  keeps its columns: read it with --columns {columns}, or the same data.columns\n" in out) == said
