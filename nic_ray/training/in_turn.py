"""Several trainings in one process, a step of each in turn, so that together they keep a GPU busy.

No command trains so yet: `benchmarks/gpu.py` is to show first, on a card, that it is worth it.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from nic_ray.errors import RunError
from nic_ray.training.gradients import random_state, set_random_state
from nic_ray.training.loop import Evaluation


def in_turn(
    trainings: Mapping[str, Iterator[Evaluation | None]], device: torch.device
) -> Iterator[tuple[str, Evaluation | RunError]]:
    """Take a step of each training in turn until all have ended; yield each evaluation as it comes.

    A training draws its own random numbers, so that it gives what it gives alone. On a GPU each has a stream of its
    own, and while the host waits for the evaluation of one, the device has steps of the others to take.

    Args:
        trainings: name -> training, from `loop.fit_by_steps`, none of which has begun.
        device: where all of them compute.

    Yields:
        the name of a training with its evaluation, or with the error that has ended it; the others go on.
    """
    streams = {name: _stream(device) for name in trainings}
    drawn: dict[str, Tensor] = {}
    left = dict(trainings)
    while left:
        for name, steps in list(left.items()):
            if name in drawn:
                set_random_state(device, drawn[name])
            try:
                with streams[name]:
                    found: Evaluation | RunError | None = next(steps)
            except StopIteration:
                del left[name]
                continue
            except RunError as error:
                del left[name]
                found = error
            drawn[name] = random_state(device)
            if found is not None:
                yield name, found


def _stream(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context, to be entered any number of times, in which a device is given work by a stream of its own."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # which has made what the training reads
    return torch.cuda.stream(stream)
