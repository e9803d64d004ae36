"""What this project uses of Ray that Ray calls private: all of it here, each with what it is for.

Such names may go or change with any version of Ray, which is why `constraints.txt` pins it. `refuse_unknown_ray` looks
at the start of a search whether they are still there.
"""

import importlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

from nic_ray.errors import RunError

KNOWN = "2.60"
"""The version of Ray whose private names these are."""

NAMES = (
    ("ray._private.worker", "print_to_stdstream"),
    ("ray._private.gcs_utils", "create_gcs_channel"),
    ("ray._private.services", "canonicalize_bootstrap_address"),
    ("ray.core.generated.gcs_service_pb2", "GetClusterIdRequest"),
    ("ray.core.generated.gcs_service_pb2_grpc", "NodeInfoGcsServiceStub"),
    ("ray.train.v2._internal.constants", "ENV_VARS_TO_PROPAGATE"),
    ("ray.tune.trainable.function_trainable", "wrap_function"),
)
"""Modules, and what is used of each."""


def refuse_unknown_ray() -> None:
    """Look whether this Ray still has every private name that is used here.

    Raises:
        RunError: it lacks one; names it and the version of Ray.
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
    """Have a function receive what Ray's own processes print, such as why a worker died; Ray would print it too.

    Args:
        receive: is called with Ray's record of some lines, and with whether to leave out their prefix.
    """
    import ray

    ray._private.worker.print_to_stdstream = receive


def hand_to_train_workers(variable: str, value: str) -> None:
    """Set an environment variable here and in the processes that Ray Train starts for this trial."""
    from ray.train.v2._internal import constants

    os.environ[variable] = value
    constants.ENV_VARS_TO_PROPAGATE.add(variable)


def trial_class_of(function: Callable[[dict[str, Any]], None]) -> Any:
    """The class that Tune makes of a trainable function."""
    from ray.tune.trainable.function_trainable import wrap_function

    return wrap_function(function)


def rungs_of(scheduler: Any) -> list[tuple[float, MutableMapping[str, float]]]:
    """The rungs of an ASHA scheduler, the highest first: its milestone, and what trials had there, by their id."""
    (bracket,) = scheduler._brackets
    return [(milestone, recorded) for milestone, recorded in bracket._rungs]


def optuna_trials_of(searcher: Any) -> Any:
    """Optuna's trials of an OptunaSearch, by the id of Tune's; may be added to."""
    return searcher._ot_trials


def optuna_study_of(searcher: Any) -> Any:
    """The study of an OptunaSearch."""
    return searcher._ot_study


def bootstrap_address(place: str) -> str:
    """The "host:port" that Ray would join for an address such as "auto"; empty if it finds none."""
    from ray._private import services

    return services.canonicalize_bootstrap_address(place) or ""


def ask_head_node(target: str, *, by_client: bool, connect_s: float, answer_s: float) -> None:
    """Call the head node of a cluster, as Ray would, but give up soon.

    Args:
        target: "host:port".
        by_client: whether it is a port of Ray's client server, and not of its head node.
        connect_s: seconds that it has to take a connection.
        answer_s: seconds that it has to answer.

    Raises:
        OSError: nothing takes the connection.
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
