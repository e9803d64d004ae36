"""Functions run over many inputs on Ray's cluster, a task for each, where a command joins one."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from nic_ray.manuals.parallel import Run, one_by_one
from nic_ray.manuals.sections import Section
from nic_ray.questions.glossary import Glossary
from nic_ray.questions.question import Question

Input = TypeVar("Input")
Result = TypeVar("Result")

IN_FLIGHT_PER_CPU = 2
"""Tasks that are handed to Ray at once for every CPU, so that it holds few inputs at a time."""
RETRIES = 2
"""How often a task starts anew after the loss of its node or process."""


@contextlib.contextmanager
def on_cluster(address: str | None, shared: Sequence[Path]) -> Iterator[Run | None]:
    """Give a way to run a function on the cluster of `address` or RAY_ADDRESS; None if neither names one.

    Args:
        address: as for `python -m nic_ray.tune`.
        shared: folders and files that the tasks read and write, which all nodes must see.

    Raises:
        InputError: the cluster cannot be joined, or a node does not see what is shared.
    """
    if address is not None:
        os.environ["RAY_ADDRESS"] = address
    if not os.environ.get("RAY_ADDRESS"):  # what follows imports torch
        yield None
        return
    from nic_ray.progress import view
    from nic_ray.search.session import joins_a_cluster, ray_session, refuse_what_ray_cannot_use

    if not joins_a_cluster():
        yield None
        return
    refuse_what_ray_cannot_use()
    with view(quiet=True) as silent, ray_session(silent):
        from nic_ray.search.cluster import refuse_unshared_places

        refuse_unshared_places([path.absolute() for path in shared])
        yield as_tasks


def ask_on(
    address: str | None, sections: Sequence[Section], glossary: Glossary, *, seed: int, language: str, parts: Path
) -> list[Question]:
    """Make questions by rules, as `rules.ask_by_rules` does, on a cluster or here, with their progress shown.

    Args:
        address, sections, glossary, seed, language, parts: as for `on_cluster` and `ask_by_rules`.

    Raises:
        InputError: the cluster cannot be joined.
        RunError: the process of a document died.
    """
    from nic_ray.progress import view
    from nic_ray.questions.rules import ask_by_rules  # imports scikit-learn

    with (
        on_cluster(address, [parts.parent]) as run,
        view(quiet=False) as shown,
        shown.work("making questions", len(sections)) as done,
    ):
        run = run or one_by_one
        return ask_by_rules(sections, glossary, seed=seed, language=language, run=run, parts=parts, done=done)


def as_tasks(
    function: Callable[[Input], Result], inputs: Sequence[Input], died: Callable[[Input], Result], /
) -> Iterator[tuple[int, Result]]:
    """Run a function as Ray tasks of one CPU each; see `parallel.Run`. An exception of the function is raised here."""
    import ray

    @ray.remote(num_cpus=1, max_retries=RETRIES)
    def task(given: Input) -> Result:  # what the function is bound to is sent once, not with every input
        return function(given)

    cpus = int(ray.cluster_resources().get("CPU", 1))
    left, running = enumerate(inputs), dict[ray.ObjectRef, int]()
    while True:
        while len(running) < IN_FLIGHT_PER_CPU * cpus and (following := next(left, None)) is not None:
            running[task.remote(following[1])] = following[0]
        if not running:
            return
        (ended,), _ = ray.wait(list(running), num_returns=1)
        number = running.pop(ended)
        try:
            yield number, ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
            yield number, died(inputs[number])
