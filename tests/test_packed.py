"""Texts without padding give what padded ones give: values, gradients, pooling, and a training on a declared GPU."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from nic_ray.model import packed as packed_room
from nic_ray.model.activations import (
    Inputs,
    chunks,
    feed,
    frozen_inputs,
    packed_batch,
    padded_batch,
    run_blocks,
    token_inputs,
    tokens_in,
)
from nic_ray.model.base import load
from nic_ray.model.cut import set_dropout
from nic_ray.model.encoder import lower, upper
from nic_ray.model.packed import Packed
from tests.declared_device import declared

TEXTS = ["my dial is hot", "x", "Replace the pumps rotor when it is leaking.", "stuck throttle " * 9, "hot dial", "x"]
SOME = np.array([3, 0, 1, 4])


def both(encoder, depth: int, *, from_ids: bool = False, leading: int = 0):
    """A part in training mode without dropout, and its inputs with and without padding."""
    tokens = token_inputs(encoder, TEXTS, 64)
    inputs = tokens if from_ids else frozen_inputs(encoder, tokens, [depth])[depth]
    if leading:
        inputs = Inputs(inputs.values, inputs.offsets, inputs.depth, np.full(len(TEXTS), leading))
    part = upper(encoder, depth, from_ids=from_ids).train()
    set_dropout(part, attention=0.0, hidden=0.0)
    source = feed(inputs, "cpu")
    return part, padded_batch(source, SOME), packed_batch(source, SOME)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize(("depth", "from_ids"), [(0, True), (1, False), (2, False), (2, True)])
@pytest.mark.parametrize("leading", [0, 2])
def test_embeddings_and_gradients_are_those_of_padded_texts(tiny_model, kind, depth, from_ids, leading):
    part, padded, packed = both(load(str(tiny_model(kind, 3))), depth, from_ids=from_ids, leading=leading)
    found = []
    for given_batch in (padded, packed):
        part.zero_grad()
        embeddings = part(*given_batch)
        (embeddings * torch.arange(embeddings.numel()).view_as(embeddings)).sum().backward()
        gradients = {name: value.grad for name, value in part.named_parameters() if value.grad is not None}
        found.append((embeddings.detach(), gradients))
    (expected, whole), (embeddings, own) = found
    torch.testing.assert_close(embeddings, expected, atol=1e-6, rtol=1e-5)
    assert own.keys() == whole.keys() == part.trained_state().keys()
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-4 * max(1, gradient.abs().max().item()), rtol=1e-4)


def test_packed_texts_embed_as_sentence_transformers_embeds_them(tiny_model):
    encoder = load(str(tiny_model("bert", 3)))
    part, _, packed = both(encoder, 0, from_ids=True)
    expected = encoder.model.encode([TEXTS[text] for text in SOME], convert_to_tensor=True)
    torch.testing.assert_close(part(*packed).detach(), expected, atol=1e-5, rtol=0)


def test_a_batch_knows_where_each_text_lies():
    inputs = Inputs(np.arange(1, 11, dtype=np.int32), np.array([0, 3, 4, 8, 10]), 0, np.array([1, 2, 0, 0]))
    values, layout = packed_batch(feed(inputs, "cpu"), np.array([3, 0, 1]))
    assert values.tolist() == [9, 10, 1, 2, 3, 4]
    assert values.dtype == torch.int64
    assert (layout.text.tolist(), layout.place.tolist()) == ([0, 0, 1, 1, 1, 2], [0, 1, 0, 1, 2, 0])
    assert (layout.bounds.tolist(), layout.bounds.dtype) == ([0, 2, 5, 6], torch.int32)
    assert (layout.lengths, layout.longest) == ((2, 3, 1), 3)
    assert layout.pooled is not None
    assert layout.pooled.tolist() == [1, 1, 0, 1, 1, 0]  # of the last text nothing is pooled


@given(lengths=arrays(np.int64, st.integers(1, 40), elements=st.integers(1, 30)), data=st.data())
def test_chunks_without_padding_hold_every_text_once_and_could_hold_no_further_one(lengths, data):
    texts = np.array(data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True)), dtype=np.int64)
    tokens = data.draw(st.integers(1, 200))
    found = list(chunks(lengths, texts, tokens, packed=True))
    everything = np.concatenate([np.empty(0, np.int64), *found])
    assert sorted(everything) == sorted(texts)
    assert (np.diff(lengths[everything]) <= 0).all()
    for chunk, following in itertools.zip_longest(found, found[1:]):
        held = tokens_in(lengths, chunk, packed=True)
        assert held == lengths[chunk].sum()
        assert len(chunk) == 1 or held <= tokens
        assert following is None or held + lengths[following[0]] > tokens


@pytest.mark.parametrize(
    ("kind", "changes", "takes"),
    [
        ("bert", {}, True),
        ("bert", {"attention": 0.1}, False),  # the kernel knows no dropout
        ("mpnet", {}, False),  # its blocks add a bias of their own to the attention
        ("bert", {"head": 12}, False),
        ("bert", {"head": 264}, False),
    ],
)
def test_packed_texts_are_taken_where_the_kernel_computes_what_the_blocks_compute(tiny_model, kind, changes, takes):
    part = upper(load(str(tiny_model(kind, 3))), 1).train()
    set_dropout(part, attention=changes.get("attention", 0.0), hidden=0.1)
    if "head" in changes:
        part.transformer.encoder["layer"][0].attention.self.head_width = changes["head"]
    assert part.takes_packed is takes
    if "head" not in changes and kind == "bert":
        assert part.eval().takes_packed


def test_packed_texts_of_other_blocks_are_refused(tiny_model):
    encoder = load(str(tiny_model("mpnet", 3)))
    source = feed(token_inputs(encoder, TEXTS, 64), "cpu")
    for part in (upper(encoder, 0), lower(encoder, 0, 1)):
        with pytest.raises(TypeError, match="takes padded texts"):
            part(*packed_batch(source, SOME))


def test_another_pooling_is_given_padded_texts(family_model):
    part = upper(load(str(family_model("ELECTRA"))), 1)  # which takes the first token for the text
    assert not part.takes_packed


def test_frozen_blocks_on_a_gpu_in_16_bits_run_without_padding(tiny_model, monkeypatch):
    encoder = load(str(tiny_model("bert", 3)))
    tokens = token_inputs(encoder, TEXTS, 64)
    met: list[bool] = []
    with declared():
        blocks = lower(encoder, 0, 2)
        blocks.register_forward_pre_hook(lambda _, inputs: met.append(isinstance(inputs[1], Packed)))
        without = run_blocks(blocks, tokens, device="cuda", bf16=True)
        monkeypatch.setattr("nic_ray.hardware.attends_packed", lambda _: False)
        padded = run_blocks(blocks, tokens, device="cuda", bf16=True)
    assert met == [True, False]
    found, expected = (feed(each, "cpu").values.float() for each in (without, padded))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)


def test_the_kernel_takes_what_it_is_given_here():
    query = torch.zeros(7, 4, 8, dtype=torch.bfloat16, device="meta")
    numbers = torch.zeros(7, dtype=torch.int64, device="meta")
    layout = Packed(numbers, numbers, torch.zeros(3, dtype=torch.int32, device="meta"), (3, 4), 4)
    assert packed_room._kernel(query, query, query, layout).shape == (7, 4, 8)


@pytest.mark.gpu
def test_the_kernel_gives_what_attention_text_by_text_gives():
    generator = torch.Generator().manual_seed(0)
    lengths = (1, 17, 3, 64, 250)
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    layout = Packed(bounds, bounds, bounds.cuda(), lengths, max(lengths))
    heads = [torch.randn(sum(lengths), 4, 32, generator=generator).bfloat16().cuda() for _ in range(3)]
    weights = torch.randn(heads[0].shape, generator=generator).bfloat16().cuda()
    found: list[list[Tensor]] = []
    for way in (packed_room._kernel, packed_room.text_by_text):
        own = [each.clone().requires_grad_() for each in heads]
        result = way(*own, layout)
        (result * weights).sum().backward()
        found.append([result, *(each.grad for each in own)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
