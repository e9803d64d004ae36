"""When a training evaluates and logs, and how its learning rate rises and falls."""

import math
from dataclasses import dataclass

from nic_ray.train_config import Schedule

FLOOR_OF_A_CYCLE = 0.05
LOGS_PER_EPOCH = 20


@dataclass(frozen=True)
class StepPlan:
    """The schedule of a training's epochs, evaluations and log lines, in steps; step 1 is the first."""

    per_epoch: int
    total: int
    evaluation_steps: tuple[int, ...]
    """Steps within an epoch that are followed by an evaluation, ascending; the last one ends the epoch."""

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation follows a step."""
        return (step - 1) % self.per_epoch + 1 in self.evaluation_steps

    def logs_after(self, step: int) -> bool:
        """Whether a line of the log follows a step."""
        return self.evaluates_after(step) or step % max(1, self.per_epoch // LOGS_PER_EPOCH) == 0

    def evaluations_until(self, step: int) -> int:
        """Count the evaluations up to and including the one that follows a step."""
        epochs, in_epoch = divmod(step - 1, self.per_epoch)
        return epochs * len(self.evaluation_steps) + self.evaluation_steps.index(in_epoch + 1) + 1


def step_plan(per_epoch: int, *, epochs: int, evaluations_per_epoch: int) -> StepPlan:
    """Plan a training with a number of steps in an epoch, where there is at most one evaluation after a step."""
    parts = range(1, evaluations_per_epoch + 1)
    evaluation_steps = {round(part * per_epoch / evaluations_per_epoch) for part in parts} - {0}
    return StepPlan(per_epoch, per_epoch * epochs, tuple(sorted(evaluation_steps)))


def rate_factor(step: int, total: int, per_epoch: int, *, schedule: Schedule, warmup_share: float) -> float:
    """Return the factor by which the peak learning rate is multiplied at a step, in (0, 1].

    The factor rises linearly over the first `warmup_share` of all steps. After that, "constant" keeps it at 1, and
    "linear" and "cosine" lower it towards 0 at the last step. With "cosine_restarts" it falls within each epoch to
    5 % at the epoch's last step and starts again at the next; during warm-up the rise is multiplied by this cycle.

    Args:
        step: number of the step, 0 for the first.
        total: number of steps in the whole training.
        per_epoch: number of steps in an epoch.
    """
    warmup = round(warmup_share * total)
    rise = min(1.0, (step + 1) / (warmup + 1))
    if schedule == "cosine_restarts":
        part = step % per_epoch / max(1, per_epoch - 1)
        return rise * (FLOOR_OF_A_CYCLE + (1 - FLOOR_OF_A_CYCLE) * (1 + math.cos(math.pi * part)) / 2)
    if schedule == "constant" or step < warmup:
        return rise
    part = (step - warmup) / max(1, total - warmup)
    return 1 - part if schedule == "linear" else (1 + math.cos(math.pi * part)) / 2
