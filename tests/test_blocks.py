"""Blocks in plain PyTorch against those of Transformers: values, gradients, dropout, and what they are not made of."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from nic_ray.model import base
from nic_ray.model.base import load
from nic_ray.model.blocks import Blocks
from nic_ray.model.cut import BlockOutput, set_dropout
from nic_ray.model.encoder import upper

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
    # torch.save of the whole module, as Ray's pickle does
    torch.save(upper(load(str(tiny_model_folder)), 1), tmp_path / "upper.pt")
    script = (
        "import sys, torch, nic_ray.training.loop, nic_ray.search.worker\n"
        "import nic_ray.model.evaluation, nic_ray.model.cache\n"
        f"part = torch.load({str(tmp_path / 'upper.pt')!r}, weights_only=False)\n"
        "part(torch.zeros(1, 3, 32), torch.ones(1, 3).long())\n"
        "heavy = {'transformers', 'sentence_transformers', 'sklearn', 'datasets', 'scipy', 'optuna'}\n"
        "assert not heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
