"""A corpus of passages that no question asks for: reading, ranking over it, and what it must not change."""

import csv
import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from nic_ray.bundle.run_files import write_run
from nic_ray.bundle.wanted import other_corpus
from nic_ray.dataset.beir import read_beir
from nic_ray.dataset.corpus import read_distractors, with_distractors, with_metrics
from nic_ray.dataset.duplicates import groups_of_others, near_duplicates
from nic_ray.dataset.pairs import index_pairs
from nic_ray.dataset.passages import read_corpus
from nic_ray.errors import InputError
from nic_ray.metrics import ranking
from nic_ray.metrics.ranking import flat_metrics, nearest_passages, similarities
from nic_ray.model.evaluation import Asked, nearest, query_scores, texts_to_score
from nic_ray.model.whole_models import encoder_embeddings
from nic_ray.selection.reading import read_once
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.selection.word_search import choose_fusion
from nic_ray.training.distractors import describe_corpus, embed_passages, whole_collection
from nic_ray.training.prepared import split_sha256
from nic_ray.training.start import describe_data, describe_run, describe_start, refuse_other_start

NOUNS = "bolt seal hose lamp fuse gear belt cap rod pin nut key jack lid tray vent plug fin rim hub".split()
TEXTS = [f"Turn the {first} of the {second} until the {third} rests." for first in NOUNS for second in NOUNS[:3]
         for third in NOUNS[5:8]][:120]  # fmt: skip


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_parquet(path, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def as_json(path, rows):
    path.write_text(json.dumps(rows))
    return path


def as_folder(path, rows):
    path.mkdir()
    jsonl(path / "corpus.jsonl", [{"_id": str(number), **row} for number, row in enumerate(rows)])
    jsonl(path / "queries.jsonl", [{"_id": "q", "text": "a question"}])
    (path / "qrels").mkdir()
    (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [("c.jsonl", jsonl), ("c.csv", as_csv), ("c.parquet", as_parquet), ("c.json", as_json), ("beir", as_folder)],
)
def test_passages_are_read_from_any_format_with_their_titles(tmp_path, name, write):
    path = write(tmp_path / name, [{"title": "Seals", "text": TEXTS[0]}, {"title": "", "text": TEXTS[1]}])
    assert [(passage.text, passage.domain) for passage in read_corpus(path)] == [
        (f"Seals {TEXTS[0]}", path.stem), (TEXTS[1], path.stem),
    ]  # fmt: skip


def test_a_folder_of_files_is_read_file_by_file_whatever_text_lies_beside_them(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "README.md").write_text(
        "# Dataset card\n\nThis is the licence, in thirteen words or more, so that it counts."
    )
    as_parquet(folder / "part-1.parquet", [{"text": text} for text in TEXTS[:3]])
    as_parquet(folder / "part-2.parquet", [{"text": text} for text in TEXTS[2:5]])
    assert [passage.text for passage in read_corpus(folder)] == TEXTS[:5]


def test_further_passages_of_a_folder_with_ids_have_ids_of_their_own(tmp_path):
    collection, rows = read_beir(as_folder(tmp_path / "beir", [{"text": TEXTS[0]}, {"text": TEXTS[1]}]), "test")
    added = with_distractors(collection, TEXTS[2:4])
    assert added.ids == ("q", "0", "1", "corpus-1", "corpus-2")
    vectors = np.random.default_rng(0).normal(size=(5, 4))
    write_run(tmp_path / "run.txt", Asked(vectors, np.arange(5), added, rows))
    assert len({line.split(" ")[2] for line in (tmp_path / "run.txt").read_text().splitlines()}) == 4


def test_words_are_indexed_once_and_not_sent_along(tiny_pairs, monkeypatch):
    collection = index_pairs(tiny_pairs)
    made = []
    monkeypatch.setattr("nic_ray.metrics.bm25.bm25", lambda texts: made.append(len(texts)) or (lambda queries: None))
    assert collection.search_by_words is collection.search_by_words
    assert made == [len(collection.corpus)]
    assert "search_by_words" not in vars(pickle.loads(pickle.dumps(collection)))


def test_queries_that_share_their_neighbours_have_as_many_hard_passages(searched, corpus_file, monkeypatch):
    asked = []

    def shared(scored, shape, *, k):  # every query has the same neighbours
        asked.append(k)
        return np.tile(np.arange(k), (shape[0], 1)), np.zeros((shape[0], k))

    monkeypatch.setattr("nic_ray.training.distractors.nearest_passages", shared)
    more = {"data": {"corpus": str(corpus_file)}, "evaluation": {"exact_up_to": 60}}
    prepared, _, _ = searched(1, more=more)
    assert {*TEXTS[:30]} <= {*prepared.collection.texts[-60:]}
    assert asked == sorted(asked)
    assert len(asked) > 1


def test_another_corpus_is_warned_of_and_refused_on_resume(searched, corpus_file, tmp_path):
    prepared, _, _ = searched(1, more={"data": {"corpus": str(corpus_file)}})
    start = json.loads(json.dumps(describe_start(prepared)))
    metadata = json.loads(json.dumps(describe_data(prepared)))
    assert [*other_corpus("m", metadata, corpus_file)] == []
    (line,) = other_corpus("m", metadata, None)
    assert line == "m: its figures are with 120 further passages, of corpus.jsonl; name them with --corpus"
    jsonl(corpus_file, [{"text": text} for text in TEXTS[:50]])
    (line,) = other_corpus("m", metadata, corpus_file)
    assert line.endswith("corpus.jsonl is another corpus")
    again, _, _ = searched(1, more={"data": {"corpus": str(corpus_file)}})
    with pytest.raises(
        InputError, match=r"corpus\.jsonl: has changed since .*, and its passages are ranked; put the old"
    ):
        refuse_other_start(again, start, tmp_path)


def test_a_file_of_pairs_gives_their_passages(tiny_pairs_file, tiny_pairs):
    named = {pair.positive for pair in tiny_pairs}.union(*(pair.negatives for pair in tiny_pairs))
    assert {passage.text for passage in read_corpus(tiny_pairs_file)} == named


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "\\ud800"}\n', 'line 1: "text" must be text, got text with half a character'),
        ('{"text": "a", "title": 3}\n', 'line 1: "title" must be text, got a number'),
        ('{"text": "a"}\n{"text": 3}\n', 'line 2: "text" must be text, got a number'),
        ('{"text": "a"}\n{"text": " "}\n', 'line 2: "text" is empty'),
        ('{"text": "a"}\n[1]\n', "line 2: must be a JSON object, got a list"),
        ('{"text": "a"}\n{"text": \n', "line 2: not JSON: "),
        ('{"text": "a"}\n{"title": "b"}\n', 'line 2: "text" must be text, got null'),
        ('{"title": 5, "text": "a"}\n', 'line 1: "title" must be text, got a number'),
        ('{"chapter": "a"}\n', "no column is known to hold passages (found: chapter); name it text, with a title"),
        ("", "holds no passages"),
    ],
)
def test_what_is_no_passage_is_refused_by_its_place(tmp_path, content, message):
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_corpus(tmp_path / "c.jsonl")


def test_passages_that_rows_name_are_no_distractors(tiny_pairs, tmp_path):
    collection = index_pairs(tiny_pairs)
    path = jsonl(tmp_path / "c.jsonl", [{"text": text} for text in [tiny_pairs[0].positive, *TEXTS[:3], TEXTS[1]]])
    assert read_distractors(path, collection) == TEXTS[:3]


def test_a_corpus_joins_no_groups_and_its_near_copies_are_left_out(tiny_pairs):
    words = " ".join(f"w{number}" for number in range(60))
    rows = [replace(tiny_pairs[0], positive=words), *tiny_pairs[1:]]
    for known in (False, True):
        collection = index_pairs(rows)
        if known:
            assert len(collection.near_group) == len(collection.texts)
        near, far = words.replace("w7 ", "v7 "), " ".join(f"u{number}" for number in range(60))
        added = with_distractors(collection, [near, far])
        assert added.near_group[: len(collection.texts)].tolist() == collection.near_group.tolist()
        own = added.near_group[added.positive[0]]
        assert (added.near_group[-2] == own, added.near_group[-1] == own) == (True, False)
        assert with_metrics(added, ("map",)).near_group.tolist() == added.near_group.tolist()
        # what is as near as a copy does not take the answer's rank
        vectors = np.zeros((len(added.texts), 4))
        vectors[[added.query[0], added.positive[0], len(added.texts) - 2]] = 1.0
        asked = Asked(vectors, np.arange(len(added.texts)), added, [0])
        assert query_scores(asked)["mrr"].tolist() == [1.0]


def test_groups_of_others_are_those_of_all_together(monkeypatch):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(NOUNS, 30)) for _ in range(40)]
    others = [text.replace(" ", " x ", 1) if number % 3 else " ".join(generator.choice(NOUNS, 30))
              for number, text in enumerate(texts)]  # fmt: skip
    together = near_duplicates([*texts, *others])
    monkeypatch.setattr("nic_ray.dataset.duplicates._BLOCK_OTHERS", 1)
    found = groups_of_others(texts, others)
    assert (found >= 0).sum() > 10
    for number, group in enumerate(found.tolist()):
        same = np.flatnonzero(together[:40] == together[40 + number])
        assert group == (same[0] if len(same) else -1)


@pytest.mark.parametrize("at_once", [7, 2**16])
def test_the_nearest_are_those_of_a_sort(monkeypatch, at_once):
    monkeypatch.setattr(ranking, "_BLOCK_PASSAGES", at_once)
    generator = np.random.default_rng(0)
    queries, corpus = generator.normal(size=(5, 8)), generator.normal(size=(50, 8))
    ignored = [np.array([number, number + 20]) for number in range(5)]
    found, values = nearest_passages(similarities(queries, corpus), (5, 50), k=9, ignored=ignored)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, corpus)]
    cosines = unit[0] @ unit[1].T
    for row, left_out in enumerate(ignored):
        cosines[row, left_out] = -np.inf
    want = np.argsort(-cosines, axis=1)[:, :9]
    assert found.tolist() == want.tolist()
    assert values == pytest.approx(np.take_along_axis(cosines, want, axis=1), abs=1e-6)


@pytest.fixture
def corpus_file(tmp_path):
    return jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in TEXTS])


def test_the_split_does_not_depend_on_the_corpus(searched, corpus_file):
    without, _, _ = searched(1)
    prepared, _, _ = searched(1, more={"data": {"corpus": str(corpus_file)}})
    assert split_sha256(prepared.collection, prepared.parts) == split_sha256(without.collection, without.parts)
    assert prepared.passages.tolist() == without.passages.tolist()
    assert prepared.collection.distractors == len(TEXTS)


def test_every_evaluation_ranks_the_whole_of_a_small_corpus(searched, corpus_file):
    without, inputs, _ = searched(1)
    prepared, with_inputs, _ = searched(1, more={"data": {"corpus": str(corpus_file)}})
    rows = prepared.rows("validation")
    found = Scorer(prepared, with_inputs[1]).scores(None, rows)
    alone = Scorer(without, inputs[1]).scores(None, rows)
    # by hand: whatever ranks before the answer without the corpus does so with it, and distractors come on top
    texts = [without.collection.texts[number] for number in without.collection.query[rows].tolist()]
    queries = embed_passages(prepared.encoder, texts, 64)
    others = embed_passages(prepared.encoder, TEXTS, 64)
    answers = embed_passages(
        prepared.encoder, [without.collection.texts[number] for number in without.collection.positive[rows]], 64
    )
    before = (queries @ others.T >= (queries * answers).sum(axis=1)[:, None] - 1e-6).sum(axis=1)
    assert (1 / found["mrr"]).round().tolist() == ((1 / alone["mrr"]).round() + before).tolist()
    assert before.sum() > 0
    (line,) = [line for line in describe_run(prepared) if "named by no row" in line]
    named = len(without.collection.corpus)
    assert line == f"{named + 120} passages are ranked, 120 of them of {corpus_file}, named by no row"
    assert describe_data(prepared)["data"]["corpus"]["sampled"] == 120
    assert describe_data(prepared)["data"]["passages"] == named


def test_of_a_large_corpus_trials_rank_the_hardest_and_some_at_random(searched, corpus_file):
    more = {"data": {"corpus": str(corpus_file)}, "evaluation": {"exact_up_to": 30}}
    prepared, _, _ = searched(1, more=more)
    again, _, _ = searched(1, more=more)
    assert prepared.collection.texts == again.collection.texts
    assert (prepared.corpus.sampled, len(prepared.corpus.beyond), prepared.corpus.count) == (30, 90, 120)
    sample = set(prepared.collection.texts[-30:])
    assert sample | set(prepared.corpus.beyond) == set(TEXTS)
    asking = np.unique(prepared.collection.query[prepared.rows("validation")])
    queries = encoder_embeddings(prepared.encoder, prepared.collection, asking, 64)
    order = np.argsort(-queries @ embed_passages(prepared.encoder, TEXTS, 64).T, axis=1)
    hardest = {TEXTS[number] for number in list(dict.fromkeys(order.T.ravel().tolist()))[:15]}
    assert hardest <= sample
    other, _, _ = searched(1, more={**more, "data": {**more["data"], "seed": 7}})
    assert set(other.collection.texts[-30:]) != sample
    assert "a sample of 30 of that corpus" in describe_corpus(prepared.corpus, 10)


def test_the_test_rows_rank_all_of_it_whatever_trials_rank(searched, corpus_file):
    data = {"corpus": str(corpus_file)}
    found, kept = [], []
    for limit in (30, 1000):
        prepared, inputs, candidates = searched(1, more={"data": data, "evaluation": {"exact_up_to": limit}})
        scorer = Scorer(prepared, inputs[1])
        rows = prepared.rows("validation")
        queries = queries_of(prepared, "validation")
        fusions = {
            label: choose_fusion(scorer, weights, rows, queries, "recall_at_5/macro")
            for label, weights in (("base", None), ("tuned", candidates[0].weights))
        }
        models = {"first trial": candidates[0], "tuned": candidates[0]}
        found.append((prepared, read_once(prepared, inputs, models, fusions), scorer.metrics(None, rows)))
        kept.append(inputs)
    (sampled, on_sample, by_sample), (whole, on_whole, by_all) = found
    for label in ("base", "tuned"):
        assert on_sample.results["test"][label] == pytest.approx(on_whole.results["test"][label], abs=1e-9)
    assert by_sample["mrr/macro"] > by_all["mrr/macro"]
    assert whole_collection(whole.collection, whole.corpus) is whole.collection
    # a single training, folds and the learning curve read the same
    for label, weights in (("base", None), ("tuned", candidates[0].weights)):
        of_all = Scorer(sampled, kept[0][1]).metrics(weights, sampled.rows("test"), of_all=True)
        assert on_sample.results["test"][label] == pytest.approx(of_all, abs=1e-9)
    # and by hand: the base model over all texts
    collection = whole_collection(sampled.collection, sampled.corpus)
    test = sampled.rows("test").tolist()
    texts = texts_to_score(collection, test)
    asked = Asked(encoder_embeddings(sampled.encoder, collection, texts, 64), texts, collection, test)
    assert on_sample.results["test"]["base"] == pytest.approx(
        flat_metrics(query_scores(asked), asked.domains), abs=1e-6
    )
    passages, _ = nearest(asked, k=5)
    assert passages.max() >= len(sampled.collection.texts)


def test_a_corpus_that_adds_nothing_is_said_and_one_that_is_not_there_refused(searched, tiny_pairs, tmp_path):
    path = jsonl(tmp_path / "c.jsonl", [{"text": tiny_pairs[0].positive}])
    prepared, _, _ = searched(1, more={"data": {"corpus": str(path)}})
    (line,) = [line for line in describe_run(prepared) if "c.jsonl" in line]
    assert line.startswith(f"{path} holds no passage that no row names: ")
    assert describe_data(prepared)["data"]["corpus"]["passages"] == 0
    with pytest.raises(InputError, match="no such file"):
        searched(1, more={"data": {"corpus": str(tmp_path / "gone.jsonl")}})
