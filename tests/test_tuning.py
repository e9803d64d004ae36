"""What is changed of Ray Tune, as far as it needs no cluster."""

import os
import signal

import pytest

from nic_ray.tuning import Interruptible


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
