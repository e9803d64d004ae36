"""Synthetic rows: their fields in every format, passages that were cut, and what becomes of them beside other rows."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray import mine
from nic_ray.check import main as check
from nic_ray.config import Config
from nic_ray.data_config import DataConfig
from nic_ray.dataset.corpus import with_corpus, with_distractors
from nic_ray.dataset.cut_passages import ranked_for
from nic_ray.dataset.division import divide, divided_rows
from nic_ray.dataset.duplicates import near_duplicates
from nic_ray.dataset.form import Form
from nic_ray.dataset.formats import FORMATS
from nic_ray.dataset.pairs import Pair, index_pairs, read_file, read_pairs, relevant_passages, row_of
from nic_ray.dataset.passages import read_corpus
from nic_ray.dataset.replay import join, pairs_of, split_settings
from nic_ray.dataset.several import joined
from nic_ray.errors import InputError
from nic_ray.manuals.sections import Section, write_sections
from nic_ray.metrics.fusion import VECTORS, WORDS
from nic_ray.model.base import load
from nic_ray.model.evaluation import query_scores
from nic_ray.model.whole_models import asked_of, encoder_scores, plain_scores
from nic_ray.questions.question import Question
from nic_ray.training.batches import make_batch
from nic_ray.training.prepared import prepare, split_sha256
from nic_ray.training.start import describe_data, describe_run
from tests.test_formats import save

QUESTIONS = [
    ("what seals it?", "direct", None),
    ("seal dripping", "keyword", "true"),
    ("whta drips?", "typo", "1"),
    ("who seals it?", "direct", "false"),
]


def passage(name: str) -> str:
    return " ".join(f"{name}{number}" for number in range(20))


def made(query: str, name: str, domain: str = "pumps", **more) -> Pair:
    return Pair(query, passage(name), domain, synthetic=True, **more)


def written(query: str, name: str, domain: str = "pumps", **more) -> Pair:
    return Pair(query, passage(name), domain, **more)


# fields of a row


def question_fields(pairs) -> list[tuple]:
    return [(pair.kind, pair.synthetic, pair.cut_from) for pair in pairs]


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "beir"])
def test_kind_synthetic_and_cut_from_are_read_and_written_in_every_format(tmp_path, form):
    table = form in ("csv", "tsv", "parquet", "datasets")
    rows = [
        {"query": query, "positive": passage(str(n)), "domain": "pumps", "kind": kind}
        | ({"synthetic": mark if table else mark in ("true", "1")} if mark is not None else {})
        | ({"cut_from": f"{passage(str(n))} and more"} if n == 2 else {})
        for n, (query, kind, mark) in enumerate(QUESTIONS)
    ]
    expected = [
        ("direct", False, None),
        ("keyword", True, None),
        ("typo", True, f"{passage('2')} and more"),
        ("direct", False, None),
    ]
    if form in ("parquet", "datasets"):  # columns that every row has
        rows = [{name: row.get(name) for name in rows[2]} for row in rows]
    path = save(tmp_path, form, rows)
    assert question_fields(read_pairs(path)) == expected
    for ending in (".jsonl", ".json", ".csv", ".tsv", ".parquet"):
        out = tmp_path / f"clean-{form}{ending}"
        check(path, write_clean=out)
        assert question_fields(read_pairs(out)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0.0, False),
        ("True", True),
        ("FALSE", False),
        ("1", True),
        (None, False),
    ],
)
def test_yes_and_no_are_written_in_several_ways(tmp_path, value, expected):
    path = tmp_path / "pairs.jsonl"
    rows = [row_of(written(f"{n}?", str(n))) | {"synthetic": value} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [pair.synthetic for pair in read_pairs(path)] == [expected] * 3


def test_true_and_false_mark_rows_though_other_names_are_used(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"question": f"{n}?", "passage": str(n), "domain": "d", "synthetic": n > 0, "doc": True} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [pair.synthetic for pair in read_pairs(path)] == [False, True, True]
    renamed = [{("generated" if name == "synthetic" else name): value for name, value in row.items()} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    assert [pair.synthetic for pair in read_pairs(path, form=Form(columns={"synthetic": "generated"}))] == [
        False, True, True
    ]  # fmt: skip


def test_a_column_of_another_meaning_named_kind_does_no_harm(tmp_path):
    path = tmp_path / "pairs.jsonl"
    kinds = [["a"], True, 3, " ", {"b": 1}, "line\nbreak", " direct "]
    rows = [row_of(written(f"{n}?", str(n))) | {"kind": kind} for n, kind in enumerate(kinds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [pair.kind for pair in read_pairs(path)] == [None, None, "3", None, None, None, "direct"]
    by_kind = read_pairs(path, form=Form(columns={"document": "kind"}))  # one column may hold both
    assert [pair.document for pair in by_kind][-1].strip() == by_kind[-1].kind == "direct"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cut_from": 7}, '"cut_from" item 1 must be text or null, got a number'),
        ({"cut_from": " "}, '"cut_from" item 1 is empty'),
        ({"cut_from": ["a", "b"]}, '"cut_from" must hold 1, the whole passage or null for each positive; got 2'),
        ({"synthetic": "perhaps"}, "\"synthetic\" must be true or false, in a table also 1 or 0, got 'perhaps'"),
        ({"synthetic": [1]}, '"synthetic" must be true or false, in a table also 1 or 0, got a list'),
    ],
)
def test_faults_are_named(tmp_path, more, message):
    path = tmp_path / "pairs.jsonl"
    rows = [row_of(written(f"{n}?", str(n))) | more for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {problem.message for problem in read_file(path).problems} == {message}


def test_each_of_several_positives_has_its_own_whole_passage_and_a_clean_copy_keeps_them_apart(tmp_path):
    path, out = tmp_path / "pairs.jsonl", tmp_path / "clean.jsonl"
    three = {"query": "q?", "positive": ["a b c d", "a b c d", "e f g h"], "domain": "d", "cut_from": ["A", None, "B"]}
    rows = [three, *(row_of(written(f"{n}?", str(n), "d")) for n in range(3))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [pair.cut_from for pair in read_pairs(path)] == ["A", None, "B", None, None, None]
    check(path, write_clean=out, leave_out="duplicate-row")
    kept = json.loads(out.read_text().splitlines()[0])
    assert len(kept["positive"]) == len(kept["cut_from"]) == 2


def test_a_row_that_a_person_wrote_too_is_not_synthetic():
    one, other = made("q?", "a", kind="typo", line=1), written("q?", "a", line=1)
    for order in ([one, other], [other, one]):
        (row,), _ = joined([("a.jsonl", order[:1]), ("b.jsonl", order[1:])])
        assert (row.synthetic, row.kind) == (False, "typo")


# passages that were cut

WHOLE = "Seals\nReplace the seal when it drips. Use grease of class two. Tighten the gland by hand."
FIRST, LAST = WHOLE.replace(" Tighten the gland by hand.", ""), WHOLE.replace("Replace the seal when it drips. ", "")
OTHER = "Filters\nRinse the filter with warm water. Dry it in the sun. Put it back with the arrow up."
CUT = [
    Pair("which grease?", FIRST, "pumps", synthetic=True, cut_from=WHOLE),
    Pair("how tight?", LAST, "pumps", synthetic=True, cut_from=WHOLE),
    Pair("how is it rinsed?", OTHER, "pumps"),
]


def test_a_cut_passage_is_nearly_the_whole_one_and_what_else_was_cut_from_it():
    assert len({*near_duplicates([WHOLE, FIRST, LAST, OTHER]).tolist()}) == 4  # by their words they are far apart
    collection = index_pairs(CUT)
    first, last, other = collection.near_group[collection.positive].tolist()
    assert first == last != other
    with_whole = index_pairs([*CUT, Pair("what seals?", WHOLE, "pumps")])
    assert len({*with_whole.near_group[with_whole.positive].tolist()}) == 2
    nearly = index_pairs([*CUT, Pair("what seals?", f"{WHOLE} ", "pumps")])
    assert len({*nearly.near_group[nearly.positive].tolist()}) == 2
    assert with_whole.near_group.max() < len(with_whole.texts)


def test_a_passage_of_a_corpus_joins_what_was_cut_from_it_whenever_the_groups_are_asked_for():
    collection = index_pairs(CUT)
    late = with_distractors(collection, [WHOLE, "Nothing of the kind."])
    assert len(collection.near_group) == len(collection.texts)  # now they are known before the corpus comes
    early = with_distractors(collection, [WHOLE, "Nothing of the kind."])
    for found in (late.near_group.tolist(), early.near_group.tolist()):
        own = found[int(collection.positive[0])]
        assert (found[-2] == own, found[-1] == own) == (True, False)


def test_groups_without_cut_passages_are_those_of_the_words_alone(tiny_pairs):
    collection = index_pairs(tiny_pairs)
    assert collection.wholes == {}
    assert collection.near_group.tolist() == near_duplicates(collection.texts).tolist()


def test_the_loss_takes_a_whole_passage_for_no_negative_of_a_question_about_a_cut_one():
    pairs = [*CUT, Pair("what seals?", WHOLE, "pumps")]
    collection = index_pairs(pairs)
    batch = make_batch(collection, relevant_passages(collection), np.arange(4), hard_negatives=0)
    passages = np.unique(collection.positive)
    places = {collection.texts[number]: place for place, number in enumerate(passages.tolist())}
    masked = {text: batch.masked[0, place] for text, place in places.items()}
    assert masked == {FIRST: False, LAST: True, WHOLE: True, OTHER: False}  # its own is what is picked
    plain = index_pairs([dataclasses.replace(pair, cut_from=None) for pair in pairs])
    assert not make_batch(plain, relevant_passages(plain), np.arange(4), hard_negatives=0).masked[0].any()


@given(st.integers(0, 2**20))
def test_a_split_keeps_what_was_cut_from_one_passage_together(seed):
    rows = []
    for n in range(9):
        for place in (0, 3, 6):
            text = " ".join(f"w{n}{word}" for word in range(9) if word != place)
            rows.append(Pair(f"{n} {place}?", text, "d", cut_from=passage(str(n))))
    _, parts = divide(rows, DataConfig(seed=seed, query_share=0.0))
    assert all(len({*parts[3 * n : 3 * n + 3].tolist()}) == 1 for n in range(9))


def ranked_texts(pairs, rows, *more: str) -> set[str]:
    """What the queries of some rows are ranked over, with further passages of a corpus."""
    collection = ranked_for(with_distractors(index_pairs(pairs), more), rows)
    return {collection.texts[number] for number in collection.corpus.tolist()}


def test_a_search_ranks_whole_passages_and_of_cut_ones_those_that_are_asked_about():
    people = Pair("what seals?", WHOLE, "pumps")
    # nobody asks about the cut ones: the whole one stands for them, or if nothing names it the first that was cut
    assert ranked_texts([*CUT, people], [2, 3]) == {WHOLE, OTHER}
    assert ranked_texts(CUT, [2], WHOLE) == {WHOLE, OTHER}
    assert ranked_texts(CUT, [2]) == {FIRST, OTHER}
    # a question about a cut one finds that, and no other one of the same passage beside the whole
    assert ranked_texts([*CUT, people], [1]) == {LAST, WHOLE, OTHER}
    assert ranked_texts(CUT, [1, 2]) == {FIRST, LAST, OTHER}
    assert ranked_texts([*CUT, people], range(4)) == {FIRST, LAST, WHOLE, OTHER}
    # what a person asks about is a passage, though another row says that it was cut
    assert ranked_texts([*CUT, Pair("how tight by hand?", LAST, "pumps")], [2]) == {LAST, OTHER}


def test_figures_of_people_are_those_without_the_passages_that_were_cut_for_training(tiny_model_folder, tiny_pairs):
    sentences = "It is loud. Use grease of class two."
    people = [dataclasses.replace(pair, positive=f"{pair.positive} {sentences}", negatives=()) for pair in tiny_pairs]
    cut = [
        Pair(f"made {n}?", pair.positive.replace(sentence, ""), pair.domain, synthetic=True, cut_from=pair.positive)
        for n, pair in enumerate(people)
        for sentence in (" It is loud.", " Use grease of class two.")
    ]
    rows, encoder = list(range(len(people))), load(str(tiny_model_folder))
    alone, beside = index_pairs(people), index_pairs([*people, *cut])
    fusions = (WORDS, VECTORS)
    expected, found = (encoder_scores(encoder, each, rows, 64, fusions) for each in (alone, beside))
    for fusion in fusions:
        for name, values in expected[fusion].items():
            np.testing.assert_allclose(found[fusion][name], values, atol=1e-6)
    inside = [query_scores(asked_of(encoder, each, rows, 64), within_domain=True)["mrr"] for each in (alone, beside)]
    np.testing.assert_allclose(*inside, atol=1e-6)
    plain = plain_scores(encoder.model, beside, rows)
    np.testing.assert_allclose(plain["mrr"], expected[VECTORS]["mrr"], atol=1e-6)
    # among all that was cut fewer are found: its own, each twice, stand in the way of others
    crowded = dataclasses.replace(beside, cut_from=(None,) * len(beside.query))
    assert encoder_scores(encoder, crowded, rows, 64, fusions)[VECTORS]["mrr"].mean() < plain["mrr"].mean() - 0.01


def sections() -> list[Section]:
    texts = {
        "Seals": "Replace the seal when it drips. Use grease of class two. Tighten the gland by hand.",
        "Filters": "Rinse the filter with warm water. Dry it in the sun. Put it back with the arrow up.",
        "Belts": "Press the belt with a thumb. It must give way by a finger. Turn the nut until it does.",
        "Motors": "Let the motor cool for an hour. Take off the hood. Blow out the dust with dry air.",
        "Valves": "Open the valve by one turn. Wait until the hiss ends. Close it with the long key.",
        "Pipes": "Empty the pipe before winter. Leave the tap open. Wrap the bend in felt.",
    }
    return [Section("pumps", "Pump", "", name, text, None, "pump.md") for name, text in texts.items()]


def test_sections_are_a_corpus_of_the_passages_that_rows_name(tmp_path):
    path = tmp_path / "sections.jsonl"
    write_sections(sections(), path)
    assert [passage.text for passage in read_corpus(path)] == [section.passage for section in sections()]


def test_mining_among_sections_never_returns_the_whole_of_a_cut_passage(tmp_path, tiny_model_folder, capsys):
    pytest.importorskip("datasets", reason="mining needs the extra nic_ray[mine]")
    every, rows = sections(), []
    for number, section in enumerate(every):
        first, rest = section.text.split(". ", 1)
        rows.append(Question(f"{first}?", "direct", number, rest).row(section))
        rows.append(Question(f"{section.section.lower()} service", "keyword", number, f"{first}.").row(section))
    pairs, corpus, out = tmp_path / "pairs.jsonl", tmp_path / "sections.jsonl", tmp_path / "mined.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_sections(every, corpus)
    mine.main([pairs], out, str(tiny_model_folder), negatives=4, margin=0.0, corpus=corpus, device="cpu", config=None)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    mined = [row for row in found if "negative" in row]
    assert mined
    assert {text for row in mined for text in row["negative"]} & {each.passage for each in every}
    for row in mined:
        own = {row["positive"], row["cut_from"], *(r["positive"] for r in rows if r["cut_from"] == row["cut_from"])}
        assert not own & {*row["negative"]}
        assert row["synthetic"] is True
        of_sections = [text.partition("\n")[0] for text in row["negative"]]
        assert len({*of_sections}) == len(of_sections)  # of passages cut from one section, the nearest is enough
    # the same with what the rows say cut out: then it would be mined
    plain = [Pair(row["query"], row["positive"], "pumps") for row in rows]
    assert with_corpus(index_pairs(plain), corpus).near_group[-1] not in index_pairs(plain).near_group


# beside other rows


@st.composite
def files(draw):
    """Rows of two domains that people wrote, and synthetic ones about their passages, others, or cut ones."""
    others, further = [], []
    for domain in ("a", "b"):
        count = draw(st.integers(4, 9))
        for number in [*range(count), *draw(st.lists(st.integers(0, count - 1), max_size=12))]:
            document = draw(st.sampled_from([None, "x", "y", "z", "u", "v"]))
            others.append(written(f"{len(others)} {domain}?", f"{domain}{number}", domain, document=document))
        for number in draw(st.lists(st.integers(0, count + 4), max_size=20)):
            name, query = f"{domain}{number}", f"{len(further)} made {domain}?"
            if draw(st.booleans()) and others:
                query = draw(st.sampled_from(others)).query
            if draw(st.booleans()):
                further.append(made(query, name, domain, document=draw(st.sampled_from([None, "x", "y"]))))
            else:
                further.append(Pair(query, f"{name} cut", domain, cut_from=passage(name), synthetic=True))
    order = draw(st.permutations(range(len(others) + len(further))))
    together = [*others, *further]
    return [together[place] for place in order]


SETTINGS = [
    {},
    {"query_share": 0.3},
    {"sample_share": 0.6},
    {"protocol": "unseen_queries"},
    {"protocol": "cross_fit", "sample_share": 0.5},
]


@given(files(), st.integers(0, 2**20), st.sampled_from(SETTINGS))
def test_other_rows_are_split_as_without_synthetic_rows_which_never_are_held_back(rows, seed, settings):
    data = DataConfig.model_validate({"seed": seed, **settings})
    others = [pair for pair in rows if not pair.synthetic]
    alone, parts_alone = divide(others, data)
    found = divided_rows(rows, data)
    collection, parts = found.collection, found.parts
    marks = np.array([rows[row].synthetic for row in found.rows.tolist()])
    assert parts[~marks].tolist() == parts_alone.tolist()
    assert split_sha256(collection, parts) == split_sha256(alone, parts_alone)
    assert {*parts[marks].tolist()} <= {"train"}
    assert [collection.texts[query] for query in collection.query.tolist()] == [
        rows[row].query for row in found.rows.tolist()
    ]
    held = np.isin(parts, ("validation", "test"))
    if settings.get("protocol") == "unseen_queries":
        assert not {*collection.query[held].tolist()} & {*collection.query[marks].tolist()}
    else:
        near = collection.near_group[collection.positive]
        assert not {*near[held].tolist()} & {*near[marks].tolist()}
        asked = collection.query[parts == "unseen_queries"]
        assert not {*asked.tolist()} & {*collection.query[marks].tolist()}
    left_out = {*range(len(rows))} - {*found.rows.tolist()}
    if data.sample_share == 1 and settings.get("protocol") != "unseen_queries":
        told = index_pairs(rows)
        groups = told.near_group[told.positive]
        of_held = {int(groups[row]) for row in found.rows[held].tolist()}
        unseen = {rows[row].query for row in found.rows[parts == "unseen_queries"].tolist()}
        assert left_out == {
            row
            for row, pair in enumerate(rows)
            if pair.synthetic and (int(groups[row]) in of_held or pair.query in unseen)
        }


def hand_worked() -> list[Pair]:
    """Six passages that a person asked about, of two questions each."""
    return [written(f"{name} {n}?", name) for name in "abcdef" for n in range(2)]


def test_a_synthetic_row_is_trained_on_unless_its_passage_is_held_back():
    data = DataConfig(query_share=0.0)
    _, alone = divide(hand_worked(), data)
    part_of = {name: str(alone[2 * number]) for number, name in enumerate("abcdef")}
    further = [made(f"made {name}?", name) for name in "abcdefg"]
    further += [Pair(f"cut {name}?", f"{name} cut", "pumps", synthetic=True, cut_from=passage(name)) for name in "abg"]
    collection, parts = divide([*hand_worked(), *further], data)
    used = {collection.texts[query] for query in collection.query.tolist()}
    assert Counter(part_of.values())["train"] >= 2
    for name in "abcdef":
        assert (f"made {name}?" in used) == (part_of[name] == "train")
    assert {"made g?", "cut g?"} <= used
    assert parts[:12].tolist() == alone.tolist()
    assert {*parts[12:].tolist()} == {"train"}


def test_as_others_and_a_file_of_synthetic_rows_alone_are_split_as_ever():
    rows = [*hand_worked(), *(made(f"made {name} {n}?", name) for name in "ghijkl" for n in range(2))]
    plain = [dataclasses.replace(pair, synthetic=False) for pair in rows]
    expected = divide(plain, DataConfig())[1].tolist()
    assert divide(rows, DataConfig(synthetic="as_others"))[1].tolist() == expected
    assert divide(rows, DataConfig())[1].tolist() != expected
    every = [dataclasses.replace(pair, synthetic=True) for pair in rows]
    assert split_sha256(*divide(every, DataConfig())) == split_sha256(*divide(plain, DataConfig()))


def test_too_few_rows_of_people_are_refused_with_the_way_out():
    rows = [*hand_worked()[:4], *(made(f"made {name}?", name) for name in "ghijkl")]
    with pytest.raises(InputError, match=r"(?s)too few distinct passages, 2; want 3.*not synthetic.*as_others"):
        divide(rows, DataConfig())
    assert len(divide(rows, DataConfig(synthetic="as_others"))[1]) == 10


def test_own_splits_stay_but_for_synthetic_rows_that_came_with_a_held_back_part():
    parts = ("train", "validation", "test")
    others = [dataclasses.replace(written(f"{part}?", part), split=part) for part in parts]
    further = [dataclasses.replace(made(f"made {part}?", f"g{part}"), split=part) for part in parts]
    alone = dataclasses.replace(made("radio?", "r", "radios"), split="train")  # a domain that is not measured
    found = divided_rows([*further, *others, alone], DataConfig(splits="own"))
    assert found.rows.tolist() == [0, 3, 4, 5, 6]
    assert found.parts.tolist() == ["train", *parts, "train"]
    whole = divided_rows([*further, *others], DataConfig(splits="own", synthetic="as_others"))
    assert whole.parts.tolist() == [*parts, *parts]


def test_documents_are_kept_together_whatever_names_them():
    others = [written(f"{n}?", f"p{n}", source_section=f"s{n // 2}") for n in range(12)]
    # synthetic rows name a document besides, and passages of their own in the sections of the others
    further = [made(f"made {n}?", f"q{n}", source_section=f"s{n // 2}", document="manual") for n in range(12)]
    data = DataConfig(group_by="document", query_share=0.0)
    _, alone = divide(others, data)
    collection, parts = divide([*others, *further], data)
    assert parts[:12].tolist() == alone.tolist()
    trained = {name for name, part in zip(collection.documents, parts.tolist(), strict=True) if part == "train"}
    held = {name for name, part in zip(collection.documents, parts.tolist(), strict=True) if part != "train"}
    assert held
    assert not trained & held
    assert len(parts) == 12 + np.count_nonzero(alone == "train")


# old rows and new ones

OLD = [written("train?", "t"), written("validation?", "v"), written("test?", "x"), written("asked?", "t")]
OLD_PARTS = np.array(["train", "validation", "test", "unseen_queries"])


def joined_with(*new: Pair, **settings):
    found = join(index_pairs(OLD), OLD_PARTS, new, DataConfig.model_validate({"query_share": 0.0, **settings}))
    assert (found.pairs[:4], found.parts[:4].tolist()) == (OLD, OLD_PARTS.tolist())
    new_parts = zip(found.pairs[4:], found.parts[4:].tolist(), strict=True)
    return {pair.query: part for pair, part in new_parts}, found.repeated, found.left_out


def test_new_synthetic_rows_join_the_training_of_old_rows_or_are_left_out():
    new = [made("1?", "t"), made("2?", "v"), made("3?", "x"), made("4?", "new"), made("asked?", "new"), OLD[0]]
    assert joined_with(*new) == ({"1?": "train", "4?": "train"}, 1, 3)
    of_people = [written(f"{name}?", name, "radios") for name in "klm"]
    parts, *_ = joined_with(*new, *of_people)
    alone, *_ = joined_with(*of_people)
    assert {name: part for name, part in parts.items() if name in alone} == alone
    assert parts | alone == parts
    assert parts["4?"] == "train"
    split_alike, *_ = joined_with(*new, synthetic="as_others")
    assert split_alike["2?"] == "validation"
    with pytest.raises(InputError, match="holds no new row that can be used"):
        joined_with(dataclasses.replace(OLD[0], synthetic=True), OLD[0])


def test_rows_of_a_collection_keep_how_their_questions_came_about():
    rows = [*CUT, dataclasses.replace(OLD[0], kind="typo")]
    assert pairs_of(index_pairs(rows)) == rows


# a run


def settings(tiny_model, path: Path, **data) -> Config:
    given = {"pairs": str(path), "validation_share": 0.25, "test_share": 0.25, **data}
    train = {"base_model": str(tiny_model(layers=3)), "frozen_layers": 1, "max_tokens": 64}
    return Config.model_validate({"data": given, "train": train, "guard": {"min_neighbours_kept": 0}})


@pytest.fixture
def mixed(tiny_pairs, tmp_path) -> Path:
    """The rows of `tiny_pairs`, and a synthetic row about each passage and about three of a further domain."""
    passages = list(dict.fromkeys((pair.positive, pair.domain) for pair in tiny_pairs))
    further = [Pair(f"made {n}?", text, domain, synthetic=True) for n, (text, domain) in enumerate(passages)]
    further += [
        Pair(f"fan {n}?", f"{name} the fan", "fans", synthetic=True) for n, name in enumerate(("Turn", "Oil", "Dust"))
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row_of(pair)) + "\n" for pair in [*further, *tiny_pairs]))
    return path


def test_a_run_says_and_records_what_became_of_synthetic_rows(tiny_model, mixed, tiny_pairs_file):
    prepared = prepare(settings(tiny_model, mixed), on_gpu=False)
    alone = prepare(settings(tiny_model, tiny_pairs_file), on_gpu=False)
    described, without = describe_data(prepared), describe_data(alone)
    assert described["split"]["sha256"] == without["split"]["sha256"]
    trained = described["data"]["synthetic"]["train"]
    assert described["data"]["synthetic"] == {"train": trained, "validation": 0, "test": 0, "unseen_queries": 0}
    assert "synthetic" not in without["data"]
    assert "synthetic" not in described["split"]
    said = "\n".join(describe_run(prepared))
    assert f"synthetic rows: {trained} train (data.synthetic: train_only; the other rows alone are held back)" in said
    assert f"{27 - trained} further synthetic rows are left out" in said
    assert "domains with synthetic rows alone, which are trained on and not measured: fans" in said
    assert "synthetic" not in "\n".join(describe_run(alone))
    alike = prepare(settings(tiny_model, mixed, synthetic="as_others"), on_gpu=False)
    stored = describe_data(alike)
    assert stored["split"]["synthetic"] == "as_others"
    assert stored["data"]["synthetic"]["test"] > 0
    assert split_settings(stored["split"], Path("m")).synthetic == "as_others"
