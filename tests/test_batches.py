"""Laws that the batches of an epoch obey, for any rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nic_ray.batches import epoch_batches

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


@given(positives, st.integers(2, 4), st.integers(2, 6), seeds)
def test_a_passage_meets_its_copy_only_when_no_other_is_left(positive, together, passages, seed):
    batches = draw(positive, (together, together * passages), seed)
    for place, batch in enumerate(batches):
        if np.unique(positive[batch], return_counts=True)[1].max() > together:
            later = positive[np.concatenate([np.empty(0, np.int64), *batches[place + 1 :]])]
            assert set(later.tolist()) <= set(positive[batch].tolist())


def test_rows_of_a_passage_come_together_in_groups_as_large_as_allowed():
    positive = np.repeat(np.arange(6), [4, 4, 4, 4, 4, 5])
    found = [groups(batch, positive) for batch in draw(positive, (4, 8))]
    assert sorted(map(len, found)) == [1, 2, 2, 2]  # seven groups: the fifth row of passage 5 is one
    assert sorted(passage for batch in found for passage in batch) == [0, 1, 2, 3, 4, 5, 5]


def test_more_queries_a_passage_make_fewer_passages_a_batch_of_equal_size():
    positive = np.repeat(np.arange(32), 8)
    for together in (1, 2, 4):
        batches = draw(positive, (together, 32))
        assert {len(batch) for batch in batches} == {32}
        if together > 1:
            assert {len(set(positive[batch])) for batch in batches} == {32 // together}
