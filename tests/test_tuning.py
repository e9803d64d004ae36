"""What is changed of Ray Tune, as far as it needs no cluster."""

import os
import pickle
import signal

import pytest
from rich.console import Console

from nic_ray.progress import Live
from nic_ray.tuning import Interruptible, Told


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_next_step_and_a_second_one_does_not():
    before = signal.getsignal(signal.SIGINT)
    with Interruptible() as trials:
        trials.on_step_begin(1, [])
        interrupt()  # raises nothing that Ray could discard
        with pytest.raises(KeyboardInterrupt):
            trials.on_step_begin(2, [])
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        trials.end_if_asked()


def test_without_an_interrupt_nothing_is_ended():
    with Interruptible() as trials:
        trials.on_step_begin(1, [])
    trials.end_if_asked()


def test_what_is_shown_in_a_terminal_stays_there_when_tune_writes_its_callbacks():
    view = Live(Console())
    with pytest.raises(TypeError):
        pickle.dumps(view)
    assert isinstance(pickle.loads(pickle.dumps(Told(view))), Told)
