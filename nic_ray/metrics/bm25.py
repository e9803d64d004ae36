"""BM25, the baseline of a keyword search."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nic_ray.stop_words import OF_BM25S
from nic_ray.words import search_terms


def bm25(passages: Sequence[str]) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Index passages for a search that scores them by the words that they share with a query, without a model.

    The words are those of `content_words`, in any script and without stemming.

    Args:
        passages: C texts.

    Returns:
        a function of Q queries that returns (Q, C) scores; 0 where no word is shared.

    Source: Lucene's BM25 with k1 1.5 and b 0.75, as in bm25s (Lù 2024, arXiv:2407.03618).
    """
    import bm25s  # imports SciPy; a trial that does not search by words starts sooner without it

    index, words_of = bm25s.BM25(), content_words(passages)
    if any(words_of):  # the library indexes no passages without a word
        index.index(words_of, show_progress=False)
    known_words = index.vocab_dict if any(words_of) else {}

    def scores(queries: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(queries), len(passages)), dtype=np.float32)
        for row, words in enumerate(content_words(queries)):
            known = [word for word in words if word in known_words]
            if known:
                found[row] = index.get_scores(known)
        return found

    return scores


def content_words(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text that `bm25` compares: those of `words.search_terms` without English stop words."""
    known = dict[str, str]()  # a word is in memory once, however often it occurs
    return [[known.setdefault(term, term) for term in search_terms(text) if term not in OF_BM25S] for text in texts]
