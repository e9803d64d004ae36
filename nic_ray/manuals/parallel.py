"""Ways to run a function over many inputs: in this process, or in as many as there are cores."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

ENDING_S = 5.0
"""Seconds that a process has to end when it is told to."""

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
    Results come by way of files, since a process that dies while it sends a large one leaves this one waiting for the
    rest of it for ever.
    """
    left = dict(enumerate(inputs))
    with tempfile.TemporaryDirectory(prefix="nic_ray-") as folder:
        stored = functools.partial(_stored, function, folder)
        try:
            with _pool(min(len(left), os.cpu_count() or 1)) as pool:
                asked = {pool.submit(stored, given): number for number, given in left.items()}
                for ended in concurrent.futures.as_completed(asked):
                    result: Result = _taken(ended.result())
                    left.pop(asked[ended])
                    yield asked[ended], result
        except BrokenProcessPool:
            for number, given in left.items():
                yield number, _alone(stored, given, died)


def _alone(stored: Callable[[Input], Path], given: Input, died: Callable[[Input], Result]) -> Result:
    try:
        with _pool(1) as pool:
            result: Result = _taken(pool.submit(stored, given).result())
            return result
    except BrokenProcessPool:
        return died(given)


def _stored(function: Callable[[Input], Result], folder: str, given: Input) -> Path:
    """Run a function, and return the name of the file that holds its result."""
    result = function(given)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        pickle.dump(result, file)
    return Path(file.name)


def _taken(file: Path) -> Any:
    result = pickle.loads(file.read_bytes())
    file.unlink()
    return result


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Processes that are ended at an error or an interrupt, without waiting for the inputs that they are at."""
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end_all()
            raise


def _end_all() -> None:
    ended = multiprocessing.active_children()
    for process in ended:
        process.terminate()
    for process in ended:  # or it might write into the folder that is removed next
        process.join(ENDING_S)


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
