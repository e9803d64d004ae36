"""Ray Tune's searcher, scheduler and trial class, with what this project needs changed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.trainable.function_trainable import wrap_function

from nic_ray.config import Config, Dimension, SearchConfig
from nic_ray.errors import RunError
from nic_ray.loop import headline

OBJECTIVE = "objective"
NUMBER = "number"


class StudySearch(OptunaSearch):
    """OptunaSearch that numbers its trials, and that tells the study which of them were stopped early.

    Ray tells Optuna COMPLETE for a trial that ASHA stopped, so that TPE takes the value after one epoch for
    that of a full training. Here it is PRUNED, with the value it had.
    """

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The sample, and under "number" the trial's number in the study: 0 is the first."""
        sample = super().suggest(trial_id)
        return None if sample is None else {**sample, NUMBER: self._ot_trials[trial_id].number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an intermediate value; its step is the number of the evaluation."""
        super().on_trial_result(trial_id, {**result, "training_iteration": int(result["evaluation"])})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended. `result` is its last one."""
        if result and not error and not result.get("finished"):
            self.on_trial_result(trial_id, result)
            result = None  # Optuna then takes the last intermediate value, and PRUNED
        super().on_trial_complete(trial_id, result, error)


class FinishingAsha(ASHAScheduler):
    """ASHA that lets a trial end by itself after its last evaluation.

    Ray kills a trial that it stops; one that has nothing left to do is not worth killing, and would count
    as stopped early.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result.get("finished") else decision


class Lines(Callback):
    """Says how trials go, a line at a time."""

    def __init__(self, say: Callable[[str], None], trials: int) -> None:
        self._say, self._trials, self._ended = say, trials, 0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show the configuration."""
        self._say(f"{trial}: {shown_sample(trial.config)}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show an evaluation."""
        self._say(f"{trial}: {headline(result)}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show how a trial ended."""
        how = "finished" if (trial.last_result or {}).get("finished") else "stopped early"
        self._end(f"{trial}: {how}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show that a trial failed."""
        self._end(f"{trial}: failed: {failure_of(trial)}")

    def _end(self, line: str) -> None:
        self._ended += 1
        self._say(f"{line} ({self._ended} of {self._trials} done)")


def searcher(config: Config, study_file: Path) -> StudySearch:
    """Optuna's TPE over the search space, first the configuration under `train`.

    Args:
        study_file: where the study is kept (sqlite), absolute.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = config.search
    return StudySearch(
        {name: _distribution(dimension) for name, dimension in config.space.items()},
        metric=OBJECTIVE,
        mode="max",
        sampler=optuna.samplers.TPESampler(
            multivariate=True,
            constant_liar=True,
            n_startup_trials=search.startup_trials,
            seed=search.seed,
        ),
        points_to_evaluate=[{name: getattr(config.train, name) for name in config.space}],
        storage=optuna.storages.RDBStorage(f"sqlite:///{study_file}"),
        study_name="nic_ray",
    )


def scheduler(search: SearchConfig, epochs: int) -> FinishingAsha:
    """ASHA on our own epoch, which goes on where it was after a resume."""
    return FinishingAsha(
        time_attr="epoch",
        metric=OBJECTIVE,
        mode="max",
        max_t=epochs + 1,  # the last rung may lie at the last epoch
        grace_period=search.grace_period,
        reduction_factor=search.reduction_factor,
    )


def named_trainable(function: Callable[[dict[str, Any]], None]) -> type[Any]:
    """A trial class whose actors stand in Ray's lists under the trial's name."""
    base: Any = wrap_function(function)

    class Trial(base):
        def __repr__(self) -> str:
            return str(self.trial_name)

    return Trial


def trial_name(trial: Any) -> str:
    """The name of a trial: of its actor and of its folder."""
    return numbered(trial.config[NUMBER])


def numbered(number: int) -> str:
    """The name of the trial with a number in the study."""
    return f"trial-{number:03d}"


def shown_sample(sample: Mapping[str, Any]) -> str:
    """A sample in one line."""
    values = {name: value for name, value in sample.items() if name != NUMBER}
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
    return lines[-1].removeprefix(f"{RunError.__module__}.{RunError.__name__}: ")


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if dimension.choice is not None:
        return optuna.distributions.CategoricalDistribution(dimension.choice)
    bounds = dimension.log_uniform or dimension.uniform
    assert bounds is not None
    return optuna.distributions.FloatDistribution(*bounds, log=dimension.log_uniform is not None)
