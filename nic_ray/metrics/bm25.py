"""BM25, the baseline of a keyword search."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nic_ray.words import search_terms


def bm25_scores(queries: Sequence[str], passages: Sequence[str]) -> NDArray[np.float32]:
    """Score how well each passage matches each query by their shared words, like a search engine without a model.

    The words are those of `words.search_terms`, in any script, without English stop words and without stemming.

    Args:
        queries: Q texts.
        passages: C texts.

    Returns:
        (Q, C) scores; 0 where no word is shared.

    Source: Lucene's BM25 with k1 1.5 and b 0.75, as in bm25s (Lù 2024, arXiv:2407.03618).
    """
    import bm25s  # imports SciPy; no trial searches by words, so their processes start sooner without it

    index = bm25s.BM25()
    index.index(_words(passages), show_progress=False)
    scores = np.zeros((len(queries), len(passages)), dtype=np.float32)
    for row, words in enumerate(_words(queries)):
        known = [word for word in words if word in index.vocab_dict]
        if known:
            scores[row] = index.get_scores(known)
    return scores


def _words(texts: Sequence[str]) -> list[list[str]]:
    from bm25s.stopwords import STOPWORDS_EN

    left_out = frozenset(STOPWORDS_EN)
    return [[term for term in search_terms(text) if term not in left_out] for text in texts]
