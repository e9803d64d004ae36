"""The start of Ray: its requirements are checked first, in seconds; then a cluster is started here, or joined."""

import contextlib
import datetime
import errno
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nic_ray.errors import InputError, RunError, in_one_line
from nic_ray.progress import View
from nic_ray.search import own_cluster
from nic_ray.search.fork_server import forking, is_forking, why_ended
from nic_ray.search.ray_private import (
    ask_head_node,
    bootstrap_address,
    hand_messages_to,
    refuse_unknown_ray,
)

RAY_SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0, Tune then prints nothing of its own
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for this poll; the default is 2 s
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process per trial, useful only on spot nodes
    "RAY_prestart_worker_first_driver": "0",  # as many processes as CPUs, which trials cannot use
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # lists distributed trials on the dashboard's Train page
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with this handler, Ctrl-C would end fit() as if the search were done
}

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket, in bytes."""
SOME_ROOM = 2**20
"""Bytes that must fit in the folder where Ray keeps its session; Ray will need more."""
CONNECT_S, ANSWER_S = 5.0, 10.0
"""Seconds within which a cluster must accept a connection, and answer."""


def joins_a_cluster() -> bool:
    """Whether the search runs on an existing cluster instead of starting one."""
    ray = sys.modules.get("ray")
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local") or bool(ray and ray.is_initialized())


def refuse_what_ray_cannot_use() -> None:
    """Check the folders and the address that Ray will be started with, before anything else is done.

    Raises:
        InputError: Ray could not start on this machine, or there is no cluster at RAY_ADDRESS.
    """
    _set_switches()
    if not joins_a_cluster():
        _refuse_temporary_folder()
        _refuse_token_file()
    elif "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        _refuse_address(os.environ["RAY_ADDRESS"])


@contextlib.contextmanager
def workers_forked() -> Iterator[None]:
    """Begin to import what trials need, if this process will start Ray, whose workers are then forked.

    The context encloses that of the Ray session. The sooner it begins, the less of that is waited for; within another
    one, it does nothing.
    """
    _set_switches()
    with contextlib.nullcontext() if joins_a_cluster() else forking():
        yield


@contextlib.contextmanager
def ray_begun(address: str | None) -> Iterator[None]:
    """Begin, beside the long imports of a command, what takes time until trials run: their imports, and Ray itself.

    Args:
        address: Ray cluster to join instead; None leaves that to RAY_ADDRESS.

    Raises:
        InputError: as for `refuse_what_ray_cannot_use`.
    """
    if address is not None:
        os.environ["RAY_ADDRESS"] = address
    refuse_what_ray_cannot_use()
    with workers_forked(), contextlib.nullcontext() if joins_a_cluster() else own_cluster.started_ahead():
        yield


@contextlib.contextmanager
def ray_session(view: View, num_cpus: int | None = None) -> Iterator[None]:
    """Start Ray on this machine, join the cluster of RAY_ADDRESS, or stay in a session that is already running.

    Args:
        view: shows the dashboard's address.
        num_cpus: logical CPUs of a cluster that is started here; None takes those that this process may use.

    Raises:
        InputError: the cluster cannot be joined.
        RunError: Ray does not start.
    """
    _set_switches()
    joins = joins_a_cluster()
    handlers = logging.getLogger("ray").handlers[:]
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        # a cluster started here inherits the switches; workers of another cluster are passed them
        switches = {switch: os.environ[switch] for switch in RAY_SWITCHES if switch in os.environ}
        try:
            if joins:
                context = ray.init(runtime_env={"env_vars": switches}, **own_cluster.QUIET)
            elif num_cpus is None and (ahead := own_cluster.address_ahead()) is not None:
                context = ray.init(ahead, **own_cluster.QUIET)
            else:
                context = own_cluster.start_cluster(num_cpus, forked=is_forking())
        except Exception as error:
            logging.getLogger("ray").handlers = handlers
            logging.getLogger("ray").error("Ray does not start", exc_info=True)
            if joins and isinstance(error, ConnectionError | ray.exceptions.AuthenticationError):
                raise _cannot_be_joined(os.environ.get("RAY_ADDRESS", ""), str(error)) from None
            raise RunError(
                f"Ray does not start ({type(error).__name__}: {in_one_line(error)}); search.log in "
                "the run folder says more"
            ) from None
        # Ray removes our handlers instead, and its errors would go to stderr, tracebacks included
        logging.getLogger("ray").handlers = handlers
        hand_messages_to(_log_ray_messages)
        if context.dashboard_url:
            token = f"{Path(sys.executable).with_name('ray')} get-auth-token"
            view.dashboard(f"http://{context.dashboard_url} (its token: {token})")
    try:
        yield
    finally:
        if started_here:
            if (why := why_ended()) is not None:
                logging.getLogger("ray").warning("the fork server has ended, processes start by themselves: %s", why)
            ray.shutdown()


def import_ray() -> None:
    """Import Ray with the switches that this project needs.

    Raises:
        RunError: the installed Ray lacks a name that this project uses.
    """
    _set_switches()
    handlers = logging.getLogger("ray").handlers[:]
    refuse_unknown_ray()  # imports it
    logging.getLogger("ray").handlers = handlers  # Ray has added one for stderr beside ours


def _set_switches() -> None:
    """Set Ray's switches, which Ray reads when it is imported."""
    for switch, value in RAY_SWITCHES.items():
        if not (switch == "RAY_AUTH_MODE" and joins_a_cluster()):  # another cluster has its own setting
            os.environ.setdefault(switch, value)


def _log_ray_messages(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Log the messages of Ray's own processes, for example about the death of a worker, instead of printing them."""
    for line in data["lines"]:
        logging.getLogger("ray").warning("(%s) %s", data["pid"], line)


def _refuse_temporary_folder() -> None:
    """Check the place where Ray will create a folder, under a name of its choice, for a session's sockets and logs."""
    name = next((variable for variable in ("RAY_TMPDIR", "TMPDIR") if variable in os.environ), None)
    place = os.environ[name] if name else "/tmp"
    said, way_out = (f"{name}={place}" if name else place), "set RAY_TMPDIR to a folder such as /tmp"
    if not place:
        raise InputError(f"{name} is set and empty: Ray's processes need a folder for files; unset it, or {way_out}")
    if not Path(place).is_absolute():
        raise InputError(f"{said}: Ray's processes need an absolute folder for their files; {way_out}")
    if not place.isascii():
        raise InputError(f"{said}: Ray's processes can use a folder in plain ASCII letters only; {way_out}")
    session = datetime.datetime.now().strftime(f"session_%Y-%m-%d_%H-%M-%S_%f_{os.getpid()}")
    path = os.fsencode(Path(place, "ray", session, "sockets", "plasma_store"))
    if len(path) > LONGEST_SOCKET:
        raise InputError(
            f"{said}: too long for Ray, whose sockets in it would have paths of {len(path)} bytes, and the system "
            f"allows {LONGEST_SOCKET}; set RAY_TMPDIR to a shorter folder such as /tmp"
        )
    try:
        Path(place, "ray").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(place, "ray")) as tried:
            tried.write(b"\0" * SOME_ROOM)
    except OSError as error:
        raise InputError(
            f"{said}: Ray cannot keep its files there ({error.strerror}); {way_out} that can be written"
        ) from None
    try:
        tempfile.gettempdir()  # Python's temporary folder: it tries others if TMPDIR is unusable
    except FileNotFoundError as error:
        raise InputError(f"{error.strerror}; set TMPDIR to a folder that can be written") from None


def _refuse_token_file() -> None:
    """Check the place of the token that Ray creates in the user's home for a cluster that it starts."""
    if os.environ["RAY_AUTH_MODE"].lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        fault = _fault_of_token(Path(named))
        if fault:
            raise InputError(
                f"RAY_AUTH_TOKEN_PATH={named}: cannot be read ({fault}), and Ray wants its token from there; name a "
                "file that holds one, or unset it"
            )
        return
    way_out = "set HOME to a folder that can be written, or RAY_AUTH_TOKEN to a secret of your own"
    try:
        file = Path.home() / ".ray" / "auth_token"
    except RuntimeError:
        raise InputError(
            f"HOME is not set, and user {os.getuid()} has no entry that names a home, where Ray keeps its token; "
            f"{way_out}"
        ) from None
    fault = _fault_of_token(file)
    if fault == os.strerror(errno.ENOENT):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=file.parent):
                fault = ""
        except OSError as error:
            fault = str(error.strerror)
    if fault:
        raise InputError(f"{file}: cannot be used ({fault}), and Ray keeps its token there; {way_out}")


def _fault_of_token(file: Path) -> str:
    """Say why no token can be read from a file; empty if one can."""
    try:
        return "" if file.read_text(encoding="utf-8").strip() else "it is empty"
    except UnicodeDecodeError:
        return "it is not text"
    except OSError as error:
        return str(error.strerror)


def _refuse_address(address: str) -> None:
    """Call the cluster that is to be joined, since Ray would wait for ten minutes for one that does not answer."""
    scheme, separator, place = address.rpartition("://")
    if scheme in ("http", "https"):
        raise InputError(
            f"RAY_ADDRESS={address}: is where jobs are submitted, and no cluster that a command can join; use "
            f"ray job submit --address {address} -- python -m nic_ray.tune ..., or name the cluster's own address, "
            "host:6379"
        )
    if separator and scheme != "ray":
        if not scheme.isidentifier() or importlib.util.find_spec(scheme) is None:
            raise _cannot_be_joined(address, f"there is no {scheme}://, want host:port or ray://host:port")
        return  # the scheme of another program, which Ray asks for the cluster
    if place.startswith(":"):  # Ray would print a traceback for it
        raise _cannot_be_joined(address, "it names no host")
    import grpc
    import ray

    try:
        # "auto" becomes an address, and an address of this host becomes the one that Ray will use
        target = bootstrap_address(place)
        ask_head_node(target, by_client=scheme == "ray", connect_s=CONNECT_S, answer_s=ANSWER_S)
    except grpc.FutureTimeoutError:
        raise _cannot_be_joined(address, "what listens there does not answer as Ray does") from None
    except grpc.RpcError as error:
        code = error.code()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            said = "it wants a token: RAY_AUTH_MODE=token, and the token of its head node in ~/.ray/auth_token"
        else:
            said = f"what listens there does not answer as Ray does: {code.name.lower().replace('_', ' ')}"
        raise _cannot_be_joined(address, said) from None
    except (OSError, OverflowError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise _cannot_be_joined(address, str(error)) from None


def _cannot_be_joined(address: str, said: str) -> InputError:
    return InputError(
        f"RAY_ADDRESS={address}: no Ray cluster can be joined there ({in_one_line(said)}); unset it, and "
        "omit --address to search on this machine"
    )
