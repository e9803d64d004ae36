"""Changes to Ray Tune for a search: its searcher and scheduler, its callbacks, the class of its trials."""

import functools
import math
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from ray.exceptions import ActorUnavailableError, NodeDiedError
from ray.tune import Callback, PlacementGroupFactory
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from nic_ray.config import Config, SearchConfig
from nic_ray.errors import RunError
from nic_ray.progress import View
from nic_ray.record import EndedTrial, add_ended
from nic_ray.remote import Mirror, push, push_database
from nic_ray.run_folder import RunFolder
from nic_ray.search.ray_private import optuna_study_of, optuna_trials_of, rungs_of, trial_class_of
from nic_ray.search.starts import starting_points
from nic_ray.search.worker import START_CHECKPOINT
from nic_ray.study import NAME as STUDY_NAME
from nic_ray.study import (
    distribution_of,
    draw,
    epoch_attribute,
    evaluations,
    is_conditional,
    keep_quiet,
    open_study,
    sampler,
    storage,
    trial_name,
)
from nic_ray.train_config import TrainConfig

OBJECTIVE = "objective"
"""The metric that Tune, ASHA and Optuna see: the best value so far of the objective that the search maximises."""
COMPLETED = ("finished", "repeated")
"""Statuses of trials that were trained as long as planned: to the last epoch, or as long as the trial they repeat."""
TuneResult = dict[str, Any]
"""A report of a trial, as Tune passes it on: metrics by name, "config", and figures that Tune adds."""
Sample = dict[str, Any]
"""The values that Tune passes to a trial: hyperparameters by name, and the entries named below."""
TRIAL_NUMBER, TRIAL_NAME, END_EPOCH = "number", "name", "until"
"""Entries of a trial's sample besides hyperparameters and `START_CHECKPOINT`: its number in the study, or its name if
it belongs to none; the epoch at which it ends, which may be before the last one."""


class StudySearch(OptunaSearch):
    """OptunaSearch that numbers its trials, tells the study which were stopped early, and resumes those cut off.

    Ray tells Optuna COMPLETE for a trial that ASHA stopped, so that TPE takes the value after one epoch for
    that of a full training. Here such a trial is PRUNED, with the value that it had.
    """

    def __init__(self, *args: Any, cut_off: Mapping[int, str | None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._cut_off = dict(cut_off)
        self._reported: dict[str, set[int]] = {}

    def suggest(self, trial_id: str) -> Sample | None:
        """Return the sample, and under "number" the trial's number in the study, where 0 is the first.

        Trials that an earlier run of the study left unfinished come first, with the checkpoint that they resume from.
        """
        trials = optuna_trials_of(self)
        if not self._cut_off:
            sample = super().suggest(trial_id)
            return None if sample is None else {**sample, TRIAL_NUMBER: trials[trial_id].number}
        number = min(self._cut_off)
        start = self._cut_off.pop(number)
        study = optuna_study_of(self)
        left = next(trial for trial in study.trials if trial.number == number)
        trials[trial_id] = optuna.trial.Trial(study, left._trial_id)
        self._reported[trial_id] = set(left.intermediate_values)
        return {**left.params, TRIAL_NUMBER: number, START_CHECKPOINT: start}

    def on_trial_result(self, trial_id: str, result: TuneResult) -> None:
        """Report an intermediate value with the number of its evaluation as the step, and store its epoch beside it."""
        evaluation = int(result["evaluation"])
        if evaluation in self._reported.setdefault(trial_id, set()):
            return  # the trial died after this evaluation, and has reached it again
        self._reported[trial_id].add(evaluation)
        optuna_trials_of(self)[trial_id].set_user_attr(epoch_attribute(evaluation), result["epoch"])
        super().on_trial_result(trial_id, {**result, "training_iteration": evaluation})

    def on_trial_complete(self, trial_id: str, result: TuneResult | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended. `result` is the trial's last result."""
        if result and not error and not result.get("finished"):
            self.on_trial_result(trial_id, result)
            result = None  # Optuna then takes the last intermediate value, and PRUNED
        super().on_trial_complete(trial_id, result, error)


class FixedSearch(Searcher):
    """Searcher that hands out the samples of a list, one after another. Each sample has a "name"."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._left = list(samples)

    def suggest(self, trial_id: str) -> Sample | str:
        """Return the next sample, or FINISHED if none is left."""
        return dict(self._left.pop(0)) if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: TuneResult | None = None, error: bool = False) -> None:
        """Learn nothing."""


def end_of(trial: Any) -> str:
    """Return the status of a trial that did not fail.

    "finished": it ended by itself. "stopped": ASHA or the end of the search stopped it. "repeated": it trained a
    configuration again with another seed, for as many epochs as the first training took.
    """
    last = trial.last_result or {}
    if last.get("finished"):
        return "finished"
    return "repeated" if last.get("epoch", 0.0) >= trial.config.get(END_EPOCH, math.inf) else "stopped"


def has_reached_its_end(trial_id: str, result: TuneResult) -> bool:
    """Whether a trial of `FixedSearch` should be stopped here; a trial that has finished need not be killed."""
    return bool(result["epoch"] >= result["config"][END_EPOCH] and not result.get("finished"))


class FinishingAsha(ASHAScheduler):
    """ASHA that remembers earlier runs of its study, and lets a trial end by itself after its last evaluation.

    The first trial, the default configuration, and the starts that are named after it are never stopped: what others
    are compared with must not depend on which of them reached a rung before it. Their values count at the rungs like
    those of other trials.

    Ray forgets the rungs when a search is resumed, so that the next trial to start would be the first again and
    continue however poor it is. Ray also kills a trial that it stops; a trial that has nothing left to do need not be
    killed, and would count as stopped early.
    """

    def __init__(
        self, *args: Any, whole: int = 1, past: Mapping[int, Sequence[tuple[float, float]]], **options: Any
    ) -> None:
        """Fill the rungs with the values of earlier trials.

        Args:
            whole: number of trials, from the first, that are never stopped.
            past: number of the trial -> (epoch, value) of its evaluations in order.
        """
        super().__init__(*args, **options)
        self._whole = whole
        for number, points in past.items():
            for epoch, value in points:
                for milestone, recorded in rungs_of(self):
                    if epoch >= milestone and _key_of_earlier(number) not in recorded:
                        recorded[_key_of_earlier(number)] = value
                        break  # as in ASHA, a value counts at one rung, the highest that it has reached

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Recognise a trial that an earlier run left unfinished."""
        super().on_trial_add(tune_controller, trial)
        for _, recorded in rungs_of(self):
            if _key_of_earlier(trial.config.get(TRIAL_NUMBER)) in recorded:
                recorded[trial.trial_id] = recorded.pop(_key_of_earlier(trial.config[TRIAL_NUMBER]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: TuneResult) -> str:
        """Decide whether a trial continues."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        goes_on = result.get("finished") or trial.config.get(TRIAL_NUMBER, self._whole) < self._whole
        return TrialScheduler.CONTINUE if goes_on else decision


def _key_of_earlier(number: int | None) -> str:
    """Return the key of a trial from an earlier run, whose id in Tune is no longer known."""
    return f"past {number}"


class Ledger(Callback):
    """Callback that records in the run folder how each trial ended."""

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that was finished, stopped or repeated."""
        self._add(trial, end_of(trial), "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that failed."""
        self._add(trial, "failed", failure_of(trial))

    def _add(self, trial: Any, status: str, error: str) -> None:
        last = trial.last_result or {}
        row = EndedTrial(
            status=status,
            error=error,
            sample={name: value for name, value in trial.config.items() if name in TrainConfig.model_fields},
            seconds=round(last.get("time_total_s", 0.0), 1),
        )
        if "epoch" in last:
            row["epoch"], row["evaluation"], row["objective"] = last["epoch"], last["evaluation"], last[OBJECTIVE]
        add_ended(self._run_folder, str(trial), row)


class Backup(Callback):
    """Callback that copies the driver's own files, the study and the ledger, to a mirror whenever one has changed."""

    def __init__(self, run_folder: Path, mirror: Mirror) -> None:
        self._run_folder, self._mirror = run_folder, mirror

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Copy when a trial has entered the study."""
        self._copy()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Copy when a trial has a new value."""
        self._copy()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Copy when a trial has ended."""
        self._copy()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Copy when a trial has failed."""
        self._copy()

    def _copy(self) -> None:
        with suppress(RunError):  # the next copy may succeed; the last one, at the end, has to
            back_up(self._run_folder, self._mirror)


def back_up(run_folder: Path, mirror: Mirror) -> None:
    """Copy the study and the ledger to a mirror.

    Raises:
        RunError: the mirror cannot be written to.
    """
    folder = RunFolder(run_folder)
    if folder.study.exists():
        push_database(folder.study, mirror / folder.study.name)
    if folder.ended.exists():
        push(folder.ended, mirror / folder.ended.name)


class ProgressCallback(Callback):
    """Callback that tells a view how trials progress."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __reduce__(self) -> tuple[type["ProgressCallback"], tuple[View]]:
        # Tune writes its callbacks to disk, and a terminal cannot be written there
        return ProgressCallback, (View(),)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell the view that a trial has started, with its configuration."""
        self._view.started(str(trial), shown_sample(trial.config))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: TuneResult, **info: Any) -> None:
        """Tell the view about an evaluation."""
        self._view.evaluated(str(trial), result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell the view that a trial has died and is started again."""
        self._view.restarted(str(trial), failure_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell the view that a trial was finished, stopped or repeated."""
        self._view.ended(str(trial), end_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell the view that a trial failed."""
        self._view.ended(str(trial), "failed", failure_of(trial))


class Interruptible(Callback):
    """Callback that ends a run of trials at Ctrl-C, between two of Tune's steps; a second Ctrl-C ends it at once.

    Otherwise the exception could be raised anywhere in Ray's code, and the search would continue where Ray discards it.
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
        """End the run if Ctrl-C was pressed."""
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._asked:
            raise KeyboardInterrupt

    def _ask(self, signum: int, frame: object) -> None:
        self.end_if_asked()
        self._asked = True


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def study_search(config: Config, study_file: Path, cut_off: Mapping[int, str | None]) -> StudySearch:
    """Return an Optuna searcher over the search space that starts with the configuration under `train`.

    Args:
        study_file: where the study is kept (sqlite).
        cut_off: numbers of the unfinished trials in the study, with the newest checkpoint of each, if it has one.
    """
    keep_quiet()
    study = open_study(study_file)
    known = 0 if study is None else len(study.trials)
    conditional = is_conditional(config.space)
    space: Any = {name: distribution_of(dimension) for name, dimension in config.space.items()}
    return StudySearch(
        functools.partial(draw, space=config.space) if conditional else space,
        metric=OBJECTIVE,
        mode="max",
        sampler=sampler(config.search, known, conditional=conditional),
        points_to_evaluate=[] if known else starting_points(config),
        storage=storage(study_file),
        study_name=STUDY_NAME,
        cut_off=cut_off,
    )


def asha(search: SearchConfig, epochs: int, study: optuna.Study | None) -> FinishingAsha:
    """Return ASHA on the epochs that trials report, which continues where it was after a resume.

    Args:
        study: the study that earlier runs have left; None without any.
    """
    return FinishingAsha(
        time_attr="epoch",
        metric=OBJECTIVE,
        mode="max",
        max_t=epochs + 1,  # the last rung may lie at the last epoch
        grace_period=search.grace_period,
        reduction_factor=search.reduction_factor,
        whole=1 + len(search.starts),
        past={} if study is None else {trial.number: evaluations(trial) for trial in study.trials},
    )


def trial_class(function: Callable[[Sample], None], resources: Mapping[str, float]) -> type[Any]:
    """Return a class of trials that Ray lists as "Trial", with each of its actors under the trial's name.

    Args:
        function: trains one sample.
        resources: numbers of "CPU" and "GPU" that Tune reserves for a trial.
    """
    base: Any = trial_class_of(function)

    class Trial(base):
        @classmethod
        def default_resource_request(cls, config: Sample) -> PlacementGroupFactory:
            return PlacementGroupFactory([dict(resources)])

        def __repr__(self) -> str:
            return str(self.trial_name)

    Trial.__qualname__ = Trial.__name__  # otherwise the dashboard would show where the class is defined
    return Trial


def name_of(trial: Any) -> str:
    """Return the name of one of Tune's trials, which is also that of its actor and its folder."""
    return str(trial.config.get(TRIAL_NAME) or trial_name(trial.config[TRIAL_NUMBER]))


def shown_sample(sample: Sample) -> str:
    """Format a sample as one line."""
    values = {
        name: value
        for name, value in sample.items()
        if name not in (TRIAL_NUMBER, TRIAL_NAME, END_EPOCH, START_CHECKPOINT)
    }
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def has_lost_its_node(error: Exception) -> bool:
    """Whether the process of a trial or a task is gone with its node, rather than by a fault of its own.

    Where a process dies alone, its node tells of it. Where a node does not answer any more, all of its processes are
    unavailable first, and only after some seconds are they known to be dead.
    """
    return isinstance(error, ActorUnavailableError | NodeDiedError) or "its node has died" in str(error)


def failure_of(trial: Any) -> str:
    """Say in one line why a trial failed."""
    if trial.error_file and Path(trial.error_file).exists():
        return reason_in(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
    return reason_in("")


def reason_in(traceback: str) -> str:
    """Return the last line of a traceback; for a RunError of this project, only its message."""
    lines = traceback.strip().splitlines() or ["unknown reason"]
    reason = lines[-1].removeprefix(f"{RunError.__module__}.{RunError.__name__}: ")
    if "The actor is temporarily unavailable" in reason:
        return "its node does not answer any more"
    return reason.partition(" Some common causes include")[0]  # Ray adds a paragraph to each report of a dead process
