"""All private names of Ray that this project uses, each with its purpose.

Such names may disappear or change with any version of Ray, which is why `constraints.txt` pins it.
`refuse_unknown_ray` checks at the start of a search that they still exist.
"""

import collections
import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from nic_ray.errors import RunError

KNOWN = "2.60"
"""The version of Ray that has these private names."""

NAMES = (
    ("ray._private.worker", "print_to_stdstream"),
    ("ray._private.ray_constants", "SETUP_WORKER_FILENAME"),
    ("ray._private.gcs_utils", "create_gcs_channel"),
    ("ray._private.runtime_env.constants", "RAY_JOB_CONFIG_JSON_ENV_VAR"),  # the variable itself has this name
    ("ray._private.services", "canonicalize_bootstrap_address"),
    ("ray.core.generated.gcs_service_pb2", "GetClusterIdRequest"),
    ("ray.core.generated.gcs_service_pb2_grpc", "NodeInfoGcsServiceStub"),
    ("ray.train.v2._internal.constants", "ENV_VARS_TO_PROPAGATE"),
    ("ray.tune.experiment.trial", "Trial"),
    ("ray.tune.trainable.function_trainable", "wrap_function"),
)
"""Modules, and the name that is used from each."""


def refuse_unknown_ray() -> None:
    """Check that this Ray still has every private name that is used here.

    Raises:
        RunError: a name is missing; the message gives it and the version of Ray.
    """
    import ray
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    missing = [f"{module}.{name}" for module, name in NAMES if not _has(module, name)]
    try:
        rungs_of(ASHAScheduler(time_attr="epoch", max_t=2, grace_period=1))
    except (AttributeError, IndexError, TypeError, ValueError):
        missing.append("ASHAScheduler._brackets[0]._rungs")
    searcher = OptunaSearch()
    missing += [f"OptunaSearch.{name}" for name in ("_ot_trials", "_ot_study") if not hasattr(searcher, name)]
    if missing:
        raise RunError(
            f"Ray {ray.__version__} does not have {', '.join(missing)}, which nic_ray uses of Ray {KNOWN}; install "
            "the version that constraints.txt names"
        )


def _has(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def hand_messages_to(receive: Callable[..., None]) -> None:
    """Have a function receive the lines of Ray's own processes, such as why a worker died; Ray then prints none.

    Args:
        receive: called with Ray's record of some lines, and with whether to leave out their prefix.
    """
    import ray

    ray._private.worker.print_to_stdstream = receive


@contextlib.contextmanager
def workers_launched_by(program: Path) -> Iterator[None]:
    """Have a cluster that is started meanwhile start its worker processes by a program of ours.

    Args:
        program: file of Python that takes the arguments of Ray's `setup_worker.py`.
    """
    from ray._private import ray_constants

    before = ray_constants.SETUP_WORKER_FILENAME
    ray_constants.SETUP_WORKER_FILENAME = str(program)  # joined to a folder, which an absolute path replaces
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = before


def hand_to_train_workers(variable: str, value: str) -> None:
    """Set an environment variable here and in the processes that Ray Train starts for this trial."""
    from ray.train.v2._internal import constants

    os.environ[variable] = value
    constants.ENV_VARS_TO_PROPAGATE.add(variable)


def trial_class_of(function: Callable[[dict[str, Any]], None]) -> Any:
    """Return the class that Tune makes from a trainable function."""
    from ray.tune.trainable.function_trainable import wrap_function

    return wrap_function(function)


MOST_UNCOUNTED = 10
"""Failures of a trial that do not count."""


@contextlib.contextmanager
def uncounted(is_uncounted: Callable[[Exception], bool]) -> Iterator[None]:
    """Have Tune not count failures of some kinds, so that none of them uses up a retry of its trial.

    Of each trial, `MOST_UNCOUNTED` at most are not counted, so that none is tried for ever.

    Args:
        is_uncounted: whether an error that ended a trial's process is such a failure.
    """
    from ray.tune.experiment.trial import Trial

    handle, left = Trial.handle_error, collections.defaultdict[str, int](lambda: MOST_UNCOUNTED)

    def handle_error(self: Any, exc: Any = None) -> None:
        counted = self.run_metadata.num_failures
        handle(self, exc)
        if exc is not None and is_uncounted(exc) and left[self.trial_id] > 0:
            left[self.trial_id] -= 1
            self.run_metadata.num_failures = counted

    Trial.handle_error = handle_error
    try:
        yield
    finally:
        Trial.handle_error = handle


def rungs_of(scheduler: Any) -> list[tuple[float, MutableMapping[str, float]]]:
    """Return the rungs of an ASHA scheduler, highest first: milestone, and values of trials there by trial id."""
    (bracket,) = scheduler._brackets
    return [(milestone, recorded) for milestone, recorded in bracket._rungs]


def optuna_trials_of(searcher: Any) -> Any:
    """Return the Optuna trials of an OptunaSearch, by the ids of Tune's trials; entries may be added."""
    return searcher._ot_trials


def optuna_study_of(searcher: Any) -> Any:
    """Return the study of an OptunaSearch."""
    return searcher._ot_study


def keep_version(deployment: Any, version: str) -> None:
    """Give a deployment of Ray Serve a version, so that one with another `user_config` alone starts no process anew.

    Without one, Ray takes every deployment for other code.

    Raises:
        RunError: this Ray has no such attribute.
    """
    if not hasattr(deployment, "_version"):
        raise RunError(f"a deployment of this Ray has no _version, which nic_ray uses of Ray {KNOWN}; install that one")
    deployment._version = version


def bootstrap_address(place: str) -> str:
    """Return the "host:port" that Ray would join for an address such as "auto"; empty if Ray finds none."""
    from ray._private import services

    return services.canonicalize_bootstrap_address(place) or ""


def ask_head_node(target: str, *, by_client: bool, connect_s: float, answer_s: float) -> None:
    """Call the head node of a cluster as Ray would, but give up sooner.

    Args:
        target: "host:port".
        by_client: whether the port is that of Ray's client server, not of its head node.
        connect_s: seconds within which it must accept a connection.
        answer_s: seconds within which it must answer.

    Raises:
        OSError: nothing accepts the connection.
        grpc.FutureTimeoutError, grpc.RpcError: it does not answer, or refuses to.
    """
    import grpc
    from ray._private import gcs_utils
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    host, _, port = target.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), connect_s).close()
    with gcs_utils.create_gcs_channel(target) as channel:
        if by_client:
            grpc.channel_ready_future(channel).result(answer_s)
            return
        cluster_id = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetClusterId
        cluster_id(gcs_service_pb2.GetClusterIdRequest(), timeout=answer_s)
