"""The candidates that a search chooses from: configurations with their best weights, trained with one or more seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nic_ray.metrics.table import maximised, order_key
from nic_ray.record import TrainingState
from nic_ray.train_config import TrainConfig


@dataclass(frozen=True)
class Candidate:
    """A configuration with the weights of its best evaluation."""

    name: str
    config: TrainConfig
    metrics: Mapping[str, float]
    """Flat metrics of the best evaluation, on the validation rows."""
    weights: Mapping[str, Tensor]
    """Weights of the blocks above the cut; empty where candidates are only compared, since all of their weights might
    not fit into memory."""
    members: tuple["Candidate", ...] = ()
    """The candidates, without their weights, that this one is the mean of; empty for a single trial."""
    retention: Mapping[str, float] | None = None
    """Metric -> its change on the retention set; None if that was not measured."""
    epochs: float | None = None
    """Number of epochs that it was trained for, at most the number in its configuration; None if it is not known."""
    finished: bool = True
    """Whether the training ended by itself, rather than being stopped by the scheduler or cut off."""
    measured: bool = True
    """Whether the metrics are those of these weights; they are not if the weights were trained again on all rows."""


@dataclass(frozen=True)
class Confirmation:
    """The objective of a configuration on the validation rows, for each seed that it was trained with."""

    trial: str
    values: Mapping[int, float]
    epochs: float | None = None
    """Number of epochs that it was trained for with each seed; None if it is not known."""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def spread(self) -> float:
        """The highest value minus the lowest."""
        return max(self.values.values()) - min(self.values.values())


def best_of(name: str, config: TrainConfig, state: TrainingState) -> Candidate:
    """Return the best evaluation in the last state of a training as a candidate."""
    best, epochs = state["best"], state["metrics"]["epoch"]
    return Candidate(name, config, best["metrics"], best["upper"], epochs=epochs, finished=state["finished"])


def best_first(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Sort candidates by objective, then mrr/macro, then the earlier epoch, best first; ties keep their order."""
    return sorted(candidates, key=lambda candidate: order_key(candidate.metrics, objective), reverse=True)


def confirm(tried: Sequence[Sequence[Candidate]], objective: str) -> tuple[Candidate, list[Confirmation]]:
    """Choose the best of several configurations by the mean of its objective over seeds.

    A configuration is judged by the mean of its known values. If its further trainings failed or were cut off, it keeps
    the value that it was chosen for. Beside a mean with fresh seeds, that value is too favourable by about the spread
    over seeds. Ranking such a configuration last would be worse: which training happened to be completed would then
    decide, however large the difference. If means are equal, the configuration with more seeds is preferred.

    Args:
        tried: for each configuration its candidates, one per seed; the first one comes from the search itself.
        objective: the flat metric that is compared.

    Returns:
        the best candidate of the configuration with the best mean; and all configurations with their values, best
        first.
    """
    pairs = []
    for candidates in tried:
        values = {candidate.config.seed: candidate.metrics[objective] for candidate in candidates}
        pairs.append((Confirmation(candidates[0].name, values, candidates[0].epochs), candidates))
    # the sort is stable: ties keep their order
    pairs.sort(key=lambda pair: (-maximised({objective: pair[0].mean}, objective), -len(pair[0].values)))
    return best_first(pairs[0][1], objective)[0], [confirmation for confirmation, _ in pairs]
