"""What a search chooses from: configurations with the weights of their best evaluations, over one seed or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nic_ray.config import TrainConfig
from nic_ray.metrics.table import order_key
from nic_ray.record import TrainingState


@dataclass(frozen=True)
class Candidate:
    """A configuration with the weights of its best evaluation."""

    name: str
    config: TrainConfig
    metrics: Mapping[str, float]
    """Of its best evaluation, on the validation rows."""
    weights: Mapping[str, Tensor]
    """Of the blocks above its cut; none where candidates are only compared: all of them might not fit into memory."""
    members: tuple["Candidate", ...] = ()
    """The candidates, without their weights, whose mean these are; none for a trial's own."""
    epochs: float | None = None
    """That it was trained, of those that its configuration asks for; None where that is not known."""
    finished: bool = True
    """Whether it came to its own end, and was not stopped or cut off before."""
    measured: bool = True
    """Whether the metrics are of these weights, and not of those that were trained again on all rows."""


@dataclass(frozen=True)
class Confirmation:
    """A configuration's objective on the validation rows, by the seed that it was trained with."""

    trial: str
    values: Mapping[int, float]
    epochs: float | None = None
    """That it was trained with each of them."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def spread(self) -> float:
        """The highest value minus the lowest."""
        return max(self.values.values()) - min(self.values.values())


def best_of(name: str, config: TrainConfig, state: TrainingState) -> Candidate:
    """The best evaluation in a training's last state."""
    best, epochs = state["best"], state["metrics"]["epoch"]
    return Candidate(name, config, best["metrics"], best["upper"], epochs=epochs, finished=state["finished"])


def best_first(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Candidates by objective, then mrr/macro, then the earlier epoch; of equals, the first comes first."""
    return sorted(candidates, key=lambda candidate: order_key(candidate.metrics, objective), reverse=True)


def confirm(tried: Sequence[Sequence[Candidate]], objective: str) -> tuple[Candidate, list[Confirmation]]:
    """The best of some configurations over their seeds, and what each was worth.

    Each is judged by the mean of what is known of it. One whose further trainings were cut off, or have failed, keeps
    the value that it was chosen for: that flatters it beside a mean with fresh seeds, by about the spread over seeds.
    To put it behind the others for that would let a training that happened to end decide, by any difference.
    Where the means are equal, more seeds are better.

    Args:
        tried: for each configuration its candidates, one a seed; the first one is the search's own.

    Returns:
        of the configuration with the best mean the best candidate; and the configurations, the best first.
    """
    found = [
        (Confirmation(own[0].name, {each.config.seed: each.metrics[objective] for each in own}, own[0].epochs), own)
        for own in tried
    ]
    # the sort keeps the order of equals
    found.sort(key=lambda each: (-each[0].mean, -len(each[0].values)))
    return best_first(found[0][1], objective)[0], [confirmation for confirmation, _ in found]
