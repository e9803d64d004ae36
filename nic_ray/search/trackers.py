"""Trials in the trackers that people use: MLflow; TensorBoard's files are written by Ray itself."""

import logging
import os
import re
from collections.abc import Callable
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune import Callback

from nic_ray.config import TrackersConfig
from nic_ray.errors import InputError

log = logging.getLogger("nic_ray.tracking")

Figures = dict[str, Any]
"""What a trial has reported, as Tune hands it on."""

REFUSED = re.compile(r"[^\w/.\- :]")
"""Characters that MLflow takes in no name of a metric."""


class Tracked(MLflowLoggerCallback):
    """Ray's callback for MLflow. A tracker that fails costs its record and no search."""

    def setup(self, *given: Any, **named: Any) -> None:
        """Reach the store, and make the experiment."""
        _survived(super().setup, *given, **named)

    def log_trial_start(self, trial: Any) -> None:
        """Settings of a trial."""
        _survived(super().log_trial_start, trial)

    def log_trial_result(self, iteration: int, trial: Any, result: Figures) -> None:
        """An evaluation. Ray logs its figures one by one: a name that MLflow refuses would cost the others too."""
        _survived(super().log_trial_result, iteration, trial, _with_names_of_mlflow(result))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """How it ended."""
        _survived(super().log_trial_end, trial, failed)


def _with_names_of_mlflow(result: Figures) -> Figures:
    """Each figure under a name that MLflow takes, another one for each."""
    taken: Figures = {}
    for name, value in result.items():
        plain = "/".join(part if part.strip(".") else "_" * len(part) for part in REFUSED.sub("_", name).split("/"))
        while plain in taken:
            plain += "_"
        taken[plain] = value
    return taken


def _survived(record: Callable[..., None], *given: Any, **named: Any) -> None:
    try:
        record(*given, **named)
    except Exception as error:  # of a server, a network or a database that are none of ours
        log.warning("MLflow: not recorded (%s: %s)", type(error).__name__, " ".join(str(error).split())[:200])


def tracker_callbacks(config: TrackersConfig, run: str) -> list[Callback]:
    """Callbacks that record trials where the user wants them, besides TensorBoard's, which Ray adds itself.

    Args:
        run: name of the run, which each trial is tagged with.

    Raises:
        InputError: MLflow is not installed, or cannot be reached.
    """
    if config.mlflow is None:
        return []
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of waits that double: seven take minutes
    try:
        import mlflow
    except ImportError:
        raise InputError(
            "trackers.mlflow: MLflow is not installed; pip install -c constraints.txt -e '.[mlflow]'"
        ) from None
    try:
        mlflow.MlflowClient(config.mlflow).search_experiments(max_results=1)
    except Exception as error:  # each kind of store has its own
        raise InputError(
            f"trackers.mlflow: {config.mlflow} cannot be used ({' '.join(str(error).split())[:200]}); name a store "
            "such as sqlite:///mlflow.db or the address of a server that runs, or leave it away"
        ) from None
    return [Tracked(config.mlflow, experiment_name=config.experiment, tags={"run": run})]
