"""The mean of the weights of the best trials."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.errors import InputError
from nic_ray.metrics.intervals import Queries
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import direction_of, maximised, order_key
from nic_ray.model.activations import Inputs
from nic_ray.model.encoder import weights_at
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.scoring import Scorer, queries_of
from nic_ray.training.prepared import Prepared

SIZES = (1, 2, 4, 8)
"""Numbers of candidates, the best ones, whose mean is tried."""
HALVINGS = 6
"""Number of times that the validation passages are divided into halves."""

Scores = Mapping[str, NDArray[np.float64]]
"""Metric -> its value for each validation query, (Q,)."""


@dataclass(frozen=True)
class Average:
    """The mean of the best candidates."""

    candidate: Candidate
    """The mean, or the first candidate alone."""
    cross_fitted: dict[int, float]
    """Number of candidates -> the objective of their mean, chosen on one half of the validation passages and measured
    on the other half; empty where nothing was tried."""


def averaged(
    prepared: Prepared,
    inputs: Mapping[int, Inputs],
    candidates: Sequence[Candidate],
    *,
    load: Callable[[Candidate], Candidate] = lambda candidate: candidate,
    say: Callable[[str], None] = lambda _: None,
) -> Average:
    """Average the weights of the best candidates; how many is decided by cross-fitting on the validation rows.

    All trials start from the same weights, so the mean of trained models is a model too, and often a better one than
    any of them. Which trials improve the mean cannot be told from the validation rows that have chosen them: of many
    means the best one is partly luck. So no single trial is picked. The validation passages are divided into halves,
    `HALVINGS` times; on each half the candidates are ordered, and the means of the best ones are measured on the other
    half. The number with the best objective there is averaged, of all candidates in the order of all validation rows.

    A candidate's loss on the retention set is subtracted from its objective wherever candidates are ordered: what it
    gains must be more than what it forgets.

    Candidates are loaded one at a time, so memory holds three sets of weights.

    Args:
        inputs: inputs by depth, for the depths of all candidates.
        candidates: the best candidate of the search, then others of its base model in any order, with or without
            weights.
        load: returns a candidate with its weights.
        say: called with a line for each number of candidates.

    Returns:
        the mean. Its configuration is that of the first candidate, except that `frozen_layers` is the lowest value
        among the members: none was trained below that cut. With `search.averaged_trials` 1 it is the first candidate.

    Source: uniform soup, Wortsman et al. 2022, arXiv:2203.05482, section 3.
    """
    search = prepared.config.search
    first, *others = candidates
    others = sorted(others, key=lambda candidate: _worth(candidate.metrics, candidate, search.objective), reverse=True)
    ordered = [first, *others][: SIZES[-1]]
    sizes = _sizes(len(candidates), search.averaged_trials)
    if len(sizes) == 1:
        return Average(load(first), {})
    read: dict[frozenset[int], Scores] = {}

    def scores_of(members: Sequence[int]) -> Scores:
        key = frozenset(members)
        if key not in read:
            depth, weights = mean_weights(prepared, [ordered[member] for member in sorted(members)], load)
            read[key] = Scorer(prepared, inputs[depth]).scores(weights, prepared.rows("validation"))
        return read[key]

    crossed = cross_fitted(
        scores_of, ordered, sizes, queries_of(prepared, "validation"), search.objective, prepared.config.data.seed
    )
    for size, value in crossed.items():
        say(f"the mean of the best {size}, chosen on one half of the validation passages: {value:.4f} on the other")
    size = max(crossed, key=lambda size: direction_of(search.objective) * crossed[size], default=1)
    members = ordered[:size]
    if size == 1:
        return Average(load(first), crossed)
    depth, weights = mean_weights(prepared, members, load)
    metrics = flat_metrics(scores_of(range(size)), queries_of(prepared, "validation").domains)
    mean = Candidate(
        " + ".join(member.name for member in members),
        first.config.model_copy(update={"frozen_layers": depth}),
        {**first.metrics, **metrics},
        weights,
        members=tuple(replace(member, weights={}) for member in members),
    )
    return Average(mean, crossed)


def means_tried(candidates: int, most: int | None) -> int:
    """Return how many means of candidates `averaged` evaluates at most, for `plan`."""
    sizes = _sizes(candidates, most)
    if len(sizes) == 1:
        return 0
    among = min(candidates, SIZES[-1])
    return sum(min(math.comb(among, size), 2 * HALVINGS) if size > 1 else among for size in sizes)


def _sizes(candidates: int, most: int | None) -> list[int]:
    return [size for size in SIZES if size <= min(candidates, most or candidates)]


def cross_fitted(
    scores_of: Callable[[Sequence[int]], Scores],
    candidates: Sequence[Candidate],
    sizes: Sequence[int],
    queries: Queries,
    objective: str,
    seed: int,
) -> dict[int, float]:
    """Measure the means of the best candidates on passages that have not chosen them.

    Args:
        scores_of: returns the results of the mean of some candidates, given by their positions.
        candidates: the candidates, at least as many as the largest of `sizes`.
        sizes: numbers of candidates.
        queries: passages and domains of the validation queries.
        objective: as `table.checked_objective` returns it.
        seed: seed of the halves.

    Returns:
        number of candidates -> the objective of their mean, averaged over `HALVINGS` halvings; empty if there are too
        few passages for two halves.
    """
    values: dict[int, list[float]] = {size: [] for size in sizes}
    for halving in range(HALVINGS):
        first_half = halves(queries, (seed, halving))
        if first_half.all() or not first_half.any():
            return {}
        found = {size: {name: values.copy() for name, values in scores_of([0]).items()} for size in sizes}
        for rows in (first_half, ~first_half):
            order = sorted(
                range(len(candidates)),
                key=lambda position: _worth(
                    _flat(scores_of([position]), queries, rows), candidates[position], objective
                ),
                reverse=True,
            )
            for size in sizes:
                for name, measured in scores_of(order[:size]).items():
                    found[size][name][~rows] = measured[~rows]
        for size in sizes:
            values[size].append(flat_metrics(found[size], queries.domains)[objective])
    return {size: float(np.mean(measured)) for size, measured in values.items()}


def halves(queries: Queries, seed: Sequence[int]) -> NDArray[np.bool_]:
    """Divide queries into two halves by passage, with half of each domain's passages in either, give or take one.

    Returns:
        (Q,) True for the queries of the first half.
    """
    generator, names = np.random.default_rng(seed), np.asarray(queries.domains, np.str_)
    dealt: dict[int, bool] = {}
    for name in np.unique(names):
        for passage in generator.permutation(np.unique(queries.passages[names == name])).tolist():
            dealt.setdefault(passage, len(dealt) % 2 == 0)
    return np.array([dealt[passage] for passage in queries.passages.tolist()])


def mean_weights(
    prepared: Prepared, members: Sequence[Candidate], load: Callable[[Candidate], Candidate]
) -> tuple[int, dict[str, Tensor]]:
    """Return the mean of the weights of some candidates, and the cut above which they are.

    The base model's weights stand for those of blocks that a candidate has not trained.

    Raises:
        InputError: they are of different kinds: tuned from different base models, or for different passages.
    """
    if len(kinds := sorted({member.config.kind for member in members})) > 1:
        listed = ", ".join(f"{base_model} ({trains})" for base_model, trains in kinds)
        raise InputError(
            f"the mean of {' + '.join(member.name for member in members)}: must be of models with one base model and "
            f"one value of trains, got {listed}, whose weights differ in meaning and perhaps in shape; average each "
            "kind alone"
        )
    depth = min(member.config.frozen_layers for member in members)
    total: dict[str, Tensor] = {}
    for number, member in enumerate(map(load, members), start=1):
        for name, value in _weights_of(prepared, member, depth).items():
            total[name] = value.lerp(total[name], 1 - 1 / number) if name in total else value
    return depth, total


def _flat(scores: Scores, queries: Queries, rows: NDArray[np.bool_]) -> dict[str, float]:
    domains = [queries.domains[row] for row in np.flatnonzero(rows).tolist()]
    return flat_metrics({name: values[rows] for name, values in scores.items()}, domains)


def worth(candidate: Candidate, objective: str) -> float:
    """Return the value that candidates are ordered by: the objective less what is forgotten, as far as it is known."""
    return _worth(candidate.metrics, candidate, objective)[0]


def _worth(flat: Mapping[str, float], candidate: Candidate, objective: str) -> tuple[float, float]:
    """Return the key that orders candidates: the objective less what is forgotten, then the tie-breaker."""
    kept = (candidate.retention or {}).get(objective.partition("/")[0], 0.0)
    return maximised(flat, objective) + min(0.0, direction_of(objective) * kept), order_key(flat, objective)[1]


def _weights_of(prepared: Prepared, candidate: Candidate, depth: int) -> dict[str, Tensor]:
    """Return a candidate's weights above a cut no deeper than its own, with the base model's for the blocks between."""
    return weights_at(prepared.encoder, candidate.config.frozen_layers, candidate.weights, depth)
