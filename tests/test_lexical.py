"""BM25 against its formula, worked by hand."""

import math

import numpy as np

from nic_ray.lexical import bm25_scores

PASSAGES = ["drain the pump oil", "the pump leaks at the pump gasket", "tune an antenna"]


def test_scores_are_those_of_the_formula():
    # without stop words: [drain pump oil], [pump leaks pump gasket], [tune antenna]; 3 words on average
    scores = bm25_scores(["pump antenna"], PASSAGES)[0]

    def term(frequency, words, holding):
        idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return idf * frequency / (frequency + 1.5 * (1 - 0.75 + 0.75 * words / 3))

    np.testing.assert_allclose(scores, [term(1, 3, 2), term(2, 4, 2), term(1, 2, 1)], rtol=1e-5)


def test_words_that_no_passage_holds_score_nothing():
    assert bm25_scores(["the", "zebra", "?"], PASSAGES).tolist() == [[0.0] * 3] * 3
