"""Ways to run a function over many inputs: in this process, or in as many as there are cores."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

Input = TypeVar("Input")
Result = TypeVar("Result")


class Run(Protocol):
    """Runs a function over inputs, and yields the number of each input with its result, as they end."""

    def __call__(
        self, function: Callable[[Input], Result], inputs: Sequence[Input], died: Callable[[Input], Result], /
    ) -> Iterator[tuple[int, Result]]:
        """Run it.

        Args:
            function: can be sent to another process.
            inputs: can be sent, too.
            died: the result where the process of an input died, for want of memory or of a fault in a library.
        """


def one_by_one(
    function: Callable[[Input], Result], inputs: Sequence[Input], died: Callable[[Input], Result], /
) -> Iterator[tuple[int, Result]]:
    """Run a function in this process."""
    for number, given in enumerate(inputs):
        yield number, function(given)


def in_processes(
    function: Callable[[Input], Result], inputs: Sequence[Input], died: Callable[[Input], Result], /
) -> Iterator[tuple[int, Result]]:
    """Run a function in as many processes as there are cores.

    When one dies, its siblings' work is lost too: what is left is then run in a process of its own, input by input.
    """
    left = dict(enumerate(inputs))
    try:
        with _pool(min(len(left), os.cpu_count() or 1)) as pool:
            asked = {pool.submit(function, given): number for number, given in left.items()}
            try:
                for ended in concurrent.futures.as_completed(asked):
                    result = ended.result()
                    left.pop(asked[ended])
                    yield asked[ended], result
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                _end_all()
                raise
    except BrokenProcessPool:
        for number, given in left.items():
            yield number, _alone(function, given, died)


def _alone(function: Callable[[Input], Result], given: Input, died: Callable[[Input], Result]) -> Result:
    try:
        with _pool(1) as pool:
            return pool.submit(function, given).result()
    except BrokenProcessPool:
        return died(given)


def _pool(processes: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )


def _end_all() -> None:
    """End the processes without waiting for the inputs that they are at."""
    for process in multiprocessing.active_children():
        process.terminate()


def _end_with_parent() -> None:
    """End this process when the one that started it is killed; else it would wait for work for ever.

    Ctrl-C in a terminal reaches this process too, and is left to the one that started it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
