"""A process that has imported what trials import, and of which Ray's worker processes are forks.

A process of a trial costs seconds of imports otherwise. A fork has them at once, all but Ray, and shares their memory,
and it is a process of its own: with its own name in Ray's dashboard, and whatever it changes or leaves behind ends with
it.

A fork has no other thread than the one that forks, so none may hold a lock then. The server imports, and does nothing
else: `import torch` starts no thread, and NumPy's OpenBLAS and Arrow's jemalloc, which do, are prepared for forks.
"""

import contextlib
import gc
import importlib
import json
import logging
import marshal
import os
import re
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nic_ray.search.fork_launch import ADDRESS, DECLINED, LENGTH, WORKER

MODULES = (
    *("nic_ray.training.loop", "nic_ray.model.evaluation", "nic_ray.model.cache", "nic_ray.record", "nic_ray.remote"),
    "torch._dynamo",  # which the first optimizer of a process imports, for a second
    *("pandas", "requests", "jsonschema", "google.protobuf.json_format"),  # two fifths of what Ray imports in a trial
)
"""Modules that the server imports: those of trials that do not import Ray. Ray draws ids from a generator of random
numbers that forks of a process with Ray would share, and two trials would name different objects alike."""
JOB = "RAY_JOB_ID"
"""Variable by which a worker belongs to a job, that of one driver."""
NO_JOB = "ffffffff"
"""Job of a process that Ray starts for any of them."""
SOCKET, SAID = "forks", "said"
"""Files in the server's folder: the socket, and what the server writes to standard error."""
STREAMS = 3
"""Standard input, output and error of a process."""
PENDING = 128
"""Processes that may ask at once, such as those of a node while the server still imports."""
CLOSING_S = 5.0
"""Seconds within which a server ends after what it was for."""
CONTEXT, LANGUAGE = "--serialized-runtime-env-context", "--language"
"""Arguments of Ray's `setup_worker.py`; the others are those of the worker's program."""
KILLED = 128
"""Exit code of a process that a signal has ended, less the number of the signal."""
NOT_FORKED = ("command_prefix", "override_worker_entrypoint", "java_jars")
"""Entries of a runtime environment that need another program than a fork."""

log = logging.getLogger("ray")


@dataclass(frozen=True)
class Request:
    """The process that Ray wants."""

    program: Sequence[str]
    """Ray's program and its arguments."""
    variables: Mapping[str, str]
    """Those of its runtime environment, which are added to `environment`."""
    folder: str
    environment: Mapping[str, str]
    blocked: Sequence[int]
    """Signals that it does not receive."""
    ignored: Sequence[int]
    launcher: int
    """Id of the process that asks, which stands for it in Ray's eyes until it registers."""


@dataclass
class _Server:
    listening: socket.socket
    selector: selectors.BaseSelector
    job: str | None = None
    """The first that a process was asked for, and the only one."""
    launchers: dict[int, socket.socket] = field(default_factory=dict)
    """Id of a fork -> the connection to the process that waits for it."""


@contextlib.contextmanager
def forking(modules: Sequence[str] = MODULES) -> Iterator[None]:
    """Have the worker processes of a Ray cluster that is started here meanwhile be forked, where the system allows it.

    The server begins to import at once, in a process of its own. Whatever goes wrong with it, Ray's processes start by
    themselves, as they do without it.

    Args:
        modules: what it imports.
    """
    if sys.platform != "linux" or is_forking():
        yield
        return
    with contextlib.ExitStack() as kept:
        # beside Ray's own sockets: the path of another temporary folder may be too long for one
        place = os.environ.get("RAY_TMPDIR") or None
        try:
            folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix=_prefix(), dir=place)))
            listening = kept.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(folder / SOCKET))
            listening.listen(PENDING)
        except OSError:  # such a folder is refused later, by a message of its own
            yield
            return
        try:
            server = kept.enter_context(_started(listening, modules, folder / SAID))
        except OSError as error:
            log.warning("no fork server, processes start by themselves: %s", error)
            yield
            return
        listening.close()
        inherited = os.environ.get(ADDRESS)
        os.environ[ADDRESS] = str(folder / SOCKET)
        try:
            yield
        finally:
            del os.environ[ADDRESS]
            if inherited is not None:
                os.environ[ADDRESS] = inherited
            end_child(server, CLOSING_S)


def is_forking() -> bool:
    """Whether this process has a fork server; one that belongs to the process that started this one does not count."""
    return Path(os.environ.get(ADDRESS, "")).parent.name.startswith(_prefix())


def why_ended() -> str | None:
    """Say why this process's fork server has ended before its time; None if it has not, or there is none."""
    if not is_forking():
        return None
    address = Path(os.environ[ADDRESS])
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(str(address))
        except OSError as error:
            said = address.with_name(SAID).read_text(encoding="utf-8", errors="replace").splitlines()
            return said[-1] if said else str(error)
    return None


def _prefix() -> str:
    """Return how the name of this process's folder begins."""
    return f"nic_ray-{os.getpid()}-"


def _started(listening: socket.socket, modules: Sequence[str], said: Path) -> "subprocess.Popen[bytes]":
    """Start a server, whose messages go to a file.

    Raises:
        OSError: the system has no room for another process.
    """
    paths, given = [str(path) for path in sys.path], (listening.fileno(), list(modules))
    code = f"import sys; sys.path[:] = {paths!r}; from {__name__} import main; main(*{given!r})"
    with said.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[listening.fileno()],
            stdin=subprocess.PIPE,  # the server ends with this process, however that ends
            stdout=subprocess.DEVNULL,
            stderr=file,
            # whoever asks PyTorch for a GPU then begins no work with one, which a fork could not go on with
            env={**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
            start_new_session=True,  # Ctrl-C is for this process alone
        )


def end_child(child: "subprocess.Popen[Any]", within_s: float) -> None:
    """Have a process end that ends with its standard input."""
    child.terminate()  # while it begins, for a search that has been refused; once it serves, it ignores this
    try:
        child.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def main(listening: int, modules: Sequence[str]) -> None:
    """Import, then fork a process for each request, until standard input and the last of them have ended.

    Args:
        listening: number of the open socket on which launchers connect.
        modules: as for `forking`.
    """
    gc.disable()  # imports leave nothing to collect
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # so that forks go on sharing what was imported
    gc.enable()
    request = _serve(socket.socket(fileno=listening))
    if request is not None:
        _become(request)


def _serve(listening: socket.socket) -> Request | None:
    """Fork a process for each request; return None at the end, and in each fork its request."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which Ray ends the children of a process that leaves a cluster
    with selectors.DefaultSelector() as selector, listening, woken, wake:
        server = _Server(listening, selector)
        for ready in (listening, woken, sys.stdin):
            selector.register(ready, selectors.EVENT_READ)
        ending = False
        while not ending or server.launchers:
            for key, _ in selector.select():
                if key.fileobj is listening:
                    if (request := _accept(server)) is not None:
                        return request
                elif key.fileobj is woken:
                    woken.recv(4096)
                    _report_ended(server)
                elif key.fileobj is sys.stdin:
                    selector.unregister(sys.stdin)
                    selector.unregister(listening)
                    ending = True
                    # whoever made the folder may have been killed
                    shutil.rmtree(Path(listening.getsockname()).parent, ignore_errors=True)
                elif key.data in server.launchers:  # a launcher says nothing: it is gone
                    selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
    return None


def _accept(server: _Server) -> Request | None:
    """Fork a process for a launcher that connects; return None in the server, and the request in the fork."""
    try:
        launcher, _ = server.listening.accept()
    except OSError:  # too many files are open; the next round tries again
        return None
    streams = list[int]()
    try:
        request = _received(launcher, streams)
    except (OSError, ValueError, EOFError, TypeError, AttributeError):
        request = None
    if request is not None and not _is_of_the_job(server, request):
        request = None
    try:
        process = DECLINED if request is None else _fork()
    except OSError:  # no more processes, or no memory for one: Ray says so if its own does not start either
        request, process = None, DECLINED
    if request is not None and process == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for connection in (launcher, *server.launchers.values()):
            connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return request
    for stream in streams:
        os.close(stream)
    _answer(launcher, process)
    if request is None:
        launcher.close()
    else:
        server.launchers[process] = launcher
        server.selector.register(launcher, selectors.EVENT_READ, process)
    return None


def _fork() -> int:
    with warnings.catch_warnings():
        # from Python 3.12 on, there is one of other threads, those of libraries that are prepared for forks included
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _received(launcher: socket.socket, streams: list[int]) -> Request | None:
    """Receive a request; None where a fork cannot meet it.

    Args:
        streams: receives the numbers of the streams that come with it.

    Raises:
        OSError, ValueError, EOFError, TypeError, AttributeError: what is received is no whole request.
    """
    length, received, _, _ = socket.recv_fds(launcher, LENGTH, STREAMS)
    streams += received
    content = b""
    while len(content) < int.from_bytes(length, "big"):
        part = launcher.recv(int.from_bytes(length, "big") - len(content))
        if not part:
            raise EOFError
        content += part
    arguments, folder, environment, (blocked, ignored), launched_by = marshal.loads(content)
    program = [argument for argument in arguments if not argument.startswith((CONTEXT, LANGUAGE))]
    context = json.loads(next((text.partition("=")[2] for text in arguments if text.startswith(CONTEXT)), "{}"))
    other = context.get("py_executable", sys.executable) != sys.executable
    if other or any(context.get(entry) for entry in NOT_FORKED) or not (program and program[0].endswith(WORKER)):
        return None
    variables = context.get("env_vars", {})
    return Request(program, variables, folder, environment, blocked, ignored, launched_by)


def _is_of_the_job(server: _Server, request: Request) -> bool:
    """Whether a process is of the job that was the first: another one may have another version of these modules."""
    job = request.environment.get(JOB, "")
    if job == NO_JOB:
        return False
    if server.job is None:
        server.job = job
    return job == server.job


def _answer(launcher: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it is gone, which `_serve` will see
        launcher.sendall(number.to_bytes(LENGTH, "big"))


def _report_ended(server: _Server) -> None:
    """Tell launchers whose forks have ended."""
    while server.launchers:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        launcher = server.launchers.pop(process)
        code = os.waitstatus_to_exitcode(status)
        _answer(launcher, code if code >= 0 else KILLED - code)
        with contextlib.suppress(KeyError):  # it has been gone for longer
            server.selector.unregister(launcher)
        launcher.close()


def _become(request: Request) -> None:
    """Be the process that Ray wants, as if it had been started anew."""
    os.setpgid(0, 0)  # Ray ends a worker with its process group
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    for name, value in request.variables.items():  # as Ray expands them
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
    with contextlib.suppress(OSError):  # Ray has the kernel end its workers first where memory runs out
        Path("/proc/self/oom_score_adj").write_text(Path(f"/proc/{request.launcher}/oom_score_adj").read_text())
    np.random.seed()  # noqa: NPY002 - no two forks draw the same
    sys.argv = list(request.program)
    sys.path.insert(0, str(Path(request.program[0]).parent))
    runpy.run_path(request.program[0], run_name="__main__")
