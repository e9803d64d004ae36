"""What Ray starts instead of its `setup_worker.py`, as a program: it has a fork server make the process that Ray wants.

It imports little, so that it takes milliseconds. It stays until that process has ended, and the process ends if it is
killed. Where there is no fork server, or it declines, Ray's own program takes its place, so that the process starts as
it would have without this.
"""

import marshal
import os
import signal
import socket
import sys
import time

ADDRESS = "NIC_RAY_FORK_SERVER"
"""Environment variable that names the fork server's socket."""
WORKER, SETUP = "default_worker.py", "setup_worker.py"
"""Ray's programs, which lie in one folder."""
DECLINED = 0
"""Answer in place of a process id: Ray should start the process by itself."""
LENGTH = 4
"""Bytes of a whole number on the socket: a process id, an exit code, the length of a request."""
LOOK_S = 0.5
"""Seconds between two looks at a process whose fork server is gone."""


def main() -> None:
    """Have the process forked, and end as it does; become Ray's own program if it cannot be forked."""
    code = run_forked(sys.argv[1:])
    if code is None:
        program = next(argument for argument in sys.argv if argument.endswith(WORKER)).removesuffix(WORKER) + SETUP
        os.execv(sys.executable, [sys.executable, program, *sys.argv[1:]])
    os._exit(code)


def run_forked(arguments: list[str]) -> int | None:
    """Run a process in the fork server, to its end; return its exit code, None if it has not been forked."""
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(os.environ[ADDRESS])
        folder = os.getcwd()  # noqa: PTH109 - pathlib takes half as long to import as Python does to start
        request = marshal.dumps((arguments, folder, dict(os.environ), _signals(), os.getpid()))
        socket.send_fds(server, [len(request).to_bytes(LENGTH, "big")], [0, 1, 2])
        server.sendall(request)
    except (OSError, KeyError):
        return None
    process = _number(server)
    if process is None or process == DECLINED:
        return None
    code = _number(server)
    while code is None and _is_alive(process):  # the server is gone, its processes are not
        time.sleep(LOOK_S)
    return 1 if code is None else code


def _signals() -> tuple[list[int], list[int]]:
    """Return the signals that are blocked, and those that are ignored, as a process that is started inherits them."""
    blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
    return blocked, [int(signal.SIGCHLD)] if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN else []


def _number(server: socket.socket) -> int | None:
    """Receive a whole number; None if the connection has ended instead."""
    received = b""
    try:
        while len(received) < LENGTH:
            part = server.recv(LENGTH - len(received))
            if not part:
                return None
            received += part
    except OSError:
        return None
    return int.from_bytes(received, "big")


def _is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended may stay in the table of processes if nobody asks how it ended."""
    try:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123 - as in `run_forked`
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


if __name__ == "__main__":
    main()
