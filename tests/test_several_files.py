"""Several files of pairs that are used together: their rows, faults, hashes, and the commands that name them."""

import hashlib
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from nic_ray import check, console, evaluate, plan, train, tune
from nic_ray.bundle.rows import data_for, form_on, is_ranked_as_folder
from nic_ray.config import Config
from nic_ray.config_file import dump_config, load_config
from nic_ray.data_config import DataConfig
from nic_ray.dataset.clean import write_clean
from nic_ray.dataset.form import Form, form_of
from nic_ray.dataset.formats import content_sha256, files_of
from nic_ray.dataset.lint import lint_pairs
from nic_ray.dataset.pairs import find_problems, read_file, read_pairs
from nic_ray.dataset.passages import read_corpus
from nic_ray.dataset.problems import describe_problems
from nic_ray.errors import InputError
from nic_ray.search.run import refuse_new_settings
from nic_ray.training.prepared import divide, divided, prepare, split_sha256
from nic_ray.training.start import describe_data, describe_run, describe_start, refuse_other_start

ROWS = [
    {"query": f"what of {domain} part {n}?", "positive": f"The {domain} part {n} is {'x' * n}.", "domain": domain}
    for domain in ("pumps", "valves")
    for n in range(5)
]


def write(path: Path, rows) -> Path:
    """Write rows in the format of the file's ending, each under column names of its own."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        lines = ["question,answer,topic", *(f'"{row["query"]}","{row["positive"]}",{row["domain"]}' for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        renamed = [{"anchor": row["query"], "pos": row["positive"], "category": row["domain"]} for row in rows]
        parquet.write_table(pyarrow.Table.from_pylist(renamed), path)
    return path


def essence(pairs):
    return [(pair.query, pair.positive, pair.domain) for pair in pairs]


def expected(rows):
    return [(row["query"], row["positive"], row["domain"]) for row in rows]


@pytest.fixture
def files(tmp_path):
    """The rows in three files of three formats, the last of which is in a folder."""
    (tmp_path / "more").mkdir()
    return (
        write(tmp_path / "a.jsonl", ROWS[:4]),
        write(tmp_path / "b.parquet", ROWS[4:7]),
        write(tmp_path / "more" / "c.csv", ROWS[7:]),
    )


def test_rows_of_several_formats_come_in_the_order_of_their_files(files):
    pairs = read_pairs(files)
    assert essence(pairs) == expected(ROWS)
    assert essence(read_pairs(files[::-1])) == expected([*ROWS[7:], *ROWS[4:7], *ROWS[:4]])
    assert [pair.place for pair in pairs[3:5]] == [f"{files[0]} line 4", f"{files[1]} row 1"]
    assert len({pair.line for pair in pairs}) == len(pairs)
    notes = read_file(files).notes
    assert notes == [
        f'{files[1]}: read "anchor" as query, "pos" as positive, "category" as domain',
        f'{files[2]}: read "question" as query, "answer" as positive, "topic" as domain',
    ]


def test_a_single_file_is_read_as_before(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    alone, listed = read_file(path), read_file((path,))
    assert alone == listed
    assert {(pair.file, pair.number) for pair in alone.pairs} == {("", 0)}
    assert [pair.place for pair in alone.pairs[:2]] == ["line 1", "line 2"]
    assert content_sha256(path) == content_sha256((path,)) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_row_of_an_earlier_file_counts_once_and_one_that_a_file_repeats_stays(tmp_path):
    first = write(tmp_path / "a.jsonl", [*ROWS, ROWS[0]])
    second = write(tmp_path / "b.jsonl", [ROWS[0], ROWS[1], ROWS[1], ROWS[2] | {"domain": "valves"}])
    third = write(tmp_path / "c.jsonl", [ROWS[2] | {"domain": "valves"}, ROWS[3] | {"negative": ["no"]}])
    found = read_file((first, second, third))
    kept = [*ROWS, ROWS[0], ROWS[2] | {"domain": "valves"}, ROWS[3]]
    assert essence(found.pairs) == expected(kept)
    assert found.notes == [
        f"3 rows of {second} stand in an earlier file too, and count once",
        f"1 row of {third} stands in an earlier file too, and counts once",
    ]


def test_what_only_the_repetition_of_a_row_says_is_kept_and_a_difference_is_said(tmp_path):
    bare = [{**row, "score": 1} for row in ROWS[:5]]
    full = [{**row, "document": f"manual {n // 2}", "score": 3} for n, row in enumerate(ROWS)]
    found = read_file((write(tmp_path / "a.jsonl", bare), write(tmp_path / "b.jsonl", full)))
    assert [(pair.document, pair.score) for pair in found.pairs[:5]] == [(f"manual {n // 2}", 3) for n in range(5)]
    assert [note for note in found.notes if "another document" in note] == []
    other = [{**row, "document": "another"} for row in ROWS[:2]]
    found = read_file((tmp_path / "b.jsonl", write(tmp_path / "c.jsonl", other)))
    assert found.pairs[0].document == "manual 0"
    assert found.notes[-1].startswith("2 of them name another document, section, score or kind than the earlier file")


def test_a_column_that_groups_is_not_replaced_by_another_one(tmp_path):
    rows = [{**row, "manual": "m"} for row in ROWS[:5]], [{**row, "document_id": "d"} for row in ROWS[5:]]
    files = write(tmp_path / "a.jsonl", rows[0]), write(tmp_path / "b.jsonl", rows[1])
    found = read_file(files, form_of(DataConfig(pairs=files, group_by="manual")))
    assert [pair.document for pair in found.pairs] == ["m"] * 5 + [None] * 5
    assert {pair.document for pair in read_file(files).pairs[5:]} == {"d"}


def test_what_a_folder_or_a_split_leaves_out_is_said(tmp_path):
    folder = tmp_path / "mix"
    write(folder / "train.jsonl", ROWS[:7])
    write(folder / "test.jsonl", ROWS[7:])
    (folder / "c.txt").write_text("notes")
    (folder / "sub.parquet").mkdir()
    notes = read_file(folder).notes
    assert f"{folder}: c.txt, sub.parquet are left out: no files of pairs by their endings" in notes
    assert "files are named test, train: data.splits: own keeps them as the parts that they are" in notes
    assert not [note for note in read_file(folder, Form(own_splits=True)).notes if "data.splits" in note]


def test_repeated_rows_are_counted_as_pairs_where_a_row_holds_several(tmp_path):
    first = write(tmp_path / "a.jsonl", ROWS)
    rows = [{"query": row["query"], "positive": [row["positive"]], "domain": "pumps"} for row in ROWS[:2]]
    again = tmp_path / "b.parquet"
    earlier = write(tmp_path / "c.jsonl", [ROWS[0] | {"positive": ["one", "two"]}])
    rows[0]["positive"] += ["one"]
    parquet.write_table(pyarrow.Table.from_pylist(rows), again)
    assert read_file((first, earlier, again)).notes == [
        f"3 pairs in 2 rows of {again} stand in an earlier file too, and count once"
    ]


def test_unusable_rows_that_take_several_lines_are_counted_as_rows(tmp_path):
    path = tmp_path / "a.csv"
    cells = [f'"what of\npart {n}?",The part {n}.,pumps\n' for n in range(9)]
    path.write_text("query,positive,domain\n" + "".join(cells) + "last,,pumps\n")
    text = describe_problems(path, *find_problems(path))
    assert text.startswith(f"{path}: 1 of 10 rows is unusable\n  line 20: ")
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {"query": "q"}]))
    assert ": 1 of 11 lines is unusable\n  line 11: " in describe_problems(lines, *find_problems(lines))


def test_the_faults_of_every_file_are_listed_with_their_file(tmp_path, files):
    bad = write(tmp_path / "bad.jsonl", [ROWS[0], {"query": "q", "domain": "pumps"}, {"query": "r", "domain": "pumps"}])
    sources = (files[0], bad, tmp_path / "gone.csv")
    pairs, problems = find_problems(sources)
    text = describe_problems(sources, pairs, problems)
    assert text.splitlines() == [
        f"{bad}: 2 rows are unusable",  # of how many is not known: the sound one stands in a.jsonl
        '  lines 2-3: "positive" is missing (found: domain, query)',
        "  Correct them.",
        f"{tmp_path / 'gone.csv'}: no such file; one that comes along is data/reference/pairs.jsonl",
    ]
    with pytest.raises(InputError) as refused:
        read_pairs(sources)
    assert f"python -m nic_ray.check {bad}" in str(refused.value)


def test_a_domain_is_judged_over_all_files_together(tmp_path):
    few, rest = write(tmp_path / "few.jsonl", ROWS[:2]), write(tmp_path / "rest.jsonl", ROWS[2:])
    with pytest.raises(InputError, match='domain "pumps" has too few'):
        read_pairs(few)
    assert len(read_pairs((few, rest))) == len(ROWS)
    sources = (write(tmp_path / "x.jsonl", ROWS[:1]), write(tmp_path / "y.jsonl", ROWS[1:2]))
    with pytest.raises(InputError) as refused:
        read_pairs(sources)
    assert str(refused.value).startswith(f'{sources[0]}, {sources[1]}: domain "pumps" has too few')


def test_rows_without_domains_are_of_one_for_each_file(tmp_path):
    bare = [{"query": row["query"], "positive": row["positive"]} for row in ROWS]
    sources = (write(tmp_path / "radar.jsonl", bare[:5]), write(tmp_path / "hvac.jsonl", bare[5:]))
    assert [pair.domain for pair in read_pairs(sources)] == ["radar"] * 5 + ["hvac"] * 5


def test_named_columns_hold_for_the_files_that_have_them(tmp_path):
    odd = [{"complaint": row["query"], "remedy": row["positive"], "domain": row["domain"]} for row in ROWS[:5]]
    sources = (write(tmp_path / "odd.jsonl", odd), write(tmp_path / "plain.csv", ROWS[5:]))
    named = {"query": "complaint", "positive": "remedy"}
    assert essence(read_pairs(sources, form=Form(columns=named))) == expected(ROWS)
    both = (write(tmp_path / "a.jsonl", ROWS[:5]), sources[1])
    with pytest.raises(InputError, match='no file has a column "complaint", which is named for query; name one'):
        read_pairs(both, form=Form(columns=named))
    with pytest.raises(InputError, match='has no column "complaint"'):
        read_pairs(both[0], form=Form(columns=named))


def test_a_folder_stands_for_the_files_of_pairs_in_it_by_name(tmp_path, files):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    second, first = write(folder / "b.csv", ROWS[5:]), write(folder / "a.jsonl", ROWS[:5])
    write(folder / "below" / "c.jsonl", [{"query": "q"}])
    (folder / "README.md").write_text("about")
    (folder / ".hidden.jsonl").write_text("{")
    assert files_of(folder) == (first, second)
    assert files_of((folder, files[0])) == (first, second, files[0])
    assert essence(read_pairs(folder)) == expected(ROWS)
    assert content_sha256(folder) == content_sha256((first, second))
    second.unlink()
    first.unlink()
    with pytest.raises(InputError, match=r"folder: is a folder; .* one that holds files of pairs \(\.csv, \.json,"):
        read_pairs(folder)


def test_the_hash_of_several_files_is_of_their_contents_in_their_order(tmp_path, files):
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert content_sha256(files) == hashlib.sha256("".join(f"{each}\n" for each in hashes).encode()).hexdigest()
    moved = []
    for number, path in enumerate(files):
        (tmp_path / f"at{number}").mkdir()
        moved.append(tmp_path / f"at{number}" / f"renamed{path.suffix}")
        moved[-1].write_bytes(path.read_bytes())
    assert content_sha256(tuple(moved)) == content_sha256(files)
    assert content_sha256(files[::-1]) != content_sha256(files)
    assert content_sha256(files[:2]) != content_sha256(files)
    moved[1].write_bytes(moved[0].read_bytes())
    assert content_sha256(tuple(moved)) != content_sha256(files)


@pytest.fixture
def halves(tiny_pairs_file, tmp_path):
    lines = tiny_pairs_file.read_text().splitlines(keepends=True)
    sources = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    for path, part in zip(sources, (lines[:20], lines[20:]), strict=True):
        path.write_text("".join(part))
    return sources


def test_rows_are_split_as_those_of_one_file(halves, tiny_pairs_file):
    once, _ = find_problems(tiny_pairs_file)
    data = DataConfig(pairs=halves)
    assert split_sha256(*divided(data, "")[:2]) == split_sha256(*divide(once, data))


def given(tiny_model, pairs, **data):
    train = {"base_model": str(tiny_model()), "frozen_layers": 1, "max_tokens": 64}
    return Config.model_validate(
        {"data": {"pairs": pairs, **data}, "train": train, "guard": {"min_neighbours_kept": 0}}
    )


def test_records_name_every_file_and_a_run_is_not_resumed_with_others(tiny_model, halves, tiny_pairs_file, tmp_path):
    names = [str(path) for path in halves]
    prepared = prepare(given(tiny_model, names), on_gpu=False)
    data = describe_data(prepared)["data"]
    assert data["pairs"] == "first.jsonl, second.jsonl"
    assert data["sha256"] == content_sha256(halves)
    assert data["files"] == [{"name": path.name, "sha256": content_sha256(path)} for path in halves]
    assert next(describe_run(prepared)).startswith(f"{halves[0]}, {halves[1]}: 48 pairs")
    started = json.loads(json.dumps(describe_start(prepared)))
    refuse_other_start(prepared, started, tmp_path)
    other = prepare(given(tiny_model, names[::-1]), on_gpu=False)
    with pytest.raises(InputError, match=r"second\.jsonl, .*first\.jsonl: has changed since"):
        refuse_other_start(other, started, tmp_path)
    alone = describe_data(prepare(given(tiny_model, str(tiny_pairs_file)), on_gpu=False))
    assert "files" not in alone["data"]
    assert "splits" not in alone["split"]


def test_settings_name_one_file_or_several_and_are_read_back(tmp_path):
    path = tmp_path / "config.yaml"
    for pairs, found in (
        ("a.jsonl", Path("a.jsonl")),
        (["a.jsonl"], Path("a.jsonl")),
        (["a", "b"], (Path("a"), Path("b"))),
    ):
        path.write_text(json.dumps({"data": {"pairs": pairs}}))
        config = load_config(path)
        assert config.data.pairs == found
        path.write_text(dump_config(config))
        assert load_config(path) == config
    path.write_text(json.dumps({"data": {"pairs": ["data/reference/pairs.jsonl", "nowhere.csv"]}}))
    first, second = load_config(path).data.pairs
    assert first.is_file()
    assert second == Path("nowhere.csv")
    for wrong in ([], 3, {"a": 1}, ["a", 3]):
        path.write_text(json.dumps({"data": {"pairs": wrong}}))
        with pytest.raises(InputError, match=r"data\.pairs: must "):
            load_config(path)


@pytest.mark.parametrize(
    ("words", "repeated"),
    [
        ("--data a b --name x", "--data a --data b --name x"),
        ("--data a --data b", "--data a --data b"),
        ("--data a b --data c d", "--data a --data b --data c --data d"),
        ("--data a config.yaml --name x", "--data a config.yaml --name x"),
        ("config.yaml --data a", "config.yaml --data a"),
        ("tune --data a b -q", "tune --data a --data b -q"),
        ("--data a -- b", "--data a -- b"),
        ("--data", "--data"),
        ("a b --name c d", "a b --name c d"),
    ],
)
def test_a_list_after_an_option_is_that_option_repeated(words, repeated):
    assert console.with_lists(words.split()) == repeated.split()


@pytest.mark.parametrize("main", [tune.main, train.main, plan.main])
@pytest.mark.parametrize("repeats", [True, False])
def test_data_takes_several_files(run_main, tmp_path, monkeypatch, main, repeats):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("space: {learning_rate: {log_uniform: [1.0e-5, 1.0e-3]}}")
    given = ["--data", "x.jsonl", "--data", "y.csv"] if repeats else ["--data", "x.jsonl", "y.csv"]
    code, _, complaint = run_main(main, "config.yaml", *given)
    assert code == 2
    assert complaint.startswith("error: x.jsonl: no such file")
    assert "\ny.csv: no such file" in complaint


@pytest.mark.parametrize("main", [tune.main, train.main, plan.main])
def test_a_corpus_is_named_beside_the_pairs(run_main, tmp_path, monkeypatch, main):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("space: {learning_rate: {log_uniform: [1.0e-5, 1.0e-3]}}")
    code, _, complaint = run_main(main, "config.yaml", "--corpus", "sections.jsonl")
    assert (code, complaint.splitlines()[-1].startswith("error: sections.jsonl: no such file")) == (2, True), complaint


def test_a_resumed_search_repeats_all_files_in_the_command_for_a_new_one():
    with pytest.raises(InputError, match=r"nic_ray\.tune runs/a/config\.yaml --data 'a b' c --name NAME"):
        refuse_new_settings("runs/a", None, {"--data": [Path("a b"), Path("c")]})


def test_check_takes_several_files_and_names_the_place_of_each_finding(run_main, files, tmp_path):
    again = write(tmp_path / "again.jsonl", [ROWS[0] | {"negative": ["none"]}, ROWS[1]])
    code, out, err = run_main(check.main, *files, again)
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    assert said.startswith(f"{files[0]}, {files[1]}, {files[2]}, {again}: usable")
    assert f"1 row of {again} stands in an earlier file too, and counts once" in said
    assert f'{again} line 1: "what of pumps part 0?": as {files[0]} line 1' in said
    code, out, _ = run_main(check.main, files[0], again, "--json")
    assert code == 0
    (found,) = [each for each in json.loads(out)["findings"] if each["code"] == "duplicate-row"]
    assert found["places"] == [f"{again} line 1"]
    code, _, err = run_main(check.main, files[0], tmp_path / "gone.csv")
    assert (code, err) == (
        2,
        f"error: {tmp_path / 'gone.csv'}: no such file; one that comes along is data/reference/pairs.jsonl\n",
    )
    code, out, _ = run_main(check.main, files[0], tmp_path / "gone.csv", "--json")
    assert [problem["file"] for problem in json.loads(out)["problems"]] == [str(tmp_path / "gone.csv")]
    code, out, _ = run_main(check.main, tmp_path / "gone.csv", "--json")
    assert [[*problem] for problem in json.loads(out)["problems"]] == [["line", "message", "unit"]]


def test_several_files_are_cleaned_into_one(tmp_path, files):
    again = write(tmp_path / "again.jsonl", [ROWS[0] | {"negative": ["none"]}])
    pairs = read_pairs((*files, again))
    findings = lint_pairs(pairs, {text: 1 for pair in pairs for text in (pair.query, pair.positive, "none")}, 256)
    copy = write_clean((*files, again), pairs, findings, ["duplicate-row"], tmp_path / "clean.jsonl", Form())
    assert copy.left_out == {"duplicate-row": 1}
    assert essence(read_pairs(tmp_path / "clean.jsonl")) == expected(ROWS)


def test_a_model_is_evaluated_on_the_files_that_it_was_trained_on(tiny_model, halves, run_main):
    prepared = prepare(given(tiny_model, [str(path) for path in halves], seed=5), on_gpu=False)
    metadata = json.loads(json.dumps(describe_data(prepared)))
    data = data_for(metadata, halves, "test", Path("model"))
    assert (data.seed, form_on(metadata, halves), is_ranked_as_folder(metadata, halves)) == (5, Form(), False)
    for others in (halves[::-1], halves[0]):
        with pytest.raises(InputError, match=r"model: was trained on .*, and its split is that of all of them in that"):
            data_for(metadata, others, "test", Path("model"))
        assert data_for(metadata, others, "all", Path("model")) is None
    code, out, _ = run_main(evaluate.main, tiny_model(), *halves, "--json")
    assert code == 0
    assert json.loads(out)["pairs"] == f"{halves[0]}, {halves[1]}"


def test_the_passages_of_several_files_are_searched_together(files, tmp_path):
    assert {passage.text for passage in read_corpus(files)} == {row["positive"] for row in ROWS}
    write(tmp_path / "more" / "d.jsonl", ROWS[:7])
    assert {passage.text for passage in read_corpus(tmp_path / "more")} == {row["positive"] for row in ROWS}
