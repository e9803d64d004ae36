"""Rows that keep the splits that they came with, and data sets of the hub."""

import builtins
import hashlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from nic_ray import compare, evaluate
from nic_ray.bundle.card import _results_section
from nic_ray.bundle.comparison import compare_with_base
from nic_ray.bundle.files import write_bundle
from nic_ray.bundle.rows import is_ranked_as_folder, metadata_of
from nic_ray.check import main as check
from nic_ray.config import Config
from nic_ray.data_config import DataConfig
from nic_ray.dataset import hub
from nic_ray.dataset.form import Form, form_of
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.pairs import read_file, read_pairs, row_of
from nic_ray.dataset.replay import earlier_pairs
from nic_ray.errors import InputError
from nic_ray.training.prepared import divide, divided, leaks, prepare
from nic_ray.training.start import describe_data, describe_run
from tests.test_formats import save

OWN = Form(own_splits=True)
NAMES = ["train"] * 8 + ["dev"] * 4 + ["test"] * 4
PARTS = ["train"] * 8 + ["validation"] * 4 + ["test"] * 4
ROWS = [
    {"query": f"what of {domain} part {n}?", "positive": f"The {domain} part {n}.", "domain": domain, "split": split}
    for domain in ("pumps", "valves")
    for n, split in enumerate(NAMES)
]


def save_beir(folder: Path, rows, **names) -> Path:
    """Write rows as a folder in BEIR form, with qrels named after their splits, or as `names` says."""
    (folder / "qrels").mkdir(parents=True)
    for file, field in (("queries.jsonl", "query"), ("corpus.jsonl", "positive")):
        texts = list(dict.fromkeys(row[field] for row in rows))
        (folder / file).write_text("".join(json.dumps({"_id": text, "text": text}) + "\n" for text in texts))
    for split in dict.fromkeys(row["split"] for row in rows):
        lines = [f"{row['query']}\t{row['positive']}\t1\n" for row in rows if row["split"] == split]
        name = names.get(split, split)
        (folder / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def own(pairs, **data):
    return DataConfig(pairs=pairs, splits="own", **data)


def parts_by_query(pairs):
    collection, parts, _ = divided(own(pairs), "")
    return {collection.texts[query]: part for query, part in zip(collection.query, parts.tolist(), strict=True)}


EXPECTED = dict(zip((row["query"] for row in ROWS), PARTS * 2, strict=True))


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv", "parquet", "datasets"])
def test_a_column_of_splits_is_kept_in_every_format(tmp_path, form):
    assert parts_by_query(save(tmp_path, form, ROWS)) == EXPECTED


@pytest.mark.parametrize("dev", ["dev", "validation"])
def test_the_qrels_of_a_beir_folder_are_its_parts(tmp_path, dev):
    folder = save_beir(tmp_path / "beir", ROWS, dev=dev)
    assert parts_by_query(folder) == EXPECTED
    (folder / "qrels" / "trec.tsv").write_text(f"{ROWS[0]['query']}\t{ROWS[9]['positive']}\t1\n")
    assert parts_by_query(folder) == EXPECTED  # which part that is, nobody knows


def test_the_splits_of_a_data_set_are_its_parts(tmp_path):
    bare = [{name: value for name, value in row.items() if name != "split"} for row in ROWS]
    by_split = {name: [row for row, own in zip(bare, NAMES * 2, strict=True) if own == name] for name in NAMES}
    DatasetDict({name: Dataset.from_list(rows) for name, rows in by_split.items()}).save_to_disk(str(tmp_path / "set"))
    assert parts_by_query(tmp_path / "set") == EXPECTED
    with pytest.raises(InputError, match=r"holds several splits; name one of .*, or keep them with data\.splits: own"):
        read_pairs(tmp_path / "set")


def test_files_that_are_named_after_their_parts_are_of_one_domain(tmp_path):
    folder = tmp_path / "manuals"
    folder.mkdir()
    for split in dict.fromkeys(NAMES):
        rows = [{"query": row["query"], "positive": row["positive"]} for row in ROWS if row["split"] == split]
        save(folder, "jsonl", rows).rename(folder / f"{split}.jsonl")
    assert parts_by_query(folder) == EXPECTED
    assert {pair.domain for pair in read_pairs(folder, form=OWN)} == {"manuals"}
    assert {pair.domain for pair in read_pairs(folder)} == {"train", "dev", "test"}


def test_made_splits_stay_as_they_are_whatever_a_column_holds(tmp_path):
    path = save(tmp_path, "jsonl", [row | {"split": number} for number, row in enumerate(ROWS)])
    plain = save(tmp_path, "json", [{name: row[name] for name in ("query", "positive", "domain")} for row in ROWS])
    assert [row_of(pair) for pair in read_pairs(path)] == [row_of(pair) for pair in read_pairs(plain)]
    sound = [row_of(pair) for pair in read_pairs(save(tmp_path, "csv", ROWS), form=OWN)]
    assert [row["split"] for row in sound] == PARTS * 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{name: row[name] for name in ("query", "positive", "domain")} for row in ROWS],
            r'came with no splits \(data\.splits: own\): it has no column "split" \(found: query, positive, domain\)',
        ),
        ([row | {"split": "fold 3"} for row in ROWS], r"\"split\" must be train, validation \(or dev\) and test, got"),
        (
            [row for row in ROWS if row["split"] != "dev"],
            r"no row is for validation \(rows: 16 train, 8 test\).* data\.splits: made",
        ),
        (
            [row for row in ROWS if row["split"] == "train"],
            r"no row is for validation and none for test \(rows: 16 train\)",
        ),
        (
            [row for row in ROWS if row["domain"] == "pumps" or row["split"] != "test"],
            r'domain "valves" has no row for test; each domain is measured',
        ),
    ],
)
def test_rows_without_a_whole_split_are_refused_with_the_way_out(tmp_path, rows, message):
    path = save(tmp_path, "jsonl", rows)
    with pytest.raises(InputError, match=message):
        divided(own(path), "")


def test_a_beir_folder_without_a_part_is_refused(tmp_path):
    folder = save_beir(tmp_path / "beir", [row for row in ROWS if row["split"] != "dev"])
    with pytest.raises(InputError, match="no row is for validation"):
        divided(own(folder), "")
    other = save_beir(tmp_path / "other", ROWS, train="a", dev="b", test="c")
    with pytest.raises(InputError, match=r"other: its qrels hold a, b, c; want train, validation"):
        divided(own(other), "")


@pytest.mark.parametrize(
    "others", [{"protocol": "cross_fit"}, {"protocol": "unseen_queries"}, {"replay": ("a.jsonl",)}]
)
def test_what_splits_rows_anew_does_not_go_with_own_splits(others):
    with pytest.raises(ValueError, match=r"splits must not be own with .* write"):
        DataConfig.model_validate({"splits": "own", **others})


def test_a_share_of_the_passages_keeps_their_parts(tmp_path):
    path = save(tmp_path, "jsonl", ROWS)
    data = own(path, sample_share=0.8)
    collection, parts = divide(read_pairs(path, form=OWN), data)
    assert 0.6 * len(ROWS) < len(parts) < len(ROWS)
    texts = [collection.texts[query] for query in collection.query]
    assert {text: EXPECTED[text] for text in texts} == dict(zip(texts, parts.tolist(), strict=True))


@pytest.fixture
def split_rows(tiny_pairs):
    """`tiny_pairs` in three parts; a test row asks about a passage that is trained on."""
    names = np.resize(["train", "train", "dev", "test"], len(tiny_pairs) // 2).repeat(2)
    rows = [{**row_of(pair), "split": str(name)} for pair, name in zip(tiny_pairs, names, strict=True)]
    leaking = {"query": "a rotor, what of it?", "positive": rows[0]["positive"], "domain": "pumps", "split": "test"}
    return [*rows, leaking]


@pytest.fixture
def prepared(tiny_model, split_rows, tmp_path):
    def make(pairs=None, **data):
        path = pairs or save(tmp_path, "jsonl", split_rows)
        train = {"base_model": str(tiny_model()), "frozen_layers": 1, "max_tokens": 64}
        settings = {"data": {"pairs": str(path), **data}, "train": train, "guard": {"min_neighbours_kept": 0}}
        return prepare(Config.model_validate(settings), on_gpu=False)

    return make


def test_what_leaks_between_own_splits_is_counted_and_said_not_refused(prepared):
    found = prepared(splits="own")
    assert leaks(found)["passage"] == {"test": 1, "validation": 0}
    assert (len(found.rows("test")), len(found.rows("unseen_queries"))) == (13, 0)
    said = list(describe_run(found))
    assert said[0].endswith("24 train, 12 validation, 13 test (own splits)")
    assert said[1].startswith("own splits: 1 of 13 test rows share their passage with training rows; they stay")
    assert not any("own splits" in line for line in describe_run(prepared()))


def test_own_splits_stand_in_the_records_and_made_ones_do_not(prepared):
    assert describe_data(prepared(splits="own"))["split"]["splits"] == "own"
    assert "splits" not in describe_data(prepared())["split"]


@pytest.fixture
def exported(prepared, tiny_model, tmp_path):
    """A model that was trained by the splits of its rows."""
    from sentence_transformers import SentenceTransformer

    def make(pairs=None):
        found = prepared(pairs, splits="own")
        metadata = {"name": "tuned", "base_model": str(tiny_model()), **describe_data(found)}
        model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
        write_bundle(tmp_path / "tuned", model, metadata, training_log="")
        return tmp_path / "tuned", Path(str(found.config.data.pairs))

    return make


def test_an_exported_model_is_evaluated_and_compared_by_the_same_splits(exported, tiny_model, run_main):
    model, pairs = exported()
    code, out, _ = run_main(evaluate.main, model, pairs, "--split", "test", "--json")
    found = json.loads(out)
    assert (code, found["queries"], found["protocol"], found["split_from"]) == (0, 13, "own_splits", "bundle")
    code, out, _ = run_main(evaluate.main, model, pairs)
    assert "validation part of" in out
    assert "(own splits): 12 queries" in " ".join(out.split())
    for main, words in (
        (evaluate.main, [model, "gone.jsonl"]),
        (compare.main, [model, tiny_model(), "--pairs", "gone"]),
    ):
        code, _, err = run_main(main, *words)
        assert (code, "no such file" in err) == (2, True)
    code, out, _ = run_main(compare.main, model, tiny_model(), "--pairs", pairs, "--json")
    assert (code, json.loads(out)["queries"], json.loads(out)["split_from"]) == (0, 12, str(model))
    card = _results_section({**metadata_of(str(model)), "results": {"test": {"base": {"mrr/macro": 0.5}}}})
    assert "How rows were held back: by the splits that the rows came with" in card


def test_a_beir_folder_is_read_as_in_training_by_the_model_that_was_trained_on_it(exported, split_rows, tmp_path):
    pairs = save_beir(tmp_path / "beir", split_rows)
    other = is_ranked_as_folder({}, pairs)
    model, _ = exported(pairs)
    assert (other, is_ranked_as_folder(metadata_of(str(model)), pairs)) == (True, False)
    assert compare_with_base(str(model), pairs, "test").queries == 13


def test_a_model_of_own_splits_takes_no_new_rows(exported):
    model, pairs = exported()
    with pytest.raises(InputError, match=r"was tuned by the splits that its rows came with.* into one file"):
        earlier_pairs(str(model), [pairs])


class Table(list):
    """A split of the stand-in for `datasets`."""

    column_names = ("anchor", "positive", "picture", "split")


@pytest.fixture
def library(monkeypatch):
    """A stand-in for `datasets`: `sets` maps name and configuration to splits, or to an error; `asked` holds calls."""
    module = types.ModuleType("datasets")
    module.asked, module.sets = [], {}

    def load_dataset(name, config=None, split=None):
        module.asked.append((name, config, split))
        found = module.sets[name, config]
        if isinstance(found, Exception):
            raise found
        return found if split is None else found[split]

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    hub._loaded.cache_clear()
    yield module
    hub._loaded.cache_clear()


def tables(*splits, picture=None):
    return {
        split: Table(
            {"anchor": row["query"], "positive": row["positive"], "picture": picture, "split": None}
            for row in ROWS
            if row["split"] == split
        )
        for split in splits
    }


def test_a_data_set_of_the_hub_is_read_by_its_id(library):
    library.sets = {("we/set", None): tables("train"), ("we/set", "de"): tables("train", "test")}
    found = read_file(Path("hub:we/set"))
    assert found.problems == []
    assert [(pair.query, pair.domain, pair.unit) for pair in found.pairs[:1]] == [(ROWS[0]["query"], "set", "row")]
    assert [pair.line for pair in found.pairs] == [*range(1, 17)]
    assert len(read_pairs(Path("hub:we/set/de:test"))) == 8
    assert library.asked == [("we/set", None, None), ("we/set", "de", "test")]
    with pytest.raises(InputError, match=r"hub:we/set/de: holds several splits; name one of hub:we/set/de:train, hub:"):
        read_pairs(Path("hub:we/set/de"))


def test_the_splits_of_a_data_set_of_the_hub_are_kept_on_request(library):
    library.sets = {("set", None): tables("train", "dev", "test", "extra")}
    assert parts_by_query(Path("hub:set")) == EXPECTED
    library.sets = {("one", None): {"train": Table(row | {"anchor": row["query"]} for row in ROWS)}}
    assert parts_by_query(Path("hub:one")) == EXPECTED  # a column of a single split


def test_a_data_set_of_the_hub_stands_beside_files_and_in_settings(library, tmp_path):
    library.sets = {("we/set", None): tables("train")}
    path = save(tmp_path, "jsonl", [row | {"domain": "set"} for row in ROWS if row["split"] != "dev"])
    found = read_file((Path("hub:we/set"), path))
    assert len(found.pairs) == 16 + 8
    assert f"16 rows of {path} stand in an earlier file too, and count once" in found.notes
    config = Config.model_validate({"data": {"pairs": "hub:we/set:train"}})
    assert str(config.data.pairs) == config.model_dump(mode="json")["data"]["pairs"] == "hub:we/set:train"
    assert form_of(config.data) == Form()


def test_the_hash_of_a_data_set_of_the_hub_is_of_its_rows(library):
    library.sets = {("set", None): {"train": Table([{"b": "x", "a": ["y", 1], "c": None, "d": object()}])}}
    line = '["train", {"a": ["y", 1], "b": "x", "d": "object"}]\n'
    assert content_sha256(Path("hub:set")) == hashlib.sha256(line.encode()).hexdigest()


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (
            "hub:set",
            ConnectionError("Couldn't reach\n the Hub"),
            r"does not give it \(ConnectionError: Couldn't reach the",
        ),
        ("hub:set", RuntimeError("other"), r"hub:set: the hub does not give it \(RuntimeError: other\).*the network"),
        ("hub:set:dev", {}, r"hub:set: the hub does not give it \(KeyError: 'dev'\)"),
        ("hub:", {}, r"hub:: is no id of a data set; want hub:OWNER/NAME"),
        ("hub:a/b/c/d", {}, r"is no id of a data set"),
        ("hub:a:b:c", {}, r"is no id of a data set"),
    ],
)
def test_what_the_hub_does_not_give_ends_in_a_message(library, run_main, path, error, message):
    library.sets = {("set", None): error}
    code, out, err = run_main(check, path)
    assert (code, out, "Traceback" in err) == (2, "", False)
    with pytest.raises(InputError, match=message):
        read_pairs(Path(path))
    with pytest.raises(InputError, match=message):
        content_sha256(Path(path))


def test_offline_the_library_itself_gives_a_message():
    hub._loaded.cache_clear()
    with pytest.raises(InputError, match=r"hub:nobody/nothing: the hub does not give it \(.*; look at its name"):
        read_pairs(Path("hub:nobody/nothing"))


def test_without_the_library_it_is_said_how_to_install_it_and_files_need_none(monkeypatch, tmp_path):
    imported = builtins.__import__

    def without(name, *rest, **named):
        if name == "datasets":
            raise ImportError(name)
        return imported(name, *rest, **named)

    hub._loaded.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        InputError, match=r"hub:set: is read by datasets, which is not installed; pip install .*'\.\[hub\]'"
    ):
        read_pairs(Path("hub:set"))
    assert len(read_pairs(save(tmp_path, "jsonl", ROWS))) == len(ROWS)


def test_a_copy_of_a_beir_folder_says_that_its_splits_are_not_in_it(run_main, tmp_path):
    folder = save_beir(tmp_path / "beir", ROWS)
    code, out, err = run_main(check, folder, "--write-clean", tmp_path / "clean.jsonl")
    assert (code, err) == (0, "")
    assert f"  without the splits of {folder} (dev, test, train); keep them with --splits own" in out


def save_dict(folder: Path, rows) -> Path:
    """Save rows as `datasets` saves several splits."""
    splits = dict.fromkeys(row["split"] for row in rows)
    bare = {
        split: [{name: row[name] for name in ("query", "positive", "domain")} for row in rows if row["split"] == split]
        for split in splits
    }
    DatasetDict({split: Dataset.from_list(rows) for split, rows in bare.items()}).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("made", [save_dict, save_beir, lambda folder, rows: save(folder.parent, "csv", rows)])
def test_check_reads_the_splits_that_rows_came_with_and_writes_them(run_main, tmp_path, made):
    pairs = made(tmp_path / "set", ROWS)
    code, out, _ = run_main(check, pairs, "--splits", "own", "--write-clean", tmp_path / "clean.parquet")
    assert code == 0
    assert f"{pairs}: usable\n" in out
    assert "\nrows by their own splits: 16 train, 8 validation, 8 test\n" in out
    assert parts_by_query(tmp_path / "clean.parquet") == EXPECTED


def test_the_fault_of_a_split_is_found_by_the_check_that_the_message_names(run_main, tmp_path):
    path = save(tmp_path, "jsonl", [*ROWS, ROWS[0] | {"split": "fold 3"}, ROWS[1] | {"split": None}])
    with pytest.raises(InputError) as refused:
        read_pairs(path, form=OWN)
    *_, way_out = str(refused.value).splitlines()
    assert way_out == f"  Correct them, or see all findings with: python -m nic_ray.check {path} --splits own"
    assert run_main(check, path)[0] == 0
    code, _, err = run_main(check, path, "--splits", "own")
    assert (code, f"error: {path}: 2 of 34 lines are unusable\n  line 33: " in err) == (2, True)
    none = save(tmp_path, "json", [row | {"split": "fold 3"} for row in ROWS])
    with pytest.raises(InputError, match=rf"python -m nic_ray\.check {none} --splits own$"):
        read_pairs(none, form=OWN)
    wrong = save(tmp_path, "tsv", [row | {"query": "" if number else "q"} for number, row in enumerate(ROWS)])
    with pytest.raises(InputError, match=rf"python -m nic_ray\.check {wrong} --splits own$"):
        read_pairs(wrong, form=OWN)
    with pytest.raises(InputError, match=rf"python -m nic_ray\.check {wrong}$"):
        read_pairs(wrong)


def test_check_finds_a_part_that_is_missing(run_main, tmp_path):
    path = save(tmp_path, "jsonl", [row for row in ROWS if row["domain"] == "pumps" or row["split"] != "test"])
    code, out, err = run_main(check, path, "--splits", "own")
    assert (code, out) == (2, "")
    assert err.startswith(f'error: {path}: data.splits: own: domain "valves" has no row for test; each domain')
    code, out, _ = run_main(check, path, "--splits", "own", "--json")
    assert (code, json.loads(out)["problems"][0]["line"]) == (2, 0)
