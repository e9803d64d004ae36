"""The mean of the weights of several trials, and the training of its members again on all rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from nic_ray.metrics.table import order_key
from nic_ray.model.activations import Inputs, feed, upper_for
from nic_ray.model.encoder import weights_at
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.scoring import Scorer
from nic_ray.training import loop
from nic_ray.training.prepared import Prepared


def averaged(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    candidates: Iterable[Candidate],
    objective: str,
    *,
    most: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Candidate:
    """Average the weights of candidates, adding those that improve the mean on the validation rows.

    All trials start from the same weights, so the mean of two trained models is a model too, and often a better one
    than either. The mean starts with the first candidate. Every further candidate joins if the mean with it is better
    than without it, by the objective, then by mrr/macro. Candidates are loaded one at a time, so memory holds four sets
    of weights: those of the first candidate, of the mean, of the candidate being tried, and of the mean with it.

    Args:
        inputs: inputs by depth, for the depths of all candidates.
        candidates: the best candidate of the search, then the others, best first; taken one at a time.
        objective: the flat metric on the validation rows that is to be improved.
        most: maximum number of candidates in the mean; None for no limit.
        say: called with a line for each candidate that joins.

    Returns:
        the first candidate itself if no other one joins; otherwise the mean. Its configuration is that of the first
        candidate, except that `frozen_layers` is the lowest value among the members: none was trained below that cut.

    Source: greedy soup, Wortsman et al. 2022, arXiv:2203.05482, algorithm 1.
    """
    left = iter(candidates)
    first = next(left)
    mean, members = first, [first]
    while len(members) != most and (candidate := next(left, None)) is not None:
        depth = min(mean.config.frozen_layers, candidate.config.frozen_layers)
        candidate_weights = _weights_at(prepared, candidate, depth)
        weights = {
            name: value.lerp(candidate_weights[name], 1 / (len(members) + 1))
            for name, value in _weights_at(prepared, mean, depth).items()
        }
        metrics = Scorer(prepared, inputs[depth]).metrics(weights, prepared.rows("validation"))
        if order_key(metrics, objective) > order_key(mean.metrics, objective):
            members.append(replace(candidate, weights={}))
            config = first.config.model_copy(update={"frozen_layers": depth})
            mean = Candidate(f"{mean.name} + {candidate.name}", config, {**mean.metrics, **metrics}, weights)
            say(f"the mean with {candidate.name}: {objective} {metrics[objective]:.4f} on validation")
    if len(members) == 1:
        return first
    return replace(mean, members=(replace(first, weights={}), *members[1:]))


def refitted(prepared: Prepared, inputs: Mapping[int, Inputs], winner: Candidate) -> Candidate:
    """Train the winner's configurations again on the rows of all parts, each up to the epoch of its best evaluation.

    Args:
        inputs: inputs by depth, for the depths of the winner and of its members.

    Returns:
        the winner with the mean of the new weights. Its metrics remain those of the old weights, since no rows are held
        back to measure the new ones on.
    """
    depth, rows = winner.config.frozen_layers, np.arange(len(prepared.parts))
    total: dict[str, Tensor] = {}
    members = winner.members or (winner,)
    for member in members:
        member_inputs = inputs[member.config.frozen_layers]
        # evaluations follow whole steps: with more rows the same one comes at a slightly different part of the epoch
        enough = member.metrics["epoch"] - 0.5 / member.config.evaluations_per_epoch
        upper = upper_for(prepared.encoder, member_inputs).to(prepared.device)
        data = loop.TrainingData(prepared.collection, rows, feed(member_inputs, prepared.device), prepared.bf16)
        config = member.config.model_copy(update={"patience": None})  # there are no validation metrics to stop by
        for evaluation in loop.fit(config, upper, data, loop.UNJUDGED):
            if evaluation.metrics["epoch"] > enough:
                break
        trained = replace(member, weights=upper.trained_state())
        for name, value in _weights_at(prepared, trained, depth).items():
            total[name] = total.get(name, 0) + value / len(members)
    return replace(winner, weights=total, measured=False)


def _weights_at(prepared: Prepared, candidate: Candidate, depth: int) -> dict[str, Tensor]:
    """Return a candidate's weights above a cut no deeper than its own, with the base model's for the blocks between."""
    return weights_at(prepared.encoder, candidate.config.frozen_layers, candidate.weights, depth)
