"""The Optuna study of a search: the names and attributes of its trials, how it is read and how it is repaired.

The sampler is also created here: using another one means changing one line of `sampler`.
"""

import logging
import sqlite3
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from nic_ray.config import SearchConfig
from nic_ray.errors import InputError, in_one_line
from nic_ray.metrics.table import direction_of
from nic_ray.record import EndedTrial, add_ended, study_url
from nic_ray.space import Dimension
from nic_ray.train_config import METHOD_OF, counts

log = logging.getLogger("nic_ray.study")

NAME = "nic_ray"
"""Name of the study in its file."""
STATUS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}
"""How a trial ended, in the words of `trials.csv`."""
_REPEAT = "-seed-"


@dataclass(frozen=True)
class Course:
    """The course of a trial: how it ended, and its evaluations."""

    name: str
    status: str
    points: tuple[tuple[float, float], ...]
    """(epoch, value) of each evaluation, with the sign of the objective itself."""


def trial_name(number: int) -> str:
    """The name of the trial with the given number in the study."""
    return f"trial-{number:03d}"


def trial_number(name: str) -> int | None:
    """The number of a trial named by `trial_name`; None for any other name, such as that of a repeated trial."""
    digits = name.removeprefix("trial-")
    return int(digits) if digits.isdigit() and name != digits else None


def repeat_name(trial: str, seed: int) -> str:
    """The name of the trial that trains the configuration of another one again with a seed."""
    return f"{trial}{_REPEAT}{seed}"


def repeated_trial(name: str) -> str:
    """The trial whose configuration a trial trains again; the trial itself if it is none that was repeated."""
    return name.partition(_REPEAT)[0]


def epoch_attribute(evaluation: int) -> str:
    """Name of the trial's user attribute that holds the epoch of an evaluation; evaluations are counted from 1."""
    return f"epoch at {evaluation}"


def evaluations(trial: FrozenTrial) -> list[tuple[float, float]]:
    """(epoch, objective) of each evaluation that was reported to the study, in order."""
    return [
        (float(trial.user_attrs[epoch_attribute(number)]), value)
        for number, value in sorted(trial.intermediate_values.items())
        if epoch_attribute(number) in trial.user_attrs
    ]


def storage(study_file: Path) -> optuna.storages.RDBStorage:
    """Open the SQLite file that holds a study, as Optuna's storage.

    SQLite does not wait for the disk at each of the 17 changes of a trial, which takes a tenth of a second. What is
    written survives the death of the process all the same. A power failure may damage the file: then the study is made
    anew from the ledger, see `rebuild_study`.
    """
    opened = optuna.storages.RDBStorage(study_url(study_file))
    event.listen(opened.engine, "connect", _without_waiting)
    opened.engine.dispose()  # so that what connects from now on does not wait
    return opened


def _without_waiting(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def keep_quiet() -> None:
    """Keep Optuna's messages off the terminal: they go to the run's log only."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()


def open_study(study_file: Path) -> optuna.Study | None:
    """Open the study that an earlier run has left; None if there is none.

    Raises:
        InputError: the file exists but cannot be read.
    """
    keep_quiet()
    if not study_file.exists():
        return None
    try:
        _refuse_damaged(study_file)
        study = optuna.load_study(study_name=NAME, storage=storage(study_file))
        study.get_trials()  # reads the whole file
    except KeyError:  # the run was interrupted before it created the study
        return None
    except (SQLAlchemyError, sqlite3.Error, RuntimeError) as error:
        raise InputError(f"{study_file}: cannot be read ({in_one_line(error)})") from None
    return study


def _refuse_damaged(study_file: Path) -> None:
    """Check the pages of a file: a power failure may leave one that can be read, in part."""
    with closing(sqlite3.connect(study_file)) as connection:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def sampler(search: SearchConfig, known: int, *, conditional: bool = False) -> optuna.samplers.BaseSampler:
    """The sampler that proposes configurations.

    Args:
        known: number of trials in the study, added to the seed so that a resumed search does not draw the first
            samples again.
        conditional: whether some hyperparameters are drawn for some trials only.
    """
    options = {"multivariate": True, "constant_liar": True, "n_startup_trials": search.startup_trials}
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return optuna.samplers.TPESampler(**options, group=conditional, seed=search.seed + known)


DECIDING = ("method", "frozen_share")
"""Hyperparameters whose values decide which others count."""


def is_conditional(space: Container[str]) -> bool:
    """Whether some hyperparameters of a space are drawn for some trials only."""
    by_method = "method" in space and any(name in space for name in METHOD_OF)
    return by_method or ("frozen_share" in space and "frozen_layers" in space)


def draw(trial: optuna.Trial, space: Mapping[str, Dimension]) -> None:
    """Draw the values of a trial from a conditional space: those that decide, then those that count beside them."""
    values: dict[str, Any] = {}
    for name in sorted(space, key=lambda name: name not in DECIDING):
        if not counts(name, values, METHOD_OF.get(name, "")):
            continue
        dimension = space[name]
        bounds = dimension.log_uniform or dimension.uniform
        if bounds is None:
            values[name] = trial.suggest_categorical(name, list(dimension.choice or ()))
        else:
            values[name] = trial.suggest_float(name, *bounds, log=dimension.log_uniform is not None)


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """The Optuna distribution from which the values of a hyperparameter are drawn."""
    if dimension.choice is not None:
        return CategoricalDistribution(dimension.choice)
    bounds = dimension.log_uniform or dimension.uniform
    assert bounds is not None
    return FloatDistribution(*bounds, log=dimension.log_uniform is not None)


def space_of(study: optuna.Study) -> dict[str, Dimension]:
    """The search space that the trials of a study were drawn from; empty if there is none yet."""
    drawn = {name: distribution for trial in study.trials for name, distribution in trial.distributions.items()}
    return {name: _dimension_of(distribution) for name, distribution in drawn.items()}


def _dimension_of(distribution: Any) -> Dimension:
    if isinstance(distribution, CategoricalDistribution):
        return Dimension(choice=distribution.choices)
    bounds = (distribution.low, distribution.high)
    return Dimension(log_uniform=bounds) if distribution.log else Dimension(uniform=bounds)


def end_unfinished(study: optuna.Study, run_folder: Path, reason: str) -> None:
    """Record in the study and in ended.jsonl the trials that were ended from outside.

    A trial that has an evaluation is recorded as stopped, any other as failed for the given reason. Configurations that
    are still to be handed out stay for a resumed search.
    """
    for trial in study.trials:
        if trial.state.is_finished() or trial.state == TrialState.WAITING:
            continue
        state = TrialState.PRUNED if evaluations(trial) else TrialState.FAIL
        study.tell(trial.number, state=state)  # with its last value
        seconds = 0.0 if trial.datetime_start is None else (datetime.now() - trial.datetime_start).total_seconds()
        failure = f"{reason} before its first evaluation"
        add_ended(run_folder, trial_name(trial.number), _ledger_row(trial, state, seconds, failure))


def restore_ledger_rows(study: optuna.Study, run_folder: Path, known: Container[str]) -> None:
    """Record in ended.jsonl the trials that only the study lists as ended, since the run died between the two writes.

    Args:
        known: names of the trials that are already in ended.jsonl.
    """
    for trial in study.trials:
        if trial.state.is_finished() and trial_name(trial.number) not in known:
            seconds = trial.duration.total_seconds() if trial.duration else 0.0
            row = _ledger_row(trial, trial.state, seconds, "failed; why was lost")
            add_ended(run_folder, trial_name(trial.number), row)


def _ledger_row(trial: FrozenTrial, state: TrialState, seconds: float, failure: str) -> EndedTrial:
    """The record of a trial for ended.jsonl, from what the study holds; `failure` is the error of a failed trial."""
    error = failure if state == TrialState.FAIL else ""
    row = EndedTrial(status=STATUS[state], error=error, sample=trial.params, seconds=round(seconds, 1))
    if points := evaluations(trial):
        row["epoch"], row["objective"] = points[-1]
        row["evaluation"] = max(trial.intermediate_values)
    return row


def rebuild_study(study_file: Path, space: Mapping[str, Dimension], ended: Mapping[str, EndedTrial]) -> None:
    """Rebuild a damaged or lost study from the records of its trials; a damaged file is kept beside the new one.

    Args:
        space: the search space that the trials were drawn from.
        ended: from `record.read_ended`. Missing numbers, and trials without an objective, become failed trials.
    """
    states = {status: state for state, status in STATUS.items()}
    if study_file.exists():
        study_file.replace(study_file.with_suffix(".damaged"))
    study = optuna.create_study(study_name=NAME, storage=storage(study_file), direction="maximize")
    by_number = {number: row for name, row in ended.items() if (number := trial_number(name)) is not None}
    for number in range(max(by_number, default=-1) + 1):
        row = by_number.get(number)
        if row is None or "objective" not in row:
            study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
            continue
        evaluation = int(row["evaluation"])
        study.add_trial(
            optuna.trial.create_trial(
                state=states[row["status"]],
                value=row["objective"],
                params={name: row["sample"][name] for name in space if name in row["sample"]},
                distributions={
                    name: distribution_of(dimension) for name, dimension in space.items() if name in row["sample"]
                },
                intermediate_values={evaluation: row["objective"]},
                user_attrs={epoch_attribute(evaluation): row["epoch"]},
            )
        )


def read_courses(
    study_file: Path, statuses: Mapping[str, str], objective: str
) -> tuple[optuna.Study | None, tuple[Course, ...]]:
    """Read a study for plotting, and the courses of its trials; (None, ()) if there is no study or it is damaged.

    In the returned study, every ended trial that has a value counts as complete, because Optuna does not plot trials
    that were stopped early, and nearly all of them are.

    Args:
        statuses: how trials ended, by name, as far as it is known.
        objective: the metric that the study maximised; values of an objective of which less is better are given as they
            are, not negated as Optuna has them.
    """
    direction = direction_of(objective)
    trials = _trials_in(study_file)
    if trials is None:
        return None, ()
    drawn = optuna.create_study(direction="maximize" if direction > 0 else "minimize")
    for trial in trials:
        usable = trial.value is not None and trial.state.is_finished()
        drawn.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if usable else TrialState.FAIL,
                value=direction * trial.value if usable else None,
                params=trial.params,
                distributions=trial.distributions,
            )
        )
    names = [trial_name(trial.number) for trial in trials]
    return drawn, tuple(
        Course(
            name,
            statuses.get(name, STATUS.get(trial.state, "cut off")),
            tuple((epoch, direction * value) for epoch, value in evaluations(trial)),
        )
        for name, trial in zip(names, trials, strict=True)
    )


def _trials_in(study_file: Path) -> Sequence[FrozenTrial] | None:
    if not study_file.exists():
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with _opened(study_file) as opened:
            names = optuna.get_all_study_names(opened)
            return optuna.load_study(study_name=names[0], storage=opened).trials if names else []
    except Exception as error:  # damage raises errors of many types, and only the study's figures are lost
        log.warning("%s: cannot be read (%s)", study_file, in_one_line(error))
        return None


@contextmanager
def _opened(study_file: Path) -> Iterator[optuna.storages.RDBStorage]:
    opened = storage(study_file)
    try:
        yield opened
    finally:
        opened.engine.dispose()
