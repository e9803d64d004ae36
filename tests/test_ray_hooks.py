"""What is changed of Ray Tune, as far as it needs no cluster."""

import os
import pickle
import signal
from types import SimpleNamespace

import optuna
import pytest
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from nic_ray.config import SearchConfig
from nic_ray.errors import RunError
from nic_ray.progress import Live
from nic_ray.search.ray_hooks import (
    END_EPOCH,
    TRIAL_NUMBER,
    Interruptible,
    ProgressCallback,
    asha,
    end_of,
    has_lost_its_node,
    reason_in,
    trial_class,
)


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


@pytest.mark.parametrize(
    ("last", "until", "end"),
    [
        ({"epoch": 3.0, "finished": 1}, None, "finished"),
        ({"epoch": 1.0, "finished": 0}, None, "stopped"),
        ({"epoch": 2.0, "finished": 0}, 2.0, "repeated"),  # as long as its forerunner, which was stopped
        ({"epoch": 3.0, "finished": 1}, 3.0, "finished"),
        ({"epoch": 1.5, "finished": 0}, 2.0, "stopped"),
        (None, None, "stopped"),
    ],
)
def test_only_a_trial_that_was_trained_to_its_own_end_is_finished(last, until, end):
    config = {} if until is None else {END_EPOCH: until}
    assert end_of(SimpleNamespace(last_result=last, config=config)) == end


def told(asha, number, *evaluations, config=None):
    """What ASHA decides at each evaluation of a trial: (epoch, value)."""
    trial = SimpleNamespace(trial_id=f"id {number}", config={TRIAL_NUMBER: number} if config is None else config)
    asha.on_trial_add(None, trial)
    return [asha.on_trial_result(None, trial, {"epoch": epoch, "objective": value}) for epoch, value in evaluations]


GO_ON, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def test_the_first_trial_is_never_stopped():
    stopper = asha(SearchConfig(grace_period=1, reduction_factor=3), 3, None)
    assert told(stopper, 1, (1.0, 0.7), (2.0, 0.7)) == [GO_ON, GO_ON]
    assert told(stopper, 2, (1.0, 0.5)) == [STOP]
    assert told(stopper, 0, (1.0, 0.4), (2.0, 0.4), (3.0, 0.4)) == [GO_ON] * 3
    # its value counts: of 0.7, 0.5 and 0.4 the third quantile is 0.57
    assert told(stopper, 3, (1.0, 0.58)) == [GO_ON]
    assert told(stopper, 4, (1.0, 0.56)) == [STOP]


def test_neither_are_the_starts_that_are_named_after_it():
    stopper = asha(SearchConfig(starts=({"scale": 30.0},)), 3, None)
    assert told(stopper, 2, (1.0, 0.9), (3.0, 0.9)) == [GO_ON] * 2
    assert told(stopper, 1, (1.0, 0.1), (2.0, 0.1), (3.0, 0.1)) == [GO_ON] * 3
    assert told(stopper, 3, (1.0, 0.2)) == [STOP]


def test_the_first_trial_is_not_stopped_after_a_resume_either():
    study = optuna.create_study(direction="maximize")
    for value in (0.2, 0.7, 0.6):
        study.add_trial(
            optuna.trial.create_trial(value=value, intermediate_values={1: value}, user_attrs={"epoch at 1": 1.0})
        )
    stopper = asha(SearchConfig(grace_period=1, reduction_factor=3), 9, study)
    assert told(stopper, 3, (1.0, 0.3)) == [STOP]
    assert told(stopper, 4, (1.0, 0.8), (3.0, 0.8)) == [GO_ON] * 2
    assert told(stopper, 0, (2.0, 0.2), (3.0, 0.2), (4.0, 0.2)) == [GO_ON] * 3


@pytest.mark.parametrize(
    ("traceback", "reason"),
    [
        ("Traceback ...\nnic_ray.errors.RunError: loss not finite", "loss not finite"),
        ("Traceback ...\nOSError: [Errno 28] No space", "OSError: [Errno 28] No space"),
        ("The actor is dead. Detail: x. Some common causes include: (1) ...", "The actor is dead. Detail: x."),
        ("", "unknown reason"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure_is_one_line(traceback, reason):
    assert reason_in(traceback) == reason


def test_a_lost_node_is_told_from_a_process_that_died_alone():
    unavailable = ActorUnavailableError("The actor is temporarily unavailable: RpcError: Socket closed.", None)
    assert has_lost_its_node(unavailable)
    assert reason_in(f"Failure # 0\n{unavailable}") == "its node does not answer any more"
    assert has_lost_its_node(RayActorError(error_msg="The actor died because its node has died. Node Id: 0abc"))
    assert not has_lost_its_node(RayActorError(error_msg="The actor died because its worker process has died."))
    assert not has_lost_its_node(RunError("loss not finite"))


def test_what_is_shown_in_a_terminal_stays_there_when_tune_writes_its_callbacks():
    view = Live(Console())
    with pytest.raises(TypeError):
        pickle.dumps(view)
    assert isinstance(pickle.loads(pickle.dumps(ProgressCallback(view))), ProgressCallback)


def test_a_class_of_trials_is_called_trial_wherever_ray_shows_it():
    kind = trial_class(lambda config: None, {"CPU": 1.0, "GPU": 0.5})
    assert (kind.__name__, kind.__qualname__) == ("Trial", "Trial")
    assert kind.default_resource_request({}).required_resources == {"CPU": 1.0, "GPU": 0.5}
