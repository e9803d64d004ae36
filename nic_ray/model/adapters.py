"""Low-rank adapters (LoRA) on the linear layers that train, by the package peft, and their merging into the weights."""

import importlib.util

import torch
from torch import Tensor, nn

from nic_ray.errors import InputError, RunError
from nic_ray.model.cut import Upper


def refuse_without_peft() -> None:
    """Refuse adapters where peft, which they need, is not installed.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError(
            "train.method: lora needs the package peft; install it with: pip install -c constraints.txt -e '.[lora]'"
        )


def add_adapters(upper: Upper, *, rank: int, alpha: float, seed: int) -> None:
    """Put an adapter on each linear layer of the transformer that trains, in place; nothing else of it trains then.

    The embeddings stay as they were, since the second matrix of an adapter begins as zeros.

    Args:
        rank: columns of an adapter's first matrix and rows of its second one.
        alpha: the product of both matrices is multiplied by alpha / rank.
        seed: seed of the first matrices.

    Raises:
        RunError: no linear layer trains.

    Source: Hu et al. 2021, arXiv:2106.09685.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and seldom needed

    layers = [
        name
        for name, module in upper.transformer.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    ]
    if not layers:
        raise RunError("train.method: lora finds no linear layer among the blocks that train; set it to blocks")
    upper.adapted = tuple(upper.trained_state())
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=layers)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, upper.transformer)


def weights_of(upper: Upper) -> dict[str, Tensor]:
    """Return the weights above a cut by the names of `Upper.trained_state` without adapters, with adapters merged.

    Weights that no adapter changes are live tensors, not copies.
    """
    if not upper.adapted:
        return upper.trained_state()
    return {name: _merged(upper, name) for name in upper.adapted}


def _merged(upper: Upper, name: str) -> Tensor:
    path, _, own = name.rpartition(".")
    layer = upper.get_submodule(path)
    if not hasattr(layer, "base_layer"):  # no adapter is on it
        return getattr(layer, own).detach()  # type: ignore[no-any-return]
    value: Tensor = getattr(layer.base_layer, own).detach()
    return value + layer.get_delta_weight("default").detach() if own == "weight" else value  # type: ignore[operator]
