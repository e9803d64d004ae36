"""The trials of a search, from its inputs to the candidates from which the model is selected."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nic_ray.config import Config
from nic_ray.dataset.pairs import Collection
from nic_ray.evidence import Evidence, TrialRow
from nic_ray.metrics.table import maximised
from nic_ray.model.activations import Inputs
from nic_ray.model.cache import StoredInputs, budget, inputs_by_depth, layout_of, opened, run_here, what_is_left
from nic_ray.model.encoder import Encoder
from nic_ray.progress import View
from nic_ray.record import last_state
from nic_ray.search.base_embeddings import untuned_metrics
from nic_ray.search.placement import Placement
from nic_ray.search.run import Run
from nic_ray.search.session import joins_a_cluster
from nic_ray.selection.bases import Base, costs_of
from nic_ray.selection.candidates import Candidate, Confirmation, best_first
from nic_ray.selection.refit import Train
from nic_ray.selection.retention import load_retention_set
from nic_ray.train_config import Kind
from nic_ray.training.bases import Bases, kinds_of
from nic_ray.training.prepared import Prepared, depths, with_fixed_passages

if TYPE_CHECKING:  # a command that is refused needs no Ray
    from nic_ray.search import rounds


@dataclass(frozen=True)
class SearchedTrials:
    """The results of the trials of a search, from which one model is selected."""

    bases: Mapping[Kind, Base]
    """Kind of model, that of the first trial first -> what such models are evaluated on, in the number format of the
    trials."""
    unsearched: dict[str, Candidate]
    """"first trial" and "without search", the first of `search.starts` -> its best evaluation, with its weights; those
    that failed or that there are none of are absent."""
    best: list[Candidate]
    """Every trial's best evaluation, without weights: the winner's, then the others, best first."""
    confirmations: list[Confirmation]
    rows: list[TrialRow]
    """The rows of trials.csv."""
    costs: Evidence = field(default_factory=lambda: Evidence())
    """What each base model, and an index that stays valid, cost and find; empty where there is one of each."""
    train: Train | None = None
    """Trains configurations again, as trials are trained; None to do it in this process."""

    @property
    def base(self) -> Base:
        """The base model from which the best candidate was tuned, for its kind of model."""
        return self.bases[self.best[0].config.kind]

    @property
    def first(self) -> Prepared:
        """The data and settings for the kind of model of the first trial."""
        return next(iter(self.bases.values())).prepared

    @property
    def others(self) -> dict[Kind, Base]:
        """The base models of the other kinds."""
        return {kind: base for kind, base in self.bases.items() if base is not self.base}


def run_all_trials(
    bases: Bases, run: Run, retention_pairs: Collection | None, *, runs_trials: bool, view: View
) -> SearchedTrials:
    """Run the remaining trials, then train the best of all again with other seeds; all within a `ray_session`.

    Args:
        retention_pairs: the pairs to measure on what a trial has forgotten; None to measure nothing.
        runs_trials: whether trials are run; if not, existing results are only read.

    Raises:
        RunError: no trial has come to an evaluation.
    """
    from nic_ray.search import again, rounds

    setup, bases_by_kind, metrics = _set_up(bases, run, runs_trials=runs_trials, view=view)
    config, objective = bases.first.config, bases.first.config.search.objective
    samples = rounds.run_search_trials(setup)
    # loaded only after the trials, none of which needs the retention set
    if retention_pairs is not None:
        bases_by_kind = {kind: _with_retention_set(base, retention_pairs) for kind, base in bases_by_kind.items()}
    retention_sets = {kind: base.retention_set for kind, base in bases_by_kind.items() if base.retention_set}
    searched = rounds.result_of_trials(setup, samples, retention_sets)
    rounds.refuse_no_model(searched)
    finalists = searched.best[: config.confirm.trials]
    confirmed = rounds.result_of_trials(setup, rounds.run_trials_again(setup, finalists), retention_sets)
    winner, confirmations = rounds.pick_winner(setup, finalists, confirmed)
    for confirmation in confirmations:
        view.say(_describe_confirmation(confirmation, objective))
    others = best_first([other for other in [*searched.best, *confirmed.best] if other is not winner], objective)
    return SearchedTrials(
        bases_by_kind,
        _unsearched(run.folder, searched.best, config),
        [winner, *others],
        confirmations,
        searched.rows + confirmed.rows,
        costs_of(bases, metrics, searched.best, objective),
        again.training_on_cluster(
            setup.inputs, setup.placement, lambda member: _read_by(member, bases_by_kind[member.config.kind])
        ),
    )


def _set_up(
    bases: Bases, run: Run, *, runs_trials: bool, view: View
) -> "tuple[rounds.SearchSetup, dict[Kind, Base], dict[str, dict[str, float]]]":
    """Prepare what trials read.

    Returns:
        the set-up of the trials; the base model of each kind, that of the first trial first; and the flat validation
        metrics of each base model, by name.
    """
    from nic_ray.search import cluster, rounds

    config, recorders = bases.first.config, []
    if config.trackers.mlflow is not None:  # importing MLflow takes half a second
        from nic_ray.search import trackers

        recorders = trackers.tracker_callbacks(config.trackers, run.folder.name)
    joined = joins_a_cluster()
    placement = cluster.placement_on_cluster(config)
    formatted = cluster.in_format_of_trials(bases.prepared, placement, joined=joined)
    stored = _stored_inputs(formatted, run, placement, view, joined=joined)
    kinds = _of_kinds(formatted, stored)
    bases_by_kind = {kind: Base(own, _opened(inputs)) for kind, (own, inputs) in kinds.items()}
    objective = config.search.objective
    metrics = {name: untuned_metrics(base, run.folder.parent) for (name, _), base in bases_by_kind.items()}
    for name, flat in metrics.items():
        view.say(f"base model {name}: {objective} {flat[objective]:.4f} on validation")
    if placement.note:
        view.say(placement.note)
    files = [file for inputs in stored.values() for file in cluster.activation_files(inputs)]
    cluster.refuse_unshared_places([*files, *([] if run.mirror else [run.files.config])])
    # of a base model's kinds the last one: with the passages' embeddings where a trial may keep them
    given = {name: own for (name, _), own in sorted(kinds.items(), key=lambda item: item[0][1])}
    setup = rounds.SearchSetup(
        prepared=kinds[config.train.kind][0],
        run=run,
        placement=placement,
        inputs=rounds.trial_inputs(given, placement, run),
        base=max(metrics.values(), key=lambda flat: maximised(flat, objective)),
        trackers=recorders,
        deadline=time.monotonic() + (config.search.time_budget or math.inf),
        runs_trials=runs_trials,
        view=view,
        others={kind: own for kind, (own, _) in kinds.items() if kind != config.train.kind},
    )
    return setup, bases_by_kind, metrics


def with_weights(run_folder: Path, candidate: Candidate) -> Candidate:
    """Return a candidate with the weights that its trial has left."""
    state = last_state(run_folder, candidate.name)
    assert state is not None  # it has been read before
    return replace(candidate, weights=state["best"]["upper"])


def _read_by(member: Candidate, base: Base) -> tuple[Prepared, Inputs]:
    return base.prepared, base.inputs[member.config.frozen_layers]


def _describe_confirmation(confirmation: Confirmation, objective: str) -> str:
    values = ", ".join(f"{value:.4f} with seed {seed}" for seed, value in confirmation.values.items())
    return (
        f"{confirmation.trial}: {objective} {confirmation.mean:.4f} over {len(confirmation.values)} seed(s) ({values})"
    )


def _of_kinds(
    prepared: Mapping[str, Prepared], stored: Mapping[str, Mapping[int, Inputs | StoredInputs]]
) -> dict[Kind, tuple[Prepared, dict[int, Inputs | StoredInputs]]]:
    """Return data, settings and inputs for each kind of model, that of the first trial first."""
    return {
        kind: (own, with_fixed_passages(own, stored[name]))
        for name, of_base in prepared.items()
        for kind, own in kinds_of(of_base).items()
    }


def _opened(inputs: Mapping[int, Inputs | StoredInputs]) -> dict[int, Inputs]:
    return {depth: opened(at_depth) for depth, at_depth in inputs.items()}


def _stored_inputs(
    prepared: Mapping[str, Prepared], run: Run, placement: Placement, view: View, *, joined: bool
) -> dict[str, dict[int, Inputs | StoredInputs]]:
    """Return the inputs by depth of each base model, by name, all of them within one budget."""
    from nic_ray.search import cluster

    config, rooms, layouts = next(iter(prepared.values())).config, {}, {}
    if config.train.trust_remote_code:
        cluster.send_code_of_models()
    room = budget(config.activations, run.folder.parent)
    for name, own in prepared.items():
        rooms[name] = room
        layouts[name] = layout_of(*_cuts_of(own), room, bf16=own.bf16)
        room = what_is_left(room, layouts[name])
    outputs: dict[str, dict[int, Inputs | StoredInputs]] = {}
    for name, own in prepared.items():
        others = [path for other, layout in layouts.items() if other != name for path in layout.files.values()]
        # alone on a machine, this process has all of its cores, and its modules are imported already
        alone = not joined and not placement.gpus_per_worker
        chain = run_here("cpu", bf16=own.bf16) if alone else cluster.chain_on_cluster(placement, bf16=own.bf16)
        room = replace(rooms[name], others=frozenset(others))
        outputs[name] = inputs_by_depth(*_cuts_of(own), room, bf16=own.bf16, chain=chain, view=view)
    return outputs


def _cuts_of(prepared: Prepared) -> tuple[Encoder, Inputs, list[int]]:
    """Return what activations are computed of: the base model, the token ids, the depths."""
    return prepared.encoder, prepared.tokens, depths(prepared.config, prepared.encoder.blocks)


def _with_retention_set(base: Base, pairs: Collection) -> Base:
    prepared = base.prepared
    cuts = depths(prepared.config, prepared.encoder.blocks)
    return replace(base, retention_set=load_retention_set(prepared, pairs, cuts))


def _unsearched(run_folder: Path, candidates: Sequence[Candidate], config: Config) -> dict[str, Candidate]:
    """Return the trials that are to be had without a search, with their weights, in the order of their start."""
    from nic_ray.study import trial_name

    labels = {trial_name(0): "first trial"} | ({trial_name(1): "without search"} if config.search.starts else {})
    known = {candidate.name: candidate for candidate in candidates}
    return {label: with_weights(run_folder, known[name]) for name, label in labels.items() if name in known}
