"""Near-duplicate texts: an exact search, by the pairs of successive words that texts share."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nic_ray.words import words

_BLOCK_ENTRIES = 2**21
"""Entries of sparse matrices held at once: about 100 MiB, with SciPy's intermediate arrays."""


_BLOCK_OTHERS = 50_000
"""Texts that are compared with others at once."""


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.8) -> NDArray[np.int64]:
    """Number the groups of near-duplicate texts, so that they can be counted, or kept on one side of a split.

    Two texts are near duplicates if the Jaccard index of their pairs of successive words is at least `threshold`; the
    start and the end of a text count as words. A changed word changes two pairs of each text, so that by default one
    word in 17 may differ, two in 35, five in 89; in texts of up to 11 words nothing may differ. The order of words
    matters, but a sentence may have moved. Case, punctuation and repetitions are ignored. A text without words matches
    only the same text. Near duplicates of a third text are in one group, however little they share with each other.

    Args:
        texts: T texts, in any script.
        threshold: smallest Jaccard index of near duplicates, in (0, 1].

    Returns:
        (T,) number of each text's group: 0, 1, ... in order of first appearance.

    Raises:
        ValueError: threshold is out of range.

    Source: Broder 1997, "On the resemblance and containment of documents", for the measure; Chaudhuri, Ganti and
    Kaushik 2006, "A primitive operator for similarity joins in data cleaning", for comparing few pairs without missing
    any. benchmarks/near_duplicates.py compares the measure with others.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be > 0 and <= 1, got {threshold}")
    if not texts:
        return np.zeros(0, dtype=np.int64)
    held, same = _distinct_rows(_rarest_first(_incidence(map(_pairs, texts))))
    return _by_first_appearance(_connected_rows(held, threshold)[same])


def groups_of_others(texts: Sequence[str], others: Sequence[str]) -> NDArray[np.int64]:
    """Find for each of many other texts a text that it is a near duplicate of, at the threshold of `near_duplicates`.

    The others are compared with the texts block by block, so that memory and time grow with their number only, and not
    with each other, except that one may be near through another of its block.

    Returns:
        (len(others),) the first text in each one's group; -1 where there is none.
    """
    found = np.full(len(others), -1, dtype=np.int64)
    step = max(_BLOCK_OTHERS, len(texts))
    for start in range(0, len(others), step):
        block = others[start : start + step]
        groups = near_duplicates([*texts, *block])
        first = np.full(len(texts) + len(block), -1, dtype=np.int64)
        # written from the last to the first, so that the first of a group stays
        first[groups[: len(texts)][::-1]] = np.arange(len(texts))[::-1]
        found[start : start + step] = first[groups[len(texts) :]]
    return found


def with_others(groups: NDArray[np.int64], texts: Sequence[str], passages: NDArray[np.int64]) -> NDArray[np.int64]:
    """Extend the groups of the first texts to all texts, without joining any of them.

    Args:
        groups: (n,) group of each of the first n texts.
        texts: T texts.
        passages: numbers of those of the first n that the others are compared with.

    Returns:
        (T,) groups; a further text is in that of a passage that it is nearly the same as, otherwise in its own.
    """
    count = len(groups)
    if count == len(texts):
        return groups
    others = groups_of_others([texts[passage] for passage in passages.tolist()], texts[count:])
    own = np.arange(count, len(texts))
    return np.concatenate([groups, np.where(others < 0, own, groups[passages[others]])])


def _pairs(text: str) -> list[tuple[str, str]]:
    terms = words(text)
    return list(zip(["", *terms], [*terms, ""], strict=True)) if terms else [("", text.strip())]


def _incidence(texts: Iterable[Sequence[tuple[str, str]]]) -> sparse.csr_array:
    """Build the (T, S) matrix with a row per text and a 1 in the column of each pair that the text contains."""
    # scikit-learn's CountVectorizer takes three times as long, because it also sorts its vocabulary
    numbers: dict[tuple[str, str], int] = {}
    rows = [np.unique([numbers.setdefault(pair, len(numbers)) for pair in text]) for text in texts]
    ends = np.cumsum([0, *map(len, rows)])
    return sparse.csr_array((np.ones(ends[-1], np.int32), np.concatenate(rows), ends), shape=(len(rows), len(numbers)))


def _rarest_first(held: sparse.csr_array) -> sparse.csr_array:
    """Renumber the columns from the rarest to the most frequent."""
    rank = np.empty(held.shape[1], dtype=held.indices.dtype)
    rank[np.argsort(np.bincount(held.indices, minlength=len(rank)), kind="stable")] = np.arange(len(rank))
    result = sparse.csr_array((held.data, rank[held.indices], held.indptr), shape=held.shape)
    result.sort_indices()
    return result


def _distinct_rows(held: sparse.csr_array) -> tuple[sparse.csr_array, NDArray[np.int64]]:
    """Return the distinct rows by first appearance, and (rows,) the number of the distinct row that each row equals."""
    numbers: dict[bytes, int] = {}
    rows = np.split(held.indices, held.indptr[1:-1])
    same = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], dtype=np.int64)
    return held[np.unique(same, return_index=True)[1]], same


def _connected_rows(held: sparse.csr_array, threshold: float) -> NDArray[np.int64]:
    """Return (rows,) numbers, equal for rows that are connected by Jaccard indices of at least `threshold`."""
    sizes = np.diff(held.indptr)
    groups = np.arange(held.shape[0])
    for left, right in _candidates(held, threshold):
        smaller, larger = np.sort([sizes[left], sizes[right]], axis=0)
        possible = smaller / larger >= threshold
        left, right = left[possible], right[possible]
        for part in _blocks(sizes[left] + sizes[right]):
            # pairs that are already connected are skipped: of the n^2 / 2 pairs of n copies of a text, n are compared
            apart = groups[left[part]] != groups[right[part]]
            one, other = left[part][apart], right[part][apart]
            if len(one) == 0:
                continue
            shared = held[one].multiply(held[other]).sum(axis=1)
            near = shared / (sizes[one] + sizes[other] - shared) >= threshold
            if near.any():
                groups = _joined(groups, one[near], other[near])
    return groups


def _joined(groups: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups after merging those of each left row and its right row."""
    links = sparse.coo_array((np.ones(len(left), np.int8), (groups[left], groups[right])), shape=(len(groups),) * 2)
    joined: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)[groups]
    return joined


def _candidates(held: sparse.csr_array, threshold: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs of rows that share one of their rarest columns, each once; all near pairs are among them.

    Two near rows of m >= n columns share at least t m columns, since their union has at least m; and also at least
    t / (1 + t) (m + n) >= 2 t / (1 + t) n. In a common order of the columns, the first shared one is therefore among
    the first m - t m + 1 columns of the larger row and among the first n - 2 t / (1 + t) n + 1 of the smaller one. With
    the rarest columns first, few other rows share these; headers and footers that occur in every passage come last.
    """
    sizes = np.diff(held.indptr)
    larger = _first_columns(held, threshold)
    smaller = _first_columns(held, 2 * threshold / (1 + threshold)).T.tocsr()
    for part in _blocks(larger @ np.diff(smaller.indptr)):
        matches = (larger[part] @ smaller).tocoo()
        left, right = matches.row.astype(np.int64) + part.start, matches.col.astype(np.int64)
        once = (sizes[left] > sizes[right]) | ((sizes[left] == sizes[right]) & (left < right))
        yield left[once], right[once]


def _first_columns(held: sparse.csr_array, shared: float) -> sparse.csr_array:
    """Keep enough leading columns of each row to include a shared one, if a share `shared` of all is shared."""
    sizes = np.diff(held.indptr)
    looked_at = sizes - np.ceil(shared * sizes - 1e-9).astype(np.int64) + 1
    place = np.arange(held.nnz) - np.repeat(held.indptr[:-1], sizes)
    kept = place < np.repeat(looked_at, sizes)
    return sparse.csr_array(
        (held.data[kept], held.indices[kept], np.concatenate([[0], np.cumsum(looked_at)])), shape=held.shape
    )


def _blocks(entries: NDArray[np.integer]) -> Iterator[slice]:
    """Yield successive slices of items, with at most `_BLOCK_ENTRIES` entries in total or with a single item."""
    ends, start = np.cumsum(entries), 0
    while start < len(entries):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _BLOCK_ENTRIES, side="right")))
        yield slice(start, stop)
        start = stop


def _by_first_appearance(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
