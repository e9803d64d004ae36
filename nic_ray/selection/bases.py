"""Several base models in one selection: each trained model is evaluated with its own, and compared with the best."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from nic_ray.evidence import Evidence
from nic_ray.metrics.ranking import flat_metrics
from nic_ray.metrics.table import maximised
from nic_ray.model.activations import Inputs
from nic_ray.results import StoredBase, StoredKind
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.retention import GeneralText, RetentionSet, neighbours_kept, retention_of
from nic_ray.selection.scoring import Scorer, deepest, queries_of
from nic_ray.train_config import Kind, Trains
from nic_ray.training.bases import Bases
from nic_ray.training.prepared import Prepared

BEST_BASE = "best base"
"""The key in results of the base model that finds most of all, where the winner was tuned from another one."""


@dataclass(frozen=True)
class Base:
    """A base model of a search, with what the models of one kind that were tuned from it are evaluated on."""

    prepared: Prepared
    inputs: Mapping[int, Inputs]
    """Inputs by depth."""
    retention_set: RetentionSet | None = None

    @property
    def scorer(self) -> Scorer:
        """What evaluates the base model itself."""
        return Scorer(self.prepared, deepest(self.inputs))

    def untuned(self) -> dict[str, float]:
        """Compute the flat metrics of the base model itself on the validation rows."""
        return self.scorer.metrics(None, self.prepared.rows("validation"))

    def scorer_of(self, candidate: Candidate) -> Scorer:
        """Return what evaluates a model that was tuned from it."""
        return Scorer(self.prepared, self.inputs[candidate.config.frozen_layers])


@dataclass(frozen=True)
class BetterBase:
    """A base model that finds more on the validation rows than the one that the winner was tuned from."""

    base: Base
    scores: Mapping[str, NDArray[np.float64]]
    """Metric -> its value for each validation query, (Q,)."""

    @property
    def name(self) -> str:
        """The name of the base model."""
        return self.base.prepared.encoder.name


NO_BASES: Mapping[Kind, Base] = {}
"""Of a search with one kind of model: there are no others."""


def base_of(candidate: Candidate, own: Base, others: Mapping[Kind, Base]) -> Base:
    """Return the base model that a candidate was tuned from.

    Args:
        own: that of the winner.
        others: those of the other kinds of models in the search.
    """
    return others.get(candidate.config.kind, own)


def better_base(scores: Mapping[str, NDArray[np.float64]], own: Base, others: Mapping[Kind, Base]) -> BetterBase | None:
    """Find the base model with the highest objective on the validation rows, if that is not the winner's own.

    Args:
        scores: metric -> value of the winner's base model for each validation query, (Q,).
    """
    objective, domains = own.prepared.config.search.objective, queries_of(own.prepared, "validation").domains
    best, value = None, maximised(flat_metrics(scores, domains), objective)
    for base in others.values():
        if base.prepared.encoder is own.prepared.encoder:
            continue
        found = base.scorer.scores(None, base.prepared.rows("validation"))
        if (reached := maximised(flat_metrics(found, domains), objective)) > value:
            best, value = BetterBase(base, found), reached
    return best


def kept_by(
    candidate: Candidate, base: Base, general: GeneralText | None
) -> tuple[dict[str, float] | None, float | None]:
    """Measure what a model has forgotten of what its base model knew, as far as that is measured.

    Args:
        general: the texts whose neighbours are compared, with inputs for the candidate's depth.

    Returns:
        the changes of the metrics on the retention set, and the share of neighbours of general texts that are kept.
    """
    changes = None if base.retention_set is None else retention_of(base.prepared, base.retention_set, candidate)
    return changes, None if general is None else neighbours_kept(base.prepared, general, candidate)


def costs_of(
    bases: Bases, metrics: Mapping[str, Mapping[str, float]], candidates: Sequence[Candidate], objective: str
) -> Evidence:
    """Put together what `costs_of_bases` and `costs_of_an_index` say, where they say something."""
    found: Evidence = {}
    if rows := costs_of_bases(bases, metrics, candidates, objective):
        found["bases"] = rows
    if kinds := costs_of_an_index(candidates, objective):
        found["kinds"] = kinds
    return found


def costs_of_bases(
    bases: Bases, metrics: Mapping[str, Mapping[str, float]], candidates: Sequence[Candidate], objective: str
) -> list[StoredBase]:
    """Put what each base model costs beside what it and its trials find on the validation rows.

    Args:
        metrics: base model -> its flat metrics.
        candidates: the best evaluation of each trial, best first.

    Returns:
        a row per base model; none where there is nothing to compare.
    """
    rows: list[StoredBase] = []
    for name, cost in bases.footprints.items():
        own = [candidate for candidate in candidates if candidate.config.base_model == name]
        best = own[0] if own else None
        rows.append(
            {
                "base_model": name,
                **asdict(cost),  # type: ignore[typeddict-item]
                "base": metrics[name][objective],
                "trial": None if best is None else best.name,
                "best": None if best is None else best.metrics[objective],
                "trials": len(own),
            }
        )
    return rows


def costs_of_an_index(candidates: Sequence[Candidate], objective: str) -> list[StoredKind]:
    """Put the best trial that trains both sides beside the best that trains queries alone; none unless both exist.

    Both are of the base model of the best trial of all: the index of another one says nothing about its own.

    Args:
        candidates: the best evaluation of each trial, best first.
    """
    rows: list[StoredKind] = []
    for trains in get_args(Trains):
        own = [each for each in candidates if each.config.kind == (candidates[0].config.base_model, trains)]
        if not own:
            return []
        rows.append({"trains": trains, "trial": own[0].name, "best": own[0].metrics[objective], "trials": len(own)})
    return rows
