"""What stays on one side of a split: rows of one document, found by a column, recorded, and counted where shared."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer

from nic_ray.bundle.card import model_card
from nic_ray.bundle.comparison import compare_models, compare_with_base
from nic_ray.bundle.files import write_bundle
from nic_ray.bundle.rows import form_on
from nic_ray.config import Config
from nic_ray.data_config import DataConfig
from nic_ray.dataset.form import Form, form_of
from nic_ray.dataset.formats import content_sha256
from nic_ray.dataset.groups import describe_documents, describe_groups_of, groups_of, with_documents
from nic_ray.dataset.pairs import Pair, index_pairs, read_file, read_pairs, row_of
from nic_ray.dataset.replay import earlier_pairs, join, split_settings
from nic_ray.dataset.split import folds_of_rows
from nic_ray.errors import InputError
from nic_ray.metrics.intervals import Queries
from nic_ray.progress import View
from nic_ray.report.checkup import check_file
from nic_ray.report.sections import split as split_section
from nic_ray.search import learning_curve
from nic_ray.selection.guard import falls
from nic_ray.selection.previous import gain_is_judged_by
from nic_ray.selection.scoring import asked_passages, queries_of
from nic_ray.training.prepared import divide, leaks, prepare, split_sha256
from nic_ray.training.start import describe_data, describe_run

REFERENCE = Path(__file__).parent.parent / "data" / "reference" / "pairs.jsonl"
BY_DOCUMENT = DataConfig(group_by="document")


def passage(name: str) -> str:
    """Twenty words of its own; with "~" one of them differs, which leaves it a near duplicate."""
    words = [f"{name.rstrip('~')}{number}" for number in range(20)]
    return " ".join([*words[:19], "other"] if name.endswith("~") else words)


def rows_of(*given: tuple[str, str | None], domain: str = "pumps") -> list[Pair]:
    """A row with a query of its own for each (passage, document)."""
    return [Pair(f"{number}?", passage(name), domain, document=of) for number, (name, of) in enumerate(given)]


def partition(labels) -> list[list[int]]:
    """The rows of each label, in order of appearance."""
    return [np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(labels.tolist())]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", None), ("b", None), ("a", None), ("a~", None)], [[0, 2, 3], [1]]),
        ([("a", "A"), ("b", "A"), ("c", "B")], [[0, 1], [2]]),
        # b is in two documents, nearly: they are one group
        ([("a", "A"), ("b", "A"), ("b~", "B"), ("c", "B"), ("d", "C")], [[0, 1, 2, 3], [4]]),
        # a row without a document goes with its passage, and is alone if no other row asks about that
        ([("a", "A"), ("b", "A"), ("b", None), ("c", None), ("d", None)], [[0, 1, 2], [3], [4]]),
        # rows without a document are not of one document
        ([("a", None), ("b", None), ("c", "A")], [[0], [1], [2]]),
        ([], []),
    ],
)
def test_groups_are_connected_by_documents_and_by_passages(rows, expected):
    collection = index_pairs(rows_of(*rows))
    assert partition(groups_of(collection, "document")) == expected
    assert partition(groups_of(collection, "manual")) == expected


def test_by_passage_documents_count_for_nothing():
    collection = index_pairs(rows_of(("a", "A"), ("b", "A"), ("a~", "B")))
    groups = groups_of(collection, "passage")
    assert groups.tolist() == collection.near_group[collection.positive].tolist()
    assert partition(groups) == [[0, 2], [1]]


@st.composite
def files(draw):
    """Rows of two domains; each passage is of one of at least four documents of its domain, or of none."""
    rows = []
    for domain in ("a", "b"):
        count = draw(st.integers(4, 9))
        documents = [*range(count), *draw(st.lists(st.integers(0, count - 1) | st.none(), min_size=5, max_size=30))]
        for number, document in enumerate(documents):
            name = None if document is None else f"{domain}{document}"
            for row in range(draw(st.integers(1, 3))):
                rows.append(Pair(f"{domain} {number} {row}?", f"{domain}{number}", domain, document=name))
    return rows


def sides(collection, labels) -> dict[str, set]:
    found = {}
    for name, label in zip(collection.documents, labels.tolist(), strict=True):
        if name is not None:
            found.setdefault(name, set()).add(label)
    return found


@given(files(), st.integers(0, 2**20), st.sampled_from([1.0, 0.5]))
def test_neither_a_split_nor_a_sample_nor_folds_cut_a_document(rows, seed, share):
    data = DataConfig(group_by="document", seed=seed, sample_share=share, query_share=0.0)
    collection, parts = divide(rows, data)
    assert all(len(found) == 1 for found in sides(collection, parts).values())
    for name in ("a", "b"):
        assert {part for part, domain in zip(parts.tolist(), collection.domains, strict=True) if domain == name} == {
            "train", "validation", "test"
        }  # fmt: skip
    groups = groups_of(collection, "document")
    folds = folds_of_rows(groups, collection.domains, parts, count=4, seed=seed)
    assert all(len(found) == 1 for found in sides(collection, folds).values())
    kept = {pair.document for pair in rows} & {*collection.documents} - {None}
    assert sum(name in kept for name in collection.documents) == sum(pair.document in kept for pair in rows)


def test_by_passage_documents_are_cut():
    rows = [Pair(f"{n}?", f"p{n}", "a", document=f"d{n // 10}") for n in range(100)]
    collection, parts = divide(rows, DataConfig())
    assert max(map(len, sides(collection, parts).values())) == 3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "ed5bcf1b85d8cba2ea7ea3ecdc048bd60c01d53c36b904cd9dd58a8f83b8f3e4"),
        (
            {"sample_share": 0.5, "protocol": "unseen_queries"},
            "700f8dbbd197e24fe6ce8b197ba4955ec12a83b1a103626b2b4e641baba3b57a",
        ),
    ],
)
def test_the_default_split_is_what_it_was_before_documents_were_known(settings, expected):
    assert split_sha256(*divide(read_pairs(REFERENCE), DataConfig.model_validate(settings))) == expected


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def named(**more) -> list[dict]:
    """Three usable rows, each with further fields, a list of three values for each."""
    return [
        {"query": f"q{n}", "positive": f"p{n}", "domain": "d", **{name: values[n] for name, values in more.items()}}
        for n in range(3)
    ]


@pytest.mark.parametrize(
    ("fields", "form", "expected"),
    [
        ({}, Form(), [None, None, None]),
        ({"document": ["a", None, " "]}, Form(), ["a", None, None]),
        ({"doc_id": [1, 12345678, 2.5]}, Form(), ["1", "12345678", "2.5"]),
        ({"Source": [True, "x", 3.0]}, Form(), ["true", "x", "3"]),
        ({"url": ["u", ["a"], {"b": 1}]}, Form(), ["u", None, None]),
        ({"document": ["a", "b", "c"], "source": ["x", "y", "z"]}, Form(), ["a", "b", "c"]),
        ({"source": ["x", "y", "z"], "file": ["f", "g", "h"]}, Form(columns={"document": "file"}), ["f", "g", "h"]),
        ({"source_section": ["s", "t", "u"]}, Form(columns={"document": "source_section"}), ["s", "t", "u"]),
        ({"category": ["k", "l", "m"]}, Form(columns={"document": "category"}), ["k", "l", "m"]),
    ],
)
def test_documents_are_read_from_known_names_or_a_named_column(tmp_path, fields, form, expected):
    pairs = read_pairs(write(tmp_path / "pairs.jsonl", *named(**fields)), form=form)
    assert [pair.document for pair in pairs] == expected
    assert [pair.positive for pair in pairs] == ["p0", "p1", "p2"]


def test_a_column_named_document_is_the_passages_where_no_other_is(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("question,document,source\nq0,p0,x\nq1,p1,x\nq2,p2,y\n", encoding="utf-8")
    found = read_file(path)
    assert [(pair.positive, pair.document) for pair in found.pairs] == [("p0", "x"), ("p1", "x"), ("p2", "y")]
    assert found.notes[0] == 'read "question" as query, "document" as positive, "source" as document'


def test_a_column_may_hold_domains_and_what_groups_the_rows(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("question,answer,product\nq0,p0,x\nq1,p1,x\nq2,p2,x\n", encoding="utf-8")
    pairs = read_pairs(path, form=form_of(DataConfig(group_by="product")))
    assert {(pair.domain, pair.document) for pair in pairs} == {("x", "x")}


def test_own_fields_are_read_as_before_where_a_document_has_another_name(tmp_path):
    rows = named(source=["x", "y", "z"], neg=["n"] * 3, negative=["m", None, None], source_section=["s", None, "t"])
    pairs = read_pairs(write(tmp_path / "pairs.jsonl", *rows))
    assert [(pair.negatives, pair.source_section, pair.document) for pair in pairs] == [
        (("m",), "s", "x"), ((), None, "y"), ((), "t", "z")
    ]  # fmt: skip


def test_a_document_is_written_and_read_again(tmp_path):
    pairs = read_pairs(write(tmp_path / "pairs.jsonl", *named(source=["x", "y", None])))
    again = read_pairs(write(tmp_path / "again.jsonl", *map(row_of, pairs)))
    assert again == pairs


@pytest.mark.parametrize(
    ("group_by", "documents", "expected"),
    [
        ("document", [None, None], ["s", None]),
        ("passage", [None, None], ["s", None]),
        ("document", ["x", None], ["x", None]),
        ("manual", [None, None], [None, None]),
    ],
)
def test_sections_stand_for_documents_where_no_row_names_one(group_by, documents, expected):
    rows = [
        Pair("q", "p", "d", source_section=section, document=document)
        for section, document in zip(["s", " "], documents, strict=True)
    ]
    assert [pair.document for pair in with_documents(rows, group_by)] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"group_by": "document", "protocol": "unseen_queries"},
            "group_by must be passage with protocol unseen_queries, which holds back single queries, got 'document'",
        ),
        (
            {"group_by": "manual", "columns": {"document": "file"}},
            "group_by and columns.document name two columns, 'manual' and 'file'; leave one out",
        ),
        ({"group_by": ""}, "at least 1 character"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        DataConfig.model_validate(settings)


def test_both_ways_to_name_a_column_may_agree():
    data = DataConfig.model_validate({"group_by": "manual", "columns": {"document": "manual"}})
    assert form_of(data).columns == {"document": "manual"}
    assert form_of(DataConfig(group_by="document", columns={"document": "file"})).columns == {"document": "file"}


def test_a_domain_with_too_few_documents_is_refused_by_that_name():
    rows = [Pair(f"{n}?", f"p{n}", "a", document=f"d{n % 2}") for n in range(20)]
    with pytest.raises(
        InputError,
        match=r'the rows cannot be split\n  domain "a" has too few distinct documents, 2; want 3: one each to [^\n]*\n'
        r"  Those that share a passage, or nearly, count as one of these documents, .* write data\.group_by: passage\.",
    ):
        divide(rows, BY_DOCUMENT)
    with pytest.raises(InputError, match='too few distinct values of "manual", 2; want 3'):
        divide(rows, DataConfig(group_by="manual"))
    assert divide(rows, DataConfig())[1].shape == (20,)


@pytest.fixture
def settings(tiny_model, tiny_pairs, tmp_path):
    """`settings(group_by)`: a run on 3 domains of 8 passages, of which each two are of one manual; 2 rows a passage."""
    path = tmp_path / "pairs.jsonl"
    place = {text: n for n, text in enumerate(dict.fromkeys(pair.positive for pair in tiny_pairs))}
    write(path, *({**row_of(pair), "manual": place[pair.positive] // 2} for pair in tiny_pairs))

    def make(group_by: str = "manual", **data) -> Config:
        given = {"pairs": str(path), "validation_share": 0.25, "test_share": 0.25, "group_by": group_by, **data}
        train = {"base_model": str(tiny_model(layers=3)), "frozen_layers": 1, "max_tokens": 64}
        return Config.model_validate({"data": given, "train": train, "guard": {"min_neighbours_kept": 0}})

    return make


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        (
            "document",
            "data.group_by is document, and no row names one (found: query, positive, domain, negative, manual)",
        ),
        (
            "book",
            'has no column "book", which is named for document (found: query, positive, domain, negative, manual)',
        ),
    ],
)
def test_documents_that_no_row_names_are_refused_with_what_was_found(settings, group_by, message):
    made = settings(group_by)
    with pytest.raises(InputError, match=re.escape(f"{made.data.pairs}: {message}")) as refused:
        prepare(made, on_gpu=False)
    assert "data.group_by" in str(refused.value)


def test_a_column_without_values_is_refused(settings):
    made = settings("manual")
    rows = [json.loads(line) | {"manual": None} for line in made.data.pairs.read_text().splitlines()]
    write(made.data.pairs, *rows)
    with pytest.raises(InputError, match=r"no row has text, a number, true or false in that column \(found: query, "):
        prepare(made, on_gpu=False)


def test_a_run_holds_documents_back_and_says_so(settings):
    prepared = prepare(settings(), on_gpu=False)
    assert all(len(found - {"unseen_queries"}) == 1 for found in sides(prepared.collection, prepared.parts).values())
    assert len(np.unique(prepared.groups)) == 12
    assert len(np.unique(prepared.passages)) == 24
    said = "\n".join(describe_run(prepared))
    assert (
        'grouped by manual: 12 values of "manual"; with passages that are nearly the same they make 12 groups' in said
    )
    assert "name none" not in said
    test = queries_of(prepared, "test")
    assert (len(np.unique(test.passages)), test.unit) == (3, 'values of "manual"')
    assert asked_passages(prepared, "test") == {"pumps": 2, "radios": 2, "trucks": 2, "macro": 6}
    by_passage = prepare(settings("passage"), on_gpu=False)
    assert (by_passage.groups == by_passage.passages).all()
    assert queries_of(by_passage, "test").unit == "passages"
    assert "grouped" not in "\n".join(describe_run(by_passage))


def test_rows_without_a_document_are_counted():
    rows = rows_of(("a", "A"), ("b", "A"), ("c", None), ("a", None))
    collection = index_pairs(rows)
    said = [*describe_groups_of(collection, groups_of(collection, "document"), DataConfig(group_by="document"), rows)]
    assert said == [
        "grouped by document: 1 documents; with passages that are nearly the same they make 2 groups, each on one side "
        "of the split",
        "2 of 4 rows name none of them, and are grouped by passage alone",
    ]


def test_what_rows_are_grouped_by_is_recorded_and_read_again(settings):
    prepared = prepare(settings(), on_gpu=False)
    stored = json.loads(json.dumps(describe_data(prepared)["split"]))
    assert stored["group_by"] == "manual"
    again = split_settings(stored, Path("model")).model_copy(update={"pairs": prepared.config.data.pairs})
    read = read_pairs(again.pairs, form=form_of(again))
    assert split_sha256(*divide(read, again)) == stored["sha256"]
    assert split_sha256(*divide(read, again.model_copy(update={"group_by": "passage"}))) != stored["sha256"]
    assert "group_by" not in describe_data(prepare(settings("passage"), on_gpu=False))["split"]


@pytest.fixture
def exported(settings, tiny_model, tmp_path):
    """`exported(name, settings)`: a folder that tells what a run of these settings starts from."""

    def make(name: str, made: Config) -> Path:
        metadata = {"name": name, "base_model": made.train.base_model, **describe_data(prepare(made, on_gpu=False))}
        write_bundle(
            tmp_path / name, SentenceTransformer(str(tiny_model(layers=3)), device="cpu"), metadata, training_log=""
        )
        return tmp_path / name

    return make


def test_an_exported_model_is_evaluated_on_its_own_split(settings, exported, tmp_path):
    made = settings()
    held_back = prepare(made, on_gpu=False)
    first, second = exported("first", made), exported("second", made)
    pairs = made.data.pairs
    assert compare_with_base(str(first), pairs, "validation").queries == len(held_back.rows("validation"))
    ranking = compare_models([str(first), str(second)], pairs, "validation", say=lambda _: None)
    assert ranking.unit == 'values of "manual"'
    # 1 manual of 2 passages with 2 rows each in each domain
    interval = ranking.intervals[str(second)]["macro"]
    assert (interval.queries, interval.passages) == (12, 3)
    everything = compare_models([str(first), str(second)], pairs, "all", say=lambda _: None)
    assert everything.intervals[str(second)]["macro"].passages == 12


def test_documents_shared_with_training_are_counted():
    # documents: A trained; B trained and held back; C held back; none
    rows = rows_of(("a", "A"), ("b", "B"), ("c", "B"), ("d", "B"), ("e", "C"), ("f", None), ("g", None), ("h", "A"))
    parts = np.array(["train", "train", "test", "validation", "test", "test", "train", "unseen_queries"])
    prepared = SimpleNamespace(
        collection=index_pairs(rows), parts=parts, rows=lambda part: np.flatnonzero(parts == part)
    )
    found = leaks(prepared)
    assert found["document"] == {"test": 1, "validation": 1, "unseen_queries": 1}
    assert found["passage"] == {"test": 0, "validation": 0, "unseen_queries": 0}
    prepared.collection = index_pairs([dataclasses.replace(pair, document=None) for pair in rows])
    assert "document" not in leaks(prepared)


def test_held_back_documents_are_not_trained_on_but_by_passage_they_are(settings):
    counted = {way: leaks(prepare(settings(way), on_gpu=False)) for way in ("manual", "passage")}
    assert [counted["manual"]["document"][part] for part in ("validation", "test")] == [0, 0]
    # by passage no column is named, and none is known
    assert "document" not in counted["passage"]
    named_only = settings("passage", columns={"document": "manual"})
    assert sum(leaks(prepare(named_only, on_gpu=False))["document"].values()) > 0


def joined(old, old_parts, *new, **data):
    given = DataConfig.model_validate({"group_by": "document", "pairs": "new.jsonl", "query_share": 0.0, **data})
    found = join(index_pairs(old), np.array(old_parts), new, given)
    return dict(zip((pair.query for pair in found.pairs[len(old) :]), found.parts[len(old) :].tolist(), strict=True))


def test_new_rows_go_with_the_old_rows_of_their_document():
    old = rows_of(("a", "A"), ("b", "B"), ("c", "C"), ("d", "C"))
    new = [
        Pair("of A", passage("n"), "pumps", document="A"),
        Pair("of B", passage("o"), "pumps", document="B"),
        Pair("of C", passage("p"), "pumps", document="C"),
        Pair("with of C", passage("p"), "pumps", document="D"),
        Pair("of A and B", passage("a~"), "pumps", document="B"),
        Pair("of none", passage("q"), "pumps"),
    ]
    parts = joined(old, ["train", "validation", "test", "test"], *new)
    # the last but one belongs to two parts, and takes the rows of both documents with it
    assert parts == {"of C": "test", "with of C": "test", "of none": "train"}
    parts = joined(old, ["train", "validation", "test", "test"], *new[:4], new[5])
    assert parts == {
        "of A": "train", "of B": "validation", "of C": "test", "with of C": "test", "of none": "train"
    }  # fmt: skip


def test_old_rows_that_were_grouped_otherwise_are_refused(settings, exported, tmp_path):
    model = str(exported("first", settings()))
    new = write(tmp_path / "new.jsonl", *named(manual=["x", "y", "z"]))
    replay = {"pairs": str(new), "replay": [str(settings().data.pairs)]}
    further = settings("passage", **replay)
    further = further.model_copy(update={"train": further.train.model_copy(update={"base_model": model})})
    with pytest.raises(InputError, match=r"data\.group_by: is passage, and the rows of .*first were .* by manual, so"):
        prepare(further, on_gpu=False)
    same = further.model_copy(update={"data": settings(**replay).data})
    prepared = prepare(same, on_gpu=False)
    assert all(len(found - {"unseen_queries"}) == 1 for found in sides(prepared.collection, prepared.parts).values())
    assert describe_data(prepared)["data"]["replay"][0]["split"]["group_by"] == "manual"


def test_old_files_are_read_with_the_columns_that_they_were_read_with(settings, exported):
    made = settings("document", columns={"document": "manual"})
    earlier = earlier_pairs(str(exported("first", made)), [made.data.pairs])
    assert earlier.files[0].columns == {"document": "manual"}
    assert earlier.files[0].group_by == "document"


def test_a_gain_is_judged_without_documents_of_old_rows():
    # rows 0 and 1 are of one document, of which row 0 is old
    prepared = SimpleNamespace(
        rows=lambda _: np.arange(3),
        groups=np.array([0, 0, 1]),
        passages=np.array([5, 6, 7]),
        collection=SimpleNamespace(domains=["a"] * 3),
        config=Config.model_validate({"data": {"group_by": "document"}}),
        replay=SimpleNamespace(old=np.array([True, False, False]), earlier=SimpleNamespace(saw_all=True)),
    )
    tuned, _, queries = gain_is_judged_by(prepared, "test", np.arange(3.0), np.zeros(3))
    assert (tuned.tolist(), queries.unit) == ([2.0], "documents")


def test_the_guard_counts_documents_where_they_are_the_sample():
    queries = Queries(np.repeat(np.arange(20), 5), ["a"] * 100, "documents")
    tuned, base = np.zeros(100), np.ones(100)
    (sentence,) = falls(tuned, base, queries, max_domain_drop=0.02)
    assert "on 20 documents, more than guard.max_domain_drop" in sentence


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (rows_of(("a", None)), []),
        (
            [Pair("q", "p", "d", source_section="s")],
            ["the rows name 1 document (source_section), with one passage each"],
        ),
        (rows_of(("a", "A"), ("a", "A"), ("b", "B")), ["the rows name 2 documents, with one passage each"]),
        (
            rows_of(("a", "A"), ("b", "A"), ("c", "B"), ("d", None)),
            [
                "the rows name 2 documents, 1 of them with several passages, which may come to lie on two sides of the "
                "split; data.group_by: document keeps them together"
            ],
        ),
    ],
)
def test_documents_are_counted_for_the_user(rows, expected):
    assert [*describe_documents(rows)] == expected


def test_check_counts_documents(tmp_path, tiny_model):
    path = write(tmp_path / "pairs.jsonl", *named(source=["x", "x", "y"]))
    model = str(tiny_model())
    checked = check_file(path, clean_file=None, leave_out=None, base_model=model, max_tokens=64)
    assert checked.notes[0] == 'read "source" as document'
    assert "the rows name 2 documents, 1 of them with several passages" in checked.notes[1]


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("document", "Rows of one document were held back together"),
        ("manual", 'Rows of one value of the column "manual" were held back together'),
        (None, None),
    ],
)
def test_card_and_report_say_what_was_held_back_together(group_by, expected):
    held_back = {"protocol": "unseen_passages", "seed": 1, "rows": {"test": 3}}
    held_back |= {} if group_by is None else {"group_by": group_by}
    results = {"test": {"tuned": {"recall_at_5/macro": 0.5, "mrr/macro": 0.5}}}
    card = model_card({"name": "m", "base_model": "b", "results": results, "split": held_back})
    report = "".join(split_section(SimpleNamespace(result={"split": held_back})))
    for text in (card, report.replace("&quot;", '"')):
        assert ("held back together" in text) is (expected is not None)
        assert expected is None or expected in text


def test_a_learning_curve_grows_by_whole_groups(searched, monkeypatch):
    prepared, inputs, candidates = searched(1)
    prepared = dataclasses.replace(prepared, groups=np.unique(prepared.passages, return_inverse=True)[1] // 2)
    drawn = []

    def trained(prepared, inputs, settings, rows):
        drawn.append(set(prepared.groups[rows].tolist()))
        left = np.setdiff1d(prepared.rows("train"), rows)
        assert not drawn[-1] & set(prepared.groups[left].tolist())
        return candidates[0].weights

    monkeypatch.setattr(learning_curve, "_trained", trained)
    learning_curve._measured(prepared, inputs[1], prepared.config.train, [0.3, 0.6, 1.0], View())
    assert drawn[0] < drawn[2] == set(prepared.groups[prepared.rows("train")].tolist())


def test_the_oldest_file_of_a_model_is_read_as_it_was_then(tmp_path):
    path = write(tmp_path / "pairs.jsonl", *named(manual=["x", "x", "y"]))
    digest = content_sha256(path)
    old = {"pairs": path.name, "sha256": digest, "split": {"group_by": "manual"}, "format": "jsonl"}
    metadata = {"data": {"sha256": "0", "columns": {"query": "ask"}, "replay": [old]}, "split": {}}
    assert form_on(metadata, path) == Form("jsonl", {"document": "manual"})
    assert form_on(metadata, tmp_path / "gone.jsonl") == Form()
    assert form_on({"data": {"sha256": digest}, "split": {"group_by": "manual"}}, path).columns == {
        "document": "manual"
    }
    assert form_on({"data": {"sha256": "0"}, "split": {"group_by": "manual"}}, path) == Form()
