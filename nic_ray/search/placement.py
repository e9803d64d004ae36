"""How the trials of a search are laid out on CPUs and GPUs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nic_ray.config import Config
from nic_ray.errors import InputError

MOST_THREADS = 8
"""Most threads of a worker, unless more were planned: the chunks that run through the blocks are small."""


@dataclass(frozen=True)
class Placement:
    """How trials are laid out on the cluster."""

    workers: int
    gpus_per_worker: float
    concurrent: int
    """Trials that run at the same time."""
    threads: int
    """Threads of each worker process while `concurrent` trials run."""
    note: str | None
    """Resources that were asked for and are not available, for the user."""


def trains_on_gpus(config: Config) -> bool:
    """Whether trials should train on GPUs, if there are any.

    Raises:
        InputError: trials must train on GPUs, and the settings give them none.
    """
    if config.train.device == "cuda" and not config.resources.gpus_per_worker:
        raise InputError(
            "train.device: cuda is asked for, and resources.gpus_per_worker is 0; give each worker a GPU, or a "
            "fraction of one, as tune_configs/gpu.yaml does"
        )
    return config.train.device != "cpu" and config.resources.gpus_per_worker > 0


def place_trials(config: Config, cpus: float, gpus_of_nodes: Sequence[float]) -> Placement:
    """Lay out trials so that nothing waits for a resource that does not exist.

    The batch is global, so a trial with fewer workers, or on CPUs, still means the same.

    Args:
        cpus: logical CPUs of the cluster.
        gpus_of_nodes: number of GPUs of each node.

    Raises:
        InputError: trials must train on GPUs, and no node has enough of them.
    """
    wanted, gpus = config.resources.workers, config.resources.gpus_per_worker
    if config.train.device == "cpu":
        gpus = 0.0
    notes = []
    # a fraction is a share of one device: two of 0.4 fit on each, and the rest of it stays free
    sharers = math.floor(1 / gpus + 1e-9) if 0 < gpus <= 1 else 1
    slots = sum(math.floor(node / max(1.0, gpus)) * sharers for node in gpus_of_nodes) if gpus else 0
    if slots < 1 and config.train.device == "cuda":
        raise InputError(
            f"train.device: cuda is asked for, and no node has the {gpus:g} GPUs of resources.gpus_per_worker "
            f"(found {max(gpus_of_nodes, default=0):g}); use auto, which falls back to CPUs"
        )
    if gpus and slots < 1:
        notes.append(
            f"gpus_per_worker {gpus:g}: no node has as many (found {max(gpus_of_nodes, default=0):g}), "
            "so trials train on CPUs"
        )
        gpus = 0.0
    room = min(slots, max(1, math.floor(cpus))) if gpus else max(1, math.floor(cpus))
    workers = min(wanted, room)
    if workers < wanted:
        notes.append(f"workers {wanted}: the cluster has room for {room}, so trials have {workers}")
    most = config.resources.concurrent_trials or config.search.trials
    concurrent = min(max(1, room // workers), config.search.trials, most)
    threads = max(1, math.floor(cpus / (concurrent * workers)))
    return Placement(workers, gpus, concurrent, threads, "; ".join(notes) or None)


def threads_of(share: int, planned: int) -> int:
    """Return the number of threads of a worker when fewer or more workers run than were planned.

    Args:
        share: the worker's even share of the machine's CPUs, given the number of workers now.
        planned: `Placement.threads`.
    """
    return min(share, max(planned, MOST_THREADS))
