"""Interpolation between the weights of the base model and tuned ones, to weigh gains against forgetting."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.metrics.ranking import flat_metrics
from nic_ray.model.activations import Inputs
from nic_ray.model.encoder import base_weights
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.guard import Mixture
from nic_ray.selection.retention import GeneralText, RetentionSet, neighbours_kept, retention_of
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.training.prepared import Prepared

ALPHAS = tuple(step / 10 for step in range(1, 11))


def interpolation_path(
    prepared: Prepared,
    inputs: Inputs,
    winner: Candidate,
    base: Mapping[str, NDArray[np.float64]],
    retention_set: RetentionSet | None,
    general: GeneralText | None = None,
    *,
    alphas: Sequence[float] = ALPHAS,
) -> list[Mixture]:
    """Evaluate mixtures of the base model's weights and the winner's; the base model itself comes first.

    Args:
        inputs: inputs at the winner's depth.
        base: metric -> the base model's value for each validation query, (Q,).
        retention_set: the pairs to measure retention on; with None it is not measured.
        general: the texts whose neighbours are compared; None likewise.
        alphas: shares of the winner's weights, each in (0, 1].
    """
    rows, domains = prepared.rows("validation"), queries_of(prepared, "validation").domains
    at_base = None if retention_set is None else dict.fromkeys(retention_set.base, 0.0)
    mixtures = [Mixture(0.0, flat_metrics(base, domains), base, at_base, None if general is None else 1.0)]
    for alpha in alphas:
        weights = interpolated(prepared, winner, alpha)
        scores = Scorer(prepared, inputs).scores(weights, rows)
        mixed = replace(winner, weights=weights)
        kept = None if retention_set is None else retention_of(prepared, retention_set, mixed)
        near = None if general is None else neighbours_kept(prepared, general, mixed)
        mixtures.append(Mixture(alpha, flat_metrics(scores, domains), scores, kept, near))
    return mixtures


def interpolated(prepared: Prepared, candidate: Candidate, alpha: float) -> dict[str, Tensor]:
    """Compute alpha * the candidate's weights + (1 - alpha) * the base model's, above the candidate's cut.

    Source: WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903.
    """
    base = base_weights(prepared.encoder, candidate.config.frozen_layers)
    return {name: value.lerp(candidate.weights[name].to(value), alpha) for name, value in base.items()}
