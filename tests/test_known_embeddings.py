"""Embeddings that are kept: what is known is not computed again, and what is not is."""

import numpy as np
import torch

from nic_ray.model.activations import Inputs
from nic_ray.model.known_embeddings import KnownEmbeddings


def inputs(depth=1):
    return Inputs(np.zeros((12, 2), np.float32), np.arange(0, 13, 3), depth)


def weights(value):
    return {"a": torch.full((2, 2), value), "b": torch.tensor(1.0)}


def counting(asked, factor=1.0):
    """Embeds a text into its number, times a factor, and notes what it is asked for."""

    def compute(texts):
        asked.append(texts.tolist())
        return np.stack([texts * factor, texts * factor], axis=1).astype(np.float32)

    return compute


def test_only_new_texts_are_computed_and_all_come_in_the_order_that_is_asked_for():
    known, given, asked = KnownEmbeddings(), inputs(), []
    first = known.of(given, weights(1.0), np.array([3, 1]), counting(asked))
    again = known.of(given, weights(1.0), np.array([2, 3, 0, 1, 3]), counting(asked))
    assert asked == [[1, 3], [0, 2]]
    assert first[:, 0].tolist() == [3, 1]
    assert again[:, 0].tolist() == [2, 3, 0, 1, 3]
    known.of(given, weights(1.0), np.array([0, 1, 2, 3]), counting(asked))
    assert len(asked) == 2


def test_models_are_known_by_their_values_and_texts_by_their_inputs():
    known, given, asked = KnownEmbeddings(), inputs(), []
    texts = np.array([0, 1])
    known.of(given, weights(1.0), texts, counting(asked))
    assert known.of(given, weights(2.0), texts, counting(asked, factor=2.0))[:, 0].tolist() == [0, 2]
    assert known.of(given, None, texts, counting(asked, factor=3.0))[:, 0].tolist() == [0, 3]
    assert known.of(inputs(), weights(1.0), texts, counting(asked, factor=4.0))[:, 0].tolist() == [0, 4]
    assert known.of(given, weights(1.0), texts, counting(asked))[:, 0].tolist() == [0, 1]
    assert len(asked) == 4


def test_another_depth_of_the_same_texts_is_another_model():
    known, asked = KnownEmbeddings(), []
    shallow = inputs()
    deep = Inputs(shallow.values, shallow.offsets, 2)
    for given in (shallow, deep, shallow):
        known.of(given, None, np.array([0]), counting(asked))
    assert asked == [[0], [0]]


def test_a_change_of_one_weight_is_seen():
    known, given, asked = KnownEmbeddings(), inputs(), []
    changed = weights(1.0)
    known.of(given, changed, np.array([0]), counting(asked))
    changed["a"][1, 1] += 2**-20
    known.of(given, changed, np.array([0]), counting(asked))
    assert len(asked) == 2


def test_what_was_asked_longest_ago_gives_way_where_memory_is_short():
    known, given, asked = KnownEmbeddings(most_bytes=16), inputs(), []  # two texts
    for value in (1.0, 2.0, 1.0, 3.0):
        known.of(given, weights(value), np.array([0]), counting(asked))
    assert len(asked) == 3
    known.of(given, weights(1.0), np.array([0]), counting(asked))
    assert len(asked) == 3
    known.of(given, weights(2.0), np.array([0]), counting(asked))
    assert len(asked) == 4
    large = known.of(given, weights(4.0), np.array([0, 1, 2]), counting(asked))
    assert large[:, 0].tolist() == [0, 1, 2]  # too large to be kept, and given all the same
