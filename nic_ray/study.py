"""The Optuna study of a search: how trials are named in it, what is noted beside them, how it is read and mended.

The sampler is made here, too: another one is one line of `sampler`.
"""

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from nic_ray.config import Dimension, SearchConfig
from nic_ray.errors import InputError
from nic_ray.record import EndedTrial, add_ended, study_url

log = logging.getLogger("nic_ray.study")

NAME = "nic_ray"
"""Of the study in its file."""
STATUS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}
"""How a trial ended, in the words of `trials.csv`."""


@dataclass(frozen=True)
class Course:
    """How a trial went."""

    name: str
    status: str
    points: tuple[tuple[float, float], ...]
    """(epoch, objective) of its evaluations."""


def trial_name(number: int) -> str:
    """The name of the trial that has this number in the study."""
    return f"trial-{number:03d}"


def trial_number(name: str) -> int | None:
    """The number behind a name of `trial_name`; None for any other name, such as that of a repeated trial."""
    digits = name.removeprefix("trial-")
    return int(digits) if digits.isdigit() and name != digits else None


def epoch_attribute(evaluation: int) -> str:
    """The user attribute of a trial that holds the epoch of one of its evaluations, 1 for the first."""
    return f"epoch at {evaluation}"


def evaluations(trial: FrozenTrial) -> list[tuple[float, float]]:
    """(epoch, objective) of each evaluation that the study was told of, the first one first."""
    return [
        (float(trial.user_attrs[epoch_attribute(number)]), value)
        for number, value in sorted(trial.intermediate_values.items())
        if epoch_attribute(number) in trial.user_attrs
    ]


def storage(study_file: Path) -> optuna.storages.RDBStorage:
    """The SQLite file that holds a study."""
    return optuna.storages.RDBStorage(study_url(study_file))


def keep_quiet() -> None:
    """Have Optuna say what it has to say in the run's log only."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()


def open_study(study_file: Path) -> optuna.Study | None:
    """The study that an earlier run has left; None if there is none.

    Raises:
        InputError: there is a file, and it cannot be read.
    """
    keep_quiet()
    if not study_file.exists():
        return None
    try:
        study = optuna.load_study(study_name=NAME, storage=storage(study_file))
        study.get_trials()  # reads the whole file
    except KeyError:  # the run was cut off before it made one
        return None
    except (SQLAlchemyError, RuntimeError) as error:
        raise InputError(f"{study_file}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return study


def sampler(search: SearchConfig, known: int) -> optuna.samplers.BaseSampler:
    """What proposes configurations.

    Args:
        known: trials that the study holds; a resumed search must not draw the first samples again.
    """
    return optuna.samplers.TPESampler(
        multivariate=True, constant_liar=True, n_startup_trials=search.startup_trials, seed=search.seed + known
    )


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """What Optuna draws the values of a hyperparameter from."""
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
    """Tell study and ledger of trials that were ended from outside: stopped with what they had, else failed."""
    for trial in study.trials:
        if trial.state.is_finished():
            continue
        state = TrialState.PRUNED if evaluations(trial) else TrialState.FAIL
        study.tell(trial.number, state=state)  # with its last value
        seconds = 0.0 if trial.datetime_start is None else (datetime.now() - trial.datetime_start).total_seconds()
        failure = f"{reason} before its first evaluation"
        add_ended(run_folder, trial_name(trial.number), _ledger_row(trial, state, seconds, failure))


def restore_ledger_rows(study: optuna.Study, run_folder: Path, known: Container[str]) -> None:
    """Write into the ledger what the study alone knows to have ended: the run died between the two.

    Args:
        known: names of the trials in the ledger.
    """
    for trial in study.trials:
        if trial.state.is_finished() and trial_name(trial.number) not in known:
            seconds = trial.duration.total_seconds() if trial.duration else 0.0
            row = _ledger_row(trial, trial.state, seconds, "failed; why was lost")
            add_ended(run_folder, trial_name(trial.number), row)


def _ledger_row(trial: FrozenTrial, state: TrialState, seconds: float, failure: str) -> EndedTrial:
    """What the ledger says of a trial, as far as the study knows it; `failure` is for one that failed."""
    error = failure if state == TrialState.FAIL else ""
    row = EndedTrial(status=STATUS[state], error=error, sample=trial.params, seconds=round(seconds, 1))
    if points := evaluations(trial):
        row["epoch"], row["objective"] = points[-1]
        row["evaluation"] = max(trial.intermediate_values)
    return row


def rebuild_study(study_file: Path, space: Mapping[str, Dimension], ended: Mapping[str, EndedTrial]) -> None:
    """Make a damaged or lost study anew from how its trials ended; a damaged one is kept beside it.

    Args:
        space: what the trials were drawn from.
        ended: from `record.read_ended`. Numbers that are missing in between become failed trials.
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
                params={name: row["sample"][name] for name in space},
                distributions={name: distribution_of(dimension) for name, dimension in space.items()},
                intermediate_values={evaluation: row["objective"]},
                user_attrs={epoch_attribute(evaluation): row["epoch"]},
            )
        )


def read_courses(study_file: Path, statuses: Mapping[str, str]) -> tuple[optuna.Study | None, tuple[Course, ...]]:
    """A study for drawing, and how its trials went; (None, ()) where there is none, or it is damaged.

    Every trial that has a value counts as complete in it: Optuna draws no trial that was stopped early, and nearly
    all of them are.

    Args:
        statuses: how trials ended, by name, as far as that is known.
    """
    trials = _trials_in(study_file)
    if trials is None:
        return None, ()
    drawn = optuna.create_study(direction="maximize")
    for trial in trials:
        usable = trial.value is not None and trial.state.is_finished()
        drawn.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if usable else TrialState.FAIL,
                value=trial.value if usable else None,
                params=trial.params,
                distributions=trial.distributions,
            )
        )
    names = [trial_name(trial.number) for trial in trials]
    return drawn, tuple(
        Course(name, statuses.get(name, STATUS.get(trial.state, "cut off")), tuple(evaluations(trial)))
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
    except Exception as error:  # damage has many faces, and costs the figures of the study only
        log.warning("%s: cannot be read (%s)", study_file, " ".join(str(error).split())[:200])
        return None


@contextmanager
def _opened(study_file: Path) -> Iterator[optuna.storages.RDBStorage]:
    opened = storage(study_file)
    try:
        yield opened
    finally:
        opened.engine.dispose()
