"""A service on this machine, started for a test and ended after it."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import httpx2

from nic_ray.errors import RunError
from nic_ray.sources import Sources, listed

Start = Callable[[Path, str | None], AbstractContextManager[str]]
"""The bundle, and the fallback model or None -> the address of a service that is ready, until the block ends."""

READY_S, END_S = 1800.0, 60.0
SAID = 12
"""Last lines of a service that has ended too early."""


def serve_command(corpus: Sources) -> Callable[[Path, str | None, int], list[str]]:
    """The command line of nic_ray's own service, over the passages of some pairs."""

    def command(folder: Path, fallback: str | None, port: int) -> list[str]:
        start = [sys.executable, "-m", "nic_ray.serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
        passages = [part for path in listed(corpus) for part in ("--corpus", str(path))]
        return start + passages + (["--fallback", fallback] if fallback else [])

    return command


def started_by(command: Callable[[Path, str | None, int], Sequence[str]]) -> Start:
    """Make a `Start` of a command line, which is given the bundle, the fallback and a free port."""

    @contextlib.contextmanager
    def start(folder: Path, fallback: str | None) -> Iterator[str]:
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command(folder, fallback, port), stdout=said, stderr=subprocess.STDOUT)
            try:
                _wait_until_ready(process, url, said)
                yield url
            finally:
                _end(process)

    return start


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, said: BinaryIO) -> None:
    deadline = time.monotonic() + READY_S
    with httpx2.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            with contextlib.suppress(httpx2.RequestError):
                if client.get(f"{url}/ready").status_code == 200:
                    return
            time.sleep(0.2)
    said.seek(0)
    lines = "\n  ".join(said.read().decode("utf-8", "replace").splitlines()[-SAID:])
    how = f"ended with code {process.returncode}" if process.poll() is not None else f"was not ready in {READY_S:g} s"
    raise RunError(f"the service {how}; it said:\n  {lines}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
