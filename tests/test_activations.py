"""Frozen activations against the whole model's own hidden states, and how texts are laid side by side."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nic_ray.model.activations import (
    CHUNK_TOKENS,
    Inputs,
    chunks,
    feed,
    frozen_inputs,
    padded_batch,
    run_blocks,
    token_inputs,
)
from nic_ray.model.base import load
from nic_ray.model.encoder import lower

TEXTS = ["my dial is hot", "x", "Replace the pumps rotor when it is leaking.", "stuck throttle " * 9]


def inputs_of(lengths: list[int], width: int = 0) -> Inputs:
    """Texts of these lengths whose values count up from 1, as ids or as rows of `width` equal numbers."""
    values = np.arange(1, sum(lengths) + 1, dtype=np.float32 if width else np.int32)
    rows = np.repeat(values[:, None], width, axis=1) if width else values
    return Inputs(rows, np.cumsum([0, *lengths]), depth=int(width > 0))


@pytest.mark.parametrize("model_type", ["bert", "mpnet", "xlm-roberta"])
def test_every_depth_holds_the_hidden_states_of_the_whole_model(tiny_model, model_type):
    encoder = load(str(tiny_model(model_type, 3)))
    tokens = token_inputs(encoder, TEXTS, 64)
    found = frozen_inputs(encoder, tokens, [0, 1, 2])
    for text, (start, end) in enumerate(itertools.pairwise(tokens.offsets)):
        ids = torch.from_numpy(tokens.values[start:end].astype(np.int64))[None]
        with torch.no_grad():
            states = encoder.transformer(ids, output_hidden_states=True).hidden_states
        for depth in (1, 2):
            own = found[depth].values[start:end]
            np.testing.assert_allclose(own, states[depth][0], atol=1e-5, err_msg=TEXTS[text])


@pytest.mark.parametrize("depths", [[2], [1, 2], [2, 1, 2], [0, 2]])
def test_a_depth_is_the_same_whichever_one_it_is_computed_from(tiny_model, depths):
    encoder = load(str(tiny_model("mpnet", 3)))
    tokens = token_inputs(encoder, TEXTS, 64)
    found = frozen_inputs(encoder, tokens, depths)
    direct = run_blocks(lower(encoder, 0, 2), tokens)
    assert list(found) == list(dict.fromkeys(depths))
    np.testing.assert_allclose(found[2].values, direct.values, atol=1e-5)
    assert found[2].values.dtype == np.float32
    assert np.array_equal(found[2].offsets, tokens.offsets)


def test_no_block_runs_twice_for_a_deeper_depth(tiny_model):
    encoder = load(str(tiny_model("bert", 3)))
    runs = []
    for block, layer in enumerate(encoder.transformer.encoder.layer):
        layer.intermediate.dense.register_forward_hook(lambda *_, block=block: runs.append(block))
    frozen_inputs(encoder, token_inputs(encoder, TEXTS, 64), [0, 1, 2])
    assert runs == [0, 1]


def test_depth_0_is_the_token_ids(tiny_model):
    encoder = load(str(tiny_model()))
    tokens = token_inputs(encoder, TEXTS, 16)
    assert frozen_inputs(encoder, tokens, [0]) == {0: tokens}
    assert tokens.lengths.max() == 16


def test_activations_do_not_depend_on_which_texts_run_together(tiny_model, monkeypatch):
    encoder = load(str(tiny_model()))
    tokens = token_inputs(encoder, TEXTS, 64)
    together = frozen_inputs(encoder, tokens, [1])[1]
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 1)
    np.testing.assert_allclose(frozen_inputs(encoder, tokens, [1])[1].values, together.values, atol=1e-5)


def test_bf16_activations_are_the_upper_half_of_a_float(tiny_model):
    encoder = load(str(tiny_model()))
    tokens = token_inputs(encoder, TEXTS, 64)
    exact = frozen_inputs(encoder, tokens, [1])[1]
    short = frozen_inputs(encoder, tokens, [1], bf16=True)[1]
    assert short.values.dtype == np.uint16
    read = feed(short, "cpu").values
    assert read.dtype == torch.bfloat16
    by_hand = (short.values.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(read.float().numpy(), by_hand)
    np.testing.assert_allclose(by_hand, exact.values, atol=0.05)


@pytest.mark.parametrize("width", [0, 2])
def test_a_batch_holds_each_text_up_to_its_mask(width):
    values, mask = padded_batch(feed(inputs_of([3, 1, 4, 2], width), "cpu"), np.array([3, 0, 1]))
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert mask.dtype == torch.int64
    own = values[..., 0] if width else values
    assert own[mask.bool()].tolist() == [9, 10, 1, 2, 3, 4]
    assert values.shape == ((3, 3, width) if width else (3, 3))
    assert values.dtype == (torch.float32 if width else torch.int64)


def test_padding_is_never_read_from_another_text():
    values, _ = padded_batch(feed(inputs_of([3, 1, 4, 2]), "cpu"), np.array([1, 3, 2]))
    assert values.tolist() == [[4, 4, 4, 4], [9, 10, 10, 10], [5, 6, 7, 8]]


def test_feeding_on_the_cpu_neither_copies_nor_minds_read_only_arrays():
    inputs = inputs_of([3, 1], width=2)
    for array in (inputs.values, inputs.offsets):
        array.setflags(write=False)
    torch.set_warn_always(True)  # otherwise it says once a process that an array is not writable
    try:
        source = feed(inputs, "cpu")
    finally:
        torch.set_warn_always(False)
    assert source.values.data_ptr() == inputs.values.ctypes.data
    assert source.lengths.tolist() == [3, 1]


@given(lengths=arrays(np.int64, st.integers(1, 40), elements=st.integers(1, 30)), data=st.data())
def test_chunks_hold_every_text_once_longest_first_within_the_budget(lengths, data):
    texts = np.array(data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True)), dtype=np.int64)
    tokens = data.draw(st.integers(1, 200))
    found = list(chunks(lengths, texts, tokens))
    everything = np.concatenate([np.empty(0, np.int64), *found])
    assert sorted(everything) == sorted(texts)
    assert (np.diff(lengths[everything]) <= 0).all()
    for chunk in found:
        assert len(chunk) == 1 or len(chunk) * lengths[chunk[0]] <= tokens


@given(lengths=arrays(np.int64, st.integers(1, 9), elements=st.integers(1, 30)), tokens=st.integers(1, 120))
def test_chunks_are_the_partition_with_the_least_padding_and_fewest_chunks(lengths, tokens):
    def cost(sizes: list[int]) -> float:  # in padded tokens
        parts = np.split(-np.sort(-lengths), np.cumsum(sizes)[:-1])
        if any(len(part) > 1 and len(part) * part[0] > tokens for part in parts):
            return np.inf
        return sum(len(part) * part[0] + tokens / 8 for part in parts)

    def compositions(total: int) -> Iterator[list[int]]:
        yield from ([first, *rest] for first in range(1, total + 1) for rest in compositions(total - first))
        if total == 0:
            yield []

    found = [len(chunk) for chunk in chunks(lengths, np.arange(len(lengths)), tokens)]
    assert cost(found) == pytest.approx(min(map(cost, compositions(len(lengths)))))


def test_activations_are_the_same_where_memory_holds_smaller_chunks_only(tiny_model, monkeypatch):
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 2**16)
    encoder = load(str(tiny_model()))
    tokens, blocks = token_inputs(encoder, TEXTS * 20, 64), lower(encoder, 0, 1)
    expected = run_blocks(blocks, tokens)
    met = []

    def look(module, given) -> None:
        met.append(given[1].numel())
        if met[-1] > 600:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    blocks.register_forward_pre_hook(look)
    found = run_blocks(blocks, tokens)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
    assert max(met) > 600
