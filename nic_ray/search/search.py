"""A search, from its settings to the exported model: trials under Ray, selection, the single test reading, export."""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from nic_ray import hardware
from nic_ray.bundle.question_kinds import caution_of
from nic_ray.config import DEFAULT_RETENTION_SET, Config
from nic_ray.dataset.pairs import Collection, index_pairs, read_pairs
from nic_ray.errors import InputError
from nic_ray.progress import View
from nic_ray.record import locked, logging_to, training_log, warnings_logged
from nic_ray.remote import push, remove
from nic_ray.search import session
from nic_ray.search.outcome import copy_results, note_test_reading, write_report, write_result, write_trials
from nic_ray.search.placement import trains_on_gpus
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
from nic_ray.search.trained import SearchedTrials, run_all_trials, with_weights
from nic_ray.selection.averaging import SIZES
from nic_ray.selection.export import export
from nic_ray.selection.folds import cross_fit
from nic_ray.selection.refit import refit
from nic_ray.selection.selection import Contestants, Judgement, SearchResult, judge
from nic_ray.training.bases import Bases, describe_bases, prepare_bases
from nic_ray.training.distractors import describe_corpus
from nic_ray.training.start import describe_data, describe_run, named_passages, refuse_other_start

LOGGED = (
    "nic_ray.progress",
    "nic_ray.trackers",
    "nic_ray.report",
    "nic_ray.study",
    "nic_ray.cache",
    "ray",
    "optuna",
    "mlflow",
    "alembic",
    "py.warnings",
)
"""Loggers whose messages go to the run's log instead of the terminal."""


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
    with session.workers_forked():
        bases = prepare_bases(config, on_gpu=may_use_a_gpu_here(config), runs=where.run_root, view=view)
        run = begin_run(bases, where, overwrite=overwrite, export_anyway=export_anyway)
        return _search(bases, run, retention_pairs, runs_trials=True, view=view)


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
    with session.workers_forked():
        bases = prepare_bases(config, on_gpu=on_gpu, constrained=False, runs=runs, view=view)
        for prepared in bases.prepared.values():
            refuse_other_start(prepared, started, run.folder)
        keep_trials(run, config.search.trials)
        return _search(bases, run, retention_pairs, runs_trials=runs_trials, view=view)


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
    bases: Bases, run: Run, retention_pairs: Collection | None, *, runs_trials: bool, view: View
) -> SearchResult:
    """Search as far as that has not been done, select a model, export it."""
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
        import_ray()
        with ray_session(view):
            searched = run_all_trials(bases, run, retention_pairs, runs_trials=runs_trials, view=view)
            return _selected(searched, run, view)


def _selected(searched: SearchedTrials, run: Run, view: View) -> SearchResult:
    """Select a model and export it."""
    write_trials(run.files.trials, searched.rows)
    related = sum(other.config.kind == searched.best[0].config.kind for other in searched.best)
    if related > 1 and searched.first.config.search.averaged_trials != 1:
        most = min(related, SIZES[-1])
        view.say(f"averaging: trying whether the mean of up to {most} of the best trials is better than the best one")
    judgement = judge(
        searched.base.prepared,
        searched.base.inputs,
        Contestants(
            searched.unsearched,
            searched.best,
            searched.confirmations,
            functools.partial(with_weights, run.folder),
            searched.others,
        ),
        searched.base.retention_set,
        export_anyway=run.export_anyway,
        say=view.say,
        note_reading=functools.partial(note_test_reading, run, searched.first),
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
            searched.base,
            judgement,
            better=next((base for base in searched.others.values() if base.prepared.encoder.name == best), None),
            export_anyway=run.export_anyway,
            train=searched.train,
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


def _export(searched: SearchedTrials, judgement: Judgement, run: Run, view: View) -> Judgement:
    """Train on all rows if `refit` says so, write the bundle, and its copy if `storage` is a URI.

    Returns:
        the judgement, with the evidence for the model that was trained again.
    """
    base, model = searched.base, judgement.tuned
    prepared = base.prepared
    given = (prepared, base.inputs, judgement, base.retention_set)
    model, judgement = refit(*given, train=searched.train, folder=run.files.refits, say=view.say)
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
