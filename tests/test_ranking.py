"""The metrics against a sort, against pytrec_eval and ranx, against loops, and by hand."""

import math
import re

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sentence_transformers import SimilarityFunction

from nic_ray.metrics import ranking
from nic_ray.metrics.ranking import by_domain, flat_metrics, query_metrics, score_metrics
from nic_ray.metrics.ranks import ranks_of
from nic_ray.metrics.table import metric_named, metric_of, recall_at, reciprocal_rank


@st.composite
def judged_scores(draw):
    """Scores with many ties, and at least one relevant passage a query."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, max_side=9))
    scores = draw(arrays(np.float64, shape, elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])))
    relevant = draw(arrays(np.bool_, shape))
    relevant[np.arange(shape[0]), draw(arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))] = True
    return scores, relevant


def columns_of(relevant):
    """Its relevant columns of each row."""
    return [np.flatnonzero(row) for row in relevant]


def random_case(queries: int = 60, passages: int = 41, seed: int = 0):
    """Embeddings of any length with 1 to 7 relevant passages a query; some passages are copies."""
    generator = np.random.default_rng(seed)
    corpus = generator.normal(size=(passages, 16)) * generator.uniform(0.1, 9, size=(passages, 1))
    corpus[passages // 2 :: 3] = corpus[1]
    relevant = [generator.choice(passages, size=generator.integers(1, 8), replace=False) for _ in range(queries)]
    return generator.normal(size=(queries, 16)), corpus, relevant


@settings(deadline=None)  # a busy machine is no failure
@given(judged_scores())
def test_ranking_is_a_sort_by_score_with_the_irrelevant_first_among_equals(case):
    scores, relevant = case
    order = np.lexsort((relevant, -scores), axis=-1)
    rows, places = np.nonzero(np.take_along_axis(relevant, order, axis=-1))
    ranks = ranks_of(scores, columns_of(relevant))
    assert (ranks.query.tolist(), ranks.rank.tolist()) == (rows.tolist(), (places + 1).tolist())


@settings(deadline=None)  # a busy machine is no failure
@given(judged_scores())
def test_metrics_equal_their_definitions_written_as_loops(case):
    scores, relevant = case
    recalls, reciprocals = [], []
    for row, answers in zip(scores.tolist(), relevant.tolist(), strict=True):
        ranking = sorted(range(len(row)), key=lambda j: (-row[j], answers[j]))
        recalls.append(sum(answers[j] for j in ranking[:5]) / sum(answers))
        reciprocals.append(1 / (1 + next(rank for rank, j in enumerate(ranking) if answers[j])))
    ranks = ranks_of(scores, columns_of(relevant))
    assert recall_at(5, ranks) == pytest.approx(recalls)
    assert reciprocal_rank(math.inf, ranks) == pytest.approx(reciprocals)


def graded_run(seed: int, queries: int = 40, passages: int = 50):
    """Scores without ties, and relevant passages of a query with grades from 1 to 3."""
    generator = np.random.default_rng(seed)
    scores = generator.permuted(np.tile(np.arange(float(passages)), (queries, 1)), axis=1)
    relevant = generator.random((queries, passages)) < 0.08
    relevant[:, 0] = True
    return scores, columns_of(relevant), [generator.integers(1, 4, row.sum()).astype(float) for row in relevant]


def as_trec(scores, relevant, gains):
    """The same as qrels and run."""
    qrels = {
        f"q{row}": {f"p{column}": int(gain) for column, gain in zip(columns, own, strict=True)}
        for row, (columns, own) in enumerate(zip(relevant, gains, strict=True))
    }
    run = {f"q{row}": {f"p{column}": score for column, score in enumerate(own)} for row, own in enumerate(scores)}
    return qrels, run


NAMES = {
    f"{ours}{'' if k is None else f'_at_{k}'}": f"{cut}.{k}" if k else whole
    for ours, cut, whole in (
        ("recall", "recall", None),
        ("precision", "P", None),
        ("hit_rate", "success", None),
        ("ndcg", "ndcg_cut", "ndcg"),
        ("map", "map_cut", "map"),
        ("mrr", None, "recip_rank"),
    )
    for k in (None, 1, 5, 10, 30)
    if (cut if k else whole)
}
"""Our keys -> the names of trec_eval, which has no cut of MRR."""


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_pytrec_eval_on_random_graded_runs(seed):
    scores, relevant, gains = graded_run(seed)
    qrels, run = as_trec(scores, relevant, gains)
    reference = pytrec_eval.RelevanceEvaluator(qrels, {*NAMES.values()}).evaluate(run)
    ours = score_metrics(scores, relevant, gains=gains, further=[name for name in NAMES if name != "mrr"])
    for name, theirs in NAMES.items():
        want = [reference[f"q{row}"][theirs.replace(".", "_")] for row in range(len(scores))]
        assert ours[name] == pytest.approx(want, abs=1e-12), name


@pytest.mark.filterwarnings("ignore")  # numba's
@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_ranx_on_random_graded_runs(seed):
    ranx = pytest.importorskip("ranx")
    scores, relevant, gains = graded_run(seed)
    qrels, run = as_trec(scores, relevant, gains)
    names = {
        f"{ours}_at_{k}": f"{theirs}@{k}"
        for ours, theirs in (
            ("recall", "recall"), ("precision", "precision"), ("hit_rate", "hit_rate"), ("ndcg", "ndcg"),
            ("map", "map"), ("mrr", "mrr"),
        )
        for k in (1, 5, 10, 30)
    }  # fmt: skip
    found = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), [*names.values()], return_mean=False)
    order = sorted(range(len(scores)), key=lambda row: f"q{row}")  # the order of ranx, which sorts by name
    ours = score_metrics(scores, relevant, gains=gains, further=names)
    for name, theirs in names.items():
        assert ours[name][order] == pytest.approx(found[theirs], abs=1e-9), name


def test_a_graded_order_by_hand():
    # ranks 2 and 3, with gains 1 and 3; the best order has 3 and 1
    scores, relevant, gains = np.array([[4.0, 3.0, 2.0]]), [np.array([1, 2])], [np.array([1.0, 3.0])]
    found = score_metrics(scores, relevant, gains=gains, further=["ndcg", "map", "precision_at_2", "mrr_at_1"])
    discount = 1 / math.log2(3)
    assert found["ndcg"] == pytest.approx([(discount + 3 / 2) / (3 + discount)])
    assert found["map"] == pytest.approx([(1 / 2 + 2 / 3) / 2])
    assert (found["precision_at_2"].tolist(), found["mrr_at_1"].tolist(), found["mrr"].tolist()) == ([0.5], [0], [0.5])


def test_a_gain_is_that_of_its_passage_in_whatever_order_they_are_named():
    scores = np.array([[4.0, 3.0, 2.0, 1.0]])
    both = [
        score_metrics(scores, [np.array(columns)], gains=[np.array(gains)], further=["ndcg_at_3"])["ndcg_at_3"]
        for columns, gains in (([3, 1, 0], [2.0, 1.0, 3.0]), ([0, 3, 1, 1], [3.0, 2.0, 0.5, 1.0]))
    ]
    assert both[0] == both[1] != score_metrics(scores, [np.array([0, 1, 3])], further=["ndcg_at_3"])["ndcg_at_3"]


@pytest.mark.parametrize("name", ["recall", "recall_at_0", "ndgc_at_5", "recall_at_", "precision", "recall@5", ""])
def test_an_unknown_metric_is_refused_with_those_that_there_are(name):
    with pytest.raises(ValueError, match=re.escape("must be one of recall@k, precision@k, hit_rate@k, ndcg or ndcg@k")):
        metric_named(name)


def test_the_labels_and_explanations_of_metrics():
    assert [metric_of(name).label for name in ("recall_at_5", "mrr", "ndcg_at_10", "hit_rate_at_3", "map")] == [
        "Recall@5", "MRR", "nDCG@10", "Hit rate@3", "MAP",
    ]  # fmt: skip
    assert metric_of("precision_at_12").explained == "share of the first 12 passages that are right"
    assert metric_of("mrr_at_10").explained == "mean of 1 / rank of the first right passage, as far as rank 10"
    assert metric_of("ndcg").explained == "discounted gain of the passages, as a share of the best order's"


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("passages_at_once", [7, 40])
def test_a_large_corpus_is_ranked_in_blocks_of_passages_too(monkeypatch, similarity, passages_at_once):
    queries, corpus, relevant = random_case()
    gains = [np.arange(1.0, 1 + len(own)) for own in relevant]
    ignored = [np.setdiff1d([1, 20, 23, 40], own) for own in relevant]
    further = ["ndcg_at_10", "map", "precision_at_3"]
    whole = query_metrics(queries, corpus, relevant, similarity, ignored, gains, further)
    monkeypatch.setattr(ranking, "_BLOCK_PASSAGES", passages_at_once)
    monkeypatch.setattr(ranking, "_BLOCK_SCORES", 13 * passages_at_once)
    for name, values in query_metrics(queries, corpus, relevant, similarity, ignored, gains, further).items():
        assert values.tolist() == whole[name].tolist(), name


def test_metrics_of_embeddings_are_those_of_their_cosines():
    queries, corpus, relevant = random_case()
    cosines = queries @ corpus.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(corpus, axis=1)
    hits = np.array([np.isin(np.arange(len(corpus)), columns) for columns in relevant])
    ranks = ranks_of(cosines, columns_of(hits))
    values = query_metrics(queries, corpus, relevant)
    assert values["recall_at_5"].tolist() == recall_at(5, ranks).tolist()
    assert values["mrr"].tolist() == reciprocal_rank(math.inf, ranks).tolist()


def test_ignored_passages_are_ranked_as_if_they_were_not_there():
    queries, corpus, relevant = random_case()
    generator = np.random.default_rng(5)
    ignored = [
        np.setdiff1d(generator.choice(len(corpus), size=generator.integers(6), replace=False), own) for own in relevant
    ]
    values = query_metrics(queries, corpus, relevant, ignored=ignored)
    for place, (own, left_out) in enumerate(zip(relevant, ignored, strict=True)):
        kept = np.setdiff1d(np.arange(len(corpus)), left_out)
        alone = query_metrics(queries[[place]], corpus[kept], [np.searchsorted(kept, own)])
        assert [values[name][place] for name in alone] == [own_value[0] for own_value in alone.values()]
    assert values["mrr"].tolist() != query_metrics(queries, corpus, relevant)["mrr"].tolist()


@pytest.mark.parametrize("block_scores", [1, 41 * 7, 41 * 59, 41 * 60, 10**6])
def test_the_size_of_a_block_changes_nothing(monkeypatch, block_scores):
    whole = query_metrics(*random_case())
    monkeypatch.setattr(ranking, "_BLOCK_SCORES", block_scores)
    for name, values in query_metrics(*random_case()).items():
        assert values.tolist() == whole[name].tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_collapsed_encoder_finds_nothing(dtype):
    point = np.random.default_rng(2).normal(size=384).astype(dtype)
    relevant = [np.array([i]) for i in range(101)]
    one_point = np.tile(point, (101, 1))
    metrics = flat_metrics(query_metrics(one_point, one_point, relevant), ["radar"] * 101)
    assert metrics["recall_at_5/macro"] == 0.0
    assert metrics["mrr/macro"] == pytest.approx(1 / 101)


def test_an_encoder_that_maps_the_corpus_alone_to_one_point_finds_nothing():
    generator = np.random.default_rng(3)
    queries, point = generator.normal(size=(50, 384)), generator.normal(size=384)
    values = query_metrics(queries, np.tile(point, (77, 1)), [np.array([i]) for i in range(50)])
    assert values["recall_at_5"].sum() == 0.0
    assert values["mrr"] == pytest.approx(np.full(50, 1 / 77))


def test_an_encoder_of_zeros_finds_nothing():
    values = query_metrics(np.zeros((2, 3)), np.zeros((9, 3)), [np.array([0]), np.array([8])])
    assert values["recall_at_5"].tolist() == [0.0, 0.0]


def test_scores_that_differ_by_rounding_only_are_a_tie():
    assert ranks_of(np.array([[0.5 + 1e-7, 0.5]]), [np.array([0])]).rank.tolist() == [2]
    assert ranks_of(np.array([[0.5 + 1e-5, 0.5]]), [np.array([0])]).rank.tolist() == [1]


def test_equal_scores_tie_even_where_rounding_exceeds_the_tolerance():
    scores = np.array([[1000.0, 1000.0]], dtype=np.float32)
    assert ranks_of(scores, [np.array([0])]).rank.tolist() == [2]


def test_hand_worked_numbers():
    corpus = np.eye(7)
    falling = np.array([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])  # passage j stands at rank j + 1
    relevant = [np.array([0]), np.array([1, 6]), np.array([5]), np.array([6, 2, 3, 5])]
    values = query_metrics(np.tile(falling, (4, 1)), corpus, relevant)
    metrics = flat_metrics(values, ["hvac", "hvac", "radar", "hvac"])
    assert metrics == pytest.approx(
        {
            "recall_at_5/hvac": (1 + 1 / 2 + 2 / 4) / 3,
            "recall_at_5/radar": 0.0,
            "recall_at_5/macro": 1 / 3,
            "recall_at_5/worst": 0.0,
            "recall_at_5/micro": (1 + 1 / 2 + 2 / 4) / 4,
            "mrr/hvac": (1 + 1 / 2 + 1 / 3) / 3,
            "mrr/radar": 1 / 6,
            "mrr/macro": (11 / 18 + 1 / 6) / 2,
            "mrr/worst": 1 / 6,
            "mrr/micro": (1 + 1 / 2 + 1 / 3 + 1 / 6) / 4,
        }
    )
    assert all(type(value) is float for value in metrics.values())


def test_a_passage_named_twice_counts_once():
    values = query_metrics(np.eye(2), np.eye(2), [np.array([0, 0]), np.array([1, 0, 1])])
    assert values["recall_at_5"].tolist() == [1.0, 1.0]


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=1))
def test_macro_is_the_unweighted_mean_of_the_domains_and_worst_their_minimum(groups):
    values = np.array([value for group in groups.values() for value in group])
    domains = [name for name, group in groups.items() for _ in group]
    means = {name: sum(group) / len(group) for name, group in groups.items()}
    worst = min(means.values())
    expected = means | {"macro": sum(means.values()) / len(means), "worst": worst, "micro": values.mean()}
    assert by_domain(values, domains) == pytest.approx(expected)
    # of what is better the less there is of it, the highest mean is the worst
    assert by_domain(values, domains, direction=-1) == pytest.approx(expected | {"worst": max(means.values())})


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_broken_numbers_are_refused(broken):
    rows = np.ones((4, 3), dtype=np.float32)
    rows[2, 1] = broken
    relevant = [np.array([0])] * 4
    with pytest.raises(ValueError, match="query embeddings must be finite, 1 of 4 are not"):
        query_metrics(rows, np.ones((5, 3)), relevant)
    with pytest.raises(ValueError, match="passage embeddings must be finite, 1 of 4 are not"):
        query_metrics(np.ones((4, 3)), rows, relevant)
    with pytest.raises(ValueError, match="scores must be finite, 1 of 12 are not"):
        ranks_of(rows, [np.array([0])] * 4)


def test_embeddings_as_long_as_float32_allows_are_still_ranked():
    values = query_metrics(np.eye(9, dtype=np.float32) * 1e30, np.eye(9), [np.array([i]) for i in range(9)])
    assert values["mrr"].tolist() == [1.0] * 9


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ([[0]], "relevant must name the passages of every query: 1 for 2 queries"),
        ([[0], []], "every query needs a relevant passage, query 1 has none"),
        ([[0], [3]], "relevant must name rows of the corpus, 0 to 2, got 0 to 3"),
        ([[-1], [0]], "relevant must name rows of the corpus, 0 to 2, got -1 to 0"),
    ],
)
def test_relevant_passages_that_do_not_fit_are_refused(relevant, message):
    columns = [np.array(row, dtype=np.int64) for row in relevant]
    with pytest.raises(ValueError, match=re.escape(message)):
        query_metrics(np.ones((2, 3)), np.ones((3, 3)), columns)


def test_every_query_needs_one_domain():
    with pytest.raises(ValueError, match="domains must name one domain a query: 1 for 2 queries"):
        flat_metrics(query_metrics(np.eye(2), np.eye(2), [np.array([0]), np.array([1])]), ["radar"])


def test_any_scores_are_ranked_as_cosines_are():
    generator = np.random.default_rng(0)
    queries, corpus = generator.normal(size=(20, 8)), generator.normal(size=(50, 8))
    relevant = [generator.choice(50, size=2, replace=False) for _ in range(20)]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, corpus)]
    found = score_metrics(unit[0] @ unit[1].T, relevant)
    for name, values in query_metrics(queries, corpus, relevant).items():
        np.testing.assert_allclose(found[name], values)


def ranks_by_sorting(scores, relevant):
    """Rank of each query's only answer, from sorting its scores."""
    return [sorted(row, reverse=True).index(row[answer]) + 1 for row, answer in zip(scores, relevant, strict=True)]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_passages_are_ranked_by_the_similarity_that_is_asked_for(similarity, scale):
    generator = np.random.default_rng(0)
    queries = scale * generator.normal(size=(30, 8)).astype(np.float32)
    corpus = scale * (generator.normal(size=(40, 8)) * generator.uniform(0.1, 3, (40, 1))).astype(np.float32)
    relevant = generator.integers(0, 40, 30)
    by_library = SimilarityFunction.to_similarity_fn(similarity)(queries, corpus).tolist()
    found = query_metrics(queries, corpus, [np.array([own]) for own in relevant], similarity)
    assert (1 / found["mrr"]).round().astype(int).tolist() == ranks_by_sorting(by_library, relevant)


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_ties_go_against_the_model_by_any_similarity(similarity):
    one_point = np.full((4, 3), 700.0, np.float32)
    found = query_metrics(one_point, one_point, [np.array([own]) for own in range(4)], similarity)
    assert found["mrr"].tolist() == [1 / 4] * 4


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_embeddings_must_be_finite_for_any_similarity(similarity):
    broken = np.array([[np.inf, 0.0]], np.float32)
    for queries, corpus in ((broken, np.ones((1, 2))), (np.ones((1, 2)), broken)):
        with pytest.raises(ValueError, match="embeddings must be finite"):
            query_metrics(queries, corpus, [np.array([0])], similarity)
