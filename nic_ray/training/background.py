"""Work that a training hands to a thread, so that a GPU does not wait for files and reports."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor

from nic_ray.record import TrainingState


@contextlib.contextmanager
def one_at_a_time(*, threaded: bool) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield a function that is handed pieces of work and does them one after the other.

    Args:
        threaded: do each in a thread, as soon as the one before is done, which is waited for; its error is raised then,
            or when this context ends. If False, each is done at once.
    """
    if not threaded:
        yield lambda work: work()
        return
    begun: list[Future[None]] = []

    def finish() -> None:
        if begun:
            begun.pop().result()

    with ThreadPoolExecutor(1) as pool:

        def hand_over(work: Callable[[], None]) -> None:
            finish()
            begun.append(pool.submit(work))

        yield hand_over
        finish()


def on_host(state: TrainingState) -> Callable[[], TrainingState]:
    """Copy a state from a GPU without waiting for it; what it refers to may then change.

    Returns:
        a function that waits for the copy and returns it; another thread may call it.
    """
    copied: dict[int, Tensor] = {}  # what stands in a state twice is copied once, and written once

    def copy(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in copied:
                copied[id(value)] = value.to("cpu", non_blocking=True)  # from a GPU to pinned memory
            return copied[id(value)]
        if isinstance(value, dict):
            return {name: copy(each) for name, each in value.items()}
        return [copy(each) for each in value] if isinstance(value, list) else value

    result = cast(TrainingState, copy(dict(state)))
    done = torch.cuda.Event()
    done.record()

    def wait() -> TrainingState:
        done.synchronize()
        return result

    return wait
