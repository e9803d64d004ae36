"""Which rows train, which choose the winner, which are read once: no passage on two sides."""

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nic_ray.errors import InputError
from nic_ray.protocol import Protocol

Part = Literal["train", "validation", "test", "unseen_queries"]

GROUPS_PER_DOMAIN = 3  # one for each part
LISTED = 20  # domains that an error message spells out


def split_rows(
    queries: NDArray[np.integer],
    positives: NDArray[np.integer],
    domains: Sequence[str],
    *,
    validation_share: float = 0.2,
    test_share: float = 0.2,
    seed: int,
    protocol: Protocol = "unseen_passages",
) -> NDArray[np.str_]:
    """Part of each row: "train", "validation" or "test".

    Rows of one group never part. Each domain is split by itself, from the seed and its name, so that
    rows of one domain do not move those of another; the test part does not depend on validation_share.

    Args:
        queries: (N,) number of each row's query text.
        positives: (N,) number of each row's passage, or of its group of passages that are nearly the same.
        domains: (N,) names. A group belongs to the domain of most of its rows. Where that leaves a domain with fewer
            than 3 groups, 3 or more that stand in the same domains, this one among them, are split by themselves: so
            is a catalogue whose passages are nearly the same for every product, each product its own domain.
        validation_share: share of each domain's rows, in (0, 1); met as closely as whole groups allow.
        test_share: likewise.
        seed: >= 0.
        protocol: "unseen_passages" groups rows by passage: what is held back asks for passages that
            were never trained on. "unseen_queries" groups by query text only: its passages have been
            trained on, which flatters the figures.

    Raises:
        InputError: the shares leave nothing to train on, or a domain has fewer than 3 groups.
        ValueError: queries, positives and domains differ in length.
    """
    if not len(queries) == len(positives) == len(domains):
        raise ValueError(
            "want one query, one positive and one domain a row, "
            f"got {len(queries)}, {len(positives)} and {len(domains)}"
        )
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise InputError(
            "validation_share and test_share must be > 0 and leave rows to train on, "
            f"got {validation_share} and {test_share}"
        )
    groups = _numbered(positives if protocol == "unseen_passages" else queries)
    sizes = np.bincount(groups)
    part_of_group = np.full(len(sizes), "train", dtype="<U10")
    members = _split_together(groups, domains)
    _refuse_small_domains(members, noun="passages" if protocol == "unseen_passages" else "queries")
    for names, own in members.items():
        left = _generator(seed, names).permutation(own)
        total = sizes[own].sum()
        test = _fill(sizes[left], test_share * total, spare=2)
        part_of_group[left[test]] = "test"
        left = left[~test]
        part_of_group[left[_fill(sizes[left], validation_share * total, spare=1)]] = "validation"
    return part_of_group[groups]


def hold_back_queries(
    queries: NDArray[np.integer],
    positives: NDArray[np.integer],
    domains: Sequence[str],
    parts: NDArray[np.str_],
    *,
    share: float,
    seed: int,
) -> NDArray[np.str_]:
    """Parts with some training rows moved to "unseen_queries": new questions about passages that are trained on.

    They show the easier protocol beside the harder one, on one model. At most one row of a passage is moved, never
    its only training row, and none whose query text stands in another training row.

    Args:
        queries: (N,) as in `split_rows`.
        positives: (N,) likewise.
        domains: (N,) likewise.
        parts: (N,) from `split_rows`.
        share: of each domain's rows, in [0, 1); fewer where there are not as many such rows.
        seed: >= 0.

    Raises:
        InputError: share is out of range.
    """
    if not 0 <= share < 1:
        raise InputError(f"query_share must be >= 0 and < 1, got {share}")
    names = np.asarray(domains, dtype=np.str_)
    training = parts == "train"
    rows_of_passage, rows_of_query = Counter(positives[training].tolist()), Counter(queries[training].tolist())
    moved, taken = parts.astype("<U14"), set[int]()
    for domain in np.unique(names).tolist():
        own = np.flatnonzero(training & (names == domain))
        # drawn anew, or the rows would be those that the split drew first
        drawn = np.random.default_rng([seed, zlib.crc32(domain.encode()), 1]).permutation(own)
        room = len(taken) + round(share * np.count_nonzero(names == domain))
        for row in drawn.tolist():
            passage = int(positives[row])
            if len(taken) == room:
                break
            if passage not in taken and rows_of_passage[passage] > 1 and rows_of_query[int(queries[row])] == 1:
                taken.add(passage)
                moved[row] = "unseen_queries"
    return moved


def shared_with_training(
    labels: NDArray[np.integer], parts: NDArray[np.str_], trained: NDArray[np.integer]
) -> dict[str, int]:
    """How many rows of each held-back part have a label that the training has met too.

    Args:
        labels: (N,) such as the passage, or the query, of each row.
        parts: (N,) from `split_rows`.
        trained: the labels that the training rows hold.

    Returns:
        part -> rows, for all parts but "train".
    """
    met = np.isin(labels, trained)
    return {str(part): int(np.count_nonzero(met[parts == part])) for part in np.unique(parts) if part != "train"}


def sample_rows(
    positives: NDArray[np.integer], domains: Sequence[str], *, share: float, seed: int
) -> NDArray[np.int64]:
    """Ascending numbers of the rows that belong to a random share of each domain's passages.

    A smaller share with the same seed gives a subset, so that results over growing samples compare.

    Args:
        positives: (N,) number of each row's passage, or of its group of passages that are nearly the same. A passage
            comes with all of its rows.
        domains: (N,) names. A passage belongs to a domain as in `split_rows`.
        share: in (0, 1]. A domain keeps at least 3 passages, so that it can still be split.
        seed: >= 0.

    Raises:
        InputError: share is out of range.
        ValueError: positives and domains differ in length.
    """
    if len(positives) != len(domains):
        raise ValueError(f"want one positive and domain a row, got {len(positives)} and {len(domains)}")
    if not 0 < share <= 1:
        raise InputError(f"sample_share must be > 0 and <= 1, got {share}")
    groups = _numbered(positives)
    kept = np.zeros(groups.max(initial=-1) + 1, dtype=bool)
    for names, own in _split_together(groups, domains).items():
        count = max(GROUPS_PER_DOMAIN, round(share * len(own)))
        kept[_generator(seed, names).permutation(own)[:count]] = True
    return np.flatnonzero(kept[groups]).astype(np.int64)


def _numbered(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """(N,) labels as 0, 1, ... by first appearance: what a label is called then decides nothing."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _split_together(groups: NDArray[np.int64], domains: Sequence[str]) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Groups, ascending, that are split as one set: each domain's own, and those that several domains share.

    A group of equally many rows in two domains belongs to the first by name. Sets of shared groups are made only where
    a domain would have too few groups of its own.
    """
    names, codes = np.unique(np.asarray(domains, dtype=np.str_), return_inverse=True)
    cells, rows = np.unique(np.stack([groups, codes]), axis=1, return_counts=True)
    order = np.lexsort((cells[1], -rows, cells[0]))
    _, first = np.unique(cells[0, order], return_index=True)
    owner = cells[1, order][first]
    small = np.flatnonzero(np.bincount(owner, minlength=len(names)) < GROUPS_PER_DOMAIN)
    shared: dict[tuple[int, ...], list[int]] = {}
    for group, own in enumerate(np.split(cells[1], np.flatnonzero(np.diff(cells[0])) + 1)):
        if len(own) > 1 and np.isin(own, small).any():
            shared.setdefault(tuple(own.tolist()), []).append(group)
    several: dict[tuple[str, ...], NDArray[np.int64]] = {}
    for key, members in shared.items():
        if len(members) >= GROUPS_PER_DOMAIN:
            several[tuple(str(names[code]) for code in key)] = np.array(members)
            owner[members] = -1
    return {(str(name),): np.flatnonzero(owner == code) for code, name in enumerate(names)} | several


def _refuse_small_domains(members: dict[tuple[str, ...], NDArray[np.int64]], *, noun: str) -> None:
    shared = {name for names in members if len(names) > 1 for name in names}
    small = [
        f'domain "{names[0]}" has too few distinct {noun}, {len(own)}; want {GROUPS_PER_DOMAIN}: '
        "one each to train, validate and test on"
        for names, own in members.items()
        if len(names) == 1 and len(own) < GROUPS_PER_DOMAIN and names[0] not in shared
    ]
    if not small:
        return
    if len(small) > LISTED:
        small[LISTED:] = [f"... and {len(small) - LISTED} more domains"]
    counted = {
        "passages": "Passages that are nearly the same count as one, in the domain of most of their rows; "
        "python -m nic_ray.check names them. Add rows, give such domains one name, or leave them out.",
        "queries": "A query that several domains ask counts in that of most of its rows. Add rows, or leave these "
        "domains out.",
    }
    raise InputError("\n  ".join(["the rows cannot be split", *small, counted[noun]]))


def _generator(seed: int, names: tuple[str, ...]) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32("\n".join(names).encode())])


def _fill(sizes: NDArray[np.int64], target: float, *, spare: int) -> NDArray[np.bool_]:
    """Select groups, in their order, so that their rows total about `target`.

    Takes every group that still fits, then the smallest of the others if the total comes nearer to `target` with it.
    The total then misses `target` by at most half of that group, unless one of two limits decides: at least one group
    is taken, and at least `spare` are left.
    """
    taken = np.zeros(len(sizes), dtype=bool)
    room, limit = target, len(sizes) - spare
    for place, size in enumerate(sizes.tolist()):
        if size <= room and limit > 0:
            taken[place] = True
            room, limit = room - size, limit - 1
    if limit > 0 and not taken.all():
        smallest = int(np.argmin(np.where(taken, np.iinfo(np.int64).max, sizes)))
        if not taken.any() or sizes[smallest] < 2 * room:
            taken[smallest] = True
    return taken
