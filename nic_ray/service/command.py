"""What `python -m nic_ray.serve` does: start a service, reload it on SIGHUP, and stop it on SIGINT or SIGTERM."""

import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nic_ray.errors import InputError
from nic_ray.progress import view
from nic_ray.service.running import TOKEN, Place, Running, service, token_sha256
from nic_ray.service.settings import Settings

MOST_REPLICAS = 1024
NEEDED = ("uvicorn", "starlette", "prometheus_client", "fastapi")


def run(bundle: Path, settings: Settings, *, host: str, port: int, replicas: str) -> None:
    """Serve until a signal ends it.

    Args:
        replicas: "auto", or their number.

    Raises:
        InputError: something cannot be served as asked.
        RunError: the service does not start.
    """
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"serving needs {', '.join(lacking)}; install with: pip install -c constraints.txt -e '.[serve]'"
        )
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    token = os.environ.pop(TOKEN, "").strip() or None  # Ray's processes would inherit it
    settings = settings.model_copy(update={"token_sha256": token_sha256(token)})
    place = Place(host, port, _number_of(replicas), token)
    with (
        view(quiet=False) as progress,
        service(bundle, settings, place, progress) as running,
        _signals() as (ended, reload_asked),  # the last, since Ray has put a handler of its own in place
    ):
        for line in introduction(bundle, settings, running):
            progress.say(line)
        while not ended.wait(0.2):
            if reload_asked.is_set():
                reload_asked.clear()
                progress.say(running.reload(ended.is_set))
        progress.say("stopping: requests that were accepted are answered first")


def introduction(bundle: Path, settings: Settings, running: Running) -> Iterator[str]:
    """Lines that tell how to use a service."""
    token = f" -H 'Authorization: Bearer '\"${TOKEN}\"" if settings.token_sha256 else ""
    version = running.version()
    yield f"serving {bundle} at {running.url} (Ctrl-C stops it, kill -HUP {os.getpid()} reloads)"
    times = ", ".join(f"{form} {time:.1f} ms" for form, time in version["milliseconds"].items())
    yield f"  computed by {version['format']}" + (f", the fastest for a query: {times}" if times else "")
    if version["passages"] is not None:
        yield f"  {version['passages']} passages, ranked by {version['ranking']}"
    yield from (f"  warning: {line}" for line in version["warnings"])
    yield (
        f"  curl {running.url}/v1/embeddings{token} -H 'Content-Type: application/json' "
        '-d \'{"input": "how is the oil changed", "input_type": "query"}\''
    )
    if settings.corpus:
        yield (
            f"  curl {running.url}/search{token} -H 'Content-Type: application/json' "
            '-d \'{"query": "how is the oil changed"}\''
        )


def _number_of(replicas: str) -> int | None:
    if replicas == "auto":
        return None
    if not replicas.isascii() or not replicas.isdigit() or not 1 <= int(replicas) <= MOST_REPLICAS:
        raise InputError(f"--replicas {replicas[:40]}: must be auto, or a whole number from 1 to {MOST_REPLICAS}")
    return int(replicas)


@contextmanager
def _signals() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Events that are set by SIGINT or SIGTERM, and by SIGHUP; a second SIGINT interrupts at once."""
    ended, reload_asked = threading.Event(), threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        if ended.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        ended.set()

    handlers = {signal.SIGINT: end, signal.SIGTERM: end, signal.SIGHUP: lambda *_: reload_asked.set()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield ended, reload_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
