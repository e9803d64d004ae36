"""Fusion of two searches: worked by hand, and by the properties that a user relies on."""

import numpy as np
import pytest

from nic_ray.metrics.fusion import FUSIONS, RANKS, VECTORS, WORDS, Fusion, best_fusion, fused

SIMILARITY = np.array([[0.9, 0.5, 0.4, 0.1]])
BY_WORDS = np.array([[0.0, 2.0, 8.0, 2.0]])


def test_scores_are_added_with_the_weight():
    np.testing.assert_allclose(fused(SIMILARITY, BY_WORDS, Fusion("scores", 0.05)), [[0.9, 0.6, 0.8, 0.2]])


def test_ranks_are_added_by_their_reciprocals():
    # by words: third passage first; the second and the last share rank 3; the first shares no word with the query
    places = [61 / 61, 61 / 62 + 61 / 63, 61 / 63 + 61 / 61, 61 / 64 + 61 / 63]
    np.testing.assert_allclose(fused(SIMILARITY, BY_WORDS, RANKS), [places])


def test_what_is_left_out_takes_no_rank_from_another_passage():
    random = np.random.default_rng(0)
    similarity, by_words = random.normal(size=(1, 20)), random.poisson(1, size=(1, 20)).astype(float)
    ignored = np.zeros((1, 20), dtype=bool)
    ignored[0, [0, 3, *np.argsort(-similarity[0])[:2], *np.argsort(-by_words[0])[:2]]] = True
    found = fused(similarity, by_words, RANKS, ignored)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(
        found[~ignored], fused(similarity[~ignored][None], by_words[~ignored][None], RANKS)[0]
    )
    assert (found[~ignored] > fused(similarity, by_words, RANKS)[~ignored]).any()


def test_one_search_alone_keeps_its_scores():
    assert fused(SIMILARITY, BY_WORDS, VECTORS) is SIMILARITY
    assert fused(SIMILARITY, BY_WORDS, WORDS) is BY_WORDS


@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
def test_a_query_without_known_words_is_ranked_by_vectors(fusion):
    random = np.random.default_rng(0).normal(size=(5, 50))
    found = fused(random, np.zeros_like(random), fusion)
    assert np.argsort(-found, axis=1).tolist() == np.argsort(-random, axis=1).tolist()


@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
def test_a_model_that_maps_all_texts_to_one_point_leaves_the_order_to_the_words(fusion):
    by_words = np.random.default_rng(0).uniform(1, 20, size=(5, 50))
    found = fused(np.ones_like(by_words), by_words, fusion)
    assert np.argsort(-found, axis=1).tolist() == np.argsort(-by_words, axis=1).tolist()


@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
def test_queries_do_not_affect_each_other(fusion):
    random = np.random.default_rng(0)
    similarity, by_words = random.normal(size=(6, 20)), random.poisson(1, size=(6, 20)).astype(float)
    alone = np.concatenate([fused(similarity[[q]], by_words[[q]], fusion) for q in range(6)])
    np.testing.assert_array_equal(fused(similarity, by_words, fusion), alone)


def test_a_place_further_down_is_told_apart_in_a_large_corpus():
    similarity = np.linspace(1, -1, 5000)[np.newaxis]
    found = fused(similarity, np.zeros_like(similarity), RANKS)[0]
    assert (found[:-1] - found[1:]).min() > 1e-6  # what ranking takes for a tie


def test_the_best_is_chosen_by_the_objective_the_first_of_equals():
    flat = {fusion: {"mrr/macro": 0.5, "recall_at_5/macro": 0.25} for fusion in FUSIONS}
    assert best_fusion(flat, "mrr/macro") is FUSIONS[0]
    flat[FUSIONS[3]] = {"mrr/macro": 0.5, "recall_at_5/macro": 0.75}
    assert best_fusion(flat, "recall_at_5/macro") is FUSIONS[3]
    assert best_fusion(flat, "mrr/macro") is FUSIONS[0]


def test_fusions_say_what_they_are():
    said = [str(fusion) for fusion in (VECTORS, WORDS, RANKS, Fusion("scores", 0.03))]
    assert said == ["similarity", "BM25", "reciprocal rank fusion", "similarity + 0.03 BM25"]
