"""Latency of an endpoint, from a request's first byte to its last vector, as a client sees it."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from nic_ray.bundle.served import Role

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Load:
    """Requests that are timed."""

    what: str
    role: Role
    batch: int
    """Texts in a request."""
    concurrency: int
    """Requests that are on their way at once."""
    requests: int
    warm_up: int
    """Requests before these, which are not timed."""


LOADS = (
    Load("single queries", "query", 1, 1, 200, 20),
    Load("single queries", "query", 1, 8, 400, 20),
    Load("batches of 32 passages", "document", 32, 1, 20, 2),
    Load("batches of 32 passages", "document", 32, 8, 24, 2),
)


@dataclass(frozen=True)
class Latency:
    """Times of a load."""

    what: str
    batch: int
    concurrency: int
    requests: int
    warm_up: int
    milliseconds: dict[str, float]
    """"p50", "p95" and "p99"."""
    texts_per_s: float


def measured_latency(load: Load, ask: Callable[[Role, Sequence[str]], object], texts: Sequence[str]) -> Latency:
    """Time the requests of a load, each from its sending to its answer; nothing is added up or extrapolated.

    Args:
        load: the requests.
        ask: sends a request, and returns or raises when it is answered.
        texts: taken in turn, from the first one again after the last.
    """
    source = cycle(texts)
    batches = [list(islice(source, load.batch)) for _ in range(load.warm_up + load.requests)]

    def timed(batch: Sequence[str]) -> float:
        started = time.perf_counter()
        ask(load.role, batch)
        return 1000 * (time.perf_counter() - started)

    with ThreadPoolExecutor(load.concurrency) as pool:
        list(pool.map(timed, batches[: load.warm_up]))
        started = time.perf_counter()
        taken = list(pool.map(timed, batches[load.warm_up :]))
        whole = time.perf_counter() - started
    return Latency(
        load.what,
        load.batch,
        load.concurrency,
        load.requests,
        load.warm_up,
        {f"p{share}": float(np.percentile(taken, share)) for share in PERCENTILES},
        load.requests * load.batch / whole,
    )
