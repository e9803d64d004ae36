"""Interpolation between the weights of the base model and tuned ones, to weigh gains against forgetting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.metrics.intervals import Queries, standard_error
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import maximised
from nic_ray.model.activations import Inputs
from nic_ray.model.encoder import base_weights
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.guard import Mixture, choose_mixture, forgetting_little, score_of
from nic_ray.selection.retention import GeneralText, RetentionSet, neighbours_kept, retention_of
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.training.prepared import Prepared

ALPHAS = tuple(step / 10 for step in range(1, 11))
FIRST = (0.5, 1.0)
"""Those that are evaluated in any case."""
DIP_IN_ERRORS = 2.0
"""Standard errors by which a point may lie below the line between its neighbours on a curve that passes for concave."""
USUAL_READINGS = 6
"""How many are evaluated where the curve is concave and none forgets too much, give or take two."""

Path = Callable[[Sequence[float]], Sequence[Mixture]]
"""Returns the base model and the mixtures with some alphas, as `interpolation_path` does."""


def interpolation_path(
    prepared: Prepared,
    inputs: Inputs,
    winner: Candidate,
    base: Mapping[str, NDArray[np.float64]],
    retention_set: RetentionSet | None,
    general: GeneralText | None = None,
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


def deciding_path(
    path: Path, queries: Queries, *, objective: str, max_retention_loss: float, min_neighbours_kept: float
) -> list[Mixture]:
    """Evaluate the base model and as many of `ALPHAS` as decide which of them `choose_mixture` takes.

    From the base model to the tuned one the objective mostly rises, ever more slowly, and may fall at the end; what is
    kept falls. Halving the gaps beside the best point, and below the least alpha that is as good, then finds what all
    ten would, unless chance lifts a point that is left out. Where the points do not lie so, all ten are evaluated:
    where one lies below the line between its neighbours by more than `DIP_IN_ERRORS` standard errors, or one is allowed
    that goes further than one that is not. So they are for the worst domain, where chance moves few questions much
    further.

    Args:
        path: evaluates mixtures.
        queries, objective, max_retention_loss, min_neighbours_kept: as for `choose_mixture`.

    Returns:
        the base model, then the mixtures, by alpha.
    """
    base, *found = path(ALPHAS if _takes_all(objective) else FIRST)
    while True:
        found.sort(key=lambda mixture: mixture.alpha)
        allowed = forgetting_little(found, max_retention_loss, min_neighbours_kept)
        known = {mixture.alpha for mixture in found}
        left = [alpha for alpha in ALPHAS if alpha not in known]
        if allowed != found[: len(allowed)] or _is_bent([base, *found], queries, objective):
            wanted = left
        else:
            limits = {"max_retention_loss": max_retention_loss, "min_neighbours_kept": min_neighbours_kept}
            chosen = choose_mixture(found, queries, objective=objective, **limits)
            wanted = _undecided(found, allowed, chosen, objective)[:1]
        if not wanted:
            return [base, *found]
        found += path(wanted)[1:]


def mixtures_evaluated(objective: str) -> int:
    """Return how many mixtures `deciding_path` mostly evaluates, for `plan`."""
    return len(ALPHAS) if _takes_all(objective) else USUAL_READINGS


def _takes_all(objective: str) -> bool:
    return objective.endswith("/worst")


def _undecided(
    found: Sequence[Mixture], allowed: Sequence[Mixture], chosen: Mixture | None, objective: str
) -> list[float]:
    """Return the alphas that may still change the choice, one after another.

    Args:
        found: the mixtures that have been evaluated, by alpha.
        allowed: the first of them, which forget little enough.
        chosen: the one that is chosen of them; None if none is allowed.
    """
    alphas, known = [0.0, *ALPHAS], [0, *(round(10 * mixture.alpha) for mixture in found)]
    if chosen is None:  # perhaps less of the way is allowed
        return [alphas[known[1] // 2]] if known[1] > 1 else []
    best = max(allowed, key=lambda mixture: maximised(mixture.metrics, objective))
    at, least = round(10 * best.alpha), round(10 * chosen.alpha)
    above = next((number for number in known if number > at), at)
    below = max(number for number in known if number < at)
    wanted = [(below + at + 1) // 2] if below < at - 1 else []
    wanted += [(at + above) // 2] if above > at + 1 else []
    smaller = max(number for number in known if number < least)
    wanted += [(smaller + least) // 2] if smaller < least - 1 else []
    return [alphas[number] for number in wanted]


def _is_bent(points: Sequence[Mixture], queries: Queries, objective: str) -> bool:
    """Whether a point lies below the line between its neighbours by more than chance may bend it."""
    metric = score_of(objective)
    for before, point, after in zip(points, points[1:], points[2:], strict=False):
        part = (point.alpha - before.alpha) / (after.alpha - before.alpha)
        line, value = (
            (1 - part) * maximised(before.metrics, objective) + part * maximised(after.metrics, objective),
            maximised(point.metrics, objective),
        )
        apart = (1 - part) * before.scores[metric] + part * after.scores[metric] - point.scores[metric]
        error = standard_error(apart, queries.passages, queries.domains)
        if line - value > DIP_IN_ERRORS * (error or 0.0) + 1e-12:
            return True
    return False


def interpolated(prepared: Prepared, candidate: Candidate, alpha: float) -> dict[str, Tensor]:
    """Compute alpha * the candidate's weights + (1 - alpha) * the base model's, above the candidate's cut.

    Source: WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903.
    """
    base = base_weights(prepared.encoder, candidate.config.frozen_layers)
    return {name: value.lerp(candidate.weights[name].to(value), alpha) for name, value in base.items()}
