"""Services that are started, asked and ended by the benchmarks of the service: this project's, and the plain one."""

import base64
import json
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import cpu_seconds, family, pss

from nic_ray.data_config import DataConfig
from nic_ray.dataset.division import divide
from nic_ray.dataset.pairs import read_pairs

FOLDER = Path(__file__).resolve().parent
OURS = "nic_ray.serve"
PLAIN = "FastAPI"
TUNED = "FastAPI, tuned"
PATIENCE_S = 240
"""That a service is given to start, and to end."""


@dataclass(frozen=True)
class Server:
    """A service that runs."""

    side: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def members(self) -> set[int]:
        """Its processes, Ray's included."""
        return family(self.process.pid)

    def cpu_s(self) -> float:
        """Processor time that its processes have taken so far."""
        return sum(map(cpu_seconds, self.members))

    def memory(self) -> int:
        """Bytes: the proportional set sizes of its processes."""
        return sum(map(pss, self.members))


def command_of(side: str, bundle: Path, port: int, options: str = "") -> list[str]:
    """How a side is started.

    Args:
        options: further ones of `nic_ray.serve`, as in a shell.
    """
    if side == OURS:
        return [sys.executable, "-m", "nic_ray.serve", str(bundle), "--port", str(port), *shlex.split(options)]
    form = "tuned" if side == TUNED else "plain"
    return [sys.executable, str(FOLDER / "plain_service.py"), str(bundle), "--port", str(port), "--form", form]


@contextmanager
def serving(side: str, bundle: Path, log: Path, options: str = "") -> Iterator[Server]:
    """A side that is ready, until the end of the block, or of this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    port = free_port()
    with log.open("ab") as file:
        process = subprocess.Popen(
            command_of(side, bundle, port, options), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(side, process, port, log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        end(server)


def wait_until_ready(server: Server) -> None:
    """Return when it says that it is ready."""
    deadline = time.monotonic() + PATIENCE_S
    while asked(server.url + "/ready")[0] != 200:
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{server.side} does not start:\n{server.log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.2)


def end(server: Server) -> None:
    """End it as its operator would, and with force what has not gone then."""
    members = server.members
    server.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(timeout=PATIENCE_S)
    deadline = time.monotonic() + 20
    while any(map(runs, members)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for member in filter(runs, members):
        with suppress(OSError):
            os.kill(member, signal.SIGKILL)
    server.process.wait()


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def asked(url: str, body: Any = None, timeout_s: float = 60) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and headers, named in small letters, of an answer; the status is 0 if there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), {name.lower(): value for name, value in error.headers.items()}
    except OSError:
        return 0, b"", {}


def version_of(server: Server) -> dict[str, Any]:
    """What `/version` says; nothing if it does not answer."""
    status, content, _ = asked(server.url + "/version", timeout_s=5)
    return json.loads(content) if status == 200 else {}


def queries(pairs: Path) -> list[str]:
    """The distinct queries of the validation rows, as a search divides the pairs."""
    collection, parts = divide(read_pairs(pairs), DataConfig())
    rows = np.flatnonzero(parts == "validation")
    return [collection.texts[text] for text in dict.fromkeys(collection.query[rows].tolist())]


def body_of(text: str | Sequence[str], model: str, encoding: str = "float") -> dict[str, Any]:
    """A request for the vectors of queries."""
    return {"model": model, "input": text, "encoding_format": encoding, "input_type": "query"}


def vectors_in(content: bytes) -> NDArray[np.float32]:
    """The (N, D) vectors of an answer, in the order in which they were asked for."""
    data = sorted(json.loads(content)["data"], key=lambda row: row["index"])
    return np.array([decoded(row["embedding"]) for row in data], dtype=np.float32)


def decoded(embedding: str | list[float]) -> NDArray[np.float32]:
    """A vector, as numbers or in base64."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4")
    return np.array(embedding, dtype=np.float32)


def setting() -> str:
    """The machine and the state of the code, in a line."""
    names = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line
    ]
    told = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty", "--exclude", "*"]
    state = subprocess.run(told, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "fastapi", "uvicorn"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} CPUs of {next(iter(names), platform.machine())}; commit {state}; {libraries}"
