"""Recording of trials in an experiment tracker, MLflow; TensorBoard's files are written by Ray itself."""

import logging
import os
import re
from collections.abc import Callable
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune import Callback

from nic_ray.config import TrackersConfig
from nic_ray.errors import InputError, in_one_line

log = logging.getLogger("nic_ray.trackers")

Figures = dict[str, Any]
"""The figures that a trial has reported, as Tune passes them on."""

REFUSED = re.compile(r"[^\w/.\- :]")
"""Characters that MLflow does not accept in the name of a metric."""


class Tracked(MLflowLoggerCallback):
    """Ray's callback for MLflow. A tracker that fails costs its record, but not the search."""

    def setup(self, *arguments: Any, **named: Any) -> None:
        """Reach the store, and create the experiment."""
        _survived(super().setup, *arguments, **named)

    def log_trial_start(self, trial: Any) -> None:
        """Record the settings of a trial."""
        _survived(super().log_trial_start, trial)

    def log_trial_result(self, iteration: int, trial: Any, result: Figures) -> None:
        """Record an evaluation. Ray logs figures one by one: a name that MLflow refuses would cost the others too."""
        _survived(super().log_trial_result, iteration, trial, _with_names_of_mlflow(result))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Record how a trial ended."""
        _survived(super().log_trial_end, trial, failed)


def _with_names_of_mlflow(result: Figures) -> Figures:
    """Return each figure under a distinct name that MLflow accepts."""
    taken: Figures = {}
    for name, value in result.items():
        plain = "/".join(part if part.strip(".") else "_" * len(part) for part in REFUSED.sub("_", name).split("/"))
        while plain in taken:
            plain += "_"
        taken[plain] = value
    return taken


def _survived(record: Callable[..., None], *arguments: Any, **named: Any) -> None:
    try:
        record(*arguments, **named)
    except Exception as error:  # from a server, network or database outside this project
        log.warning("MLflow: not recorded (%s: %s)", type(error).__name__, in_one_line(error))


def tracker_callbacks(config: TrackersConfig, run: str) -> list[Callback]:
    """Callbacks that record trials where the user wants them, besides TensorBoard's, which Ray adds itself.

    Args:
        run: name of the run, with which each trial is tagged.

    Raises:
        InputError: MLflow is not installed, or cannot be reached.
    """
    if config.mlflow is None:
        return []
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the waits double: seven retries take minutes
    try:
        import mlflow
    except ImportError:
        raise InputError(
            "trackers.mlflow: MLflow is not installed; pip install -c constraints.txt -e '.[mlflow]'"
        ) from None
    try:
        mlflow.MlflowClient(config.mlflow).search_experiments(max_results=1)
    except Exception as error:  # each kind of store raises its own errors
        raise InputError(
            f"trackers.mlflow: {config.mlflow} cannot be used ({in_one_line(error)}); name a store "
            "such as sqlite:///mlflow.db or the address of a server that runs, or omit it"
        ) from None
    return [Tracked(config.mlflow, experiment_name=config.experiment, tags={"run": run})]
