"""Numbers of a model: the same as with Sentence Transformers' own encoding, on the rows that were asked for."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from nic_ray.bundle import comparison
from nic_ray.bundle.comparison import Comparison, compare_with_base, describe_rows
from nic_ray.bundle.files import file_sha256, write_bundle
from nic_ray.data_config import DataConfig
from nic_ray.dataset.pairs import Pair, index_pairs
from nic_ray.dataset.split import sample_rows, split_rows
from nic_ray.errors import InputError, RunError
from nic_ray.metrics import ranking
from nic_ray.metrics.bm25 import bm25
from nic_ray.metrics.fusion import FUSIONS, RANKS, VECTORS, WORDS, fused
from nic_ray.metrics.ranking import flat_metrics, query_metrics, score_metrics
from nic_ray.model.activations import CHUNK_TOKENS, feed, token_inputs
from nic_ray.model.base import load
from nic_ray.model.encoder import upper
from nic_ray.model.evaluation import (
    Asked,
    embed,
    evaluate,
    first_hits_of,
    fused_scores,
    nearest,
    query_scores,
    texts_to_score,
)
from nic_ray.model.whole_models import evaluate_encoder, plain_scores
from nic_ray.training.prepared import divide

CATALOGUE = Path(__file__).parents[2] / "shared/faults/many_domains.py"
SPLIT = {
    "protocol": "unseen_queries",
    "seed": 3,
    "validation_share": 0.2,
    "test_share": 0.4,
    "sample_share": 0.75,
    "rows": {"train": 1, "validation": 1, "test": 1},
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
    values = query_metrics(
        model.encode([pairs[row].query for row in rows]),
        model.encode(corpus),
        [np.array([corpus.index(text) for text in sorted(right[pairs[row].query])]) for row in rows],
    )
    return flat_metrics(values, [pairs[row].domain for row in rows])


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


def with_variants(pairs):
    """Pairs whose passages are long, with a variant of each in another number, named by a row of its own."""
    first = [
        dataclasses.replace(pair, positive=" ".join(f"{word}{n}" for n in range(6) for word in pair.positive.split()))
        for pair in pairs
    ]
    first = [dataclasses.replace(pair, positive=f"{pair.positive} to 40 Nm", negatives=()) for pair in first]
    return [
        *first,
        *(
            dataclasses.replace(pair, query=f"{pair.query} of 60", positive=pair.positive.replace(" 40 ", " 60 "))
            for pair in first
        ),
    ]


@pytest.mark.parametrize("within_domain", [False, True])
def test_what_is_nearly_an_answer_is_neither_a_hit_nor_in_the_way(tiny_pairs, within_domain):
    pairs = with_variants(tiny_pairs)
    both, alone = index_pairs(pairs), index_pairs(pairs[: len(tiny_pairs)])
    rows = list(range(len(tiny_pairs)))
    generator = np.random.default_rng(0)
    of_text = {text: generator.normal(size=8) for text in both.texts}
    for pair in pairs[len(tiny_pairs) :]:  # a variant is as near to every query as its model is, and a little nearer
        of_text[pair.positive] = 1.0001 * of_text[pair.positive.replace(" 60 ", " 40 ")]

    def scores(collection):
        asked = texts_to_score(collection, rows)
        embeddings = np.stack([of_text[collection.texts[text]] for text in asked])
        return query_scores(Asked(embeddings, asked, collection, rows), within_domain=within_domain)

    # the variants of other passages are in the way as these are: the ranks of the answers, without their own variant
    expected = []
    for row in rows:
        query, domain = of_text[pairs[row].query], pairs[row].domain
        answer = pairs[row].positive
        others = {
            pair.positive
            for pair in pairs
            if pair.positive not in (answer, answer.replace(" 40 ", " 60 "))
            and (not within_domain or pair.domain == domain)
        }

        def cosine(text, query=query):
            return of_text[text] @ query / np.linalg.norm(of_text[text])

        expected.append(1 / (1 + sum(cosine(other) >= cosine(answer) - 1e-6 for other in others)))
    assert scores(both)["mrr"] == pytest.approx(expected)
    assert len(both.corpus) == 2 * len(alone.corpus)


def test_a_search_by_words_leaves_variants_of_the_answer_out_as_well(tiny_pairs):
    rows = list(range(len(tiny_pairs)))
    both = index_pairs(with_variants(tiny_pairs))
    names = [both.domains[row] for row in rows]
    texts = texts_to_score(both, rows)
    found = flat_metrics(fused_scores(Asked(np.ones((len(texts), 8)), texts, both, rows), [WORDS])[WORDS], names)
    scores = bm25([both.texts[text] for text in both.corpus])([both.texts[both.query[row]] for row in rows])
    ranks = []
    for place, row in enumerate(rows):
        answer = both.texts[both.positive[row]]
        variant = both.corpus.tolist().index(both.texts.index(answer.replace(" 40 ", " 60 ")))
        own = both.corpus.tolist().index(both.positive[row])
        kept = np.delete(np.arange(len(both.corpus)), variant)
        ranks.append(1 / np.count_nonzero(scores[place, kept] >= scores[place, own] - 1e-6))
    assert found["mrr/macro"] == pytest.approx(
        np.mean([np.mean(np.array(ranks)[np.array(names) == n]) for n in set(names)])
    )


@pytest.mark.parametrize("within_domain", [False, True])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_fusions_score_what_their_two_searches_found(tiny_pairs, monkeypatch, within_domain, similarity):
    monkeypatch.setattr(ranking, "_BLOCK_SCORES", 200)  # several blocks of queries
    both, rows = index_pairs(with_variants(tiny_pairs)), list(range(0, len(tiny_pairs), 2))[::-1]
    texts = texts_to_score(both, rows)
    embeddings = np.random.default_rng(0).normal(size=(len(texts), 8))
    asked = Asked(embeddings, texts, both, rows, similarity)
    found = fused_scores(asked, [VECTORS, WORDS, *FUSIONS], within_domain=within_domain)
    alone = query_scores(asked, within_domain=within_domain)
    for name, values in alone.items():
        assert found[VECTORS][name].tolist() == values.tolist()
    if similarity == "euclidean":  # its scale is that of all queries together
        return
    for place, row in list(enumerate(rows))[::7]:  # one query at a time, by the definition
        own = [p for p in both.corpus if not within_domain or both.domains[row] == domain_of(both, p)]
        query = embeddings[[np.searchsorted(texts, both.query[row])]]
        by_vectors = ranking.similarities(query, embeddings[np.searchsorted(texts, own)]).block(slice(None))(
            slice(None)
        )
        by_words = bm25([both.texts[p] for p in own])([both.texts[both.query[row]]])
        variant = both.texts[both.positive[row]].replace(" 40 ", " 60 ")
        kept = [number for number, passage in enumerate(own) if both.texts[passage] != variant]
        for fusion in FUSIONS:
            scores = fused(by_vectors, by_words, fusion)[0]
            rank = np.count_nonzero(scores[kept] >= scores[own.index(both.positive[row])] - 1e-6)
            assert found[fusion]["mrr"][place] == pytest.approx(1 / rank)


@pytest.mark.parametrize("fusion", [VECTORS, FUSIONS[0], FUSIONS[5]], ids=str)
def test_first_hits_are_right_where_the_first_rank_is(tiny_pairs, monkeypatch, fusion):
    monkeypatch.setattr(ranking, "_BLOCK_SCORES", 200)
    both, rows = index_pairs(with_variants(tiny_pairs)), list(range(0, len(tiny_pairs), 2))[::-1]
    texts = texts_to_score(both, rows)
    embeddings = np.random.default_rng(1).normal(size=(len(texts), 8))
    embeddings[np.searchsorted(texts, both.positive[rows[0]])] = embeddings[np.searchsorted(texts, both.query[rows[0]])]
    asked = Asked(embeddings, texts, both, rows)
    found = first_hits_of(asked, fusion)
    mrr = fused_scores(asked, [fusion])[fusion]["mrr"]
    assert found.right.tolist() == (mrr == 1).tolist()
    assert found.right[0]
    if fusion != RANKS:
        assert (found.scores[~found.right] == found.without_answer[~found.right]).all()
        assert (found.scores[found.right] > found.without_answer[found.right]).all()
    # as in a corpus that never held the answer or its variant
    place, row = 3, rows[3]
    gone = {both.positive[row], both.texts.index(both.texts[both.positive[row]].replace(" 40 ", " 60 "))}
    kept = np.array([passage for passage in both.corpus.tolist() if passage not in gone])
    vectors = ranking.similarities(
        embeddings[[np.searchsorted(texts, both.query[row])]], embeddings[np.searchsorted(texts, kept)]
    )
    words = bm25([both.texts[text] for text in both.corpus])([both.texts[both.query[row]]])
    alone = fused(vectors.block(slice(None))(slice(None)), words[:, np.isin(both.corpus, kept)], fusion)
    assert found.without_answer[place] == pytest.approx(alone.max(), abs=1e-5)


def test_variants_of_the_answer_take_no_ranks_from_it_where_ranks_are_fused(tiny_pairs):
    """By vectors the variants come first, then the answer, an idle passage, a rival; by words the rival comes first."""
    answer = with_variants(tiny_pairs)[0].positive + " at the pump seal"
    variants = [answer.replace(" 40 ", f" {number} ") for number in range(41, 49)]
    passages = [*variants, answer, "nothing at all", "pump seal pump seal"]
    rows = [Pair("pump seal", answer, "a"), *(Pair(f"query {place}", text, "a") for place, text in enumerate(passages))]
    asked = index_pairs(rows)
    texts = texts_to_score(asked, [0])
    place = {"pump seal": 0, **{text: number for number, text in enumerate(passages, 1)}}
    angles = np.array([0.1 * place[asked.texts[text]] for text in texts])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = fused_scores(Asked(embeddings, texts, asked, [0]), [VECTORS, WORDS, RANKS])
    # without the variants the answer ranks first and second, and the rival third and first
    assert {fusion: values["mrr"].tolist() for fusion, values in found.items()} == {
        VECTORS: [1.0], WORDS: [0.5], RANKS: [1.0]
    }  # fmt: skip


def domain_of(collection, passage):
    return collection.domains[collection.positive.tolist().index(passage)]


def test_plain_sentence_transformers_leaves_variants_of_the_answer_out_as_well(tiny_model_folder, tiny_pairs):
    both, rows = index_pairs(with_variants(tiny_pairs)), list(range(len(tiny_pairs)))
    encoder, texts = load(str(tiny_model_folder)), texts_to_score(both, rows)
    source = feed(token_inputs(encoder, both.texts, 64), "cpu")
    expected = query_scores(Asked(embed(upper(encoder, 0), source, texts), texts, both, rows))
    found = plain_scores(SentenceTransformer(str(tiny_model_folder), device="cpu"), both, rows)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-6)


def test_what_was_retrieved_instead_is_no_variant_of_the_answer(tiny_pairs):
    both = index_pairs(with_variants(tiny_pairs))
    rows = list(range(len(tiny_pairs)))
    asked = texts_to_score(both, rows)
    embeddings = np.random.default_rng(0).normal(size=(len(asked), 8))
    found, cosines = nearest(Asked(embeddings, asked, both, rows), k=1000)
    assert found.shape == (len(rows), len(both.corpus) - 1)
    assert np.isfinite(cosines).all()
    for row, own in zip(rows, found.tolist(), strict=True):
        answer = both.texts[both.positive[row]]
        assert answer.replace(" 40 ", " 60 ") not in {both.texts[text] for text in own}
        assert both.positive[row] in own


def test_a_model_that_cannot_be_cut_gets_the_same_numbers(tiny_model_folder, tiny_pairs):
    encoder = load(str(tiny_model_folder))
    whole = dataclasses.replace(encoder, block_output=None)
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


def test_a_sample_takes_variants_of_a_passage_together_and_can_be_split(tiny_pairs):
    rows = with_variants(tiny_pairs)
    for seed in range(3):
        collection, parts = divide(rows, DataConfig(sample_share=0.4, seed=seed))
        assert len(np.unique(collection.near_group[collection.positive])) == 9  # of 24: three of eight in each domain
        assert len(collection.corpus) == 18
        for group in np.unique(collection.near_group[collection.positive]):
            sides = set(parts[collection.near_group[collection.positive] == group].tolist()) - {"unseen_queries"}
            assert len(sides) == 1


@pytest.mark.skipif(not CATALOGUE.is_file(), reason="the catalogue is not beside the repository")
def test_a_catalogue_of_four_hundred_products_is_split_each_product_by_itself():
    made = subprocess.run([sys.executable, CATALOGUE, "400"], capture_output=True, text=True, check=True).stdout
    rows = [Pair(**json.loads(line)) for line in made.splitlines()]
    collection, parts = divide(rows, DataConfig())
    sides: dict[str, set[str]] = {}
    for domain, part in zip(collection.domains, parts.tolist(), strict=True):
        sides.setdefault(domain, set()).add(part)
    assert len(sides) == 401
    assert all({"train", "validation", "test"} <= own for own in sides.values())


def test_a_bundle_whose_rows_are_split_otherwise_today_is_refused(bundle_of, tiny_pairs_file):
    folder = bundle_of(split=SPLIT | {"sha256": "5b17" * 16})
    with pytest.raises(InputError, match="rows that it was trained on may be among those held back now"):
        compare_with_base(str(folder), tiny_pairs_file, "test")
    assert compare_with_base(str(folder), tiny_pairs_file, "all").queries == 48


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
    comparison = Comparison("m", "b", "a.jsonl", split, protocol, False, split_from, 7, 9, {}, {}, {}, [])
    assert describe_rows(comparison) == line


def test_rows_that_a_refitted_model_was_trained_on_are_called_so():
    line = describe_rows(
        Comparison("m", "b", "a.jsonl", "test", "unseen_passages", True, "bundle", 7, 9, {}, {}, {}, [])
    )
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
    scores = query_scores(Asked(embed(upper(encoder, 0).eval(), source, asked), asked, collection, rows))
    # rows that ask the same are one query there
    first = [next(row for row, pair in enumerate(tiny_pairs) if pair.query == query) for query in relevant]
    assert theirs["cosine_recall@5"] == pytest.approx(scores["recall_at_5"][first].mean())
    assert theirs[f"cosine_mrr@{len(collection.corpus)}"] == pytest.approx(scores["mrr"][first].mean())


PROMPTS = {"query": "what is asked: ", "document": "a passage: "}


def as_used(folder, pairs, rows):
    """The definition: by `encode_query`, `encode_document` and `similarity` of Sentence Transformers alone."""
    model, corpus = SentenceTransformer(str(folder), device="cpu"), sorted(passages(pairs))
    queries, texts = model.encode_query([pairs[row].query for row in rows]), model.encode_document(corpus)
    right = {}
    for pair in pairs:
        right.setdefault(pair.query, set()).add(pair.positive)
    answers = [np.array([corpus.index(text) for text in sorted(right[pairs[row].query])]) for row in rows]
    found = score_metrics(model.similarity(queries, texts).numpy(), answers)
    return flat_metrics(found, [pairs[row].domain for row in rows])


@pytest.mark.parametrize("prompts", [{}, PROMPTS, {"query": "pumps radios trucks "}])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_model_is_scored_as_its_owner_means_it(changed_model, tiny_pairs, prompts, similarity):
    folder, rows = changed_model(prompts=prompts, similarity=similarity, behind=[Pooling(32)]), range(0, 48, 3)
    expected = as_used(folder, tiny_pairs, rows)
    encoder, collection = load(str(folder)), index_pairs(tiny_pairs)
    assert evaluate_encoder(encoder, collection, rows, 64) == pytest.approx(expected, abs=1e-9)
    plain = plain_scores(SentenceTransformer(str(folder), device="cpu"), collection, rows)
    domains = [tiny_pairs[row].domain for row in rows]
    assert flat_metrics(plain, domains) == pytest.approx(expected, abs=1e-9)


def test_prompts_and_similarity_change_the_score(changed_model, tiny_pairs):
    given = ({}, {"prompts": {"query": "pumps radios trucks "}}, {"similarity": "dot"})
    folders = [changed_model(behind=[Pooling(32)], **each) for each in given]
    found = [evaluate_encoder(load(str(folder)), index_pairs(tiny_pairs), range(48), 64) for folder in folders]
    assert found[0] != found[1]
    assert found[0] != found[2]


def test_a_text_in_both_roles_is_read_as_each(changed_model, tiny_pairs):
    pairs = [*tiny_pairs, Pair(tiny_pairs[2].positive, tiny_pairs[0].positive, "pumps", (tiny_pairs[4].query,))]
    folder, rows = changed_model(prompts=PROMPTS), range(len(pairs))
    found = evaluate_encoder(load(str(folder)), index_pairs(pairs), rows, 64)
    assert found == pytest.approx(as_used(folder, pairs, rows), abs=1e-9)


def test_all_that_is_to_embed_is_told(tiny_model_folder, tiny_pairs):
    collection, told = index_pairs(tiny_pairs), []
    plain_scores(SentenceTransformer(str(tiny_model_folder), device="cpu"), collection, [0, 0, 5], done=told.append)
    assert sum(told) == len(texts_to_score(collection, [0, 0, 5]))


def test_embeddings_are_the_same_where_memory_holds_smaller_chunks_only(tiny_model_folder, tiny_pairs, monkeypatch):
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 2**16)
    encoder, collection = load(str(tiny_model_folder)), index_pairs(tiny_pairs)
    source, model = feed(token_inputs(encoder, collection.texts, 64), "cpu"), upper(encoder, 0)
    texts = np.arange(len(collection.texts))
    expected = embed(model, source, texts)
    met, told = [], []

    def look(module, given) -> None:
        met.append(given[1].numel())
        if met[-1] > memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(look)
    memory = 300
    found = embed(model, source, texts, done=told.append)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert sum(told) == len(texts)
    assert max(met) > 300
    assert met == sorted(met, reverse=True)  # what is done is not done again
    memory = 10
    with pytest.raises(
        RunError, match=r"^out of memory on the cpu device with 256 tokens at a time, .*gpus_per_worker"
    ):
        embed(model, source, texts)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_evaluating_a_model_changes_nothing_of_it(tiny_model, tiny_pairs, kind):
    encoder, collection = load(str(tiny_model(kind))), index_pairs(tiny_pairs)
    parts = {name: (id(part), part.training) for name, part in encoder.transformer.named_modules()}
    values = {name: (id(value), value.requires_grad) for name, value in encoder.transformer.named_parameters()}
    evaluate_encoder(encoder, collection, range(8), 64)
    assert parts == {name: (id(part), part.training) for name, part in encoder.transformer.named_modules()}
    assert values == {name: (id(value), value.requires_grad) for name, value in encoder.transformer.named_parameters()}
