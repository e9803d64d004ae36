"""Blocks in plain PyTorch against those of Transformers: values, gradients, dropout, and what they are not made of."""

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from nic_ray.model import base
from nic_ray.model.activations import Inputs, feed, packed_batch
from nic_ray.model.base import load
from nic_ray.model.blocks import Blocks
from nic_ray.model.cut import BlockOutput, plain_blocks, set_dropout
from nic_ray.model.encoder import upper
from nic_ray.train_config import TrainConfig
from nic_ray.training.optimizer import make_optimizer

MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 40,
}


def model_of(kind: str) -> nn.Module:
    """A model of Transformers with random weights and its own, plain attention."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **SIZES, initializer_range=0.3, pad_token_id=1)
        return AutoModel.from_config(config, attn_implementation="eager").eval()


def given() -> Tensor:
    return torch.randn(*MASK.shape, 32, generator=torch.Generator().manual_seed(1))


def run_own(model: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
    """The model's own blocks, one after the other, under the mask that its documentation describes."""
    bias = hidden.new_zeros(mask.shape).masked_fill(mask == 0, -1e30)[:, None, None, :]
    for layer in model.encoder.layer:
        found = layer(hidden, bias)
        hidden = found[0] if isinstance(found, tuple) else found
    return hidden


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "roberta"])
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "whole"])
def test_values_and_gradients_are_those_of_transformers(kind, mask):
    model = model_of(kind).double()
    copied = copy.deepcopy(model)
    blocks = Blocks(copied.encoder.layer, 4)
    hidden = given().double()
    weights = torch.randn(*MASK.shape, 32, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    expected, found = run_own(model, hidden, mask), blocks(hidden, mask)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    own = dict(model.encoder.named_parameters())
    mine = dict(blocks.encoder.named_parameters())
    assert own.keys() == mine.keys()
    for name, value in own.items():
        torch.testing.assert_close(mine[name].grad, value.grad)


IDS = torch.tensor([[5, 9, 1, 7, 20, 39, 2], [6, 8, 30, 30, 30, 30, 30], [7, 7, 7, 7, 7, 7, 7]])
"""Padded as here, by a text's last token; in the first one the padding's own id, 1, stands as a word of the text."""


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "roberta"])
def test_from_token_ids_values_and_gradients_are_those_of_transformers(kind):
    model = model_of(kind).double()
    plain = plain_blocks(copy.deepcopy(model), 0)
    weights = torch.randn(*MASK.shape, 32, generator=torch.Generator().manual_seed(2)) * MASK[..., None]
    expected, found = model(input_ids=IDS, attention_mask=MASK).last_hidden_state, plain(IDS, MASK)
    torch.testing.assert_close(found[MASK.bool()], expected[MASK.bool()])
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    own = {name: value for name, value in model.named_parameters() if not name.startswith("pooler")}
    mine = dict(plain.named_parameters())
    assert list(own) == list(mine)  # in one order, since that is how an optimizer's state is read again
    for name, value in own.items():
        torch.testing.assert_close(mine[name].grad, value.grad)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "roberta"])
def test_packed_token_ids_get_the_positions_that_they_have_in_transformers(kind):
    model = model_of(kind)
    lengths = MASK.sum(1)
    source = feed(Inputs(IDS[MASK.bool()].int().numpy(), np.cumsum([0, *lengths.tolist()]), depth=0), "cpu")
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=MASK).last_hidden_state[MASK.bool()]
        found = plain_blocks(model, 0)(*packed_batch(source, np.arange(3)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_the_models_own_blocks_goes_on_in_plain_ones(tiny_model, monkeypatch):
    encoder = load(str(tiny_model("bert", 3)))
    states = []
    for plain in (False, True, True):
        part = upper(dataclasses.replace(encoder, plain_embeddings=plain), 0).train()
        assert isinstance(part.transformer, Blocks) is plain
        set_dropout(part, attention=0.0, hidden=0.0)
        optimizer = make_optimizer(part, TrainConfig(learning_rate=1e-3))
        if states and len(states) == 2:  # what the model's own have learned, for the plain ones
            part.load_trained_state(states[0][0])
            optimizer.load_state_dict(states[0][1])
        for _ in range(2):
            part(IDS, MASK).square()[:, 0].sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        states.append((copy.deepcopy(part.trained_state()), copy.deepcopy(optimizer.state_dict())))
    own, plain, further = (weights for weights, _ in states)
    assert list(own) == list(plain)
    for name, value in own.items():
        torch.testing.assert_close(plain[name], value, atol=2e-4, rtol=0)  # a tenth of what two steps move
    assert any((further[name] - value).abs().max() > 1e-3 for name, value in own.items())


@pytest.mark.parametrize("fault", ["one more part", "positions from elsewhere", "other numbers"])
def test_a_model_whose_embeddings_they_do_not_agree_with_keeps_its_own(fault):
    model = model_of("bert")
    assert base._plain_embeddings_agree(model)
    if fault == "one more part":
        model.embeddings.further = nn.Linear(32, 32)  # whose use might not show in the numbers yet
    if fault == "positions from elsewhere":
        model.embeddings.position_embeddings.padding_idx = 1
    if fault == "other numbers":
        model.embeddings.register_forward_hook(lambda _module, _inputs, output: output * 2)
    assert not base._plain_embeddings_agree(model)


@pytest.mark.gpu
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "whole"])
def test_on_a_gpu_they_give_what_they_give_on_a_cpu(mask):
    blocks = Blocks(model_of("bert").encoder.layer, 4)
    with torch.no_grad():
        expected = blocks(given(), mask)
        found = blocks.cuda()(given().cuda(), mask.cuda()).cpu()
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)


def test_in_bfloat16_they_stay_as_near_to_fp32_as_those_of_transformers():
    model = model_of("bert")
    blocks = Blocks(model.encoder.layer, 4)
    with torch.no_grad():
        exact = run_own(model, given(), MASK)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, ours = run_own(model, given(), MASK), blocks(given(), MASK)
    distance = [(found.float() - exact)[MASK.bool()].square().mean().sqrt().item() for found in (theirs, ours)]
    assert 0 < distance[1] < 1.5 * distance[0]


def test_what_stands_in_the_padding_changes_nothing():
    blocks = Blocks(model_of("bert").encoder.layer, 4)
    other = given().masked_fill(MASK[..., None] == 0, 7.0)
    assert torch.equal(blocks(given(), MASK)[MASK.bool()], blocks(other, MASK)[MASK.bool()])


@pytest.mark.parametrize(
    ("attention", "hidden", "bf16", "implementation"),
    [(0.0, 0.3, False, "eager"), (0.0, 0.3, True, "eager"), (0.3, 0.2, True, "eager"), (0.3, 0.2, False, "sdpa")],
)
def test_the_same_draws_drop_what_they_drop_in_transformers(attention, hidden, bf16, implementation):
    model = model_of("bert")
    model.set_attn_implementation(implementation)
    set_dropout(model, attention=attention, hidden=hidden)
    model.train()
    blocks = Blocks(copy.deepcopy(model).encoder.layer, 4)
    found = []
    for run in (lambda: run_own(model, given(), MASK), lambda: blocks(given(), MASK)):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found.append(run()[MASK.bool()])
    # of values around 1, which other draws, or the same at another place, set apart by far more
    assert (found[1].float() - found[0].float()).square().mean().sqrt() < (0.05 if bf16 else 1e-5)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("attention", "hidden"), [(0.5, 0.0), (0.0, 0.5)])
def test_dropout_runs_where_it_is_set_and_in_training_alone(attention, hidden, bf16):
    blocks = Blocks(model_of("bert").encoder.layer, 4)
    set_dropout(blocks, attention=attention, hidden=hidden)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        assert torch.equal(blocks.eval()(given(), MASK), blocks(given(), MASK))
        assert not torch.equal(blocks.train()(given(), MASK), blocks(given(), MASK))
        set_dropout(blocks, attention=0.0, hidden=0.0)
        assert torch.equal(blocks(given(), MASK), blocks.eval()(given(), MASK))


@pytest.mark.parametrize(("kind", "plain"), [("bert", True), ("xlm-roberta", True), ("mpnet", False)])
def test_what_trains_is_made_of_them_where_they_agree(tiny_model, kind, plain):
    encoder = load(str(tiny_model(kind, 3)))
    assert encoder.plain is plain
    own = {name for name, value in encoder.transformer.named_parameters() if name.startswith("encoder.layer.2.")}
    for from_ids in (False, True):
        part = upper(encoder, 2, from_ids=from_ids)
        assert isinstance(part.transformer, Blocks) is plain
        # what trains has the same names, whether or not others run below it
        first = ("transformer.encoder.layer.0.", "transformer.encoder.layer.2.")
        names = {name.replace(*first).replace("transformer.model.", "transformer.") for name in part.trained_state()}
        assert names == {f"transformer.{name}" for name in own}


@pytest.mark.parametrize("fault", ["activation", "more in a block", "one more dropout", "other numbers", "no heads"])
def test_a_model_that_they_do_not_agree_with_keeps_its_own(monkeypatch, fault):
    model = model_of("bert")
    if fault == "activation":
        model.config.hidden_act = "gelu_new"  # whose values are so near that weights could hide them
    if fault == "more in a block":
        model.encoder.layer[1].attention.self.distance = nn.Parameter(torch.zeros(3))
    if fault == "one more dropout":
        model.encoder.layer[1].intermediate.dropout = nn.Dropout(0.1)
    if fault == "no heads":
        del model.config.num_attention_heads
    if fault == "other numbers":
        monkeypatch.setattr("nic_ray.model.blocks.F.gelu", torch.relu)
    assert not base._plain_blocks_agree(model, BlockOutput(0, shares=False))
    monkeypatch.undo()
    assert base._plain_blocks_agree(model_of("bert"), BlockOutput(0, shares=False))


def test_a_process_that_is_handed_what_trains_imports_neither_transformers_nor_sentence_transformers(
    tiny_model_folder, tmp_path
):
    # torch.save of whole modules, as Ray's pickle does
    torch.save([upper(load(str(tiny_model_folder)), depth) for depth in (0, 1)], tmp_path / "upper.pt")
    script = (
        "import sys, torch, nic_ray.training.loop, nic_ray.search.worker\n"
        "import nic_ray.model.evaluation, nic_ray.model.cache\n"
        f"from_ids, part = torch.load({str(tmp_path / 'upper.pt')!r}, weights_only=False)\n"
        "from_ids(torch.zeros(1, 3).long(), torch.ones(1, 3).long())\n"
        "part(torch.zeros(1, 3, 32), torch.ones(1, 3).long())\n"
        "heavy = {'transformers', 'sentence_transformers', 'sklearn', 'datasets', 'scipy', 'optuna'}\n"
        "assert not heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
