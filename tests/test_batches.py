"""Laws that the batches of an epoch obey, for any rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nic_ray.dataset.pairs import Pair, index_pairs, relevant_passages
from nic_ray.training.batches import _assign_groups, _passage_groups, epoch_batches, make_batch

positives = arrays(np.int64, st.integers(1, 80), elements=st.integers(0, 12))
seeds = st.integers(0, 2**32)
shapes = st.tuples(st.integers(1, 4), st.integers(2, 6)).map(lambda shape: (shape[0], shape[0] * shape[1]))


def draw(positive: NDArray[np.int64], shape: tuple[int, int], seed: int = 0, epoch: int = 0) -> list[NDArray[np.int64]]:
    """Batches of `shape`: queries a passage, rows a batch."""
    return epoch_batches(positive, batch_size=shape[1], queries_per_passage=shape[0], seed=seed, epoch=epoch)


def groups(batch: NDArray[np.int64], positive: NDArray[np.int64]) -> list[int]:
    """The passage of each run of rows in a batch that share one."""
    passages = positive[batch]
    return passages[np.flatnonzero(np.diff(passages, prepend=-1))].tolist()


@given(positives, shapes, seeds)
def test_every_row_is_in_exactly_one_batch(positive, shape, seed):
    assert sorted(np.concatenate(draw(positive, shape, seed))) == list(range(len(positive)))


@given(positives, shapes, seeds, st.integers(0, 50))
def test_the_number_of_batches_depends_on_neither_seed_nor_epoch(positive, shape, seed, epoch):
    assert len(draw(positive, shape, seed, epoch)) == len(draw(positive, shape))


@given(positives, shapes, seeds)
def test_no_batch_exceeds_its_size_and_none_is_empty(positive, shape, seed):
    assert all(1 <= len(batch) <= shape[1] for batch in draw(positive, shape, seed))


@given(positives, st.integers(2, 20), seeds)
def test_random_batches_are_as_few_and_as_even_as_can_be(positive, size, seed):
    lengths = [len(batch) for batch in draw(positive, (1, size), seed)]
    assert len(lengths) == -(-len(positive) // size)
    assert max(lengths) - min(lengths) <= 1


@given(positives, shapes, seeds, st.integers(0, 50))
def test_the_same_seed_and_epoch_give_the_same_batches(positive, shape, seed, epoch):
    first, second = draw(positive, shape, seed, epoch), draw(positive, shape, seed, epoch)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (4, 8)])
@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_gives_other_batches(shape, other):
    positive = np.repeat(np.arange(20), 5)
    first, second = draw(positive, shape), draw(positive, shape, **other)
    assert [set(batch.tolist()) for batch in first] != [set(batch.tolist()) for batch in second]


@given(st.integers(2, 15), st.integers(1, 9), st.integers(2, 4), st.data(), seeds)
def test_passages_of_equal_rows_never_meet_a_second_copy(passages, rows, together, data, seed):
    size = together * data.draw(st.integers(2, passages))
    positive = np.random.default_rng(seed).permutation(np.repeat(np.arange(passages), rows))
    for batch in draw(positive, (together, size), seed):
        copies = np.unique(positive[batch], return_counts=True)[1]
        assert copies.max() <= together
        met = groups(batch, positive)
        assert len(met) == len(set(met))


def runs(batches: list[NDArray[np.int64]], positive: NDArray[np.int64]) -> dict[int, list[int]]:
    """Passage -> for each batch that holds it, how many of its rows; groups that meet in a batch are one run."""
    found: dict[int, list[int]] = {}
    for batch in batches:
        for passage, rows in zip(*np.unique(positive[batch], return_counts=True), strict=True):
            found.setdefault(int(passage), []).append(int(rows))
    return found


# One passage, or a few, have most of the rows; many have a single one.
skewed = st.lists(st.one_of(st.just(1), st.integers(1, 12), st.integers(50, 300)), min_size=1, max_size=40)


def shuffled(counts: list[int], seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@given(skewed, shapes, seeds)
def test_batches_differ_in_rows_by_no_more_than_the_largest_group(counts, shape, seed):
    positive, together = shuffled(counts, seed), shape[0]
    lengths = [len(batch) for batch in draw(positive, shape, seed)]
    largest = max(-(-rows // -(-rows // together)) for rows in counts)
    assert max(lengths) - min(lengths) <= largest


@given(skewed, st.integers(2, 4), st.integers(2, 40), seeds)
def test_there_are_as_many_batches_as_rows_fill_but_for_room_for_one_group_in_each(counts, together, passages, seed):
    positive, size = shuffled(counts, seed), together * passages
    batches = draw(positive, (together, size), seed)
    assert -(-len(positive) // size) <= len(batches) <= -(-len(positive) // (size - together))


@given(skewed, st.integers(2, 4), st.integers(2, 6), seeds)
def test_batches_hold_as_many_different_passages_as_they_can(counts, together, passages, seed):
    # no way of dealing whole groups lets a passage stand in more batches than it has groups, or than there are
    positive = shuffled(counts, seed)
    batches = draw(positive, (together, together * passages), seed)
    found = runs(batches, positive)
    for passage, rows in enumerate(counts):
        assert len(found[passage]) == min(-(-rows // together), len(batches))


@given(skewed, st.integers(2, 4), st.integers(2, 6), seeds)
def test_the_groups_of_a_passage_are_even_and_spread_evenly(counts, together, passages, seed):
    positive = shuffled(counts, seed)
    batches = draw(positive, (together, together * passages), seed)
    for passage, own in runs(batches, positive).items():
        number = -(-counts[passage] // together)
        if number <= len(batches):  # each run is one group
            assert max(own) - min(own) <= 1
        else:
            assert max(own) - min(own) <= together


def test_nine_questions_come_in_threes_and_not_as_four_four_and_one():
    positive = np.repeat(np.arange(40), 9)
    batches = draw(positive, (4, 32))
    assert {rows for own in runs(batches, positive).values() for rows in own} == {3}
    assert len(batches) == 12  # 360 rows; ten groups of three fill 30 of 32 places
    assert {len(batch) for batch in batches} == {30}


def test_a_passage_of_hundreds_of_questions_is_spread_over_the_epoch():
    positive = np.repeat(np.arange(41), [300, *[5] * 40])
    batches = draw(positive, (4, 32))
    assert min(len(set(positive[batch].tolist())) for batch in batches) >= 4
    assert max(np.count_nonzero(positive[batch] == 0) for batch in batches) <= 20


def test_small_batches_do_not_gather_at_an_end_of_the_epoch():
    # 12 groups of 4 and 5 of 3 in 8 batches: one batch of 9 or fewer rows must be somewhere
    positive = np.repeat(np.arange(17), [4] * 12 + [3] * 5)
    places = [int(np.argmin([len(batch) for batch in draw(positive, (4, 9), seed)])) for seed in range(60)]
    assert {0, 1, 2, 3, 4, 5, 6, 7} <= set(places)


def test_more_queries_a_passage_make_fewer_passages_a_batch_of_equal_size():
    positive = np.repeat(np.arange(32), 8)
    for together in (1, 2, 4):
        batches = draw(positive, (together, 32))
        assert {len(batch) for batch in batches} == {32}
        if together > 1:
            assert {len(set(positive[batch])) for batch in batches} == {32 // together}


SECTION = "Fit the cover and tighten its six bolts crosswise with a torque wrench to {} Nm, then fill in the oil again."
PASSAGES = [SECTION.format(torque) for torque in range(40, 90, 10)] + [f"drain the tank {n} times" for n in range(6)]
texts = st.sampled_from(PASSAGES)
asked = st.builds(
    lambda query, positive, negatives: Pair(f"q{query}", positive, "d", tuple(negatives)),
    st.integers(0, 5), texts, st.lists(texts, max_size=2),
)  # fmt: skip


@given(st.lists(asked, min_size=1, max_size=30), st.data())
def test_a_batch_masks_what_answers_a_query_or_is_nearly_such_an_answer(pairs, data):
    collection = index_pairs([pair for pair in pairs if pair.positive not in pair.negatives] or [pairs[0]])
    rows = data.draw(st.lists(st.sampled_from(range(len(collection.query))), min_size=1, max_size=12))
    batch = make_batch(collection, relevant_passages(collection), np.array(rows), 2)
    passages = batch.texts[batch.passages].tolist()
    near = collection.near_group
    for row, number in enumerate(rows):
        answers = {positive for query, positive in zip(collection.query, collection.positive, strict=True)
                   if query == collection.query[number]}  # fmt: skip
        known = {near[answer] for answer in answers}
        expected = [near[each] in known and each != collection.positive[number] for each in passages]
        assert batch.masked[row].tolist() == expected
        assert passages[batch.positive[row]] == collection.positive[number]
        assert batch.texts[batch.queries[row]] == collection.query[number]


def dealt_until_none_is_too_large(positive, shape, seed):
    """The batches of `epoch_batches` by dealing all rows again with one batch more, until all are small enough."""
    generator = np.random.default_rng((seed, 0))
    passages = _passage_groups(positive, shape[0], generator)
    count = -(-len(positive) // shape[1])
    while max(map(len, batches := _assign_groups(passages, count, generator))) > shape[1]:
        count += 1
    return [batches[place].tolist() for place in generator.permutation(count)]


@given(skewed, st.integers(2, 4), st.integers(2, 40), seeds)
def test_the_number_of_batches_is_found_without_dealing_rows_and_is_the_one_that_dealing_finds(
    counts, together, passages, seed
):
    positive, shape = shuffled(counts, seed), (together, together * passages)
    assert [batch.tolist() for batch in draw(positive, shape, seed)] == dealt_until_none_is_too_large(
        positive, shape, seed
    )


def test_an_epoch_of_many_rows_is_dealt_once(monkeypatch):
    deals = []

    def deal(*given):
        deals.append(given)
        return _assign_groups(*given)

    monkeypatch.setattr("nic_ray.training.batches._assign_groups", deal)
    positive = np.repeat(np.arange(2000), 7)
    drawn = draw(positive, (4, 32))
    assert len(drawn) > -(-len(positive) // 32) + 10  # with so many more batches than rows would fill
    assert len(deals) == 1
