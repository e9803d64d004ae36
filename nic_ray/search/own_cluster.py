"""A Ray cluster for one search on this machine, which starts while the command still imports what the search needs.

Ray takes seconds to start, for most of which it waits for its processes. It is started by a process of its own: of two
threads of one process that import at the same time, either may see modules that the other has not finished.
"""

import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nic_ray.cpus import usable_cpus
from nic_ray.search import fork_launch
from nic_ray.search.fork_server import end_child, is_forking
from nic_ray.search.ray_private import workers_launched_by

QUIET = {"log_to_driver": False, "configure_logging": False}
"""Arguments of `ray.init`: its messages belong in the log, and it would add a handler for stderr beside ours."""
CLOSING_S = 30.0
"""Seconds within which a cluster ends."""

log = logging.getLogger("ray")


@dataclass
class _Ahead:
    process: "subprocess.Popen[str]"
    said: IO[str]
    """What the process writes to standard error."""
    address: str | None = None
    """The cluster's, once it has been asked for; then empty if the cluster did not start."""


_ahead: ContextVar[_Ahead | None] = ContextVar("_ahead", default=None)


@contextlib.contextmanager
def started_ahead() -> Iterator[None]:
    """Begin to start a cluster, in another process, which ends it after the context or with this process.

    If that fails, `address_ahead` is None.
    """
    paths = [str(path) for path in sys.path]
    code = f"import sys; sys.path[:] = {paths!r}; from {__name__} import main; main(forked={is_forking()!r})"
    with contextlib.ExitStack() as kept:
        try:
            said = kept.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,  # the cluster ends with this process, however that ends
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,  # Ctrl-C is for this process alone
            )
        except OSError as error:
            log.warning("Ray is not started ahead: %s", error)
            yield
            return
        ahead = _Ahead(process, said)
        before = _ahead.set(ahead)
        try:
            yield
        finally:
            _ahead.reset(before)
            end_child(process, CLOSING_S)


def address_ahead() -> str | None:
    """Wait for the cluster that was begun, and return its address; None if there is none."""
    ahead = _ahead.get()
    if ahead is None:
        return None
    if ahead.address is None:
        assert ahead.process.stdout is not None
        ahead.address = ahead.process.stdout.readline().strip()
        if not ahead.address:
            ahead.said.seek(0)
            lines = ahead.said.read().splitlines() or [f"its process ended with {ahead.process.wait()}"]
            log.warning("Ray did not start ahead, it is started again: %s", lines[-1])
    return ahead.address or None


def start_cluster(num_cpus: int | None, *, forked: bool) -> Any:
    """Start a cluster on this machine, and return Ray's context of it.

    Args:
        num_cpus: its logical CPUs; None takes those that this process may use.
        forked: whether its worker processes are to come from a fork server.
    """
    import ray

    with workers_launched_by(Path(fork_launch.__file__)) if forked else contextlib.nullcontext():
        # "local": Ray would otherwise join whatever cluster happens to run on this machine
        return ray.init(
            address="local",
            num_cpus=usable_cpus() if num_cpus is None else num_cpus,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            **QUIET,
        )


def main(*, forked: bool) -> None:
    """Start a cluster, write its address as a line to standard output, and end it with standard input.

    Args:
        forked: as for `start_cluster`.
    """
    answer = os.dup(1)
    os.dup2(2, 1)  # others may write there too: Ray's processes inherit it if they are told to keep no log files
    gc.disable()  # imports leave nothing to collect
    context = start_cluster(None, forked=forked)
    gc.enable()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which Ray ends the children of a process that leaves a cluster
    os.write(answer, f"{context.address_info['gcs_address']}\n".encode())
    sys.stdin.read()
