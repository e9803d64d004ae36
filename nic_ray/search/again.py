"""Configurations that are trained again on other rows, at the same time, each in a process that Ray starts."""

import enum
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from torch import Tensor

from nic_ray.errors import RunError
from nic_ray.model.activations import Inputs, upper_for
from nic_ray.record import LOG, keep_packed_state, logging_to, packed_state, readable_state
from nic_ray.search.placement import Placement
from nic_ray.search.ray_hooks import has_lost_its_node, reason_in
from nic_ray.search.ray_private import MOST_UNCOUNTED
from nic_ray.search.worker import RETRIES, TrialInputs, device_of, shared_threads, what_is_trained
from nic_ray.selection.candidates import Candidate
from nic_ray.selection.refit import Train, describe_evaluation, describe_training, is_trained, settings_again
from nic_ray.training import loop
from nic_ray.training.prepared import Prepared


@dataclass(frozen=True)
class Step:
    """What a training hands on after each part of an epoch."""

    metrics: dict[str, float]
    checkpoint: bytes
    """As `record.packed_state` returns it."""
    log: str
    """What has been logged since the part before."""


@dataclass
class _Training:
    """A training that runs or waits."""

    member: Candidate
    folder: Path
    steps: Any = None
    """Ray's generator of references to each `Step`."""
    retries: int = RETRIES
    uncounted: int = MOST_UNCOUNTED
    """How many more lost nodes do not count as a retry."""


class Going(enum.Enum):
    """How a training goes: more parts follow, it is over, or its process has died and it runs again."""

    ON, OVER, AGAIN = enum.auto(), enum.auto(), enum.auto()


def training_on_cluster(
    shared: TrialInputs, placement: Placement, models: Callable[[Candidate], tuple[Prepared, Inputs]]
) -> Train:
    """Return a function that trains configurations as trials are trained, as many at a time, and on the same devices.

    A training whose process dies goes on from its last checkpoint once, as a trial does; a lost node does not count.

    Args:
        shared: what trials read.
        placement: how trials are laid out.
        models: returns the data of a member's base model, and the inputs at the member's cut.
    """

    def train(
        members: Sequence[Candidate], rows: NDArray[np.int64], *, folder: Path | None, say: Callable[[str], None]
    ) -> list[dict[str, Tensor]]:
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary) if folder is None else folder
            trainings = [_Training(member, place / member.name) for member in members]
            _run_all([each for each in trainings if not _has_ended(each)], shared, rows, placement, say)
            return [_weights(each, *models(each.member)) for each in trainings]

    return train


def _bare(member: Candidate) -> Candidate:
    """Return a member without the weights of its first training, which no task needs."""
    return replace(member, weights={}, members=())


def _has_ended(training: _Training) -> bool:
    state = readable_state(training.folder)
    return state is not None and is_trained(state["metrics"], training.member)


def _weights(training: _Training, prepared: Prepared, inputs: Inputs) -> dict[str, Tensor]:
    state = readable_state(training.folder)
    if state is None:
        raise RunError(f"{training.folder}: the checkpoint that was written there cannot be read")
    return loop.weights_in(state, upper_for(prepared.encoder, inputs), settings_again(training.member))


def _run_all(
    waiting: list[_Training],
    shared: TrialInputs,
    rows: NDArray[np.int64],
    placement: Placement,
    say: Callable[[str], None],
) -> None:
    gpu = {"num_gpus": placement.gpus_per_worker} if placement.gpus_per_worker else {}
    task = ray.remote(num_cpus=1, max_retries=0, **gpu)(train_in_parts)
    reference, running = ray.put(rows), list[_Training]()
    try:
        while waiting or running:
            while waiting and len(running) < placement.concurrent:
                training = waiting.pop(0)
                training.folder.mkdir(parents=True, exist_ok=True)
                say(describe_training(training.member, len(rows)))
                training.steps = task.remote(_bare(training.member), reference, readable_state(training.folder), shared)
                running.append(training)
            (ready,), _ = ray.wait([training.steps for training in running], num_returns=1)
            training = next(each for each in running if each.steps is ready)
            going = _follow(training, say)
            if going is not Going.ON:
                running.remove(training)
            if going is Going.AGAIN and not _has_ended(training):
                waiting.insert(0, training)
    finally:
        for training in running:  # another one has failed, or Ctrl-C
            ray.cancel(training.steps, force=True)


def _follow(training: _Training, say: Callable[[str], None]) -> Going:
    """Keep the next part of a training; return how it goes.

    Raises:
        RunError: the training has failed, or its process has died for the last time.
    """
    try:
        step: Step = ray.get(next(training.steps))
    except StopIteration:
        return Going.OVER
    except ray.exceptions.RayTaskError as error:
        raise RunError(reason_in(str(error))) from None
    except ray.exceptions.RayError as error:
        lost = has_lost_its_node(error)
        if lost and training.uncounted:
            training.uncounted -= 1
        elif training.retries:
            training.retries -= 1
        else:
            raise RunError(f"{training.member.name}: its process has died again ({reason_in(str(error))})") from None
        what = "its node is gone" if lost else "its process has died"
        say(f"{training.member.name}: {what}, it goes on from its last checkpoint")
        return Going.AGAIN
    keep_packed_state(step.checkpoint, training.folder)
    with (training.folder / LOG).open("a", encoding="utf-8") as file:
        file.write(step.log)
    say(describe_evaluation(training.member, step.metrics))
    return Going.ON


def train_in_parts(member: Candidate, rows: NDArray[np.int64], state: Any, shared: TrialInputs) -> Iterator[Step]:
    """Ray task: train a configuration again, from a state of it if there is one."""
    config = settings_again(member)
    upper, data = what_is_trained(shared, config, rows, device_of(shared))
    with tempfile.TemporaryDirectory() as folder, shared_threads(shared) as adapt_threads:
        file, read = Path(folder) / LOG, 0
        with logging_to(file):
            for evaluation in loop.fit(config, upper, data, loop.UNJUDGED, state=state, before_step=adapt_threads):
                log = file.read_text(encoding="utf-8")
                yield Step(evaluation.metrics, packed_state(evaluation.state), log[read:])
                read = len(log)
                if is_trained(evaluation.metrics, member):
                    return
