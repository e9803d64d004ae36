"""Numbers of a model: the same as with Sentence Transformers' own encoding, on the rows that were asked for."""

import dataclasses
import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nic_ray import comparison
from nic_ray.activations import feed, token_inputs
from nic_ray.bundle import file_sha256, write_bundle
from nic_ray.comparison import Comparison, compare_with_base, describe_rows
from nic_ray.config import DataConfig
from nic_ray.encoder import load, upper
from nic_ray.errors import InputError
from nic_ray.evaluation import (
    embed,
    evaluate,
    evaluate_encoder,
    query_scores,
    texts_to_score,
)
from nic_ray.pairs import index_pairs
from nic_ray.preparation import divide
from nic_ray.retrieval import retrieval_metrics
from nic_ray.split import sample_rows, split_rows

SPLIT = {
    "protocol": "unseen_queries",
    "seed": 3,
    "validation_share": 0.2,
    "test_share": 0.4,
    "sample_share": 0.75,
    "rows": {"train": 1, "validation": 1, "test": 1},
    "sha256": "5b17" * 16,
}


def reference_metrics(folder, pairs, rows, corpus, max_tokens=None):
    """The definition, with `SentenceTransformer.encode`: each row ranked over the texts of `corpus`."""
    model = SentenceTransformer(str(folder), device="cpu")
    if max_tokens is not None:
        model.max_seq_length = max_tokens
    corpus = sorted(corpus)
    right = {}
    for pair in pairs:
        right.setdefault(pair.query, set()).add(pair.positive)
    return retrieval_metrics(
        model.encode([pairs[row].query for row in rows]),
        model.encode(corpus),
        [np.array([corpus.index(text) for text in sorted(right[pairs[row].query])]) for row in rows],
        [pairs[row].domain for row in rows],
    )


def passages(pairs):
    return {text for pair in pairs for text in (pair.positive, *pair.negatives)}


@pytest.fixture
def bundle_of(tiny_model, tiny_pairs_file, tmp_path):
    """Make a bundle whose base is the two-layer BERT and whose own weights are the three-layer one's."""

    def make(**changes):
        metadata = {
            "name": "tuned",
            "base_model": str(tiny_model()),
            "config": {"max_tokens": 12},
            "data": {"sha256": file_sha256(tiny_pairs_file)},
            "split": SPLIT,
        }
        model = SentenceTransformer(str(tiny_model(layers=3)), device="cpu")
        folder = tmp_path / "tuned"
        write_bundle(folder, model, metadata | changes, training_log="")
        return folder

    return make


@pytest.mark.parametrize("model_type", ["bert", "mpnet", "xlm-roberta"])
def test_a_model_gets_the_numbers_of_plain_encoding(model_type, tiny_model, tiny_pairs):
    folder = tiny_model(model_type)
    rows = [0, 1, 5, 17, 20, 40, 47]
    found = evaluate_encoder(load(str(folder)), index_pairs(tiny_pairs), rows, max_tokens=64)
    assert found == pytest.approx(reference_metrics(folder, tiny_pairs, rows, passages(tiny_pairs)), abs=1e-9)


def test_a_model_that_cannot_be_cut_gets_the_same_numbers(tiny_model_folder, tiny_pairs):
    encoder = load(str(tiny_model_folder))
    whole = dataclasses.replace(encoder, can_be_cut=False)
    numbers = [evaluate_encoder(each, index_pairs(tiny_pairs), [0, 20, 40], 64) for each in (encoder, whole)]
    assert encoder.can_be_cut
    assert numbers[0] == numbers[1]


def test_texts_are_cut_off_where_it_was_asked_for(tiny_model_folder, tiny_pairs):
    rows = list(range(len(tiny_pairs)))
    encoder, collection = load(str(tiny_model_folder)), index_pairs(tiny_pairs)
    short, long = (evaluate_encoder(encoder, collection, rows, max_tokens) for max_tokens in (5, 64))
    expected = reference_metrics(tiny_model_folder, tiny_pairs, rows, passages(tiny_pairs), max_tokens=5)
    assert short == pytest.approx(expected, abs=1e-9)
    assert short != long


def test_an_evaluation_leaves_the_model_in_eval_mode(tiny_model_folder, tiny_pairs):
    encoder = load(str(tiny_model_folder))
    evaluate_encoder(encoder, index_pairs(tiny_pairs), [0], 64)
    assert not [name for name, module in encoder.model.named_modules() if module.training]


def test_an_evaluation_in_training_runs_without_dropout_and_training_goes_on_with_it(tiny_model_folder, tiny_pairs):
    encoder, collection = load(str(tiny_model_folder)), index_pairs(tiny_pairs)
    source = feed(token_inputs(encoder, collection.texts, 64), "cpu")
    model = upper(encoder, 0).train()
    first, second = (evaluate(model, source, collection, [0, 20, 40]) for _ in range(2))
    assert first == second == evaluate(model.eval(), source, collection, [0, 20, 40])
    model.train()
    evaluate(model, source, collection, [0])
    assert model.training


def test_embeddings_come_in_the_order_of_the_texts_repeats_included(tiny_model_folder, tiny_pairs):
    encoder, collection = load(str(tiny_model_folder)), index_pairs(tiny_pairs)
    source = feed(token_inputs(encoder, collection.texts, 64), "cpu")
    texts = np.array([9, 2, 30, 2, 0])
    found = embed(upper(encoder, 0), source, texts)
    assert found == pytest.approx(encoder.model.encode([collection.texts[text] for text in texts]), abs=1e-6)
    assert found[1].tolist() == found[3].tolist()


def test_scoring_needs_the_queries_of_the_rows_and_the_whole_corpus(tiny_pairs):
    collection = index_pairs(tiny_pairs)
    needed = {collection.texts[text] for text in texts_to_score(collection, [3, 4])}
    assert needed == passages(tiny_pairs) | {tiny_pairs[3].query, tiny_pairs[4].query}


def test_dividing_is_sampling_and_then_splitting_what_is_left(tiny_pairs):
    data = DataConfig(sample_share=0.5, seed=5, test_share=0.3)
    collection, parts = divide(tiny_pairs, data)
    whole = index_pairs(tiny_pairs)
    kept = sample_rows(whole.positive, whole.domains, share=0.5, seed=5)
    expected = split_rows(
        whole.query[kept],
        whole.positive[kept],
        [whole.domains[row] for row in kept],
        test_share=0.3,
        seed=5,
    )
    assert [collection.texts[text] for text in collection.query] == [tiny_pairs[row].query for row in kept]
    assert parts.tolist() == expected.tolist()
    assert {collection.texts[text] for text in collection.corpus} == passages([tiny_pairs[row] for row in kept])


def test_a_bundle_is_read_on_its_own_split_beside_its_own_base(bundle_of, tiny_model, tiny_pairs, tiny_pairs_file):
    folder = bundle_of()
    found = compare_with_base(str(folder), tiny_pairs_file, "test")
    whole = index_pairs(tiny_pairs)
    kept = sample_rows(whole.positive, whole.domains, share=0.75, seed=3).tolist()
    used = [tiny_pairs[row] for row in kept]
    parts = split_rows(
        whole.query[kept],
        whole.positive[kept],
        [pair.domain for pair in used],
        validation_share=0.2,
        test_share=0.4,
        seed=3,
        protocol="unseen_queries",
    )
    rows = np.flatnonzero(parts == "test").tolist()
    assert (found.protocol, found.split_from, found.queries) == ("unseen_queries", "bundle", len(rows))
    assert found.passages == len(passages(used))
    assert list(found.results) == ["base", "model"]
    for label, model in (("base", tiny_model()), ("model", tiny_model(layers=3))):
        expected = reference_metrics(model, used, rows, passages(used), max_tokens=12)
        assert found.results[label] == pytest.approx(expected, abs=1e-9)
    assert found.results["base"] != found.results["model"]


def test_other_pairs_than_a_bundle_was_trained_on_are_split_by_default(bundle_of, tiny_pairs, tiny_pairs_file):
    folder = bundle_of(data={"sha256": "0" * 64})
    found = compare_with_base(str(folder), tiny_pairs_file, "validation")
    parts = divide(tiny_pairs, DataConfig())[1]
    assert (found.protocol, found.split_from) == ("unseen_passages", "defaults")
    assert found.queries == np.count_nonzero(parts == "validation")


def test_all_rows_are_those_that_a_sample_left_out_too(bundle_of, tiny_pairs_file):
    found = compare_with_base(str(bundle_of()), tiny_pairs_file, "all")
    assert (found.queries, found.passages) == (48, 24)
    assert (found.protocol, found.split_from) == (None, None)


def test_the_base_itself_stands_alone(bundle_of, tiny_model_folder, tiny_pairs_file, monkeypatch):
    packaged = load(str(tiny_model_folder))
    monkeypatch.setattr(comparison, "load", lambda name: packaged)
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        found = compare_with_base(name, tiny_pairs_file, "test")
        assert list(found.results) == ["model"]


def test_another_model_is_set_beside_the_packaged_one(tiny_model_folder, tiny_pairs_file, monkeypatch):
    loaded = []
    packaged = load(str(tiny_model_folder))
    monkeypatch.setattr(comparison, "load", lambda name: loaded.append(name) or packaged)
    found = compare_with_base(str(tiny_model_folder), tiny_pairs_file, "test")
    assert loaded == ["all-MiniLM-L6-v2", str(tiny_model_folder)]
    assert list(found.results) == ["base", "model"]
    assert found.split_from == "defaults"


def test_an_illegal_split_in_a_bundle_is_refused(bundle_of, tiny_pairs_file):
    folder = bundle_of(split=SPLIT | {"protocol": "any", "seed": -1})
    with pytest.raises(InputError, match=r"tuned/metadata\.json: .*split\.(protocol|seed): .*; export the bundle"):
        compare_with_base(str(folder), tiny_pairs_file, "test")


def test_a_damaged_bundle_is_refused_rather_than_split_by_default(bundle_of, tiny_pairs_file):
    folder = bundle_of()
    (folder / "metadata.json").write_text(json.dumps({"name": "tuned"}))
    with pytest.raises(InputError, match=r"metadata\.json: not that of a bundle, lacks base_model, files"):
        compare_with_base(str(folder), tiny_pairs_file, "test")


@pytest.mark.parametrize(
    ("split", "protocol", "split_from", "line"),
    [
        (
            "test",
            "unseen_passages",
            "bundle",
            "test part of a.jsonl, as the model was trained (unseen passages): 7 queries, ranked over 9 passages",
        ),
        (
            "train",
            "unseen_queries",
            "defaults",
            "train part of a.jsonl, by the default split (unseen queries): 7 queries, ranked over 9 passages",
        ),
        (
            "all",
            None,
            None,
            "all rows of a.jsonl, those that a model was trained on included: 7 queries, ranked over 9 passages",
        ),
    ],
)
def test_a_line_says_which_rows_were_read(split, protocol, split_from, line):
    comparison = Comparison("m", "b", "a.jsonl", split, protocol, False, split_from, 7, 9, {}, [])
    assert describe_rows(comparison) == line


def test_rows_that_a_refitted_model_was_trained_on_are_called_so():
    line = describe_rows(Comparison("m", "b", "a.jsonl", "test", "unseen_passages", True, "bundle", 7, 9, {}, []))
    assert "were trained again on the rows of all parts (refit: all), these included" in line
    assert "as the model was trained" not in line


def test_sentence_transformers_evaluator_finds_the_same_where_there_are_no_ties(tiny_model_folder, tiny_pairs):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    collection = index_pairs(tiny_pairs)
    rows = list(range(len(tiny_pairs)))
    relevant: dict[str, set[str]] = {}
    for pair in tiny_pairs:
        relevant.setdefault(pair.query, set()).add(pair.positive)
    texts = collection.texts
    theirs = InformationRetrievalEvaluator(
        {query: query for query in relevant},
        {texts[passage]: texts[passage] for passage in collection.corpus},
        relevant,
        accuracy_at_k=[5],
        precision_recall_at_k=[5],
        mrr_at_k=[len(collection.corpus)],
        ndcg_at_k=[5],
        map_at_k=[5],
        write_csv=False,
    )(SentenceTransformer(str(tiny_model_folder), device="cpu"))
    encoder = load(str(tiny_model_folder))
    asked = texts_to_score(collection, rows)
    source = feed(token_inputs(encoder, texts, 64), "cpu")
    scores = query_scores(embed(upper(encoder, 0).eval(), source, asked), asked, collection, rows)
    # rows that ask the same are one query there
    first = [next(row for row, pair in enumerate(tiny_pairs) if pair.query == query) for query in relevant]
    assert theirs["cosine_recall@5"] == pytest.approx(scores["recall_at_5"][first].mean())
    assert theirs[f"cosine_mrr@{len(collection.corpus)}"] == pytest.approx(scores["mrr"][first].mean())
