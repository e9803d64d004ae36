"""AdamW for what trains, with its learning rate as a number or, where steps are recorded, as a tensor."""

import torch
from torch import Tensor

from nic_ray.model.cut import Upper
from nic_ray.record import TrainingState
from nic_ray.train_config import TrainConfig
from nic_ray.training.gradients import trained_parameters


def make_optimizer(upper: Upper, config: TrainConfig, *, capturable: bool = False) -> torch.optim.AdamW:
    """Create AdamW for the parameters that train; biases and normalisation get no weight decay.

    Args:
        capturable: whether its steps may be recorded as CUDA graphs; its learning rates are then tensors.
    """
    trained = trained_parameters(upper)
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    if not capturable:
        return torch.optim.AdamW(groups, lr=config.peak_learning_rate, fused=True)
    for group in groups:  # a tensor of its own for each, whose value is what a replayed step reads
        group["lr"] = torch.tensor(config.peak_learning_rate, device=trained[0].device)
    return torch.optim.AdamW(groups, fused=True, capturable=True)


def set_rate(optimizer: torch.optim.AdamW, rate: float) -> None:
    """Set the learning rate of the next step, in all groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_optimizer_state(optimizer: torch.optim.AdamW, state: TrainingState) -> None:
    """Restore the moments of a training's state; what the optimizer is like, and where it computes, stays."""
    own = [(group["lr"], group["capturable"]) for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, (rate, capturable) in zip(optimizer.param_groups, own, strict=True):
        group["lr"], group["capturable"] = rate, capturable
