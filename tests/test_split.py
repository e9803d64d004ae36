"""The split: what never parts, how near the shares are met, what moves what."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_ray.dataset.pairs import index_pairs, read_pairs
from nic_ray.dataset.split import hold_back_queries, sample_rows, shared_with_training, split_rows
from nic_ray.errors import InputError

REAL = Path(__file__).parent.parent / "../shared/data/training_pairs.jsonl"
PARTS = ("train", "validation", "test")


@st.composite
def some_rows(draw, min_passages=3):
    """(queries, positives, domains) of rows in random order; no passage stands in two domains."""
    passages = draw(st.lists(st.integers(min_passages, 12), min_size=1, max_size=3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))  # drawing each row takes seconds
    domain_of = np.repeat(np.arange(len(passages)), passages)
    copies = random.integers(1, 7, size=len(domain_of))
    positives = random.permutation(np.repeat(np.arange(len(domain_of)), copies))
    queries = random.integers(0, 100, size=len(positives))
    return queries, positives, [f"domain {domain_of[passage]}" for passage in positives]


seeds = st.integers(0, 2**32)


def parts_by(labels, parts):
    return [set(parts[labels == label]) for label in np.unique(labels)]


@given(some_rows(), seeds)
def test_no_passage_is_on_two_sides(rows, seed):
    parts = split_rows(*rows, seed=seed)
    assert all(len(sides) == 1 for sides in parts_by(rows[1], parts))


@given(some_rows(), seeds, st.sampled_from([0.001, 0.15, 0.49, 0.9]))
def test_every_domain_is_in_every_part_whatever_the_shares(rows, seed, share):
    for shares in (
        {"validation_share": share, "test_share": 0.05},
        {"validation_share": 0.05, "test_share": share},
    ):
        parts = split_rows(*rows, **shares, seed=seed)
        assert all(sides == set(PARTS) for sides in parts_by(np.array(rows[2]), parts))


@pytest.mark.parametrize("shares", [(0.98, 0.01), (0.01, 0.98)])
def test_three_passages_make_three_parts_however_uneven_the_shares(shares):
    rows = np.arange(3)
    parts = split_rows(rows, rows, ["a"] * 3, validation_share=shares[0], test_share=shares[1], seed=0)
    assert set(parts) == set(PARTS)


@given(some_rows(), seeds, st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_shares_are_met_within_half_a_group(rows, seed, validation_share, test_share):
    parts = split_rows(*rows, validation_share=validation_share, test_share=test_share, seed=seed)
    for name in set(rows[2]):
        own = np.array(rows[2]) == name
        largest = np.bincount(rows[1][own]).max()
        for part, share in (("validation", validation_share), ("test", test_share)):
            groups = len(np.unique(rows[1][own & (parts == part)]))
            trained = len(np.unique(rows[1][own & (parts == "train")]))
            # a part may be off by more only where it had to take a group, or to leave one to another part
            if groups > 1 and trained > 1:
                assert abs((parts[own] == part).sum() - share * own.sum()) <= largest / 2


def test_shares_are_exact_where_groups_allow_it():
    rows = np.repeat(np.arange(100), 4)
    parts = split_rows(rows, rows, ["a"] * 400, validation_share=0.2, test_share=0.1, seed=0)
    assert [np.count_nonzero(parts == part) for part in PARTS] == [280, 80, 40]


def test_one_huge_passage_does_not_fill_a_small_part():
    positives = np.array([0] * 90 + [1] * 5 + [2] * 5)
    for seed in range(10):
        parts = split_rows(positives, positives, ["a"] * 100, seed=seed)
        assert set(parts[:90]) == {"train"}


@given(some_rows(), seeds)
def test_the_same_seed_gives_the_same_split(rows, seed):
    assert split_rows(*rows, seed=seed).tolist() == split_rows(*rows, seed=seed).tolist()


def test_another_seed_gives_another_split():
    rows = np.arange(100)
    splits = {tuple(split_rows(rows, rows, ["a"] * 100, seed=seed).tolist()) for seed in range(10)}
    assert len(splits) == 10


def test_every_passage_is_held_back_by_some_seed():
    rows = np.arange(20)
    held_back = [split_rows(rows, rows, ["a"] * 20, seed=seed) != "train" for seed in range(60)]
    assert np.any(held_back, axis=0).all()


@given(some_rows(), seeds)
def test_a_domain_is_split_as_if_it_were_alone(rows, seed):
    queries, positives, domains = rows
    parts = split_rows(queries, positives, domains, seed=seed)
    for name in set(domains):
        own = np.flatnonzero(np.array(domains) == name)
        alone = split_rows(queries[own], positives[own], [name] * len(own), seed=seed)
        assert parts[own].tolist() == alone.tolist()


@given(some_rows(), seeds)
def test_what_passages_are_called_decides_nothing(rows, seed):
    queries, positives, domains = rows
    renamed = 1000 - 7 * positives
    assert (
        split_rows(queries, positives, domains, seed=seed) == split_rows(queries, renamed, domains, seed=seed)
    ).all()


@given(some_rows(), seeds, st.floats(0.05, 0.5))
def test_the_test_part_does_not_depend_on_the_validation_share(rows, seed, validation_share):
    some = split_rows(*rows, validation_share=validation_share, seed=seed)
    assert ((some == "test") == (split_rows(*rows, seed=seed) == "test")).all()


@given(some_rows(), seeds)
def test_unseen_queries_keeps_copies_of_a_query_together(rows, seed):
    _, passages, domains = rows
    parts = split_rows(passages, np.arange(len(passages)), domains, seed=seed, protocol="unseen_queries")
    assert all(len(sides) == 1 for sides in parts_by(passages, parts))


def test_unseen_queries_lets_a_passage_stand_on_two_sides():
    parts = split_rows(np.arange(100), np.zeros(100, int), ["a"] * 100, seed=0, protocol="unseen_queries")
    assert set(parts) == set(PARTS)


def test_a_passage_of_two_domains_belongs_to_the_one_of_most_of_its_rows():
    positives = np.array([0, 0, 0, 1, 2, 3, 4, 5])
    domains = ["a", "b", "b", "a", "a", "a", "b", "b"]
    parts = split_rows(positives, positives, domains, seed=0)
    assert set(parts[[1, 6, 7]]) == set(PARTS)
    assert parts[0] == parts[1]


def test_domains_too_small_to_split_are_named_together():
    positives = np.array([0, 1, 2, 3, 3, 4, 5])
    domains = ["a", "a", "a", "b", "b", "c", "c"]
    with pytest.raises(
        InputError,
        match=r'the rows cannot be split\n  domain "b" has too few distinct passages, 1; want 3: [^\n]*\n'
        r'  domain "c" has too few distinct passages, 2; [^\n]*\n  Passages that are nearly the same count as one, in '
        r"the domain of most of their rows; python -m nic_ray\.check names them\. "
        r"Add rows, give such domains one name, or leave them out\.$",
    ):
        split_rows(positives, positives, domains, seed=0)


def test_a_domain_that_is_everywhere_in_the_minority_is_too_small():
    positives = np.array([0, 0, 0, 1, 2])
    with pytest.raises(InputError, match='domain "b" has too few distinct passages, 0'):
        split_rows(positives, positives, ["a", "a", "b", "a", "a"], seed=0)


def test_a_hundred_domains_too_small_to_split_are_counted_after_the_first_twenty():
    positives = np.arange(100)
    with pytest.raises(InputError) as refused:
        split_rows(positives, positives, [f"d{n:02d}" for n in positives], seed=0)
    lines = str(refused.value).splitlines()
    assert len(lines) == 23
    assert lines[20].startswith('  domain "d19" has too few distinct passages, 1;')
    assert lines[21] == "  ... and 80 more domains"


@given(st.integers(2, 5), st.integers(3, 9), seeds)
def test_domains_whose_passages_are_all_variants_of_each_other_are_split_by_section(products, sections, seed):
    groups = np.repeat(np.tile(np.arange(sections), products), 2)
    domains = [f"product {n // (2 * sections)}" for n in range(len(groups))]
    parts = split_rows(np.arange(len(groups)), groups, domains, seed=seed)
    assert all(len(sides) == 1 for sides in parts_by(groups, parts))
    assert all(sides == set(PARTS) for sides in parts_by(np.array(domains), parts))


def test_a_domain_with_passages_enough_of_its_own_is_split_as_if_the_shared_ones_were_its_own():
    # a has ten passages of its own, b too; three stand in both, mostly in a
    groups = np.array([*range(10), *range(10, 20), 20, 21, 22, 20, 21, 22, 20, 21, 22])
    domains = [*"a" * 10, *"b" * 10, *"aaaaaa", *"bbb"]
    parts = split_rows(groups, groups, domains, seed=4)
    own = [*domains[:23], *"aaaaaa"]
    assert parts.tolist() == split_rows(groups, groups, own, seed=4).tolist()


def test_shared_passages_too_few_for_three_parts_do_not_save_a_domain():
    groups, domains = np.array([0, 0, 1, 1, 2, 3, 4]), [*"abab", *"aaa"]
    with pytest.raises(InputError, match='domain "b" has too few distinct passages, 0'):
        split_rows(groups, groups, domains, seed=0)


def test_a_sample_of_domains_that_share_their_passages_can_still_be_split():
    groups = np.tile(np.arange(20), 6)
    domains = [f"product {n // 20}" for n in range(120)]
    kept = sample_rows(groups, domains, share=0.1, seed=0)
    assert len(set(groups[kept].tolist())) == 3
    names = [domains[row] for row in kept]
    parts = split_rows(groups[kept], groups[kept], names, seed=0)
    assert all(sides == set(PARTS) for sides in parts_by(np.array(names), parts))


def test_too_few_queries_are_called_queries():
    with pytest.raises(InputError, match=r'domain "a" has too few distinct queries, 1;[^\n]*\n  A query that several'):
        split_rows(np.zeros(9, int), np.arange(9), ["a"] * 9, seed=0, protocol="unseen_queries")


@pytest.mark.parametrize(("validation_share", "test_share"), [(0.0, 0.1), (0.1, 0.0), (0.5, 0.5), (0.1, float("nan"))])
def test_shares_must_leave_rows_in_every_part(validation_share, test_share):
    rows = np.arange(9)
    with pytest.raises(InputError, match=f"leave rows to train on, got {validation_share} and {test_share}"):
        split_rows(rows, rows, ["a"] * 9, validation_share=validation_share, test_share=test_share, seed=0)


def test_columns_must_be_equally_long():
    with pytest.raises(ValueError, match="one domain a row, got 3, 3 and 2"):
        split_rows(np.arange(3), np.arange(3), ["a", "a"], seed=0)
    with pytest.raises(ValueError, match="one positive and domain a row, got 3 and 2"):
        sample_rows(np.arange(3), ["a", "a"], share=0.5, seed=0)


@given(some_rows(), seeds)
def test_a_sample_of_everything_is_everything(rows, seed):
    assert sample_rows(*rows[1:], share=1.0, seed=seed).tolist() == list(range(len(rows[1])))


@given(some_rows(min_passages=1), seeds, st.floats(0.01, 1.0))
def test_a_sample_holds_whole_passages_and_its_share_of_each_domain(rows, seed, share):
    _, positives, domains = rows
    sample = sample_rows(positives, domains, share=share, seed=seed)
    assert (np.diff(sample) > 0).all()
    assert set(sample) == set(np.flatnonzero(np.isin(positives, positives[sample])))
    for name in set(domains):
        own = np.array(domains) == name
        passages = len(np.unique(positives[own]))
        kept = len(np.unique(positives[sample][own[sample]]))
        assert kept == min(passages, max(3, round(share * passages)))


@given(some_rows(), seeds, st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_smaller_sample_lies_within_a_larger_one(rows, seed, one, other):
    small, large = (sample_rows(*rows[1:], share=share, seed=seed) for share in sorted([one, other]))
    assert set(small) <= set(large)


@given(some_rows(), seeds, st.floats(0.01, 1.0))
def test_a_sample_can_still_be_split(rows, seed, share):
    queries, positives, domains = rows
    sample = sample_rows(positives, domains, share=share, seed=seed)
    own = [domains[row] for row in sample]
    parts = split_rows(queries[sample], positives[sample], own, seed=seed)
    assert all(sides == set(PARTS) for sides in parts_by(np.array(own), parts))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_sample_is_a_share(share):
    with pytest.raises(InputError, match=f"sample_share must be > 0 and <= 1, got {share}"):
        sample_rows(np.arange(3), ["a"] * 3, share=share, seed=0)


@pytest.mark.skipif(not REAL.exists(), reason="the real training pairs are not beside this repository")
def test_no_passage_of_the_real_file_is_on_two_sides():
    collection = index_pairs(read_pairs(REAL))
    parts = split_rows(collection.query, collection.positive, collection.domains, seed=42)
    assert all(len(sides) == 1 for sides in parts_by(collection.positive, parts))
    domains = np.array(collection.domains)
    for name in set(collection.domains):
        for part in ("validation", "test"):
            # the largest passage has 12 rows
            assert abs((parts[domains == name] == part).sum() - 0.2 * (domains == name).sum()) <= 6


def test_new_questions_about_trained_passages_are_held_back():
    # 2 domains of 20 passages with 5 queries each
    positives, queries = np.repeat(np.arange(40), 5), np.arange(200)
    domains = ["a"] * 100 + ["b"] * 100
    before = split_rows(queries, positives, domains, seed=1)
    parts = hold_back_queries(queries, positives, domains, before, share=0.1, seed=1)
    moved = np.flatnonzero(parts != before)
    assert (before[moved] == "train").all()
    assert (parts[moved] == "unseen_queries").all()
    assert [int((moved < 100).sum()), int((moved >= 100).sum())] == [10, 10]
    assert len(set(positives[moved].tolist())) == 20  # one of a passage at most
    assert set(positives[moved].tolist()) <= set(positives[parts == "train"].tolist())
    again = hold_back_queries(queries, positives, domains, before, share=0.1, seed=1)
    assert (again == parts).all()
    assert (hold_back_queries(queries, positives, domains, before, share=0.1, seed=2) != parts).any()
    assert (hold_back_queries(queries, positives, domains, before, share=0, seed=1) == before).all()


def test_no_question_is_held_back_that_training_knows_or_that_leaves_a_passage_untrained():
    positives = np.array([0, 0, 1, 2, 2, 3, 3, 4, 4])
    queries = np.array([0, 1, 2, 3, 0, 4, 4, 5, 6])  # query 0 stands in two rows, query 4 too
    domains = ["a"] * 7 + ["a", "b"]
    before = np.array(["train"] * 9)
    parts = hold_back_queries(queries, positives, domains, before, share=0.9, seed=0)
    moved = set(np.flatnonzero(parts != "train").tolist())
    # of passage 1 there is one row; rows 0, 4, 5, 6 share their question; of passage 4, asked about in two
    # domains, one row stays
    assert moved <= {1, 3, 7, 8}
    assert {1, 3} <= moved
    assert len(moved & {7, 8}) == 1


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_queries_out_of_range_is_refused(share):
    with pytest.raises(InputError, match=r"query_share must be >= 0 and < 1"):
        hold_back_queries(np.arange(3), np.arange(3), ["a"] * 3, np.array(["train"] * 3), share=share, seed=0)


def test_what_is_shared_with_training_is_counted_by_part():
    parts = np.array(["train", "train", "test", "test", "validation"])
    labels = np.array([1, 2, 1, 3, 2])
    assert shared_with_training(labels, parts, labels[:2]) == {"test": 1, "validation": 1}
    assert shared_with_training(labels, parts, np.array([], int)) == {"test": 0, "validation": 0}
