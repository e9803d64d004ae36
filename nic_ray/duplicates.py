"""Texts that say nearly the same: found exactly, by the word sequences that they share."""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

_WORD = re.compile(r"\w+")
_BLOCK_ENTRIES = 2**21  # entries of sparse matrices that are held at once: about 100 MiB with what SciPy adds


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.8, words: int = 5) -> NDArray[np.int64]:
    """Number groups of nearly equal texts, so that they can be counted, or kept on one side of a split.

    Two texts are nearly equal if they share at least `threshold` of all the sequences of `words` successive words
    that either of them holds (Jaccard). Case, punctuation and repeats do not count. A text of fewer words is a
    single sequence, which only the same words equal; one without a word equals only itself. What is nearly equal
    to a third text is in one group, whatever the first two share.

    Args:
        texts: T of them.
        threshold: in (0, 1].
        words: at least 1.

    Returns:
        (T,) number of each text's group: 0, 1, ... in the order in which the groups first appear.

    Raises:
        ValueError: threshold or words is out of range.

    Source: Broder 1997, "On the resemblance and containment of documents", for the measure; Chaudhuri, Ganti and
    Kaushik 2006, "A primitive operator for similarity joins in data cleaning", for comparing few pairs and missing
    none.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be > 0 and <= 1, got {threshold}")
    if words < 1:
        raise ValueError(f"words must be at least 1, got {words}")
    if not texts:
        return np.zeros(0, dtype=np.int64)
    held, same = _distinct_rows(_rarest_first(_incidence(_sequences(text, words) for text in texts)))
    left, right = _nearly_equal_rows(held, threshold)
    links = sparse.coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(held.shape[0],) * 2)
    return _by_first_appearance(connected_components(links, directed=False)[1][same])


def _sequences(text: str, words: int) -> list[str]:
    found = _WORD.findall(text.casefold())
    if not found:
        return [text.strip()]
    return [" ".join(found[start : start + words]) for start in range(max(1, len(found) - words + 1))]


def _incidence(texts: Iterable[Sequence[str]]) -> sparse.csr_array:
    """(T, S) a row for each text, with 1 in the column of each sequence that it holds."""
    # not scikit-learn's CountVectorizer, which takes three times as long: it also sorts what it has found
    numbers: dict[str, int] = {}
    rows = [np.unique([numbers.setdefault(sequence, len(numbers)) for sequence in text]) for text in texts]
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


def _nearly_equal_rows(held: sparse.csr_array, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers, left < right, of every pair whose columns have a Jaccard index of at least `threshold`."""
    sizes = np.diff(held.indptr)
    found: list[NDArray[np.int64]] = [np.zeros((2, 0), dtype=np.int64)]
    for left, right in _candidates(held, threshold):
        smaller, larger = np.sort([sizes[left], sizes[right]], axis=0)
        possible = smaller / larger >= threshold
        left, right = left[possible], right[possible]
        for part in _blocks(sizes[left] + sizes[right]):
            shared = held[left[part]].multiply(held[right[part]]).sum(axis=1)
            near = shared / (sizes[left[part]] + sizes[right[part]] - shared) >= threshold
            found.append(np.stack([left[part][near], right[part][near]]))
    left, right = np.concatenate(found, axis=1)
    return left, right


def _candidates(held: sparse.csr_array, threshold: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows, left < right, that share one of their rarest columns: all that can be near are among them.

    Two rows that are near share at least `threshold` of either's columns. Of n columns in a common order, so many
    cannot all lie behind the first n - threshold n + 1 in both. Rare ones first, few other rows share these; headers
    and footers that stand in every passage come last.
    """
    sizes = np.diff(held.indptr)
    looked_at = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    place = np.arange(held.nnz) - np.repeat(held.indptr[:-1], sizes)
    kept = place < np.repeat(looked_at, sizes)
    rare = sparse.csr_array(
        (held.data[kept], held.indices[kept], np.concatenate([[0], np.cumsum(looked_at)])), shape=held.shape
    )
    columns = rare.T.tocsr()
    for part in _blocks(rare @ np.diff(columns.indptr)):
        matches = (rare[part] @ columns).tocoo()
        left, right = matches.row.astype(np.int64) + part.start, matches.col.astype(np.int64)
        yield left[left < right], right[left < right]


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
