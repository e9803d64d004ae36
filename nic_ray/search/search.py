"""A search, from its settings to the exported model: trials under Ray, selection, the single test reading, export."""

import functools
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nic_ray import hardware
from nic_ray.bundle.question_kinds import caution_of
from nic_ray.config import DEFAULT_RETENTION_SET, Config
from nic_ray.dataset.pairs import Collection, index_pairs, read_pairs
from nic_ray.errors import InputError
from nic_ray.evidence import Evidence, TrialRow
from nic_ray.metrics.table import maximised
from nic_ray.model.activations import Inputs
from nic_ray.model.cache import StoredInputs, budget, inputs_by_depth, layout_of, opened, what_is_left
from nic_ray.model.encoder import Encoder
from nic_ray.progress import View
from nic_ray.record import last_state, locked, logging_to, training_log, warnings_logged
from nic_ray.remote import push, remove
from nic_ray.search import session
from nic_ray.search.base_embeddings import untuned_metrics
from nic_ray.search.outcome import copy_results, note_test_reading, write_report, write_result, write_trials
from nic_ray.search.placement import Placement, trains_on_gpus
from nic_ray.search.run import (
    Run,
    begin_run,
    destination,
    explaining_a_full_disk,
    explaining_an_interrupt,
    keep_trials,
    reopen_run,
)
from nic_ray.search.session import import_ray, joins_a_cluster, ray_session, refuse_what_ray_cannot_use
from nic_ray.search.starts import starting_points
from nic_ray.selection.averaging import SIZES
from nic_ray.selection.bases import Base, costs_of
from nic_ray.selection.candidates import Candidate, Confirmation, best_first
from nic_ray.selection.export import export
from nic_ray.selection.folds import cross_fit
from nic_ray.selection.refit import refit
from nic_ray.selection.retention import load_retention_set
from nic_ray.selection.selection import Contestants, Judgement, SearchResult, judge
from nic_ray.train_config import Kind
from nic_ray.training.bases import Bases, describe_bases, kinds_of, prepare_bases
from nic_ray.training.distractors import describe_corpus
from nic_ray.training.prepared import Prepared, depths, with_fixed_passages
from nic_ray.training.start import describe_data, describe_run, named_passages, refuse_other_start

LOGGED = (
    "nic_ray.progress",
    "nic_ray.trackers",
    "nic_ray.report",
    "nic_ray.study",
    "ray",
    "optuna",
    "mlflow",
    "alembic",
    "py.warnings",
)
"""Loggers whose messages go to the run's log instead of the terminal."""


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
    on_gpus: bool = False
    """Whether the trials train on GPUs."""
    costs: Evidence = field(default_factory=lambda: Evidence())
    """What each base model, and an index that stays valid, cost and find; empty where there is one of each."""

    @property
    def base(self) -> Base:
        """The base model from which the best candidate was tuned, for its kind of model."""
        return self.bases[self.best[0].config.kind]

    @property
    def others(self) -> dict[Kind, Base]:
        """The base models of the other kinds."""
        return {kind: base for kind, base in self.bases.items() if base is not self.base}


def run_search(
    config: Config,
    *,
    out: Path,
    name: str,
    run_root: Path,
    overwrite: bool,
    export_anyway: bool = False,
    view: View,
) -> SearchResult:
    """Search, train the best again, average, interpolate with the base model, judge, read the test rows once, export.

    Args:
        out: folder that receives `name`/, the bundle; replaced by models/ in `storage` if that names a folder.
        run_root: folder that receives the run folder, `name`-<UTC time>; likewise replaced by runs/.
        overwrite: whether an existing bundle may be replaced, at the very end.
        export_anyway: export even a model that the guard objects to; the model card then says so.
        view: shows the progress.

    Raises:
        InputError: before anything is trained: unusable config, pairs, retention set, model, device or output folder.
        RunError: no trial produced a model, or the exported folder does not give the winner's numbers.
    """
    where = destination(config, out=out, name=name, run_root=run_root, overwrite=overwrite)
    if not config.space:
        raise InputError(
            "space: names nothing to search; add a hyperparameter, or train one configuration with "
            "python -m nic_ray.train"
        )
    _refuse_unusable_settings(config)
    starting_points(config)  # raises an error that says why there are none
    retention_pairs = _read_retention_set(config)
    with session.workers_forked() as until_trained:
        bases = prepare_bases(config, on_gpu=may_use_a_gpu_here(config), runs=where.run_root, view=view)
        run = begin_run(bases, where, overwrite=overwrite, export_anyway=export_anyway)
        return _search(bases, run, retention_pairs, until_trained, runs_trials=True, view=view)


def resume_search(
    where: str,
    *,
    runs_trials: bool,
    overwrite: bool,
    export_anyway: bool,
    further: Mapping[str, object] | None = None,
    view: View,
) -> SearchResult:
    """Resume a search that was cut off, and complete it as it was started.

    Trials that have ended stay as they are; those that were cut off resume from their last checkpoints.

    Args:
        where: run folder of the search, or the URI of its mirror, which is copied to runs/ first.
        runs_trials: whether trials are resumed and new ones started; if not, the best so far is judged and exported.
        overwrite: as in `run_search`, in addition to what the search was started with.
        export_anyway: likewise.
        further: as in `reopen_run`: more trials, or a time budget.

    Raises:
        InputError: there is no such run, its settings or its pairs have changed, or its bundle exists already.
        RunError: as `run_search`.
    """
    command = "tune --resume" if runs_trials else "export"
    run, config, started = reopen_run(where, command, overwrite=overwrite, export_anyway=export_anyway, further=further)
    _refuse_unusable_settings(config)
    retention_pairs = _read_retention_set(config)
    on_gpu, runs = may_use_a_gpu_here(config), run.folder.parent
    with session.workers_forked(wanted=runs_trials) as until_trained:
        bases = prepare_bases(config, on_gpu=on_gpu, constrained=False, runs=runs, view=view)
        for prepared in bases.prepared.values():
            refuse_other_start(prepared, started, run.folder)
        keep_trials(run, config.search.trials)
        return _search(bases, run, retention_pairs, until_trained, runs_trials=runs_trials, view=view)


def _refuse_unusable_settings(config: Config) -> None:
    """Check the GPU settings, what Ray needs, and the tracker if one is named, before pairs and model are read."""
    trains_on_gpus(config)  # raises an error that says why it cannot
    refuse_what_ray_cannot_use()
    if config.trackers.mlflow is not None:
        import_ray()
        from nic_ray.search import trackers

        trackers.tracker_callbacks(config.trackers, "")


def may_use_a_gpu_here(config: Config) -> bool:
    """Whether this process may compute on a GPU; in a cluster, perhaps only other nodes have any."""
    return trains_on_gpus(config) and (not joins_a_cluster() or torch.cuda.is_available())


def _read_retention_set(config: Config) -> Collection | None:
    path = config.guard.retention_set
    # a user who works in another folder and names no retention set has not asked for the default one
    if path is None or (path == DEFAULT_RETENTION_SET and not path.exists()):
        return None
    return index_pairs(read_pairs(path))


def _search(
    bases: Bases,
    run: Run,
    retention_pairs: Collection | None,
    until_trained: ExitStack,
    *,
    runs_trials: bool,
    view: View,
) -> SearchResult:
    """Search as far as that has not been done, select a model, export it.

    Args:
        until_trained: closed when all trials have ended.
    """
    with (
        locked(run.folder),
        logging_to(run.files.log, LOGGED),
        warnings_logged(),
        explaining_a_full_disk(run),
        explaining_an_interrupt(run),
    ):
        for line in itertools.chain(describe_run(bases.first), describe_bases(bases)):
            view.say(line)
        if retention_pairs is None:
            view.say(
                "no retention set: what is forgotten is not measured; name a file of pairs under guard.retention_set"
            )
        view.say(f"run folder: {run.folder}; if it is cut off: {run.resume_command}")
        hardware.keep_freed_memory()
        with until_trained:
            searched = _train(bases, run, retention_pairs, runs_trials=runs_trials, view=view)
        write_trials(run.files.trials, searched.rows)
        related = sum(other.config.kind == searched.best[0].config.kind for other in searched.best)
        if related > 1 and bases.first.config.search.averaged_trials != 1:
            most = min(related, SIZES[-1])
            view.say(
                f"averaging: trying whether the mean of up to {most} of the best trials is better than the best one"
            )
        judgement = judge(
            searched.base.prepared,
            searched.base.inputs,
            Contestants(
                searched.unsearched,
                searched.best,
                searched.confirmations,
                functools.partial(_with_weights, run.folder),
                searched.others,
            ),
            searched.base.retention_set,
            export_anyway=run.export_anyway,
            say=view.say,
            note_reading=functools.partial(note_test_reading, run, bases.first),
        )
        if searched.costs:
            judgement = replace(judgement, evidence={**judgement.evidence, **searched.costs})
        return _concluded(searched, judgement, run, view)


def _concluded(searched: SearchedTrials, judgement: Judgement, run: Run, view: View) -> SearchResult:
    """Hold every passage out once if the protocol says so, export what may be exported, write results and report."""
    prepared = searched.base.prepared
    if judgement.may_be_exported and prepared.config.data.protocol == "cross_fit":
        write_result(SearchResult(None, run.folder, judgement, searched.rows), prepared, bundle=None)
        best = judgement.evidence.get("best_base")
        judgement = cross_fit(
            prepared,
            searched.base.inputs,
            judgement,
            better=next((base for base in searched.others.values() if base.prepared.encoder.name == best), None),
            export_anyway=run.export_anyway,
            folder=run.files.folds,
            say=view.say,
        )
    folder = run.bundle if judgement.may_be_exported else None
    ranked = None if prepared.corpus is None else describe_corpus(prepared.corpus, named_passages(prepared))
    described = describe_data(prepared)
    caution = caution_of(described["data"], described["split"])
    result = SearchResult(folder, run.folder, judgement, searched.rows, ranked, caution)
    write_result(result, prepared, bundle=None)
    if folder is not None:
        result = replace(result, judgement=_export(searched, judgement, run, view))
        write_result(result, prepared, bundle=folder)
    write_report(run, view.say)
    copy_results(run)
    return result


def _train(
    bases: Bases, run: Run, retention_pairs: Collection | None, *, runs_trials: bool, view: View
) -> SearchedTrials:
    """Run the remaining trials, then train the best of all again with other seeds."""
    import_ray()
    from nic_ray.search import cluster, rounds, trackers

    config = bases.first.config
    recorders = trackers.tracker_callbacks(config.trackers, run.folder.name)
    joined = joins_a_cluster()
    with ray_session(view):
        placement = cluster.placement_on_cluster(config)
        formatted = cluster.in_format_of_trials(bases.prepared, placement, joined=joined)
        stored = _stored_inputs(formatted, run, placement, view)
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
        samples = rounds.run_search_trials(setup)
        # loaded only after the trials, none of which needs the retention set
        if retention_pairs is not None:
            bases_by_kind = {kind: _with_retention_set(base, retention_pairs) for kind, base in bases_by_kind.items()}
        retention_sets = {kind: base.retention_set for kind, base in bases_by_kind.items() if base.retention_set}
        searched = rounds.result_of_trials(setup, samples, retention_sets)
        rounds.refuse_no_model(searched)
        finalists = searched.best[: config.confirm.trials]
        again = rounds.result_of_trials(setup, rounds.run_trials_again(setup, finalists), retention_sets)
        winner, confirmations = rounds.pick_winner(setup, finalists, again)
        for confirmation in confirmations:
            view.say(_describe_confirmation(confirmation, objective))
    others = best_first([other for other in [*searched.best, *again.best] if other is not winner], objective)
    return SearchedTrials(
        bases_by_kind,
        _unsearched(run.folder, searched.best, config),
        [winner, *others],
        confirmations,
        searched.rows + again.rows,
        placement.gpus_per_worker > 0,
        costs_of(bases, metrics, searched.best, objective),
    )


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
    prepared: Mapping[str, Prepared], run: Run, placement: Placement, view: View
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
        chain = cluster.chain_on_cluster(placement, bf16=own.bf16)
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
    return {label: _with_weights(run_folder, known[name]) for name, label in labels.items() if name in known}


def _with_weights(run_folder: Path, candidate: Candidate) -> Candidate:
    """Return a candidate with the weights that its trial has left."""
    state = last_state(run_folder, candidate.name)
    assert state is not None  # it has been read before
    return replace(candidate, weights=state["best"]["upper"])


def _export(searched: SearchedTrials, judgement: Judgement, run: Run, view: View) -> Judgement:
    """Train on all rows if `refit` says so, write the bundle, and its copy if `storage` is a URI.

    Returns:
        the judgement, with the evidence for the model that was trained again.
    """
    base, model = searched.base, judgement.tuned
    prepared = base.prepared
    if searched.on_gpus and prepared.device == "cpu":
        view.say("the winner is not trained again on all rows: trials train on GPUs, and this process has none")
    else:
        given = (prepared, base.inputs, judgement, base.retention_set)
        model, judgement = refit(*given, folder=run.files.refits, say=view.say)
    view.say(f"exporting {model.name}{'' if model.measured else ', trained on all rows,'} to {run.bundle}")
    members = model.members or (model,)
    export(
        prepared,
        model,
        {**judgement.evidence, "results": judgement.results, "run": str(run.folder)},
        run.bundle,
        training_log="".join(training_log(run.folder, member.name) for member in members),
        overwrite=run.overwrite,
        view=view,
    )
    if run.bundle_mirror:
        view.say(f"copying it to {run.bundle_mirror}")
        remove(run.bundle_mirror)
        push(run.bundle, run.bundle_mirror)
    return judgement
