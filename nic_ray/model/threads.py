"""Independent parts of some work on the CPU, each on one thread, instead of one after another on all threads."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(run: Callable[[Part], Result], parts: Sequence[Part], *, first_alone: bool = True) -> Iterator[Result]:
    """Run a function of PyTorch's over several parts, as many at a time as PyTorch has threads; yield in their order.

    An operation on all threads waits for the slowest of them, whatever else the machine does meanwhile; parts on
    threads of their own wait for nothing. The result of a part depends neither on the number of threads nor on the
    others, unless there is a single part: this one runs on all threads, as it would without this.

    Args:
        run: called under the autocast, gradient and inference modes of the calling thread. It must draw no random
            numbers from PyTorch's own generators, since their order would be a matter of chance.
        first_alone: whether the others wait for the first part: a model may compute what it keeps for later, such as
            rotary positions, when it is first called.
    """
    if min(torch.get_num_threads(), len(parts)) < 2:
        yield from map(run, parts)
        return
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    in_16_bits, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run_one(part: Part) -> Result:  # modes belong to a thread
        # no context of its own: the caller's holds the weights that are cast, and clears them
        torch.set_autocast_enabled("cpu", in_16_bits)
        torch.set_autocast_dtype("cpu", dtype)
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):  # the first one switches gradients on
            return run(part)

    before = torch.get_num_threads()
    pool = _pool(before)
    try:
        if first_alone:
            yield pool.submit(run_one, parts[0]).result()
        yield from pool.map(run_one, parts[first_alone:])
    finally:
        torch.set_num_threads(before)  # threads that come later would start with the last number that any has set


@functools.lru_cache(maxsize=1)  # the threads of an earlier pool end when nobody uses it any more
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones would be given other parts of the memory that this process keeps for itself."""
    return ThreadPoolExecutor(threads, "chunks", initializer=_take_one_core)


def _take_one_core() -> None:
    torch.get_num_threads()  # or else PyTorch settles it later, by what another thread has set
    torch.set_num_threads(1)


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has no thread but the one that forked
