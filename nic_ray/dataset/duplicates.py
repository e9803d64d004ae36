"""Texts that say nearly the same: found exactly, by the pairs of successive words that they share."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nic_ray.words import words

_BLOCK_ENTRIES = 2**21  # entries of sparse matrices that are held at once: about 100 MiB with what SciPy adds


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.8) -> NDArray[np.int64]:
    """Number groups of nearly equal texts, so that they can be counted, or kept on one side of a split.

    Two texts are nearly equal if they share at least `threshold` of all the pairs of successive words that either of
    them holds (Jaccard), the start and the end of a text counting as words. A changed word costs two pairs on either
    side, so by default one in 17 words may be another, two in 35, five in 89; in texts of up to 11 words nothing may
    differ. Order counts, but a sentence may stand elsewhere. Case, punctuation and repeats do not count. A text without
    a word equals only itself. What is nearly equal to a third text is in one group, whatever the first two share.

    Args:
        texts: T of them, in any script.
        threshold: in (0, 1].

    Returns:
        (T,) number of each text's group: 0, 1, ... in the order in which the groups first appear.

    Raises:
        ValueError: threshold is out of range.

    Source: Broder 1997, "On the resemblance and containment of documents", for the measure; Chaudhuri, Ganti and
    Kaushik 2006, "A primitive operator for similarity joins in data cleaning", for comparing few pairs and missing
    none. benchmarks/near_duplicates.py has the measures it was chosen from.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be > 0 and <= 1, got {threshold}")
    if not texts:
        return np.zeros(0, dtype=np.int64)
    held, same = _distinct_rows(_rarest_first(_incidence(map(_pairs, texts))))
    return _by_first_appearance(_connected_rows(held, threshold)[same])


def _pairs(text: str) -> list[tuple[str, str]]:
    found = words(text)
    return list(zip(["", *found], [*found, ""], strict=True)) if found else [("", text.strip())]


def _incidence(texts: Iterable[Sequence[tuple[str, str]]]) -> sparse.csr_array:
    """(T, S) a row for each text, with 1 in the column of each pair that it holds."""
    # not scikit-learn's CountVectorizer, which takes three times as long: it also sorts what it has found
    numbers: dict[tuple[str, str], int] = {}
    rows = [np.unique([numbers.setdefault(pair, len(numbers)) for pair in text]) for text in texts]
    ends = np.cumsum([0, *map(len, rows)])
    return sparse.csr_array((np.ones(ends[-1], np.int32), np.concatenate(rows), ends), shape=(len(rows), len(numbers)))


def _rarest_first(held: sparse.csr_array) -> sparse.csr_array:
    """The same rows over columns that are numbered from the rarest to the most frequent."""
    rank = np.empty(held.shape[1], dtype=held.indices.dtype)
    rank[np.argsort(np.bincount(held.indices, minlength=len(rank)), kind="stable")] = np.arange(len(rank))
    result = sparse.csr_array((held.data, rank[held.indices], held.indptr), shape=held.shape)
    result.sort_indices()
    return result


def _distinct_rows(held: sparse.csr_array) -> tuple[sparse.csr_array, NDArray[np.int64]]:
    """Each different row once, by first appearance, and (rows,) the number of the one that each row equals."""
    numbers: dict[bytes, int] = {}
    rows = np.split(held.indices, held.indptr[1:-1])
    same = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], dtype=np.int64)
    return held[np.unique(same, return_index=True)[1]], same


def _connected_rows(held: sparse.csr_array, threshold: float) -> NDArray[np.int64]:
    """(rows,) numbers, the same for rows that are connected by pairs with a Jaccard index of at least `threshold`."""
    sizes = np.diff(held.indptr)
    groups = np.arange(held.shape[0])
    for left, right in _candidates(held, threshold):
        smaller, larger = np.sort([sizes[left], sizes[right]], axis=0)
        possible = smaller / larger >= threshold
        left, right = left[possible], right[possible]
        for part in _blocks(sizes[left] + sizes[right]):
            # a pair that is connected already needs no look: of n copies of a text, n of their n^2 / 2 pairs do
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
    """Groups after those of each left row and its right row have become one."""
    links = sparse.coo_array((np.ones(len(left), np.int8), (groups[left], groups[right])), shape=(len(groups),) * 2)
    joined: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)[groups]
    return joined


def _candidates(held: sparse.csr_array, threshold: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows that share one of their rarest columns, each pair once: all that can be near are among them.

    Of two rows that are near, of m >= n columns, the larger one shares at least t m with the smaller one, and the
    smaller at least 2 t / (1 + t) n with the larger, since what both share is at least t / (1 + t) (m + n). In a common
    order of the columns, so many cannot all lie behind the first m - t m + 1 of the one and the first
    n - 2 t / (1 + t) n + 1 of the other. Rare ones first, few other rows share these; headers and footers that stand
    in every passage come last.
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
    """Of each row the columns that it must look at to meet one of those that it shares, `shared` of them at least."""
    sizes = np.diff(held.indptr)
    looked_at = sizes - np.ceil(shared * sizes - 1e-9).astype(np.int64) + 1
    place = np.arange(held.nnz) - np.repeat(held.indptr[:-1], sizes)
    kept = place < np.repeat(looked_at, sizes)
    return sparse.csr_array(
        (held.data[kept], held.indices[kept], np.concatenate([[0], np.cumsum(looked_at)])), shape=held.shape
    )


def _blocks(entries: NDArray[np.integer]) -> Iterator[slice]:
    """Slices, one after the other, of at most `_BLOCK_ENTRIES` entries each, or of a single item."""
    ends, start = np.cumsum(entries), 0
    while start < len(entries):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _BLOCK_ENTRIES, side="right")))
        yield slice(start, stop)
        start = stop


def _by_first_appearance(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
