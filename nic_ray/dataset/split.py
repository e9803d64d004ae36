"""The split of rows into parts for training, validation and test, by passage or by query; random samples of rows."""

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nic_ray.errors import InputError
from nic_ray.protocol import Protocol, by_passage

Part = Literal["train", "validation", "test", "unseen_queries"]

GROUPS_PER_DOMAIN = 3
"""Least number of groups in a domain: one for each part."""
MAX_LISTED = 20
"""Number of domains that an error message lists."""


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
    """Assign each row to a part: "train", "validation" or "test".

    All rows of a group are in the same part. Each domain is split separately, with random numbers from the seed and
    its name, so that the rows of one domain do not influence the split of another. The test part does not depend on
    validation_share.

    Args:
        queries: (N,) number of each row's query text.
        positives: (N,) number of each row's passage, or of the group that it stays with; see `groups.groups_of`.
        domains: (N,) names. A group belongs to the domain of most of its rows. If that leaves a domain with fewer
            than 3 groups, then 3 or more groups that occur in exactly the same domains, this one among them, are split
            as a set of their own. This happens in a catalogue whose passages are nearly the same for every product,
            where each product is a domain.
        validation_share: share of each domain's rows, in (0, 1); met as closely as whole groups allow.
        test_share: likewise.
        seed: >= 0.
        protocol: "unseen_passages" and "cross_fit" group rows by passage, so that held-back rows ask about passages
            that were never trained on as answers. "unseen_queries" groups rows by query text only, so that their
            passages may have been trained on, which flatters the metrics.

    Returns:
        (N,) the part of each row.

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
    groups = _numbered(positives if by_passage(protocol) else queries)
    sizes = np.bincount(groups)
    part_of_group = np.full(len(sizes), "train", dtype="<U10")
    members = _split_together(groups, domains)
    _refuse_small_domains(members, noun="passages" if by_passage(protocol) else "queries")
    for names, numbers in members.items():
        left = _generator(seed, names).permutation(numbers)
        total = sizes[numbers].sum()
        test = _fill(sizes[left], test_share * total, spare=2)
        part_of_group[left[test]] = "test"
        left = left[~test]
        part_of_group[left[_fill(sizes[left], validation_share * total, spare=1)]] = "validation"
    return part_of_group[groups]


def refuse_few_groups(groups: NDArray[np.integer], domains: Sequence[str], *, unit: str) -> None:
    """Refuse rows that `split_rows` would refuse, with the name of what they are grouped by in the message.

    Args:
        groups: (N,) number of each row's group.
        domains: (N,) names.
        unit: what the groups are, such as "documents".

    Raises:
        InputError: a domain has fewer than 3 groups.
    """
    _refuse_small_domains(_split_together(_numbered(groups), domains), noun=unit)


def folds_of_rows(
    positives: NDArray[np.integer], domains: Sequence[str], parts: NDArray[np.str_], *, count: int, seed: int
) -> NDArray[np.int64]:
    """Divide all rows into folds: the test part is the first one, the other rows are dealt to the others by passage.

    Each domain's passages are dealt separately, in random order, each to the fold that has the fewest of its rows,
    and of those to the one with the fewest rows in all.

    Args:
        positives: (N,) as in `split_rows`.
        domains: (N,) names. A passage belongs to the domain of its first row.
        parts: (N,) from `split_rows`, which kept the rows of a passage together.
        count: number of folds, at least 2.
        seed: >= 0.

    Returns:
        (N,) number of each row's fold, from 0.
    """
    groups, names = _numbered(positives), np.asarray(domains, np.str_)
    first = np.unique(groups, return_index=True)[1]
    sizes, folds = np.bincount(groups), np.zeros(len(first), np.int64)
    is_left, total = parts[first] != "test", np.zeros(count, np.int64)
    for name in np.unique(names[first]).tolist():
        dealt = np.zeros(count, np.int64)
        dealt[0] = np.iinfo(np.int64).max
        own = np.flatnonzero(is_left & (names[first] == name))
        for group in _generator(seed, (name, "folds")).permutation(own).tolist():
            folds[group] = np.lexsort((total, dealt))[0]
            for rows in (dealt, total):
                rows[folds[group]] += sizes[group]
    return folds[groups]


def hold_back_queries(
    queries: NDArray[np.integer],
    positives: NDArray[np.integer],
    domains: Sequence[str],
    parts: NDArray[np.str_],
    *,
    share: float,
    seed: int,
) -> NDArray[np.str_]:
    """Move some training rows to the part "unseen_queries": new queries about passages that are trained on.

    With them, one model can be evaluated by the easier protocol beside the harder one. At most one row of a passage is
    moved, never the passage's only training row, and no row whose query text occurs in another training row.

    Args:
        queries: (N,) as in `split_rows`.
        positives: (N,) likewise.
        domains: (N,) likewise.
        parts: (N,) from `split_rows`.
        share: share of each domain's rows to move, in [0, 1); fewer are moved if there are not enough such rows.
        seed: >= 0.

    Returns:
        (N,) the part of each row after the move.

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
        candidates = np.flatnonzero(training & (names == domain))
        # another sequence of random numbers than in the split, which would draw the same rows first
        drawn = np.random.default_rng([seed, zlib.crc32(domain.encode()), 1]).permutation(candidates)
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
    """Count the rows of each held-back part whose label the training has seen as well.

    Args:
        labels: (N,) a label of each row, such as the number of its passage or of its query.
        parts: (N,) the part of each row.
        trained: all labels that occur in the training.

    Returns:
        part -> number of rows, for all parts except "train".
    """
    met = np.isin(labels, trained)
    return {str(part): int(np.count_nonzero(met[parts == part])) for part in np.unique(parts) if part != "train"}


def sample_rows(
    positives: NDArray[np.integer], domains: Sequence[str], *, share: float, seed: int
) -> NDArray[np.int64]:
    """Return, in ascending order, the rows that belong to a random share of each domain's passages.

    With the same seed, a smaller share gives a subset, so that results on growing samples can be compared.

    Args:
        positives: (N,) as in `split_rows`. A passage, or a group, is kept with all of its rows.
        domains: (N,) names. A passage belongs to a domain as in `split_rows`.
        share: share of the passages to keep, in (0, 1]. A domain keeps at least 3, so that it can still be split.
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
    for names, numbers in _split_together(groups, domains).items():
        count = max(GROUPS_PER_DOMAIN, round(share * len(numbers)))
        kept[_generator(seed, names).permutation(numbers)[:count]] = True
    return np.flatnonzero(kept[groups]).astype(np.int64)


def _numbered(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Renumber (N,) labels as 0, 1, ... in order of first appearance, so that their values have no influence."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _split_together(groups: NDArray[np.int64], domains: Sequence[str]) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Return the sets of groups that are split separately: those of each domain, and those that several domains share.

    A group with equally many rows in two domains belongs to the first by name. Sets of shared groups are formed only
    where a domain would otherwise have too few groups.

    Returns:
        the names of the domains that share a set -> its groups, ascending.
    """
    names, codes = np.unique(np.asarray(domains, dtype=np.str_), return_inverse=True)
    cells, rows = np.unique(np.stack([groups, codes]), axis=1, return_counts=True)
    order = np.lexsort((cells[1], -rows, cells[0]))
    _, first = np.unique(cells[0, order], return_index=True)
    owner = cells[1, order][first]
    small = np.flatnonzero(np.bincount(owner, minlength=len(names)) < GROUPS_PER_DOMAIN)
    shared: dict[tuple[int, ...], list[int]] = {}
    for group, holders in enumerate(np.split(cells[1], np.flatnonzero(np.diff(cells[0])) + 1)):
        if len(holders) > 1 and np.isin(holders, small).any():
            shared.setdefault(tuple(holders.tolist()), []).append(group)
    several: dict[tuple[str, ...], NDArray[np.int64]] = {}
    for key, members in shared.items():
        if len(members) >= GROUPS_PER_DOMAIN:
            several[tuple(str(names[code]) for code in key)] = np.array(members)
            owner[members] = -1
    return {(str(name),): np.flatnonzero(owner == code) for code, name in enumerate(names)} | several


def _refuse_small_domains(members: dict[tuple[str, ...], NDArray[np.int64]], *, noun: str) -> None:
    shared = {name for names in members if len(names) > 1 for name in names}
    small = [
        f'domain "{names[0]}" has too few distinct {noun}, {len(numbers)}; want {GROUPS_PER_DOMAIN}: '
        "one each to train, validate and test on"
        for names, numbers in members.items()
        if len(names) == 1 and len(numbers) < GROUPS_PER_DOMAIN and names[0] not in shared
    ]
    if not small:
        return
    if len(small) > MAX_LISTED:
        small[MAX_LISTED:] = [f"... and {len(small) - MAX_LISTED} more domains"]
    counted = {
        "passages": "Passages that are nearly the same count as one, in the domain of most of their rows; "
        "python -m nic_ray.check names them. Add rows, give such domains one name, or leave them out.",
        "queries": "A query that several domains ask counts in that of most of its rows. Add rows, or leave these "
        "domains out.",
    }
    of_groups = (
        f"Those that share a passage, or nearly, count as one of these {noun}, in the domain of most of their rows. "
        "Add rows, give such domains one name, leave them out, or write data.group_by: passage."
    )
    raise InputError("\n  ".join(["the rows cannot be split", *small, counted.get(noun, of_groups)]))


def _generator(seed: int, names: tuple[str, ...]) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32("\n".join(names).encode())])


def _fill(sizes: NDArray[np.int64], target: float, *, spare: int) -> NDArray[np.bool_]:
    """Select groups, in their order, so that their rows total about `target`.

    Every group that still fits is taken, then the smallest of the others if that brings the total nearer to `target`.
    The total then differs from `target` by at most half the size of that group, unless one of two limits applies: at
    least one group is taken, and at least `spare` groups are left.
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
