"""Near-duplicate texts: an exact search, by the pairs of successive words that texts share."""

import itertools
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nic_ray.words import words

_BLOCK_ENTRIES = 2**21
"""Entries of sparse matrices held at once: about 100 MiB, with SciPy's intermediate arrays."""
_PAIR_BITS = 54
"""Bits of a pair of word numbers; 8 bits above them say how frequent it is."""


_BLOCK_OTHERS = 50_000
"""Texts that are compared with others at once."""


Wholes = Collection[tuple[int, str]]
"""Numbers of passages that were cut, each with the whole passage."""


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.8, wholes: Wholes = ()) -> NDArray[np.int64]:
    """Number the groups of near-duplicate texts, so that they can be counted, or kept on one side of a split.

    Two texts are near duplicates if the Jaccard index of their pairs of successive words is at least `threshold`; the
    start and the end of a text count as words. A changed word changes two pairs of each text, so that by default one
    word in 17 may differ, two in 35, five in 89; in texts of up to 11 words nothing may differ. The order of words
    matters, but a sentence may have moved. Case, punctuation and repetitions are ignored. A text without words matches
    only the same text. Near duplicates of a third text are in one group, however little they share with each other.

    Args:
        texts: T texts, in any script.
        threshold: smallest Jaccard index of near duplicates, in (0, 1].
        wholes: texts that count as near duplicates of the whole passages that they were cut from, which may be none of
            the texts.

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
    numbers = {text: len(texts) + place for place, text in enumerate(dict.fromkeys(whole for _, whole in wholes))}
    held, same = _distinct_rows(_held([*texts, *numbers]))
    groups = _connected_rows(held, threshold)[same]
    if wholes:
        cut, whole = np.array([(number, numbers[text]) for number, text in wholes]).T
        groups = _joined(groups, cut, whole)[: len(texts)]
    return _by_first_appearance(groups)


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


def with_others(
    groups: NDArray[np.int64], texts: Sequence[str], passages: NDArray[np.int64], wholes: Wholes = ()
) -> NDArray[np.int64]:
    """Extend the groups of the first texts to all texts, without joining any of them.

    Args:
        groups: (n,) group of each of the first n texts.
        texts: T texts.
        passages: numbers of those of the first n that the others are compared with.
        wholes: passages of the first n that were cut, with the whole ones, which the others are compared with as well.

    Returns:
        (T,) groups; a further text is in that of a passage that it is nearly the same as, or that was cut from such a
        passage, otherwise in its own.
    """
    count = len(groups)
    if count == len(texts):
        return groups
    compared = np.array([*passages.tolist(), *(number for number, _ in wholes)], dtype=np.int64)
    known = [*(texts[passage] for passage in passages.tolist()), *(whole for _, whole in wholes)]
    others = groups_of_others(known, texts[count:])
    own = np.arange(count, len(texts))
    return np.concatenate([groups, np.where(others < 0, own, groups[compared[others]])])


@dataclass(frozen=True)
class _Held:
    """Which pairs of successive words T texts contain."""

    sizes: NDArray[np.int64]
    """(T,) number of distinct pairs in each text."""
    shared: sparse.csr_array
    """(T, a large number) 1 where a text contains a pair that another text may contain too; columns are those of
    `_by_rarity`."""

    def of(self, rows: NDArray[np.int64]) -> "_Held":
        return _Held(self.sizes[rows], self.shared[rows])


def _held(texts: Sequence[str]) -> _Held:
    ids, lengths = _word_ids(texts)
    columns = _by_rarity(ids)
    del ids
    ends = np.cumsum(lengths)
    _sort_within(columns, ends - lengths, lengths)
    first = np.diff(columns, prepend=-1) != 0
    first[ends - lengths] = True
    kept = first & (columns >= 1 << _PAIR_BITS)
    sizes = np.diff(np.cumsum(first)[ends - 1], prepend=0)
    kept_ends = np.concatenate([[0], np.cumsum(kept)[ends - 1]])
    shape = (len(texts), 1 << 62)
    return _Held(sizes, sparse.csr_array((np.ones(kept_ends[-1], np.int8), columns[kept], kept_ends), shape=shape))


def _word_ids(texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the words of texts; a text without words is taken for a single one.

    Returns:
        the numbers of all words, with a 0 before each text and after the last; (T,) how many of them, a 0 included,
        each text has.
    """
    # no word goes beyond a space, so each piece between spaces is parted once, however often it occurs
    pieces, numbers = array("i", [0]), defaultdict[str, int](itertools.count(1).__next__)
    sizes = np.empty(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        found = text.split()
        sizes[row] = len(found) + 1
        pieces.extend(map(numbers.__getitem__, found))
        pieces.append(0)
    parted, lengths, known = array("i", [0]), array("i", [1]), defaultdict[str, int](itertools.count(1).__next__)
    for piece in numbers:
        found = words(piece)
        lengths.append(len(found))
        parted.extend(map(known.__getitem__, found))
    ids, ends = _replaced(*(np.frombuffer(each, dtype=np.int32) for each in (pieces, parted, lengths)))
    ends = ends[np.cumsum(sizes)]
    counts = np.diff(ends, prepend=1)
    without = np.flatnonzero(counts == 1)
    # no word has a line end in it
    names = [known[f"\n{texts[row].strip()}"] for row in without.tolist()]
    counts[without] = 2
    return np.insert(ids, ends[without] - 1, names), counts


def _replaced(
    pieces: NDArray[np.int32], words: NDArray[np.int32], lengths: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Replace each of P pieces by its words.

    Args:
        pieces: (P,) numbers of distinct pieces.
        words: words of all distinct pieces, one piece after the other.
        lengths: how many words each distinct piece has.

    Returns:
        the words of all pieces; (P,) where those of each piece end.
    """
    starts, ends = np.cumsum(lengths, dtype=np.int64) - lengths, np.cumsum(lengths[pieces], dtype=np.int64)
    found = np.empty(ends[-1], dtype=np.int32)
    for start in range(0, len(pieces), _BLOCK_ENTRIES):
        own = pieces[start : start + _BLOCK_ENTRIES]
        before = ends[start] - lengths[own[0]]
        place = np.arange(before, ends[start + len(own) - 1])
        found[place] = words[
            np.repeat(starts[own] - ends[start : start + len(own)] + lengths[own], lengths[own]) + place
        ]
    return found, ends


def _by_rarity(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number the pairs of successive words so that rare ones have low numbers.

    The frequency is that of all pairs with the same hash, so that no table of all pairs is needed. A pair that occurs
    once may seem to be more frequent; one that occurs in two texts has a number of 1 << _PAIR_BITS or more.
    """
    pairs = ids[:-1].astype(np.int64) << (_PAIR_BITS // 2) | ids[1:]
    bits = min(24, len(pairs).bit_length() + 1)
    # Fibonacci hashing: the upper bits of the product with 2^64 / the golden ratio
    hashed = ((pairs.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)).view(np.int64)
    # to 9 %, which 8 bits can hold
    frequency = (8 * np.log2(np.maximum(1, np.bincount(hashed, minlength=1 << bits)))).astype(np.uint8)
    return frequency[hashed].astype(np.int64) << _PAIR_BITS | pairs


def _sort_within(values: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Sort each of T successive parts of an array in place; parts of the same length are sorted together."""
    order = np.argsort(lengths, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        length = int(lengths[same[0]])
        for block in _blocks(np.full(len(same), length)):
            places = starts[same[block], np.newaxis] + np.arange(length)
            values[places] = np.sort(values[places], axis=1)


def _distinct_rows(held: _Held) -> tuple[_Held, NDArray[np.int64]]:
    """Return the distinct rows by first appearance, and (rows,) the number of the distinct row that each row equals."""
    indices, ends = held.shared.indices, held.shared.indptr.tolist()
    content, width = indices.tobytes(), indices.itemsize
    numbers: dict[bytes | int, int] = {}
    same = np.empty(len(held.sizes), dtype=np.int64)
    for row, (size, start, end) in enumerate(zip(held.sizes.tolist(), ends, ends[1:], strict=False)):
        # a row with a pair that no other text contains equals none
        name = content[start * width : end * width] if end - start == size else row
        same[row] = numbers.setdefault(name, len(numbers))
    return held.of(np.unique(same, return_index=True)[1]), same


def _connected_rows(held: _Held, threshold: float) -> NDArray[np.int64]:
    """Return (rows,) numbers, equal for rows that are connected by Jaccard indices of at least `threshold`."""
    sizes = held.sizes
    groups = np.arange(len(sizes))
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
            shared = held.shared[one].multiply(held.shared[other]).sum(axis=1)
            near = shared / (sizes[one] + sizes[other] - shared) >= threshold
            if near.any():
                groups = _joined(groups, one[near], other[near])
    return groups


def _joined(groups: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups after merging those of each left row and its right row."""
    links = sparse.coo_array((np.ones(len(left), np.int8), (groups[left], groups[right])), shape=(len(groups),) * 2)
    joined: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)[groups]
    return joined


def _candidates(held: _Held, threshold: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs of rows that share one of their rarest columns, each once; all near pairs are among them.

    Two near rows of m >= n columns share at least t m columns, since their union has at least m; and also at least
    t / (1 + t) (m + n) >= 2 t / (1 + t) n. In a common order of the columns, the first shared one is therefore among
    the first m - t m + 1 columns of the larger row and among the first n - 2 t / (1 + t) n + 1 of the smaller one. With
    the rarest columns first, few other rows share these; headers and footers that occur in every passage come last.
    """
    sizes = held.sizes
    larger, smaller = _first_columns(held, threshold, 2 * threshold / (1 + threshold))
    for part in _blocks(larger @ np.diff(smaller.indptr)):
        matches = (larger[part] @ smaller).tocoo()
        left, right = matches.row.astype(np.int64) + part.start, matches.col.astype(np.int64)
        once = (sizes[left] > sizes[right]) | ((sizes[left] == sizes[right]) & (left < right))
        yield left[once], right[once]


def _first_columns(held: _Held, of_larger: float, of_smaller: float) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Keep enough leading columns of each row to include a shared one, if such a share of all is shared.

    Args:
        of_larger: the smaller share, so that more columns are kept.
        of_smaller: the larger share.

    Returns:
        (T, S) for `of_larger` and (S, T) for `of_smaller`, with new numbers of the columns.
    """
    lengths = np.diff(held.shared.indptr)
    place = np.arange(held.shared.nnz) - np.repeat(held.shared.indptr[:-1], lengths)

    def looked_at(share: float) -> NDArray[np.int64]:
        wanted = held.sizes - np.ceil(share * held.sizes - 1e-9).astype(np.int64) + 1
        # pairs that no other text contains are the rarest, and come before the first column
        kept: NDArray[np.int64] = np.clip(wanted - (held.sizes - lengths), 0, lengths)
        return kept

    def matrix(columns: NDArray[np.int64], counts: NDArray[np.int64]) -> sparse.csr_array:
        ends = np.concatenate([[0], np.cumsum(counts)])
        return sparse.csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(lengths), width))

    more, fewer = looked_at(of_larger), looked_at(of_smaller)
    kept = place < np.repeat(more, lengths)
    known, column = np.unique(held.shared.indices[kept], return_inverse=True)
    width = len(known)
    return matrix(column, more), matrix(column[place[kept] < np.repeat(fewer, more)], fewer).T.tocsr()


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
