"""Ray Tune's searcher, scheduler and trial class, with what this project needs changed."""

import math
import signal
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.trainable.function_trainable import wrap_function
from sqlalchemy.exc import SQLAlchemyError

from nic_ray.config import Config, Dimension, SearchConfig, TrainConfig
from nic_ray.errors import InputError, RunError
from nic_ray.mirror import Mirror, push, push_database
from nic_ray.progress import View
from nic_ray.record import ENDED, STUDY_FILE, add_ended, study_url

OBJECTIVE = "objective"
STUDY = "nic_ray"
STATUS = {
    optuna.trial.TrialState.COMPLETE: "finished",
    optuna.trial.TrialState.PRUNED: "stopped",
    optuna.trial.TrialState.FAIL: "failed",
}
WHOLE = ("finished", "repeated")
"""How a training ends that was trained for as long as it should be."""
NUMBER = "number"
START = "start"
"""Folder of the checkpoint that a trial goes on from, in the run folder."""
NAME = "name"
UNTIL = "until"
"""Epochs after which a trial of `Listed` ends, however many it was planned for."""


class StudySearch(OptunaSearch):
    """OptunaSearch that numbers its trials, tells the study which were stopped early, and goes on with those cut off.

    Ray tells Optuna COMPLETE for a trial that ASHA stopped, so that TPE takes the value after one epoch for
    that of a full training. Here it is PRUNED, with the value it had.
    """

    def __init__(self, *args: Any, cut_off: Mapping[int, str | None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._cut_off = dict(cut_off)
        self._told: dict[str, set[int]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The sample, and under "number" the trial's number in the study: 0 is the first.

        Trials that an earlier run of the study left unfinished come first, with what they go on from.
        """
        if not self._cut_off:
            sample = super().suggest(trial_id)
            return None if sample is None else {**sample, NUMBER: self._ot_trials[trial_id].number}
        number = min(self._cut_off)
        start = self._cut_off.pop(number)
        left = next(each for each in self._ot_study.trials if each.number == number)
        self._ot_trials[trial_id] = optuna.trial.Trial(self._ot_study, left._trial_id)
        self._told[trial_id] = set(left.intermediate_values)
        return {**left.params, NUMBER: number, START: start}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an intermediate value; its step is the number of the evaluation, and its epoch is kept beside."""
        evaluation = int(result["evaluation"])
        if evaluation in self._told.setdefault(trial_id, set()):
            return  # the trial died behind it and has come to it again
        self._told[trial_id].add(evaluation)
        self._ot_trials[trial_id].set_user_attr(f"epoch at {evaluation}", result["epoch"])
        super().on_trial_result(trial_id, {**result, "training_iteration": evaluation})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended. `result` is its last one."""
        if result and not error and not result.get("finished"):
            self.on_trial_result(trial_id, result)
            result = None  # Optuna then takes the last intermediate value, and PRUNED
        super().on_trial_complete(trial_id, result, error)


class Listed(Searcher):
    """Hands out samples of a list, one after the other. Each has a "name"."""

    def __init__(self, samples: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._left = list(samples)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next one."""
        return dict(self._left.pop(0)) if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn nothing."""


def end_of(trial: Any) -> str:
    """How a trial ended that did not fail: "finished", "stopped" early, or "repeated" one that was."""
    last = trial.last_result or {}
    if last.get("finished"):
        return "finished"
    return "repeated" if last.get("epoch", 0.0) >= trial.config.get(UNTIL, math.inf) else "stopped"


def has_run_long_enough(trial_id: str, result: dict[str, Any]) -> bool:
    """Whether a trial of `Listed` has come to its end; one that ends by itself is not to be killed."""
    return bool(result["epoch"] >= result["config"][UNTIL] and not result.get("finished"))


class FinishingAsha(ASHAScheduler):
    """ASHA that remembers earlier runs of its study, and lets a trial end by itself after its last evaluation.

    The first trial, the default configuration, is never stopped: what others are held against must not depend on which
    of them came to a rung before it. Its values count at the rungs as others' do.

    Ray forgets the rungs when a search is resumed, so that the next trial to come would be the first again and go on
    whatever it is worth. And it kills a trial that it stops; one that has nothing left to do is not worth killing,
    and would count as stopped early.
    """

    def __init__(self, *args: Any, past: Mapping[int, Sequence[tuple[float, float]]], **options: Any) -> None:
        """Fill the rungs.

        Args:
            past: by number of the trial, (epoch, value) of its evaluations in order.
        """
        super().__init__(*args, **options)
        for number, evaluations in past.items():
            for epoch, value in evaluations:
                for milestone, recorded in self._brackets[0]._rungs:
                    if epoch >= milestone and _past(number) not in recorded:
                        recorded[_past(number)] = value
                        break  # as ASHA does: a value counts at one rung, the highest that it has reached

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Know a trial again that was cut off."""
        super().on_trial_add(tune_controller, trial)
        for _, recorded in self._brackets[0]._rungs:
            if _past(trial.config.get(NUMBER)) in recorded:
                recorded[trial.trial_id] = recorded.pop(_past(trial.config[NUMBER]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        goes_on = result.get("finished") or trial.config.get(NUMBER) == 0
        return TrialScheduler.CONTINUE if goes_on else decision


class Ledger(Callback):
    """Writes down in the run folder how each trial ended."""

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It was finished, stopped or repeated."""
        self._add(trial, end_of(trial), "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed."""
        self._add(trial, "failed", failure_of(trial))

    def _add(self, trial: Any, status: str, error: str) -> None:
        last = trial.last_result or {}
        sample = {name: value for name, value in trial.config.items() if name in TrainConfig.model_fields}
        row = {"status": status, "error": error, "sample": sample, "seconds": round(last.get("time_total_s", 0.0), 1)}
        told = {name: last[name] for name in ("epoch", "evaluation", OBJECTIVE) if name in last}
        add_ended(self._run_folder, str(trial), row | told)


class Backup(Callback):
    """Copies what the driver alone knows to a mirror whenever it has changed: the study and the ledger."""

    def __init__(self, run_folder: Path, mirror: Mirror) -> None:
        self._run_folder, self._mirror = run_folder, mirror

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is in the study."""
        self._copy()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has a value."""
        self._copy()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has ended."""
        self._copy()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has failed."""
        self._copy()

    def _copy(self) -> None:
        with suppress(RunError):  # the next one may get through; the last one, at the end, has to
            back_up(self._run_folder, self._mirror)


class Told(Callback):
    """Tells a view how trials go."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __reduce__(self) -> tuple[type["Told"], tuple[View]]:
        # Tune writes its callbacks to disk, where a terminal cannot go
        return Told, (View(),)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """With its configuration."""
        self._view.started(str(trial), shown_sample(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """With an evaluation."""
        self._view.evaluated(str(trial), result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has died and is started again."""
        self._view.restarted(str(trial), failure_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It was finished, stopped or repeated."""
        self._view.ended(str(trial), end_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed."""
        self._view.ended(str(trial), "failed", failure_of(trial))


class Interruptible(Callback):
    """Ends a run of trials at Ctrl-C, between two of Tune's steps; a second Ctrl-C ends it wherever it is.

    The exception may come to light anywhere in Ray's code, and where that discards exceptions the search would go on.
    """

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> "Interruptible":
        self._before = signal.signal(signal.SIGINT, self._ask) if _is_main_thread() else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End it if that was asked for."""
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """Raise what Ctrl-C is expected to raise."""
        if self._asked:
            raise KeyboardInterrupt

    def _ask(self, signum: int, frame: object) -> None:
        self.end_if_asked()
        self._asked = True


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def back_up(run_folder: Path, mirror: Mirror) -> None:
    """Copy the study and the ledger to a mirror.

    Raises:
        RunError: it cannot be written to.
    """
    if (run_folder / STUDY_FILE).exists():
        push_database(run_folder / STUDY_FILE, mirror / STUDY_FILE)
    if (run_folder / ENDED).exists():
        push(run_folder / ENDED, mirror / ENDED)


def open_study(study_file: Path) -> optuna.Study | None:
    """The study that an earlier run has left; None if there is none.

    Raises:
        InputError: there is a file, and it cannot be read.
    """
    _keep_optuna_quiet()
    if not study_file.exists():
        return None
    try:
        study = optuna.load_study(study_name=STUDY, storage=_storage(study_file))
        study.get_trials()  # reads the whole file
    except KeyError:  # the run was cut off before it made one
        return None
    except (SQLAlchemyError, RuntimeError) as error:
        raise InputError(f"{study_file}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return study


def space_of(study: optuna.Study) -> dict[str, Dimension]:
    """The search space that the trials of a study were drawn from; empty if there is none yet."""
    drawn = {name: each for trial in study.trials for name, each in trial.distributions.items()}
    return {name: _dimension(each) for name, each in drawn.items()}


def end_unfinished(study: optuna.Study, run_folder: Path, reason: str) -> None:
    """Tell study and ledger of trials that were ended from outside: stopped with what they had, else failed."""
    for trial in study.trials:
        if trial.state.is_finished():
            continue
        # with the last value
        state = optuna.trial.TrialState.PRUNED if _evaluations(trial) else optuna.trial.TrialState.FAIL
        study.tell(trial.number, state=state)
        seconds = 0.0 if trial.datetime_start is None else (datetime.now() - trial.datetime_start).total_seconds()
        add_ended(
            run_folder, numbered(trial.number), _row(trial, state, seconds, f"{reason} before its first evaluation")
        )


def note_forgotten(study: optuna.Study, run_folder: Path, known: Container[str]) -> None:
    """Write into the ledger what the study alone knows to have ended: the run died between the two.

    Args:
        known: names of the trials in the ledger.
    """
    for trial in study.trials:
        if trial.state.is_finished() and numbered(trial.number) not in known:
            taken = trial.duration.total_seconds() if trial.duration else 0.0
            add_ended(run_folder, numbered(trial.number), _row(trial, trial.state, taken, "failed; why was lost"))


def _row(
    trial: optuna.trial.FrozenTrial, state: optuna.trial.TrialState, seconds: float, failure: str
) -> dict[str, Any]:
    """What the ledger says of a trial, as far as the study knows it; `failure` is for one that failed."""
    error = failure if state == optuna.trial.TrialState.FAIL else ""
    row = {"status": STATUS[state], "error": error, "sample": trial.params, "seconds": round(seconds, 1)}
    if not (evaluations := _evaluations(trial)):
        return row
    epoch, value = evaluations[-1]
    return row | {"epoch": epoch, OBJECTIVE: value, "evaluation": max(trial.intermediate_values)}


def rebuild_study(study_file: Path, config: Config, ended: Mapping[str, Mapping[str, Any]]) -> None:
    """Make a damaged or lost study anew from how its trials ended; a damaged one is kept beside it.

    Args:
        ended: from `record.read_ended`. Numbers that are missing in between become failed trials.
    """
    states = {status: state for state, status in STATUS.items()}
    if study_file.exists():
        study_file.replace(study_file.with_suffix(".damaged"))
    study = optuna.create_study(study_name=STUDY, storage=_storage(study_file), direction="maximize")
    by_number = {int(name.removeprefix("trial-")): row for name, row in ended.items() if name[6:].isdigit()}
    for number in range(max(by_number, default=-1) + 1):
        row = by_number.get(number)
        if row is None or OBJECTIVE not in row:
            study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
            continue
        step = int(row["evaluation"])
        study.add_trial(
            optuna.trial.create_trial(
                state=states[row["status"]],
                value=row[OBJECTIVE],
                params={name: row["sample"][name] for name in config.space},
                distributions={name: _distribution(dimension) for name, dimension in config.space.items()},
                intermediate_values={step: row[OBJECTIVE]},
                user_attrs={f"epoch at {step}": row["epoch"]},
            )
        )


def searcher(config: Config, study_file: Path, cut_off: Mapping[int, str | None]) -> StudySearch:
    """Optuna's TPE over the search space, first the configuration under `train`.

    Args:
        study_file: where the study is kept (sqlite).
        cut_off: numbers of trials that are in the study and not at their end, with the checkpoint of each.
    """
    _keep_optuna_quiet()
    search, study = config.search, open_study(study_file)
    known = 0 if study is None else len(study.trials)
    return StudySearch(
        {name: _distribution(dimension) for name, dimension in config.space.items()},
        metric=OBJECTIVE,
        mode="max",
        sampler=optuna.samplers.TPESampler(
            multivariate=True,
            constant_liar=True,
            n_startup_trials=search.startup_trials,
            seed=search.seed + known,  # a resumed search must not draw the first samples again
        ),
        points_to_evaluate=[] if known else [{name: getattr(config.train, name) for name in config.space}],
        storage=_storage(study_file),
        study_name=STUDY,
        cut_off=cut_off,
    )


def scheduler(search: SearchConfig, epochs: int, study: optuna.Study | None) -> FinishingAsha:
    """ASHA on our own epoch, which goes on where it was after a resume.

    Args:
        study: what earlier runs have left.
    """
    return FinishingAsha(
        time_attr="epoch",
        metric=OBJECTIVE,
        mode="max",
        max_t=epochs + 1,  # the last rung may lie at the last epoch
        grace_period=search.grace_period,
        reduction_factor=search.reduction_factor,
        past={} if study is None else {trial.number: _evaluations(trial) for trial in study.trials},
    )


def _evaluations(trial: optuna.trial.FrozenTrial) -> list[tuple[float, float]]:
    """(epoch, objective) of each evaluation that the study was told of."""
    told = sorted(trial.intermediate_values.items())
    return [
        (trial.user_attrs[f"epoch at {step}"], value) for step, value in told if f"epoch at {step}" in trial.user_attrs
    ]


def _past(number: int | None) -> str:
    """What stands for a trial of an earlier run, whose id nobody knows any more."""
    return f"past {number}"


def _keep_optuna_quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()  # what it warns of is for the run's log


def _storage(study_file: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(study_url(study_file))


def named_trainable(function: Callable[[dict[str, Any]], None]) -> type[Any]:
    """A trial class whose actors stand in Ray's lists under the trial's name."""
    base: Any = wrap_function(function)

    class Trial(base):
        def __repr__(self) -> str:
            return str(self.trial_name)

    return Trial


def trial_name(trial: Any) -> str:
    """The name of a trial: of its actor and of its folder."""
    return str(trial.config.get(NAME) or numbered(trial.config[NUMBER]))


def numbered(number: int) -> str:
    """The name of the trial with a number in the study."""
    return f"trial-{number:03d}"


def shown_sample(sample: Mapping[str, Any]) -> str:
    """A sample in one line."""
    values = {name: value for name, value in sample.items() if name not in (NUMBER, NAME, UNTIL, START)}
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def failure_of(trial: Any) -> str:
    """Why a trial failed, in one line."""
    if trial.error_file and Path(trial.error_file).exists():
        return reason_in(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
    return reason_in("")


def reason_in(traceback: str) -> str:
    """The last line of a traceback; of an error of our own only its message."""
    lines = traceback.strip().splitlines() or ["unknown reason"]
    reason = lines[-1].removeprefix(f"{RunError.__module__}.{RunError.__name__}: ")
    return reason.partition(" Some common causes include")[0]  # Ray adds a paragraph to each death


def _dimension(distribution: Any) -> Dimension:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return Dimension(choice=distribution.choices)
    bounds = (distribution.low, distribution.high)
    return Dimension(log_uniform=bounds) if distribution.log else Dimension(uniform=bounds)


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if dimension.choice is not None:
        return optuna.distributions.CategoricalDistribution(dimension.choice)
    bounds = dimension.log_uniform or dimension.uniform
    assert bounds is not None
    return optuna.distributions.FloatDistribution(*bounds, log=dimension.log_uniform is not None)
