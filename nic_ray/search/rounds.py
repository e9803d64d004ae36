"""The trials of a search: the remaining ones are run, then the best of all are trained again with other seeds."""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import optuna
import ray
from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from nic_ray.config import Config, trial_config
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import TrialRow
from nic_ray.metrics.table import PRIMARY, TIE_BREAKER, maximised
from nic_ray.model.activations import Inputs, upper_for
from nic_ray.model.cache import StoredInputs, opened
from nic_ray.progress import TrialBatch, View
from nic_ray.record import checkpoints, last_state, read_ended
from nic_ray.remote import exists, folders, pull
from nic_ray.run_folder import RunFolder
from nic_ray.search import ray_hooks, worker
from nic_ray.search.base_embeddings import kept_general_texts
from nic_ray.search.placement import Placement
from nic_ray.search.ray_hooks import Sample, TuneResult
from nic_ray.search.ray_private import uncounted
from nic_ray.search.run import Run
from nic_ray.selection.averaging import SIZES, worth
from nic_ray.selection.candidates import Candidate, Confirmation, best_first, best_of, confirm
from nic_ray.selection.retention import RetentionSet, retention_of
from nic_ray.study import (
    end_unfinished,
    open_study,
    rebuild_study,
    repeat_name,
    repeated_trial,
    restore_ledger_rows,
    trial_name,
    trial_number,
)
from nic_ray.train_config import Kind, TrainConfig, drawn
from nic_ray.training.prepared import Prepared

EXPERIMENT, CONFIRMING = "ray", "confirm"
"""Tune's folders inside a run folder."""


@dataclass(frozen=True)
class SearchSetup:
    """The data, places and limits that all rounds of a search have in common."""

    prepared: Prepared
    """For the base model of the first trial."""
    run: Run
    placement: Placement
    inputs: worker.TrialInputs
    base: Mapping[str, float]
    """Flat validation metrics of the base model, of several the best one."""
    trackers: Sequence[Callback]
    """Callbacks that record trials elsewhere."""
    deadline: float
    """Time on the monotonic clock after which no trial continues."""
    runs_trials: bool
    """Whether trials are run; if not, existing results are only read."""
    view: View
    others: Mapping[Kind, Prepared] = field(default_factory=dict)
    """The same data and settings for the kinds of models that the first trial does not belong to."""

    def of(self, kind: Kind) -> Prepared:
        """Return the data and settings for a kind of model."""
        return self.others.get(kind, self.prepared)


@dataclass(frozen=True)
class RoundResult:
    """The results of the trials of a round."""

    best: list[Candidate]
    """The best evaluation of each trial that has one, without weights, best first."""
    rows: list[TrialRow]
    """A row of trials.csv for each trial that began."""


def trial_inputs(
    bases: Mapping[str, tuple[Prepared, Mapping[int, Inputs | StoredInputs]]], placement: Placement, run: Run
) -> worker.TrialInputs:
    """Collect the inputs and settings of every trial, and put its large values into Ray's object store once.

    Args:
        bases: base model, that of the first trial first -> what is prepared for it, and its inputs by depth.
    """
    prepared, _ = next(iter(bases.values()))
    config = prepared.config
    return worker.TrialInputs(
        base=config.train,
        objective=config.search.objective,
        train_rows=prepared.rows("train"),
        validation_rows=prepared.rows("validation"),
        collection=ray.put(prepared.collection),
        bases={name: base_inputs(*own, run.folder.parent) for name, own in bases.items()},
        others=ray.put(prepared.others),
        workers=placement.workers,
        gpus_per_worker=placement.gpus_per_worker,
        concurrent=placement.concurrent,
        threads=placement.threads,
        run_folder=run.folder,
        mirror=run.mirror,
    )


def base_inputs(prepared: Prepared, inputs: Mapping[int, Inputs | StoredInputs], runs: Path) -> worker.BaseInputs:
    """Put what the trials of one base model read into Ray's object store; `runs` as for `kept_general_texts`."""
    return worker.BaseInputs(
        blocks=prepared.encoder.blocks,
        inputs={depth: ray.put(replace(at_depth, fixed=None)) for depth, at_depth in inputs.items()},
        fixed=ray.put(inputs[max(inputs)].fixed),
        uppers={depth: ray.put(upper_for(prepared.encoder, opened(at_depth))) for depth, at_depth in inputs.items()},
        general=ray.put(kept_general_texts(prepared, opened(inputs[max(inputs)]), runs)),
    )


def run_search_trials(setup: SearchSetup) -> dict[str, Sample]:
    """Run the remaining trials of a search; return the samples of all trials in its study, by name."""
    config, run_folder, view = setup.prepared.config, setup.run.folder, setup.view
    study = study_of(run_folder, config, view.say)
    if study is not None:
        restore_ledger_rows(study, run_folder, read_ended(run_folder))
    before = [] if study is None else study.trials
    left = config.search.trials - sum(trial.state.is_finished() for trial in before)
    if setup.runs_trials and left > 0:
        done = f"{config.search.trials - left} of {config.search.trials} trials are done; " if before else ""
        view.say(f"{done}{_describe_trials(left, setup.placement)}")
        cut_off = {
            trial.number: newest_checkpoint(run_folder, trial_name(trial.number))
            for trial in before
            if trial.state == optuna.trial.TrialState.RUNNING
        }
        run_round(
            setup,
            _batch(setup, "search", left, config.train.epochs, best_before(run_folder, before)),
            experiment=EXPERIMENT,
            searcher=ray_hooks.study_search(config, RunFolder(run_folder).study, cut_off),
            scheduler=ray_hooks.asha(config.search, config.train.epochs, study),
        )
        study = open_study(RunFolder(run_folder).study)
        if study is not None and time.monotonic() >= setup.deadline:
            view.say("the time budget is used up")
            end_unfinished(study, run_folder, "out of time")
            study = open_study(RunFolder(run_folder).study)
    fetch_checkpoints(setup.run)
    return {} if study is None else {trial_name(trial.number): trial.params for trial in study.trials}


def run_trials_again(setup: SearchSetup, finalists: Sequence[Candidate]) -> dict[str, Sample]:
    """Train configurations again with other seeds, unless that has been done; return the samples of all such trials.

    Args:
        finalists: the best candidates of the search; with fewer than two there is nothing to compare.

    Returns:
        samples by name, including those from an earlier end of this search whose configurations are no longer the best.
    """
    run_folder = setup.run.folder
    samples = {} if len(finalists) < 2 else retraining_samples(finalists, setup.prepared.config)
    ended = read_ended(run_folder)
    missing = [
        {**sample, worker.START_CHECKPOINT: newest_checkpoint(run_folder, name)}
        for name, sample in samples.items()
        if name not in ended or ended[name]["status"] not in (*ray_hooks.COMPLETED, "failed")
    ]
    if setup.runs_trials and missing and time.monotonic() < setup.deadline:
        names = ", ".join(sample[ray_hooks.TRIAL_NAME] for sample in missing)
        setup.view.say(f"training the best again with other seeds: {names}")
        longest = max(sample[ray_hooks.END_EPOCH] for sample in missing)
        run_round(
            setup,
            _batch(setup, "again", len(missing), longest),
            experiment=CONFIRMING,
            searcher=ray_hooks.FixedSearch(missing),
            stop=ray_hooks.has_reached_its_end,
        )
    fetch_checkpoints(setup.run)
    if setup.run.mirror:
        ray_hooks.back_up(run_folder, setup.run.mirror)
    return {name: row["sample"] for name, row in ended.items() if trial_number(name) is None} | samples


def run_round(
    setup: SearchSetup,
    batch: TrialBatch,
    *,
    experiment: str,
    searcher: Searcher,
    scheduler: TrialScheduler | None = None,
    stop: Callable[[str, TuneResult], bool] | None = None,
) -> None:
    """Have Tune run a batch of trials until they have ended, or until the deadline.

    Args:
        experiment: Tune's folder inside the run folder; a number is added to the name if the folder exists already.
        searcher: hands out the samples.
        scheduler: stops weak trials; None stops no trial.
        stop: decides from a trial's id and its last result whether the trial should end.
    """
    interruptible, run = ray_hooks.Interruptible(), setup.run
    backup = [ray_hooks.Backup(run.folder, run.mirror)] if run.mirror else []
    recorders = [ray_hooks.Ledger(run.folder), *backup, *setup.trackers, ray_hooks.ProgressCallback(setup.view)]
    function = tune.with_parameters(worker.run_trial, shared=setup.inputs)
    remaining = None if math.isinf(setup.deadline) else max(1.0, setup.deadline - time.monotonic())
    tuner = tune.Tuner(
        ray_hooks.trial_class(function, trial_resources(setup.placement)),
        tune_config=tune.TuneConfig(
            num_samples=batch.trials,
            time_budget_s=remaining,
            max_concurrent_trials=setup.placement.concurrent,
            search_alg=searcher,
            scheduler=scheduler,
            trial_name_creator=ray_hooks.name_of,
            trial_dirname_creator=ray_hooks.name_of,
        ),
        run_config=tune.RunConfig(
            name=_free_name(run, experiment),  # Tune would add to an older folder
            **worker.storage_of(run.folder, run.mirror),
            verbose=0,
            stop=stop,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=worker.RETRIES),
            callbacks=[interruptible, *recorders],
        ),
    )
    setup.view.begin(batch)
    with interruptible, uncounted(ray_hooks.has_lost_its_node):
        tuner.fit()
    interruptible.end_if_asked()
    setup.view.end()


def trial_resources(placement: Placement) -> dict[str, float]:
    """Return the resources that Tune reserves for a trial. Workers of a distributed trial reserve theirs separately."""
    if placement.workers > 1:
        return {"CPU": 0.01}
    gpu = {"GPU": placement.gpus_per_worker} if placement.gpus_per_worker else {}
    return {"CPU": 1.0, **gpu}


def result_of_trials(
    setup: SearchSetup, samples: Mapping[str, Sample], retention_sets: Mapping[Kind, RetentionSet]
) -> RoundResult:
    """Collect the results that trials have left in the run folder.

    Args:
        samples: hyperparameters of each trial, by name.
        retention_sets: by kind of model, used to measure what trials have forgotten; without one it is not measured.
    """
    run_folder, objective = setup.run.folder, setup.prepared.config.search.objective
    ended = read_ended(run_folder)
    found: dict[str, Candidate] = {}
    rows: dict[str, TrialRow] = {}
    for name, whole_sample in samples.items():
        sample = {key: value for key, value in whole_sample.items() if key in TrainConfig.model_fields}
        state, end = last_state(run_folder, name), ended.get(name)
        if state is None and end is None:
            continue
        row = cast(TrialRow, {"trial": name, "status": end["status"] if end else "cut off", **sample})
        if state is not None:
            asked = trial_config(setup.prepared.config.train, sample)
            best = best_of(name, asked.of_base(asked.base_model, setup.of(asked.kind).encoder.blocks), state)
            epochs = best.epochs if end is None else end.get("epoch", best.epochs)
            if asked.frozen_share is not None:
                row = cast(TrialRow, row | {"frozen_layers": best.config.frozen_layers})
            found[name] = replace(best, weights={}, epochs=epochs)
            row = cast(TrialRow, row | {key: best.metrics[key] for key in (objective, f"{TIE_BREAKER}/macro")})
            row["best_epoch"] = best.metrics["epoch"]
            row["micro_batch_tokens"] = state.get("micro_batch_tokens", best.config.micro_batch_tokens)
            row["epochs"] = epochs
            row["seconds"] = end["seconds"] if end else 0.0
        row["error"] = end["error"] if end else ""
        rows[name] = row
    measured = _with_what_was_forgotten(setup, best_first([*found.values()], objective), retention_sets)
    for candidate in measured:
        if candidate.retention is not None:
            rows[candidate.name]["retention"] = candidate.retention[PRIMARY]
    return RoundResult(measured, [*rows.values()])


def _with_what_was_forgotten(
    setup: SearchSetup, candidates: Sequence[Candidate], retention_sets: Mapping[Kind, RetentionSet]
) -> list[Candidate]:
    """Measure what those candidates have forgotten that may be averaged, as far as there are retention sets.

    A candidate is averaged if its objective less what it has forgotten is among the best of its kind of model, so one
    whose objective alone is not cannot be. Those that are trained again are measured all the same: one of them wins.

    Args:
        candidates: best first, without weights.
    """
    config, returned = setup.prepared.config, list[Candidate]()
    objective, worths = config.search.objective, defaultdict[Kind, list[float]](list)
    for place, candidate in enumerate(candidates):
        alike = worths[candidate.config.kind]
        better = sum(other > maximised(candidate.metrics, objective) for other in alike)
        retention_set = retention_sets.get(candidate.config.kind)
        if retention_set is not None and (better < SIZES[-1] or place < config.confirm.trials):
            state = last_state(setup.run.folder, candidate.name)
            assert state is not None  # it has been read before
            whole = replace(candidate, weights=state["best"]["upper"])
            prepared = setup.of(candidate.config.kind)
            candidate = replace(candidate, retention=retention_of(prepared, retention_set, whole))
            alike.append(worth(candidate, objective))
        returned.append(candidate)
    return returned


def pick_winner(
    setup: SearchSetup, finalists: Sequence[Candidate], again: RoundResult
) -> tuple[Candidate, list[Confirmation]]:
    """Choose the best configuration over its seeds, and report what is known of those that were tried again.

    Args:
        finalists: configurations of the search.
        again: the trials that trained them again.

    Returns:
        the candidate, and the configurations, best first; no configurations if no second training was completed.
    """
    ended, objective = read_ended(setup.run.folder), setup.prepared.config.search.objective
    # a training that was cut off or has failed says nothing about its configuration
    completed = {name for name, row in ended.items() if row["status"] in ray_hooks.COMPLETED}
    known = [candidate for candidate in again.best if candidate.name in completed]
    tried = [[first, *(other for other in known if repeated_trial(other.name) == first.name)] for first in finalists]
    winner, confirmations = confirm(tried, objective)
    return winner, confirmations if known else []


def refuse_no_model(result: RoundResult) -> None:
    """Check that a search has a model to end with.

    Raises:
        RunError: no trial has reached an evaluation; the message gives the reasons.
    """
    if not result.best:
        reasons = sorted({str(row["error"]) for row in result.rows if row["error"]})
        listed = "\n  ".join(reasons or ["none has come to its first evaluation"])
        raise RunError(f"no trial produced a model:\n  {listed}")


def retraining_samples(candidates: Sequence[Candidate], config: Config) -> dict[str, Sample]:
    """Return samples by name, one per candidate and further seed, that train exactly as long as the candidate did."""
    samples = {}
    for candidate in candidates:
        for further in range(1, config.confirm.seeds + 1):
            seed = candidate.config.seed + further
            name = repeat_name(candidate.name, seed)
            values = {setting: getattr(candidate.config, setting) for setting in config.space}
            sample: Sample = dict(drawn(config.space, values, config.train.method))
            samples[name] = sample | {"seed": seed, ray_hooks.TRIAL_NAME: name, ray_hooks.END_EPOCH: candidate.epochs}
    return samples


def study_of(run_folder: Path, config: Config, say: Callable[[str], None]) -> optuna.Study | None:
    """Return the study of an earlier run, rebuilt if it is damaged or lost; None at the beginning."""
    ended, study_file = read_ended(run_folder), RunFolder(run_folder).study
    try:
        study = open_study(study_file)
        if study is not None or not ended:
            return study
        fault = f"{study_file}: is not there, or empty"
    except InputError as error:
        fault = str(error)
    say(f"{fault}; it is made anew from the trials that have ended")
    rebuild_study(study_file, config.space, ended)
    return open_study(study_file)


def newest_checkpoint(run_folder: Path, trial: str) -> str | None:
    """Return the path of a trial's newest checkpoint, relative to the run folder; None if it has none."""
    paths = checkpoints(run_folder, trial)
    return str(paths[0].relative_to(run_folder)) if paths else None


def best_before(run_folder: Path, trials: Sequence[optuna.trial.FrozenTrial]) -> tuple[str, Mapping[str, float]] | None:
    """Return the best of a study's trials and its metrics, for the view; None if none is known."""
    values = {
        trial_name(trial.number): max(trial.intermediate_values.values())
        for trial in trials
        if trial.intermediate_values
    }
    # only this trial's state is read: a checkpoint is several times as large as the weights that are trained
    best = max(values, key=values.__getitem__, default=None)
    state = None if best is None else last_state(run_folder, best)
    return None if best is None or state is None else (best, state["best"]["metrics"])


def fetch_checkpoints(run: Run) -> None:
    """Copy the files that trials, perhaps on other machines, have written to the mirror, if any, to the run folder."""
    if run.mirror:
        for name in folders(run.mirror):
            pull(run.mirror / name, run.folder / name)


def _batch(
    setup: SearchSetup, name: str, trials: int, epochs: float, best: tuple[str, Mapping[str, float]] | None = None
) -> TrialBatch:
    objective = setup.prepared.config.search.objective
    return TrialBatch(name, trials, epochs, objective, setup.base, setup.deadline, best)


def _describe_trials(trials: int, placement: Placement) -> str:
    gpus = f" and {placement.gpus_per_worker:g} GPU" if placement.gpus_per_worker else ""
    return (
        f"{trials} trials, {placement.concurrent} at a time, each with {placement.workers} worker(s) of "
        f"{placement.threads} thread(s){gpus}"
    )


def _free_name(run: Run, name: str) -> str:
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(
        free for free in names if not (run.folder / free).exists() and not (run.mirror and exists(run.mirror / free))
    )
